//! What never answers: a unit that does not stop, a systemd and a journald that stand still, a tool that hangs in the act, a container
//! runtime that takes calls and is silent, a disk that freezes in the middle of a heal. Each is given up in time and said in the agent's
//! own words, the rest goes on, and the node ends well. Asserted with systemctl, curl, ip and the clock.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::ground::told;
use super::refusal::{gap_names, hidden};
use super::routing::within;
use super::trouble::{API, NOTICE, STATE, guarded, on_a_disk, relieved, says};
use super::{Case, Ground, NODE, Verdict};
use crate::faults;
use crate::names;
use crate::run::{self, Output};

pub const CASES: &[Case] = &[
    Case { name: "A3_a_unit_whose_stop_never_ends_is_given_up_and_said", run: stop_hangs },
    Case {
        name: "A3_while_systemd_stands_still_the_agent_diagnoses_and_heals_routing",
        run: systemd_stands_still,
    },
    Case {
        name: "A3_while_journald_stands_still_the_agent_guards_and_heals",
        run: journald_stands_still,
    },
    Case { name: "A4_a_tool_that_hangs_in_the_act_is_ended_and_named", run: writer_hangs },
    Case {
        name: "A4_a_container_runtime_that_never_answers_is_given_up_and_named",
        run: runtime_is_silent,
    },
    Case {
        name: "A2_a_disk_that_freezes_in_the_middle_of_a_heal_is_said_and_the_guard_holds",
        run: disk_freezes,
    },
];

const INVOCATION: &str = "systemctl show -p InvocationID --value k3s-agent";
/// By kube-proxy's rules.
const SERVICE: &str = "curl -sk -m 3 -o /dev/null https://10.43.0.1:443/readyz";
/// Less than the operator's command is given, which must end by itself.
const BOUND: Duration = Duration::from_secs(115);

/// Heals; it must end by itself within the time and say these words, whatever else came of it. Returns what it said.
fn said_in_time(g: &Ground<'_>, words: &[&str]) -> std::result::Result<Output, String> {
    let begun = Instant::now();
    let out = g.heal()?;
    let took = begun.elapsed();
    let said = format!("{}{}", out.stdout, out.stderr);
    if out.timed_out || took > BOUND {
        return Err(format!("it took {} s: {said}", took.as_secs()));
    }
    match words.iter().find(|w| !said.contains(**w)) {
        None => Ok(out),
        Some(word) => Err(format!("{word:?} is missing after {} s in: {said}", took.as_secs())),
    }
}

/// It ended, and claims no success.
fn fails_saying(g: &Ground<'_>, words: &[&str]) -> Verdict {
    let out = said_in_time(g, words)?;
    if out.ok() { Err(format!("it claims to have healed: {}", out.stdout)) } else { Ok(()) }
}

/// Services' rules are gone, which a new start of k3s-agent brings back, and its stop waits for ever. When that ends systemd does what it
/// was told.
fn stop_hangs(g: &Ground<'_>) -> Verdict {
    const DROP_IN: &str = "/run/systemd/system/k3s-agent.service.d";
    g.sh(SERVICE).map_err(|why| format!("before: {why}"))?;
    let (before, was) = (g.snapshot()?, g.sh(INVOCATION)?);
    g.sh(&format!(
        "mkdir -p {DROP_IN}; printf '[Service]\\nExecStop=/bin/sleep infinity\\nTimeoutStopSec=infinity\\n' > {DROP_IN}/lab.conf; systemctl daemon-reload"
    ))?;
    let seen = (|| {
        g.make("N8")?;
        g.expect_verdict("Lost")?;
        // kube-proxy, which still runs, may write its rules anew meanwhile: then the node is well, and what failed is said all the same.
        said_in_time(g, &["not started anew within 30s, it is deactivating"])?;
        // The agent is not held up by what systemd is held up by.
        let state = g.sh("systemctl show -p ActiveState --value k3s-agent")?;
        if state.trim() != "deactivating" {
            return Err(format!("its stop has ended: it is {}", state.trim()));
        }
        g.verdict().map(drop)
    })();
    g.sh(&format!(
        "rm -rf {DROP_IN}; systemctl kill --kill-whom=control -s KILL k3s-agent; systemctl daemon-reload"
    ))?;
    seen?;
    within(Duration::from_secs(30), || {
        g.sh(SERVICE).map(drop).map_err(|why| format!("services are not back: {why}"))
    })?;
    if g.sh(INVOCATION)? == was {
        return Err("k3s-agent was not started anew".to_owned());
    }
    g.leave();
    g.settled(Duration::from_secs(60))?;
    g.expect_same(&before)
}

