//! Takes a culprit's directory out of its way without losing a byte: it is renamed into quarantine, never copied, never deleted,
//! and renamed back by an undo.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;
use rustix::fs::{Mode, OFlags, RenameFlags, ResolveFlags};

use super::{blocking, lasting, passing};

const LIMIT: Duration = Duration::from_secs(5);
/// On a file system other than our state's, next to the directory itself.
const NEARBY: &str = ".lifeline-quarantine";
/// So many directories are kept in one place. Nothing of it is ever deleted, so a culprit that makes its directory anew after each heal is
/// left with it from then on: taking it aside was never needed for a repair.
const MOST: usize = 64;
/// The same for what they hold together, bytes and files.
const LARGEST: u64 = 1 << 30;
const FILES: usize = 20_000;
/// What the node lives by.
const NEEDED: [&str; 14] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc/rancher",
    "/lib",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/kubelet",
    "/var/lib/lifeline",
    "/var/lib/rancher",
    "/var/lib/containerd",
    "/var/log",
];

/// Where things are put.
#[derive(Clone, Debug)]
pub struct Store {
    /// Our own, `/var/lib/lifeline/quarantine`.
    pub root: PathBuf,
    /// The run, a directory of its own.
    pub run: String,
}

impl Store {
    /// The places where a path may lie, the usual one first.
    fn places(&self, path: &Path) -> [PathBuf; 2] {
        // The path itself as a name, so that a human finds it and two never meet.
        let name = path.to_string_lossy().trim_matches('/').replace('%', "%25").replace('/', "%2F");
        let nearby = path.parent().unwrap_or_else(|| Path::new("/")).join(NEARBY);
        [self.root.join(&self.run).join(&name), nearby.join(&self.run).join(&name)]
    }
}

fn check(path: &Path) -> Result<(), String> {
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    // `/etc` or `/var/tmp` is nobody's state directory.
    let depth = path.components().count().saturating_sub(1);
    let least = if path.starts_with("/var") { 3 } else { 2 };
    if !path.is_absolute() || !plain || depth < least {
        return Err("it is no state directory".to_owned());
    }
    match NEEDED.iter().find(|n| path.starts_with(n) || Path::new(n).starts_with(path)) {
        Some(needed) => Err(format!("the node needs {needed}")),
        None => Ok(()),
    }
}

fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Where the directory is.
///
/// # Errors
/// When that cannot be said.
pub async fn look(store: &Store, path: &str, given: &str) -> Result<Seen, String> {
    let what = format!("look for {path}");
    let (store, path, given) = (store.clone(), PathBuf::from(path), given.to_owned());
    let done = blocking(LIMIT, move || {
        let at_home = is_there(&path)?;
        let mut quarantine = None;
        for place in
            store.places(&path).into_iter().chain((!given.is_empty()).then(|| given.into()))
        {
            if quarantine.is_none() && is_there(&place)? {
                quarantine = Some(place.to_string_lossy().into_owned());
            }
        }
        Ok::<_, io::Error>(Seen::Path { at_home, quarantine })
    });
    match done.await {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(e)) => Err(format!("{what}: {e}")),
        Err(late) => Err(format!("{what}: {late}")),
    }
}

/// Renames the directory into quarantine.
///
/// # Errors
/// When it is needed, is no directory, is a mount, or something lies in its place already.
pub async fn put(store: &Store, path: &str) -> Result<(), Failure> {
    let what = format!("move {path} into quarantine");
    let path = PathBuf::from(path);
    check(&path).map_err(|why| lasting(format!("{what}: refused: {why}")))?;
    let store = store.clone();
    finish(&what, blocking(LIMIT, move || put_blocking(&store, &path)).await)
}

fn put_blocking(store: &Store, path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !meta.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    let [usual, nearby] = store.places(path);
    let put = |place: &Path| {
        // `ROOT/RUN/NAME`.
        if let Some(root) = place.ancestors().nth(2) {
            has_room(root)?;
        }
        rename(path, place, true)
    };
    match put(&usual) {
        Err(e) if e.kind() == ErrorKind::CrossesDevices => put(&nearby),
        other => other,
    }
}

/// Is there room for one more?
fn has_room(root: &Path) -> io::Result<()> {
    let mut kept = 0;
    for run in list(root)? {
        kept += list(&run)?.len();
    }
    let full = |what: String| {
        let text = format!(
            "{} holds {what}, and nothing of it is deleted by itself: look at it, and remove what nobody needs",
            root.display()
        );
        Err(io::Error::new(ErrorKind::QuotaExceeded, text))
    };
    if kept >= MOST {
        return full(format!("{kept} directories"));
    }
    let (mut bytes, mut files) = (0_u64, 0);
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        for path in list(&dir)? {
            let meta = fs::symlink_metadata(&path)?;
            files += 1;
            bytes = bytes.saturating_add(meta.len());
            if meta.is_dir() {
                rest.push(path);
            }
        }
        if bytes >= LARGEST || files >= FILES {
            return full(format!("{} MiB in {files} files or more", bytes >> 20));
        }
    }
    Ok(())
}

/// What is in a directory; nothing where there is none.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect(),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        // A file that somebody has put beside them.
        Err(e) if e.kind() == ErrorKind::NotADirectory => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Renames the directory back.
