//! `[provider]` and `[nodes.NAME.vps]`: where the machines are rented, and which of them a node is.

use super::{ConfigError, Line, absolute};
use crate::secret::Reference;
use crate::words;
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// Hostinger's documented address.
pub const API: &str = "https://developers.hostinger.com";
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(20);

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    // A value of another type would be repeated in the parser's error, and might be the token itself.
    token: Spanned<toml::Value>,
    api: Option<Spanned<String>>,
    ca: Option<PathBuf>,
    timeout: Option<Spanned<String>>,
}

/// The provider, and how we prove to it who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Where the token is.
    pub token: Reference,
    /// `https://host[:port]`, without a path.
    pub api: String,
    /// Believed instead of the system's authorities.
    pub ca: Option<PathBuf>,
    /// How long one answer may take.
    pub timeout: Duration,
}

/// As written for a node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenVps {
    hostname: Spanned<String>,
    ipv4: Option<Spanned<String>>,
}

/// How a node's machine is known at the provider: by both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vps {
    /// Its host name there.
    pub hostname: String,
    /// Its public addresses.
    pub ipv4: Vec<Ipv4Addr>,
}

/// What a node is to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It runs pods.
    Worker,
    /// It runs the API server: never restarted or rebuilt from here.
    ControlPlane,
}

impl Written {
    pub(super) fn check(self, base: &Path, line: &Line<'_>) -> Result<Provider, ConfigError> {
        let token = reference(&self.token, base, line)?;
        let api = match &self.api {
            Some(api) => {
                base_of(api.get_ref()).map_err(|why| line.wrong(api.span().start, why, None))?
            }
            None => API.to_owned(),
        };
        let timeout = match &self.timeout {
            Some(t) => span(t.get_ref()).map_err(|why| line.wrong(t.span().start, why, None))?,
            None => ANSWER,
        };
        Ok(Provider { token, api, ca: self.ca.map(|p| absolute(base, &p)), timeout })
    }
}

impl WrittenVps {
    pub(super) fn check(&self, addresses: &[String], line: &Line<'_>) -> Result<Vps, ConfigError> {
        let name = self.hostname.get_ref();
        crate::pki::subject::host("hostname", &name.to_ascii_lowercase())
            .map_err(|e| line.wrong(self.hostname.span().start, e.to_string(), None))?;
        let ipv4 = match &self.ipv4 {
            Some(ip) => match ip.get_ref().parse() {
                Ok(ip) => vec![ip],
                Err(_) => {
                    let why = format!("{:?} is no IPv4 address", ip.get_ref());
                    return Err(line.wrong(ip.span().start, why, None));
                }
            },
            None => addresses
                .iter()
                .filter_map(|a| a.parse::<std::net::SocketAddrV4>().ok())
                .map(|a| *a.ip())
                .collect(),
        };
        if ipv4.is_empty() {
            let why =
                "none of the node's addresses is an IPv4 address: add ipv4 = \"203.0.113.20\"";
            return Err(line.wrong(self.hostname.span().start, why.into(), None));
        }
        Ok(Vps { hostname: name.clone(), ipv4 })
    }
}

/// What `ssh` would take for an option is no destination.
pub(super) fn ssh(text: &Spanned<String>, line: &Line<'_>) -> Result<String, ConfigError> {
    let t = text.get_ref();
    let good = |c: char| c.is_ascii_alphanumeric() || "@.-_:[]%/".contains(c);
    match !t.is_empty() && !t.starts_with('-') && t.chars().all(good) {
        true => Ok(t.clone()),
        false => {
            let why = format!("{t:?} is no destination of ssh: write root@192.168.2.80");
            Err(line.wrong(text.span().start, why, None))
        }
    }
}

/// Where a token is; a token that stands in the file itself is refused, and never repeated.
pub(super) fn reference(
    token: &Spanned<toml::Value>,
    base: &Path,
    line: &Line<'_>,
) -> Result<Reference, ConfigError> {
    let at = token.span().start;
    let Some(text) = token.get_ref().as_str() else {
        return Err(line.wrong(
            at,
            "token must be a reference in quotes: op://…, env:NAME or file:PATH".into(),
            None,
        ));
    };
    Reference::parse(text, base).map_err(|e| {
        let hint = e.hint().map(|h| format!("\n  {h}")).unwrap_or_default();
        line.wrong(at, format!("token: {e}{hint}"), None)
    })
}

/// Only TLS: the token goes with every question.
pub(super) fn base_of(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is no https://HOST or https://HOST:PORT");
    let rest = text.strip_prefix("https://").ok_or_else(bad)?.trim_end_matches('/');
    let uri: http::Uri = format!("https://{rest}/").parse().map_err(|_| bad())?;
    match uri.authority() {
        Some(a) if a.as_str() == rest && !rest.contains('@') => Ok(format!("https://{rest}")),
        _ => Err(bad()),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    words::span(text).and_then(|s| match s.as_secs() {
        1..=60 => Ok(s),
        _ => Err("timeout must be from 1s to 60s".into()),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};
    use std::path::Path;

    const GOOD: &str = r#"
cluster = "lab"
[provider]
token = "op://Infrastructure/hostinger/api_token"
[nodes.styx]
addresses = ["203.0.113.20", "styx.example"]
role = "worker"
vps = { hostname = "srv17923.hstgr.cloud" }
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/home/a/ctl.toml"), text)
    }

    #[test]
    fn a_vps_is_known_by_its_host_name_and_the_nodes_ipv4() {
        let c = parse(GOOD).unwrap();
        assert_eq!(c.provider().unwrap().api, super::API);
        let vps = c.vps("styx").unwrap();
        assert_eq!(
            (vps.hostname.as_str(), vps.ipv4[0].to_string()),
            ("srv17923.hstgr.cloud", "203.0.113.20".into())
        );
        let none = GOOD.replace("\"203.0.113.20\", ", "");
        assert!(
            parse(&none).unwrap_err().to_string().contains("line 8: none of the node's addresses")
        );
    }

    #[test]
    fn a_token_that_stands_in_the_file_itself_is_refused_and_not_repeated() {
        for value in
            ["\"hunter2\"", "48151623", "hunter2", "[\"hunter2\"]", "{ hunter2 = 1 }", "\"hunter2"]
        {
            let text = GOOD.replace("\"op://Infrastructure/hostinger/api_token\"", value);
            let error = parse(&text).unwrap_err();
            let said = format!("{error}{error:?}");
            assert!(!said.contains("hunter2") && !said.contains("48151623"), "{said}");
            assert!(said.contains("line 4"), "{said}");
        }
    }

    #[test]
    fn the_token_is_never_sent_without_tls() {
        for api in [
            "http://developers.hostinger.com",
            "https://me@host",
            "https://host/path",
            "ftp://x",
            "host",
        ] {
            let text = GOOD.replace("[nodes", &format!("api = \"{api}\"\n[nodes"));
            assert!(parse(&text).unwrap_err().to_string().contains("is no https://HOST"), "{api}");
        }
        let text = GOOD.replace("[nodes", "api = \"https://127.0.0.1:8443/\"\n[nodes");
        assert_eq!(parse(&text).unwrap().provider().unwrap().api, "https://127.0.0.1:8443");
    }
}
