//! One look at the node: every sense at once, each with its own deadline, and what could not be seen said as a gap.
//!
//! [`Look::full`] is what is judged; [`Look::quick`] is what the guard goes by. Neither ever changes anything, but that a probe
//! sends a packet.

mod blocking;
mod cluster;
mod handshake;
mod host_ports;
mod keepers;
mod lease;
mod lookups;
mod netfilter;
mod paths;
pub mod pods;
mod probes;
pub mod processes;
mod resolv;
mod sockets;
mod sysctls;
pub(crate) mod units;

pub use units::changes as unit_changes;

use self::blocking::{Files, Slow};
use crate::clock::Clock;
use crate::netlink::{Kernel, LinkNames, NetlinkError};
use lifeline_core::baseline::Expected;
use lifeline_core::drill;
use lifeline_core::fib;
use lifeline_core::net::Family;
use lifeline_core::observation::{
    Cluster, Gap, Mark, Observation, Process, Reach, Rule, Sense, Through,
};
use lifeline_core::policy::Policy;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// How long a sense may take. The slowest in a sound node is a TLS handshake over a bad line.
const LIMIT: Duration = Duration::from_secs(3);
/// 20 000 netfilter rules in each of four places take some two seconds; a table that is missing from a look costs more.
const NETFILTER_LIMIT: Duration = Duration::from_secs(8);

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/var/lib/rancher/k3s`.
    pub k3s: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/etc`.
    pub etc: PathBuf,
    /// `/run`.
    pub run: PathBuf,
    /// `/var`.
    pub var: PathBuf,
    /// D-Bus address; the system bus when none is said.
    pub bus: Option<String>,
    /// Node name, when the operator says it.
    pub node: Option<String>,
    /// API endpoints, when the operator says them.
    pub api: Vec<SocketAddr>,
    /// Marks, unit, devices.
    pub policy: Policy,
    /// What to ask about from the start; see [`Look::expect`].
    pub critical: Vec<Expected>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            k3s: "/var/lib/rancher/k3s".into(),
            proc: "/proc".into(),
            etc: "/etc".into(),
            run: "/run".into(),
            var: "/var".into(),
            bus: None,
            node: None,
            api: Vec::new(),
            policy: Policy::default(),
            critical: Vec::new(),
        }
    }
}

/// What a sense brought: what it saw, and what it could not see.
#[derive(Debug, Default)]
struct Seen<T> {
    found: T,
    gaps: Vec<Gap>,
}

impl<T> Seen<T> {
    fn whole(found: T) -> Self {
        Self { found, gaps: Vec::new() }
    }

    /// Moves the gaps over and gives what was found.
    fn unpack(self, gaps: &mut Vec<Gap>) -> T {
        gaps.extend(self.gaps);
        self.found
    }
}

impl<T: Default> Seen<T> {
    fn nothing(what: Sense, why: impl Into<String>) -> Self {
        Self { found: T::default(), gaps: vec![Gap { what, why: why.into() }] }
    }
}

/// A call to an API server, and how it went.
#[derive(Debug)]
pub struct Called {
    /// Which.
    pub api: SocketAddr,
    /// How far it got.
    pub reach: Reach,
    /// How long that took.
    pub took: Duration,
}

/// Looks at the node.
#[derive(Debug)]
pub struct Look {
    kernel: Kernel,
    clock: Clock,
    places: Places,
    critical: Mutex<Vec<Expected>>,
    /// What k3s's files said last, for the quick look.
    cluster: Mutex<Cluster>,
    netfilter: netfilter::Netfilter,
    lease: lease::Memory,
    files: Slow,
    process_table: Slow,
    owners: keepers::Owners,
}

impl Look {
    /// Looks with this connection to the kernel, at these places.
    pub fn new(kernel: Kernel, places: Places) -> Self {
        let critical = Mutex::new(places.critical.clone());
        Self {
            kernel,
            // Without a boot id nothing can be journalled, but a look is a look.
            clock: Clock::read().unwrap_or_else(|_| Clock::of_boot("")),
            places,
            critical,
            cluster: Mutex::default(),
            netfilter: netfilter::Netfilter::default(),
            lease: lease::Memory::default(),
            files: Slow::default(),
            process_table: Slow::default(),
            owners: keepers::Owners::default(),
        }
    }

