//! One file for each verb: its arguments, what it does, what it prints.

pub mod baseline;
pub mod confirm;
pub mod diagnose;
pub mod faults;
pub mod heal;
pub mod history;
pub mod pki;
pub mod plan;
pub mod reboot;
pub mod report;
pub mod status;
pub mod undo;
pub mod vps;
pub mod watch;
