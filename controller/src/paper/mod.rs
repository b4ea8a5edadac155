//! The record of a recovery, where others will look for it: the papers' repository and the issue tracker.

pub mod git;
#[cfg(test)]
mod git_test;
pub mod github;
