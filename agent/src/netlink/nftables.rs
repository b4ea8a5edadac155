//! What nf_tables says of itself without a tool: which tables there are, and which generation of its ruleset this is.
//!
//! `nft list tables` reads the whole ruleset to print three names: half a second and 79 MB at 20 000 rules (K13).

use super::wire::{HEADER, attributes, converse, u16_at};
use super::{LIMIT, NetlinkError};
use lifeline_core::net::Family;
use rtnetlink::sys::constants::NETLINK_NETFILTER;
use tokio::time::timeout;

/// `NFNL_SUBSYS_NFTABLES` in the upper byte, a message number of `nf_tables_msg_types` in the lower.
const NEW_TABLE: u16 = 0x0a00;
const GET_TABLE: u16 = 0x0a01;
const NEW_GEN: u16 = 0x0a0f;
const GET_GEN: u16 = 0x0a10;
/// `NFTA_TABLE_NAME`, `NFTA_GEN_ID`.
const FIRST: u16 = 1;
/// `nfgenmsg`.
const GENERAL: usize = 4;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// The subsystem is not there: no nf_tables in this kernel, and none was loaded for the asking.
const EINVAL: i32 = 22;

/// Names of the nf_tables tables of a family, in the kernel's order.
///
/// # Errors
/// When they could not be read to the end.
pub async fn nft_tables(family: Family) -> Result<Vec<String>, NetlinkError> {
    tables(match family {
        Family::V4 => 2,
        Family::V6 => 10,
    })
    .await
}

/// Names of the nf_tables tables of the `inet` family, which is of both.
///
/// # Errors
/// When they could not be read to the end.
pub async fn inet_tables() -> Result<Vec<String>, NetlinkError> {
    tables(1).await
}

async fn tables(number: u8) -> Result<Vec<String>, NetlinkError> {
    let mut names = Vec::new();
    let what = "list nf_tables tables";
    let asked = ask(what, GET_TABLE, REQUEST | DUMP, number, |kind, message| {
        if kind == NEW_TABLE {
            names.push(name_of(message)?);
        }
        Some(())
    });
    match asked.await {
        Err(e) if e.errno() == Some(EINVAL) => Ok(Vec::new()),
        other => other.map(|()| names),
    }
}

/// A number that changes with every change of any nf_tables table, in this network namespace; `None` without nf_tables.
///
/// # Errors
/// When the kernel does not say.
pub async fn nft_generation() -> Result<Option<u32>, NetlinkError> {
    let mut generation = None;
    let what = "read nf_tables' generation";
    let asked = ask(what, GET_GEN, REQUEST | ACK, 0, |kind, message| {
        if kind == NEW_GEN {
            generation = Some(generation_of(message)?);
        }
        Some(())
    });
    match asked.await {
        Err(e) if e.errno() == Some(EINVAL) => Ok(None),
        other => other.map(|()| generation),
    }
}

/// A table's name: one without is no table, and no reason to believe that there are fewer.
pub(super) fn name_of(message: &[u8]) -> Option<String> {
    let name = attributes(message, HEADER + GENERAL).find(|(k, _)| *k == FIRST)?.1;
    let text = name.split(|b| *b == 0).next().filter(|t| !t.is_empty())?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The number of the ruleset.
pub(super) fn generation_of(message: &[u8]) -> Option<u32> {
    let (_, id) = attributes(message, HEADER + GENERAL).find(|(k, _)| *k == FIRST)?;
    id.try_into().ok().map(u32::from_be_bytes)
}

/// Asks, and hands over what is of that family; `None` from `each` says that it cannot be read.
async fn ask(
    what: &str,
    kind: u16,
    flags: u16,
    family: u8,
    mut each: impl FnMut(u16, &[u8]) -> Option<()>,
) -> Result<(), NetlinkError> {
    let body = [family, 0, 0, 0];
    let call = converse(what, NETLINK_NETFILTER, kind, flags, &body, |kind, message| {
        // Of another family when the kernel ignores the one asked for.
        if family == 0 || message.get(HEADER) == Some(&family) || u16_at(message, 4).is_none() {
            each(kind, message).ok_or_else(|| NetlinkError::Garbled { what: what.to_owned() })?;
        }
        Ok(())
    });
    timeout(LIMIT, call).await.map_err(|_| NetlinkError::Late { what: what.to_owned() })?
}
