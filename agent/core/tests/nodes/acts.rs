//! What a step does to a node: the test's own hands, which know nothing of why a step is wanted.

use super::Node;
use lifeline_core::fib;
use lifeline_core::net::Prefix;
use lifeline_core::observation::{NfTable, RouteKind};
use lifeline_core::op::NodeOp;
use lifeline_core::plan::NodePlan;
use lifeline_core::text::{route_line, rule_line};

impl Node {
    /// Carries a plan out.
    pub fn carry_out(&mut self, plan: &NodePlan) {
        for step in &plan.steps {
            self.story.push(format!("{}: {}", plan.rung.word(), step.op));
            self.act(&step.op);
        }
    }

    fn act(&mut self, op: &NodeOp) {
        let story = self.story.join("\n");
        let seen = &mut self.seen;
        match op {
            NodeOp::ExitNodeOff { .. } => {
                // Its peers stay, what it advertised or accepted goes.
                seen.routes.retain(|r| r.table != 52 || r.dst.is_host());
            }
            NodeOp::Stopped { process, .. } => {
                let tuns: Vec<String> = seen
                    .processes
                    .iter()
                    .filter(|p| p.pid == process.pid)
                    .flat_map(|p| p.tuns.clone())
                    .collect();
                seen.processes.retain(|p| p.pid != process.pid);
                for dev in tuns {
                    self.lose(&dev);
                }
            }
            NodeOp::Addrs { dev, present, .. } => {
                assert!(seen.link(dev).is_some_and(|l| l.up), "{dev} is not there\n{story}");
                for a in present {
                    let (addr, len, network) = (a.addr, a.len, Prefix::new(a.addr, a.len));
                    self.add(&format!(
                        "addr {dev} {addr}/{len}\n\
                         route main {network} dev {dev} src {addr} scope link proto kernel\n\
                         route local local {addr} dev {dev} src {addr} scope host proto kernel"
                    ));
                }
            }
            NodeOp::LinkGone { name, .. } => self.lose(&name.clone()),
            NodeOp::Rules { absent, present, .. } => {
                for r in absent {
                    let victim = fib::victim(&seen.rules, r).cloned();
                    assert_eq!(
                        victim.as_ref(),
                        Some(r),
                        "the kernel would delete another: {}",
                        rule_line(r)
                    );
                    let at = seen.rules.iter().position(|x| x == r);
                    seen.rules.remove(at.unwrap_or_else(|| panic!("not there: {}", rule_line(r))));
                }
                seen.rules.extend(present.iter().cloned());
                seen.rules.sort_by_key(|r| (r.family, r.pref));
            }
            NodeOp::Routes { absent, present, .. } => {
                for r in absent {
                    let at = seen.routes.iter().position(|x| x == r);
                    seen.routes
                        .remove(at.unwrap_or_else(|| panic!("not there: {}", route_line(r))));
                }
                for r in present {
                    let line = route_line(r);
                    let up = |d: &str| seen.links.iter().any(|l| l.name == d && l.up);
                    assert!(r.dev().is_some_and(up), "its device is not there: {line}\n{story}");
                    let own = r.src.is_none_or(|s| seen.addrs.iter().any(|a| a.addr == s));
                    assert!(
                        own,
                        "the kernel refuses a source that is not the node's: {line}\n{story}"
                    );
                    let key = |x: &&lifeline_core::observation::Route| {
                        x.table == r.table && x.dst == r.dst && x.metric == r.metric
                    };
                    assert!(
                        !seen.routes.iter().any(|x| key(&x)),
                        "the kernel says EEXIST: {line}\n{story}"
                    );
                    seen.routes.push(r.clone());
                }
            }
            NodeOp::Netfilter { backend, family, table, absent, absent_chains, .. } => {
                let mine = |t: &&mut NfTable| {
                    t.backend == *backend && t.family == *family && t.name == *table
                };
                for t in seen.netfilter.iter_mut().filter(mine) {
                    t.rules.retain(|r| !absent.contains(r) && !absent_chains.contains(&r.chain));
                    t.chains.retain(|c| !absent_chains.contains(&c.name));
                }
            }
            NodeOp::ResolvConf { wanted } => seen.resolv = Some(wanted.clone()),
            NodeOp::Sysctl { key, value } => {
                seen.sysctls.insert(key.clone(), value.clone());
            }
            NodeOp::Quarantined { path } => seen.paths.retain(|p| p != path),
            NodeOp::FlowsGone { .. } => self.stuck = false,
            NodeOp::Restarted { .. } => {
                (self.stuck, self.silence) = (false, 0);
                for u in &mut seen.units {
                    u.active = "active".into();
                    u.sub = "running".into();
                    u.invocation.push('x');
                }
                // Flannel makes its device, with all that hangs on it.
                let bare = !seen.addrs.iter().any(|a| a.dev == "flannel.1");
                if seen.link("flannel.1").is_none_or(|l| !l.up) || bare {
                    let overlay = self.overlay.clone();
                    seen.links.retain(|l| l.name != "flannel.1");
                    seen.addrs.retain(|a| a.dev != "flannel.1");
                    seen.routes.retain(|r| r.dev() != Some("flannel.1"));
                    seen.links.extend(overlay.links);
                    seen.addrs.extend(overlay.addrs);
                    seen.routes.extend(overlay.routes.to_vec());
                    seen.fdb = overlay.fdb;
                }
            }
            other => panic!("no rung of the ladder's first four does that by itself: {other}"),
        }
    }

    /// A device goes, with all that hangs on it.
    pub fn lose(&mut self, dev: &str) {
        let seen = &mut self.seen;
        seen.links.retain(|l| l.name != dev);
        seen.addrs.retain(|a| a.dev != dev);
        seen.routes.retain(|r| r.dev() != Some(dev) || r.kind == RouteKind::Blackhole);
        seen.fdb.retain(|f| f.dev != dev);
    }
}