/// As one that has crashed does: it freezes, and reaps and answers nobody any more.
fn systemd_stands_still(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    let pid = g.node()?.leader().to_string();
    let signal = |name: &str| {
        run::host("kill", &["-s", name, &pid]).and_then(Output::success).map(drop).map_err(told)
    };
    signal("STOP")?;
    let seen = (|| {
        gap_names(g, "systemd over D-Bus: no answer within")?;
        g.make("R11")?;
        g.heal_well()
    })();
    signal("CONT")?;
    seen?;
    g.settled(Duration::from_secs(40))?;
    g.expect_same(&before)
}

/// Its queue is full, as it is after a while on a disk that hangs.
fn journald_stands_still(g: &Ground<'_>) -> Verdict {
    const STOP: &str = "systemctl kill -s STOP systemd-journald; for i in $(seq 600); do \
        printf 'MESSAGE=lab\\n' | timeout 3 logger --journald >/dev/null 2>&1 & done; wait; \
        ! printf 'MESSAGE=lab\\n' | timeout 1 logger --journald";
    let before = g.snapshot()?;
    let seen = super::upstream::in_mode(g, "guard", || {
        let filled = g.sh_patiently(STOP);
        let seen = filled.map_err(|why| format!("its queue is not full: {why}")).and_then(|()| {
            g.make("R1")?;
            guarded(g)?;
            g.heal_well()?;
            g.expect_no_guard()
        });
        g.sh("systemctl kill -s CONT systemd-journald")?;
        seen
    });
    seen?;
    g.settled(Duration::from_secs(40))?;
    g.expect_same(&before)
}

/// The firewall is read as ever; what would change it never ends.
fn writer_hangs(g: &Ground<'_>) -> Verdict {
    const WRITERS: [&str; 2] =
        ["/usr/sbin/iptables-nft-restore", "/usr/sbin/ip6tables-nft-restore"];
    let before = g.snapshot()?;
    g.sh(&faults::remnants("nft"))?;
    let each = |what: &dyn Fn(&str) -> String| WRITERS.iter().map(|w| what(w)).collect::<String>();
    let hide = each(&|w| {
        format!(
            "mv {w} {w}.hidden; printf '#!/bin/sh\\nexec sleep 98765\\n' > {w}; chmod 755 {w}; "
        )
    });
    let show = each(&|w| format!("mv -f {w}.hidden {w}; "));
    hidden(g, &hide, &format!("{show}pkill -f 'slee[p] 98765' || true"), || {
        fails_saying(g, &["iptables-nft-restore", "not done within 15s, killed"])?;
        let left = g.sh("pgrep -f 'slee[p] 98765' || true")?;
        if left.trim().is_empty() {
            return Ok(());
        }
        Err(format!("what was given up still runs: {left}"))
    })?;
    g.settled(Duration::from_secs(20))?;
    g.heal_well()?;
    g.expect_same(&before)
}

/// A pod holds a host port whose rules only a new sandbox brings back; the runtime's socket takes calls, and nobody answers them.
fn runtime_is_silent(g: &Ground<'_>) -> Verdict {
    const SANDBOX: &str = "949ddc9407b6cf3b2a0dd79e3e42fd8dfb35daae254ccd2b14c5ced130debe53";
    const SOCKET: &str = "/run/k3s/containerd/containerd.sock";
    let file = format!("/var/lib/cni/results/cbr0-{SANDBOX}-eth0");
    let record = format!(
        "{{\"kind\":\"cniCacheV1\",\"containerId\":\"{SANDBOX}\",\"ifName\":\"eth0\",\"networkName\":\"cbr0\",\
         \"cniArgs\":[[\"K8S_POD_NAMESPACE\",\"apps\"],[\"K8S_POD_NAME\",\"web-0\"]],\
         \"capabilityArgs\":{{\"portMappings\":[{{\"hostPort\":8088,\"containerPort\":8080,\"protocol\":\"tcp\"}}]}}}}"
    );
    let before = g.snapshot()?;
    let lay = format!(
        "mkdir -p /var/lib/cni/results /run/k3s/containerd; printf '%s' '{record}' > {file}; \
         systemd-run -q --collect --unit=lab-cri --socket-property=ListenStream={SOCKET} sleep infinity"
    );
    let clear = format!(
        "systemctl stop lab-cri.socket lab-cri.service; rm -f {SOCKET} {file}; rmdir /var/lib/cni/results; true"
    );
    hidden(g, &lay, &clear, || {
        g.make("N8")?;
        let shown = g.ctl_json(&["plan", NODE, "-o", "json"])?.to_string();
        if !shown.contains("web-0") {
            return Err(format!("the pod is not named before its sandbox is stopped: {shown}"));
        }
        said_in_time(g, &["ask for sandbox", "no answer within 3s"])?;
        // What comes before it in the plan is done all the same.
        within(Duration::from_secs(30), || {
            g.sh(SERVICE).map(drop).map_err(|why| format!("services are not back: {why}"))
        })
    })?;
    g.leave();
    g.settled(Duration::from_secs(60))?;
    g.expect_same(&before)
}

