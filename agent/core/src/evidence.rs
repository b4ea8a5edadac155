//! What one look proves, before any fault is named: which critical destinations go astray, what works, what is missing.
//!
//! Semantics before fingerprints: everything here follows from where traffic leaves and what answers, with our own guard
//! taken out. Nothing is known of Tailscale or any other tool.

use crate::baseline::{Baseline, Expected, Role};
use crate::critical::{critical, flow};
use crate::fib::{self, Answer, Flow};
use crate::filter::{self, Marked};
use crate::net::Family;
use crate::observation::{
    Cluster, Fate, Lookup, Observation, Reach, Route, RouteKind, Rule, Sense, TABLE_MAIN, Through,
};
use crate::policy::Policy;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

mod proof;

/// A critical destination that leaves elsewhere than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The destination.
    pub expected: Expected,
    /// What happens instead, without our guard.
    pub answer: Answer,
    /// Nothing took it: it would be right again if what the baseline has and the node lacks were there.
    pub lost: bool,
    /// A route onto a wire stands in the very place of a healthy one, which is gone.
    pub replaced: bool,
    /// Did it answer when called without our guard? `None` when it was not called.
    pub works: Option<bool>,
    /// It goes astray by the mark that these rules of the packet filter write on it.
    pub marked: Vec<String>,
}

impl Stray {
    /// The device it leaves by.
    pub fn dev(&self) -> Option<&str> {
        match &self.answer {
            Answer::Leaves { dev, .. } => Some(dev),
            Answer::Local | Answer::Refused { .. } | Answer::NoRoute | Answer::Unknown { .. } => {
                None
            }
        }
    }

    /// The table that answers.
    pub fn table(&self) -> Option<u32> {
        match &self.answer {
            Answer::Leaves { table, .. } => Some(*table),
            Answer::Refused { table, .. } => *table,
            Answer::Local | Answer::NoRoute | Answer::Unknown { .. } => None,
        }
    }

    /// The preference of the rule that leads there.
    pub fn pref(&self) -> Option<u32> {
        match &self.answer {
            Answer::Leaves { pref, .. }
            | Answer::Refused { pref, .. }
            | Answer::Unknown { pref } => Some(*pref),
            Answer::Local | Answer::NoRoute => None,
        }
    }
}

/// Did the API server answer TLS? `None`: it was not called so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// As the kubelet calls it, guard included.
    pub plain: Option<bool>,
    /// As if our guard were not.
    pub bare: Option<bool>,
    /// Along our own path.
    pub lifeline: Option<bool>,
}

/// What one look proves.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// The look.
    pub seen: &'a Observation,
    /// The healthy node.
    pub base: &'a Baseline,
    /// What the operator allows.
    pub policy: &'a Policy,
    /// The cluster as k3s's files say, or else as the baseline does.
    pub cluster: &'a Cluster,
    /// The rules without ours.
    pub rules: Vec<Rule>,
    /// Critical destinations as of now.
    pub expected: Vec<Expected>,
    /// Those that go astray.
    pub strays: Vec<Stray>,
    /// Destinations that nobody expects an answer from any more, and why: pods of nodes that have left the cluster.
    pub left: Vec<(Expected, &'static str)>,
    /// What the packet filter does to the marks of critical calls.
    pub marks: Vec<Marked>,
    /// Where the dump and the kernel disagree, in words.
    pub doubts: Vec<String>,
    /// Does our guard stand?
    pub guarded: bool,
    /// Our guard came between the dump and the questions: what answered is not known to have answered without it.
    pub shifting: bool,
    /// The API server.
    pub api: Calls,
    /// Rules of the baseline that are not there.
    pub missing_rules: Vec<Rule>,
    /// Routes of the baseline's `main` that are not there.
    pub missing_routes: Vec<Route>,
}

