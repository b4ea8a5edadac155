//! `ctl faults`: what Lifeline knows to be wrong with a node, straight from the judgement's own list. Asks nobody.

use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::out::{Out, Paint, columns};
use crate::suggest::nearest;
use crate::words;
use lifeline_core::diagnosis::Severity;
use lifeline_core::faults::{ALL, Consent, Fault, by_id};
use lifeline_core::observation::Sense;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl faults
  ctl faults tailscale-capture
  ctl faults -o json | jq -r '.faults[].id'

Exit codes: 0 listed, 2 no such fault";

/// Arguments of `ctl faults`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// One of them, in full
    id: Option<String>,
    /// As a Markdown table
    #[arg(long, conflicts_with = "id")]
    markdown: bool,
}

/// `-o json`.
#[derive(Serialize)]
struct FaultsJson {
    /// In order of precedence.
    faults: Vec<FaultJson>,
}

#[derive(Serialize)]
struct FaultJson {
    id: &'static str,
    title: &'static str,
    why: &'static str,
    severity: Severity,
    /// `agent` or `operator`: who may let its remedy happen.
    consent: &'static str,
    debounce_ms: u64,
    /// What must have been read to judge it.
    needs: &'static [Sense],
    /// Rows of the catalogue.
    rows: &'static [&'static str],
}

/// Runs `ctl faults`.
pub fn run(args: &Args, out: Out) -> Outcome {
    let faults: Vec<&Fault> = match &args.id {
        None => ALL.to_vec(),
        Some(id) => vec![by_id(id).ok_or_else(|| unknown(id))?],
    };
    if args.markdown {
        out.document(&markdown(&faults));
        return Ok(Exit::Done);
    }
    out.print(match faults.as_slice() {
        [one] if args.id.is_some() => full(one, out.result),
        all => table(all, out.result),
    });
    out.json(&FaultsJson { faults: faults.into_iter().map(json).collect() })?;
    Ok(Exit::Done)
}

fn unknown(id: &str) -> CommandError {
    let error = CommandError::usage(format!("find fault {id}: there is none of that name"));
    match nearest(id, ALL.iter().map(|f| f.id)) {
        Some(meant) => error.hinted(format!("did you mean {meant}?")),
        None => error.hinted("ctl faults lists them"),
    }
}

fn consent(fault: &Fault) -> &'static str {
    match fault.consent {
        Consent::Automatic => "agent",
        Consent::Operator => "operator",
    }
}

fn json(f: &Fault) -> FaultJson {
    FaultJson {
        id: f.id,
        title: f.title,
        why: f.why,
        severity: f.severity,
        consent: consent(f),
        debounce_ms: f.debounce_ms,
        needs: f.needs,
        rows: f.rows,
    }
}

fn table(faults: &[&Fault], paint: Paint) -> String {
    // Colours would count as width.
    let plain = Paint(false);
    let row = |f: &&Fault| {
        vec![f.id.into(), words::severity(f.severity, plain), consent(f).into(), f.title.into()]
    };
    let text = columns(
        &["FAULT", "SEVERITY", "MENDED BY", "WHAT"],
        &faults.iter().map(row).collect::<Vec<_>>(),
    );
    let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
    format!("{}\n{rest}", paint.tone(crate::out::Tone::Strong, head))
}

fn full(f: &Fault, paint: Paint) -> String {
    let list = |items: Vec<String>| if items.is_empty() { "-".into() } else { items.join(", ") };
    let needs = f.needs.iter().map(|n| format!("{n:?}").to_lowercase()).collect();
    let becomes = f.becomes.iter().map(|b| (*b).to_owned()).collect();
    format!(
        "{}: {}\n\n{}\n\nseverity     {}\nmended by    {}\nbecomes      {}\nlooks at     {}\nwait         {} before the agent acts alone",
        f.id,
        f.title,
        wrapped(f.why, 100),
        words::severity(f.severity, paint),
        consent(f),
        list(becomes),
        list(needs),
        words::span_ms(f.debounce_ms),
    )
}

/// Breaks a paragraph into lines.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line)
                if line.is_empty() || line.chars().count() + word.chars().count() < width =>
            {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn markdown(faults: &[&Fault]) -> String {
    let mut text = "| fault | what | severity | mended by |\n|---|---|---|---|\n".to_owned();
    for f in faults {
        let severity = words::severity(f.severity, Paint(false));
        text = format!(
            "{text}| `{}` | {} | {severity} | {} |\n",
            f.id,
            f.title.replace('|', "\\|"),
            consent(f)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_broken_between_words() {
        assert_eq!(wrapped("aaa bb  c\ndddd", 7), "aaa bb\nc dddd");
    }
}
