//! How the things are named that the lab makes on the host. All begin with one prefix, by which they are found again.
//!
//! A machine has one lab, `lifeline-`; `LIFELINE_LAB=NAME` asks for another one beside it, `lifeline.NAME-`, which a test
//! of the lab itself needs so as not to take down the lab of the person who runs it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{LabError, Result};

/// Names the lab that is meant.
pub const VARIABLE: &str = "LIFELINE_LAB";
static PREFIX: OnceLock<String> = OnceLock::new();

/// Decides for the rest of this process which lab is meant; `None` is the machine's own.
pub fn choose(name: Option<&str>) -> Result<()> {
    let prefix = prefix_of(name)?;
    if *PREFIX.get_or_init(|| prefix.clone()) == prefix {
        return Ok(());
    }
    Err(LabError::Refused(format!("choose lab {name:?}: this process works on another already")))
}

/// Chooses by the environment.
pub fn choose_by_environment() -> Result<()> {
    let name = std::env::var(VARIABLE).ok().filter(|n| !n.is_empty());
    choose(name.as_deref())
}

fn prefix_of(name: Option<&str>) -> Result<String> {
    let Some(name) = name else { return Ok("lifeline-".to_owned()) };
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if plain && (1..=8).contains(&name.len()) {
        // A dot, so that no lab's prefix is the beginning of another's.
        return Ok(format!("lifeline.{name}-"));
    }
    Err(LabError::Refused(format!("{VARIABLE}={name}: a lab's name is 1 to 8 of a-z and 0-9")))
}

#[must_use]
pub fn prefix() -> &'static str {
    PREFIX.get_or_init(|| "lifeline-".to_owned())
}

/// What the environment must say for a child of ours to work on the same lab.
#[must_use]
pub fn chosen() -> &'static str {
    prefix().trim_start_matches("lifeline").trim_start_matches('.').trim_end_matches('-')
}

#[must_use]
pub fn namespace(name: &str) -> String {
    format!("{}{name}", prefix())
}

#[must_use]
pub fn namespace_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace(name))
}

/// Gone with the machine's next boot, as are the processes it tells of.
#[must_use]
pub fn state_dir() -> PathBuf {
    Path::new("/run").join(format!("{}lab", prefix()))
}

/// The nodes' disks: on a real file system, because a journal's fsync must mean something.
#[must_use]
pub fn disks_dir() -> PathBuf {
    Path::new("/var/tmp").join(format!("{}lab", prefix()))
}

#[must_use]
pub fn lock_file() -> PathBuf {
    Path::new("/run").join(format!("{}lab.lock", prefix()))
}

/// Name of the cgroup above the nodes', in each hierarchy.
#[must_use]
pub fn cgroup() -> String {
    format!("{}lab", prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_labs_prefix_is_the_beginning_of_anothers() {
        let all = [
            prefix_of(None).unwrap(),
            prefix_of(Some("a")).unwrap(),
            prefix_of(Some("ab")).unwrap(),
        ];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert!(i == j || !other.starts_with(one.as_str()), "{one} {other}");
            }
        }
    }

    #[test]
    fn a_name_that_would_not_fit_everywhere_is_refused() {
        for name in ["", "../x", "Upper", "much-too-long"] {
            assert!(prefix_of(Some(name)).is_err(), "{name}");
        }
    }
}
