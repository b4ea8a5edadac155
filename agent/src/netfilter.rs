//! Reads netfilter tables whole or not at all, in the language of `iptables-save` or of `nft`. Never changes one.
//!
//! `iptables-nft-save` says "all well" and prints half a table when a rule is beyond it; only stderr or a comment line tells.
//! A reader that trusts its exit status reads a half-empty firewall as "nothing there".

use std::time::Duration;

use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Chain, Dialect, NfRule, NfTable};

use crate::children::{Call, ChildError, Ran};
use crate::netlink::{NetlinkError, nft_tables};

/// 20 000 rules are some 4 MB of text.
const CAP: usize = 64 << 20;
const LIMIT: Duration = Duration::from_secs(10);

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The tool did not run.
    #[error("read netfilter tables")]
    Child(#[from] ChildError),
    /// The list of legacy tables.
    #[error("read {path}")]
    Names {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The list of nf_tables tables.
    #[error("list nf_tables tables")]
    Tables {
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// iptables-nft cannot express what is in there; `nft` can.
    #[error("read table {table}: it holds rules that iptables cannot express")]
    Incompatible {
        /// The table, or `*` when the tool did not say.
        table: String,
    },
    /// The output is not what the tool prints when all is well.
    #[error("read netfilter tables: {why}")]
    Malformed {
        /// What is wrong with it.
        why: String,
    },
}

/// Program of a backend and family: `iptables-legacy-save`, `ip6tables-nft-restore`.
pub fn tool(backend: Backend, family: Family, suffix: &str) -> String {
    let family = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let backend = match backend {
        Backend::Legacy => "legacy",
        Backend::Nft => "nft",
    };
    format!("{family}-{backend}{suffix}")
}

/// nft's word for a family.
pub fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Tables that exist in ip_tables. To ask `iptables-legacy` about any other would *create* it.
///
/// # Errors
/// When the list cannot be read. A kernel without ip_tables has none.
pub fn legacy_tables(family: Family) -> Result<Vec<String>, ReadError> {
    // Of this thread: /proc/net is that of the main thread's namespace.
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ReadError::Names { path, source }),
    }
}

/// Reads every table of a backend and family. A table of nf_tables that iptables cannot express comes in nft's language.
///
/// # Errors
/// When any of it cannot be read whole.
pub async fn read_all(backend: Backend, family: Family) -> Result<Vec<NfTable>, ReadError> {
    match backend {
        Backend::Legacy => {
            let mut tables = Vec::new();
            for name in legacy_tables(family)? {
                tables.extend(read(backend, family, &name, Dialect::Iptables).await?);
            }
            Ok(tables)
        }
        Backend::Nft => {
            let mut tables = Vec::new();
            for name in nft_tables(family).await.map_err(|source| ReadError::Tables { source })? {
                let known = ["filter", "nat", "mangle", "raw", "security"].contains(&name.as_str());
                let save = if known {
                    read(backend, family, &name, Dialect::Iptables).await
                } else {
                    Err(ReadError::Incompatible { table: name.clone() })
                };
                match save {
                    Ok(table) => tables.extend(table),
                    Err(ReadError::Incompatible { .. } | ReadError::Malformed { .. }) => {
                        tables.extend(read(backend, family, &name, Dialect::Nft).await?);
                    }
                    Err(e) => return Err(e),
                }
            }
            Ok(tables)
        }
    }
}

/// Reads one table in one language; `None` when it does not exist.
///
/// # Errors
/// When it cannot be read whole in that language.
pub async fn read(
    backend: Backend,
    family: Family,
    table: &str,
    dialect: Dialect,
) -> Result<Option<NfTable>, ReadError> {
    if backend == Backend::Legacy && !legacy_tables(family)?.iter().any(|t| t == table) {
        return Ok(None);
    }
    let tables = match dialect {
        Dialect::Iptables => {
            let call = Call::new(&tool(backend, family, "-save")).args(["-t", table]);
            let ran = call.limit(LIMIT).cap(CAP).run().await?;
            if ran.stderr.contains("does not exist") {
                return Ok(None);
            }
            parse_save(&checked_save(ran, backend)?, backend, family)?
        }
        Dialect::Nft => {
            let nft = nft_family(family);
            let call = Call::new("nft").args(["-n", "-a", "-s", "list", "table", nft, table]);
            let ran = call.limit(LIMIT).cap(CAP).run().await?;
            if !ran.status.success() && ran.stderr.contains("No such file or directory") {
                return Ok(None);
            }
            parse_nft(&ran.checked()?.text(), family)?
        }
    };
    let mut found = tables.into_iter().filter(|t| t.name == table);
    match (found.next(), dialect) {
        (Some(table), _) => Ok(Some(table)),
        // `nft list table` and a save without the table in it: neither says that it does not exist.
        (None, _) => {
            Err(ReadError::Malformed { why: format!("table {table} is not in the output") })
        }
    }
}

