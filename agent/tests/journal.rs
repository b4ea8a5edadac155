//! The journal on real disks: torn, damaged, full, read-only, hanging, and held by another process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use lifeline_agent::journal::{self, Disk, JournalError, path_of};
use lifeline_agent::lines::LinesError;
use lifeline_core::clock::Stamp;
use lifeline_core::engine::{Ending, Event, Journal};
use lifeline_core::op::NodeOp;
use lifeline_core::plan::{FORMAT, NodePlan, OnUnhealthy, Rung, Step};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use std::process::Command;

fn plan() -> NodePlan {
    let step = |id| Step {
        id,
        op: NodeOp::Sysctl { key: format!("net.ipv4.key{id}"), value: "1".into() },
        finding: "f".into(),
        because: "b".into(),
        on_unhealthy: OnUnhealthy::Undo,
        optional: false,
    };
    NodePlan {
        format: FORMAT,
        incident: "calypso-1".into(),
        rung: Rung::Clean,
        findings: vec!["f".into()],
        policy: "p".into(),
        steps: vec![step(0), step(1)],
        deadline_ms: 1_000,
    }
}

fn stamp() -> Stamp {
    Stamp { boot: "b".into(), ms: 1, wall_ms: 1 }
}

fn confirmed(n: usize) -> Event<NodeOp> {
    Event::Confirmed { by: format!("operator {n}") }
}

async fn create(dir: &Path) -> Result<Disk, JournalError> {
    Disk::create(dir, "run", stamp(), plan(), "operator alice".into()).await
}

fn life<F: Future>(work: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(work)
}

