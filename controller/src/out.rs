//! Where words go: results to stdout, progress to stderr, colours only for people.

use crate::error::CommandError;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines: one stable document on stdout.
    Json,
    /// The same, one line for each entry of the document's list.
    Jsonl,
    /// The same document as YAML.
    Yaml,
}

/// Paints words, or leaves them plain.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

/// What a word is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Something is wrong.
    Bad,
    /// Background.
    Dim,
    /// A heading.
    Strong,
}

impl Paint {
    /// The text in its tone.
    pub fn tone(self, tone: Tone, text: impl AsRef<str>) -> String {
        use owo_colors::OwoColorize;
        let text = text.as_ref();
        if !self.0 {
            return text.to_owned();
        }
        match tone {
            Tone::Good => text.green().to_string(),
            Tone::Warn => text.yellow().to_string(),
            Tone::Bad => text.red().to_string(),
            Tone::Dim => text.dimmed().to_string(),
            Tone::Strong => text.bold().to_string(),
        }
    }
}

/// The way out for everything a verb says.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// Format of results.
    pub format: Format,
    /// For results on stdout.
    pub result: Paint,
    /// For progress on stderr.
    pub progress: Paint,
    /// Somebody can be asked.
    pub interactive: bool,
}

impl Out {
    /// Looks at the terminal and the environment.
    pub fn new(format: Format) -> Self {
        // https://no-color.org: present and not empty means no colour, whatever its value.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Self {
            format,
            result: Paint(!plain && io::stdout().is_terminal()),
            progress: Paint(!plain && io::stderr().is_terminal()),
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// A line of progress.
    pub fn say(&self, line: impl AsRef<str>) {
        // Nobody is left to tell when stderr is gone.
        drop(writeln!(io::stderr().lock(), "{}", line.as_ref()));
    }

    /// A result for people; nothing when the format is for machines.
    pub fn print(&self, text: impl AsRef<str>) {
        if self.format == Format::Table {
            put(text.as_ref());
        }
    }

    /// A result for machines; nothing when the format is for people.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), CommandError> {
        let text = match self.format {
            Format::Table => return Ok(()),
            Format::Json => serde_json::to_string_pretty(value).map_err(CommandError::failed)?,
            Format::Jsonl => lines(&serde_json::to_value(value).map_err(CommandError::failed)?),
            Format::Yaml => {
                // By way of JSON, so that numbers, names and what is left out are the same in both.
                let value = serde_json::to_value(value).map_err(CommandError::failed)?;
                serde_saphyr::to_string(&value).map_err(CommandError::failed)?
            }
        };
        put(&text);
        Ok(())
    }

    /// Begins a table that is shown again and again: on a terminal it takes the last one's place.
    pub fn afresh(&self) {
        if self.format == Format::Table && io::stdout().is_terminal() {
            // Home, and everything below it cleared (ECMA-48: CUP, ED).
            drop(write!(io::stdout().lock(), "\u{1b}[H\u{1b}[J"));
        }
    }

    /// A document on stdout, whatever the format.
    pub fn document(&self, text: &str) {
        put(text);
    }

    /// An error with its hints.
    pub fn error(&self, error: &CommandError) {
        self.say(format!("{} {error}", self.progress.tone(Tone::Bad, "Error:")));
        for hint in error.hints() {
            self.say(format!("{} {hint}", self.progress.tone(Tone::Warn, "Hint:")));
        }
    }
}

/// `ctl … | head` closes stdout early: that is no error.
fn put(text: &str) {
    let mut stdout = io::stdout().lock();
    drop(writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush()));
}

/// A document that is nothing but a list (`{"nodes": […]}`) is a line an entry, any other is one line.
fn lines(value: &serde_json::Value) -> String {
    let mut fields = value.as_object().into_iter().flat_map(|o| o.values());
    match (fields.next(), fields.next()) {
        (Some(serde_json::Value::Array(list)), None) => {
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        _ => value.to_string(),
    }
}

/// Columns, aligned with spaces, one row a line: it survives `awk` and copying.
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    use comfy_table::{ContentArrangement, Table, presets};
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(String::as_str));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_plain_and_aligned() {
        let rows = vec![
            vec!["calypso".into(), "Captured".into(), "the API is behind tailscale0".into()],
            vec!["styx".into(), "Healthy".into(), String::new()],
        ];
        assert_eq!(
            columns(&["NODE", "VERDICT", "SUMMARY"], &rows),
            "NODE     VERDICT   SUMMARY\n\
             calypso  Captured  the API is behind tailscale0\n\
             styx     Healthy"
        );
    }

    #[test]
    fn a_list_is_a_line_an_entry_and_anything_else_is_one_line() {
        use serde_json::json;
        assert_eq!(lines(&json!({"nodes": [{"node": "a\nb"}, 2]})), "{\"node\":\"a\\nb\"}\n2");
        assert_eq!(lines(&json!({"a": [1], "b": 2})), r#"{"a":[1],"b":2}"#);
    }

    #[test]
    fn paint_is_plain_when_told() {
        assert_eq!(Paint(false).tone(Tone::Bad, "x"), "x");
        assert!(Paint(true).tone(Tone::Bad, "x").starts_with("\u{1b}["));
    }
}
