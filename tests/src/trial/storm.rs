//! What others throw at the agent on purpose or by accident: routes in thousands, idle and garbled connections, a hostile pod. Asserted
//! with ip, /proc, systemctl and the operator's command.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::alone::own_incidents;
use super::ground::{NODE, told};
use super::routing::{ANSWERS, within};
use super::upstream::in_mode;
use super::{Case, Ground, Verdict};
use crate::{names, space};

pub const CASES: &[Case] = &[
    Case {
        name: "A5_among_twenty_thousand_routes_that_come_and_go_a_capture_is_noticed",
        run: churn,
    },
    Case { name: "A7_idle_and_garbled_connections_in_thousands_hold_no_operator_up", run: crowd },
    Case {
        name: "A10_a_hostile_pod_holds_no_incident_open_and_nothing_of_it_is_run_followed_or_killed",
        run: hostile,
    },
];

/// The most that the agent has held in memory at once, in kilobytes, since it was started.
const PEAK: &str = "sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/$(systemctl show -p MainPID --value lifeline-agent)/status";
/// Of a build with debug information; a dump of so many routes is a few megabytes.
const MOST_KB: u64 = 200_000;

fn number(g: &Ground<'_>, script: &str) -> std::result::Result<u64, String> {
    let said = g.sh(script)?;
    said.trim().parse().map_err(|e| format!("{script}: {e}: {said:?}"))
}

fn bounded(g: &Ground<'_>) -> Verdict {
    match number(g, PEAK)? {
        kb if kb <= MOST_KB => Ok(()),
        kb => Err(format!("the agent held {kb} kB")),
    }
}

fn looks(g: &Ground<'_>) -> std::result::Result<u64, String> {
    number(
        g,
        "curl -sS -m 5 --unix-socket /run/lifeline/metrics.sock http://localhost/metrics | sed -n 's/^lifeline_looks_total \\([0-9]*\\).*/\\1/p'",
    )
}

/// Rules of the guard stand, and the API server answers by them.
fn guarded(g: &Ground<'_>, limit: Duration) -> Verdict {
    within(limit, || match g.expect_no_guard() {
        Ok(()) => Err("no guard is raised".to_owned()),
        Err(_) => g.sh(ANSWERS).map(drop),
    })
}

/// Somebody's routing daemon loads a full table and drops it again, over and over.
fn churn(g: &Ground<'_>) -> Verdict {
    const LAY: &str = "ip link add lab-bgp type dummy && ip link set lab-bgp up; for v in add del; do \
        seq 0 19999 | awk -v v=$v '{printf \"route %s 10.%d.%d.%d/32 dev lab-bgp table 4242\\n\", v, 100 + $1 / 65536, $1 / 256 % 256, $1 % 256}' > /run/lab-$v; done; \
        systemd-run -q --collect --unit=lab-churn sh -c 'while :; do ip -batch /run/lab-add; ip -batch /run/lab-del; done'";
    let before = g.snapshot()?;
    let seen = in_mode(g, "guard", || {
        g.sh(LAY)?;
        thread::sleep(Duration::from_secs(2));
        let (begun, looked) = (Instant::now(), looks(g)?);
        g.make("R10")?;
        guarded(g, Duration::from_secs(20))
            .map_err(|why| format!("the capture is not met: {why}"))?;
        g.sh("systemctl is-active lab-churn")?;
        thread::sleep(Duration::from_secs(5).saturating_sub(begun.elapsed()));
        // A look for each burst, not one for each route.
        let (took, looked) = (begun.elapsed().as_secs(), looks(g)? - looked);
        if looked > 2 * took + 4 {
            return Err(format!("{looked} looks in {took} s"));
        }
        bounded(g)
    });
    g.leave();
    g.sh("systemctl stop lab-churn; ip link del lab-bgp; rm -f /run/lab-add /run/lab-del")?;
    seen?;
    within(Duration::from_secs(40), || g.expect_no_guard())?;
    g.expect_same(&before)
}

/// How one of the crowd behaves once it is connected.
#[derive(Clone, Copy)]
enum Manner {
    /// Says nothing.
    Idle,
    /// Says what no TLS client says.
    Garbage,
    /// Says a letter of a long greeting now and then.
    Slow,
}

/// Connects again and again, and holds on to the last few hundred; gives how often it was let in.
fn press(door: SocketAddr, manner: Manner, pace: Duration, over: &AtomicBool, count: &AtomicUsize) {
    let mut held: std::collections::VecDeque<TcpStream> = std::collections::VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect_timeout(&door, Duration::from_millis(500)) {
            count.fetch_add(1, Ordering::Relaxed);
            // A write to who has hung up fails, and that is as good.
            let _written = match manner {
                Manner::Idle => Ok(()),
                Manner::Garbage => stream.write_all(&[0xa5; 300]),
                Manner::Slow => stream.write_all(&[0x16, 0x03, 0x01]),
            };
            held.push_back(stream);
        }
        if matches!(manner, Manner::Slow) {
            held.iter_mut().for_each(|s| drop(s.write_all(&[0x02])));
        }
        while held.len() > 150 {
            held.pop_front();
        }
        thread::sleep(pace);
    }
}

