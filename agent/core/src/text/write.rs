//! Writes the text form.

use super::line::{Line, json, quoted};
use super::{PROTOCOLS, ROUTE_PROTOCOL, SCOPES, TABLES};
use crate::clock::Stamp;
use crate::net::{Family, Prefix};
use crate::observation::{
    Action, Cluster, Dialect, Direction, Fate, Hop, Link, Mark, NfTable, Observation, Process,
    Reach, Route, RouteKind, Rule, Sense, Through, XfrmPolicy,
};
use crate::op::backend_word;
use crate::supervisor::Supervisor;
use alloc::format;
use alloc::string::{String, ToString};

fn named<T: Copy + PartialEq + ToString>(names: &[(T, &str)], value: T) -> String {
    names
        .iter()
        .find(|(v, _)| *v == value)
        .map_or_else(|| value.to_string(), |(_, n)| (*n).to_string())
}

/// Writes an observation.
pub fn write(seen: &Observation) -> String {
    let mut out = String::new();
    if seen.taken != Stamp::default() {
        let Stamp { boot, ms, wall_ms } = &seen.taken;
        Line::new("taken").name(boot).pair("ms", ms).pair("wall", wall_ms).end(&mut out);
    }
    if seen.cluster != Cluster::default() {
        cluster(&seen.cluster).end(&mut out);
    }
    seen.links.iter().for_each(|l| link(l).end(&mut out));
    for a in &seen.addrs {
        Line::new("addr").name(&a.dev).put(format!("{}/{}", a.addr, a.len)).end(&mut out);
    }
    seen.rules.iter().for_each(|r| rule(r).end(&mut out));
    seen.routes.iter().for_each(|r| route(r).end(&mut out));
    for t in &seen.netfilter {
        table(|| word(backend_word(t.backend), t.family).name(&t.name), t, &mut out);
    }
    seen.inet.iter().for_each(|t| table(|| Line::new("inet").name(&t.name), t, &mut out));
    seen.processes.iter().for_each(|p| process(p).end(&mut out));
    for u in &seen.units {
        let line = Line::new("unit")
            .name(&u.name)
            .name(&u.load)
            .name(&u.active)
            .name(&u.sub)
            .opt("pid", (u.pid != 0).then_some(&u.pid))
            .named("invocation", (!u.invocation.is_empty()).then_some(&u.invocation))
            .opt("restarts", (u.restarts != 0).then_some(&u.restarts))
            .named("result", (!u.result.is_empty()).then_some(&u.result));
        u.said.iter().fold(line, |line, said| line.put("said").name(said)).end(&mut out);
    }
    for (key, value) in &seen.sysctls {
        let key = if key.contains('=') { json(key).into() } else { quoted(key) };
        out.push_str(&format!("sysctl {key}="));
        // Behind the sign comes the rest of the line.
        let rest = Line(String::new()).rest(value).0;
        out.push_str(rest.trim_start_matches(' '));
        out.push('\n');
    }
    if let Some(r) = &seen.resolv {
        Line::new("resolv")
            .put(json(&r.text))
            .named("link", r.link.as_deref())
            .named("backup", r.backup.as_deref())
            .end(&mut out);
    }
    for f in &seen.fdb {
        Line::new("fdb").name(&f.dev).put(f.dst.to_string()).end(&mut out);
    }
    seen.xfrm.iter().for_each(|p| xfrm(p).end(&mut out));
    for s in &seen.sockets {
        Line::new("socket")
            .name(&s.state)
            .put(s.src.to_string())
            .put(s.dst.to_string())
            .opt("mark", (s.mark != 0).then(|| format!("{:#x}", s.mark)).as_ref())
            .end(&mut out);
    }
    for l in &seen.lookups {
        let line = Line::new("lookup").put(l.dst.to_string()).put(through(l.through));
        fate(line, &l.fate).end(&mut out);
    }
    for p in &seen.probes {
        reach(
            Line::new("probe").name(&p.name).put(p.dst.to_string()).put(through(p.through)),
            &p.reach,
        )
        .opt("src", p.src.as_ref())
        .end(&mut out);
    }
    if let Some(l) = &seen.lease {
        Line::new("lease").name(&l.renewed).pair("age", &l.age_ms).end(&mut out);
    }
    seen.paths.iter().for_each(|p| Line::new("path").name(p).end(&mut out));
    for h in &seen.host_ports {
        let line = Line::new("host-ports").name(&h.sandbox).named("pod", Some(&h.pod));
        h.ports.iter().fold(line, |line, port| line.named("port", Some(port))).end(&mut out);
    }
    seen.gaps.iter().for_each(|g| Line::new("gap").put(sense(g.what)).rest(&g.why).end(&mut out));
    out
}

