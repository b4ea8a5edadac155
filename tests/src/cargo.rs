//! Cargo, called from a program that cargo itself has started.

use std::ffi::OsStr;
use std::process::Command;

/// The workspace's manifest.
pub const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");

/// The cargo that has started us, or the one of the path, as a person would call it.
///
/// Cargo tells what it runs of the package that it is from. Build scripts look at such variables, ring's for one: with them in its
/// environment a build would be another one than the person's, and each of the two would make ring and all that stands on it anew.
#[must_use]
pub fn command() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    std::env::vars_os().map(|(name, _)| name).filter(|n| of_a_package(n)).for_each(|name| {
        cargo.env_remove(name);
    });
    cargo
}

fn of_a_package(name: &OsStr) -> bool {
    let heads = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_"];
    let name = name.to_string_lossy();
    name == "CARGO_CRATE_NAME" || heads.iter().any(|head| name.starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_tells_of_a_package_is_not_passed_on_and_a_persons_own_settings_are() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo has started this test");
        let cargo = command();
        let gone = |name: &str| cargo.get_envs().any(|(n, value)| n == name && value.is_none());
        assert!(gone("CARGO_MANIFEST_DIR") && gone("CARGO_PKG_NAME"));
        assert!(gone("CARGO_PKG_VERSION_MAJOR") && !gone("CARGO") && !gone("CARGO_HOME"));
        for name in ["CARGO_TARGET_DIR", "CARGO_INCREMENTAL", "CARGO_PROFILE_DEV_DEBUG", "PATH"] {
            assert!(!of_a_package(OsStr::new(name)), "{name}");
        }
    }
}
