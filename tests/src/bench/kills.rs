//! T8: SIGKILL of the agent at random moments of heals, several in each; however often, the node ends recovered or as it was.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::Wanted;
use super::range::Range;
use crate::beside::Share;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::trial::{Ground, NODE, find, lines, strange};
use crate::witness::Snapshot;

/// At most so many in one heal: each life takes the heal a little further, and at last it has to end.
const IN_ONE: u64 = 10;
/// Faults that are healed in different ways, and of what each leaves on purpose a word: a daemon that is told to go, one that
/// fights back, remnants in both backends, a device that is deleted, lost routes and rules, a unit that is restarted.
const FAULTS: [(&str, &[&str]); 12] = [
    ("R1", &[]),
    ("R3", &["/var/lib/tailscale", "/run/tailscale"]),
    ("R15-device", &[]),
    ("R8", &["wg0"]),
    ("R1-nft", &[]),
    ("R11", &[]),
    ("R4", &[]),
    ("N1", &[]),
    ("R7", &[]),
    ("R13-main", &[]),
    ("R2", &[]),
    ("R12", &[]),
];
/// A restart, a look, and whatever rungs are left.
const END: Duration = Duration::from_secs(90);
/// Seeds of one lab do not run into those of another.
const APART: u64 = 10_000;
/// More would say nothing new.
const MOST_BAD: usize = 10;

/// One heal under fire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heal {
    pub seed: u64,
    pub fault: String,
    /// The moments at which it was killed.
    pub shots: Vec<String>,
    /// How it ended, if not well.
    pub bad: Option<String>,
}

/// SplitMix64: enough to spread shots over a heal, and a seed repeats them.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }
}

/// Kills until there have been enough; each heal has a seed of its own, and `--seed` with that one repeats it first.
pub fn fire(
    lab: &Lab,
    ground: &Ground<'_>,
    wanted: &Wanted,
    share: Share,
    progress: &Progress,
) -> Vec<Heal> {
    let enough = (wanted.kills as usize).div_ceil(share.of);
    let first = wanted.seed.unwrap_or_else(super::seed) + (share.nth as u64 - 1) * APART;
    let mut heals: Vec<Heal> = Vec::new();
    let (mut kills, mut bad) = (0, 0);
    for seed in first.. {
        if kills >= enough {
            break;
        }
        let at = usize::try_from(seed % FAULTS.len() as u64).unwrap_or(0);
        let Some((fault, kept)) = FAULTS.get(at) else { break };
        let mut shots = Vec::new();
        let seen = under_fire(lab, ground, fault, kept, &mut Dice(seed), &mut shots);
        kills += shots.len();
        if let Err(why) = &seen {
            bad += 1;
            progress.say(format!("T8: seed {seed}, {fault}: {why:#}"));
            progress.say(format!("    killed {}", shots.join(", ")));
            progress.say(testimony(ground));
        }
        progress.say(format!(
            "T8: seed {seed}, {fault}: killed {} times, {kills} of {enough} so far, {bad} bad ends of {} heals",
            shots.len(),
            heals.len() + 1
        ));
        let bad_end = seen.err().map(|why| format!("{why:#}"));
        heals.push(Heal { seed, fault: (*fault).to_owned(), shots, bad: bad_end });
        if bad >= MOST_BAD {
            progress
                .say(format!("T8: {bad} of {} heals ended badly: no more of them", heals.len()));
            break;
        }
    }
    heals
}

fn say(why: String) -> anyhow::Error {
    anyhow!(why)
}

