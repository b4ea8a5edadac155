//! Where a secret must not be: in the arguments of any process of this lab while a command runs, and in anything that is written or
//! said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::desk::TOKENS;
use crate::error::{LabError, Result};
use crate::{names, run};

/// Often enough to see what lives as long as a question to the provider.
const EVERY: Duration = Duration::from_millis(50);

/// What was seen of processes' arguments.
#[derive(Debug, Default)]
pub struct Arguments {
    /// How often all were looked at.
    pub looks: usize,
    /// How many processes that were in all looks together.
    pub processes: usize,
    /// Programs that had a token among theirs.
    pub with: BTreeSet<String>,
    /// Whether `op` was ever seen with its reference: then the search would have seen the token, too.
    pub asked_op: bool,
}

/// Looks at the arguments of every process in one of this lab's network namespaces, and of whatever this process has started, until
/// it is ended. Another lab beside this one may leak on purpose: a test of this very search does.
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
    let spaces = spaces();
    let parents = parents();
    for pid in parents.keys().filter(|pid| is_ours(**pid, &spaces, &parents)) {
        // A process that has ended meanwhile has none.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        seen.processes += 1;
        if holds(&line) {
            let program = line.split(|b| *b == 0).next().unwrap_or_default();
            let name =
                Path::new(&*String::from_utf8_lossy(program)).file_name().map(|n| n.to_owned());
            seen.with.insert(name.unwrap_or_default().to_string_lossy().into_owned());
        }
        seen.asked_op |= line.windows(11).any(|w| w == b"bin/op\0read");
    }
}

/// The inodes of this lab's network namespaces, as they are now: a node that is power-cycled gets another.
fn spaces() -> BTreeSet<u64> {
    let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let ours = all.filter(|e| e.file_name().to_string_lossy().starts_with(names::prefix()));
    ours.filter_map(|e| Some(fs::metadata(e.path()).ok()?.ino())).collect()
}

/// Each process, and who started it.
fn parents() -> BTreeMap<u32, u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, blanks and brackets too; the state and the parent follow its last bracket.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
    .collect()
}

fn is_ours(pid: u32, spaces: &BTreeSet<u64>, parents: &BTreeMap<u32, u32>) -> bool {
    let space = fs::metadata(format!("/proc/{pid}/ns/net")).map(|m| m.ino());
    if space.is_ok_and(|space| spaces.contains(&space)) {
        return true;
    }
    let me = std::process::id();
    let mut next = Some(&pid);
    // As many steps as there are processes: a pid that was given out again could make a ring.
    for _ in 0..parents.len() {
        match next {
            Some(pid) if *pid == me => return true,
            Some(pid) => next = parents.get(pid),
            None => return false,
        }
    }
    false
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

    #[test]
    fn a_process_is_ours_by_who_started_it_and_a_strangers_is_not() {
        let (none, me) = (BTreeSet::new(), std::process::id());
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        let parents = parents();
        assert!(is_ours(child.id(), &none, &parents) && is_ours(me, &none, &parents));
        let above = std::os::unix::process::parent_id();
        assert!(!is_ours(above, &none, &parents), "who started us");
        let own = fs::metadata(format!("/proc/{above}/ns/net")).unwrap().ino();
        assert!(is_ours(above, &BTreeSet::from([own]), &parents), "but in a space of ours");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
