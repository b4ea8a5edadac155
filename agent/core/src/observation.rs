//! What was seen on a node, and what could not be seen.
//!
//! An observation never goes into a plan or over the wire whole. "Could not read" is a [`Gap`], never an empty list.

use crate::clock::Stamp;
use crate::net::{Family, Prefix};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// Routing table `local`.
pub const TABLE_LOCAL: u32 = 255;
/// Routing table `main`.
pub const TABLE_MAIN: u32 = 254;
/// Routing table `default`.
pub const TABLE_DEFAULT: u32 = 253;

/// Everything one look brought in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observation {
    /// When.
    pub taken: Stamp,
    /// Who this node is in its cluster, from k3s's files.
    pub cluster: Cluster,
    /// Network devices.
    pub links: Vec<Link>,
    /// Addresses on them.
    pub addrs: Vec<Addr>,
    /// Policy rules of both families, in the kernel's order.
    pub rules: Vec<Rule>,
    /// Routes of all tables of both families.
    pub routes: Vec<Route>,
    /// Netfilter tables by backend and family.
    pub netfilter: Vec<NfTable>,
    /// Processes that matter: tunnel daemons, owners of tun devices, Kubernetes' own.
    pub processes: Vec<Process>,
    /// Units that matter.
    pub units: Vec<Unit>,
    /// Sysctls that matter, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// `/etc/resolv.conf`.
    pub resolv: Option<Resolv>,
    /// VXLAN forwarding entries: where the other nodes are.
    pub fdb: Vec<Fdb>,
    /// TCP sockets to critical destinations.
    pub sockets: Vec<Socket>,
    /// What the kernel answered when asked for a route.
    pub lookups: Vec<Lookup>,
    /// What answered when it was called.
    pub probes: Vec<Probe>,
    /// The kubelet's lease, when it could be read.
    pub lease: Option<Lease>,
    /// Directories and files a known culprit left.
    pub paths: Vec<String>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
}

impl Observation {
    /// Could this part not be read?
    pub fn has_gap(&self, sense: Sense) -> bool {
        self.gaps.iter().any(|g| g.what == sense)
    }

    /// The device of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }
}

/// A part of the machine that is looked at; what a gap names and a fault needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sense {
    /// k3s's files.
    Cluster,
    /// Links and addresses.
    Links,
    /// Policy rules.
    Rules,
    /// Routes.
    Routes,
    /// `iptables-legacy`, IPv4.
    Legacy4,
    /// `iptables-legacy`, IPv6.
    Legacy6,
    /// nftables and `iptables-nft`, IPv4.
    Nft4,
    /// nftables and `iptables-nft`, IPv6.
    Nft6,
    /// Processes.
    Processes,
    /// Units over D-Bus.
    Units,
    /// Sysctls.
    Sysctls,
    /// resolv.conf.
    Resolv,
    /// VXLAN forwarding entries.
    Fdb,
    /// TCP sockets.
    Sockets,
    /// Asking the kernel for routes.
    Lookups,
    /// Calling destinations.
    Probes,
    /// The kubelet's lease.
    Lease,
}

/// Something that could not be seen, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which part.
    pub what: Sense,
    /// Why, for people.
    pub why: String,
}

/// What k3s's files say about the cluster and this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Node name.
    pub node: String,
    /// The node's own address.
    pub node_ip: Option<IpAddr>,
    /// API server endpoints.
    pub api: Vec<SocketAddr>,
    /// This node's pods.
    pub pod_cidr: Option<Prefix>,
    /// All pods.
    pub cluster_cidr: Option<Prefix>,
    /// Services.
    pub service_cidr: Option<Prefix>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Interface index; never kept in a baseline.
    pub index: u32,
    /// `IFLA_INFO_KIND`: `tun`, `wireguard`, `vxlan`, `bridge`, `veth`…; empty for hardware.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Hardware address, lower case hex with colons; empty when there is none.
    pub mac: String,
    /// Name of the device it is enslaved to.
    pub master: Option<String>,
    /// For tun devices: does the device outlive its process?
    pub persist: bool,
}

/// An address on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addr {
    /// Device name.
    pub dev: String,
    /// The address itself.
    pub addr: IpAddr,
    /// Length of its on-link prefix.
    pub len: u8,
}

/// `fwmark VALUE/MASK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Value.
    pub value: u32,
    /// Mask.
    pub mask: u32,
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Look in this table.
    Lookup(u32),
    /// Go on at the rule of this preference.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Drop silently.
    Blackhole,
    /// Answer "network unreachable".
    Unreachable,
    /// Answer "administratively prohibited".
    Prohibit,
}

