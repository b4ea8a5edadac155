//! Where a secret must not be: in any process's arguments while a command runs, and in anything that is written or said.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::desk::TOKENS;
use crate::error::{LabError, Result};
use crate::run;

/// Often enough to see what lives as long as a question to the provider.
const EVERY: Duration = Duration::from_millis(50);

/// What was seen of processes' arguments.
#[derive(Debug, Default)]
pub struct Arguments {
    /// How often all were looked at.
    pub looks: usize,
    /// Programs that had a token among theirs.
    pub with: BTreeSet<String>,
    /// Whether `op` was ever seen with its reference: then the search would have seen the token, too.
    pub asked_op: bool,
}

/// Looks at the arguments of every process of this machine until it is ended.
#[derive(Debug)]
pub struct Lookout {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Arguments>,
}

impl Lookout {
    #[must_use]
    pub fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mine = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Arguments::default();
            while !mine.load(Ordering::Relaxed) {
                look(&mut seen);
                thread::sleep(EVERY);
            }
            seen
        });
        Self { stop, thread }
    }

    pub fn end(self) -> Result<Arguments> {
        self.stop.store(true, Ordering::Relaxed);
        let broke = |_| LabError::Refused("the look at arguments broke off".to_owned());
        self.thread.join().map_err(broke)
    }
}

fn look(seen: &mut Arguments) {
    seen.looks += 1;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // A process that has ended meanwhile has none.
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        if holds(&line) {
            let program = line.split(|b| *b == 0).next().unwrap_or_default();
            let name =
                Path::new(&*String::from_utf8_lossy(program)).file_name().map(|n| n.to_owned());
            seen.with.insert(name.unwrap_or_default().to_string_lossy().into_owned());
        }
        seen.asked_op |= line.windows(11).any(|w| w == b"bin/op\0read");
    }
}

/// Whether one of the tokens is in there.
#[must_use]
pub fn holds(bytes: &[u8]) -> bool {
    TOKENS.iter().any(|t| bytes.windows(t.len()).any(|w| w == t.as_bytes()))
}

/// Files below a folder that hold a token, but for those of these names.
#[must_use]
pub fn written(dir: &Path, but: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if but.iter().any(|b| name == *b) {
            continue;
        }
        if path.is_dir() {
            found.extend(written(&path, but));
        } else if fs::read(&path).is_ok_and(|bytes| holds(&bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Whether any commit of a repository holds one; objects are packed, so that git itself is asked.
pub fn committed(repository: &Path) -> Result<bool> {
    let at = repository.display().to_string();
    let out = run::host("git", &["-C", &at, "log", "-p", "--all", "--format=%B%an%ae"])?;
    Ok(holds(out.success()?.stdout.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_seen_in_arguments_and_in_files_and_where_it_is_not_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        fs::write(dir.path().join("deep/log"), format!("Bearer {}", TOKENS[1])).unwrap();
        fs::write(dir.path().join("vault"), TOKENS[0]).unwrap();
        fs::write(dir.path().join("other"), "Bearer [secret]").unwrap();
        let found = written(dir.path(), &["vault"]);
        assert_eq!(found, [dir.path().join("deep/log").display().to_string()]);
        let lookout = Lookout::begin();
        let leak = format!("read x < /dev/null; sleep 0.3; : {}", TOKENS[0]);
        run::host("sh", &["-c", &leak]).unwrap();
        let seen = lookout.end().unwrap();
        assert!(seen.looks > 1 && seen.with.contains("sh"), "{seen:?}");
    }
}
