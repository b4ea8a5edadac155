//! The tun and what becomes of the packets in it: lost, or carried in the clear over UDP to a peer that forwards them.
//!
//! The carried form stands in for WireGuard where a tailnet has to work (the cluster that runs over Tailscale, a deliberate
//! VPN). Sockets carry the bypass mark, as `net/netns/netns_linux.go` sets it, so that the tunnel's own packets stay outside.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::router::BYPASS_MARK;
use crate::say;

/// The mtu of Tailscale's device.
const MTU: u16 = 1280;
/// Room for the largest packet with a virtio header in front.
const PACKET: usize = 65536 + 16;

/// The arguments of the other end.
#[derive(Debug, Clone, clap::Args)]
pub struct PeerArgs {
    /// Where the node's packets come in
    #[arg(long)]
    listen: SocketAddr,
    /// Name of the tun device
    #[arg(long, default_value = "ts-peer")]
    tun: String,
    /// This peer's address in the tailnet
    #[arg(long, default_value = "100.64.0.1")]
    address: Ipv4Addr,
    /// Addresses that are reached through the tunnel
    #[arg(long, value_delimiter = ',', default_value = "100.64.0.5")]
    routes: Vec<IpAddr>,
    /// The other end, where this one has to begin
    #[arg(long)]
    to: Option<SocketAddr>,
}

/// Opens a UDP socket whose packets stay outside the tunnel, and says its port.
pub fn bind(addr: SocketAddr) -> anyhow::Result<(UdpSocket, u16)> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_mark(BYPASS_MARK)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from(socket);
        let port = socket.local_addr()?.port();
        Ok::<_, std::io::Error>((socket, port))
    };
    open().with_context(|| format!("open UDP socket: {addr}"))
}

/// Opens the tun device; it is gone when the process is.
///
/// `vnet_hdr` as the original has it, but not where packets are carried: they would come in batches of 64 KiB.
pub fn open_tun(name: &str, vnet_hdr: bool) -> anyhow::Result<AsyncDevice> {
    DeviceBuilder::new()
        .name(name)
        .mtu(MTU)
        .offload(vnet_hdr)
        .enable(false)
        .build_async()
        .with_context(|| format!("open tun device: {name}"))
}

/// Starts to take packets out of the tun.
pub fn carry(
    device: AsyncDevice,
    socket: UdpSocket,
    relay: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let device = Arc::new(device);
    let Some(relay) = relay else {
        tokio::spawn(async move {
            // The socket stays open: its port is in the packet filter.
            let _socket = socket;
            let mut packet = vec![0; PACKET];
            while device.recv(&mut packet).await.is_ok() {}
        });
        return Ok(());
    };
    let socket = Arc::new(tokio::net::UdpSocket::from_std(socket).context("watch UDP socket")?);
    let peer = Arc::new(Mutex::new(Some(relay)));
    tokio::spawn(inward(Arc::clone(&device), Arc::clone(&socket), Arc::clone(&peer)));
    tokio::spawn(outward(device, socket, peer));
    Ok(())
}

async fn outward(
    device: Arc<AsyncDevice>,
    socket: Arc<tokio::net::UdpSocket>,
    to: Arc<Mutex<Option<SocketAddr>>>,
) {
    let mut packet = vec![0; PACKET];
    while let Ok(len) = device.recv(&mut packet).await {
        let peer = *to.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peer {
            // UDP: what cannot be sent is lost, as on any wire.
            let _lost = socket.send_to(&packet[..len], peer).await;
        }
    }
}

async fn inward(
    device: Arc<AsyncDevice>,
    socket: Arc<tokio::net::UdpSocket>,
    from: Arc<Mutex<Option<SocketAddr>>>,
) {
    let mut packet = vec![0; PACKET];
    loop {
        match socket.recv_from(&mut packet).await {
            Ok((len, peer)) => {
                *from.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
                let _lost = device.send(&packet[..len]).await;
            }
            // ICMP errors of earlier packets come in here.
            Err(cause) => say!("relay: receive: {cause}"),
        }
    }
}

/// Runs the other end: its own tun, packets in and out, the kernel forwards.
pub async fn run_peer(args: PeerArgs) -> anyhow::Result<()> {
    let (socket, _) = bind(args.listen)?;
    let device = Arc::new(open_tun(&args.tun, false)?);
    ip(&["addr", "add", &format!("{}/32", args.address), "dev", &args.tun])?;
    ip(&["link", "set", &args.tun, "up"])?;
    for route in &args.routes {
        ip(&["route", "replace", &route.to_string(), "dev", &args.tun])?;
    }
    let socket = Arc::new(tokio::net::UdpSocket::from_std(socket).context("watch UDP socket")?);
    let node = Arc::new(Mutex::new(args.to));
    say!("tailnet-peer: {} carries for {:?}", args.listen, args.routes);
    tokio::spawn(outward(Arc::clone(&device), Arc::clone(&socket), Arc::clone(&node)));
    inward(device, socket, node).await;
    Ok(())
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let out = Command::new("ip").args(words).output().context("run ip")?;
    ensure!(
        out.status.success(),
        "ip {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(())
}
