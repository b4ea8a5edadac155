//! What a monitoring system may know: gathered from what is known already, so that asking costs no look. Told over a local
//! socket, and as a file for node_exporter where the configuration names one.

mod socket;
pub mod textfile;

use crate::config::Metrics;
use crate::runs::Node;
use crate::serve::service::Service;
use lifeline_core::metrics::{Facts, Look};
use tokio::net::UnixListener;

/// Tells whoever asks, for ever; without a listener only the file.
pub async fn tell<N: Node>(listener: Option<UnixListener>, service: Service<N>, to: Metrics) {
    let asked = service.clone();
    let file = async {
        if let Some(path) = to.textfile {
            textfile::keep(&service, &path).await;
        }
    };
    let socket = async {
        if let Some(listener) = listener {
            socket::serve(listener, move |form| facts(&asked).page(form)).await;
        }
    };
    tokio::join!(socket, file);
}

/// How things stand now.
fn facts<N: Node>(of: &Service<N>) -> Facts {
    let glance = of.sight.latest().borrow().clone();
    let look = glance.map(|g| {
        let took = u64::try_from(g.took.as_millis()).unwrap_or(u64::MAX);
        Look::of(&g.seen, &g.diagnosis, took)
    });
    Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: crate::BUILD.to_owned(),
        target: crate::TARGET.to_owned(),
        node: of.about.node.clone(),
        cluster: of.about.cluster.clone(),
        mode: of.policy.mode,
        look,
        looks: of.sight.looks(),
        guard: of.node.guard(),
        baseline: of.store.baseline().map(|b| (b.generation, b.provenance)),
        tally: of.runs.tally(),
        under_way: of.runs.under_way().is_some(),
        paused: of.runs.held_back().is_some(),
        disk_trouble: of.store.trouble().is_some(),
        certificates: of.trust.load().as_ref().map(|t| t.ends().to_vec()).unwrap_or_default(),
    }
}
