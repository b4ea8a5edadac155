//! Doing a plan so that a crash at any instant does no harm.
//!
//! [`next`] decides everything that happens within a rung (first run, resume after a crash, undo, deadline, cancel) from the
//! journal alone; [`run`] obeys it over two narrow traits. An entry is on disk before what it announces is done.
//!
//! ```text
//! opened ─ began 0 ─ ended 0 ─ began 1 ─ ended 1 ─ judged ─ closed
//!                       └ failed ─ undo-began 0 ─ undo-ended 0 ─ judged ─ closed (rolled back)
//! ```
//!
//! A plan that asks for confirmation ([`Op::asks`](crate::op::Op::asks)) is undone when nobody confirms it before its deadline,
//! well or not: an operator who has cut himself off confirms nothing. One that wants another boot goes on in that boot.

mod event;
mod next;
mod run;

pub use event::{Ending, Entry, Event, Outcome};
pub use next::{ASK_MS, Next, WAIT_MS, is_overdue, next};
pub use run::{Failure, Host, Journal, Judgement, run};
