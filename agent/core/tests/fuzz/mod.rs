//! Inputs for a parser, mutated from a committed corpus: bounded, repeatable, and one that fails is written down.
//!
//! Why no coverage-guided fuzzer: those need a nightly toolchain, and this is tried wherever the tests are. `FUZZ_SECONDS=600` tries
//! more of it, `SEED=…` other inputs (`clock`: others each time), `SEED` and `ROUND` one again. A found input goes into the
//! corpus under a name that says what it is; every input there is tried as it is, first and for ever.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    unreachable_pub,
    reason = "a test fails by panicking, and says its seed; not every test needs all of this"
)]

#[path = "../dice/mod.rs"]
mod dice;
mod mutate;

use dice::{Dice, seed};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long mutated inputs are tried when nobody says otherwise.
const USUAL: Duration = Duration::from_secs(1);
/// The longest input.
const LONGEST: usize = 128 * 1024;
/// One input takes milliseconds of a processor, unoptimised; never this.
const SLOW: Duration = Duration::from_secs(5);
/// Nothing has come back for so long: it will not.
const STUCK: Duration = Duration::from_secs(90);
/// All inputs of all parsers that are tried at the same time have room in this.
const MEMORY_KIB: u64 = 1 << 20;

/// A parser's corpus, and what is done to what is made from it.
pub struct Fuzz {
    name: &'static str,
    corpus: Vec<(String, Vec<u8>)>,
    mend: Option<fn(&mut Vec<u8>)>,
}

impl Fuzz {
    /// Named for its failures.
    pub fn new(name: &'static str) -> Self {
        Self { name, corpus: Vec::new(), mend: None }
    }

    /// Everything below a folder of the crate whose path `fits`; there must be something.
    pub fn folder(mut self, folder: impl AsRef<Path>, fits: impl Fn(&str) -> bool) -> Self {
        let mut paths = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder.as_ref())];
        let before = self.corpus.len();
        while let Some(path) = paths.pop() {
            let shown = path.display().to_string();
            if path.is_dir() {
                let inside = std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{shown}: {e}"));
                paths.extend(inside.map(|entry| entry.unwrap().path()));
            } else if fits(&shown) {
                let mut bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{shown}: {e}"));
                bytes.truncate(LONGEST);
                self.corpus.push((shown, bytes));
            }
        }
        let none = format!("{}: no corpus in {}", self.name, folder.as_ref().display());
        assert!(self.corpus.len() > before, "{none}");
        // Folders are listed in no order, and the same seed is to make the same inputs.
        self.corpus.sort();
        self
    }

    /// Done to every second input: what puts a checksum right, so that what lies behind it is tried, too.
    pub fn mended(mut self, mend: fn(&mut Vec<u8>)) -> Self {
        self.mend = Some(mend);
        self
    }

    /// Tries the corpus, and what is made from it. `check` panics when the parser does what it must not.
    pub fn run(self, check: impl Fn(&[u8]) + Send + 'static) {
        let name = self.name;
        let present = Arc::new(Mutex::new((String::new(), Vec::new())));
        let (alive, heard) = mpsc::channel();
        let shown = present.clone();
        let worker = std::thread::spawn(move || self.work(&check, &shown, &alive));
        loop {
            match heard.recv_timeout(STUCK) {
                Ok(()) => {}
                // It has ended, well or in a panic.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let (from, input) = present.lock().unwrap().clone();
                    let file = keep(name, &input);
                    panic!(
                        "{name}: no end after {} s: {from}, {}",
                        STUCK.as_secs(),
                        file.display()
                    );
                }
            }
        }
        if let Err(why) = worker.join() {
            std::panic::resume_unwind(why);
        }
    }

    fn work(
        &self,
        check: &(impl Fn(&[u8]) + Send),
        present: &Mutex<(String, Vec<u8>)>,
        alive: &mpsc::Sender<()>,
    ) {
        let one = |from: &str, input: &[u8]| {
            *present.lock().unwrap() = (from.to_owned(), input.to_vec());
            let begun = processor();
            if let Err(why) = catch_unwind(AssertUnwindSafe(|| check(input))) {
                println!(
                    "{}: {from}; the input is {}",
                    self.name,
                    keep(self.name, input).display()
                );
                std::panic::resume_unwind(why);
            }
            let took = processor().saturating_sub(begun);
            let file = || keep(self.name, input);
            assert!(took < SLOW, "{}: {from} took {took:?}: {}", self.name, file().display());
            let _nobody_may_wait = alive.send(());
        };
        for (path, bytes) in &self.corpus {
            one(path, bytes);
        }
        let seed = seed();
        let only: Option<u64> = std::env::var("ROUND").ok().and_then(|r| r.parse().ok());
        let more = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
        let until = Instant::now() + more.map_or(USUAL, Duration::from_secs);
        let mut round = only.unwrap_or(0);
        while Instant::now() < until {
            let mixed = (seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .wrapping_mul(0xbf58_476d_1ce4_e5b9)
                | 1;
            let mut input = mutate::one(&mut Dice(mixed), &self.corpus, LONGEST);
            if let Some(mend) = self.mend.filter(|_| round.is_multiple_of(2)) {
                mend(&mut input);
            }
            one(&format!("SEED={seed} ROUND={round}"), &input);
            round += 1;
            if only.is_some() {
                break;
            }
        }
        println!("{}: SEED={seed}, {} as they are, {round} mutated", self.name, self.corpus.len());
        let most = most_kib();
        assert!(most < MEMORY_KIB, "{}: {most} KiB of memory were needed", self.name);
    }
}

/// What this thread has had of a processor: how busy the machine is with other things is no matter.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    nanos.map_or(Duration::ZERO, Duration::from_nanos)
}

/// Writes an input where it is found again.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fuzz-{name}-{}", std::process::id()));
    std::fs::write(&path, input).unwrap();
    path
}

/// The most that this process has ever needed; 0 where nobody tells.
fn most_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The lines of a text, each `CHECKSUM REST`, with their checksums put right.
pub fn checksums(bytes: &mut Vec<u8>) {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        match (line.strip_suffix(b"\n"), line.iter().position(|b| *b == b' ')) {
            (Some(whole), Some(at)) => {
                let rest = &whole[at + 1..];
                out.extend(format!("{:08x} ", crc32(rest)).bytes());
                out.extend(rest);
                out.push(b'\n');
            }
            _ => out.extend(line),
        }
    }
    *bytes = out;
}

/// CRC-32 of IEEE 802.3, bit by bit: nothing that is tried here vouches for itself.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |c: u32| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
    let byte = |c: u32, b: &u8| (0..8).fold(c ^ u32::from(*b), |c, _| step(c));
    !bytes.iter().fold(u32::MAX, byte)
}
