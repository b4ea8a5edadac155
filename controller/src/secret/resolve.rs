//! Brings a secret from where its reference says it is, and refuses one that others could have read.

use super::op::{self, OpError};
use super::{Reference, Secret};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The largest file that can be one secret.
const MOST: u64 = 64 << 10;

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not in the environment.
    #[error("read secret env:{0}: the variable is not set")]
    Unset(String),
    /// It cannot be read.
    #[error("read secret file:{}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could have read it.
    #[error("read secret file:{}: {why}", path.display())]
    Open {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `op` brought nothing.
    #[error("read secret {reference}")]
    Op {
        /// Which.
        reference: String,
        /// Why.
        #[source]
        source: OpError,
    },
    /// It is empty, or not text.
    #[error("read secret {reference}: {why}")]
    Useless {
        /// Which.
        reference: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl SecretError {
    /// What to try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unset(name) => {
                Some(format!("set it for this command alone: {name}=… ctl …, or: op run -- ctl …"))
            }
            Self::Open { path, .. } => Some(format!(
                "make it yours alone: chown \"$USER\" {0}; chmod 600 {0}",
                path.display()
            )),
            Self::Op { source, .. } => Some(source.hint().to_owned()),
            Self::File { .. } | Self::Useless { .. } => None,
        }
    }
}

/// Reads a secret, once; nothing is kept on disk.
pub async fn resolve(reference: &Reference) -> Result<Secret, SecretError> {
    let text = match reference {
        Reference::Op(r) => {
            op::read(r).await.map_err(|source| SecretError::Op { reference: r.clone(), source })?
        }
        Reference::Env(name) => match std::env::var(name) {
            Ok(value) => Zeroizing::new(value),
            Err(std::env::VarError::NotPresent) => return Err(SecretError::Unset(name.clone())),
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(useless(reference, "it is not text"));
            }
        },
        Reference::File(path) => file(path, reference)?,
    };
    let trimmed = text.trim_end_matches(['\n', '\r']);
    if trimmed.is_empty() {
        return Err(useless(reference, "it is empty"));
    }
    if trimmed.contains(|c: char| c.is_control()) {
        return Err(useless(reference, "it has several lines, or control characters"));
    }
    Ok(Secret::new(trimmed.to_owned()))
}

fn useless(reference: &Reference, why: &'static str) -> SecretError {
    SecretError::Useless { reference: reference.to_string(), why }
}

/// What is checked is the file that is then read, not its name.
fn file(path: &Path, reference: &Reference) -> Result<Zeroizing<String>, SecretError> {
    let fail = |source| SecretError::File { path: path.to_owned(), source };
    let open = |why: String| SecretError::Open { path: path.to_owned(), why };
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    let mode = meta.mode() & 0o7777;
    if !meta.is_file() {
        return Err(open("it is no file".to_owned()));
    }
    if mode != 0o600 && mode != 0o400 {
        return Err(open(format!("its mode is {mode:04o}, and must be 0600 or 0400")));
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        return Err(open(format!("it belongs to user {}, and you are {me}", meta.uid())));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MOST).read_to_end(&mut bytes).map_err(fail)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(useless(reference, "it is not text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn written(mode: u32, text: &str) -> (tempfile::TempDir, Reference) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, Reference::File(path))
    }

    #[tokio::test]
    async fn a_file_of_our_own_is_read_and_one_that_others_may_read_is_not() {
        for mode in [0o600, 0o400] {
            let (_dir, place) = written(mode, "hunter2\n");
            assert_eq!(resolve(&place).await.unwrap().expose(), "hunter2");
        }
        for mode in [0o640, 0o604, 0o644, 0o700, 0o4600] {
            let (_dir, place) = written(mode, "hunter2\n");
            let error = resolve(&place).await.unwrap_err();
            let said = format!("{error} {error:?} {}", error.hint().unwrap());
            assert!(said.contains(&format!("{mode:04o}")) && said.contains("chmod 600"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_secret_of_two_lines_or_none_is_refused_without_being_shown() {
        for (text, why) in [("", "empty"), ("\n", "empty"), ("hunter2\nhunter3\n", "several lines")]
        {
            let (_dir, place) = written(0o600, text);
            let said = resolve(&place).await.unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains("hunter"), "{said}");
        }
    }

    #[tokio::test]
    async fn what_is_not_a_file_or_not_set_is_said() {
        let said = resolve(&Reference::File("/dev/null".into())).await.unwrap_err().to_string();
        assert!(said.contains("it is no file"), "{said}");
        let unset = Reference::Env("LIFELINE_NEVER_SET".into());
        assert!(resolve(&unset).await.unwrap_err().to_string().contains("is not set"));
    }
}
