//! T9 to T11: what the agent costs while nothing happens, what a look costs on a loaded node, and what a clean costs there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::Value;

use super::{Figure, Limit, Series, Wanted};
use crate::faults::{self, Site};
use crate::lab::Lab;
use crate::node::Node;
use crate::progress::Progress;
use crate::run;
use crate::trial::{Ground, NODE};

/// Long enough for a few of the agent's ticks.
const IDLE: Duration = Duration::from_secs(60);
const SERVICES: u32 = 5_000;
/// A minute is more than any of them takes.
const LIMIT: Duration = Duration::from_secs(120);

/// T9, T10 and T11.
pub fn measure(lab: &Lab, wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::new(lab, progress)?;
    let node = lab.node(NODE)?;
    let linked = install_released(&node, progress)?;
    ground.prepare().map_err(|why| anyhow!(why))?;
    let mut figures = Vec::new();
    if wanted.any(&["T9"]) {
        progress.pass(format!("T9: a minute of a healthy node: {} s", IDLE.as_secs()));
        figures.extend(idle(&node, linked)?);
    }
    if wanted.any(&["T9", "T10", "T11"]) {
        progress.say("loading 20 000 netfilter rules");
        load_rules(&node)?;
    }
    if wanted.any(&["T10"]) {
        load_routes(&node, 10_000)?;
        figures.extend(looks(&node, wanted.runs)?);
    }
    if wanted.any(&["T11"]) {
        let seen = clean(lab, &ground, &node, wanted.few());
        // A heal among so many rules may fail; what has been measured until then stays.
        figures.push(seen.unwrap_or_else(|why| {
            progress.say(format!("T11: {why:#}"));
            let first = why.to_string().lines().next().unwrap_or_default().to_owned();
            surgical(Vec::new(), Vec::new(), &[], first)
        }));
    }
    if wanted.any(&["T9"]) {
        progress.say("loading 100 000 routes");
        load_routes(&node, 100_000)?;
        figures.push(loaded(&node)?);
    }
    Ok(figures)
}

#[derive(Debug, Clone, Copy)]
struct Usage {
    /// Ticks of 10 ms, the agent's and those of its children that have ended.
    ticks: f64,
    rss_mib: f64,
    /// Of that, what is not pages of files: the kernel cannot drop it and read it again.
    own_mib: f64,
    most_mib: f64,
    wakeups: f64,
}

fn usage(node: &Node) -> anyhow::Result<Usage> {
    let script = "p=$(systemctl show -p MainPID --value lifeline-agent); cut -d' ' -f14-17 /proc/$p/stat; \
                  grep -E '^(VmRSS|VmHWM|RssAnon|voluntary)' /proc/$p/status | grep -oE '[0-9]+'; \
                  cat /proc/$p/task/*/status | grep ^voluntary | awk '{s+=$2} END {print s}'";
    let said = node.sh(script)?.success()?.stdout;
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let [user, system, children, theirs, most, now, own, _main, wakeups] = numbers.as_slice()
    else {
        return Err(anyhow!("read what the agent uses: {said}"));
    };
    Ok(Usage {
        ticks: user + system + children + theirs,
        rss_mib: now / 1_024.0,
        own_mib: own / 1_024.0,
        most_mib: most / 1_024.0,
        wakeups: *wakeups,
    })
}

fn idle(node: &Node, linked: &str) -> anyhow::Result<Vec<Figure>> {
    let before = usage(node)?;
    thread::sleep(IDLE);
    let after = usage(node)?;
    let percent = (after.ticks - before.ticks) / IDLE.as_secs_f64();
    let wakeups = (after.wakeups - before.wakeups) / IDLE.as_secs_f64();
    let said = node.sh("stat -c %s $(command -v lifeline-agent)")?.success()?.stdout;
    let size = said.trim().parse::<u32>().context("look at the agent's binary")?;
    let megabytes = f64::from(size) / 1e6;
    let row = |what: &str, target, most, unit, value, note: &str| {
        let figure = Figure {
            id: "T9",
            what: what.to_owned(),
            target,
            met: None,
            ours: Series::new("the agent", unit, vec![value]),
            baseline: None,
            note: note.to_owned(),
        };
        figure.within(&[Limit(0.5, most)])
    };
    let memory = "memory of a healthy node's agent";
    let processor = "CPU over a minute of a healthy node, children included";
    let ticks = "guard and look come each 5 s or more; a look waits for the API server, D-Bus and the kernel, each of which wakes it";
    let pages = format!(
        "{:.1} MiB of it is its own; the rest is pages of the program, which the kernel takes back when it needs them",
        after.own_mib
    );
    let looks = "a full look each 5 s: TLS to the API server, D-Bus, every process";
    Ok(vec![
        row("binary", "≤ 7 MB", 7.0, "MB", megabytes, linked),
        row(memory, "≤ 8 MiB", 8.0, "MiB", after.rss_mib, &pages),
        row(processor, "≤ 0.1 %", 0.1, "%", percent, looks),
        row(
            "wake-ups of a healthy node's agent",
            "none beyond its tick",
            2.0,
            "per second",
            wakeups,
            ticks,
        ),
    ])
}

