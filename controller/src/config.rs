//! The operator's configuration: which cluster, which nodes at which addresses, and who we are to them.
//!
//! An unknown key is an error with its line: a mistyped `kubeconfig` that is silently ignored would silently skip a check.

mod error;
mod provider;
mod record;
pub mod verify;

pub use error::ConfigError;
pub use provider::{Provider, Role, Vps};
pub use record::{Github, Record};

use crate::suggest::nearest;
use crate::{files, pki};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Where an agent listens unless told otherwise.
pub const PORT: u16 = 7443;

/// As written in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cluster: Spanned<String>,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    tls: Option<Tls>,
    provider: Option<provider::Written>,
    record: Option<record::Written>,
    #[serde(default)]
    verify: verify::Verify,
    #[serde(default)]
    nodes: BTreeMap<Spanned<String>, WrittenNode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNode {
    addresses: Spanned<Vec<Spanned<String>>>,
    role: Option<Role>,
    ssh: Option<Spanned<String>>,
    vps: Option<provider::WrittenVps>,
}

/// A node of the configuration.
#[derive(Debug)]
struct Node {
    /// Each with a port.
    addresses: Vec<String>,
    role: Option<Role>,
    /// What `ssh` is told: `root@192.168.2.80`, or a name of its own configuration.
    ssh: Option<String>,
    vps: Option<Vps>,
}

/// Says what is wrong, and in which line.
struct Line<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Line<'_> {
    fn wrong(&self, at: usize, why: String, meant: Option<String>) -> ConfigError {
        let line = self.text.get(..at).unwrap_or(self.text).matches('\n').count() + 1;
        ConfigError::Line { path: self.path.to_owned(), line, why, meant }
    }
}

/// Who we are, and whom we believe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The cluster's authority.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// Where it was read.
    pub path: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// How to ask the API server, when that is wanted.
    pub kubeconfig: Option<PathBuf>,
    /// Context within it.
    pub context: Option<String>,
    /// What must be true of the cluster when it is well.
    pub verify: verify::Verify,
    tls: Option<Tls>,
    provider: Option<Provider>,
    record: Option<Record>,
    nodes: BTreeMap<String, Node>,
}

impl Config {
    /// Where it is, whether or not it is there.
    pub fn place(named: Option<&Path>) -> Result<PathBuf, ConfigError> {
        match named.filter(|p| !p.as_os_str().is_empty()) {
            Some(path) => Ok(path.to_owned()),
            None => Ok(home()?.join(".config/lifeline/ctl.toml")),
        }
    }

    /// Reads the file that was named, or the one in its usual place.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = Self::place(named)?;
        let text = files::read(&path)
            .map_err(|source| ConfigError::File { path: path.clone(), source })?;
        Self::parse(&path, &text)
    }

    /// Like [`Self::load`], and none is fine, too.
    pub fn load_if_there(named: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        match Self::load(named) {
            Err(ConfigError::File { source: files::FileError::Read { source, .. }, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(ConfigError::NoHome) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Reads the text of a configuration; relative paths are relative to the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let line = Line { path, text };
        let wrong = |at, why, meant| line.wrong(at, why, meant);
        let written: Written = toml::from_str(text).map_err(|e| {
            let (why, meant) = reword(e.message());
            wrong(e.span().map_or(0, |s| s.start), why, meant)
        })?;
        let at =
            |key: &Spanned<String>, e: &pki::PkiError| wrong(key.span().start, e.to_string(), None);
        pki::subject::cluster(written.cluster.get_ref()).map_err(|e| at(&written.cluster, &e))?;
        let mut nodes = BTreeMap::new();
        for (name, node) in &written.nodes {
            pki::subject::host("node", name.get_ref()).map_err(|e| at(name, &e))?;
            if node.addresses.get_ref().is_empty() {
                let why = format!("node {} has no address", name.get_ref());
                return Err(wrong(node.addresses.span().start, why, None));
            }
            let mut addresses = Vec::new();
            for a in node.addresses.get_ref() {
                addresses
                    .push(address(a.get_ref()).map_err(|why| wrong(a.span().start, why, None))?);
            }
            let vps = node.vps.as_ref().map(|v| v.check(&addresses, &line)).transpose()?;
            let ssh = node.ssh.as_ref().map(|s| provider::ssh(s, &line)).transpose()?;
            nodes.insert(name.get_ref().clone(), Node { addresses, role: node.role, ssh, vps });
        }
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        let provider = written.provider.map(|p| p.check(base, &line)).transpose()?;
        let record = written.record.map(|r| r.check(base, &line)).transpose()?;
        Ok(Self {
            path: path.to_owned(),
            cluster: written.cluster.into_inner(),
            kubeconfig: written.kubeconfig.map(|p| absolute(base, &p)),
            context: written.context,
            verify: written.verify,
            tls: written.tls.map(|t| Tls {
                ca: absolute(base, &t.ca),
                cert: absolute(base, &t.cert),
                key: absolute(base, &t.key),
            }),
            provider,
            record,
            nodes,
        })
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// A node's addresses.
    pub fn addresses(&self, node: &str) -> Result<&[String], ConfigError> {
        self.node(node).map(|n| n.addresses.as_slice())
    }

    /// What a node is to its cluster, if the file says so.
    pub fn role(&self, node: &str) -> Option<Role> {
        self.nodes.get(node)?.role
    }

    /// How `ssh` reaches a node, if it may be asked to.
    pub fn ssh(&self, node: &str) -> Option<&str> {
        self.nodes.get(node)?.ssh.as_deref()
    }

    /// A node's machine at the provider.
    pub fn vps(&self, node: &str) -> Result<&Vps, ConfigError> {
        self.node(node)?.vps.as_ref().ok_or_else(|| ConfigError::NoVps {
            path: self.path.clone(),
            what: format!("node {node} is not said to be a machine of the provider's"),
        })
    }

    /// The provider.
    pub fn provider(&self) -> Result<&Provider, ConfigError> {
        self.provider.as_ref().ok_or_else(|| ConfigError::NoVps {
            path: self.path.clone(),
            what: "it has no [provider] section".to_owned(),
        })
    }

    /// Where a recovery is written down for others, if anywhere.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    fn node(&self, node: &str) -> Result<&Node, ConfigError> {
        self.nodes.get(node).ok_or_else(|| ConfigError::UnknownNode {
            name: node.to_owned(),
            path: self.path.clone(),
            meant: nearest(node, self.nodes()).map(Into::into),
            known: self.nodes().map(Into::into).collect(),
        })
    }

    /// Who we are on the network.
    pub fn tls(&self) -> Result<&Tls, ConfigError> {
        self.tls.as_ref().ok_or_else(|| ConfigError::NoTls { path: self.path.clone() })
    }
}

fn home() -> Result<PathBuf, ConfigError> {
    std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from).ok_or(ConfigError::NoHome)
}

fn absolute(base: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(rest) => home().map_or_else(|_| path.to_owned(), |h| h.join(rest)),
        Err(_) => base.join(path),
    }
}

