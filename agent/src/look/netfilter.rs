//! All netfilter tables of both backends and families; a table that cannot be read whole is a gap, never half a table.

use super::{Seen, chain};
use crate::netfilter::read_all;
use crate::netlink::nft_generation;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Gap, NfTable, Sense};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// What nf_tables held at a generation of its ruleset. While the kernel still names that generation nothing in it has changed,
/// and 20 000 rules need not be read again.
#[derive(Debug, Default)]
pub(super) struct Netfilter {
    known: Mutex<Option<(u32, Vec<NfTable>)>>,
}

impl Netfilter {
    /// Reads them. A child still running at the deadline is killed when its call is dropped; it only reads, so it leaves
    /// nothing.
    pub(super) async fn read(&self, limit: Duration) -> Seen<Vec<NfTable>> {
        let (legacy4, legacy6, nft) = tokio::join!(
            one(Sense::Legacy4, Backend::Legacy, Family::V4, limit),
            one(Sense::Legacy6, Backend::Legacy, Family::V6, limit),
            self.nft(limit),
        );
        let mut gaps: Vec<Gap> = Vec::new();
        let found = [legacy4, legacy6, nft].into_iter().flat_map(|s| s.unpack(&mut gaps)).collect();
        Seen { found, gaps }
    }

    async fn nft(&self, limit: Duration) -> Seen<Vec<NfTable>> {
        let before = nft_generation().await.ok().flatten();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (Some(now), Some((then, tables))) = (before, known)
            && now == then
        {
            return Seen::whole(tables);
        }
        let (nft4, nft6) = tokio::join!(
            one(Sense::Nft4, Backend::Nft, Family::V4, limit),
            one(Sense::Nft6, Backend::Nft, Family::V6, limit),
        );
        let mut gaps = Vec::new();
        let found: Vec<NfTable> =
            [nft4, nft6].into_iter().flat_map(|s| s.unpack(&mut gaps)).collect();
        let after = nft_generation().await.ok().flatten();
        // What was read while it changed is a mixture, right for the moment and not worth keeping.
        let kept = before
            .filter(|_| before == after && gaps.is_empty())
            .map(|generation| (generation, found.clone()));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Seen { found, gaps }
    }
}

async fn one(what: Sense, backend: Backend, family: Family, limit: Duration) -> Seen<Vec<NfTable>> {
    match timeout(limit, read_all(backend, family)).await {
        Ok(Ok(tables)) => Seen::whole(tables),
        Ok(Err(e)) => Seen::nothing(what, chain(&e)),
        Err(_) => Seen::nothing(what, format!("read netfilter tables: not done within {limit:?}")),
    }
}
