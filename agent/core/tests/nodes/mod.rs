//! Nodes made by chance: how each looks, which of its ways really lead somewhere, and what an act does to it.
//!
//! The kernel's answers come from the lookup that `tests/fib.rs` proves against the kernel. What answers a call is decided
//! here, by which device and gateway lead to the world, and never by what the judgement expects.
#![allow(dead_code, reason = "shared by several test files, each of which uses a part")]

pub mod acts;
pub mod faults;
pub mod strangers;

use crate::dice::Dice;
use lifeline_core::baseline::{self, Baseline, Role};
use lifeline_core::critical::{self, Sources};
use lifeline_core::diagnosis::{Diagnosis, Verdict};
use lifeline_core::fib::{self, Answer};
use lifeline_core::filter;
use lifeline_core::guard::{self, Stand};
use lifeline_core::judge::judge;
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{
    Fate, Lease, Lookup, Observation, Probe, Reach, Route, RouteKind, TABLE_LOCAL, TABLE_MAIN,
    Through,
};
use lifeline_core::policy::Policy;
use lifeline_core::text;
use std::fmt::Write as _;
use std::net::IpAddr;

/// A node and the truth about it.
#[derive(Clone)]
pub struct Node {
    /// How it looks.
    pub seen: Observation,
    /// Devices and gateways that lead to the world.
    pub ways: Vec<(String, Option<IpAddr>)>,
    /// Is anybody at the other end of the world? Not when the API server is down for everybody.
    pub world: bool,
    /// The kubelet hangs on dead connections.
    pub stuck: bool,
    /// The mark that its packet filter writes on calls to the API server.
    pub stamp: Option<u32>,
    /// Milliseconds since its lease was renewed, while it cannot be.
    pub silence: u64,
    /// What the pod network makes anew when k3s-agent starts.
    pub overlay: Observation,
    /// Uplink.
    pub uplink: String,
    /// Its gateway, by family.
    pub gateway: IpAddr,
    pub gateway6: Option<IpAddr>,
    /// Node's own address.
    pub own: IpAddr,
    /// What has been done to it, for a failing test's message.
    pub story: Vec<String>,
}

