//! The agent's configuration file: read whole, or refused with the line that is wrong. It never guesses.
//!
//! Longer than most files: every key with its default, its range and its error in one place.

mod explain;

use explain::{explain, line_of};
use lifeline_core::policy::Policy;
use serde::Deserialize;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where it lies when nobody says otherwise.
pub const USUAL: &str = "/etc/lifeline/agent.toml";

/// The port when only the node's address is known.
pub const PORT: u16 = 7443;

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Name of the cluster: part of every operator's certificate.
    pub cluster: String,
    /// Name of the node; what k3s's files say when absent.
    #[serde(default)]
    pub node: Option<String>,
    /// Where operators call; the node's address and [`PORT`] when absent.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// API servers; what k3s's files say when empty.
    #[serde(default)]
    pub api: Vec<SocketAddr>,
    /// Journal, baseline, evidence, quarantine.
    #[serde(default = "usual_state")]
    pub state: PathBuf,
    /// The local socket's directory.
    #[serde(default = "usual_run")]
    pub run: PathBuf,
    /// Certificates.
    #[serde(default)]
    pub tls: Tls,
    /// What is allowed.
    #[serde(default)]
    pub policy: Policy,
    /// What callers may take.
    #[serde(default)]
    pub limits: Limits,
    /// Who else is told how the node is.
    #[serde(default)]
    pub metrics: Metrics,
}

/// Where metrics go besides the local socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metrics {
    /// A file for node_exporter's textfile collector, which reads only what ends in `.prom`.
    pub textfile: Option<PathBuf>,
}

/// Certificates, all PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// Who signs operators.
    pub ca: PathBuf,
    /// This node's chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Serial numbers of certificates that are no longer welcome, hexadecimal, colons allowed.
    pub denied_serials: Vec<String>,
    /// More of them, a line each: what `ctl pki revoke` sends is kept here.
    pub denied: PathBuf,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: "/etc/lifeline/ca.crt".into(),
            cert: "/etc/lifeline/agent.crt".into(),
            key: "/etc/lifeline/agent.key".into(),
            denied_serials: Vec::new(),
            denied: "/etc/lifeline/denied-serials".into(),
        }
    }
}

/// What callers may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Connections at once, 4 to 1024; one certificate may have a quarter of them, at least 4.
    pub connections: usize,
    /// How many of those only operators get.
    pub reserved: usize,
    /// Unfinished handshakes at once, 1 to 256; a newcomer displaces who has not greeted for longest.
    pub handshakes: usize,
    /// The same for one source address.
    pub handshakes_per_source: usize,
    /// How long a handshake may take, milliseconds, 100 to 60 000.
    pub handshake_ms: u64,
    /// Longest message a caller may send, bytes, 4 KiB to 16 MiB.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            reserved: 16,
            handshakes: 32,
            handshakes_per_source: 8,
            handshake_ms: 5_000,
            message_bytes: 256 * 1024,
        }
    }
}

fn usual_state() -> PathBuf {
    "/var/lib/lifeline".into()
}

