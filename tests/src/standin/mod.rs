//! The stand-ins: small programs that play a part of the cluster where the quick gear needs its exact timing.
//!
//! The lab binary is all of them: installed under the name `tailscaled`, `k3s` or `op` it acts as that program, because faults are
//! recognised by the executable's name; everything else is `lab standin PART`.

pub mod apiserver;
pub mod byhand;
pub mod github;
pub mod http;
pub mod k3s_agent;
pub mod log;
pub mod op;
pub mod outside;
pub mod provider;
pub mod slow_line;
pub mod tailscaled;
pub mod trouble;

use std::{ffi::OsString, path::Path};

use anyhow::Context as _;
use clap::Parser;

/// One stand-in with its arguments.
#[derive(Debug, Parser)]
#[command(multicall = true, disable_help_subcommand = true)]
enum Part {
    /// The TLS endpoint of kube-apiserver, with leases, nodes and the node lifecycle controller
    Apiserver(apiserver::Args),
    /// The agent of k3s: load balancer, kubelet heartbeat, healthz
    K3s(k3s_agent::Args),
    /// The daemon of Tailscale: tun, rules, table 52, netfilter, LocalAPI
    Tailscaled(tailscaled::Args),
    /// The command of 1Password, with a vault that is a file
    Op(op::Args),
    /// A line on which every packet takes its time
    SlowLine(slow_line::Args),
    /// The other end of a tailnet that really carries packets
    TailnetPeer(tailscaled::relay::PeerArgs),
}

/// The arguments of a stand-in, when this process was started as one.
#[must_use]
pub fn part(args: impl IntoIterator<Item = OsString>) -> Option<Vec<OsString>> {
    let args: Vec<OsString> = args.into_iter().collect();
    let name = Path::new(args.first()?).file_name()?;
    if name == "tailscaled" || name == "k3s" || name == "op" {
        let mut part = args.clone();
        part[0] = name.to_owned();
        return Some(part);
    }
    (args.get(1)? == "standin").then(|| args[2..].to_vec())
}

/// Plays the part until it is told to stop.
pub fn run(args: Vec<OsString>) -> anyhow::Result<()> {
    let part = Part::try_parse_from(args).unwrap_or_else(|usage| usage.exit());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of a stand-in")?;
    match part {
        Part::Apiserver(args) => runtime.block_on(apiserver::run(args)),
        Part::K3s(args) => runtime.block_on(k3s_agent::run(args)),
        Part::Tailscaled(args) => runtime.block_on(tailscaled::run(args)),
        Part::Op(args) => op::run(&args),
        Part::SlowLine(args) => runtime.block_on(slow_line::run(args)),
        Part::TailnetPeer(args) => runtime.block_on(tailscaled::relay::run_peer(args)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_name_of_the_executable_chooses_the_part() {
        assert_eq!(
            part(args(&["/usr/sbin/tailscaled", "--tun", "t0"])),
            Some(args(&["tailscaled", "--tun", "t0"]))
        );
        assert_eq!(part(args(&["lab", "standin", "k3s", "agent"])), Some(args(&["k3s", "agent"])));
        assert_eq!(part(args(&["lab", "up"])), None);
        assert_eq!(part(args(&["lab"])), None);
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Part::command().debug_assert();
    }
}
