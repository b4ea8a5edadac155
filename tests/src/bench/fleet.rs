//! T12: `ctl status` over two hundred agents: real ones, a process each, on loopback addresses in a network namespace of their own,
//! each with its own certificate and state. They observe, and there is nothing for them to do: a machine that carries two hundred
//! of them is slower than two hundred machines would be.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Figure, Limit, Series, Wanted};
use crate::process;
use crate::progress::Progress;
use crate::run;

const AGENTS: usize = 200;
/// What `ctl status` may take, milliseconds.
const MOST_MS: f64 = 1_000.0;
/// Until all of them have looked once, on two busy cores.
const STARTING: Duration = Duration::from_secs(240);
/// One call; this only bounds what hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// T12.
pub fn measure(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let fleet = Fleet::begin(progress)?;
    fleet.await_all(progress)?;
    let mut ours = Vec::new();
    for n in 0..wanted.runs {
        progress.pass(format!("T12: status {} of {}", n + 1, wanted.runs));
        let begun = Instant::now();
        let seen = fleet.status(&[])?;
        ours.push(ms(begun.elapsed()));
        ensure!(seen == AGENTS, "{seen} of {AGENTS} agents answered");
        thread::sleep(Duration::from_millis(500));
    }
    let mut serial = Vec::new();
    for n in 0..wanted.few() {
        progress.pass(format!("T12: one after the other, {} of {}", n + 1, wanted.few()));
        let begun = Instant::now();
        for nth in 0..AGENTS {
            let seen = fleet.status(&[&name(nth)])?;
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
            "{AGENTS} agents' processes on this one machine, on loopback, over mutual TLS; together they hold {} MiB",
            fleet.memory_mib()
        ),
    };
    Ok(vec![figure.within(&[Limit(0.5, MOST_MS)])])
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
        let script = format!(
            "ip link set lo up; for d in {}/n*; do {}/lifeline-agent --config $d/agent.toml >$d/log 2>&1 & sleep 0.05; done; wait",
            dir.path().display(),
            bin.display()
        );
        // A process table of their own, so that each looks at its like and not at everybody's; and its end is their end.
        let keeper = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .context("run unshare")?;
        Ok(Self { dir, keeper, bin })
    }

    /// Waits until every one of them answers, and has looked.
    fn await_all(&self, progress: &Progress) -> anyhow::Result<()> {
        let until = Instant::now() + STARTING;
        loop {
            let seen = self.status(&[]);
            if matches!(seen, Ok(AGENTS)) {
                break;
            }
            if Instant::now() > until {
                let log = fs::read_to_string(self.dir.path().join("n000/log")).unwrap_or_default();
                bail!(
                    "{seen:?} of {AGENTS} agents answer after {STARTING:?}; the first says: {log}"
                );
            }
            progress.pass(format!("T12: {} of {AGENTS} agents answer", seen.unwrap_or_default()));
            thread::sleep(Duration::from_secs(2));
        }
        // What a start costs is over, as on machines that have been up for a while.
        thread::sleep(Duration::from_secs(20));
        Ok(())
    }

    /// How many agents answer.
    fn status(&self, nodes: &[&str]) -> anyhow::Result<usize> {
        let mut ctl = Command::new("nsenter");
        ctl.arg(format!("--net=/proc/{}/ns/net", self.keeper.id()))
            .arg("--")
            .arg(self.bin.join("ctl"))
            .arg("status")
            .args(nodes)
            .args(["-o", "json"])
            .env("LIFELINE_CONFIG", self.dir.path().join("ctl.toml"))
            .env("XDG_STATE_HOME", self.dir.path().join("state"));
        let out = run::run(&mut ctl, LIMIT, None)?;
        let seen: serde_json::Value = serde_json::from_str(&out.stdout)
            .with_context(|| format!("read what ctl status says: {}{}", out.stdout, out.stderr))?;
        let nodes = seen["nodes"].as_array().context("find the nodes in what ctl status says")?;
        Ok(nodes.iter().filter(|n| n["boot_id"].is_string()).count())
    }

    /// All of their resident memory, shared pages counted for each.
    fn memory_mib(&self) -> u64 {
        let inner = i32::try_from(self.keeper.id()).map(process::children).unwrap_or_default();
        let agents = inner.iter().flat_map(|init| process::children(init.pid));
        let kib = agents.filter_map(|a| {
            let status = fs::read_to_string(format!("/proc/{}/status", a.pid)).ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
        kib.sum::<u64>() / 1024
    }
}

/// An authority, an operator, and for each agent its certificate and configuration.
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
        let out = own.display();
        let made = own.display().to_string();
        pki(&["agent", &name, "--address", &address, "--dir", &ca, "--out", &made])?;
        fs::create_dir_all(own.join("state")).with_context(|| format!("make {out}/state"))?;
        let config = format!(
            "cluster = \"fleet\"\nnode = \"{name}\"\nlisten = \"{address}:7443\"\nstate = \"{out}/state\"\nrun = \"{out}/run\"\n\n\
             [tls]\nca = \"{out}/ca.crt\"\ncert = \"{out}/agent.crt\"\nkey = \"{out}/agent.key\"\n\n[policy]\nmode = \"observe\"\n"
        );
        fs::write(own.join("agent.toml"), config)
            .with_context(|| format!("write {out}/agent.toml"))?;
        write!(text, "\n[nodes.{name}]\naddresses = [\"{address}\"]\n")?;
    }
    fs::write(dir.join("ctl.toml"), text).context("write the fleet's ctl.toml")
}