/// Writes one policy rule: `rule 5270 lookup 52`.
pub fn rule_line(r: &Rule) -> String {
    rule(r).0
}

/// Writes one route: `route 52 default dev tailscale0`.
pub fn route_line(r: &Route) -> String {
    route(r).0
}

fn cluster(c: &Cluster) -> Line {
    let mut line = Line::new("node").name(&c.node).opt("ip", c.node_ip.as_ref());
    for a in &c.api {
        line = line.pair("api", a);
    }
    line.opt("pods", c.pod_cidr.as_ref())
        .opt("cluster", c.cluster_cidr.as_ref())
        .opt("services", c.service_cidr.as_ref())
}

fn link(l: &Link) -> Line {
    let filled = |s: &'_ str| (!s.is_empty()).then(|| s.to_string());
    Line::new("link")
        .name(&l.name)
        .pair("index", &l.index)
        .named("kind", filled(&l.kind).as_deref())
        .flag("up", l.up)
        .flag("carrier", l.carrier)
        .named("mac", filled(&l.mac).as_deref())
        .named("master", l.master.as_deref())
        .flag("persist", l.persist)
}

fn word(word: &str, family: Family) -> Line {
    Line(format!("{word}{}", family.suffix()))
}

fn rule(r: &Rule) -> Line {
    let range = |(a, b): (u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    let ports = |p: Option<(u16, u16)>| p.map(|(a, b)| range((a.into(), b.into())));
    let line = word("rule", r.family)
        .put(r.pref.to_string())
        .flag("not", r.not)
        .opt("from", r.from.as_ref())
        .opt("to", r.to.as_ref())
        .named("iif", r.iif.as_deref())
        .named("oif", r.oif.as_deref())
        .opt("fwmark", r.mark.map(|Mark { value, mask }| format!("{value:#x}/{mask:#x}")).as_ref())
        .opt("ipproto", r.ipproto.as_ref())
        .opt("sport", ports(r.sport).as_ref())
        .opt("dport", ports(r.dport).as_ref())
        .opt("uid", r.uids.map(range).as_ref());
    let line = match r.action {
        Action::Lookup(t) => line.pair("lookup", &named(&TABLES, t)),
        Action::Goto(p) => line.pair("goto", &p),
        Action::Nop => line.put("nop"),
        Action::Blackhole => line.put("blackhole"),
        Action::Unreachable => line.put("unreachable"),
        Action::Prohibit => line.put("prohibit"),
    };
    line.opt("suppress", r.suppress.as_ref())
        .opt("proto", (r.protocol != 0).then(|| named(&PROTOCOLS, r.protocol)).as_ref())
        .flag("exotic", r.exotic)
}

fn kind(k: RouteKind) -> Option<&'static str> {
    match k {
        RouteKind::Unicast => None,
        RouteKind::Local => Some("local"),
        RouteKind::Broadcast => Some("broadcast"),
        RouteKind::Anycast => Some("anycast"),
        RouteKind::Multicast => Some("multicast"),
        RouteKind::Blackhole => Some("blackhole"),
        RouteKind::Unreachable => Some("unreachable"),
        RouteKind::Prohibit => Some("prohibit"),
        RouteKind::Throw => Some("throw"),
    }
}

fn route(r: &Route) -> Line {
    let mut line = word("route", r.family).put(named(&TABLES, r.table));
    if let Some(k) = kind(r.kind) {
        line = line.put(k);
    }
    // `default` speaks for the family of the line's own word.
    line = if r.dst == Prefix::all(r.family) {
        line.put("default")
    } else {
        line.put(r.dst.to_string())
    };
    match r.hops.as_slice() {
        [hop] if hop.via.is_some() || hop.dev.is_some() => line = self::hop(line, hop),
        hops => {
            for h in hops {
                line = hop(line.put("nexthop"), h);
            }
        }
    }
    line.opt("metric", (r.metric != 0).then_some(&r.metric))
        .opt("src", r.src.as_ref())
        .opt("scope", (r.scope != 0).then(|| named(&SCOPES, r.scope)).as_ref())
        .opt(
            "proto",
            (r.protocol != ROUTE_PROTOCOL).then(|| named(&PROTOCOLS, r.protocol)).as_ref(),
        )
        .flag("exotic", r.exotic)
}

fn hop(line: Line, h: &Hop) -> Line {
    line.opt("via", h.via.as_ref())
        .named("dev", h.dev.as_deref())
        .flag("onlink", h.onlink)
        .flag("dead", h.dead)
        .opt("weight", (h.weight != 0).then_some(&h.weight))
}

