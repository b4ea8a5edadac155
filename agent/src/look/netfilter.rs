//! All netfilter tables of both backends and families; a table that cannot be read whole is a gap, never half a table.

use super::{Seen, chain};
use crate::netfilter::read_all;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Gap, NfTable, Sense};
use std::time::Duration;
use tokio::time::timeout;

/// Reads them. A child still running at the deadline is killed when its call is dropped; it only reads, so it leaves nothing.
pub(super) async fn read(limit: Duration) -> Seen<Vec<NfTable>> {
    let one = async |what, backend, family| match timeout(limit, read_all(backend, family)).await {
        Ok(Ok(tables)) => Seen::whole(tables),
        Ok(Err(e)) => Seen::nothing(what, chain(&e)),
        Err(_) => Seen::nothing(what, format!("read netfilter tables: not done within {limit:?}")),
    };
    let (legacy4, legacy6, nft4, nft6) = tokio::join!(
        one(Sense::Legacy4, Backend::Legacy, Family::V4),
        one(Sense::Legacy6, Backend::Legacy, Family::V6),
        one(Sense::Nft4, Backend::Nft, Family::V4),
        one(Sense::Nft6, Backend::Nft, Family::V6),
    );
    let mut gaps: Vec<Gap> = Vec::new();
    let found =
        [legacy4, legacy6, nft4, nft6].into_iter().flat_map(|s| s.unpack(&mut gaps)).collect();
    Seen { found, gaps }
}
