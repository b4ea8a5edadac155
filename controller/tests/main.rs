//! `ctl` as an operator meets it: the built binary, real files, and agents over real mutual TLS on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what surprises a test ends it")]

mod agent;
mod desk;
mod story;

mod config;
mod heal;
mod incidents;
mod pki;
mod reach;