impl Node {
    /// Adds objects in the text form, rules in the kernel's order: behind others of their preference.
    pub fn add(&mut self, lines: &str) {
        let more = text::read(lines).unwrap_or_else(|e| panic!("{e}: {lines}"));
        let seen = &mut self.seen;
        seen.links.extend(more.links);
        seen.addrs.extend(more.addrs);
        seen.rules.extend(more.rules);
        seen.routes.extend(more.routes.to_vec());
        seen.processes.extend(more.processes);
        seen.netfilter.extend(more.netfilter);
        seen.fdb.extend(more.fdb);
        seen.paths.extend(more.paths);
        seen.sockets.extend(more.sockets);
        seen.sysctls.extend(more.sysctls);
        seen.resolv = more.resolv.or_else(|| seen.resolv.take());
        seen.rules.sort_by_key(|r| (r.family, r.pref));
    }

    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.seen.routes.iter().filter(|r| r.table == TABLE_MAIN && r.kind == RouteKind::Unicast)
    }

    /// The remote pod routes.
    pub fn remotes(&self) -> Vec<Route> {
        self.routes().filter(|r| r.dev() == Some("flannel.1")).cloned().collect()
    }

    pub fn has6(&self) -> bool {
        self.gateway6.is_some()
    }

    /// Does what is sent so arrive?
    fn arrives(&self, answer: &Answer, dst: IpAddr) -> bool {
        let Answer::Leaves { dev, via, .. } = answer else { return *answer == Answer::Local };
        let up = self.seen.link(dev).is_some_and(|l| l.up && l.carrier);
        let wire = self.ways.iter().any(|(d, v)| d == dev && v.is_some());
        let neighbour =
            |a: &lifeline_core::observation::Addr| Prefix::new(a.addr, a.len).contains(dst);
        let on_link =
            wire && via.is_none() && self.seen.addrs.iter().any(|a| a.dev == *dev && neighbour(a));
        up && (on_link || (self.world && self.ways.iter().any(|(d, v)| d == dev && v == via)))
    }

    /// Asks the kernel and calls around, as the agent's look does.
    pub fn look(&mut self, base: Option<&Baseline>) {
        let policy = Policy::default();
        let main: Vec<Route> = self.routes().cloned().collect();
        let sources = Sources {
            cluster: &self.seen.cluster,
            main: &main,
            addrs: &self.seen.addrs,
            fdb: &self.seen.fdb,
            overlay: critical::has_overlay(&self.seen.links),
        };
        let mut asked: Vec<baseline::Expected> =
            base.map(|b| b.expected.clone()).unwrap_or_default();
        for (role, prefix, ask) in critical::destinations(sources) {
            if !asked.iter().any(|e| e.role == role && e.ask == ask) {
                asked.push(baseline::Expected { role, prefix, ask, path: None });
            }
        }
        asked.sort_by_key(|e| e.role);
        let ours =
            |set: bool| self.seen.rules.iter().any(|r| fib::is_ours(r) && r.to.is_some() == set);
        let mut marks = vec![(Through::Plain, 0), (Through::SeeThrough, policy.see_through)];
        if ours(false) {
            marks.push((Through::Lifeline, policy.lifeline));
        }
        let (mut lookups, mut probes): (Vec<Lookup>, Vec<Probe>) = (Vec::new(), Vec::new());
        for e in &asked {
            let cluster = base.map_or(&self.seen.cluster, |b| &b.cluster);
            let flow = critical::flow(e, cluster);
            for (through, mark) in &marks {
                let answer =
                    fib::lookup(&self.seen.rules, &self.seen.routes, &flow.clone().marked(*mark));
                if !lookups.iter().any(|l| l.dst == e.ask && l.through == *through) {
                    lookups.push(Lookup { dst: e.ask, through: *through, fate: fate(&answer) });
                }
                // A call to the API server is marked on its way out, whatever mark it had; a question to the kernel is not.
                let mark = self.stamp.filter(|_| flow.dport == 6_443).unwrap_or(*mark);
                let sent = flow.clone().marked(mark);
                let answer = fib::lookup(&self.seen.rules, &self.seen.routes, &sent);
                let called = matches!(e.role, Role::Api | Role::Gateway)
                    && (*through != Through::SeeThrough || ours(true));
                if !called {
                    continue;
                }
                let reach = match (&answer, self.arrives(&answer, e.ask), e.role) {
                    (_, true, Role::Api) if self.world => Reach::Tls,
                    (_, true, Role::Gateway) => Reach::Echo,
                    (Answer::Refused { .. }, ..) => Reach::Unsent(22),
                    (Answer::NoRoute, ..) => Reach::Unsent(101),
                    _ => Reach::Silent,
                };
                let word = if e.role == Role::Api { "api" } else { "gateway" };
                let name = format!("{word} {}", e.ask);
                probes.push(Probe { name, dst: e.ask, through: *through, reach, src: None });
            }
        }
        let plain = |p: &Probe| p.through == Through::Plain && p.reach == Reach::Tls;
        let down = self.seen.units.iter().any(|u| u.active != "active");
        let well = probes.iter().any(plain) && !self.stuck && !down;
        self.silence = if well { 4_000 } else { self.silence.max(4_000) + 20_000 };
        self.seen.lease =
            Some(Lease { renewed: "2025-10-13T04:12:31Z".into(), age_ms: self.silence });
        self.seen.taken.ms += 5_000;
        (self.seen.lookups, self.seen.probes) = (lookups, probes);
    }

    /// The guard's reconciler: what the agent makes stand after this judgement. True when a guard stands.
    pub fn guard(&mut self, base: &Baseline, diag: &Diagnosis) -> bool {
        let stand = stand(diag, base);
        let seen = &mut self.seen;
        let own: Vec<Route> = seen
            .routes
            .iter()
            .filter(|r| r.table == TABLE_MAIN && r.kind == RouteKind::Unicast)
            .cloned()
            .collect();
        let from = if diag.verdict == Verdict::Moved { &own } else { &base.routes };
        let marks = filter::marks(seen);
        let tables = guard::Tables {
            rules: &seen.rules,
            routes: &seen.routes,
            links: &seen.links,
            threats: &[],
            marks: &marks,
        };
        let wanted = guard::wanted(tables, base, from, &Policy::default(), stand);
        let changes = guard::changes(&seen.rules, &seen.routes, &wanted);
        seen.routes.extend(changes.add_routes);
        seen.rules.extend(changes.add_rules);
        seen.rules.retain(|r| !changes.delete_rules.contains(r));
        seen.routes.retain(|r| !changes.delete_routes.contains(r));
        seen.rules.sort_by_key(|r| (r.family, r.pref));
        wanted.guarded
    }

    /// Everything of the node's that is not ours, to be compared.
    pub fn foreign(&self) -> Observation {
        let mut seen = self.seen.clone();
        seen.rules.retain(|r| !fib::is_ours(r));
        seen.routes.retain(|r| r.table != fib::TABLE_MIRROR);
        (seen.lookups, seen.probes, seen.lease) = (Vec::new(), Vec::new(), None);
        seen.taken.ms = 0;
        seen
    }
}

