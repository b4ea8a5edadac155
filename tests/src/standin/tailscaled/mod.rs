//! The stand-in for tailscaled: the footprint that the daemon leaves on a Linux host, with its timing and its temper.
//!
//! What it copies, and from where (paths are those of tailscale/tailscale):
//! - a tun that vanishes with the process, mtu 1280, `vnet_hdr` (`net/tstun`);
//! - rules 5210–5270 of both families first, table 52 later: the netmap comes about 3 s after the start (seen with 1.102.5);
//! - table 52 per mode (`routes.rs`), rules and routes by netlink (`router.rs`), chains in three backends (`netfilter.rs`);
//! - rules put back 250 ms after an IPv4 rule at 5200–5299 went away (`fix_limit.rs`), never chains or routes, and not for
//!   IPv6 (`net/netmon/netmon_linux.go` joins the IPv4 group alone);
//! - `src_valid_mark=1`, never put back (`router_linux.go`, since 1.98);
//! - `Close()` on SIGTERM: device down, rules, chains, throws; after SIGKILL everything but the device stays;
//! - the LocalAPI (`localapi.rs`) with masked preferences (`prefs.rs`) that survive a restart; the flags win at every start, as
//!   containerboot's `TS_EXTRA_ARGS` do;
//! - a random UDP port, as in containers, on sockets with the bypass mark.
//!
//! It speaks no WireGuard: what goes into the tun is lost, as behind an exit node that forwards nothing, or is carried
//! in the clear to a `tailnet-peer` (`relay.rs`).

mod args;
mod dns;
mod fix_limit;
mod localapi;
mod netfilter;
mod prefs;
pub mod relay;
mod router;
mod routes;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{RouteNetlinkMessage, rule::RuleAttribute},
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

pub use self::args::Args;
use self::{
    args::start_prefs,
    fix_limit::FixLimit,
    localapi::Ask,
    netfilter::{Backend, Netfilter},
    prefs::Prefs,
    router::Router,
    routes::Tailnet,
};
use crate::say;

/// The running daemon.
struct Daemon {
    args: Args,
    prefs: Prefs,
    router: Router,
    netfilter: Netfilter,
    /// Whether the netmap is there, so that preferences have an effect.
    mapped: bool,
    filtering: bool,
}

/// Runs until SIGTERM.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.cleanup {
        return clean_up(&args).await;
    }
    let state = args.statedir.join("tailscaled.state");
    let kept =
        Prefs::load(&state).with_context(|| format!("read preferences: {}", state.display()))?;
    let prefs = start_prefs(kept, &args);

    let (socket4, port4) = relay::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.port)))?;
    let (_socket6, port6) = relay::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port)))?;
    let listener = localapi::listen(&args.socket)
        .with_context(|| format!("open LocalAPI: {}", args.socket.display()))?;
    let (asks_in, mut asks) = mpsc::channel(16);
    tokio::spawn(localapi::serve(listener, asks_in));

    let device = relay::open_tun(&args.tun, args.relay.is_none())?;
    let index = device.if_index().context("ask for the tun's index")?;
    relay::carry(device, socket4, args.relay)?;

    let (connection, handle, mut events) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv4Rule]).context("open netlink")?;
    tokio::spawn(connection);
    let netfilter = Netfilter {
        backend: args.firewall,
        tun: args.tun.clone(),
        addr4: args.address.into(),
        addr6: args.address6.into(),
        port4,
        port6,
    };
    let mut daemon = Daemon {
        router: Router::new(handle.clone(), args.tun.clone(), index),
        args,
        prefs,
        netfilter,
        mapped: false,
        filtering: false,
    };
    daemon.up(&handle, index).await?;

    let started = Instant::now();
    let mut limit = FixLimit::new();
    let netmap = sleep(Duration::from_secs_f64(daemon.args.route_delay.max(0.0)));
    tokio::pin!(netmap);
    let restore = sleep(Duration::ZERO);
    tokio::pin!(restore);
    let mut restoring = false;
    let mut term = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            () = &mut netmap, if !daemon.mapped => {
                daemon.mapped = true;
                daemon.apply().await;
            }
            Some(ask) = asks.recv() => daemon.answer(ask).await,
            Some((event, _)) = events.next() => {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRule(rule)) = event.payload
                    && rule.attributes.iter().any(|of| matches!(of, RuleAttribute::Priority(pref) if fix_limit::is_watched(*pref)))
                    && !restoring
                {
                    restoring = true;
                    let wait = limit.reserve(started.elapsed());
                    restore.as_mut().reset(tokio::time::Instant::now() + wait);
                }
            }
            () = &mut restore, if restoring => {
                restoring = false;
                say!("somebody (likely systemd-networkd) deleted ip rules; restoring Tailscale's");
                if let Err(refused) = daemon.router.add_rules().await {
                    say!("{refused}");
                }
            }
        }
    }
    daemon.close().await;
    Ok(())
}

impl Daemon {
    /// `Up`: clear the rules of an earlier run, add ours, bring the device up.
    async fn up(&self, handle: &rtnetlink::Handle, index: u32) -> anyhow::Result<()> {
        self.router.delete_rules().await?;
        self.router.add_rules().await?;
        let up = rtnetlink::LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.context("bring the tun up")?;
        say!("router: up, device {} rules {}+10,30,50,70", self.args.tun, router::PREF_BASE);
        Ok(())
    }

    /// `Set`: netfilter, throws, routes, addresses, DNS, for the present preferences.
    async fn apply(&mut self) {
        self.resolve_exit_node();
        self.apply_policy();
        self.keep_prefs();
        match self.try_apply().await {
            Ok(()) => say!(
                "router: set, exit node {:?} allow LAN {} accept routes {}",
                self.prefs.exit_node_id,
                self.prefs.exit_node_allow_lan_access,
                self.prefs.route_all
            ),
            Err(failed) => say!("router: set: {failed:#}"),
        }
    }

