//! The lab: real network namespaces, real systemd nodes and the kernel's own routing, on one machine.
//!
//! It touches nothing of the host but what carries its `lifeline-` prefix, and `down` takes all of that away again.

pub mod agent;
pub mod bench;
pub mod beside;
pub mod cargo;
pub mod disk;
pub mod error;
pub mod faults;
mod fetching;
pub mod furniture;
pub mod incident;
pub mod lab;
pub mod names;
pub mod node;
pub mod package;
pub mod parts;
pub mod pki;
pub mod process;
pub mod progress;
pub mod real;
pub mod recover;
pub mod root;
pub mod run;
pub mod space;
pub mod ssh;
pub mod standin;
pub mod state;
pub mod status;
pub mod sweep;
pub mod topology;
pub mod traces;
pub mod trial;
pub mod witness;

pub use error::{LabError, Result};
pub use lab::Lab;
pub use node::Node;
pub use run::Output;
pub use space::Space;
