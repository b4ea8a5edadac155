//! T15: how exposed the agent's unit is by `systemd-analyze security`, from 0 to 10, and what of it is left on purpose.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Figure, Limit, Series};
use crate::run;

/// What the figure may be.
const MOST: f64 = 3.0;
const LIMIT: Duration = Duration::from_secs(30);
/// What the unit says in front of its reasons.
const REASONS: &str = "What is missing here on purpose";

/// T15, of the unit of this checkout; no lab is needed.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/lifeline-agent.service");
    let text =
        std::fs::read_to_string(&unit).with_context(|| format!("read {}", unit.display()))?;
    let mut analyze = Command::new("systemd-analyze");
    // The name in its last line is not ours to choose, and its colours are no figure.
    analyze.args(["security", "--offline=true", "--no-pager"]).arg(&unit).env("NO_COLOR", "1");
    let out = run::run(&mut analyze, LIMIT, None)?;
    let Some(overall) = overall(&out.stdout) else {
        bail!("systemd-analyze names no exposure: {}{}", out.stdout, out.stderr);
    };
    let figure = Figure {
        id: "T15",
        what: "exposure of the agent's unit by `systemd-analyze security`, of 10".to_owned(),
        target: "≤ 3.0",
        met: None,
        ours: Series::new("the unit", "", vec![overall]),
        baseline: None,
        note: note(&out.stdout, &text),
    };
    Ok(vec![figure.within(&[Limit(0.5, MOST)])])
}

/// `→ Overall exposure level for lifeline-agent.service: 3.3 OK`.
fn overall(said: &str) -> Option<f64> {
    let line = said.lines().find(|l| l.contains("Overall exposure level"))?;
    line.rsplit_once(": ")?.1.split_whitespace().next()?.parse().ok()
}

/// What is left with how much it weighs, by the unit's own reasons.
fn note(said: &str, unit: &str) -> String {
    let left = left(said);
    let mut told = Vec::new();
    let mut known = Vec::new();
    for (names, why) in reasons(unit) {
        let weight: f64 = left.iter().filter(|(n, _)| names.contains(n)).map(|(_, w)| w).sum();
        if weight > 0.0 {
            told.push(format!("{} ({weight:.1}): {why}", names.join(", ")));
        }
        known.extend(names);
    }
    let mut strange: Vec<_> =
        left.iter().map(|(n, _)| n.clone()).filter(|n| !known.contains(n)).collect();
    strange.dedup();
    if !strange.is_empty() {
        told.push(format!("not explained in the unit: {}", strange.join(", ")));
    }
    told.join("; ")
}

/// Each directive that is found wanting, and how much that weighs.
fn left(said: &str) -> Vec<(String, f64)> {
    let wanting = said.lines().filter_map(|l| l.strip_prefix('\u{2717}'));
    wanting
        .filter_map(|line| {
            let name = line.split(['=', '/']).next()?.trim().to_owned();
            Some((name, line.split_whitespace().next_back()?.parse().ok()?))
        })
        .collect()
}

/// Directives and why they are as they are, from the unit: names, two spaces, a reason that may go on in further lines.
fn reasons(unit: &str) -> Vec<(Vec<String>, String)> {
    let Some((_, rest)) = unit.split_once(REASONS) else { return Vec::new() };
    let mut all: Vec<(Vec<String>, String)> = Vec::new();
    for line in rest.lines().skip(1).map_while(|l| l.strip_prefix('#')) {
        match line.strip_prefix("   ").filter(|l| !l.starts_with(' ')) {
            Some(line) => {
                let (names, why) = line.split_once("  ").unwrap_or((line, ""));
                let names = names.split(", ").map(|n| n.trim().to_owned()).collect();
                all.push((names, why.trim().to_owned()));
            }
            None => {
                if let Some((_, why)) = all.last_mut() {
                    *why += " ";
                    *why += line.trim();
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "  NAME  DESCRIPTION  EXPOSURE\n\u{2713} PrivateMounts=  x\n\u{2717} User=/DynamicUser=  runs as root  0.4\n\
        \u{2717} CapabilityBoundingSet=~CAP_(DAC_*|FOWNER)  may override  0.2\n\u{2717} CapabilityBoundingSet=~CAP_KILL  may  0.1\n\
        \u{2717} Colour=  is strange  0.2\n\n\u{2192} Overall exposure level for lifeline-agent.service: 3.3 OK :-)\n";
    const UNIT: &str = "X=y\n# What is missing here on purpose, and more:\n#   User, DynamicUser  it is root\n#   CapabilityBoundingSet  as said\n\
        #                          above\n#   PrivateTmp  sockets\n\n[Install]\n";

    #[test]
    fn the_figure_is_read_and_what_is_left_is_told_by_the_units_own_reasons() {
        assert_eq!(overall(SAID), Some(3.3));
        assert_eq!(overall("nothing"), None);
        assert_eq!(
            note(SAID, UNIT),
            "User, DynamicUser (0.4): it is root; CapabilityBoundingSet (0.3): as said above; not explained in the unit: Colour"
        );
    }
}
