//! What makes the next look come early: changes of the kernel's routing, and of the kubelet's unit. Hints only: what has
//! changed is always read afresh, and a hint that is lost costs no more than the slow tick.

use crate::look::unit_changes;
use crate::netlink::Kernel;
use std::time::Duration;
use tokio::time::sleep;

/// Between two tries to listen.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest such pause: a node may have no D-Bus at all.
const RARELY: Duration = Duration::from_secs(60);

/// Listens for ever.
pub async fn listen(kernel: Kernel, unit: String, nudge: impl Fn()) {
    tokio::join!(routing(&kernel, &nudge), units(&unit, &nudge));
}

/// However many changes there are, they are one hint; an overrun is one too, and every look is a full one.
async fn routing(kernel: &Kernel, nudge: &impl Fn()) {
    loop {
        match kernel.events() {
            Ok(mut events) => {
                // What came before we listened is not known.
                nudge();
                while events.next().await.is_some() {
                    nudge();
                }
            }
            Err(why) => tracing::warn!("listen for changes of the routing: {why}"),
        }
        sleep(AGAIN).await;
    }
}

async fn units(unit: &str, nudge: &impl Fn()) {
    let mut pause = AGAIN;
    loop {
        let heard = unit_changes(None, unit, || {
            nudge();
        })
        .await;
        if let Err(why) = heard {
            tracing::debug!("listen for changes of {unit}: {why}");
        }
        sleep(pause).await;
        pause = (pause * 2).min(RARELY);
    }
}