    async fn try_apply(&mut self) -> anyhow::Result<()> {
        let tailnet =
            Tailnet { peers: self.args.peers.clone(), advertised: self.args.advertised.clone() };
        let locals = router::locals(&self.args.tun).context("list local networks")?;
        if self.prefs.want_running && !self.filtering {
            self.filtering = true;
            self.netfilter.add().await?;
            fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "1")
                .context("set src_valid_mark")?;
        }
        if !self.prefs.want_running && self.filtering {
            self.filtering = false;
            self.netfilter.delete().await?;
        }
        self.router.set(routes::wanted(&self.prefs, &tailnet, &locals)).await?;
        if self.prefs.want_running {
            self.router.add_address(self.args.address.into()).await?;
            self.router.add_address(self.args.address6.into()).await?;
        }
        let dns = if self.prefs.want_running && self.prefs.corp_dns {
            dns::take_over
        } else {
            dns::give_back
        };
        dns(&self.args.resolv_conf).context("write resolver configuration")
    }

    /// An exit node given by address becomes one by id once the netmap is there (`resolveExitNodeIP`).
    fn resolve_exit_node(&mut self) {
        if let Ok(addr) = self.prefs.exit_node_ip.parse::<IpAddr>()
            && self.args.peers.contains(&addr)
        {
            self.prefs.exit_node_id = node_id(addr);
            self.prefs.exit_node_ip.clear();
        }
    }

    /// A system policy wins over every edit, silently (`ipn/ipnlocal applySysPolicyLocked`).
    fn apply_policy(&mut self) {
        if let Some(exit) = self.args.policy_exit_node {
            self.prefs.exit_node_id = node_id(exit);
            self.prefs.exit_node_ip.clear();
        }
    }

    fn keep_prefs(&self) {
        let state = self.args.statedir.join("tailscaled.state");
        if let Err(cause) = self.prefs.save(&state) {
            say!("keep preferences: {}: {cause}", state.display());
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // Whoever asked may have gone; that is not the daemon's trouble.
        match ask {
            Ask::Status(to) => drop(to.send(self.status())),
            Ask::Prefs(to) => drop(to.send(self.prefs.clone())),
            Ask::Edit(masked, to) => drop(to.send(self.edit(&masked).await)),
        }
    }

    async fn edit(&mut self, masked: &Value) -> Result<Prefs, String> {
        let merged = self.prefs.merge(masked);
        self.prefs = merged.map_err(|cause| format!("{:#}", anyhow::Error::from(cause)))?;
        self.apply_policy();
        say!("EditPrefs: {masked}");
        if self.mapped {
            self.apply().await;
        } else {
            self.keep_prefs();
        }
        Ok(self.prefs.clone())
    }

    /// `ipnstate.Status`, as much of it as tells about routing.
    fn status(&self) -> Value {
        let state = if self.prefs.want_running { "Running" } else { "Stopped" };
        let exit = (!self.prefs.exit_node_id.is_empty())
            .then(|| json!({"ID": self.prefs.exit_node_id, "Online": true}));
        let peers: serde_json::Map<String, Value> = (self.args.peers.iter())
            .map(|peer| {
                let id = node_id(*peer);
                let used = id == self.prefs.exit_node_id;
                (
                    format!("nodekey:{id}"),
                    json!({"ID": id, "TailscaleIPs": [peer], "ExitNode": used, "Online": true}),
                )
            })
            .collect();
        let addresses = json!([self.args.address, self.args.address6]);
        json!({
            "Version": "1.102.5-lifeline-lab", "TUN": true, "BackendState": state, "TailscaleIPs": addresses,
            "Self": {"HostName": self.prefs.hostname, "TailscaleIPs": addresses, "Online": true},
            "ExitNodeStatus": exit, "Peer": peers,
        })
    }

    /// `Close`, which gives up where a part of it fails: when the device or a native chain is gone already.
    async fn try_close(&mut self) -> anyhow::Result<()> {
        self.router.close().await?;
        if self.filtering {
            self.netfilter.delete().await?;
        }
        self.router.delete_throws().await;
        Ok(())
    }

    /// The end of the daemon.
    async fn close(&mut self) {
        say!("tailscaled got signal; shutting down");
        if let Err(cause) = dns::give_back(&self.args.resolv_conf) {
            say!("dns: give back {}: {cause}", self.args.resolv_conf.display());
        }
        if let Err(cause) = self.try_close().await {
            say!("router: close: {cause:#}");
        }
        if let Err(cause) = fs::remove_file(&self.args.socket) {
            say!("localapi: remove {}: {cause}", self.args.socket.display());
        }
    }
}

/// The stable id that the coordination server gives a peer.
fn node_id(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(addr) => format!("nLAB{:X}CNTRL", addr.to_bits()),
        IpAddr::V6(addr) => format!("nLAB{:X}CNTRL", addr.to_bits()),
    }
}

/// `tailscaled --cleanup`: chains and hooks in filter and nat, and the resolver; rules, throws, mangle and sysctl stay.
async fn clean_up(args: &Args) -> anyhow::Result<()> {
    let netfilter = Netfilter {
        backend: args.firewall,
        tun: args.tun.clone(),
        addr4: args.address.into(),
        addr6: args.address6.into(),
        port4: 0,
        port6: 0,
    };
    netfilter.clean_up().await;
    if args.firewall != Backend::Nft {
        Netfilter { backend: Backend::Nft, ..netfilter }.clean_up().await;
    }
    dns::give_back(&args.resolv_conf).context("give the resolver back")
}
