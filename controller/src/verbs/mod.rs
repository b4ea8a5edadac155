//! One file for each verb: its arguments, what it does, what it prints.

pub mod baseline;
pub mod cleanup;
pub mod confirm;
pub mod cordon;
pub mod delete;
pub mod diagnose;
pub mod drain;
pub mod faults;
pub mod heal;
pub mod history;
pub mod pki;
pub mod plan;
pub mod reboot;
pub mod recover;
pub mod report;
pub mod rights;
pub mod status;
pub mod uncordon;
pub mod undo;
pub mod verify;
pub mod vps;
pub mod watch;
