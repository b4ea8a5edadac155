//! `ctl check`: is everything there that a recovery will need? With a hint for each thing that is not.

use crate::check::{self, Mark};
use crate::cli::Global;
use crate::error::Outcome;
use crate::exit::Exit;
use crate::out::{Out, Paint, Tone};
use serde::Serialize;

const HELP: &str = "Examples:
  ctl check                   laptop, cluster, every node
  ctl check calypso
  ctl check -o json | jq '.checks[] | select(.fine == false)'

Looked at is what is configured: certificates, programs and secrets on the laptop; the API server and what your user may do
there; the provider's machines; the papers' work tree; each agent. Nothing is changed anywhere, no secret is shown, and none
is read from 1Password, which might ask you. Not looked at: whether ssh leads to a node, a push, an issue tracker.

Exit codes: 0 nothing that was looked at is missing, 3 something is";

/// Arguments of `ctl check`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Nodes [default: all]
    nodes: Vec<String>,
}

/// `-o json`.
#[derive(Serialize)]
struct CheckJson<'a> {
    checks: &'a [Mark],
}

/// Runs `ctl check`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let marks = check::look(global, &args.nodes, out).await;
    out.print(render(&marks, out.result));
    out.json(&CheckJson { checks: &marks })?;
    Ok(if marks.iter().any(|m| m.fine == Some(false)) { Exit::Unhealthy } else { Exit::Done })
}

fn render(marks: &[Mark], paint: Paint) -> String {
    let mut lines = Vec::new();
    let mut group = "";
    for m in marks {
        if m.group != group {
            group = &m.group;
            let space = if lines.is_empty() { "" } else { "\n" };
            lines.push(format!("{space}{}", paint.tone(Tone::Strong, group)));
        }
        let (tone, word) = match m.fine {
            Some(true) => (Tone::Good, "ok"),
            Some(false) => (Tone::Bad, "no"),
            None => (Tone::Warn, "? "),
        };
        lines.push(format!("  {}  {}", paint.tone(tone, word), m.what.replace('\n', "\n      ")));
        lines.extend(m.hint.iter().map(|h| format!("        {}", h.replace('\n', "\n        "))));
    }
    let bad = marks.iter().filter(|m| m.fine == Some(false)).count();
    lines.push(match bad {
        0 => "\nNothing that was looked at is missing.".to_owned(),
        1 => "\n1 thing is missing.".to_owned(),
        n => format!("\n{n} things are missing."),
    });
    lines.join("\n")
}
