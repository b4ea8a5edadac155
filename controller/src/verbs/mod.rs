//! One file for each verb: its arguments, what it does, what it prints.

pub mod diagnose;
pub mod pki;
pub mod status;