/// A journal let go of is free when its thread has ended, which is soon.
async fn reopen(dir: &Path) -> Result<Disk, JournalError> {
    for _ in 0..500 {
        match Disk::open(dir, "run").await {
            Err(JournalError::File { source: LinesError::Busy { .. }, .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            other => return other,
        }
    }
    panic!("the journal is still held");
}

#[test]
fn torn_at_every_byte_it_opens_with_the_whole_lines_and_goes_on() {
    life(async {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = create(dir.path()).await.unwrap();
        for n in 0..3 {
            disk.append(stamp(), confirmed(n)).await.unwrap();
        }
        disk.seal().await.unwrap();
        drop(disk);
        let whole = std::fs::read(path_of(dir.path(), "run")).unwrap();
        let ends: Vec<usize> =
            whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        assert_eq!(ends.len(), 4);
        // The first line is there before the file has its name, so it is never torn.
        for cut in ends[0]..whole.len() {
            // What a power cut leaves behind the torn line is what had been taken beforehand: zeros.
            for zeros in [0, 4096] {
                let mut torn = whole[..cut].to_vec();
                torn.resize(cut + zeros, 0);
                std::fs::write(path_of(dir.path(), "run"), torn).unwrap();
                let mut disk =
                    reopen(dir.path()).await.unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
                let lines = ends.iter().filter(|e| **e <= cut).count();
                assert_eq!(disk.entries().len(), lines, "cut at {cut}");
                disk.append(stamp(), Event::Closed { ending: Ending::Held }).await.unwrap();
                let read = journal::read(dir.path(), "run").unwrap();
                assert_eq!(read, disk.entries(), "cut at {cut}");
                assert_eq!(journal::ending(&read), Some(Ending::Held));
            }
        }
    });
}

#[test]
fn a_flipped_byte_before_the_last_line_is_damage_and_the_file_is_left() {
    life(async {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = create(dir.path()).await.unwrap();
        for n in 0..2 {
            disk.append(stamp(), confirmed(n)).await.unwrap();
        }
        drop(disk);
        let path = path_of(dir.path(), "run");
        let whole = std::fs::read(&path).unwrap();
        let last = whole.iter().rposition(|b| *b == b'\n').unwrap();
        let body = whole[..last].iter().rposition(|b| *b == b'\n').unwrap();
        for at in (0..body).step_by(7) {
            let mut bad = whole.clone();
            bad[at] ^= 0x01;
            std::fs::write(&path, &bad).unwrap();
            let found = reopen(dir.path()).await;
            let stuck = found.as_ref().is_err_and(JournalError::is_stuck);
            assert!(stuck, "byte {at}: {found:?}");
            assert_eq!(std::fs::read(&path).unwrap(), bad, "byte {at}: it was written to");
        }
    });
}

#[test]
fn two_do_not_write_one_journal() {
    life(async {
        let dir = tempfile::tempdir().unwrap();
        let disk = create(dir.path()).await.unwrap();
        let busy = |r: Result<Disk, JournalError>| {
            matches!(r, Err(JournalError::File { source: LinesError::Busy { .. }, .. }))
        };
        assert!(busy(Disk::open(dir.path(), "run").await));
        // Another process: flock keeps those apart that share nothing.
        let path = path_of(dir.path(), "run");
        let held = Command::new("flock").arg("-n").arg(&path).arg("true").status().unwrap();
        assert!(!held.success(), "another process got the lock");
        let again = create(dir.path()).await;
        assert!(again.is_err(), "a run's name is used once: {again:?}");
        assert_eq!(journal::read(dir.path(), "run").unwrap(), disk.entries());
        drop(disk);
        reopen(dir.path()).await.unwrap();
    });
}

/// Runs a test in a mount namespace of its own thread; without the right to, it says so, and fails where it must not be skipped.
fn apart(work: impl FnOnce(&Path) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(why) = unshare(CloneFlags::CLONE_NEWNS) {
            assert!(std::env::var_os("CI").is_none(), "make a mount namespace: {why}");
            eprintln!("skipped: make a mount namespace: {why} (try as root)");
            return;
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        work(dir.path());
        // Lazily: a thread of a journal may still hold it.
        let _gone = umount2(dir.path(), MntFlags::MNT_DETACH).is_ok();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn tmpfs(at: &Path, size: &str) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(size)).unwrap();
}

#[test]
fn on_a_full_disk_no_run_is_opened_and_an_open_one_still_ends() {
    apart(|dir| {
        tmpfs(dir, "size=512k");
        life(async {
            let mut disk = create(dir).await.unwrap();
            // Somebody fills the rest.
            let mut filler = vec![b'x'; 600 * 1024];
            while std::fs::write(dir.join("filler"), &filler).is_err() {
                filler.truncate(filler.len() - 4096);
            }
            let second = Disk::create(dir, "second", stamp(), plan(), "b".into()).await;
            assert!(matches!(second, Err(JournalError::File { .. })), "{second:?}");
            assert!(!path_of(dir, "second").exists(), "half a run is no run");
            // Space was taken beforehand: the run under way is told to its end.
            for n in 0..500 {
                disk.append(stamp(), confirmed(n)).await.unwrap();
            }
            // And what does not fit any more is refused before anything is done, and for good.
            let huge = Event::Cancelled { by: "x".repeat(300 * 1024) };
            assert!(disk.append(stamp(), huge).await.is_err());
            std::fs::remove_file(dir.join("filler")).unwrap();
            let after = disk.append(stamp(), confirmed(0)).await;
            assert!(
                matches!(&after, Err(JournalError::File { source: LinesError::Broken { .. }, .. })),
                "after a failure the file is never used again: {after:?}"
            );
            assert_eq!(disk.entries().len(), 501);
            drop(disk);
            assert_eq!(reopen(dir).await.unwrap().entries().len(), 501);
        });
    });
}

#[test]
fn on_a_read_only_disk_no_run_is_opened() {
    apart(|dir| {
        tmpfs(dir, "size=512k");
        life(async {
            let none: Option<&str> = None;
            mount(none, dir, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
            let why = create(dir).await.unwrap_err();
            let text = lifeline_agent::sight::chain(&why);
            assert!(text.contains("Read-only file system"), "{text}");
        });
    });
}

#[test]
fn a_disk_that_hangs_is_given_up_after_a_while_and_never_trusted_again() {
    apart(|dir| {
        let image = dir.join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let at = dir.join("at");
        std::fs::create_dir(&at).unwrap();
        let ran = |program: &str, args: &[&str]| {
            Command::new(program).args(args).output().is_ok_and(|o| o.status.success())
        };
        let (image, place) = (image.to_str().unwrap(), at.to_str().unwrap());
        if !ran("mkfs.ext4", &["-q", image]) || !ran("mount", &["-o", "loop", image, place]) {
            eprintln!("skipped: there is no loop device to freeze");
            return;
        }
        life(async {
            let mut disk = create(&at).await.unwrap();
            assert!(ran("fsfreeze", &["-f", place]));
            let begun = std::time::Instant::now();
            let hung = disk.append(stamp(), confirmed(0)).await;
            let took = begun.elapsed();
            assert!(ran("fsfreeze", &["-u", place]));
            assert!(
                matches!(&hung, Err(JournalError::File { source: LinesError::Silent { .. }, .. })),
                "{hung:?}"
            );
            assert!(took < lifeline_agent::lines::DEADLINE * 2, "{took:?}");
            let after = disk.append(stamp(), confirmed(1)).await;
            assert!(
                matches!(&after, Err(JournalError::File { source: LinesError::Broken { .. }, .. })),
                "{after:?}"
            );
        });
        let _gone = umount2(&at, MntFlags::MNT_DETACH).is_ok();
    });
}