/// A file system of its own in an image of its own, attached by the machine that the lab runs on: a node has no loop devices.
fn disk_freezes(g: &Ground<'_>) -> Verdict {
    let before = g.snapshot()?;
    let image = names::state_dir().join("frozen.img").display().to_string();
    let host = |argv: &[&str]| {
        run::host(argv[0], &argv[1..]).and_then(Output::success).map(|o| o.stdout).map_err(told)
    };
    host(&["truncate", "-s", "64M", &image])?;
    host(&["mkfs.ext4", "-q", "-F", &image])?;
    let device = host(&["losetup", "--find", "--show", &image])?.trim().to_owned();
    let number = device.trim_start_matches("/dev/loop");
    let mount = format!(
        "rm -f /dev/lab-loop; mknod /dev/lab-loop b 7 {number}; mount -t ext4 /dev/lab-loop {STATE}"
    );
    // Let go of while it is mounted, it goes with the last mount of it.
    let detach = || host(&["losetup", "-d", &device]).map(drop);
    let mut mounted = false;
    let seen = on_a_disk(g, &mount, || {
        mounted = true;
        detach()?;
        frozen(g)
    });
    let detached = if mounted { Ok(()) } else { detach() };
    g.sh("rm -f /dev/lab-loop")?;
    std::fs::remove_file(&image).map_err(told)?;
    seen.and(detached)?;
    g.expect_same(&before)
}

fn frozen(g: &Ground<'_>) -> Verdict {
    /// It freezes as soon as the heal's first run is on it.
    const FREEZE: &str = "n=$(ls /var/lib/lifeline/journal/*.jsonl 2>/dev/null | wc -l); for i in $(seq 3000); do \
        [ $(ls /var/lib/lifeline/journal/*.jsonl 2>/dev/null | wc -l) -gt $n ] && { fsfreeze -f /var/lib/lifeline; echo frozen; exit; }; sleep 0.01; done";
    const THAW: &str = "fsfreeze -u /var/lib/lifeline || true";
    let was = g.sh(INVOCATION)?;
    g.make("R1")?;
    guarded(g)?;
    let node = g.node()?;
    let freezer =
        thread::spawn(move || node.exec_within(&["sh", "-c", FREEZE], Duration::from_secs(60)));
    thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let mut heal = g
        .lab
        .ctl_command("laptop", &["heal", NODE, "--yes", "--stability", "3s"])
        .map_err(told)?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(told)?;
    let hit = freezer.join().map_err(|_| "the freezer panicked".to_owned())?.map_err(told);
    let seen = (|| {
        if !hit?.stdout.contains("frozen") {
            return Err("no run began: nothing was frozen".to_owned());
        }
        // It is answered at once all the while.
        says(g, "has not answered for 10 s", true, NOTICE)?;
        within(Duration::from_secs(60), || match heal.try_wait().map_err(told)? {
            Some(_) => Ok(()),
            None => Err(format!("heal still waits after {} s", begun.elapsed().as_secs())),
        })?;
        // As far as the heal has come it has come; and whoever captures now meets the guard, which needs no disk.
        g.sh(API).map_err(|why| format!("the API server does not answer: {why}"))?;
        g.leave();
        g.make("R1")?;
        guarded(g)
    })();
    heal.kill().ok();
    let out = heal.wait_with_output().map_err(told)?;
    g.sh(THAW)?;
    seen?;
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if out.status.success() || !said.contains("the disk has not answered for 10 s") {
        return Err(format!("heal ended with {:?}: {said}", out.status.code()));
    }
    if g.sh(INVOCATION)? != was || g.sh("systemctl is-active k3s-agent").is_err() {
        return Err("k3s-agent was touched".to_owned());
    }
    relieved(g)
}
