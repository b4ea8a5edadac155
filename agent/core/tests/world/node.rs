//! What an op's look reads of the node, and what its act changes there, wholly or by half.

use super::Node;
use core::cell::RefCell;
use lifeline_core::observation::{Addr, NfTable};
use lifeline_core::op::{ChainPolicy, NodeOp, Now, Op, PlacedRule, Prefs, Seen};
use lifeline_core::ruleset;
use std::collections::BTreeMap;

impl Node {
    pub fn look(&self, op: &NodeOp) -> Seen {
        let s = &self.seen;
        match op {
            NodeOp::ExitNodeOff { process, .. } | NodeOp::ExitNodeOn { process, .. } => {
                let alive =
                    s.processes.iter().any(|p| p.pid == process.pid && p.start == process.start);
                Seen::Prefs { prefs: self.extra.prefs.get(&process.pid).filter(|_| alive).cloned() }
            }
            NodeOp::Stopped { process, .. } => Seen::Process {
                alive: s.processes.iter().any(|p| p.pid == process.pid && p.start == process.start),
            },
            NodeOp::Rules { absent, present, .. } => Seen::Rules {
                there: s
                    .rules
                    .iter()
                    .filter(|r| absent.contains(r) || present.contains(r))
                    .cloned()
                    .collect(),
            },
            NodeOp::Routes { absent, present, .. } => Seen::Routes {
                there: s
                    .routes
                    .iter()
                    .filter(|r| absent.contains(r) || present.contains(r))
                    .cloned()
                    .collect(),
            },
            NodeOp::Netfilter {
                backend,
                family,
                table,
                absent,
                absent_chains,
                present,
                present_chains,
                ..
            } => {
                let Some(t) = s
                    .netfilter
                    .iter()
                    .find(|t| t.backend == *backend && t.family == *family && t.name == *table)
                else {
                    return Seen::Netfilter { chains: vec![], rules: vec![] };
                };
                let named = |c: &str| {
                    absent_chains.iter().any(|a| a == c)
                        || present_chains.iter().any(|a| a.name == c)
                };
                let listed = |r: &lifeline_core::observation::NfRule| {
                    let same = |o: &lifeline_core::observation::NfRule| {
                        o.chain == r.chain && o.spec == r.spec
                    };
                    named(&r.chain)
                        || absent.iter().any(same)
                        || present.iter().any(|p| same(&p.rule))
                };
                Seen::Netfilter {
                    chains: t.chains.iter().filter(|c| named(&c.name)).cloned().collect(),
                    rules: placed(t).into_iter().filter(|p| listed(&p.rule)).collect(),
                }
            }
            NodeOp::Policies { backend, family, table, wanted, .. } => {
                let mine =
                    |t: &&NfTable| t.backend == *backend && t.family == *family && t.name == *table;
                let chains = s.netfilter.iter().filter(mine).flat_map(|t| &t.chains);
                let there = chains
                    .filter(|c| wanted.iter().any(|w| w.chain == c.name))
                    .filter_map(|c| {
                        let policy = c.policy.clone()?;
                        Some(ChainPolicy { chain: c.name.clone(), policy })
                    })
                    .collect();
                Seen::Policies { there }
            }
            NodeOp::Addrs { absent, present, .. } => {
                let listed = |a: &&Addr| absent.contains(a) || present.contains(a);
                Seen::Addrs { there: s.addrs.iter().filter(listed).cloned().collect() }
            }
            NodeOp::LinkGone { name, .. } => {
                Seen::Link { link: s.links.iter().find(|l| l.name == *name).cloned() }
            }
            NodeOp::ResolvConf { .. } => Seen::Resolv { resolv: s.resolv.clone() },
            NodeOp::Sysctl { key, .. } => Seen::Sysctl { value: s.sysctls.get(key).cloned() },
            NodeOp::Quarantined { path } | NodeOp::Released { path, .. } => Seen::Path {
                at_home: s.paths.contains(path),
                quarantine: self.extra.quarantine.get(path).cloned(),
            },
            NodeOp::FlowsGone { .. } => Seen::Flows { count: self.extra.flows },
            NodeOp::Armed { .. } | NodeOp::Disarmed => Seen::Timer { armed: self.extra.armed },
            NodeOp::Flushed { backend, family, table, .. } => Seen::Table {
                table: s
                    .netfilter
                    .iter()
                    .find(|t| t.backend == *backend && t.family == *family && t.name == *table)
                    .cloned(),
            },
            NodeOp::Refilled { was } => {
                Seen::Table { table: s.netfilter.iter().find(|t| same_table(t, was)).cloned() }
            }
            NodeOp::CacheFlushed => Seen::Cache { entries: self.extra.cache },
            NodeOp::Rebooted => Seen::Boot { id: format!("boot-{}", self.extra.boots + 1) },
            NodeOp::SandboxStopped { id, .. } => {
                Seen::Sandbox { ready: s.host_ports.iter().any(|h| h.sandbox == *id) }
            }
            NodeOp::Restarted { .. } => Seen::Unit {
                invocation: format!("invocation-{}", self.extra.invocations),
                active: "active".into(),
            },
        }
    }