fn crowd(g: &Ground<'_>) -> Verdict {
    let door = SocketAddr::from(([192, 168, 2, 80], 7443));
    let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut crowds = Vec::new();
    // From the operator's own address as well: nobody can tell him from them before the handshake.
    for (place, pace) in [("laptop", 50), ("lan", 3)] {
        let pace = Duration::from_millis(pace);
        for manner in [Manner::Idle, Manner::Garbage, Manner::Slow] {
            let (over, count) = (Arc::clone(&over), Arc::clone(&count));
            crowds.push(thread::spawn(move || {
                space::within(&names::namespace(place), move || {
                    press(door, manner, pace, &over, &count);
                    Ok(())
                })
            }));
        }
    }
    let seen = answered(g, &count);
    over.store(true, Ordering::Relaxed);
    for crowd in crowds {
        crowd.join().map_err(|_| "one of the crowd panicked".to_owned())?.map_err(told)?;
    }
    seen?;
    bounded(g)?;
    g.settled(Duration::from_secs(20))
}

/// The operator is answered within a second, time after time, as thousands have come.
fn answered(g: &Ground<'_>, count: &AtomicUsize) -> Verdict {
    const WANTED: usize = 3_000;
    const FILES: &str = "ls /proc/$(systemctl show -p MainPID --value lifeline-agent)/fd | wc -l";
    let until = Instant::now() + Duration::from_secs(40);
    let mut took = Vec::new();
    while count.load(Ordering::Relaxed) < WANTED || took.len() < 10 {
        if Instant::now() > until {
            let came = count.load(Ordering::Relaxed);
            return Err(format!("only {came} connections were let in: it proves nothing"));
        }
        let asked = Instant::now();
        let out = g.ctl(&["status", NODE])?;
        if !out.ok() {
            return Err(format!("the operator is not answered: {}{}", out.stdout, out.stderr));
        }
        took.push(asked.elapsed());
        thread::sleep(Duration::from_millis(200));
    }
    let files = number(g, FILES)?;
    if files > 300 {
        return Err(format!("the agent holds {files} files open"));
    }
    in_a_second(took)
}

