//! The provider: it answers, and each node is certainly one of its machines. One question, which changes nothing.

use super::{Group, Mark};
use crate::config::Config;
use crate::provider::Api;
use crate::provider::pick::pick;
use crate::secret::{self, Reference};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// The question with all its repetitions: who looks beforehand does not wait as a recovery would.
const LIMIT: Duration = Duration::from_secs(20);

/// Looks, where a provider is configured.
pub async fn look(config: &Config) -> Vec<Mark> {
    let mut group = Group::new("provider");
    let rented: Vec<_> =
        config.nodes().filter_map(|n| Some((n.to_owned(), config.vps(n).ok()?))).collect();
    let Ok(provider) = config.provider() else {
        if !rented.is_empty() {
            group.mark(
                Some(false),
                format!(
                    "{} nodes are said to be machines of a provider, and none is configured",
                    rented.len()
                ),
                "add [provider] with its token to ctl.toml",
            );
        }
        return group.marks;
    };
    if rented.is_empty() {
        group.mark(
            None,
            "no node is said to be one of its machines: none can be restarted there",
            "say which: vps = { hostname = \"…\" } below [nodes.NAME]",
        );
    }
    if let Reference::Op(_) = provider.token {
        group.mark(
            None,
            "it was not asked: its token is in 1Password, which might ask you",
            "ask it: ctl vps list",
        );
        return group.marks;
    }
    // A token that cannot be read was said where secrets are.
    let Ok(token) = secret::resolve(&provider.token).await else { return group.marks };
    let asked = async {
        let api = Api::new(provider, token)?;
        api.machines().await
    };
    let machines = match timeout(LIMIT, asked).await {
        Ok(Ok(machines)) => machines,
        Ok(Err(why)) => {
            group.wrong(&why.into());
            return group.marks;
        }
        Err(_) => {
            group.mark(
                Some(false),
                format!("{} has not answered within {} s", provider.api, LIMIT.as_secs()),
                "look whether it is reached from here: ctl vps list",
            );
            return group.marks;
        }
    };
    group.mark(
        Some(true),
        format!("{} answers, and has {} of your machines", provider.api, machines.len()),
        "",
    );
    let mut taken: BTreeMap<u64, String> = BTreeMap::new();
    for (node, vps) in rented {
        match pick(&node, vps, &machines) {
            Ok((id, machine)) => match taken.insert(id, node.clone()) {
                None => group.mark(
                    Some(true),
                    format!("{node} is certainly its machine {}", machine.words()),
                    "",
                ),
                Some(other) => group.mark(
                    Some(false),
                    format!(
                        "{node} and {other} are both said to be its machine {}",
                        machine.words()
                    ),
                    "correct vps of one of them in ctl.toml: ctl vps list shows all machines",
                ),
            },
            Err(why) => group.wrong(&why.into()),
        }
    }
    group.marks
}