/// Puts the program that operators install in the place of the lab's own build, if it has been made of the same sources, and says
/// what is measured. The lab goes when the figures have been taken, and the program with it.
fn install_released(node: &Node, progress: &Progress) -> anyhow::Result<&'static str> {
    const OWN: &str = "linked to the C library; `cargo lab release` builds the static one";
    let dist = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/dist"));
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let program = dist.join(target).join("lifeline-agent");
    let Ok(bytes) = fs::read(&program) else { return Ok(OWN) };
    let place = "/usr/local/bin/lifeline-agent";
    // "lifeline-agent 0.1.0 (1a50a251f6b4, 2026-11-29, x86_64-unknown-linux-musl)"
    let sources = |said: String| said.split_inclusive(',').take(2).collect::<String>();
    let theirs = run::run(Command::new(&program).arg("--version"), run::LIMIT, None)?.success()?;
    let own = node.exec(&[place, "--version"])?.success()?;
    if sources(theirs.stdout) != sources(own.stdout) {
        progress.say("the static program in target/dist is of other sources, and not measured");
        return Ok(OWN);
    }
    node.sh(&format!("systemctl stop lifeline-agent && rm {place}"))?.success()?;
    node.write(place, bytes)?;
    node.sh(&format!("chmod 755 {place} && systemctl start lifeline-agent"))?.success()?;
    Ok("static, as `cargo lab release` has built it")
}

fn loaded(node: &Node) -> anyhow::Result<Figure> {
    node.sh("systemctl restart lifeline-agent")?.success()?;
    // Three looks of its own, at this load a second or two each.
    thread::sleep(Duration::from_secs(40));
    let most = usage(node)?.most_mib;
    let figure = Figure {
        id: "T9",
        what: "most memory with 100 000 routes and 20 000 netfilter rules".to_owned(),
        target: "≤ 48 MiB",
        met: None,
        ours: Series::new("the agent", "MiB", vec![most]),
        baseline: None,
        note: "the list of routes is held once while nothing in it changes; when something does, the next look holds one more, which is not measured here".to_owned(),
    };
    Ok(figure.within(&[Limit(0.5, 48.0)]))
}

#[derive(Debug, Deserialize)]
struct Looked {
    milliseconds: Vec<f64>,
    max_rss_kib: f64,
    children_max_rss_kib: f64,
}

fn looked(node: &Node, how: &str, times: u32) -> anyhow::Result<Looked> {
    let script = format!("lifeline-agent look {how} --times {times}");
    let out = node.exec_within(&["sh", "-c", &script], LIMIT)?.success()?;
    serde_json::from_str(&out.stdout).with_context(|| format!("understand {}", out.stdout))
}

