//! The command line of the stand-in for tailscaled, and the preferences that follow from it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::{netfilter::Backend, prefs::Prefs, routes::Prefix};

/// The arguments; the first group is the original's.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of a command line")]
pub struct Args {
    /// Directory for the preferences
    #[arg(long, default_value = "/var/lib/tailscale")]
    pub(super) statedir: PathBuf,
    /// Path of the LocalAPI's socket
    #[arg(long, default_value = "/run/tailscale/tailscaled.sock")]
    pub(super) socket: PathBuf,
    /// Name of the tun device
    #[arg(long, default_value = "tailscale0")]
    pub(super) tun: String,
    /// UDP port of the tunnel; 0 for any
    #[arg(long, default_value_t = 0)]
    pub(super) port: u16,
    /// Accepted and without effect: the stand-in sends no logs anywhere
    #[arg(long)]
    pub(super) no_logs_no_support: bool,
    /// Remove what an earlier run left, as far as the original does, and end
    #[arg(long)]
    pub(super) cleanup: bool,

    /// How the packet filter is written
    #[arg(long, value_enum, default_value = "legacy")]
    pub(super) firewall: Backend,
    /// Seconds from the rules to the routes
    #[arg(long, default_value_t = 3.0)]
    pub(super) route_delay: f64,
    /// This node's address in the tailnet
    #[arg(long, default_value = "100.64.0.5")]
    pub(super) address: Ipv4Addr,
    /// The same for IPv6
    #[arg(long, default_value = "fd7a:115c:a1e0:ab12:4843:cd96:6240:5")]
    pub(super) address6: Ipv6Addr,
    /// The peers' addresses
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "100.64.0.1,100.64.0.2,100.64.0.3,100.64.0.4"
    )]
    pub(super) peers: Vec<IpAddr>,
    /// Subnets that peers advertise
    #[arg(long, value_delimiter = ',')]
    pub(super) advertised: Vec<Prefix>,
    /// Send everything through this peer
    #[arg(long)]
    pub(super) exit_node: Option<IpAddr>,
    /// Leave the local networks alone while an exit node is in use
    #[arg(long)]
    pub(super) exit_node_allow_lan_access: bool,
    /// Accept the subnets that peers advertise
    #[arg(long)]
    pub(super) accept_routes: bool,
    /// Take the resolver over, in direct mode
    #[arg(long)]
    pub(super) accept_dns: bool,
    /// The resolver's configuration
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub(super) resolv_conf: PathBuf,
    /// The exit node that a system policy demands, whatever the preferences say
    #[arg(long)]
    pub(super) policy_exit_node: Option<IpAddr>,
    /// Carry packets to the tailnet-peer at this address instead of losing them
    #[arg(long)]
    pub(super) relay: Option<SocketAddr>,
}

/// The preferences of this start: the kept ones, and over them what the command line asks for.
pub(super) fn start_prefs(kept: Option<Prefs>, args: &Args) -> Prefs {
    let mut prefs = kept.unwrap_or_else(|| Prefs {
        want_running: true,
        hostname: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
        ..Prefs::default()
    });
    if let Some(exit) = args.exit_node {
        prefs.exit_node_ip = exit.to_string();
        prefs.exit_node_id = String::new();
        prefs.exit_node_allow_lan_access = args.exit_node_allow_lan_access;
    }
    prefs.route_all |= args.accept_routes;
    prefs.corp_dns |= args.accept_dns;
    prefs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        use clap::Parser as _;
        Line::parse_from(std::iter::once("tailscaled").chain(words.iter().copied())).args
    }

    #[test]
    fn flags_win_over_kept_preferences_at_every_start() {
        let kept = Prefs { want_running: true, ..Prefs::default() };
        let prefs = start_prefs(Some(kept.clone()), &args(&["--exit-node", "100.64.0.1"]));
        assert_eq!(prefs.exit_node_ip, "100.64.0.1");
        assert_eq!(start_prefs(Some(kept.clone()), &args(&[])), kept);
    }

    #[test]
    fn a_first_start_wants_to_run() {
        assert!(start_prefs(None, &args(&[])).want_running);
    }
}