    /// Brings the target where it is wanted; only the first half of its parts when `half`.
    pub fn act(&mut self, op: &NodeOp, half: bool) {
        let most = |n: usize| if half { n / 2 } else { n };
        let s = &mut self.seen;
        match op {
            NodeOp::ExitNodeOff { process, .. } if !half => {
                if let Some(p) = self.extra.prefs.get_mut(&process.pid) {
                    *p = Prefs::default();
                }
            }
            NodeOp::ExitNodeOn { process, prefs, .. } if !half => {
                self.extra.prefs.insert(process.pid, prefs.clone());
            }
            NodeOp::Stopped { process, .. } if !half => {
                s.processes.retain(|p| p.pid != process.pid);
            }
            NodeOp::Rules { absent, present, .. } => {
                for r in absent.iter().take(most(absent.len())) {
                    s.rules.retain(|x| x != r);
                }
                for r in present.iter().take(most(present.len())) {
                    if !s.rules.contains(r) {
                        s.rules.push(r.clone());
                    }
                }
                s.rules.sort();
            }
            NodeOp::Routes { absent, present, .. } => {
                for r in absent.iter().take(most(absent.len())) {
                    s.routes.retain(|x| x != r);
                }
                for r in present.iter().take(most(present.len())) {
                    if !s.routes.contains(r) {
                        s.routes.push(r.clone());
                    }
                }
                s.routes.sort();
            }
            // A netfilter table changes in one transaction: never by half.
            NodeOp::Netfilter {
                backend,
                family,
                table,
                absent,
                absent_chains,
                present,
                present_chains,
                ..
            } if !half => {
                if let Some(t) = s
                    .netfilter
                    .iter_mut()
                    .find(|t| t.backend == *backend && t.family == *family && t.name == *table)
                {
                    t.rules.retain(|r| {
                        !absent_chains.contains(&r.chain)
                            && !absent.iter().any(|a| a.chain == r.chain && a.spec == r.spec)
                    });
                    t.chains.retain(|c| !absent_chains.contains(&c.name));
                    for c in present_chains {
                        if !t.chains.iter().any(|x| x.name == c.name) {
                            t.chains.push(c.clone());
                        }
                    }
                    for p in present {
                        put(t, p);
                    }
                    t.chains.sort();
                }
            }
            // So do the policies of one table.
            NodeOp::Policies { backend, family, table, wanted, .. } if !half => {
                let mine = |t: &&mut NfTable| {
                    t.backend == *backend && t.family == *family && t.name == *table
                };
                for c in s.netfilter.iter_mut().filter(mine).flat_map(|t| &mut t.chains) {
                    if let Some(w) = wanted.iter().find(|w| w.chain == c.name) {
                        c.policy = Some(w.policy.clone());
                    }
                }
            }
            NodeOp::Addrs { absent, present, .. } if !half => {
                s.addrs.retain(|a| !absent.contains(a) && !present.contains(a));
                s.addrs.extend(present.iter().cloned());
                s.addrs.sort();
            }
            NodeOp::LinkGone { name, .. } if !half => s.links.retain(|l| l.name != *name),
            NodeOp::ResolvConf { wanted } if !half => s.resolv = Some(wanted.clone()),
            NodeOp::Sysctl { key, value } if !half => {
                s.sysctls.insert(key.clone(), value.clone());
            }
            NodeOp::Quarantined { path } if !half => {
                s.paths.retain(|p| p != path);
                self.extra.quarantine.insert(path.clone());
            }
            NodeOp::Released { path, .. } if !half => {
                self.extra.quarantine.remove(path);
                s.paths.push(path.clone());
                s.paths.sort();
            }
            NodeOp::FlowsGone { .. } if !half => self.extra.flows = 0,
            NodeOp::Restarted { .. } if !half => self.extra.invocations += 1,
            NodeOp::Armed { .. } if !half => self.extra.armed = true,
            NodeOp::Disarmed if !half => self.extra.armed = false,
            // One transaction: never by half.
            NodeOp::Flushed { backend, family, table, .. } if !half => {
                for t in s
                    .netfilter
                    .iter_mut()
                    .filter(|t| t.backend == *backend && t.family == *family && t.name == *table)
                {
                    t.rules.clear();
                    t.chains.retain(ruleset::is_base);
                    t.chains
                        .iter_mut()
                        .for_each(|c| c.policy = c.policy.take().map(|_| "ACCEPT".to_string()));
                }
            }
            NodeOp::Refilled { was } if !half => {
                for t in s.netfilter.iter_mut().filter(|t| same_table(t, was)) {
                    *t = ruleset::refill(was, Some(t));
                }
            }
            NodeOp::SandboxStopped { id, .. } if !half => {
                s.host_ports.retain(|h| h.sandbox != *id);
            }
            NodeOp::CacheFlushed if !half => self.extra.cache = 0,
            NodeOp::Rebooted if !half => self.extra.boots += 1,
            _ => {}
        }
    }
}

fn same_table(a: &NfTable, b: &NfTable) -> bool {
    a.backend == b.backend && a.family == b.family && a.name == b.name
}

fn placed(t: &NfTable) -> Vec<PlacedRule> {
    let places: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    t.rules
        .iter()
        .map(|r| {
            let mut places = places.borrow_mut();
            let place = places.entry(&r.chain).or_default();
            *place += 1;
            PlacedRule { place: *place, rule: r.clone() }
        })
        .collect()
}

fn put(t: &mut NfTable, p: &PlacedRule) {
    if t.rules.iter().any(|r| r.chain == p.rule.chain && r.spec == p.rule.spec) {
        return;
    }
    let at = t
        .rules
        .iter()
        .enumerate()
        .filter(|(_, r)| r.chain == p.rule.chain)
        .nth(p.place as usize - 1)
        .map_or(t.rules.len(), |(i, _)| i);
    t.rules.insert(at, p.rule.clone());
}

pub fn settled(node: &Node, op: &NodeOp) -> bool {
    let now = node.look(op);
    // A restart has no wanted state but "not the invocation it had": the world starts at 0.
    if let NodeOp::Restarted { .. } = op {
        return node.extra.invocations > 0;
    }
    op.compare(&now, &now) == Now::Settled
}
