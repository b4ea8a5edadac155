//! The judgement: what a node looks like, what is wrong with it, what to do, and how that survives a crash.
//!
//! Nothing here touches a machine: the crate is `no_std`, so I/O in it does not compile. The agent brings
//! observations in and carries plans out; `ctl` shows both. The serde form of these types is the contract between them.
//!
//! Reading order: [`net`] and [`observation`] (what was seen), [`baseline`] and [`critical`] (what should be),
//! [`fib`] (where a packet leaves), [`faults`] and [`diagnosis`] (what is wrong), [`op`] and [`plan`] (what to do),
//! [`check`] (a second opinion), [`engine`] (doing it so that a crash does no harm), [`incident`] (from rung to rung),
//! [`guard`] (rung 1), [`drill`] (proving it), [`report`] (telling it).
#![no_std]
#![deny(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

extern crate alloc;

pub mod alone;
pub mod baseline;
pub mod budget;
pub mod check;
pub mod clock;
pub mod critical;
pub mod diagnosis;
pub mod drill;
pub mod engine;
pub mod evidence;
pub mod expiry;
pub mod faults;
pub mod fib;
pub mod filter;
pub mod guard;
pub mod incident;
pub mod journal;
pub mod judge;
pub mod metrics;
pub mod net;
pub mod observation;
pub mod op;
pub mod plan;
pub mod planner;
pub mod policy;
pub mod reboots;
pub mod report;
pub mod ruleset;
pub mod supervisor;
pub mod text;
pub mod threat;
