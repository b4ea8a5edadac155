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
        if self.format == Format::Json {
            put(&serde_json::to_string_pretty(value).map_err(CommandError::failed)?);
        }
        Ok(())
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
    fn paint_is_plain_when_told() {
        assert_eq!(Paint(false).tone(Tone::Bad, "x"), "x");
        assert!(Paint(true).tone(Tone::Bad, "x").starts_with("\u{1b}["));
    }
}
