//! A line that is slow: a tun device that gives back what is sent into it, a while later and in the same order.
//!
//! The lab's kernel may lack netem; a gateway that leads a node's packets through this device forwards them with their delay.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tun_rs::DeviceBuilder;

/// Room for the largest packet of the wire.
const PACKET: usize = 2048;
/// What does not find room is lost, as on any wire.
const ROOM: usize = 4096;

/// The arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Name of the tun device
    #[arg(long)]
    tun: String,
    /// How long each packet takes, milliseconds
    #[arg(long)]
    delay_ms: u64,
}

/// Delays packets until it is killed; the device goes with it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let device = DeviceBuilder::new()
        .name(&args.tun)
        .mtu(1500)
        .build_async()
        .with_context(|| format!("open tun device: {}", args.tun))?;
    let device = Arc::new(device);
    let delay = Duration::from_millis(args.delay_ms);
    let (late, mut packets) = mpsc::channel::<(Instant, Vec<u8>)>(ROOM);
    let out = Arc::clone(&device);
    tokio::spawn(async move {
        while let Some((at, packet)) = packets.recv().await {
            sleep_until(at).await;
            let _lost = out.send(&packet).await;
        }
    });
    let mut packet = vec![0; PACKET];
    loop {
        let len = device.recv(&mut packet).await.context("read the tun device")?;
        let _lost = late.try_send((Instant::now() + delay, packet[..len].to_vec()));
    }
}
