//! `/etc/resolv.conf` as it was: a file is replaced in one go, a symbolic link is put back as a link.
//!
//! tailscaled renames the old file to a backup and writes its own. Where that backup says what is wanted, it is moved back, as
//! tailscaled itself would; an undo makes it again.
//!
//! systemd-resolved is told nothing. What tailscaled sets in it over D-Bus is the tunnel's link's, and goes with the link; and once
//! resolv.conf is the link to its stub again, it sees that by itself and is in mode `stub` as before (both tried with 252).

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::observation::Resolv;
use lifeline_core::op::Seen;

use super::{blocking, lasting, passing};

const LIMIT: Duration = Duration::from_secs(3);
/// glibc reads no more than a few lines of it.
const CAP: u64 = 4096;
/// The name of the backup tailscaled makes next to it.
pub const BACKUP: &str = "resolv.pre-tailscale-backup.conf";

/// Reads what is at a path: text, and where it points when it is a link.
fn read_at(path: &Path) -> io::Result<Option<Resolv>> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let link = if meta.file_type().is_symlink() {
        Some(fs::read_link(path)?.to_string_lossy().into_owned())
    } else {
        None
    };
    let mut bytes = Vec::new();
    match fs::OpenOptions::new().read(true).custom_flags(nonblock()).open(path) {
        Ok(file) => drop(file.take(CAP).read_to_end(&mut bytes)?),
        // A link to nowhere, as systemd-resolved's is when it does not run.
        Err(e) if e.kind() == ErrorKind::NotFound && link.is_some() => {}
        Err(e) => return Err(e),
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(Resolv { text, link, backup: None }))
}

/// So that a FIFO in its place does not hold us.
fn nonblock() -> i32 {
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0)
}

fn read(path: &Path) -> io::Result<Option<Resolv>> {
    let backup = read_at(&path.with_file_name(BACKUP))?.map(|b| b.text);
    Ok(read_at(path)?.map(|r| Resolv { backup, ..r }))
}

/// Its state, if it is there.
///
/// # Errors
/// When it cannot be read.
pub async fn look(path: &Path) -> Result<Seen, String> {
    let what = format!("read {}", path.display());
    let path = path.to_owned();
    match blocking(LIMIT, move || read(&path)).await {
        Ok(Ok(resolv)) => Ok(Seen::Resolv { resolv }),
        Ok(Err(e)) => Err(format!("{what}: {e}")),
        Err(late) => Err(format!("{what}: {late}")),
    }
}

/// Makes it what is wanted.
///
/// # Errors
/// When it is a mount of its own, or the file system refuses.
pub async fn act(path: &Path, wanted: &Resolv) -> Result<(), Failure> {
    let what = format!("restore {}", path.display());
    let (path, wanted) = (path.to_owned(), wanted.clone());
    match blocking(LIMIT, move || put(&path, &wanted)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) if e.kind() == ErrorKind::ResourceBusy => Err(lasting(format!(
            "{what}: it is a mount of its own (bind-mounted into a container?) and cannot be replaced"
        ))),
        Ok(Err(e)) if e.kind() == ErrorKind::PermissionDenied => {
            Err(lasting(format!("{what}: {e} (immutable? see lsattr)")))
        }
        Ok(Err(e)) => Err(lasting(format!("{what}: {e}"))),
        Err(late) => Err(passing(format!("{what}: {late}"))),
    }
}

fn put(path: &Path, wanted: &Resolv) -> io::Result<()> {
    let backup = path.with_file_name(BACKUP);
    let saved = read_at(&backup)?;
    let there = read_at(path)?.map(|r| r.text);
    match &saved {
        // The backup is what is wanted: moving it back keeps owner, mode and what else we do not know of.
        Some(saved) if is(saved, wanted) => fs::rename(&backup, path)?,
        // An undo: what stands there now was the backup, and becomes it again.
        None if wanted.backup.is_some() && wanted.backup == there => {
            let at = rustix::fs::CWD;
            rustix::fs::linkat(at, path, at, &backup, rustix::fs::AtFlags::empty())?;
            write(path, wanted)?;
        }
        _ => write(path, wanted)?,
    }
    if let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn is(there: &Resolv, wanted: &Resolv) -> bool {
    there.link == wanted.link && (there.link.is_some() || there.text == wanted.text)
}

/// Puts a new file or link in its place in one go.
fn write(path: &Path, wanted: &Resolv) -> io::Result<()> {
    let new: PathBuf = path.with_file_name(".resolv.conf.lifeline");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    if let Some(target) = &wanted.link {
        symlink(target, &new)?;
    } else {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
        file.write_all(wanted.text.as_bytes())?;
        // Resolvers of all users read it, whatever our own umask is.
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644))?;
        file.sync_all()?;
    }
    let moved = fs::rename(&new, path);
    if moved.is_err() {
        let _gone = fs::remove_file(&new);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAILSCALE: &str =
        "# resolv.conf(5) file generated by tailscale\nnameserver 100.100.100.100\n";

    async fn seen(path: &Path) -> Resolv {
        match look(path).await.unwrap() {
            Seen::Resolv { resolv: Some(r) } => r,
            other => panic!("{other:?}"),
        }
    }

    fn text(text: &str) -> Resolv {
        Resolv { text: text.into(), ..Resolv::default() }
    }

    #[tokio::test]
    async fn a_backup_is_moved_back_and_an_undo_makes_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::write(dir.path().join("run/stub.conf"), "nameserver 127.0.0.53\n").unwrap();
        symlink("run/stub.conf", dir.path().join(BACKUP)).unwrap();
        fs::write(&path, TAILSCALE).unwrap();
        let before = seen(&path).await;
        assert!(before.backup.is_some());
        let wanted =
            Resolv { link: Some("run/stub.conf".into()), ..text("nameserver 127.0.0.53\n") };
        act(&path, &wanted).await.unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("run/stub.conf"));
        assert!(!dir.path().join(BACKUP).exists() && seen(&path).await.backup.is_none());
        act(&path, &before).await.unwrap();
        assert_eq!(seen(&path).await, before);
        assert_eq!(fs::read_link(dir.path().join(BACKUP)).unwrap(), Path::new("run/stub.conf"));
    }

    #[tokio::test]
    async fn without_a_backup_the_text_is_written_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, TAILSCALE).unwrap();
        act(&path, &text("nameserver 9.9.9.9\n")).await.unwrap();
        act(&path, &text("nameserver 9.9.9.9\n")).await.unwrap();
        assert_eq!(seen(&path).await, text("nameserver 9.9.9.9\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_missing_file_is_none_and_a_link_to_nowhere_is_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        assert_eq!(look(&path).await.unwrap(), Seen::Resolv { resolv: None });
        symlink("/nowhere/stub", &path).unwrap();
        assert_eq!(seen(&path).await.link.as_deref(), Some("/nowhere/stub"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(look(&path).await.is_err(), "a directory is no resolv.conf");
    }
}
