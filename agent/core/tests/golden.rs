//! Golden cases: what is seen, how the node looks when it is well, and what must be said and planned.
//!
//! `tests/golden/CASE/observation.txt` is a look; `baseline.txt` says what the healthy node is: `learned CASE`, `accepted CASE`
//! or `derived CASE`, from the look of a case (`derived .` from its own). `expected.txt` is written anew with `UPDATE=1`.

mod case;

use case::{baseline_of, observation};
use lifeline_core::baseline::Baseline;
use lifeline_core::check::check;
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::fib;
use lifeline_core::judge::judge;
use lifeline_core::observation::Observation;
use lifeline_core::op::NodeOp;
use lifeline_core::plan::Rung;
use lifeline_core::planner::plan;
use lifeline_core::policy::Policy;
use lifeline_core::text::{self, route_line, rule_line};
use std::fmt::Write as _;
use std::path::Path;

fn golden(path: &Path) -> datatest_stable::Result<()> {
    let case = path.parent().ok_or("a case is a folder")?;
    let source = std::fs::read_to_string(path)?;
    let seen = observation(case)?;
    let base = baseline_of(case)?;
    // The text form is the contract: what is read is written the same, comments apart.
    let without_comments: String = source
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(
        text::write(&seen),
        without_comments,
        "{} is not in the form it is written in",
        path.display()
    );
    let got = report(&seen, &base);
    let expected = case.join("expected.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&expected, &got)?;
        return Ok(());
    }
    let wanted = std::fs::read_to_string(&expected)
        .map_err(|e| format!("read {}: {e}; write it with UPDATE=1", expected.display()))?;
    if wanted != got {
        return Err(format!(
            "{} differs; what was found:\n{got}\n(look at it; if it is right, UPDATE=1 writes it down)",
            expected.display()
        )
        .into());
    }
    Ok(())
}

fn report(seen: &Observation, base: &Baseline) -> String {
    let policy = Policy::default();
    let diag = judge(seen, base, &policy);
    let mut out = String::new();
    let d: &Diagnosis = &diag;
    let guard = if d.guarded { ", guarded" } else { "" };
    let _ = writeln!(out, "{} ({:?}{guard}): {}", d.verdict, d.health, d.summary);
    for f in &d.findings {
        let harm = if f.harm { ", proven harm" } else { "" };
        let _ = writeln!(out, "\nfinding {} ({}, {:?}{harm})", f.key(), f.verdict, f.severity);
        if let Some(c) = &f.culprit {
            let mut line = format!("  culprit {}", c.tool);
            if let Some(p) = &c.process {
                let _ = write!(line, " pid {}", p.pid);
            }
            if let Some(dev) = &c.dev {
                let _ = write!(line, " dev {dev}");
            }
            if let Some(table) = c.table {
                let _ = write!(line, " table {table}");
            }
            let _ = writeln!(out, "{line}");
        }
        for e in &f.evidence {
            let _ = writeln!(out, "  {e}");
        }
    }
    for h in &d.held {
        let _ = writeln!(out, "\nheld {}: {}", h.fault, h.why);
    }
    let _ = writeln!(out, "\nforwarding");
    for f in &d.forwarding {
        let _ = writeln!(out, "  {f}");
    }
    for (rung, attempt) in [
        (Rung::Quiet, 0),
        (Rung::Quiet, 1),
        (Rung::Clean, 0),
        (Rung::Reconnect, 0),
        (Rung::Reconnect, 1),
    ] {
        let Some(now) = plan(seen, base, &policy, d, rung, "run", attempt) else { continue };
        let before = plan(seen, base, &policy, d, rung, "run", 0).map(|p| p.digest());
        if rung == Rung::Quiet && attempt > 0 && before == Some(now.digest()) {
            continue;
        }
        let plan = now;
        let again = if attempt > 0 { ", again" } else { "" };
        let _ = writeln!(
            out,
            "\nplan {} {}{again} ({} ms)",
            rung.number(),
            rung.word(),
            plan.deadline_ms
        );
        for s in &plan.steps {
            let may = if s.optional { "may " } else { "" };
            let _ = writeln!(
                out,
                "  {} {may}{} [{:?}] for {}: {}",
                s.id, s.op, s.on_unhealthy, s.finding, s.because
            );
            details(&mut out, &s.op, seen);
        }
        // The second opinion has nothing against any plan of ours.
        for o in check(&plan, seen, base) {
            let _ = writeln!(out, "  OBJECTION {o}");
        }
        assert!(
            d.verdict != Verdict::Upstream
                && d.verdict != Verdict::Unknown
                && d.verdict != Verdict::Moved
        );
    }
    out
}

fn details(out: &mut String, op: &NodeOp, seen: &Observation) {
    match op {
        NodeOp::Rules { absent, present, .. } => {
            for r in absent {
                let other = fib::victim(&seen.rules, r).filter(|v| *v != r);
                let note = other
                    .map(|v| format!("   (in front of it: {})", rule_line(v)))
                    .unwrap_or_default();
                let _ = writeln!(out, "      - {}{note}", rule_line(r));
            }
            for r in present {
                let _ = writeln!(out, "      + {}", rule_line(r));
            }
        }
        NodeOp::Routes { absent, present, .. } => {
            for r in absent {
                let _ = writeln!(out, "      - {}", route_line(r));
            }
            for r in present {
                let _ = writeln!(out, "      + {}", route_line(r));
            }
        }
        NodeOp::Netfilter { absent, absent_chains, .. } => {
            for r in absent {
                let _ = writeln!(out, "      - {} {}", r.chain, r.spec);
            }
            for c in absent_chains {
                let _ = writeln!(out, "      - :{c}");
            }
        }
        NodeOp::Addrs { absent, present, .. } => {
            for a in absent {
                let _ = writeln!(out, "      - addr {} {}/{}", a.dev, a.addr, a.len);
            }
            for a in present {
                let _ = writeln!(out, "      + addr {} {}/{}", a.dev, a.addr, a.len);
            }
        }
        NodeOp::FlowsGone { sources, dead_to } => {
            for a in sources {
                let _ = writeln!(out, "      - from {a}");
            }
            for a in dead_to {
                let _ = writeln!(out, "      - dead, to {a}");
            }
        }
        NodeOp::Policies { .. }
        | NodeOp::ExitNodeOff { .. }
        | NodeOp::ExitNodeOn { .. }
        | NodeOp::Stopped { .. }
        | NodeOp::LinkGone { .. }
        | NodeOp::ResolvConf { .. }
        | NodeOp::Sysctl { .. }
        | NodeOp::Quarantined { .. }
        | NodeOp::Released { .. }
        | NodeOp::Restarted { .. }
        | NodeOp::SandboxStopped { .. }
        | NodeOp::Armed { .. }
        | NodeOp::Disarmed
        | NodeOp::Flushed { .. }
        | NodeOp::Refilled { .. }
        | NodeOp::CacheFlushed
        | NodeOp::Rebooted => {}
    }
}

datatest_stable::harness! {
    { test = golden, root = "tests/golden", pattern = r".*/observation\.txt$" },
}
