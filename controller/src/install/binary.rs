//! The agent's program on the laptop: that it is one, for which machine, and that it is what was released.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A program that will be put on a node.
#[derive(Debug)]
pub struct Binary {
    /// Where it lies here.
    pub path: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
    /// As `uname -m` calls the machine.
    pub arch: &'static str,
    /// Its checksum stands beside it, and is right.
    pub vouched: bool,
}

/// What a release is published with, as `sha256sum` writes it.
const SUMS: &str = "SHA256SUMS";

/// Why a file cannot be put on a node.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// None was named, and there is none beside us.
    #[error("find the agent's program: there is no lifeline-agent beside {}", beside.display())]
    Missing {
        /// Where it was looked for.
        beside: PathBuf,
    },
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what was released, or nobody can tell.
    #[error("use {} as the agent: {} says that its checksum is {said}, and it is {found}", path.display(), sums.display())]
    Altered {
        /// File.
        path: PathBuf,
        /// Beside it.
        sums: PathBuf,
        /// There.
        said: String,
        /// Its own.
        found: String,
    },
    /// It is no program for Linux.
    #[error("use {} as the agent: it is no 64-bit Linux program for x86_64 or aarch64", path.display())]
    Alien {
        /// File.
        path: PathBuf,
    },
}

impl Binary {
    /// Reads the one that was named, or the one beside `ctl` itself.
    pub fn load(named: Option<&Path>) -> Result<Self, BinaryError> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => {
                let me = std::env::current_exe().unwrap_or_default();
                let near = me.with_file_name("lifeline-agent");
                if !near.is_file() {
                    return Err(BinaryError::Missing { beside: me });
                }
                near
            }
        };
        let bytes = std::fs::read(&path)
            .map_err(|source| BinaryError::Read { path: path.clone(), source })?;
        // ELF, 64 bits; at byte 18 the machine (elf(5), e_machine).
        let (Some(b"\x7fELF\x02"), Some(machine)) = (bytes.get(..5), bytes.get(18..20)) else {
            return Err(BinaryError::Alien { path });
        };
        let arch = match machine {
            [62, 0] => "x86_64",
            [183, 0] => "aarch64",
            _ => return Err(BinaryError::Alien { path }),
        };
        let vouched = vouched(&path, &bytes)?;
        Ok(Self { path, bytes, arch, vouched })
    }
}

/// A SHA-256 checksum as `sha256sum` writes it.
pub fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Does the list of checksums beside it, if there is one that names it, vouch for it?
fn vouched(path: &Path, bytes: &[u8]) -> Result<bool, BinaryError> {
    let sums = path.with_file_name(SUMS);
    let list = match std::fs::read_to_string(&sums) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(BinaryError::Read { path: sums, source }),
    };
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    // Two spaces, or one and an asterisk, stand between a sum and a name.
    let said = list.lines().find_map(|line| {
        let (sum, named) = line.trim().split_once(char::is_whitespace)?;
        (named.trim_start().trim_start_matches('*').trim_start_matches("./") == name).then_some(sum)
    });
    let Some(said) = said else { return Ok(false) };
    let found = sum(bytes);
    if said.eq_ignore_ascii_case(&found) {
        return Ok(true);
    }
    let (path, said) = (path.to_owned(), said.to_owned());
    Err(BinaryError::Altered { path, sums, said, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        std::fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        assert!(matches!(Binary::load(Some(&path)), Err(BinaryError::Alien { .. })));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 183;
        std::fs::write(&path, elf).unwrap();
        assert_eq!(Binary::load(Some(&path)).unwrap().arch, "aarch64");
    }

    #[test]
    fn a_program_that_is_not_what_its_checksum_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, sums) = (dir.path().join("lifeline-agent"), dir.path().join(SUMS));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 62;
        std::fs::write(&path, &elf).unwrap();
        assert!(!Binary::load(Some(&path)).unwrap().vouched, "there is no list");
        let tool = std::process::Command::new("sha256sum")
            .current_dir(dir.path())
            .arg("lifeline-agent")
            .output()
            .unwrap();
        let list = String::from_utf8(tool.stdout).unwrap();
        for list in [list.clone(), list.replace("  ", " *"), format!("00 ctl\n{list}")] {
            std::fs::write(&sums, list).unwrap();
            assert!(Binary::load(Some(&path)).unwrap().vouched);
        }
        std::fs::write(&sums, "00  ctl\n").unwrap();
        assert!(!Binary::load(Some(&path)).unwrap().vouched, "it is another's list");
        elf[63] = 1;
        std::fs::write(&path, &elf).unwrap();
        std::fs::write(&sums, list).unwrap();
        let why = Binary::load(Some(&path)).unwrap_err();
        assert!(matches!(why, BinaryError::Altered { .. }), "{why}");
        std::fs::remove_file(&sums).unwrap();
        std::fs::create_dir(&sums).unwrap();
        assert!(
            matches!(Binary::load(Some(&path)), Err(BinaryError::Read { .. })),
            "not read is not absent"
        );
    }
}
