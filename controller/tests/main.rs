//! `ctl` as an operator meets it: the built binary, real files, and agents over real mutual TLS on loopback.

mod agent;
mod desk;

mod config;
mod pki;
mod reach;
