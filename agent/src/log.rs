//! What the agent told its node's journal, read back by pages for an operator: bounded, and without what may be a secret.

use crate::children::{Call, ChildError, Ran};
use crate::look::units::fit;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The daemon's unit, and the one of the timer that undoes when the daemon is dead.
const UNITS: [&str; 4] = ["-u", "lifeline-agent.service", "-u", "lifeline-undo.service"];
/// So many lines when nobody says how many.
const USUAL: u32 = 200;
/// So many lines are told at once, at most.
const MOST: u32 = 2_000;
/// A line is told so far.
const LONGEST: usize = 4_096;
/// A journal on a slow disk takes seconds to be searched.
const LIMIT: Duration = Duration::from_secs(20);
/// A line of the journal is a kilobyte or two in JSON.
const CAP: usize = 8 << 20;

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No place of a journal.
    #[error("read the journal: the cursor is none that an earlier answer gave")]
    Cursor,
    /// journalctl did not say.
    #[error("read the journal")]
    Child(#[from] ChildError),
    /// It said something else.
    #[error("read the journal: journalctl answered with something that is no line of it")]
    Form(#[source] serde_json::Error),
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, milliseconds since 1970.
    pub wall_ms: u64,
    /// As syslog counts.
    pub priority: u32,
    /// What.
    pub text: String,
}

/// Some lines, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// They.
    pub lines: Vec<Line>,
    /// Where they end.
    pub cursor: String,
    /// There may be older ones.
    pub cut: bool,
}

/// Reads the newest lines, of so many seconds or behind a place.
///
/// # Errors
/// When the journal cannot be read: that is not an empty one.
pub async fn read(since_s: u64, cursor: &str, lines: u32) -> Result<Page, LogError> {
    let most = if lines == 0 { USUAL } else { lines.min(MOST) };
    let mut call = Call::new("journalctl")
        .args(UNITS)
        .args(["--no-pager", "-q", "-o", "json", "--output-fields=MESSAGE,PRIORITY"])
        .args(["-n", &most.to_string()])
        .limit(LIMIT)
        .cap(CAP);
    if !cursor.is_empty() {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"=;-".contains(&b);
        if cursor.len() > 512 || !cursor.bytes().all(legal) {
            return Err(LogError::Cursor);
        }
        call = call.args([format!("--after-cursor={cursor}")]);
    } else if since_s > 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        call = call.args([format!("--since=@{}", now.saturating_sub(since_s))]);
    }
    let text = call.run().await.and_then(Ran::checked)?.text();
    let mut page = parse(&text)?;
    page.cut = page.lines.len() >= most as usize;
    if page.cursor.is_empty() {
        cursor.clone_into(&mut page.cursor);
    }
    Ok(page)
}

/// What `journalctl -o json` prints, an object a line.
fn parse(text: &str) -> Result<Page, LogError> {
    let mut page = Page::default();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let entry: Value = serde_json::from_str(line).map_err(LogError::Form)?;
        let word = |key: &str| entry[key].as_str();
        let micros: u64 = word("__REALTIME_TIMESTAMP").and_then(|t| t.parse().ok()).unwrap_or(0);
        let text = match &entry["MESSAGE"] {
            Value::String(text) => fit(text, LONGEST),
            // So it prints what is no text.
            Value::Array(bytes) => format!("[{} bytes that are no text]", bytes.len()),
            _ => String::new(),
        };
        page.lines.push(Line {
            wall_ms: micros / 1_000,
            priority: word("PRIORITY").and_then(|p| p.parse().ok()).unwrap_or(6),
            text,
        });
        if let Some(cursor) = word("__CURSOR") {
            cursor.clone_into(&mut page.cursor);
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    #[test]
    fn lines_are_told_in_order_without_secrets_and_with_where_they_end() {
        let text = r#"{"__CURSOR":"s=1;i=a","__REALTIME_TIMESTAMP":"1760356800123456","PRIORITY":"4","MESSAGE":"token=hunter2 \u001b[31mred"}
{"__CURSOR":"s=1;i=b","__REALTIME_TIMESTAMP":"1760356801000000","PRIORITY":"6","MESSAGE":[255,0,1]}
"#;
        let page = parse(text).unwrap();
        assert_eq!(page.cursor, "s=1;i=b");
        let first = &page.lines[0];
        assert_eq!((first.wall_ms, first.priority), (1_760_356_800_123, 4));
        assert_eq!(first.text, "token=[hidden] [31mred");
        assert_eq!(page.lines[1].text, "[3 bytes that are no text]");
        assert_eq!(parse("").unwrap(), Page::default());
        assert!(parse("-- No entries --").is_err());
    }

    #[test]
    fn whatever_journalctl_says_is_told_line_by_line_or_is_an_error() {
        Fuzz::new("journalctl").folder("tests/corpus/journalctl", |_| true).run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(page) = parse(&text) else { return };
            let said = text.lines().filter(|l| !l.trim().is_empty()).count();
            assert_eq!(page.lines.len(), said, "none is lost");
            for line in &page.lines {
                assert!(line.text.len() <= 4 * LONGEST && !line.text.contains('\u{1b}'));
            }
        });
    }

    #[tokio::test]
    async fn a_cursor_is_no_argument_of_somebody_elses() {
        for bad in ["--file=/etc/shadow\n", "s=1 --root=/", "$(id)"] {
            assert!(matches!(read(0, bad, 1).await, Err(LogError::Cursor)), "{bad}");
        }
    }
}
