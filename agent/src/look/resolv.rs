//! `/etc/resolv.conf`: what it says, where it points, and the backup Tailscale makes of it.

use super::Seen;
use lifeline_core::observation::{Resolv, Sense};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// As much of it as any resolver reads.
const CAP: u64 = 4096;
/// What tailscaled's direct mode renames the file to (field guide A6).
const BACKUP: &str = "resolv.pre-tailscale-backup.conf";

/// Reads it; none when there is no such file.
pub(super) fn read(etc: &Path) -> Seen<Option<Resolv>> {
    let path = etc.join("resolv.conf");
    let gap =
        |e: std::io::Error| Seen::nothing(Sense::Resolv, format!("read {}: {e}", path.display()));
    let link = match std::fs::read_link(&path) {
        Ok(target) => Some(target.to_string_lossy().into_owned()),
        // EINVAL: a file and no link.
        Err(e) if e.kind() == ErrorKind::InvalidInput => None,
        Err(e) if e.kind() == ErrorKind::NotFound => return Seen::whole(None),
        Err(e) => return gap(e),
    };
    let text = match beginning(&path) {
        Ok(text) => text,
        // A link to nowhere: systemd-resolved's stub when it does not run.
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(e) => return gap(e),
    };
    let backup = match beginning(&etc.join(BACKUP)) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return gap(e),
    };
    Seen::whole(Some(Resolv { text, link, backup }))
}

fn beginning(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(CAP).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn file_link_backup_and_nothing_are_told_apart() {
        let etc = tempfile::tempdir().unwrap();
        assert_eq!(read(etc.path()).found, None);
        assert!(read(etc.path()).gaps.is_empty());
        fs::write(etc.path().join("resolv.conf"), "nameserver 10.0.0.1\n").unwrap();
        let plain = read(etc.path()).found.unwrap();
        assert_eq!(
            (plain.text.as_str(), plain.link, plain.backup),
            ("nameserver 10.0.0.1\n", None, None)
        );
        fs::rename(etc.path().join("resolv.conf"), etc.path().join(BACKUP)).unwrap();
        symlink("../run/nowhere", etc.path().join("resolv.conf")).unwrap();
        let link = read(etc.path()).found.unwrap();
        assert_eq!(link.link.as_deref(), Some("../run/nowhere"));
        assert_eq!(link.text, "");
        assert_eq!(link.backup.as_deref(), Some("nameserver 10.0.0.1\n"));
        fs::remove_file(etc.path().join("resolv.conf")).unwrap();
        fs::create_dir(etc.path().join("resolv.conf")).unwrap();
        assert_eq!(read(etc.path()).gaps.len(), 1, "a directory is neither");
    }
}
