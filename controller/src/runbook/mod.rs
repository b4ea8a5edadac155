//! The runbook: all that is done to bring a cluster back, as steps on core's engine.
//!
//! [`card`] says what replaces which sentence of the manual one, [`op`] what can be brought about, [`leg`] how one stretch is
//! run and written down, [`conduct`] in which order,
//! [`means`] by what means for one node, [`real`] with what hands, [`hold`] that nobody else does at the same time.

pub mod book;
pub mod card;
pub mod check;
pub mod claim;
pub mod conduct;
pub mod consent;
pub mod ended;
pub mod hold;
pub mod lease;
pub mod leg;
pub mod look;
mod means;
pub mod missed;
pub mod op;
pub mod opened;
mod proof;
pub mod real;
pub mod record;
pub mod report;
pub mod run;
pub mod side;
mod spare;
pub mod start;
mod verify;
pub mod view;

#[cfg(test)]
mod crash;
