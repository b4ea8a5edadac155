//! Reads netfilter tables whole or not at all, in the language of `iptables-save` or of `nft`. Never changes one.
//!
//! `iptables-nft-save` says "all well" and prints half a table when a rule is beyond it; only stderr or a comment line tells.
//! A reader that trusts its exit status reads a half-empty firewall as "nothing there".

mod native;
mod save;

pub use native::{parse_inet, parse_nft};
pub use save::parse_save;

use std::time::Duration;

use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Dialect, NfTable};

use crate::aside::aside;
use crate::children::{Call, ChildError, Ran};
use crate::netlink::{NetlinkError, inet_tables, nft_tables};

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

/// nft's word for the family that is of both.
const INET: &str = "inet";

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
            let names = nft_tables(family).await.map_err(|source| ReadError::Tables { source })?;
            let mut whole = match names.iter().any(|name| is_known(name)) {
                true => saved(family).await?,
                false => Vec::new(),
            };
            let mut tables = Vec::new();
            for name in names {
                if let Some(at) = whole.iter().position(|t| t.name == name) {
                    tables.push(whole.swap_remove(at));
                    continue;
                }
                let save = match is_known(&name) {
                    true => read(backend, family, &name, Dialect::Iptables).await,
                    false => Err(ReadError::Incompatible { table: name.clone() }),
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

/// Tables that iptables knows.
fn is_known(name: &str) -> bool {
    ["filter", "nat", "mangle", "raw", "security"].contains(&name)
}

/// All tables of nf_tables that iptables knows, by one call: table by table, each call would read the list of chains and sets of all
/// of them again, which with 20 000 rules takes half as long once more. None, when any of them cannot be read whole that way.
async fn saved(family: Family) -> Result<Vec<NfTable>, ReadError> {
    let call = Call::new(&tool(Backend::Nft, family, "-save"));
    let ran = call.limit(LIMIT).cap(CAP).run().await?;
    let read = match checked_save(ran, Backend::Nft) {
        Ok(text) => aside(move || parse_save(&text, Backend::Nft, family)).await,
        Err(why) => Err(why),
    };
    match read {
        Err(ReadError::Incompatible { .. } | ReadError::Malformed { .. }) => Ok(Vec::new()),
        read => read,
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
            let text = checked_save(ran, backend)?;
            aside(move || parse_save(&text, backend, family)).await?
        }
        Dialect::Nft => match list(nft_family(family), table).await? {
            Some(text) => aside(move || parse_nft(&text, family)).await?,
            None => return Ok(None),
        },
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

/// Reads the tables of nftables' `inet` family.
///
/// # Errors
/// When any of it cannot be read whole.
pub async fn read_inet() -> Result<Vec<NfTable>, ReadError> {
    let mut tables = Vec::new();
    for name in inet_tables().await.map_err(|source| ReadError::Tables { source })? {
        // One that has gone since is not there.
        if let Some(text) = list(INET, &name).await? {
            tables.extend(aside(move || parse_inet(&text)).await?);
        }
    }
    Ok(tables)
}

/// A table as `nft` prints it; `None` when there is none.
async fn list(family: &str, table: &str) -> Result<Option<String>, ReadError> {
    let call = Call::new("nft").args(["-n", "-a", "-s", "list", "table", family, table]);
    let ran = call.limit(LIMIT).cap(CAP).run().await?;
    if !ran.status.success() && ran.stderr.contains("No such file or directory") {
        return Ok(None);
    }
    Ok(Some(ran.checked()?.into_text()))
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
    Ok(ran.checked()?.into_text())
}
