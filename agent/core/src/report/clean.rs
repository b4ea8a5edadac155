//! Text without secrets: the only kind that gets into a report.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Text from which secrets have been blanked out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clean(String);

impl Clean {
    /// Blanks out what looks like a secret: Tailscale and k3s keys, bearer tokens, `password=`, private keys.
    pub fn of(text: &str) -> Self {
        let mut out = String::new();
        let mut hide_next = false;
        // Splitting *after* each separator keeps them, so that the rest of the text stays as it was.
        for piece in text.split_inclusive(SEPARATORS) {
            let word = piece.trim_end_matches(SEPARATORS);
            let rest = &piece[word.len()..];
            if word.ends_with("-----BEGIN") {
                // A PEM block may be a key; nothing behind its head is worth the risk.
                out.push_str(HIDDEN);
                return Self(out);
            }
            // `token": "x`: the colon stands between the name and its value.
            let between = word.chars().all(|c| c == ':');
            if !between && (hide_next || is_secret(word)) {
                out.push_str(HIDDEN);
                hide_next = false;
            } else {
                out.push_str(word);
                hide_next = announces(word, rest) || (hide_next && between);
            }
            out.push_str(rest);
        }
        Self(out)
    }

    /// On one line, and safe within a Markdown table.
    pub(super) fn cell(&self) -> String {
        let one_line = self.0.split_whitespace().collect::<Vec<_>>().join(" ");
        one_line.replace('|', "\\|").replace('<', "&lt;").replace('>', "&gt;")
    }

    /// On one line, short, and without what Mermaid takes for syntax.
    pub(super) fn label(&self) -> String {
        let plain = self.0.replace(": ", ", ").replace([':', ';', '#', '`', '"'], " ");
        let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut short: String = words.chars().take(100).collect();
        if short.len() < words.len() {
            short.push('…');
        }
        short
    }
}

impl fmt::Display for Clean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const HIDDEN: &str = "[hidden]";
const SEPARATORS: [char; 11] = [' ', '\n', '\t', '\r', '"', '\'', ',', '=', '(', ')', ';'];

fn is_secret(word: &str) -> bool {
    word.starts_with("tskey-")
        || word.starts_with("nodekey:")
        || word.starts_with("privkey:")
        // k3s: K10<sha256>::user:password
        || (word.starts_with("K10") && word.contains("::"))
        // A JSON web token: three parts, the first of which is base64 of `{"`.
        || (word.starts_with("eyJ") && word.matches('.').count() == 2)
        || word.starts_with("ghp_")
        || word.starts_with("github_pat_")
}

fn announces(word: &str, rest: &str) -> bool {
    let bare = word.trim_start_matches('-').trim_end_matches(':');
    const NAMES: [&str; 10] = [
        "bearer", "token", "password", "passwd", "secret", "authkey", "auth-key", "apikey",
        "api-key", "api_key",
    ];
    // "the token of the unit" is prose: only what is written like a key announces a value.
    let like_a_key = word.ends_with(':')
        || word.starts_with('-')
        || rest.starts_with(['=', '"'])
        || bare.eq_ignore_ascii_case("bearer");
    NAMES.iter().any(|n| bare.eq_ignore_ascii_case(n)) && like_a_key
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn secrets_do_not_get_in() {
        for (text, clean) in [
            (
                "tailscale up --authkey=tskey-auth-k1-ABC --ssh",
                "tailscale up --authkey=[hidden] --ssh",
            ),
            ("tailscale up --auth-key hunter2 now", "tailscale up --auth-key [hidden] now"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer [hidden]"),
            ("password=hunter2", "password=[hidden]"),
            ("token: K10abc::server:pw", "token: [hidden]"),
            ("\"token\": \"hunter2\"", "\"token\": \"[hidden]\""),
            ("x eyJhbGciOi.J9.sig y", "x [hidden] y"),
            ("a -----BEGIN EC PRIVATE KEY-----\nMHc\n", "a [hidden]"),
            ("the token of the unit changed", "the token of the unit changed"),
            ("rule 5270 lookup 52", "rule 5270 lookup 52"),
        ] {
            assert_eq!(Clean::of(text).to_string(), clean);
        }
    }

    #[test]
    fn text_cannot_break_out_of_a_table_or_a_diagram() {
        let text = Clean::of("a|b\n<script> c: d; #e");
        assert_eq!(text.cell(), "a\\|b &lt;script&gt; c: d; #e");
        assert_eq!(text.label(), "a|b <script> c, d e");
    }
}
