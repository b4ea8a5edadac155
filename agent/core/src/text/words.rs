//! A line taken apart: bare words, JSON strings, and the rest as it is.

use alloc::format;
use alloc::string::{String, ToString};
use core::str::FromStr;

pub(super) type Result<T> = core::result::Result<T, String>;

/// What is left of a line.
pub(super) struct Words<'a>(pub(super) &'a str);

impl<'a> Words<'a> {
    pub(super) fn is_done(&self) -> bool {
        self.0.trim_start_matches(' ').is_empty()
    }

    pub(super) fn finish(&self) -> Result<()> {
        if self.is_done() {
            Ok(())
        } else {
            Err(format!("{:?} is one word too many", self.0.trim()))
        }
    }

    /// The next word, quotes taken off.
    pub(super) fn word(&mut self) -> Result<String> {
        let text = self.0.trim_start_matches(' ');
        if text.is_empty() {
            return Err("it ends too early".to_string());
        }
        if text.starts_with('"') {
            let (word, rest) = string(text)?;
            self.0 = rest;
            return Ok(word);
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        self.0 = rest;
        Ok(word.to_string())
    }

    /// The next word, when there is one and it is bare.
    pub(super) fn key(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start_matches(' ');
        if text.is_empty() {
            return None;
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        self.0 = rest;
        Some(word)
    }

    /// Is this the next word? Then it is taken.
    pub(super) fn take(&mut self, word: &str) -> bool {
        let before = self.0;
        if self.key() == Some(word) {
            return true;
        }
        self.0 = before;
        false
    }

    pub(super) fn value<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("{word:?} is no {what}"))
    }

    pub(super) fn named<T: Copy + FromStr>(
        &mut self,
        names: &[(T, &str)],
        what: &str,
    ) -> Result<T> {
        let word = self.word()?;
        match names.iter().find(|(_, n)| *n == word) {
            Some((v, _)) => Ok(*v),
            None => word.parse().map_err(|_| format!("{word:?} is no {what}")),
        }
    }

    /// The rest of the line: quoted as a whole or not at all.
    pub(super) fn rest(&mut self) -> Result<String> {
        let text = self.0.trim_start_matches(' ');
        self.0 = "";
        if text.starts_with('"') {
            let (word, rest) = string(text)?;
            self.0 = rest;
            return Ok(word);
        }
        Ok(text.to_string())
    }
}

/// A JSON string at the start of a text, and what follows it.
pub(super) fn string(text: &str) -> Result<(String, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let (quoted, rest) = text.split_at(at + 1);
                let word = serde_json::from_str(quoted)
                    .map_err(|e| format!("{quoted} is no JSON string: {e}"))?;
                return Ok((word, rest));
            }
            _ => {}
        }
    }
    Err("a quote is not closed".to_string())
}