/// The text of a save, when nothing says that part of it is missing.
fn checked_save(ran: Ran, backend: Backend) -> Result<String, ReadError> {
    let harmless = |l: &str| l.trim().is_empty() || l.contains("tables present, use");
    let complaint = ran.stderr.lines().find(|l| !harmless(l)).map(str::to_owned);
    // "Parsing nftables rule failed": the table is cut short behind it, and the exit status is 3 or, after a warning, 0. Whether it
    // is that or something worse, `nft` will tell.
    if let Some(line) = complaint.filter(|_| backend == Backend::Nft || ran.status.success()) {
        tracing::debug!(line, "iptables-save complains");
        return Err(ReadError::Incompatible { table: "*".to_owned() });
    }
    Ok(ran.checked()?.text())
}

/// Reads the output of `iptables-save`.
///
/// # Errors
/// When a table is incomplete.
pub fn parse_save(text: &str, backend: Backend, family: Family) -> Result<Vec<NfTable>, ReadError> {
    let mut tables = Vec::new();
    let mut open: Option<NfTable> = None;
    let bad = |line: &str, what: &str| ReadError::Malformed { why: format!("{what}: {line}") };
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            if open.is_some() {
                return Err(bad(line, "a table begins before the last one ended"));
            }
            open = Some(NfTable {
                backend,
                family,
                name: name.trim().to_owned(),
                dialect: Dialect::Iptables,
                chains: Vec::new(),
                rules: Vec::new(),
            });
        } else if let Some(comment) = line.strip_prefix('#') {
            // "Table `mangle' is incompatible", or "contains incompatible base-chains", which are then left out with all
            // that is in them: an OUTPUT chain of type filter where iptables has type route.
            if comment.contains("incompatible") {
                let table = comment.split(['`', '\'']).nth(1).unwrap_or("*").to_owned();
                return Err(ReadError::Incompatible { table });
            }
        } else if line.trim().is_empty() {
        } else if line == "COMMIT" {
            tables.push(open.take().ok_or_else(|| bad(line, "outside a table"))?);
        } else {
            let table = open.as_mut().ok_or_else(|| bad(line, "outside a table"))?;
            if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split_whitespace();
                let name = words.next().ok_or_else(|| bad(line, "a chain without a name"))?;
                let policy = words.next().filter(|p| *p != "-").map(str::to_owned);
                table.chains.push(Chain { name: name.to_owned(), policy, hook: None });
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, spec) = rule.split_once(' ').unwrap_or((rule, ""));
                table.rules.push(NfRule {
                    chain: chain.to_owned(),
                    spec: spec.to_owned(),
                    handle: None,
                });
            } else {
                return Err(bad(line, "not a line of iptables-save"));
            }
        }
    }
    match open {
        Some(table) => Err(bad(&table.name, "cut short in table")),
        None => Ok(tables),
    }
}

