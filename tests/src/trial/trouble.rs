//! What goes wrong around the agent itself, on a live node: its disk full or read-only; and how it says so: in `ctl`, in metrics,
//! in the journal's catalog. Asserted with ip, curl, stat and journalctl.

use std::thread;
use std::time::{Duration, Instant};

use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};

pub const CASES: &[Case] = &[
    Case { name: "metrics_tell_a_capture_and_its_heal_to_root_and_to_node_exporter", run: metrics },
    Case { name: "the_journals_catalog_explains_the_agents_messages", run: catalog },
    Case { name: "on_a_full_disk_the_agent_guards_and_says_why_it_does_not_repair", run: full },
    Case {
        name: "on_a_read_only_disk_the_agent_guards_and_says_why_it_does_not_repair",
        run: read_only,
    },
];

pub(super) const STATE: &str = "/var/lib/lifeline";
pub(super) const API: &str = "curl -sk -m 2 -o /dev/null https://203.0.113.10:6443/readyz";
/// The agent tries its disk once a minute, and waits ten seconds for it.
pub(super) const NOTICE: Duration = Duration::from_secs(90);
/// The same while the disk is in trouble: every ten seconds.
const RELIEF: Duration = Duration::from_secs(40);

/// Runs a case in mode `guard` with more configuration, and gives the old one back.
fn configured(g: &Ground<'_>, more: &str, case: impl FnOnce() -> Verdict) -> Verdict {
    g.sh(&format!(
        "cp /etc/lifeline/agent.toml /run/agent.toml.kept; sed -i 's/^mode = .*/mode = \"guard\"/' /etc/lifeline/agent.toml; \
         printf '{more}' >> /etc/lifeline/agent.toml; systemctl restart lifeline-agent"
    ))?;
    let done = g.settled(Duration::from_secs(30)).and_then(|()| case());
    g.leave();
    g.sh("cp /run/agent.toml.kept /etc/lifeline/agent.toml; systemctl restart lifeline-agent")?;
    done
}

/// Runs a case with a small file system in the place of the state directory; what was learnt is on it.
pub(super) fn on_a_disk(g: &Ground<'_>, mount: &str, case: impl FnOnce() -> Verdict) -> Verdict {
    let swap = format!(
        "systemctl stop lifeline-agent; cp -a {STATE}/baseline /run/lab-baseline; {mount}; cp -a /run/lab-baseline {STATE}/baseline"
    );
    g.sh(&format!("set -e; {swap}"))?;
    let done = configured(g, "", case);
    g.sh(&format!(
        "systemctl stop lifeline-agent; umount -l {STATE}; rm -rf /run/lab-baseline; \
         systemctl start lifeline-agent"
    ))?;
    done
}