fn under_fire(
    lab: &Lab,
    ground: &Ground<'_>,
    fault: &str,
    kept: &[&str],
    dice: &mut Dice,
    shots: &mut Vec<String>,
) -> anyhow::Result<()> {
    ground.prepare().map_err(say)?;
    ground.lay(fault).map_err(say)?;
    let healthy = ground.snapshot().map_err(say)?;
    ground.make(fault).map_err(say)?;
    let sick = ground.snapshot().map_err(say)?;
    let node = lab.node(NODE)?;
    let range = Range::new(&node);
    let told = tempfile::NamedTempFile::new()?;
    let mut heal = lab
        .ctl_command("laptop", &["heal", NODE, "--yes", "--stability", "1s"])?
        .stdin(Stdio::null())
        .stdout(told.reopen()?)
        .stderr(told.reopen()?)
        .spawn()?;
    let shot = range.shoot(dice, IN_ONE, shots);
    heal.kill().ok();
    heal.wait()?;
    shot.map_err(|why| {
        let mut said = String::new();
        File::open(told.path()).and_then(|mut f| f.read_to_string(&mut said)).ok();
        why.context(format!("ctl heal said: {}", said.trim()))
    })?;
    ended(ground, &healthy, &sick)?;
    // Then the operator heals what is left.
    ground.heal_well().map_err(say)?;
    let is_kept = |d: &crate::witness::Difference| {
        let line = d.to_string();
        kept.iter().any(|word| line.contains(word))
    };
    ground.expect_same_but(&healthy, is_kept).map_err(say)
}

/// Waits until systemd has started it again and it has finished or undone what was open; by then nothing may be there that
/// was neither before the fault nor during it, and k3s-agent runs.
fn ended(ground: &Ground<'_>, healthy: &Snapshot, sick: &Snapshot) -> anyhow::Result<()> {
    let until = Instant::now() + END;
    loop {
        let status = ground.ctl_json(&["status", NODE, "-o", "json"]);
        let idle = status.as_ref().is_ok_and(|v| {
            let incident = find(v, "incident").map(ToString::to_string);
            matches!(incident.as_deref(), Some("\"\"" | "null") | None)
        });
        let late = Instant::now() > until;
        if idle {
            let left = strange(healthy, sick, &ground.snapshot().map_err(say)?);
            let k3s = ground.sh("systemctl is-active k3s-agent || true").map_err(say)?;
            let runs = matches!(k3s.trim(), "active" | "activating");
            if left.is_empty() && runs {
                return Ok(());
            }
            ensure!(
                !late,
                "k3s-agent: {}; neither as before nor as it was:\n{}",
                k3s.trim(),
                lines(&left)
            );
        }
        ensure!(!late, "an incident is still open after {END:?}: {status:?}");
        thread::sleep(Duration::from_millis(300));
    }
}

/// What helps to understand a bad end: the agent's own story of the last heals, and what stands.
fn testimony(ground: &Ground<'_>) -> String {
    let script = "cd /var/lib/lifeline/journal; for f in $(ls -tr *.incident | tail -2); do echo \"== $f\"; tr -d '\\000' < $f | cut -c10-1200; \
                  for r in $(ls ${f%.incident}.*.jsonl 2>/dev/null); do echo \"== $r\"; tr -d '\\000' < $r | cut -c10-1500; done; done; \
                  echo == agent; journalctl -u lifeline-agent -n 100 --no-pager -o short-monotonic; \
                  echo == k3s-agent; journalctl -u k3s-agent -n 20 --no-pager -o short-monotonic; \
                  ip rule; ip -6 rule; ip route; ip route show table 52; systemctl is-active k3s-agent lifeline-agent || true";
    ground.sh(script).unwrap_or_else(|why| why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_shots_and_another_has_others() {
        let rolls = |seed| {
            let mut dice = Dice(seed);
            (0..8).map(|_| dice.roll(1_000)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
    }

    #[test]
    fn consecutive_seeds_go_through_all_faults() {
        let met: std::collections::BTreeSet<u64> = (100..112).map(|seed| seed % 12).collect();
        assert_eq!(met.len(), FAULTS.len());
        assert!(FAULTS.iter().all(|(id, _)| crate::faults::find(id).is_ok()));
    }
}