/// Reads the output of `nft -n -a -s list table` (or `list ruleset`), the tables of one family.
///
/// # Errors
/// When a table is incomplete.
pub fn parse_nft(text: &str, family: Family) -> Result<Vec<NfTable>, ReadError> {
    let mut tables: Vec<NfTable> = Vec::new();
    let mut lines = text.lines();
    let bad = |line: &str, what: &str| ReadError::Malformed { why: format!("{what}: {line}") };
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let head = line
            .strip_prefix("table ")
            .and_then(|l| l.split_once('{'))
            .ok_or_else(|| bad(line, "outside a table"))?;
        let (kind, name) =
            head.0.trim().split_once(' ').ok_or_else(|| bad(line, "a table without a name"))?;
        let mut table = NfTable {
            backend: Backend::Nft,
            family,
            name: name.to_owned(),
            dialect: Dialect::Nft,
            chains: Vec::new(),
            rules: Vec::new(),
        };
        loop {
            let line = lines.next().ok_or_else(|| bad(name, "cut short in table"))?;
            let inner = line.trim();
            if inner == "}" {
                break;
            }
            if let Some(rest) = inner.strip_prefix("chain ") {
                let chain = rest.split_whitespace().next().unwrap_or_default();
                read_chain(chain, &mut lines, &mut table)?;
            } else if let Some((_, rest)) = inner.split_once('{')
                && !rest.contains('}')
            {
                skip_block(name, &mut lines)?;
            }
        }
        if kind == nft_family(family) {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// Sets, maps, flowtables: their elements may have blocks of their own.
fn skip_block(name: &str, lines: &mut std::str::Lines<'_>) -> Result<(), ReadError> {
    let mut depth = 1i32;
    while depth > 0 {
        let line = lines
            .next()
            .ok_or_else(|| ReadError::Malformed { why: format!("cut short in table: {name}") })?;
        for c in line.chars() {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
        }
    }
    Ok(())
}

fn read_chain(
    name: &str,
    lines: &mut std::str::Lines<'_>,
    table: &mut NfTable,
) -> Result<(), ReadError> {
    let cut = || ReadError::Malformed { why: format!("cut short in chain: {name}") };
    let mut chain = Chain { name: name.to_owned(), policy: None, hook: None };
    let mut rules = Vec::new();
    let mut pending = String::new();
    loop {
        let line = lines.next().ok_or_else(cut)?.trim();
        if pending.is_empty() {
            if line == "}" {
                break;
            }
            if line.starts_with("type ") && line.ends_with(';') {
                let (hook, policy) = line.split_once(';').unwrap_or((line, ""));
                chain.hook = Some(hook.to_owned());
                chain.policy = policy
                    .trim()
                    .strip_prefix("policy ")
                    .map(|p| p.trim_end_matches(';').to_uppercase());
                continue;
            }
            if line.is_empty() || line.starts_with("comment ") {
                continue;
            }
        } else {
            pending.push(' ');
        }
        pending.push_str(line);
        // A rule ends with its handle; a long set inside it may take several lines.
        let Some((spec, handle)) = pending.rsplit_once(" # handle ") else { continue };
        let Ok(handle) = handle.parse::<u64>() else { continue };
        rules.push(NfRule { chain: name.to_owned(), spec: squeezed(spec), handle: Some(handle) });
        pending.clear();
    }
    table.chains.push(chain);
    table.rules.append(&mut rules);
    Ok(())
}

/// With one space where nft prints several: an expression it has no words for (a comment match) leaves a hole. What is quoted
/// stays as it is.
fn squeezed(spec: &str) -> String {
    let mut out = String::with_capacity(spec.len());
    let mut quoted = false;
    for c in spec.trim().chars() {
        quoted ^= c == '"';
        if quoted || c != ' ' || !out.ends_with(' ') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVE: &str = "# Generated by iptables-nft-save v1.8.9 (nf_tables)\n*filter\n:INPUT DROP [0:0]\n\
        :ts-input - [0:0]\n-A INPUT -j ts-input\n-A ts-input -m comment --comment \"a \\\"b\\\" c\" -j ACCEPT\n\
        COMMIT\n# Completed\n";

    #[test]
    fn a_save_is_read_with_chains_policies_and_rules() {
        let tables = parse_save(SAVE, Backend::Nft, Family::V4).unwrap();
        assert_eq!(tables[0].chains[0].policy.as_deref(), Some("DROP"));
        assert_eq!(tables[0].chains[1].policy, None);
        assert_eq!(tables[0].rules[0].spec, "-j ts-input");
        assert_eq!(tables[0].rules[1].spec, r#"-m comment --comment "a \"b\" c" -j ACCEPT"#);
    }

    #[test]
    fn a_save_that_is_cut_short_is_an_error_and_never_half_a_table() {
        let cut = SAVE.split("COMMIT").next().unwrap();
        let e = parse_save(cut, Backend::Nft, Family::V4).unwrap_err();
        assert!(e.to_string().contains("cut short"), "{e}");
        let text = "# Table `mangle' is incompatible, use 'nft' tool.\n";
        let e = parse_save(text, Backend::Nft, Family::V4).unwrap_err();
        assert!(matches!(e, ReadError::Incompatible { table } if table == "mangle"));
        let text = "# Table `mangle' contains incompatible base-chains, use 'nft' tool to list them.\n*mangle\nCOMMIT\n";
        let e = parse_save(text, Backend::Nft, Family::V4).unwrap_err();
        assert!(matches!(e, ReadError::Incompatible { table } if table == "mangle"));
        assert!(parse_save("nonsense\n", Backend::Nft, Family::V4).is_err());
    }

    const NFT: &str = "# Warning: table ip filter is managed by iptables-nft, do not touch!\n\
        table ip filter { # handle 1\n\tset myset { # handle 10\n\t\ttype ipv4_addr\n\t\telements = { 1.2.3.4,\n\
        \t\t\t     1.2.3.6 }\n\t}\n\n\tchain ts-input { # handle 1\n\
        \t\tip saddr 1.2.3.4  counter accept # handle 4\n\
        \t\ttcp dport { 1, 2,\n\t\t\t 443 } accept comment \"x  # handle y\" # handle 9\n\t}\n\n\
        \tchain INPUT { # handle 2\n\t\ttype filter hook input priority 0; policy accept;\n\
        \t\tcounter jump ts-input # handle 3\n\t}\n}\n";

    #[test]
    fn an_nft_listing_is_read_with_hooks_and_handles_past_sets() {
        let tables = parse_nft(NFT, Family::V4).unwrap();
        let t = &tables[0];
        assert_eq!(t.chains[0], Chain { name: "ts-input".into(), policy: None, hook: None });
        assert_eq!(t.chains[1].hook.as_deref(), Some("type filter hook input priority 0"));
        assert_eq!(t.chains[1].policy.as_deref(), Some("ACCEPT"));
        let seen: Vec<_> = t.rules.iter().map(|r| (r.spec.as_str(), r.handle)).collect();
        assert_eq!(
            seen,
            [
                ("ip saddr 1.2.3.4 counter accept", Some(4)),
                (r#"tcp dport { 1, 2, 443 } accept comment "x  # handle y""#, Some(9)),
                ("counter jump ts-input", Some(3)),
            ]
        );
        assert!(parse_nft(NFT.trim_end().trim_end_matches('}'), Family::V4).is_err());
        assert!(parse_nft(NFT, Family::V6).unwrap().is_empty(), "another family's table");
    }
}
