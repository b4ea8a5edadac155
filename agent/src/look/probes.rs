//! Calls to the API servers and the gateway, along each path there is, all at once.
//!
//! TCP alone is no success: k3s's own load balancer accepts while nothing is behind it (K5), and so may anything on the way.

use super::handshake::{self, Call, Patience, unsent};
use super::lookups::Target;
use super::{Places, Seen, mark_of};
use crate::netlink::{Kernel, LinkNames};
use futures_util::future::join_all;
use lifeline_core::baseline::Role;
use lifeline_core::observation::{Fate, Gap, Lookup, Probe, Reach, Sense, Through};
use rustls::ClientConfig;
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// For TCP and TLS together, or for echoes.
const LIMIT: Duration = Duration::from_millis(2_500);
/// So many echoes: the first may wait for ARP, and any may be lost.
const ECHOES: u16 = 5;
/// Between echoes: a gateway is one hop away.
const ECHO_LIMIT: Duration = Duration::from_millis(300);

const EHOSTUNREACH: i32 = 113;

/// Which paths there are to call along.
#[derive(Clone, Copy)]
pub(super) struct Paths<'a> {
    /// A guard stands: without one the see-through path is the plain one.
    pub(super) guarded: bool,
    /// The lifeline is laid: without it a marked packet goes wherever the others go.
    pub(super) mirrored: bool,
    /// Where the kernel says that each of them leaves.
    pub(super) lookups: &'a [Lookup],
}

impl Paths<'_> {
    fn all(&self) -> Vec<Through> {
        let mut all = vec![Through::Plain];
        all.extend(self.guarded.then_some(Through::SeeThrough));
        all.extend(self.mirrored.then_some(Through::Lifeline));
        all
    }

    /// Do two of them leave by the same device and gateway, as far as is known?
    fn are_one_way(&self, dst: IpAddr, a: Through, b: Through) -> bool {
        let way = |through| {
            let asked = self.lookups.iter().find(|l| l.dst == dst && l.through == through)?;
            match &asked.fate {
                Fate::Leaves { dev, via, .. } => Some((dev, via)),
                Fate::Local | Fate::Refused(_) => None,
            }
        };
        way(a).is_some() && way(a) == way(b)
    }
}

/// What calling brought.
#[derive(Debug, Default)]
pub(super) struct Called {
    pub(super) probes: Vec<Probe>,
    /// The calls along the lifeline with the node's own credentials: its lease is read over them.
    pub(super) by_lifeline: Vec<(SocketAddr, Call)>,
}

/// Calls every API server and gateway along each path; with `node`, the node's own credentials, along the lifeline.
pub(super) async fn call(
    kernel: &Kernel,
    places: &Places,
    names: &LinkNames,
    targets: &[Target],
    paths: Paths<'_>,
    node: Option<&Arc<ClientConfig>>,
) -> Seen<Called> {
    let mut gaps = Vec::new();
    let config = handshake::config(&places.k3s.join("agent/server-ca.crt"), None);
    let config = config.map_err(|why| gaps.push(Gap { what: Sense::Probes, why })).ok();
    let called = targets.iter().filter(|t| match t.role {
        Role::Api => config.is_some(),
        Role::Gateway => true,
        Role::Lan | Role::Node | Role::OwnPods | Role::RemotePods | Role::Services => false,
    });
    let mut probes = Vec::new();
    for target in called {
        let dst = target.dst;
        let (mut patiences, mut answers) = (Vec::new(), Vec::new());
        for through in paths.all() {
            let (patience, answer) = Patience::new(LIMIT);
            patiences.push((through, patience));
            answers.push((through, answer));
        }
        let answers = Arc::new(answers);
        for (through, patience) in patiences {
            let answers = Arc::clone(&answers);
            let own = node.filter(|_| through == Through::Lifeline);
            let (config, mark) = (own.or(config.as_ref()), mark_of(through, &places.policy));
            probes.push(async move {
                let api = SocketAddr::new(dst, target.port);
                let (name, reach, src, call) = match config.filter(|_| target.role == Role::Api) {
                    Some(config) => {
                        let call = handshake::call(api, mark, config, &patience).await;
                        let (reach, src) = (call.reach.clone(), call.src);
                        (format!("api {api}"), reach, src, own.map(|_| (api, call)))
                    }
                    None => {
                        let (reach, src) = gateway(kernel, names, dst, mark, &patience).await;
                        (format!("gateway {dst}"), reach, src, None)
                    }
                };
                // Who leaves by the same way and hears nothing may only have lost more packets, and has all its time: what
                // is silent while its twin is answered is said to be dropped on this node (U3, N3).
                let others = answers.iter().filter(|(o, _)| !paths.are_one_way(dst, through, *o));
                if matches!(reach, Reach::Tls | Reach::Echo) {
                    others.for_each(|(_, a)| _ = a.send_replace(Some(patience.taken())));
                }
                (Probe { name, dst, through, reach, src }, call)
            });
        }
    }
    let (probes, calls): (Vec<_>, Vec<_>) = join_all(probes).await.into_iter().unzip();
    let by_lifeline = calls.into_iter().flatten().collect();
    Seen { found: Called { probes, by_lifeline }, gaps }
}