impl<'a> Evidence<'a> {
    /// Draws the conclusions from a look.
    pub fn of(seen: &'a Observation, base: &'a Baseline, policy: &'a Policy) -> Self {
        let guarded = seen.rules.iter().any(|r| fib::is_ours(r) && r.to.is_some());
        let rules = fib::without_ours(&seen.rules);
        let cluster = if seen.cluster.api.is_empty() { &base.cluster } else { &seen.cluster };
        let mut e = Self {
            seen,
            base,
            policy,
            cluster,
            expected: critical(cluster, base, seen),
            strays: Vec::new(),
            left: Vec::new(),
            doubts: Vec::new(),
            marks: filter::marks(seen),
            guarded,
            shifting: !guarded && guard_came(seen),
            api: Calls::default(),
            missing_rules: base
                .rules
                .iter()
                .filter(|b| !rules.iter().any(|r| same_rule(r, b)))
                .cloned()
                .collect(),
            missing_routes: missing_routes(base, seen).into_iter().cloned().collect(),
            rules,
        };
        e.api = Calls {
            plain: e.call(Through::Plain),
            bare: e.call(e.bare()),
            lifeline: e.call(Through::Lifeline),
        };
        for expected in e.expected.clone() {
            e.follow(expected);
        }
        e.set_left_apart();
        e
    }

    /// How a question is put that our guard has no part in.
    pub fn bare(&self) -> Through {
        if self.guarded { Through::SeeThrough } else { Through::Plain }
    }

    /// The packet that stands for a destination, with the mark it leaves with.
    pub fn flow(&self, expected: &Expected) -> Flow {
        let mark = Marked::mark(&self.marks, expected.ask, 0);
        flow(expected, self.cluster).marked(mark)
    }

    /// Something of ours has a part in a call that is meant to do without: the packet filter takes the see-through mark away, or writes the
    /// mark of our own path.
    fn is_veiled(&self, dst: IpAddr, through: Through) -> bool {
        let Policy { see_through, lifeline, .. } = *self.policy;
        let sent = if through == Through::SeeThrough { see_through } else { 0 };
        let leaves = Marked::mark(&self.marks, dst, sent);
        through != Through::Lifeline
            && (leaves & sent != sent
                || (leaves & lifeline != 0 && self.seen.rules.iter().any(fib::is_ours)))
    }

    /// Did any API server answer TLS?
    fn call(&self, through: Through) -> Option<bool> {
        let is_api = |a| self.expected.iter().any(|e| e.role == Role::Api && e.ask == a);
        self.seen
            .probes
            .iter()
            .filter(|p| p.through == through && is_api(p.dst) && !self.is_veiled(p.dst, through))
            .map(|p| p.reach == Reach::Tls)
            .reduce(|a, b| a || b)
    }

    fn answers(&self, expected: &Expected) -> Option<bool> {
        let alive = |r: &Reach| match r {
            Reach::Tls => true,
            // An API server that does not speak TLS is none (K5).
            Reach::TcpOnly | Reach::Echo | Reach::Refused => expected.role != Role::Api,
            Reach::Stranger | Reach::Silent | Reach::Unsent(_) => false,
        };
        self.seen
            .probes
            .iter()
            .filter(|p| p.through == self.bare() && p.dst == expected.ask)
            .filter(|p| !self.is_veiled(p.dst, p.through))
            .map(|p| alive(&p.reach))
            .reduce(|a, b| a || b)
    }

