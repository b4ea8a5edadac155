//! Sets policies of chains in one transaction. Never touches a rule, never makes a chain.

use lifeline_core::engine::Failure;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Dialect, NfTable};
use lifeline_core::op::{ChainPolicy, Seen};

use super::{Locks, chain, feed, lasting, lock, passing, read, tool, unread, word};
use crate::netfilter::nft_family;

/// One table and the policies that are wanted: the fields of `NodeOp::Policies`.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Backend.
    pub backend: Backend,
    /// Family.
    pub family: Family,
    /// Table.
    pub table: &'a str,
    /// Language of the table.
    pub dialect: Dialect,
    /// What each chain's policy is to be.
    pub wanted: &'a [ChainPolicy],
}

impl Target<'_> {
    fn what(&self) -> String {
        format!("set policies in table {} of {}", self.table, tool(self.backend, self.family, ""))
    }

    fn check(&self) -> Result<(), String> {
        word(self.table)?;
        for w in self.wanted {
            word(&w.chain)?;
            if !matches!(w.policy.as_str(), "ACCEPT" | "DROP") {
                return Err(format!("{:?} is no policy", w.policy));
            }
        }
        Ok(())
    }

    /// The wanted policies that are others now, of chains that are there.
    fn due<'a>(&'a self, table: &'a NfTable) -> impl Iterator<Item = &'a ChainPolicy> {
        self.wanted.iter().filter(|w| {
            let is_it = |p: &ChainPolicy| p.chain == w.chain && p.policy != w.policy;
            policies(table).any(|p| is_it(&p))
        })
    }

    fn script(&self, table: &NfTable) -> String {
        let due: Vec<&ChainPolicy> = self.due(table).collect();
        if due.is_empty() {
            return String::new();
        }
        match self.dialect {
            // With --noflush a built-in chain's line sets its policy and leaves its rules.
            Dialect::Iptables => {
                let lines: String =
                    due.iter().map(|w| format!(":{} {} [0:0]\n", w.chain, w.policy)).collect();
                format!("*{}\n{lines}COMMIT\n", self.table)
            }
            Dialect::Nft => due
                .iter()
                .map(|w| {
                    let (family, policy) = (nft_family(self.family), w.policy.to_lowercase());
                    format!("chain {family} {} {} {{ policy {policy}; }}\n", self.table, w.chain)
                })
                .collect(),
        }
    }
}

/// The policies a table's chains have.
fn policies(table: &NfTable) -> impl Iterator<Item = ChainPolicy> {
    table.chains.iter().filter_map(|c| {
        let policy = c.policy.as_ref()?.to_ascii_uppercase();
        Some(ChainPolicy { chain: c.name.clone(), policy })
    })
}

/// The policies of those chains that are there.
///
/// # Errors
/// When the table cannot be read whole.
pub async fn look(target: &Target<'_>) -> Result<Seen, String> {
    let what = target.what();
    target.check().map_err(|why| format!("{what}: refused: {why}"))?;
    let table = read(target.backend, target.family, target.table, target.dialect).await;
    let table = table.map_err(|e| format!("{what}: {}", chain(&e)))?;
    let asked = |p: &ChainPolicy| target.wanted.iter().any(|w| w.chain == p.chain);
    let there = table.iter().flat_map(policies).filter(asked).collect();
    Ok(Seen::Policies { there })
}

/// Sets them.
///
/// # Errors
/// When the table cannot be read, somebody holds the lock, or the tool refuses; then nothing has changed.
pub async fn act(target: &Target<'_>, locks: &Locks) -> Result<(), Failure> {
    let what = target.what();
    target.check().map_err(|why| lasting(format!("{what}: refused: {why}")))?;
    let mut lock = match target.backend {
        Backend::Legacy => Some(lock::take(&what, locks).await?),
        Backend::Nft => None,
    };
    let table = read(target.backend, target.family, target.table, target.dialect).await;
    let Some(table) = table.map_err(|e| unread(&what, &e))? else { return Ok(()) };
    let script = target.script(&table);
    if script.is_empty() {
        return Ok(());
    }
    let way = (target.backend, target.family, target.dialect);
    feed(&what, way, &script, &mut lock, locks).await?;
    drop(lock);
    let after = look(target).await.map_err(passing)?;
    let Seen::Policies { there } = after else { return Ok(()) };
    match there.iter().find(|p| target.wanted.iter().any(|w| w.chain == p.chain && w != *p)) {
        None => Ok(()),
        Some(p) => Err(passing(format!("{what}: {} still has {}", p.chain, p.policy))),
    }
}