/// serde speaks of fields, the file of keys.
fn reword(message: &str) -> (String, Option<String>) {
    let why =
        message.replace("unknown field", "unknown key").replace("missing field", "missing key");
    let mut ticked = message.split('`').skip(1).step_by(2);
    let meant = match (message.starts_with("unknown field"), ticked.next()) {
        (true, Some(typed)) => nearest(typed, ticked).map(Into::into),
        _ => None,
    };
    (why, meant)
}

/// Adds the port where none is named: `192.168.2.80`, `192.168.2.80:7443`, `[fd00::80]:7443`, `calypso.example`.
fn address(text: &str) -> Result<String, String> {
    use std::net::{IpAddr, SocketAddr};
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT).to_string());
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(socket.to_string());
    }
    let bad = || {
        format!("{text:?} is no address: write 192.168.2.80, 192.168.2.80:{PORT} or a host name")
    };
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse::<u16>().map_err(|_| bad())?),
        None => (text, PORT),
    };
    pki::subject::host("address", &name.to_ascii_lowercase()).map_err(|_| bad())?;
    Ok(format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    const GOOD: &str = r#"
cluster = "lab"
kubeconfig = "admin.conf"

[tls]
ca = "ca.crt"
cert = "/abs/operator.crt"
key = "operator.key"

[nodes.calypso]
addresses = ["192.168.2.80", "fd00::80", "10.0.0.9:7000", "calypso.example"]
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/home/a/ctl.toml"), text)
    }

    fn message(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn paths_are_relative_to_the_file_and_addresses_get_the_port() {
        let c = parse(GOOD).unwrap();
        assert_eq!(c.tls().unwrap().ca, Path::new("/home/a/ca.crt"));
        assert_eq!(c.tls().unwrap().cert, Path::new("/abs/operator.crt"));
        assert_eq!(c.kubeconfig.as_deref(), Some(Path::new("/home/a/admin.conf")));
        assert_eq!(
            c.addresses("calypso").unwrap(),
            ["192.168.2.80:7443", "[fd00::80]:7443", "10.0.0.9:7000", "calypso.example:7443"]
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_was_meant() {
        let e = parse(&GOOD.replace("kubeconfig", "kubeconfg")).unwrap_err();
        let ConfigError::Line { line, why, meant, .. } = e else { panic!("{e}") };
        assert_eq!((line, meant.as_deref()), (3, Some("kubeconfig")));
        assert!(why.contains("unknown key `kubeconfg`"), "{why}");
        let inner = message(&GOOD.replace("addresses", "address"));
        assert!(inner.contains("line 11") && inner.contains("unknown key `address`"), "{inner}");
    }

    #[test]
    fn what_cannot_be_an_address_is_named_with_its_line() {
        let m = message(&GOOD.replace("10.0.0.9:7000", "10.0.0.9:port"));
        assert!(m.contains("line 11") && m.contains("10.0.0.9:port"), "{m}");
        assert!(
            message(&GOOD.replace(
                r#"["192.168.2.80", "fd00::80", "10.0.0.9:7000", "calypso.example"]"#,
                "[]"
            ))
            .contains("node calypso has no address")
        );
        assert!(message("cluster = 3").contains("line 1"));
        assert!(message("[tls]\nca = 'x'\n").contains("missing key `cert`"));
    }

    #[test]
    fn any_configuration_is_refused_with_its_line_or_makes_sense() {
        Fuzz::new("ctl-toml").folder("tests/corpus/ctl-toml", |_| true).run(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            match parse(&text) {
                Err(ConfigError::Line { line, .. }) => {
                    assert!((1..=text.lines().count() + 1).contains(&line), "line {line}");
                }
                Err(_) => {}
                Ok(c) => {
                    for node in c.nodes() {
                        let addresses = c.addresses(node).unwrap();
                        assert!(addresses.iter().all(|a| a.contains(':')), "{addresses:?}");
                    }
                }
            }
        });
    }

    #[test]
    fn a_mistyped_node_is_guessed() {
        let e = parse(GOOD).unwrap().addresses("calipso").unwrap_err();
        let ConfigError::UnknownNode { meant, .. } = &e else { panic!("{e}") };
        assert_eq!(meant.as_deref(), Some("calypso"));
    }
}
