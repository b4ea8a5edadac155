//! `ctl diagnose`: has the agent look afresh, and shows what is wrong and how that is known.

use crate::error::Outcome;
use crate::exit::Exit;
use crate::out::{Paint, Tone};
use crate::session::Session;
use crate::words;
use lifeline_core::diagnosis::{Culprit, Diagnosis};
use serde::Serialize;
use std::fmt::Write;

const HELP: &str = "Examples:
  ctl diagnose calypso
  ctl diagnose calypso -o json | jq '.diagnosis.findings[].evidence'

Viewers see the findings without their evidence. Nothing on the node is touched.

Exit codes: 0 healthy, 1 failed, 2 usage, 3 not healthy";

/// Arguments of `ctl diagnose`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
}

/// `-o json`.
#[derive(Serialize)]
struct DiagnoseJson<'a> {
    node: &'a str,
    via: &'a str,
    verdict: &'static str,
    healthy: bool,
    /// As the agent wrote it: `lifeline_core::diagnosis::Diagnosis`.
    diagnosis: &'a Diagnosis,
}

/// Runs `ctl diagnose`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    let agent = session.agent(&args.node).await?;
    let diagnosis = agent.diagnose().await?;
    session.out.print(render(&agent.node, &diagnosis, session.out.result));
    session.out.json(&DiagnoseJson {
        node: &agent.node,
        via: &agent.via,
        verdict: diagnosis.verdict.word(),
        healthy: words::is_fine(diagnosis.verdict),
        diagnosis: &diagnosis,
    })?;
    Ok(if words::is_fine(diagnosis.verdict) { Exit::Done } else { Exit::Unhealthy })
}

/// A diagnosis for people.
pub fn render(node: &str, d: &Diagnosis, paint: Paint) -> String {
    let guard = if d.guarded { ", and our guard stands" } else { "" };
    let mut text = format!("{node} is {}{guard}\n", words::verdict(d.verdict, paint));
    let mut line = |indent: usize, s: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:indent$}{s}", "");
    };
    if !d.summary.is_empty() {
        line(0, &d.summary);
    }
    if !d.findings.is_empty() {
        line(0, &format!("\n{}", paint.tone(Tone::Strong, "FOUND")));
    }
    for f in &d.findings {
        let harm = if f.harm { "proven harm" } else { "no harm proven" };
        line(2, &format!("{}  {}  {harm}", f.key(), words::severity(f.severity, paint)));
        if let Some(c) = &f.culprit {
            line(4, &culprit(c));
        }
        for e in &f.evidence {
            line(4, e);
        }
    }
    if !d.held.is_empty() {
        line(0, &format!("\n{}", paint.tone(Tone::Strong, "HELD BACK")));
    }
    for h in &d.held {
        line(2, &format!("{}  {}", h.fault, h.why));
    }
    if !d.forwarding.is_empty() {
        line(0, &format!("\n{}", paint.tone(Tone::Strong, "WHERE TRAFFIC LEAVES")));
    }
    for f in &d.forwarding {
        line(2, f);
    }
    text.trim_end().to_owned()
}

fn culprit(c: &Culprit) -> String {
    let mut parts = vec![format!("by {}", c.tool)];
    match &c.process {
        Some(p) => parts.push(format!("process {} (pid {})", p.exe, p.pid)),
        None => parts.push("no process of its lives".into()),
    }
    parts.extend(c.dev.iter().map(|d| format!("device {d}")));
    parts.extend(c.table.iter().map(|t| format!("table {t}")));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeline_core::clock::Stamp;
    use lifeline_core::diagnosis::{Finding, Health, Held, Severity, Verdict};
    use lifeline_core::op::ProcessId;

    #[test]
    fn a_diagnosis_reads_from_the_verdict_down_to_the_evidence() {
        let d = Diagnosis {
            taken: Stamp::default(),
            verdict: Verdict::Captured,
            health: Health::Contained,
            guarded: true,
            summary: "the API server leaves by tailscale0".into(),
            findings: vec![Finding {
                fault: "exit-node".into(),
                verdict: Verdict::Captured,
                severity: Severity::Critical,
                culprit: Some(Culprit {
                    tool: "tailscale".into(),
                    process: Some(ProcessId {
                        pid: 812,
                        start: 1,
                        exe: "/usr/sbin/tailscaled".into(),
                        inode: "1:2".into(),
                        cgroup: "/".into(),
                    }),
                    dev: Some("tailscale0".into()),
                    table: Some(52),
                }),
                harm: true,
                evidence: vec!["rule 5270 lookup 52".into()],
            }],
            held: vec![Held { fault: "hooks".into(), why: "nft could not be read".into() }],
            forwarding: vec!["api 203.0.113.10:6443 by tailscale0, table 52".into()],
        };
        assert_eq!(
            render("calypso", &d, Paint(false)),
            "calypso is Captured, and our guard stands
the API server leaves by tailscale0

FOUND
  exit-node/tailscale  critical  proven harm
    by tailscale, process /usr/sbin/tailscaled (pid 812), device tailscale0, table 52
    rule 5270 lookup 52

HELD BACK
  hooks  nft could not be read

WHERE TRAFFIC LEAVES
  api 203.0.113.10:6443 by tailscale0, table 52"
        );
    }
}