fn usual_run() -> PathBuf {
    "/run/lifeline".into()
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read configuration {path}{}", hint(source))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, a key is unknown or a value is of the wrong type.
    #[error("read configuration {path}, line {line}: {what}")]
    Form {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, and what to try.
        what: String,
    },
    /// A value makes no sense.
    #[error("read configuration {path}: {key}: {what}")]
    Value {
        /// Which.
        path: PathBuf,
        /// `policy.lifeline`.
        key: &'static str,
        /// What is wrong, and what to try.
        what: String,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            " (there is none: copy the sample agent.toml there and set `cluster`)"
        }
        io::ErrorKind::PermissionDenied => " (it is root's: try as root)",
        _ => "",
    }
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// When the file cannot be read, or anything in it is not understood.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(path, &text)
    }

    /// Parses and checks what a configuration file says; `path` is for messages.
    ///
    /// # Errors
    /// When anything in it is not understood.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| ConfigError::Form {
            path: path.into(),
            line: e.span().map_or(1, |s| line_of(text, s.start)),
            what: explain(e.message()),
        })?;
        match config.wrong() {
            Some((key, what)) => Err(ConfigError::Value { path: path.into(), key, what }),
            None => Ok(config),
        }
    }

    fn wrong(&self) -> Option<(&'static str, String)> {
        let (p, l) = (&self.policy, &self.limits);
        let name = |s: &str| {
            !s.is_empty()
                && s.len() <= 63
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        let within = |key, n: u64, low: u64, high: u64| {
            (!(low..=high).contains(&n))
                .then(|| (key, format!("{n} is not between {low} and {high}")))
        };
        let bit = |key, mark: u32| {
            (mark.count_ones() != 1)
                .then(|| (key, format!("{mark:#x} is not one bit, such as 0x1000")))
        };
        if !name(&self.cluster) {
            return Some((
                "cluster",
                format!("\"{}\" is no name: letters, digits, `-`, `.`, `_`", self.cluster),
            ));
        }
        if let Some(node) = self.node.as_deref().filter(|n| !name(n)) {
            return Some(("node", format!("\"{node}\" is no node name")));
        }
        if let Some(listen) = self.listen.filter(|l| l.port() == 0 || l.ip().is_multicast()) {
            return Some(("listen", format!("{listen} cannot be listened on: try ADDRESS:{PORT}")));
        }
        for (key, path) in [("state", &self.state), ("run", &self.run)] {
            if !path.is_absolute() {
                return Some((key, format!("{} is not an absolute path", path.display())));
            }
        }
        if let Some(file) = self.metrics.textfile.as_deref() {
            let ends = file.extension().is_some_and(|e| e == "prom");
            if !file.is_absolute() || !ends {
                let what = format!("{} is no absolute path that ends in .prom", file.display());
                return Some(("metrics.textfile", what));
            }
        }
        if p.see_through == p.lifeline {
            return Some((
                "policy.lifeline",
                "it must be another bit than policy.see-through".to_string(),
            ));
        }
        if let Some(serial) = self.tls.denied_serials.iter().find(|s| serial(s).is_none()) {
            return Some((
                "tls.denied-serials",
                format!("\"{serial}\" is no hexadecimal number, such as 1A:2B"),
            ));
        }
        bit("policy.see-through", p.see_through)
            .or_else(|| bit("policy.lifeline", p.lifeline))
            .or_else(|| within("policy.confirm-ms", p.confirm_ms, 10_000, 600_000))
            .or_else(|| within("policy.reboots-a-day", p.reboots_a_day.into(), 0, 10))
            .or_else(|| within("policy.max-rung", p.max_rung.into(), 2, 4))
            .or_else(|| within("policy.term-grace-ms", p.term_grace_ms.into(), 100, 30_000))
            .or_else(|| within("limits.connections", l.connections as u64, 4, 1024))
            .or_else(|| within("limits.reserved", l.reserved as u64, 1, (l.connections - 1) as u64))
            .or_else(|| within("limits.handshakes", l.handshakes as u64, 1, 256))
            .or_else(|| {
                within("limits.handshakes-per-source", l.handshakes_per_source as u64, 1, 256)
            })
            .or_else(|| within("limits.handshake-ms", l.handshake_ms, 100, 60_000))
            .or_else(|| within("limits.message-bytes", l.message_bytes as u64, 4 << 10, 16 << 20))
    }
}

