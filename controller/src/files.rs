//! Reading and writing the few files `ctl` keeps: whole or not at all, and private keys for nobody else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is there already.
    #[error("write {}: it is there already, and it is never overwritten", path.display())]
    Exists {
        /// File.
        path: PathBuf,
    },
    /// Others may read a private key.
    #[error("read private key {}: others may read it (mode {mode:04o})", path.display())]
    TooOpen {
        /// File.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
}

/// What to do when the file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// Refuse.
    Keep,
    /// Replace it in one step.
    Replace,
}

/// Reads a file as text.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })
}

/// Reads a private key, and refuses one that others may read.
pub fn read_key(path: &Path) -> Result<String, FileError> {
    let fail = |source| FileError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(fail)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode });
    }
    read(path)
}

/// Creates a directory of our own (0700) with its parents; one that is there is left as it is.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// Writes a file so that any reader, and any power cut, sees the old one or the new one.
pub fn write(path: &Path, text: &str, mode: u32, present: Present) -> Result<(), FileError> {
    let fail = |source: io::Error| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            FileError::Exists { path: path.to_owned() }
        } else {
            FileError::Write { path: path.to_owned(), source }
        }
    };
    if present == Present::Keep && path.symlink_metadata().is_ok() {
        return Err(FileError::Exists { path: path.to_owned() });
    }
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.new", std::process::id()));
    let result = put(&temporary, path, text, mode, present);
    if result.is_err() || present == Present::Keep {
        // After a hard link the temporary name is one too many; after a failure it is rubbish. Its absence is fine.
        drop(fs::remove_file(&temporary));
    }
    result.map_err(fail)?;
    // The name itself is durable only when the directory is.
    File::open(dir).and_then(|d| d.sync_all()).map_err(fail)
}

fn put(temporary: &Path, path: &Path, text: &str, mode: u32, present: Present) -> io::Result<()> {
    // A leftover of a crash with our own process id; `create_new` below would refuse it.
    drop(fs::remove_file(temporary));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    // The umask may have taken bits away, a default ACL may have added some.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    match present {
        Present::Replace => fs::rename(temporary, path),
        // `link` refuses an existing name, which `rename` does not.
        Present::Keep => fs::hard_link(temporary, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_overwritten_unless_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.key");
        write(&path, "one", 0o600, Present::Keep).unwrap();
        assert!(matches!(write(&path, "two", 0o600, Present::Keep), Err(FileError::Exists { .. })));
        assert_eq!(read(&path).unwrap(), "one");
        write(&path, "three", 0o600, Present::Replace).unwrap();
        assert_eq!(read(&path).unwrap(), "three");
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["ca.key"], "no temporary file is left");
    }

    #[test]
    fn a_key_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        write(&path, "key", 0o600, Present::Keep).unwrap();
        assert_eq!(read_key(&path).unwrap(), "key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_key(&path).unwrap_err().to_string();
        assert!(error.contains("0640"), "{error}");
    }
}
