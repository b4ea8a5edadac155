//! Where a fault is made: the node, the machines around it, and what is known of its network.

use std::{
    fmt::Debug,
    net::{Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{LabError, Result},
    lab::Lab,
    node::Node,
    run::Output,
    space::Space,
    topology::{self, GATEWAY, Machine},
};

/// A machine on which commands can be run.
pub trait Place: Debug {
    /// Runs a command to its end, bounded in time; a command that failed is an answer, not an error.
    fn run(&self, argv: &[&str]) -> Result<Output>;

    /// Writes a file, with its folders.
    fn write(&self, path: &str, text: &str) -> Result<()>;

    /// Runs the words of a line, parted by blanks, and fails if the command does.
    fn must(&self, line: &str) -> Result<Output> {
        self.run(&line.split(' ').collect::<Vec<_>>())?.success()
    }

    /// The same where a failure means that there was nothing to do.
    fn may(&self, line: &str) -> Result<Output> {
        self.run(&line.split(' ').collect::<Vec<_>>())
    }
}

impl Place for Node {
    fn run(&self, argv: &[&str]) -> Result<Output> {
        self.exec(argv)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        Self::write(self, path, text)
    }
}

/// A bare namespace has the host's files, so it writes none.
impl Place for Space {
    fn run(&self, argv: &[&str]) -> Result<Output> {
        self.exec(argv)
    }

    fn write(&self, path: &str, _text: &str) -> Result<()> {
        Err(LabError::Refused(format!("write {path} in {}: its files are the host's", self.name)))
    }
}

/// Another node, as flannel knows it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its pods.
    pub pods: String,
    /// The address of its end of the overlay.
    pub vtep: String,
    /// The link address of that end.
    pub vtep_mac: String,
}

/// What is known of the node's network.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The device of the default route.
    pub device: String,
    /// The node's address.
    pub address: Ipv4Addr,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// The network both are on.
    pub lan: String,
    /// The gateway's bridge on that network.
    pub bridge: String,
    /// An address on that network that nobody has.
    pub nobody: Ipv4Addr,
    /// An address on that network for a second gateway.
    pub second: Ipv4Addr,
    /// An address on that network for a second uplink of the node's.
    pub spare: Ipv4Addr,
    /// The API server's machine.
    pub api: Ipv4Addr,
    /// The same by IPv6.
    pub api6: Ipv6Addr,
    /// An address for the API server to move to.
    pub api_spare: Ipv4Addr,
    /// The node's own pods.
    pub pods: String,
    /// The other nodes.
    pub remotes: Vec<Remote>,
}

impl Facts {
    fn of(machine: &Machine) -> Self {
        let remote = |other: &Machine| Remote {
            address: other.v4(),
            pods: format!("10.42.{}.0/24", other.pods),
            vtep: format!("10.42.{}.0", other.pods),
            vtep_mac: crate::furniture::vtep(other),
        };
        Self {
            device: "eth0".to_owned(),
            address: machine.v4(),
            gateway: machine.net.v4(1),
            lan: format!("{}/24", machine.net.v4(0)),
            bridge: machine.net.bridge.to_owned(),
            nobody: machine.net.v4(77),
            second: machine.net.v4(254),
            spare: machine.net.v4(180),
            api: topology::nodes().next().map_or(Ipv4Addr::UNSPECIFIED, Machine::v4),
            api6: topology::nodes().next().map_or(Ipv6Addr::UNSPECIFIED, Machine::v6),
            api_spare: topology::nodes().next().map_or(Ipv4Addr::UNSPECIFIED, |m| m.net.v4(11)),
            pods: format!("10.42.{}.0/24", machine.pods),
            remotes: topology::nodes()
                .filter(|other| other.name != machine.name)
                .map(remote)
                .collect(),
        }
    }

    /// The node that is neither this one nor the API server's.
    #[must_use]
    pub fn other_worker(&self) -> Option<&Remote> {
        self.remotes.iter().find(|remote| remote.address != self.api)
    }
}

/// A node with its surroundings.
#[derive(Debug)]
pub struct Site {
    /// The node that the fault is made on.
    pub node: Box<dyn Place>,
    /// The gateway between the networks.
    pub gateway: Box<dyn Place>,
    /// The node that carries the API server.
    pub server: Box<dyn Place>,
    /// The node's network.
    pub facts: Facts,
    /// Seconds from a tailscaled's rules to its routes; the incident gave three.
    pub netmap_delay: f32,
}

impl Site {
    /// A node of the lab.
    pub fn of(lab: &Lab, node: &str) -> Result<Self> {
        let node = lab.node(node)?;
        let facts = Facts::of(node.machine);
        let server = topology::nodes()
            .next()
            .ok_or_else(|| LabError::Refused("the lab has no server".to_owned()))?;
        if server.name == node.machine.name {
            let told = format!(
                "break {}: it carries the API server; faults are made on workers",
                server.name
            );
            return Err(LabError::Refused(told));
        }
        Ok(Self {
            node: Box::new(node),
            gateway: Box::new(lab.space(GATEWAY)?),
            server: Box::new(lab.node(server.name)?),
            facts,
            netmap_delay: 3.0,
        })
    }
}

/// Waits until something is so, and says what did not come in time.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() >= limit {
            return Err(LabError::TimedOut { doing: format!("wait until {what}"), after: limit });
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_calypso_are_those_of_the_captures() {
        let facts = Facts::of(topology::machine("calypso").unwrap());
        assert_eq!(facts.lan, "192.168.2.0/24");
        assert_eq!(facts.gateway.to_string(), "192.168.2.1");
        assert_eq!(facts.api.to_string(), "203.0.113.10");
        assert_eq!(facts.other_worker().unwrap().address.to_string(), "203.0.113.20");
    }

    #[test]
    fn waiting_ends_at_its_limit_and_says_for_what() {
        let error = wait_for("pigs fly", Duration::from_millis(30), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("pigs fly"), "{error}");
    }
}