/// A serial number as bytes without leading zeros: `1a:2B`, `001A2B` and `1a2b` are the same one.
pub fn serial(text: &str) -> Option<Vec<u8>> {
    let digits: String =
        text.trim().trim_start_matches("0x").chars().filter(|c| *c != ':').collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let digits = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
    let bytes: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok())
        .collect();
    bytes.map(|b| b.into_iter().skip_while(|b| *b == 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;
    use lifeline_core::policy::Mode;

    fn read(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/lifeline/agent.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_least_configuration_is_the_clusters_name() {
        let c = read("cluster = \"lab\"").unwrap();
        assert_eq!(c.policy.mode, Mode::Guard);
        assert_eq!(c.state, Path::new("/var/lib/lifeline"));
        assert_eq!(c.limits, Limits::default());
        assert_eq!(
            read("").unwrap_err(),
            "read configuration /etc/lifeline/agent.toml, line 1: missing field `cluster`"
        );
    }

    #[test]
    fn the_sample_is_a_valid_configuration() {
        let c = read(include_str!("../../systemd/agent.toml")).unwrap();
        assert_eq!(c.cluster, "lab");
        assert_eq!(c.policy, Policy::default(), "the sample shows the defaults");
        assert_eq!(c.limits, Limits::default(), "the sample shows the defaults");
        assert_eq!(c.tls, Tls::default(), "the sample shows the defaults");
        assert_eq!(c.metrics, Metrics::default(), "the sample shows the defaults");
    }

    #[test]
    fn every_refusal_names_the_key_and_where_it_is() {
        let cases: [(&str, &str); 17] = [
            (
                "cluster = \"lab\"\nlissten = \"1.2.3.4:1\"",
                "line 2: unknown key `lissten`: did you mean `listen`?",
            ),
            (
                "cluster = \"lab\"\nmode = \"observe\"",
                "line 2: unknown key `mode` here: it belongs under [policy]",
            ),
            (
                "cluster = \"lab\"\n\n[policy]\nterm_grace_ms = 5",
                "line 4: unknown key `term_grace_ms`: did you mean `term-grace-ms`?",
            ),
            (
                "cluster = \"lab\"\n[tls]\ncolour = 1",
                "line 3: unknown key `colour`: known here are ca, cert, key, denied-serials, denied",
            ),
            (
                "cluster = \"lab\"\n[policy]\nmode = \"repair\"",
                "line 3: unknown variant `repair`, expected one of `observe`, `guard`, `heal`",
            ),
            ("cluster = \"lab\"\nlisten = \"calypso\"", "line 2: invalid socket address syntax"),
            (
                "cluster = \"lab\"\nlisten = \"192.168.2.80:0\"",
                "listen: 192.168.2.80:0 cannot be listened on: try ADDRESS:7443",
            ),
            ("cluster = \"la b\"", "cluster: \"la b\" is no name: letters, digits, `-`, `.`, `_`"),
            ("cluster = \"lab\"\nstate = \"x\"", "state: x is not an absolute path"),
            (
                "cluster = \"lab\"\n[policy]\nlifeline = 0x3",
                "policy.lifeline: 0x3 is not one bit, such as 0x1000",
            ),
            (
                "cluster = \"lab\"\n[policy]\nlifeline = 0x1000",
                "policy.lifeline: it must be another bit than policy.see-through",
            ),
            (
                "cluster = \"lab\"\n[policy]\nmax-rung = 5",
                "policy.max-rung: 5 is not between 2 and 4",
            ),
            (
                "cluster = \"lab\"\n[policy]\nterm-grace-ms = 5",
                "policy.term-grace-ms: 5 is not between 100 and 30000",
            ),
            (
                "cluster = \"lab\"\n[metrics]\ntextfile = \"/var/lib/lifeline.txt\"",
                "metrics.textfile: /var/lib/lifeline.txt is no absolute path that ends in .prom",
            ),
            (
                "cluster = \"lab\"\ntextfile = \"/x.prom\"",
                "line 2: unknown key `textfile` here: it belongs under [metrics]",
            ),
            (
                "cluster = \"lab\"\n[limits]\nreserved = 64",
                "limits.reserved: 64 is not between 1 and 63",
            ),
            (
                "cluster = \"lab\"\n[tls]\ndenied-serials = [\"zz\"]",
                "tls.denied-serials: \"zz\" is no hexadecimal number, such as 1A:2B",
            ),
        ];
        for (text, wanted) in cases {
            let found = read(text).unwrap_err();
            assert!(found.contains(wanted), "{text:?}\n  found  {found}\n  wanted {wanted}");
            assert!(found.starts_with("read configuration /etc/lifeline/agent.toml"), "{found}");
        }
    }

    #[test]
    fn any_configuration_is_refused_with_its_line_or_makes_sense() {
        let fuzz = Fuzz::new("agent-toml").folder("../systemd", |p| p.ends_with("agent.toml"));
        fuzz.folder("tests/corpus/agent-toml", |_| true).run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            match Config::parse(Path::new("/agent.toml"), &text) {
                Err(ConfigError::Form { line, .. }) => {
                    assert!((1..=text.lines().count() + 1).contains(&line), "line {line}");
                }
                Err(_) => {}
                Ok(c) => {
                    assert!(c.state.is_absolute() && c.run.is_absolute());
                    assert!(c.limits.reserved < c.limits.connections);
                    assert!(c.policy.lifeline & c.policy.see_through == 0);
                    assert!(c.tls.denied_serials.iter().all(|s| serial(s).is_some()));
                }
            }
        });
    }

    #[test]
    fn a_missing_file_says_what_to_try() {
        let e = Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err();
        assert!(e.to_string().contains("copy the sample"), "{e}");
    }

    #[test]
    fn a_serial_is_a_number_however_it_is_written() {
        assert_eq!(serial("1a:2B"), serial("001A2B"));
        assert_eq!(serial("0x1a2b"), Some(vec![0x1a, 0x2b]));
        assert_eq!(serial(""), None);
    }
}
