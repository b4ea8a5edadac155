//! All netfilter tables of both backends and families; a table that cannot be read whole is a gap, never half a table.

use super::{Seen, chain};
use crate::netfilter::{ReadError, read_all, read_inet};
use crate::netlink::nft_generation;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Gap, NfTable, Sense};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// What nf_tables held at a generation of its ruleset. While the kernel still names that generation nothing in it has changed,
/// and 20 000 rules need not be read again.
#[derive(Debug, Default)]
pub(super) struct Netfilter {
    known: Mutex<Option<(u32, Tables)>>,
}

/// The tables of one backend and family each, and those of nftables' `inet` family.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) single: Vec<NfTable>,
    pub(super) inet: Vec<NfTable>,
}

impl Netfilter {
    /// Reads them. A child still running at the deadline is killed when its call is dropped; it only reads, so it leaves
    /// nothing.
    pub(super) async fn read(&self, limit: Duration) -> Seen<Tables> {
        let (legacy4, legacy6, nft) = tokio::join!(
            one(Sense::Legacy4, limit, read_all(Backend::Legacy, Family::V4)),
            one(Sense::Legacy6, limit, read_all(Backend::Legacy, Family::V6)),
            self.nft(limit),
        );
        let mut gaps: Vec<Gap> = Vec::new();
        let mut single = legacy4.unpack(&mut gaps);
        single.extend(legacy6.unpack(&mut gaps));
        let nft = nft.unpack(&mut gaps);
        single.extend(nft.single);
        Seen { found: Tables { single, inet: nft.inet }, gaps }
    }

    async fn nft(&self, limit: Duration) -> Seen<Tables> {
        let before = nft_generation().await.ok().flatten();
        if let (Some(now), Some((then, tables))) = (before, self.known().as_ref())
            && now == *then
        {
            // The lists in them are shared, not copied.
            return Seen::whole(tables.clone());
        }
        // What is not so any more makes room for what is.
        *self.known() = None;
        let (nft4, nft6, inet) = tokio::join!(
            one(Sense::Nft4, limit, read_all(Backend::Nft, Family::V4)),
            one(Sense::Nft6, limit, read_all(Backend::Nft, Family::V6)),
            one(Sense::Nft4, limit, read_inet()),
        );
        let mut gaps = Vec::new();
        let mut single = nft4.unpack(&mut gaps);
        single.extend(nft6.unpack(&mut gaps));
        let found = Tables { single, inet: inet.unpack(&mut gaps) };
        let after = nft_generation().await.ok().flatten();
        // What was read while it changed is a mixture, right for the moment and not worth keeping.
        let kept = before
            .filter(|_| before == after && gaps.is_empty())
            .map(|generation| (generation, found.clone()));
        *self.known() = kept;
        Seen { found, gaps }
    }

    fn known(&self) -> MutexGuard<'_, Option<(u32, Tables)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn one(
    what: Sense,
    limit: Duration,
    read: impl Future<Output = Result<Vec<NfTable>, ReadError>>,
) -> Seen<Vec<NfTable>> {
    match timeout(limit, read).await {
        Ok(Ok(tables)) => Seen::whole(tables),
        Ok(Err(e)) => Seen::nothing(what, chain(&e)),
        Err(_) => Seen::nothing(what, format!("read netfilter tables: not done within {limit:?}")),
    }
}
