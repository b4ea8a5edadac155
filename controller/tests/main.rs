//! `ctl` as an operator meets it: the built binary, real files, and agents over real mutual TLS on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what surprises a test ends it")]

mod agent;
mod api;
mod desk;
mod story;

mod audit;
mod check;
#[cfg(target_os = "linux")]
mod claim;
#[cfg(target_os = "linux")]
mod cleanup;
mod config;
#[cfg(target_os = "linux")]
mod control;
mod documents;
mod drill;
mod fleet;
mod habits;
mod heal;
mod help;
mod incidents;
#[cfg(target_os = "linux")]
mod interrupt;
mod kube;
mod logs;
#[cfg(target_os = "linux")]
mod nodes;
mod pki;
mod portable;
mod reach;
mod readme;
#[cfg(target_os = "linux")]
mod recover;
#[cfg(target_os = "linux")]
mod rented;
#[cfg(target_os = "linux")]
mod resort;
#[cfg(target_os = "linux")]
mod rights;
#[cfg(target_os = "linux")]
mod secrets;
mod shake;
mod ssh;
mod trust;
#[cfg(target_os = "linux")]
mod verify;
#[cfg(target_os = "linux")]
mod vps;