/// Waits until `ctl status` says a word, or says it no more. It always answers at once.
pub(super) fn says(g: &Ground<'_>, word: &str, wanted: bool, limit: Duration) -> Verdict {
    let until = Instant::now() + limit;
    loop {
        let asked = Instant::now();
        let said = g.ctl(&["status", NODE])?;
        let said = format!("{}{}", said.stdout, said.stderr);
        if asked.elapsed() > Duration::from_secs(8) {
            return Err(format!("the answer took {} s: {said}", asked.elapsed().as_secs()));
        }
        if said.contains(word) == wanted {
            return Ok(());
        }
        if Instant::now() > until {
            let what = if wanted { "missing" } else { "said" };
            return Err(format!("after {} s {word:?} is {what}: {said}", limit.as_secs()));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// A capture is met by the guard, and by nothing else, while nothing can be journalled for the reason that is named.
fn only_guarded(g: &Ground<'_>, why: &str) -> Verdict {
    says(g, why, true, NOTICE)?;
    let diagnosed = g.ctl(&["diagnose", NODE])?;
    if !diagnosed.stdout.contains("guard and not repair") {
        return Err(format!("diagnose does not say it: {}", diagnosed.stdout));
    }
    g.make("R1")?;
    guarded(g)?;
    let before = g.snapshot()?;
    let begun = Instant::now();
    let out = g.heal()?;
    let said = format!("{}{}", out.stdout, out.stderr);
    if out.ok() || !said.contains(why) || begun.elapsed() > Duration::from_secs(60) {
        let took = begun.elapsed().as_secs();
        return Err(format!("heal ended with {:?} after {took} s: {said}", out.code));
    }
    g.expect_same(&before)?;
    guarded(g)
}

/// Rules of the guard stand, and the API server answers by them.
pub(super) fn guarded(g: &Ground<'_>) -> Verdict {
    let until = Instant::now() + Duration::from_secs(15);
    while g.expect_no_guard().is_ok() {
        if Instant::now() > until {
            return Err("no guard is raised".to_owned());
        }
        thread::sleep(Duration::from_millis(100));
    }
    g.sh(API).map(drop).map_err(|why| format!("the guard does not hold: {why}"))
}

/// The disk takes what is written again: it is said no more, and the agent repairs.
pub(super) fn relieved(g: &Ground<'_>) -> Verdict {
    says(g, "guard and not repair", false, RELIEF)?;
    g.heal_well()?;
    g.expect_no_guard()
}

const TMPFS: &str = "mount -t tmpfs -o size=2m,mode=700 lab /var/lib/lifeline";

fn full(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    on_a_disk(g, TMPFS, || {
        g.sh(&format!("dd if=/dev/zero of={STATE}/fill bs=4k 2>/dev/null || true"))?;
        only_guarded(g, "No space left on device")?;
        g.sh(&format!("rm {STATE}/fill"))?;
        relieved(g)
    })?;
    g.expect_same(&before)
}

fn read_only(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    on_a_disk(g, TMPFS, || {
        g.sh(&format!(
            "systemctl stop lifeline-agent; mount -o remount,ro {STATE}; systemctl start lifeline-agent"
        ))?;
        only_guarded(g, "Read-only file system")?;
        // Its own mount namespace keeps the mount as it was when it started: an operator restarts it.
        g.sh(&format!("mount -o remount,rw {STATE}; systemctl restart lifeline-agent"))?;
        relieved(g)
    })?;
    g.expect_same(&before)
}

const SCRAPE: &str =
    "curl -sS -m 5 --unix-socket /run/lifeline/metrics.sock http://localhost/metrics";
const FILE: &str = "/var/lib/prometheus/node-exporter/lifeline.prom";

/// Waits until each of these lines is in what the script prints.
fn tells(g: &Ground<'_>, script: &str, lines: &[&str]) -> Verdict {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let page = g.sh(script)?;
        let missing = lines.iter().find(|l| !page.lines().any(|p| p == **l));
        match missing {
            None => return Ok(()),
            Some(line) if Instant::now() > until => return Err(format!("no {line:?} in:\n{page}")),
            Some(_) => thread::sleep(Duration::from_millis(300)),
        }
    }
}

fn metrics(g: &Ground<'_>) -> Verdict {
    g.sh(&format!("mkdir -p $(dirname {FILE})"))?;
    let more = format!("\\n[metrics]\\ntextfile = \"{FILE}\"\\n");
    let seen = configured(g, &more, || {
        let file = format!("cat {FILE}");
        g.make("R1")?;
        let captured = [
            "lifeline_verdict{lifeline_verdict=\"Captured\"} 1",
            "lifeline_fault_present{fault=\"tailscale-capture\"} 1",
            "lifeline_guard_standing 1",
        ];
        tells(g, SCRAPE, &captured)?;
        tells(g, &file, &captured)?;
        g.heal_well()?;
        let healed = [
            "lifeline_verdict{lifeline_verdict=\"Healthy\"} 1",
            "lifeline_incidents_total{ending=\"recovered\"} 1",
            "lifeline_incident_under_way 0",
        ];
        tells(g, SCRAPE, &healed)?;
        tells(g, &file, &healed)?;
        tells(g, SCRAPE, &["# EOF"])?;
        let mode = g.sh(&format!("stat -c %a {FILE} /run/lifeline/metrics.sock"))?;
        if mode.split_whitespace().ne(["644", "600"]) {
            return Err(format!("modes: {mode}"));
        }
        let other = g
            .node()?
            .sh(&format!("setpriv --reuid=65534 --clear-groups {SCRAPE}"))
            .map_err(told)?;
        if other.ok() { Err("somebody who is not root was answered".to_owned()) } else { Ok(()) }
    });
    g.sh(&format!("rm -f {FILE}"))?;
    seen
}

/// As the README has it installed.
fn catalog(g: &Ground<'_>) -> Verdict {
    g.sh("journalctl --update-catalog")?;
    let said = g.sh("journalctl -x -b -u lifeline-agent --no-pager MESSAGE_ID=822bb6dc44b34a95980c246fd747577d | tail -20")?;
    let wanted = ["Subject: The agent is ready", "Defined-By: Lifeline"];
    match wanted.iter().find(|w| !said.contains(**w)) {
        None => Ok(()),
        Some(word) => Err(format!("{word:?} is missing in: {said}")),
    }
}