/// A policy rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Family.
    pub family: Family,
    /// Preference: lower is asked first.
    pub pref: u32,
    /// `not`: the selector is inverted.
    #[serde(default)]
    pub not: bool,
    /// Source selector.
    #[serde(default)]
    pub from: Option<Prefix>,
    /// Destination selector.
    #[serde(default)]
    pub to: Option<Prefix>,
    /// Incoming device.
    #[serde(default)]
    pub iif: Option<String>,
    /// Outgoing device (only for sockets bound to one).
    #[serde(default)]
    pub oif: Option<String>,
    /// Mark selector.
    #[serde(default)]
    pub mark: Option<Mark>,
    /// IP protocol number.
    #[serde(default)]
    pub ipproto: Option<u8>,
    /// Source port range, inclusive.
    #[serde(default)]
    pub sport: Option<(u16, u16)>,
    /// Destination port range, inclusive.
    #[serde(default)]
    pub dport: Option<(u16, u16)>,
    /// User id range, inclusive.
    #[serde(default)]
    pub uids: Option<(u32, u32)>,
    /// Action.
    pub action: Action,
    /// `suppress_prefixlength`: answers with a prefix this long or shorter do not count.
    #[serde(default)]
    pub suppress: Option<u32>,
    /// Protocol number: who put it there (2 = kernel, 213 = Lifeline).
    pub protocol: u8,
    /// It carries a selector this type does not model; it is never deleted and its match is unknown.
    #[serde(default)]
    pub exotic: bool,
}

impl Rule {
    /// A rule without selectors.
    pub fn bare(family: Family, pref: u32, action: Action) -> Self {
        Self {
            family,
            pref,
            not: false,
            from: None,
            to: None,
            iif: None,
            oif: None,
            mark: None,
            ipproto: None,
            sport: None,
            dport: None,
            uids: None,
            action,
            suppress: None,
            protocol: 0,
            exotic: false,
        }
    }

    /// Does it match every packet?
    pub fn is_plain(&self) -> bool {
        !self.exotic
            && *self
                == Self {
                    protocol: self.protocol,
                    suppress: self.suppress,
                    ..Self::bare(self.family, self.pref, self.action)
                }
    }
}

/// Kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// To a neighbour or gateway.
    Unicast,
    /// To this machine.
    Local,
    /// Broadcast.
    Broadcast,
    /// Anycast.
    Anycast,
    /// Multicast.
    Multicast,
    /// Drop silently.
    Blackhole,
    /// Answer "unreachable".
    Unreachable,
    /// Answer "prohibited".
    Prohibit,
    /// Leave this table and go on with the next rule.
    Throw,
}

/// One next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hop {
    /// Gateway.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// Device name.
    #[serde(default)]
    pub dev: Option<String>,
    /// The gateway counts as on-link whatever the addresses say.
    #[serde(default)]
    pub onlink: bool,
    /// `RTNH_F_DEAD`: not usable now. `RTNH_F_LINKDOWN` alone does not count: the kernel uses such routes unless
    /// `ignore_routes_with_linkdown` is set, and a persistent tun without a process captures by one (R7).
    #[serde(default)]
    pub dead: bool,
    /// Multipath weight, 1 to 256.
    #[serde(default)]
    pub weight: u16,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Family.
    pub family: Family,
    /// Table.
    pub table: u32,
    /// Kind.
    pub kind: RouteKind,
    /// Destination.
    pub dst: Prefix,
    /// Next hops: none for blackholes and throws, one as a rule, several for multipath.
    pub hops: Vec<Hop>,
    /// Metric: lower wins.
    pub metric: u32,
    /// Preferred source.
    #[serde(default)]
    pub src: Option<IpAddr>,
    /// Protocol number: who put it there.
    pub protocol: u8,
    /// Scope number (0 global, 253 link, 254 host).
    pub scope: u8,
    /// It carries attributes this type does not model (encapsulation, next-hop objects, source prefix); never rewritten.
    #[serde(default)]
    pub exotic: bool,
}

impl Route {
    /// Device of the first hop.
    pub fn dev(&self) -> Option<&str> {
        self.hops.first().and_then(|h| h.dev.as_deref())
    }

    /// Gateway of the first hop.
    pub fn via(&self) -> Option<IpAddr> {
        self.hops.first().and_then(|h| h.via)
    }
}

/// Which of the kernel's two packet filters holds a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// ip_tables (`iptables-legacy`).
    Legacy,
    /// nf_tables (`iptables-nft`, `nft`).
    Nft,
}

/// In which language a table's rules are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// As `iptables-save` prints them.
    Iptables,
    /// As `nft -n -a list` prints them: `iptables-nft-save` could not, or would have cut the table short.
    Nft,
}

/// One netfilter table of one backend and family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NfTable {
    /// Backend.
    pub backend: Backend,
    /// Family.
    pub family: Family,
    /// Name: `filter`, `nat`, `mangle`, `raw`…
    pub name: String,
    /// Language of the rules.
    pub dialect: Dialect,
    /// Chains in order.
    pub chains: Vec<Chain>,
    /// Rules in order within each chain.
    pub rules: Vec<NfRule>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Policy (`ACCEPT`, `DROP`) of a built-in or base chain.
    #[serde(default)]
    pub policy: Option<String>,
    /// In nft's dialect: `type filter hook input priority 0`.
    #[serde(default)]
    pub hook: Option<String>,
}

