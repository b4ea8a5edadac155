//! The agent's program on the laptop: that it is one, and for which machine.

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
}

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
        Ok(Self { path, bytes, arch })
    }
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
}