fn looks(node: &Node, runs: u32) -> anyhow::Result<Vec<Figure>> {
    let quick = looked(node, "--quick", runs)?;
    let full = looked(node, "", runs)?;
    // The first look of a process reads every rule; later ones only when the kernel says that some have changed.
    let mut first = Vec::new();
    for _ in 0..runs.min(20) {
        first.extend(looked(node, "", 1)?.milliseconds);
    }
    let ip = timed(node, "ip rule; ip -6 rule; ip route show table all", runs)?;
    let save = timed(node, "iptables-nft-save; ip route show table all", runs)?;
    let nft = timed(node, "nft -j list ruleset; ip route show table all", runs)?;
    let median = |ms: &[f64]| Series::new("", "ms", ms.to_vec()).median().unwrap_or(f64::MAX);
    let fastest = median(&save).min(median(&nft));
    let memory = (full.max_rss_kib + full.children_max_rss_kib) / 1_024.0;
    let row = |what: &str, target, ours, baseline| Figure {
        id: "T10",
        what: what.to_owned(),
        target,
        met: None,
        ours,
        baseline,
        note: String::new(),
    };
    let by_tools = Series::new("ip rule and ip route", "ms", ip);
    let quick = Series::new("quick look", "ms", quick.milliseconds);
    let quick = row("the guard's look, 10 000 routes", "≤ 20 ms", quick, Some(by_tools));
    let mut figures = vec![quick.within(&[Limit(0.5, 20.0)])];
    let first_what = "a first full look, which reads 20 000 netfilter rules";
    let later_what =
        "a full look while none of 20 000 netfilter rules has changed, a first one among them";
    let save = Series::new("iptables-nft-save and ip route", "ms", save);
    let nft = Series::new("nft -j list ruleset and ip route", "ms", nft);
    for (what, samples, by) in [
        (first_what, &first, &save),
        (first_what, &first, &nft),
        (later_what, &full.milliseconds, &save),
    ] {
        let ours = Series::new("full look", "ms", samples.clone());
        let mut figure = row(what, "≤ the fastest of the tools", ours, Some(by.clone()));
        figure.note = "a full look also asks the API server, D-Bus and every process; the tools read all each time".to_owned();
        figures.push(figure.within(&[Limit(0.5, fastest)]));
    }
    let ours = Series::new("full look", "MiB", vec![memory]);
    let figure = row("memory of a full look and its largest child", "≤ 64 MiB", ours, None);
    figures.push(figure.within(&[Limit(0.5, 64.0)]));
    Ok(figures)
}

/// How long a line of shell takes on the node, each time.
fn timed(node: &Node, line: &str, times: u32) -> anyhow::Result<Vec<f64>> {
    let script = format!(
        "for i in $(seq {times}); do s=$(date +%s%N); ( {line} ) >/dev/null 2>&1; e=$(date +%s%N); echo $(((e-s)/1000)); done"
    );
    let out = node.exec_within(&["sh", "-c", &script], LIMIT)?.success()?;
    Ok(out
        .stdout
        .split_whitespace()
        .filter_map(|w| w.parse::<f64>().ok())
        .map(|us| us / 1_000.0)
        .collect())
}

/// kube-proxy's chains for five thousand services of two endpoints: four rules each.
fn load_rules(node: &Node) -> anyhow::Result<()> {
    let mut text = String::from("*nat\n:KUBE-BENCH - [0:0]\n");
    for n in 0..SERVICES {
        writeln!(text, ":KUBE-SVC-{n:016} - [0:0]")?;
    }
    for n in 0..SERVICES {
        let vip = format!("10.43.{}.{}/32", 128 + n / 250, n % 250);
        let chain = format!("KUBE-SVC-{n:016}");
        writeln!(
            text,
            "-A KUBE-BENCH -d {vip} -p tcp -m comment --comment \"ns/svc-{n} cluster IP\" -m tcp --dport 80 -j {chain}"
        )?;
        writeln!(
            text,
            "-A {chain} ! -s 10.42.0.0/16 -d {vip} -p tcp -m comment --comment \"ns/svc-{n} cluster IP\" -m tcp --dport 80 -j MARK --set-xmark 0x4000/0x4000"
        )?;
        writeln!(
            text,
            "-A {chain} -m comment --comment \"ns/svc-{n} -> 10.42.1.9:8080\" -m statistic --mode random --probability 0.50000000000 -j ACCEPT"
        )?;
        writeln!(
            text,
            "-A {chain} -p tcp -m comment --comment \"ns/svc-{n} -> 10.42.2.9:8080\" -j ACCEPT"
        )?;
    }
    text += "COMMIT\n";
    node.write("/run/bench.rules", text)?;
    let load = "iptables-nft-restore --noflush < /run/bench.rules";
    node.exec_within(&["sh", "-c", load], LIMIT)?.success().context("load the rules")?;
    Ok(())
}

/// Routes of a documentation range, over the node's own uplink.
fn load_routes(node: &Node, count: u32) -> anyhow::Result<()> {
    let mut text = String::new();
    for n in 0..count {
        writeln!(
            text,
            "route replace 198.{}.{}.{}/32 dev lo table 700",
            18 + n / 65_536,
            n / 256 % 256,
            n % 256
        )?;
    }
    node.write("/run/bench.routes", text)?;
    node.exec_within(&["ip", "-batch", "/run/bench.routes"], LIMIT)?
        .success()
        .context("load the routes")?;
    Ok(())
}

