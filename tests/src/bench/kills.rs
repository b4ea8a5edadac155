//! T8: SIGKILL of the agent at random moments of heals, several in each; however often, the node ends recovered or as it was.

use std::process::Stdio;
use std::time::Duration;

use anyhow::anyhow;

use super::{Figure, Series, Wanted};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::trial::{Ground, NODE, recovered_or_as_it_was};

/// At most so many in one heal: systemd starts the agent again at once, and each start takes the heal a little further.
const IN_ONE: u32 = 8;
/// Faults that are healed in different ways: a daemon, remnants of both backends, a lost route, a lost rule, wg-quick.
const FAULTS: [&str; 6] = ["R1", "R2", "R3", "R8", "R11", "R13-main"];

/// Kills until there have been enough.
pub fn measure(lab: &Lab, wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::new(lab, progress)?;
    let seed = wanted.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.as_secs())
    });
    progress.say(format!("T8: seed {seed}"));
    let mut random = seed;
    let (mut kills, mut heals, mut bad) = (0_u32, 0_u32, Vec::new());
    while kills < wanted.kills {
        let fault = FAULTS[heals as usize % FAULTS.len()];
        heals += 1;
        progress.pass(format!("T8: {kills} of {} kills, {} failures", wanted.kills, bad.len()));
        match heal_under_fire(lab, &ground, fault, &mut random) {
            Ok(more) => kills += more,
            Err(why) => {
                progress.say(format!("T8: heal {heals} of {fault} (seed {seed}): {why:#}"));
                bad.push(format!("{fault}: {why:#}"));
                anyhow::ensure!(bad.len() < 10, "ten heals ended badly; the last: {why:#}");
            }
        }
    }
    let failures = u32::try_from(bad.len()).unwrap_or(u32::MAX);
    Ok(vec![Figure {
        id: "T8",
        what: format!(
            "{kills} SIGKILLs at random moments of {heals} heals (seed {seed}): ended neither recovered nor as before"
        ),
        target: "0 of ≥ 500",
        met: Some(bad.is_empty() && kills >= 500),
        ours: Series::new("the agent", "heals", vec![f64::from(failures)]),
        baseline: None,
        note: bad.join("; "),
    }])
}

fn heal_under_fire(
    lab: &Lab,
    ground: &Ground<'_>,
    fault: &str,
    random: &mut u64,
) -> anyhow::Result<u32> {
    let say = |why: String| anyhow!(why);
    ground.prepare().map_err(say)?;
    ground.lay(fault).map_err(say)?;
    let healthy = ground.snapshot().map_err(say)?;
    ground.make(fault).map_err(say)?;
    let sick = ground.snapshot().map_err(say)?;
    let mut heal = lab
        .ctl_command("laptop", &["heal", NODE, "--yes", "--stability", "1s"])?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let waits: Vec<String> = (0..IN_ONE).map(|_| format!("{:.3}", wait(random))).collect();
    // One shell on the node kills: asking from here would be far too slow to hit a moment.
    let script = format!(
        "n=0; for w in {}; do sleep $w; pkill -9 -x lifeline-agent && n=$((n+1)); done; echo $n",
        waits.join(" ")
    );
    let killed = lab.node(NODE)?.exec_within(&["sh", "-c", &script], Duration::from_secs(60));
    heal.kill().ok();
    heal.wait()?;
    let killed = killed?.success()?.stdout.trim().parse()?;
    recovered_or_as_it_was(ground, &healthy, &sick).map_err(say)?;
    let k3s = ground.sh("systemctl is-active k3s-agent || true").map_err(say)?;
    anyhow::ensure!(
        matches!(k3s.trim(), "active" | "activating"),
        "k3s-agent was left {}",
        k3s.trim()
    );
    Ok(killed)
}

/// Seconds until the next shot: 20 ms to 1 s, more often short than long.
fn wait(random: &mut u64) -> f64 {
    // SplitMix64: enough to spread shots over a heal, and a seed repeats them.
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let unit = f64::from(u32::try_from(z >> 32).unwrap_or(0)) / f64::from(u32::MAX);
    0.02 + 0.98 * unit * unit
}