/// As the agent's worker orders it.
pub fn stand(diag: &Diagnosis, base: &Baseline) -> Stand {
    match diag.verdict {
        Verdict::Moved => Stand::Lifeline,
        Verdict::Captured | Verdict::Lost if base.is_trusted() => Stand::GuardByMirror,
        _ => Stand::Guard,
    }
}

fn fate(answer: &Answer) -> Fate {
    match answer {
        Answer::Leaves { dev, via, table, .. } => {
            Fate::Leaves { dev: dev.clone(), via: *via, table: *table, src: None }
        }
        Answer::Local => Fate::Local,
        Answer::Refused { .. } => Fate::Refused(22),
        Answer::NoRoute | Answer::Unknown { .. } => Fate::Refused(101),
    }
}

/// A node as somebody's provider, DHCP server and k3s leave it; well, and nothing of ours on it.
pub fn healthy(dice: &mut Dice) -> Node {
    let uplink = (*dice.pick(&["eth0", "ens3", "enp1s0", "bond0"])).to_string();
    let (net, len) =
        *dice.pick(&[("192.168.2", 24), ("10.20.30", 24), ("172.20.4", 22), ("203.0.113", 24)]);
    let host = 10 + dice.roll(200);
    let own = format!("{net}.{host}");
    let gateway = format!("{net}.1");
    let six = dice.roll(2) == 0;
    let me = dice.roll(20);
    let overlay = dice.roll(8) != 0;
    let others: Vec<u64> = (0..1 + dice.roll(5)).map(|n| 20 + n).collect();
    // API servers behind the gateway, on the node's own network, by IPv6, or several.
    let mut api: Vec<String> = Vec::new();
    for n in 0..1 + dice.roll(3) {
        api.push(match dice.roll(6) {
            0 => format!("{net}.{}:6443", 3 + n),
            1 if six => format!("[2001:db8:99::{}]:6443", 10 + n),
            _ => format!("198.51.{}.{}:6443", 100 + n, 10 + n),
        });
    }
    let metric = *dice.pick(&["", " metric 100", " metric 1024"]);
    let proto = *dice.pick(&["", " proto dhcp", " proto static"]);
    let kind = *dice.pick(&["", " kind veth", " kind bond"]);
    let mut t = String::new();
    let mut put = |line: String| {
        let _ = writeln!(t, "{line}");
    };
    let apis: String = api.iter().map(|a| format!(" api {a}")).collect();
    put(format!(
        "node n{me} ip {own}{apis} pods 10.42.{me}.0/24 cluster 10.42.0.0/16 services 10.43.0.0/16"
    ));
    put("link lo index 1 up carrier mac 00:00:00:00:00:00".into());
    put(format!("link {uplink} index 2{kind} up carrier mac 02:4c:4c:02:02:50"));
    put("link cni0 index 4 kind bridge up carrier mac 32:da:f1:c1:49:d7".into());
    put("link veth5d1a9c3e index 5 kind veth up carrier mac d6:30:a1:6f:cd:6e master cni0".into());
    put("addr lo 127.0.0.1/8".into());
    put(format!("addr {uplink} {own}/{len}"));
    put(format!("addr cni0 10.42.{me}.1/24"));
    for line in ["0 lookup local", "32766 lookup main", "32767 lookup default"] {
        put(format!("rule {line} proto kernel"));
    }
    for line in ["0 lookup local", "32766 lookup main"] {
        put(format!("rule6 {line} proto kernel"));
    }
    put(format!("route main default via {gateway} dev {uplink}{metric}{proto}"));
    let lan = Prefix::new(own.parse().unwrap_or_else(|_| IpAddr::from([0, 0, 0, 0])), len);
    put(format!("route main {lan} dev {uplink} src {own} scope link proto kernel"));
    put(format!("route main 10.42.{me}.0/24 dev cni0 src 10.42.{me}.1 scope link proto kernel"));
    put(format!("route local local {own} dev {uplink} src {own} scope host proto kernel"));
    put(format!(
        "route local local 10.42.{me}.1 dev cni0 src 10.42.{me}.1 scope host proto kernel"
    ));
    put("route local local 127.0.0.0/8 dev lo src 127.0.0.1 scope host proto kernel".into());
    let mut gateway6 = None;
    if six {
        put(format!("addr {uplink} 2001:db8:2::80/64"));
        put(format!("route6 main 2001:db8:2::/64 dev {uplink} metric 256 proto kernel"));
        put(format!("route6 main fe80::/64 dev {uplink} metric 256 proto kernel"));
        let via = *dice.pick(&["2001:db8:2::1", "fe80::1"]);
        put(format!("route6 main default via {via} dev {uplink} metric 1024 proto ra"));
        put(format!("route6 local local 2001:db8:2::80 dev {uplink} proto kernel"));
        gateway6 = via.parse().ok();
    }
    let mut net_of_pods = String::new();
    if overlay {
        let _ = writeln!(
            net_of_pods,
            "link flannel.1 index 3 kind vxlan up carrier mac 02:4c:4c:0a:2a:01"
        );
        let _ = writeln!(net_of_pods, "addr flannel.1 10.42.{me}.0/32");
        for n in &others {
            let _ = writeln!(
                net_of_pods,
                "route main 10.42.{n}.0/24 via 10.42.{n}.0 dev flannel.1 onlink"
            );
            let _ = writeln!(net_of_pods, "fdb flannel.1 198.51.{}.{n}", 100 + dice.roll(3));
        }
        let _ = writeln!(
            net_of_pods,
            "route local local 10.42.{me}.0 dev flannel.1 src 10.42.{me}.0 scope host proto kernel"
        );
    }
    if dice.roll(4) == 0 {
        // A second uplink that stands by.
        put("link eth9 index 8 kind veth up carrier mac 02:4c:4c:09:09:09".into());
        put("addr eth9 10.99.77.5/24".into());
        put("route main 10.99.77.0/24 dev eth9 src 10.99.77.5 scope link proto kernel".into());
        put("route main default via 10.99.77.1 dev eth9 metric 5000 proto dhcp".into());
    }
    put("process 311 k3s-agent ppid 1 start 4102 exe /usr/local/bin/k3s inode 65024:1311 netns host cgroup /system.slice/k3s-agent.service".into());
    put("unit k3s-agent.service loaded active running pid 311 invocation 0c5b8e1f".into());
    put("sysctl net.ipv4.ip_forward=1".into());
    put("sysctl net.ipv4.conf.all.src_valid_mark=0".into());
    put("resolv \"nameserver 192.168.2.1\\n\"".into());
    put("nft filter\nnft filter :INPUT policy ACCEPT\nnft filter :OUTPUT policy ACCEPT\nnft filter :KUBE-FIREWALL\nnft filter -A INPUT -j KUBE-FIREWALL".into());
    put("nft mangle\nnft mangle :PREROUTING policy ACCEPT\nnft mangle :OUTPUT policy ACCEPT".into());
    let seen = text::read(&t).unwrap_or_else(|e| panic!("{e}:\n{t}"));
    let overlay = text::read(&net_of_pods).unwrap_or_else(|e| panic!("{e}:\n{net_of_pods}"));
    let addr = |a: &str| a.parse().unwrap_or_else(|_| IpAddr::from([0, 0, 0, 0]));
    let via: IpAddr = addr(&gateway);
    let mut ways =
        vec![(uplink.clone(), Some(via)), ("eth9".to_string(), Some(addr("10.99.77.1")))];
    ways.extend(gateway6.map(|g| (uplink.clone(), Some(g))));
    let mut node = Node {
        seen,
        ways,
        world: true,
        stuck: false,
        stamp: None,
        silence: 0,
        overlay,
        uplink,
        gateway: via,
        gateway6,
        own: addr(&own),
        story: Vec::new(),
    };
    node.add(&net_of_pods);
    node
}

/// Lets the agent learn the node as it learns it in the field: derived, judged, learnt. It is well, so it has to be.
pub fn learn(node: &mut Node) -> Baseline {
    let policy = Policy::default();
    node.look(None);
    let derived = baseline::derive(&node.seen);
    node.look(Some(&derived));
    let diag = judge(&node.seen, &derived, &policy);
    assert_eq!(diag.verdict, Verdict::Healthy, "{}\n{}", diag.summary, text::write(&node.seen));
    let base = baseline::learn(&node.seen, &diag, None).unwrap_or_else(|e| panic!("{e}"));
    node.guard(&base, &diag);
    node.look(Some(&base));
    base
}

/// Is a destination of this family critical?
pub fn uses(base: &Baseline, family: Family) -> bool {
    base.expected.iter().any(|e| e.role == Role::Api && e.prefix.family() == family)
}

/// Not in a table the kernel keeps.
pub fn is_policy(route: &Route) -> bool {
    route.table != TABLE_LOCAL && route.table != fib::TABLE_MIRROR
}