/// Tailscale's chains taken away by an operator's heal, by one transaction of the tool, and by the tool rule by rule.
fn clean(lab: &Lab, ground: &Ground<'_>, node: &Node, runs: u32) -> anyhow::Result<Figure> {
    let fault = faults::find("R3")?;
    let (mut ours, mut restore, mut single) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        (fault.strike)(&Site::of(lab, NODE)?)?;
        let known = entries(node)?.len();
        let out = lab.ctl(&["heal", NODE, "--yes", "--stability", "1s"])?;
        anyhow::ensure!(out.ok(), "ctl heal: {}{}", out.stdout, out.stderr);
        let all = entries(node)?;
        ours.push(netfilter_ms(all.get(known..).unwrap_or_default())?);
        (fault.restore)(&Site::of(lab, NODE)?)?;
        ground.settled(Duration::from_secs(40)).map_err(|why| anyhow!(why))?;
        let make = "iptables-nft -w -t nat -N ts-postrouting; iptables-nft -w -t nat -I POSTROUTING -j ts-postrouting";
        node.sh(make)?.success()?;
        restore.extend(timed(node, "printf '*nat\\n-D POSTROUTING -j ts-postrouting\\n-X ts-postrouting\\nCOMMIT\\n' | iptables-nft-restore -w --noflush", 1)?);
        node.sh(make)?.success()?;
        single.extend(timed(node, "iptables-nft -w -t nat -D POSTROUTING -j ts-postrouting; iptables-nft -w -t nat -X ts-postrouting", 1)?);
    }
    Ok(surgical(ours, restore, &single, String::new()))
}

/// T11's row.
fn surgical(ours: Vec<f64>, restore: Vec<f64>, single: &[f64], why: String) -> Figure {
    let median = |ms: &[f64]| Series::new("", "ms", ms.to_vec()).median();
    let most = 1.5 * median(&restore).unwrap_or(f64::MAX);
    let one_by_one = median(single).map(|ms| format!("`iptables -D` one by one: {ms:.0} ms"));
    let figure = Figure {
        id: "T11",
        what: "surgical clean of one table among 20 000 rules, with its journal entry and a second look".to_owned(),
        target: "≤ 1.5 × one iptables-restore --noflush",
        met: None,
        ours: Series::new("clean", "ms", ours),
        note: one_by_one.unwrap_or(why),
        baseline: Some(Series::new("iptables-nft-restore --noflush", "ms", restore)),
    };
    figure.within(&[Limit(0.5, most)])
}

/// Every journal line there is, oldest run first.
fn entries(node: &Node) -> anyhow::Result<Vec<String>> {
    let script =
        "ls -tr /var/lib/lifeline/journal/*.jsonl 2>/dev/null | xargs -r cat | tr -d '\\000'";
    Ok(node.sh(script)?.success()?.stdout.lines().map(ToOwned::to_owned).collect())
}

/// How long the longest act on a netfilter table took, from its intent to its end in the journal: that of the loaded table.
fn netfilter_ms(lines: &[String]) -> anyhow::Result<f64> {
    let entries: Vec<Value> = lines
        .iter()
        .filter_map(|l| l.split_once(' '))
        .filter_map(|(_, json)| serde_json::from_str(json).ok())
        .collect();
    let ended = |step: &Value| {
        entries.iter().find(|e| e["event"]["event"] == "ended" && e["event"]["step"] == *step)
    };
    entries
        .iter()
        .filter(|e| e["event"]["before"]["seen"] == "netfilter")
        .filter_map(|began| {
            let end = ended(&began["event"]["step"])?;
            Some(end["stamp"]["ms"].as_f64()? - began["stamp"]["ms"].as_f64()?)
        })
        .reduce(f64::max)
        .context("find an act on netfilter in the journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_act_on_netfilter_is_found_in_the_journal() {
        let line =
            |ms, event: &str| format!("0a1b2c3d {{\"stamp\":{{\"ms\":{ms}}},\"event\":{event}}}");
        let began = |step, seen| {
            format!("{{\"event\":\"began\",\"step\":{step},\"before\":{{\"seen\":\"{seen}\"}}}}")
        };
        let ended = |step| format!("{{\"event\":\"ended\",\"step\":{step}}}");
        let lines = [
            line(10, &began(0, "rules")),
            line(500, &ended(0)),
            line(510, &began(1, "netfilter")),
            line(530, &ended(1)),
            line(540, &began(2, "netfilter")),
            line(590, &ended(2)),
        ];
        assert_eq!(netfilter_ms(&lines).ok(), Some(50.0));
        assert!(netfilter_ms(&lines[..2]).is_err());
    }
}