    fn follow(&mut self, expected: Expected) {
        let Some(path) = expected.path.clone() else { return };
        // The bridge plugin makes its bridge for the first pod, and only then.
        let on_demand = self.base.links.iter().any(|l| l.name == path.dev && l.kind == "bridge");
        if expected.role == Role::OwnPods && on_demand && self.seen.link(&path.dev).is_none() {
            self.left.push((expected, "no pod runs here yet"));
            return;
        }
        let flow = self.flow(&expected);
        let answer = fib::lookup(&self.rules, &self.seen.routes, &flow);
        let right = fib::same(&answer, &path);
        let again = |routes: &[&[Route]]| {
            let rules = [self.rules.as_slice(), &self.missing_rules].concat();
            !right && fib::same(&fib::lookup_in(&rules, routes, &flow), &path)
        };
        // What is missing goes behind what is there: an object in the place of a healthy one is somebody's, and no gap.
        let behind: [&[Route]; 2] = [&self.seen.routes, &self.missing_routes];
        let before: [&[Route]; 2] = [&self.missing_routes, &self.seen.routes];
        let lost = again(&behind) || (!right && self.is_without_device(&answer, &path.dev));
        let into_tunnel = matches!(&answer, Answer::Leaves { dev, .. } if self.is_tunnel(dev));
        let replaced = !lost && !into_tunnel && again(&before);
        // The kernel is asked about a packet that the packet filter has not marked.
        let unmarked = Flow { mark: 0, ..flow.clone() };
        let by_mark = fib::lookup(&self.rules, &self.seen.routes, &unmarked) != answer;
        let asked = self.seen.lookups.iter().filter(|_| !by_mark);
        let asked = { asked }.find(|l| l.dst == expected.ask && l.through == self.bare());
        if let Some(Lookup { fate, .. }) = asked {
            let kernel_right = match fate {
                Fate::Leaves { dev, via, .. } => *dev == path.dev && *via == path.via,
                Fate::Local => path.table == crate::observation::TABLE_LOCAL,
                Fate::Refused(_) => false,
            };
            if kernel_right && lost {
                // Dumps under churn drop entries without a word (field guide K4): the kernel's own answer counts.
                return;
            }
            if kernel_right != right && !self.is_other_hop(&answer, fate) {
                self.doubts.push(format!(
                    "{}: the dump says it {answer}, the kernel says it {}",
                    expected.prefix,
                    tell(fate)
                ));
                return;
            }
        }
        if right {
            return;
        }
        let works = self.answers(&expected);
        let marked = Marked::of(&self.marks, expected.ask).filter(|_| by_mark);
        let marked = marked.map(|m| m.by.clone()).unwrap_or_default();
        self.strays.push(Stray { expected, answer, lost, replaced, works, marked });
    }

    /// Its own device is gone, and nothing of anybody's leads it elsewhere: it falls through to `main` or nowhere.
    fn is_without_device(&self, answer: &Answer, dev: &str) -> bool {
        let falls = match answer {
            Answer::NoRoute => true,
            Answer::Leaves { table: TABLE_MAIN, dev, .. } => !self.is_tunnel(dev),
            Answer::Leaves { .. }
            | Answer::Local
            | Answer::Refused { .. }
            | Answer::Unknown { .. } => false,
        };
        falls && self.seen.link(dev).is_none_or(|l| !l.up)
    }

    /// A multipath route: the kernel may choose any live hop.
    fn is_other_hop(&self, answer: &Answer, fate: &Fate) -> bool {
        let (Answer::Leaves { dev, via, table, .. }, Fate::Leaves { dev: d, via: v, .. }) =
            (answer, fate)
        else {
            return false;
        };
        self.seen.routes.iter().filter(|r| r.table == *table && r.hops.len() > 1).any(|r| {
            let has = |dev: &str, via| {
                r.hops.iter().any(|h| h.dev.as_deref() == Some(dev) && h.via == via)
            };
            has(dev, *via) && has(d, *v)
        })
    }