fn table(start: impl Fn() -> Line, t: &NfTable, out: &mut String) {
    // The head makes the table, also an empty one.
    start().flag("native", t.dialect == Dialect::Nft).end(out);
    for c in &t.chains {
        start()
            .put(format!(":{}", quoted(&c.name)))
            .named("policy", c.policy.as_deref())
            .named("hook", c.hook.as_deref())
            .end(out);
    }
    for r in &t.rules {
        start().put("-A").name(&r.chain).opt("handle", r.handle.as_ref()).rest(&r.spec).end(out);
    }
}

fn process(p: &Process) -> Line {
    let filled = |s: &'_ str| (!s.is_empty()).then(|| s.to_string());
    let mut line = Line::new("process")
        .put(p.pid.to_string())
        .name(&p.comm)
        .opt("ppid", (p.ppid != 0).then_some(&p.ppid))
        .pair("start", &p.start)
        .named("exe", filled(&p.exe).as_deref())
        .named("inode", filled(&p.inode).as_deref())
        .put("netns")
        .put(match p.netns {
            crate::observation::Netns::Host => "host",
            crate::observation::Netns::Other => "other",
            crate::observation::Netns::Unknown => "unknown",
        })
        .named("cgroup", filled(&p.cgroup).as_deref());
    for t in &p.tuns {
        line = line.put("tun").name(t);
    }
    line = line.named("socket", p.socket.as_deref()).named("statedir", p.statedir.as_deref());
    match &p.supervisor {
        None => line,
        Some(Supervisor::Pod { uid, name, owner }) => line
            .put("kept-by pod")
            .name(uid)
            .named("name", name.as_deref())
            .named("owner", owner.as_deref()),
        Some(Supervisor::Unit { name, restart }) => {
            line.put("kept-by unit").name(name).named("restart", restart.as_deref())
        }
        Some(Supervisor::Container { id }) => line.put("kept-by container").name(id),
    }
}

fn through(t: Through) -> &'static str {
    match t {
        Through::Plain => "plain",
        Through::SeeThrough => "see-through",
        Through::Lifeline => "lifeline",
    }
}

fn fate(line: Line, f: &Fate) -> Line {
    match f {
        Fate::Local => line.put("local"),
        Fate::Refused(errno) => line.pair("refused", errno),
        Fate::Leaves { dev, via, table, src } => line
            .put("dev")
            .name(dev)
            .opt("via", via.as_ref())
            .opt("table", (*table != 0).then(|| named(&TABLES, *table)).as_ref())
            .opt("src", src.as_ref()),
    }
}

fn reach(line: Line, r: &Reach) -> Line {
    match r {
        Reach::Tls => line.put("tls"),
        Reach::Stranger => line.put("stranger"),
        Reach::TcpOnly => line.put("tcp-only"),
        Reach::Echo => line.put("echo"),
        Reach::Refused => line.put("refused"),
        Reach::Silent => line.put("silent"),
        Reach::Unsent(errno) => line.pair("unsent", errno),
    }
}

fn xfrm(p: &XfrmPolicy) -> Line {
    let dir = match p.dir {
        Direction::In => "in",
        Direction::Out => "out",
        Direction::Forward => "forward",
    };
    let port = |n: u16| (n != 0).then_some(n);
    Line::new("xfrm")
        .put(dir)
        .pair("src", &p.src)
        .pair("dst", &p.dst)
        .opt("ipproto", (p.ipproto != 0).then_some(&p.ipproto))
        .opt("sport", port(p.sport).as_ref())
        .opt("dport", port(p.dport).as_ref())
        .opt("priority", (p.priority != 0).then_some(&p.priority))
        .flag("block", p.block)
        .flag("transform", p.transform)
        .flag("exotic", p.exotic)
}

/// An IPsec policy in one line, as it is written.
pub fn xfrm_line(p: &XfrmPolicy) -> String {
    xfrm(p).0
}

/// The word for a sense: `rules`, `nft6`.
pub fn sense(s: Sense) -> &'static str {
    match s {
        Sense::Cluster => "cluster",
        Sense::Links => "links",
        Sense::Rules => "rules",
        Sense::Routes => "routes",
        Sense::Legacy4 => "legacy",
        Sense::Legacy6 => "legacy6",
        Sense::Nft4 => "nft",
        Sense::Nft6 => "nft6",
        Sense::Processes => "processes",
        Sense::Units => "units",
        Sense::Sysctls => "sysctls",
        Sense::Resolv => "resolv",
        Sense::Fdb => "fdb",
        Sense::Xfrm => "xfrm",
        Sense::Sockets => "sockets",
        Sense::Lookups => "lookups",
        Sense::Probes => "probes",
        Sense::Lease => "lease",
        Sense::HostPorts => "host-ports",
    }
}
