//! Secrets: read when they are needed, kept in memory alone, and never printed, logged, journalled or handed on in an argument.

pub mod hush;
mod op;
pub mod reference;
mod resolve;

pub use reference::Reference;
pub use resolve::{SecretError, resolve};

use std::fmt;
use zeroize::Zeroizing;

/// What stands wherever a secret would have been shown.
pub const HIDDEN: &str = "[secret]";

/// A secret. It has no way of being printed, and its memory is overwritten when it is no longer needed.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one place that must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A stranger's words without the secret: what echoes a request echoes its token, too.
    pub fn redact(&self, text: &str) -> String {
        text.replace(self.expose(), HIDDEN)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// A stranger's words without anything that looks like a token: the prefixes that tokens of `op` and of JWTs have, and
/// every long run of letters and digits mixed. What is cut is said to be cut.
pub fn redact_tokens(text: &str) -> String {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '=' | '~');
    let token = |w: &str| {
        let (digit, letter) =
            (w.contains(|c: char| c.is_ascii_digit()), w.contains(|c: char| c.is_alphabetic()));
        // 26 letters and digits are the id of an item of `op`, which is no secret.
        (w.starts_with("ops_") && w.len() > 8)
            || (w.starts_with("eyJ") && w.len() > 12)
            || (w.len() > 26 && digit && letter)
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| part(c) != part(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out.push_str(if token(word) { HIDDEN } else { word });
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_no_way_of_being_printed() {
        let s = Secret::new("hunter2".into());
        assert_eq!(format!("{s} {s:?} {:?}", Some(&s)), "[secret] [secret] Some([secret])");
        assert_eq!(s.redact("Bearer hunter2 is wrong"), "Bearer [secret] is wrong");
    }

    #[test]
    fn what_looks_like_a_token_is_cut_out_of_strangers_words() {
        let said = redact_tokens(
            "[ERROR] 2024/11/14 op://Infra/abcdefghijklmnopqrstuvwx12/token: bad ops_eyJzaWdu and eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0, AbCdEfGhIjKlMnOpQrStUvWxYz012345",
        );
        assert_eq!(
            said,
            "[ERROR] 2024/11/14 op://Infra/abcdefghijklmnopqrstuvwx12/token: bad [secret] and [secret].[secret], [secret]"
        );
    }
}