    /// A node that left the cluster takes its pod route and its forwarding entry along: not ours to restore.
    fn set_left_apart(&mut self) {
        let routed = |e: &Expected| {
            e.role == Role::RemotePods && self.base.routes.iter().any(|r| r.dst == e.prefix)
        };
        // Who leaves takes a route along, and leaves no refusal in its place; one behind everything was there before.
        let refused = |s: &Stray| match s.answer {
            Answer::Refused { table: Some(TABLE_MAIN), .. } => self.seen.routes.iter().any(|r| {
                r.table == TABLE_MAIN
                    && r.kind.refuses()
                    && r.dst.len() >= s.expected.prefix.len()
                    && r.dst.contains(s.expected.ask)
            }),
            Answer::Refused { .. } => true,
            Answer::Leaves { .. } | Answer::Local | Answer::NoRoute | Answer::Unknown { .. } => {
                false
            }
        };
        let gone = |s: &Stray| {
            routed(&s.expected)
                && !refused(s)
                && self.missing_routes.iter().any(|r| r.dst == s.expected.prefix)
                && s.expected
                    .path
                    .as_ref()
                    .is_some_and(|p| self.seen.link(&p.dev).is_some_and(|l| l.up))
        };
        let all = self.expected.iter().filter(|e| routed(e)).count();
        let entries = self.base.fdb.iter().filter(|f| !self.seen.fdb.contains(f)).count();
        let entries = if self.seen.has_gap(Sense::Fdb) { 0 } else { entries };
        let missing = self.strays.iter().filter(|s| gone(s)).count();
        // What would go to it goes where everything goes; what somebody's table takes is taken, unless the entries went too,
        // or cannot be asked.
        let departed = entries >= missing || self.seen.has_gap(Sense::Fdb);
        let gone = |s: &Stray| gone(s) && (departed || s.table().is_none_or(|t| t == TABLE_MAIN));
        let missing = self.strays.iter().filter(|s| gone(s)).count();
        // All of them at once is no farewell, unless the forwarding entries went too.
        if missing == 0 || (missing == all && entries < missing) {
            return;
        }
        let (left, strays) = self.strays.iter().cloned().partition(gone);
        self.strays = strays;
        self.left.extend(
            Vec::into_iter(left).map(|s: Stray| (s.expected, "its node has left the cluster")),
        );
    }
}

/// Without a guard the see-through mark makes no difference; where it does, one was raised after the rules were dumped.
fn guard_came(seen: &Observation) -> bool {
    let way = |l: &Lookup| match &l.fate {
        Fate::Leaves { dev, via, .. } => Some((dev.clone(), *via)),
        Fate::Local | Fate::Refused(_) => None,
    };
    seen.lookups.iter().filter(|l| l.through == Through::Plain).any(|plain| {
        let through = |l: &&Lookup| l.through == Through::SeeThrough && l.dst == plain.dst;
        seen.lookups.iter().find(through).is_some_and(|l| way(l) != way(plain))
    })
}

/// The same rule, whoever put it there.
pub fn same_rule(a: &Rule, b: &Rule) -> bool {
    *a == Rule { protocol: a.protocol, ..b.clone() }
}

/// The same route, whoever put it there and whatever the state of its next hops.
pub fn same_route(a: &Route, b: &Route) -> bool {
    a.family == b.family
        && a.table == b.table
        && a.kind == b.kind
        && a.dst == b.dst
        && a.metric == b.metric
        && a.hops.len() == b.hops.len()
        && a.hops.iter().zip(&b.hops).all(|(a, b)| a.dev == b.dev && a.via == b.via)
}

/// Routes of the baseline's `main` that are not there.
pub fn missing_routes<'a>(base: &'a Baseline, seen: &'a Observation) -> Vec<&'a Route> {
    let main = seen.routes.iter().filter(|r| r.table == TABLE_MAIN);
    fib::lacking(&base.routes, main, same_route)
}

/// The best default route of `main` that is there now.
pub fn default_now(routes: &[Route], family: Family) -> Option<&Route> {
    routes
        .iter()
        .filter(|r| {
            r.family == family
                && r.table == TABLE_MAIN
                && r.dst.is_all()
                && r.kind == RouteKind::Unicast
                && r.hops.iter().any(|h| !h.dead)
        })
        .min_by_key(|r| r.metric)
}

fn tell(fate: &Fate) -> String {
    match fate {
        Fate::Leaves { dev, via: Some(via), .. } => format!("leaves by {dev} via {via}"),
        Fate::Leaves { dev, via: None, .. } => format!("leaves by {dev}"),
        Fate::Local => "is answered by this machine itself".into(),
        Fate::Refused(errno) => format!("is refused (errno {errno})"),
    }
}
