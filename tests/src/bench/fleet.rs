//! T12: `ctl status` over two hundred agents: the agent's own doors, service and judgement, two hundred times in one process on
//! loopback addresses in a network namespace, each under its own certificate. What they would do besides, looking at their nodes,
//! is for two hundred other machines to do: two hundred agents' processes on two cores measure those two cores.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Figure, Limit, Series, Wanted, built};
use crate::process;
use crate::progress::Progress;
use crate::run;

const AGENTS: usize = 200;
/// So many of them say nothing in the second row: their machines take connections, and nobody serves.
const SILENT: usize = 10;
/// What `ctl status` may take, milliseconds.
const MOST_MS: f64 = 1_000.0;
/// The configuration that names them all where they serve.
const ALL: &str = "ctl.toml";
/// The one in which some are where nobody serves.
const FEWER: &str = "fewer.toml";
/// The test that serves them.
const TEST: &str = "serves_a_fleet_until_it_is_killed";
/// Until all of them serve.
const STARTING: Duration = Duration::from_secs(60);
/// One call; this only bounds what hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// T12.
pub fn measure(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let fleet = Fleet::begin(progress)?;
    fleet.await_all(progress)?;
    let (ours, shown) = fleet.timed(ALL, wanted, progress)?;
    let (rest, others) = fleet.timed(FEWER, wanted, progress)?;
    let mut serial = Vec::new();
    for n in 0..wanted.few() {
        progress.pass(format!("T12: one after the other, {} of {}", n + 1, wanted.few()));
        let begun = Instant::now();
        for nth in 0..AGENTS {
            let seen = fleet.status(ALL, &[&name(nth)])?;
            ensure!(seen == 1, "{} did not answer", name(nth));
        }
        serial.push(ms(begun.elapsed()));
    }
    let figure = Figure {
        id: "T12",
        what: format!("`ctl status` over {AGENTS} agents, from Enter to the last line"),
        target: "≤ 1 s",
        met: None,
        ours: Series::new("ctl status", "ms", ours),
        baseline: Some(Series::new("the same ctl, one agent after the other", "ms", serial)),
        note: format!(
            "{AGENTS} agents' doors and services in one process and one thread, built for {}, on loopback, over mutual TLS; the fewest that answered in time: {shown}",
            built()
        ),
    };
    let silent = Figure {
        id: "T12",
        what: format!(
            "the same, {SILENT} of the {AGENTS} silent: each is named, and the others are shown"
        ),
        target: "≤ 1 s",
        met: None,
        ours: Series::new("ctl status", "ms", rest),
        baseline: None,
        note: format!(
            "nobody is waited for longer than 800 ms, as in a table; the fewest that answered in time: {others}"
        ),
    };
    let limits = [Limit(0.5, MOST_MS)];
    let mut silent = silent.within(&limits);
    // Fast and without those who would have answered is not what is asked.
    silent.met = silent.met.map(|met| met && others == AGENTS - SILENT);
    Ok(vec![figure.within(&limits), silent])
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

fn name(nth: usize) -> String {
    format!("n{nth:03}")
}

fn address(nth: usize) -> String {
    format!("127.12.{}.{}", nth / 100, nth % 100 + 1)
}

/// The agents, until it is dropped.
struct Fleet {
    dir: tempfile::TempDir,
    /// `unshare`, at whose end all that it began is killed by the kernel.
    keeper: Child,
    bin: PathBuf,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

impl Fleet {
    fn begin(progress: &Progress) -> anyhow::Result<Self> {
        let me = process::own_program()?;
        let bin = me.parent().context("find the programs")?.to_owned();
        let dir = tempfile::Builder::new().prefix("lifeline-fleet-").tempdir_in("/run");
        let dir = dir.context("make a folder in /run")?;
        progress.say(format!("T12: certificates for {AGENTS} agents"));
        papers(&bin, dir.path())?;
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut test =
            vec!["test", "--workspace", "--locked", "--manifest-path", manifest, "--test", "fleet"];
        // Agents and controller are measured as they were built, and that is said: both for release, or neither.
        if !cfg!(debug_assertions) {
            test.insert(1, "--release");
        }
        progress.say("T12: building the agents");
        let built = Command::new(&cargo).args(&test).arg("--no-run").stdin(Stdio::null()).status();
        ensure!(built.context("run cargo test")?.success(), "the agents could not be built");
        let serve =
            format!("ip link set lo up && exec \"$@\" --offline -- --ignored --exact {TEST}");
        // The kernel ends them when this ends, and this when the measuring is cut off.
        let keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &serve, "sh", &cargo])
            .args(&test)
            .env("LIFELINE_FLEET", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("run unshare")?;
        Ok(Self { dir, keeper, bin })
    }

    /// Waits until every one of them answers, and has looked.
    fn await_all(&self, progress: &Progress) -> anyhow::Result<()> {
        let until = Instant::now() + STARTING;
        loop {
            let seen = self.status(ALL, &[]);
            if matches!(seen, Ok(AGENTS)) {
                break;
            }
            if Instant::now() > until {
                bail!("{seen:?} of {AGENTS} agents answer after {STARTING:?}");
            }
            progress.pass(format!("T12: {} of {AGENTS} agents answer", seen.unwrap_or_default()));
            thread::sleep(Duration::from_secs(2));
        }
        Ok(())
    }

    /// What `ctl status` takes, milliseconds each, and the fewest agents that it showed.
    fn timed(
        &self,
        config: &str,
        wanted: &Wanted,
        progress: &Progress,
    ) -> anyhow::Result<(Vec<f64>, usize)> {
        let (mut took, mut fewest) = (Vec::new(), usize::MAX);
        for n in 0..wanted.runs {
            progress.pass(format!("T12: status by {config}, {} of {}", n + 1, wanted.runs));
            let begun = Instant::now();
            let seen = self.status(config, &[])?;
            took.push(ms(begun.elapsed()));
            fewest = fewest.min(seen);
            thread::sleep(Duration::from_millis(500));
        }
        Ok((took, fewest))
    }

    /// How many agents answer.
    fn status(&self, config: &str, nodes: &[&str]) -> anyhow::Result<usize> {
        let mut ctl = Command::new("nsenter");
        ctl.arg(format!("--net=/proc/{}/ns/net", self.keeper.id()))
            .arg("--")
            .arg(self.bin.join("ctl"))
            .arg("status")
            .args(nodes)
            .args(["-o", "json"])
            // As a table of several nodes waits; a document waits for all there is to know.
            .args((config == FEWER).then_some("--wait=800ms"))
            .env("LIFELINE_CONFIG", self.dir.path().join(config))
            .env("XDG_STATE_HOME", self.dir.path().join("state"));
        let out = run::run(&mut ctl, LIMIT, None)?;
        let seen: serde_json::Value = serde_json::from_str(&out.stdout)
            .with_context(|| format!("read what ctl status says: {}{}", out.stdout, out.stderr))?;
        let nodes = seen["nodes"].as_array().context("find the nodes in what ctl status says")?;
        Ok(nodes.iter().filter(|n| n["boot_id"].is_string()).count())
    }
}

/// An authority, an operator, and for each agent its certificate and its address.
fn papers(bin: &Path, dir: &Path) -> anyhow::Result<()> {
    let ca = dir.join("pki").display().to_string();
    let me = dir.join("me").display().to_string();
    let pki = |args: &[&str]| -> anyhow::Result<()> {
        let mut ctl = Command::new(bin.join("ctl"));
        run::run(ctl.arg("pki").args(args), LIMIT, None)?.success().map(drop)?;
        Ok(())
    };
    pki(&["init", "--cluster", "fleet", "--dir", &ca])?;
    pki(&["operator", "alice", "--role", "operator", "--dir", &ca, "--out", &me])?;
    let mut text = format!(
        "cluster = \"fleet\"\n\n[tls]\nca = \"{me}/ca.crt\"\ncert = \"{me}/operator.crt\"\nkey = \"{me}/operator.key\"\n"
    );
    for nth in 0..AGENTS {
        let (name, address) = (name(nth), address(nth));
        let own = dir.join(&name);
        let made = own.display().to_string();
        pki(&["agent", &name, "--address", &address, "--dir", &ca, "--out", &made])?;
        fs::write(own.join("address"), format!("{address}:7443"))
            .with_context(|| format!("write {made}/address"))?;
        write!(text, "\n[nodes.{name}]\naddresses = [\"{address}\"]\n")?;
    }
    fs::write(dir.join(ALL), &text).context("write the fleet's ctl.toml")?;
    let mut silent = String::new();
    for nth in 0..SILENT {
        let nobody = format!("127.12.9.{}", nth + 1);
        text = text.replace(&format!("\"{}\"", address(nth)), &format!("\"{nobody}\""));
        writeln!(silent, "{nobody}:7443")?;
    }
    fs::write(dir.join(FEWER), text).context("write the ctl.toml with silent agents")?;
    fs::write(dir.join("silent"), silent).context("write which are silent")
}