/// Asks so many times; each time the operator is answered.
pub(super) fn prompt(g: &Ground<'_>, times: usize) -> Verdict {
    let mut took = Vec::new();
    for _ in 0..times {
        let asked = Instant::now();
        let out = g.ctl(&["status", NODE])?;
        if !out.ok() {
            return Err(format!("the operator is not answered: {}{}", out.stdout, out.stderr));
        }
        took.push(asked.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    in_a_second(took)
}

/// The program's own start is in it, on a machine that has others to serve.
fn in_a_second(mut took: Vec<Duration>) -> Verdict {
    took.sort();
    let (middle, longest) = (took[took.len() / 2], took[took.len() - 1]);
    if middle > Duration::from_secs(1) || longest > Duration::from_secs(4) {
        return Err(format!("it takes {middle:?}, and {longest:?} at the most"));
    }
    Ok(())
}

const POD: &str = "cri-containerd-5e0a9c7b3d1f4826ab4d.service";
const SLICE: &str = "kubepods-besteffort-pod6a3d8f10_4c2b_4e9d_8b7a_2f5e1d0c9b8a.slice";
const ROOT: &str =
    "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/5e0a9c7b3d1f4826ab4d/rootfs";

/// A pod with the node's network and the right to change it. Its program is called `tailscaled`; a `tailscale` lies where one would look for
/// it; what looks like its socket is a link that leads out of its root, to a socket of the node's. It captures: by a rule and a table of
/// its own for four seconds, and then by a blackhole in `main`, which the agent is to take away, and which is counted. From then on it
/// adds and removes a rule that could capture, ten times a second.
fn settle_in(g: &Ground<'_>) -> Verdict {
    let flap = "ip route add unreachable default table 4343; ip rule add pref 5209 lookup 4343; sleep 4; \
        ip rule del pref 5209 lookup 4343; ip route flush table 4343; \
        ip route add blackhole 203.0.113.10; while ip route show | grep -q ^blackhole; do sleep 0.2; done; \
        while :; do ip rule add pref 5209 lookup 4343; sleep 0.1; ip rule del pref 5209 lookup 4343; done";
    g.sh(&format!(
        "set -e; mkdir -p {ROOT}/usr {ROOT}/opt {ROOT}/run/tailscale {ROOT}/var {ROOT}/tmp; ln -sfn ../run {ROOT}/var/run; \
         for l in bin sbin lib lib64; do ln -sfn usr/$l {ROOT}/$l; done; cp /bin/sh {ROOT}/opt/tailscaled; \
         printf '#!/bin/sh\\ntouch /tmp/was-run /run/lab-was-run\\n' > {ROOT}/opt/tailscale; chmod +x {ROOT}/opt/tailscale; \
         printf '%s\\n' '{flap}' > {ROOT}/opt/flap; \
         ln -sfn /run/lab-trap.sock {ROOT}/run/tailscale/tailscaled.sock; \
         systemd-run -q --collect --unit=lab-trap --socket-property=ListenStream=/run/lab-trap.sock touch /run/lab-was-followed; \
         systemd-run -q --collect --unit={POD} --slice={SLICE} -p RootDirectory={ROOT} -p MountAPIVFS=yes -p BindReadOnlyPaths=/usr -p KillSignal=SIGKILL \
         /usr/bin/unshare --mount --pid --fork --mount-proc /opt/tailscaled /opt/flap"
    ))?;
    // What it struck in main is met, and only then does it flap.
    within(Duration::from_secs(40), || {
        g.sh("ip rule | grep -q 'lookup 4343' && ! ip route show table 4343 2>/dev/null | grep -q unreachable && ! ip route | grep -q ^blackhole && \
              test -s /var/lib/lifeline/budget/attempts.json")
            .map(drop)
            .map_err(|why| format!("the pod's blackhole is not met: {why}"))
    })
}

const PIDS: &str = "cat /sys/fs/cgroup/kubepods.slice/*/*/cri-containerd-5e0a9c7b3d1f4826ab4d.service/cgroup.procs 2>/dev/null || pgrep -f /opt/flap";

fn hostile(g: &Ground<'_>) -> Verdict {
    g.sh("rm -f /var/lib/lifeline/budget/attempts.json /run/lab-was-run /run/lab-was-followed")?;
    let before = g.snapshot()?;
    let seen = in_mode(g, "heal", || {
        settle_in(g)?;
        // Long enough for whatever counts attempts to be spent.
        thread::sleep(Duration::from_secs(5));
        let was = g.sh(&format!("systemctl show -P InvocationID {POD}; {PIDS}"))?;
        g.make("R1")?;
        is_met(g)?;
        ends(g)?;
        let now = g.sh(&format!("systemctl show -P InvocationID {POD}; {PIDS}"))?;
        if now.lines().take(3).ne(was.lines().take(3)) {
            return Err(format!("the pod was touched:\n{was}\n{now}"));
        }
        let left = g.sh(&format!("ls -d /run/lab-was-* {ROOT}/tmp/was-run 2>/dev/null || true"))?;
        let link = g.sh(&format!("readlink {ROOT}/run/tailscale/tailscaled.sock"))?;
        if left.trim().is_empty() && link.trim() == "/run/lab-trap.sock" {
            return Ok(());
        }
        Err(format!("something of the pod's was run or followed: {left} {link}"))
    });
    g.leave();
    g.sh(&format!(
        "systemctl stop {POD} lab-trap.socket lab-trap.service; ip rule del pref 5209 lookup 4343; rm -rf {ROOT} /run/lab-trap.sock /run/lab-was-*; true"
    ))?;
    seen?;
    within(Duration::from_secs(40), || g.expect_no_guard())?;
    g.expect_same(&before)
}

/// While the pod goes on the agent's own incident ends.
fn ends(g: &Ground<'_>) -> Verdict {
    within(Duration::from_secs(90), || match own_incidents(g)?.first() {
        Some((_, ending)) if ending == "recovered" => Ok(()),
        newest => Err(format!("the agent's own incident does not end recovered: {newest:?}")),
    })?;
    // The operator is not kept waiting: nothing is under way, and of what still stands he is told the truth (exit code 5). It is a captor that
    // is known, and not trusted for ten minutes.
    let healed = g.heal()?;
    let said = format!("{}{}", healed.stdout, healed.stderr);
    let told = healed.code == Some(5) && said.contains("is Healthy, and our guard still stands");
    if !healed.ok() && !told {
        return Err(format!("ctl heal ended with {:?} beside the pod: {said}", healed.code));
    }
    within(Duration::from_secs(2), || {
        g.sh("ip rule | grep -q 'lookup 4343'")
            .map(drop)
            .map_err(|why| format!("the pod has given up: {why}"))
    })
}

/// The real daemon's capture is guarded against at once, and what it made goes.
fn is_met(g: &Ground<'_>) -> Verdict {
    guarded(g, Duration::from_secs(10))?;
    within(Duration::from_secs(60), || {
        g.sh("! ip link show tailscale0 2>/dev/null && ! ip rule | grep -q 'lookup 52'")
            .map(drop)
            .map_err(|why| format!("the real capture is not healed: {why}"))
    })?;
    g.sh(ANSWERS).map(drop)
}