/// A netfilter rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NfRule {
    /// Chain.
    pub chain: String,
    /// Everything behind `-A CHAIN ` (iptables) or the statement (nft), without counters.
    pub spec: String,
    /// nft's handle.
    #[serde(default)]
    pub handle: Option<u64>,
}

/// In which network namespace a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Netns {
    /// The node's own (pid 1's).
    Host,
    /// Another: a pod's, a container's.
    Other,
    /// Could not be read.
    Unknown,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Parent's.
    pub ppid: u32,
    /// Start time, clock ticks since boot (field 22 of `/proc/PID/stat`): with the pid it names the process for ever.
    pub start: u64,
    /// Executable's path as the kernel shows it.
    pub exe: String,
    /// Executable's device and inode, `DEV:INODE`.
    pub inode: String,
    /// Command name.
    pub comm: String,
    /// Network namespace.
    pub netns: Netns,
    /// Control group path of the unified or the name=systemd hierarchy.
    pub cgroup: String,
    /// Tun devices it holds open (`/proc/PID/fdinfo`, `iff:`).
    #[serde(default)]
    pub tuns: Vec<String>,
    /// Its control socket, as its arguments or its defaults say, in its own root.
    #[serde(default)]
    pub socket: Option<String>,
    /// Its state directory, likewise.
    #[serde(default)]
    pub statedir: Option<String>,
}

/// A systemd unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Name with suffix.
    pub name: String,
    /// `loaded`, `not-found`, `masked`…
    pub load: String,
    /// `active`, `activating`, `failed`, `inactive`…
    pub active: String,
    /// `running`, `start`, `auto-restart`…
    pub sub: String,
    /// Main process, 0 when none.
    pub pid: u32,
    /// InvocationID: a new one for each start.
    pub invocation: String,
}

/// The state of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolv {
    /// Its content, at most 4 KiB.
    pub text: String,
    /// Where it points when it is a symbolic link.
    #[serde(default)]
    pub link: Option<String>,
    /// What a backup says that a known culprit made (`/etc/resolv.pre-tailscale-backup.conf`).
    #[serde(default)]
    pub backup: Option<String>,
}

/// A VXLAN forwarding entry: the address of another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fdb {
    /// VXLAN device.
    pub dev: String,
    /// The other node's address.
    pub dst: IpAddr,
}

/// A TCP socket to a critical destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// `established`, `syn-sent`…
    pub state: String,
    /// Own end.
    pub src: SocketAddr,
    /// Other end.
    pub dst: SocketAddr,
    /// Mark.
    #[serde(default)]
    pub mark: u32,
}

/// How a question was put: what mark the packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Through {
    /// No mark: as the kubelet sees it, guard included.
    Plain,
    /// The see-through mark: as it would be without our guard.
    SeeThrough,
    /// The lifeline mark: along our own path.
    Lifeline,
}

/// What the kernel said a packet would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It leaves here.
    Leaves {
        /// Device.
        dev: String,
        /// Gateway.
        #[serde(default)]
        via: Option<IpAddr>,
        /// Table that answered; 0 when not said.
        #[serde(default)]
        table: u32,
        /// Source address chosen.
        #[serde(default)]
        src: Option<IpAddr>,
    },
    /// It is for this machine.
    Local,
    /// No route, or a rule or route that refuses: the errno.
    Refused(i32),
}

/// An answer to `RTM_GETROUTE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Destination.
    pub dst: IpAddr,
    /// Mark of the question.
    pub through: Through,
    /// The answer.
    pub fate: Fate,
}

/// How far a call got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// TLS handshake completed (the server's certificate was the cluster's).
    Tls,
    /// TLS answered, with a certificate that is not the cluster's: somebody else is there.
    Stranger,
    /// TCP connected, TLS did not answer in time. Not success (K5).
    TcpOnly,
    /// An answer to ICMP echo or ARP.
    Echo,
    /// Actively refused: the machine lives.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// The kernel would not send: the errno.
    Unsent(i32),
}

/// A call to a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Name of the critical destination (`api 203.0.113.10:6443`, `gateway 192.168.2.1`).
    pub name: String,
    /// Destination.
    pub dst: IpAddr,
    /// Mark used.
    pub through: Through,
    /// How far it got.
    pub reach: Reach,
    /// Source address the kernel chose.
    #[serde(default)]
    pub src: Option<IpAddr>,
}

/// The kubelet's lease as read from the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// `spec.renewTime` as written.
    pub renewed: String,
    /// Age by this node's own clock, which is also the one that wrote it, in milliseconds.
    pub age_ms: u64,
}
