//! Metrics as a file for node_exporter's textfile collector: whole or not at all, at each change and at a slow tick.

use super::facts;
use crate::runs::Node;
use crate::serve::service::Service;
use lifeline_core::metrics::Form;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// It is written at least so often, so that whoever watches its age or the time of the last look is not alarmed.
const TICK: Duration = Duration::from_secs(60);
/// A file system that has not taken it by then is complained about.
const LIMIT: Duration = Duration::from_secs(10);

/// Keeps the file, for ever. A file system that hangs holds this task up, and one thread, and nothing else.
pub async fn keep<N: Node>(service: &Service<N>, path: &Path) {
    let mut latest = service.sight.latest();
    let (mut told, mut said) = (None, None);
    let mut due = Instant::now();
    loop {
        let facts = facts(service);
        if Instant::now() >= due || told.as_ref() != Some(&facts.steady()) {
            let failed = put(path, facts.page(Form::Text)).await.err().map(|why| why.to_string());
            match &failed {
                Some(why) if said != failed => {
                    tracing::error!("write metrics to {}: {why}; trying on", path.display());
                }
                None if said.is_some() => tracing::info!("metrics are written again"),
                Some(_) | None => {}
            }
            said = failed;
            told = Some(facts.steady());
            due = Instant::now() + TICK;
        }
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = sleep_until(due) => {}
        }
    }
}

async fn put(path: &Path, page: String) -> io::Result<()> {
    let at = path.to_owned();
    let mut writing = tokio::task::spawn_blocking(move || replace(&at, page.as_bytes()));
    if let Ok(written) = tokio::time::timeout(LIMIT, &mut writing).await {
        return written?;
    }
    tracing::error!("write metrics to {}: the disk does not answer", path.display());
    writing.await?
}

/// Beside it first: node_exporter reads only what ends in `.prom`. Not made durable, because after a reboot it is written anew.
fn replace(path: &Path, page: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("prom.new");
    // The folder may be somebody else's: a link that lies there is not followed, but taken away.
    match fs::remove_file(&fresh) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = file
        .write_all(page)
        // node_exporter is another user; the agent's umask lets nobody read.
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        drop(fs::remove_file(&fresh));
    }
    written
}

/// Takes the file away, and what a killed agent left half-written beside it. That there is none is fine.
///
/// # Errors
/// When it is there and stays.
pub fn forget(path: &Path) -> io::Result<()> {
    for file in [path, &path.with_extension("prom.new")] {
        match fs::remove_file(file) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_replaced_whole_readable_by_all_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("lifeline.prom"), dir.path().join("shadow"));
        fs::write(&victim, "root").unwrap();
        for link in ["lifeline.prom", "lifeline.prom.new"] {
            std::os::unix::fs::symlink(&victim, dir.path().join(link)).unwrap();
        }
        replace(&path, b"lifeline_looks_total 1\n").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "root");
        assert_eq!(fs::read_to_string(&path).unwrap(), "lifeline_looks_total 1\n");
        let about = fs::symlink_metadata(&path).unwrap();
        assert!(about.is_file());
        assert_eq!(about.permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn it_is_forgotten_whole_and_once_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lifeline.prom");
        replace(&path, b"lifeline_looks_total 1\n").unwrap();
        fs::write(dir.path().join("lifeline.prom.new"), "half").unwrap();
        fs::write(dir.path().join("other.prom"), "theirs").unwrap();
        forget(&path).unwrap();
        forget(&path).unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["other.prom"]);
        forget(Path::new("/nonexistent/lifeline.prom")).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(replace(Path::new("/nonexistent/lifeline.prom"), b"").is_err());
    }
}
