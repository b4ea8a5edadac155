//! Answering `ctl`: one gRPC service behind two doors, TLS on the node's address and a local socket for root.

pub mod conn;
pub mod door;
pub mod refuse;
pub mod seats;
pub mod service;
pub mod views;

use crate::config::Limits;
use crate::runs::Node;
use conn::Conn;
use lifeline_proto::v1::lifeline_server::LifelineServer;
use service::Service;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

/// Longest answer: a journal line carries pre-images.
const ANSWER_BYTES: usize = 16 << 20;

/// Answers whoever comes through a door, until told to stop.
///
/// # Errors
/// When the transport fails as a whole, not for one connection's sake.
pub async fn answer<N: Node>(
    service: Service<N>,
    guests: ReceiverStream<std::io::Result<Conn>>,
    limits: &Limits,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<LifelineServer<Service<N>>>().await;
    let lifeline = LifelineServer::new(service)
        .max_decoding_message_size(limits.message_bytes)
        .max_encoding_message_size(ANSWER_BYTES);
    Server::builder()
        .concurrency_limit_per_connection(16)
        .max_concurrent_streams(32)
        // A caller behind a dead link is noticed and gives its seat back.
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        .add_service(health)
        .add_service(lifeline)
        .serve_with_incoming_shutdown(guests, stop)
        .await
}