/// ICMP echo over a raw socket, which takes the CAP_NET_RAW the unit has (a datagram one is shut to root by the default
/// `ping_group_range`). Many gateways drop echoes, so one that answered the ARP our echo needed counts too.
async fn gateway(
    kernel: &Kernel,
    names: &LinkNames,
    dst: IpAddr,
    mark: u32,
    patience: &Patience,
) -> (Reach, Option<IpAddr>) {
    let socket = match raw(dst, mark) {
        Ok(socket) => socket,
        Err(e) => return (unsent(&e), None),
    };
    let src = socket.local_addr().ok().map(|a| a.ip());
    // Raw sockets get every echo reply from there; the number tells ours from another look's.
    let id = socket_number(&socket);
    let echoes = async {
        for seq in 1..=ECHOES {
            if let Err(e) = socket.send(&echo(dst, id, seq)).await {
                // An error of an earlier packet (EHOSTUNREACH: no ARP answer) is reported on the next send.
                let silent = seq > 1 && e.raw_os_error() == Some(EHOSTUNREACH);
                return if silent { Reach::Silent } else { unsent(&e) };
            }
            if timeout(ECHO_LIMIT, reply(&socket, dst, id)).await.is_ok_and(|r| r.is_ok()) {
                return Reach::Echo;
            }
        }
        Reach::Silent
    };
    let reach = tokio::select! {
        reach = echoes => reach,
        () = patience.over() => Reach::Silent,
    };
    if reach != Reach::Silent {
        return (reach, src);
    }
    let arp = async {
        let fate = kernel.lookup(names, dst, mark, (0, 0), 0, None).await.ok()?;
        let Fate::Leaves { dev, via: None, .. } = fate else { return None };
        kernel.is_neighbour_alive(dst, names.index(&dev)?).await.ok()
    };
    (if arp.await == Some(true) { Reach::Echo } else { Reach::Silent }, src)
}

fn raw(dst: IpAddr, mark: u32) -> io::Result<UdpSocket> {
    let (domain, protocol) = match dst {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = socket2::Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if mark != 0 {
        socket.set_mark(mark)?;
    }
    socket.connect(&SockAddr::from(SocketAddr::new(dst, 0)))?;
    // Only its send and recv are used, which are the same for every datagram socket.
    UdpSocket::from_std(socket.into())
}

fn socket_number(socket: &UdpSocket) -> u16 {
    use std::os::fd::AsRawFd;
    let fd = u32::try_from(socket.as_raw_fd()).unwrap_or(0);
    let mixed = std::process::id().wrapping_mul(31).wrapping_add(fd);
    u16::try_from(mixed & 0xffff).unwrap_or(0)
}

/// An echo request; the kernel fills in ICMPv6's checksum, not ICMPv4's.
fn echo(dst: IpAddr, id: u16, seq: u16) -> Vec<u8> {
    let kind = if dst.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&seq.to_be_bytes());
    packet.extend_from_slice(b"lifeline");
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = packet
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Waits for the reply to one of ours.
async fn reply(socket: &UdpSocket, dst: IpAddr, id: u16) -> io::Result<()> {
    let mut packet = [0; 256];
    loop {
        let n = socket.recv(&mut packet).await?;
        if is_reply(&packet[..n], dst, id) {
            return Ok(());
        }
    }
}

/// A raw IPv4 socket hands over the IP header too, an IPv6 one does not.
fn is_reply(packet: &[u8], dst: IpAddr, id: u16) -> bool {
    let (start, kind) = match dst {
        IpAddr::V4(_) => (packet.first().map_or(0, |b| usize::from(b & 0xf) * 4), 0),
        IpAddr::V6(_) => (0, 129),
    };
    packet.get(start) == Some(&kind) && packet.get(start + 4..start + 6) == Some(&id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_sums_to_nothing_and_its_reply_is_known() {
        let dst: IpAddr = "192.168.2.1".parse().unwrap();
        let mut packet = echo(dst, 0x1234, 1);
        assert_eq!(checksum(&packet), 0);
        packet[0] = 0;
        let mut with_header = vec![0x45; 20];
        with_header.extend(packet);
        assert!(is_reply(&with_header, dst, 0x1234));
        assert!(!is_reply(&with_header, dst, 0x1235));
        assert!(!is_reply(&with_header[..22], dst, 0x1234));
    }
}
