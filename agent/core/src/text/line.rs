//! One line of the text form, word by word.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};

/// A line being put together.
pub(super) struct Line(pub(super) String);

impl Line {
    pub(super) fn new(word: &str) -> Self {
        Self(word.to_string())
    }

    /// Adds a word as it is: our own vocabulary, numbers, addresses.
    pub(super) fn put(mut self, word: impl AsRef<str>) -> Self {
        self.0.push(' ');
        self.0.push_str(word.as_ref());
        self
    }

    /// Adds a word that came from outside.
    pub(super) fn name(self, word: &str) -> Self {
        let word = quoted(word);
        self.put(word)
    }

    pub(super) fn pair(self, key: &str, value: &impl ToString) -> Self {
        self.put(key).put(value.to_string())
    }

    pub(super) fn opt<T: ToString>(self, key: &str, value: Option<&T>) -> Self {
        match value {
            Some(v) => self.pair(key, v),
            None => self,
        }
    }

    pub(super) fn named(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(v) => self.put(key).name(v),
            None => self,
        }
    }

    pub(super) fn flag(self, key: &str, on: bool) -> Self {
        if on { self.put(key) } else { self }
    }

    /// Adds the rest of the line: statements keep their own quotes, so they are quoted as a whole or not at all.
    pub(super) fn rest(self, text: &str) -> Self {
        let plain = !text.is_empty()
            && text.trim() == text
            && !text.starts_with('"')
            && !text.starts_with("handle ")
            && !text.chars().any(char::is_control);
        if plain { self.put(text) } else { self.put(json(text)) }
    }

    pub(super) fn end(self, out: &mut String) {
        out.push_str(&self.0);
        out.push('\n');
    }
}

pub(super) fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(super) fn quoted(word: &str) -> Cow<'_, str> {
    let plain = !word.is_empty()
        && !word.starts_with(['"', '#'])
        && !word.chars().any(|c| c.is_whitespace() || c.is_control());
    if plain { word.into() } else { json(word).into() }
}