    /// Says which destinations to ask about from now on; the API endpoints and the gateway are always asked about.
    pub fn expect(&self, critical: Vec<Expected>) {
        *self.critical.lock().unwrap_or_else(PoisonError::into_inner) = critical;
    }

    fn critical(&self) -> Vec<Expected> {
        self.critical.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything. Takes as long as its slowest sense.
    pub async fn full(&self) -> Observation {
        let mut seen = self.tables().await;
        let tuns = seen.links.iter().filter(|l| l.kind == "tun").map(|l| l.name.clone()).collect();
        let (files, processes) = self.off_the_loop(tuns);
        let (netfilter, units) = (
            self.netfilter.read(NETFILTER_LIMIT),
            units::read(self.places.bus.as_deref(), &self.places.policy.unit, LIMIT),
        );
        let net = async {
            let files = files.await.unpack(&mut seen.gaps);
            seen.cluster = files.cluster;
            seen.sysctls = files.sysctls;
            seen.resolv = files.resolv;
            seen.paths = files.paths;
            seen.host_ports = files.host_ports;
            cluster::complete(&mut seen);
            self.remember(&seen.cluster);
            self.calls(&mut seen).await;
            seen
        };
        let (mut seen, netfilter, processes, units) =
            tokio::join!(net, netfilter, processes, units);
        let tables = netfilter.unpack(&mut seen.gaps);
        (seen.netfilter, seen.inet) = (tables.single, tables.inet);
        seen.processes = processes.unpack(&mut seen.gaps);
        seen.units = units.unpack(&mut seen.gaps);
        keepers::complete(&mut seen, &self.places, &self.owners).await;
        seen
    }

    /// The senses that block.
    fn off_the_loop(
        &self,
        tuns: Vec<String>,
    ) -> (impl Future<Output = Seen<Files>>, impl Future<Output = Seen<Vec<Process>>>) {
        let (places, proc) = (self.places.clone(), self.places.proc.clone());
        (
            self.files.run(Sense::Cluster, move || Files::read(&places)),
            self.process_table.run(Sense::Processes, move || processes::read(&proc, &tuns)),
        )
    }

    /// What is asked of the kernel and of others once it is known about whom.
    async fn calls(&self, seen: &mut Observation) {
        let places = &self.places;
        let targets = lookups::targets(seen, &self.critical());
        let guarded = stands(&seen.rules, places.policy.see_through, false);
        let mirrored = stands(&seen.rules, places.policy.lifeline, true);
        let names = LinkNames::from(seen.links.as_slice());
        // Before our own calls are on their way.
        let sockets = sockets::read(&self.kernel, &places.proc, &targets).await;
        let lookups = self.lookups(seen, &names, &targets).await.unpack(&mut seen.gaps);
        let node = lease::credentials(places);
        let paths = probes::Paths { guarded, mirrored, lookups: &lookups };
        let read_lease =
            |called| lease::read(places, &seen.cluster, node.clone(), called, &self.lease);
        // Along the lifeline the API server is called once: its answer carries the lease, too.
        let own = async { if mirrored { None } else { Some(read_lease(Vec::new()).await) } };
        let (called, own, fdb, xfrm) = tokio::join!(
            probes::call(&self.kernel, places, &names, &targets, paths, node.as_ref().ok()),
            own,
            netlinked(Sense::Fdb, self.kernel.neighbours_fdb(&names)),
            netlinked(Sense::Xfrm, self.kernel.xfrm_policies()),
        );
        let mut gaps = Vec::new();
        let called = called.unpack(&mut gaps);
        let lease = match own {
            Some(lease) => lease,
            None => read_lease(called.by_lifeline).await,
        };
        seen.lease = lease.unpack(&mut gaps);
        seen.gaps.append(&mut gaps);
        seen.sockets = sockets.unpack(&mut seen.gaps);
        seen.lookups = lookups;
        seen.probes = called.probes;
        seen.fdb = fdb.unpack(&mut seen.gaps);
        seen.xfrm = xfrm.unpack(&mut seen.gaps);
    }

    /// Calls the API servers along the lifeline path, all at once, and says how long each took to answer TLS.
    ///
    /// # Errors
    /// Says why nobody can be called.
    pub async fn call_by_lifeline(&self, api: &[SocketAddr]) -> Result<Vec<Called>, String> {
        let config = handshake::config(&self.places.k3s.join("agent/server-ca.crt"), None)?;
        let (config, mark) = (&config, mark_of(Through::Lifeline, &self.places.policy));
        let calls = api.iter().map(|api| async move {
            let (patience, _answer) = handshake::Patience::new(LIMIT);
            let call = handshake::call(*api, mark, config, &patience).await;
            Called { api: *api, reach: call.reach, took: patience.taken() }
        });
        Ok(futures_util::future::join_all(calls).await)
    }

    /// Devices, addresses, rules, routes, and where the critical destinations leave. Some milliseconds.
    pub async fn quick(&self) -> Observation {
        let mut seen = self.tables().await;
        seen.cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let targets = lookups::targets(&seen, &self.critical());
        let names = LinkNames::from(seen.links.as_slice());
        seen.lookups = self.lookups(&seen, &names, &targets).await.unpack(&mut seen.gaps);
        seen
    }

    /// The kernel's tables.
    async fn tables(&self) -> Observation {
        let mut seen = Observation { taken: self.clock.now(), ..Observation::default() };
        let gaps = &mut seen.gaps;
        seen.links = netlinked(Sense::Links, self.kernel.links()).await.unpack(gaps);
        let names = LinkNames::from(seen.links.as_slice());
        seen.addrs = netlinked(Sense::Links, self.kernel.addrs(&names)).await.unpack(gaps);
        for family in Family::ALL {
            let rules = netlinked(Sense::Rules, self.kernel.rules(family)).await.unpack(gaps);
            seen.rules.extend(rules.into_iter().map(|(rule, _)| rule));
        }
        seen.routes = netlinked(Sense::Routes, self.kernel.bare_routes(&names)).await.unpack(gaps);
        // A drill is nobody's fault: it is neither judged nor learnt.
        seen.rules.retain(|r| !drill::is_rule(r));
        if seen.routes.iter().any(drill::is_route) {
            seen.routes.retain(|r| !drill::is_route(r));
        }
        seen
    }

    async fn lookups(
        &self,
        seen: &Observation,
        names: &LinkNames,
        targets: &[lookups::Target],
    ) -> Seen<Vec<lifeline_core::observation::Lookup>> {
        let asked = lookups::ask(&self.kernel, names, &self.places.policy, seen, targets);
        timeout(LIMIT, asked)
            .await
            .unwrap_or_else(|_| Seen::nothing(Sense::Lookups, "no answer in time"))
    }

    fn remember(&self, cluster: &Cluster) {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = cluster.clone();
    }
}

/// Our rule that belongs to a mark: a guard rule does not match its bit, the lifeline's rule does.
fn stands(rules: &[Rule], mark: u32, set: bool) -> bool {
    rules.iter().any(|r| {
        fib::is_ours(r)
            && r.mark.is_some_and(|Mark { value, mask }| {
                mask & mark == mark && (value & mark == mark) == set
            })
    })
}

/// The mark a question carries.
fn mark_of(through: Through, policy: &Policy) -> u32 {
    match through {
        Through::Plain => 0,
        Through::SeeThrough => policy.see_through,
        Through::Lifeline => policy.lifeline,
    }
}

async fn netlinked<T: Default>(
    what: Sense,
    call: impl Future<Output = Result<T, NetlinkError>>,
) -> Seen<T> {
    match call.await {
        Ok(found) => Seen::whole(found),
        Err(e) => Seen::nothing(what, chain(&e)),
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}