///
/// # Errors
/// When another lies in its place meanwhile, or it is not in quarantine.
pub async fn release(store: &Store, path: &str, given: &str) -> Result<(), Failure> {
    let what = format!("move {path} back from quarantine");
    let home = PathBuf::from(path);
    check(&home).map_err(|why| lasting(format!("{what}: refused: {why}")))?;
    let (store, given) = (store.clone(), given.to_owned());
    let done = blocking(LIMIT, move || {
        let given = (!given.is_empty()).then(|| PathBuf::from(given));
        for place in given.into_iter().chain(store.places(&home)) {
            if is_there(&place)? {
                return rename(&place, &home, false);
            }
        }
        Err(io::Error::other("it is not in quarantine"))
    });
    finish(&what, done.await)
}

fn finish(what: &str, done: Result<io::Result<()>, String>) -> Result<(), Failure> {
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e))
            if e.kind() == ErrorKind::CrossesDevices || e.kind() == ErrorKind::ResourceBusy =>
        {
            Err(lasting(format!("{what}: {e}: it is a mount of its own, and is never copied")))
        }
        Ok(Err(e)) => Err(lasting(format!("{what}: {e}"))),
        Err(late) => Err(passing(format!("{what}: {late}"))),
    }
}

/// Renames between two directories that are opened first, without following a symbolic link on the way, and never over
/// anything.
fn rename(from: &Path, to: &Path, private: bool) -> io::Result<()> {
    if let Some(dir) = to.parent()
        && private
    {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let (old_dir, old) = open_parent(from)?;
    let (new_dir, new) = open_parent(to)?;
    rustix::fs::renameat_with(&old_dir, old, &new_dir, new, RenameFlags::NOREPLACE)?;
    for dir in [&new_dir, &old_dir] {
        rustix::fs::fsync(dir)?;
    }
    Ok(())
}

fn open_parent(path: &Path) -> io::Result<(OwnedFd, &Path)> {
    let bad = || io::Error::from(ErrorKind::InvalidInput);
    let (dir, name) = (path.parent().ok_or_else(bad)?, path.file_name().ok_or_else(bad)?);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(rustix::fs::CWD, dir, flags, Mode::empty(), how)?;
    Ok((fd, Path::new(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store(dir: &tempfile::TempDir) -> Store {
        Store { root: dir.path().join("var/quarantine"), run: "run-1".into() }
    }

    fn culprit(dir: &tempfile::TempDir) -> String {
        let state = dir.path().join("state/tailscale");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("tailscaled.state"), "keys").unwrap();
        state.to_string_lossy().into_owned()
    }

    #[tokio::test]
    async fn a_directory_goes_into_quarantine_and_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (store, path) = (store(&dir), culprit(&dir));
        put(&store, &path).await.unwrap();
        let Seen::Path { at_home: false, quarantine: Some(place) } =
            look(&store, &path, "").await.unwrap()
        else {
            panic!("not in quarantine")
        };
        assert_eq!(fs::read_to_string(Path::new(&place).join("tailscaled.state")).unwrap(), "keys");
        let mode = fs::metadata(store.root.join("run-1")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        put(&store, &path).await.unwrap();
        release(&store, &path, "").await.unwrap();
        let seen = look(&store, &path, "").await.unwrap();
        assert_eq!(seen, Seen::Path { at_home: true, quarantine: None });
        assert_eq!(fs::read_to_string(Path::new(&path).join("tailscaled.state")).unwrap(), "keys");
    }

    #[tokio::test]
    async fn a_new_directory_in_its_place_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (store, path) = (store(&dir), culprit(&dir));
        put(&store, &path).await.unwrap();
        fs::create_dir(&path).unwrap();
        let e = release(&store, &path, "").await.unwrap_err();
        assert!(e.why.contains("File exists"), "{}", e.why);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        let e = put(&store, &path).await.unwrap_err();
        assert!(e.why.contains("File exists"), "{}", e.why);
    }

    #[tokio::test]
    async fn a_culprit_that_makes_its_directory_anew_each_time_fills_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(&dir);
        for n in 0..MOST {
            store.run = format!("run-{n}");
            let path = culprit(&dir);
            put(&store, &path).await.unwrap();
        }
        store.run = "run-last".into();
        let path = culprit(&dir);
        let e = put(&store, &path).await.unwrap_err();
        assert!(!e.retryable && e.why.contains("holds 64 directories"), "{}", e.why);
        assert!(Path::new(&path).join("tailscaled.state").exists(), "it stays as it was");
        // Whoever takes one back, or away, has made room.
        fs::remove_dir_all(&path).unwrap();
        store.run = "run-0".into();
        release(&store, &path, "").await.unwrap();
        store.run = "run-last".into();
        put(&store, &path).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_by_its_size_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(&dir);
        let path = culprit(&dir);
        // A hole: of that length, and it takes no space.
        fs::File::create(Path::new(&path).join("log")).unwrap().set_len(LARGEST).unwrap();
        put(&store, &path).await.unwrap();
        store.run = "run-2".into();
        let path = culprit(&dir);
        let e = put(&store, &path).await.unwrap_err();
        assert!(e.why.contains("holds 1024 MiB"), "{}", e.why);
    }

    #[tokio::test]
    async fn what_the_node_needs_and_what_is_no_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        for path in [
            "/",
            "/etc",
            "/var/lib",
            "/var/lib/rancher/k3s",
            "/var/lib/kubelet",
            "/a/b/../c",
            "a/b/c/d",
            "/usr/lib/x",
        ] {
            let e = put(&store, path).await.unwrap_err();
            assert!(e.why.contains("refused"), "{path}: {}", e.why);
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(put(&store, link.to_str().unwrap()).await.is_err());
        assert!(fs::symlink_metadata(&link).is_ok());
    }
}
