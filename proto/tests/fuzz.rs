//! What comes over the wire is a message or none, whoever sends it: never a panic, and a message is written as it was read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../agent/core/tests/fuzz/mod.rs"]
mod harness;

use harness::Fuzz;
use lifeline_proto::v1::*;
use prost::Message;

fn again<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let written = message.encode_to_vec();
    assert_eq!(M::decode(written.as_slice()).as_ref(), Ok(&message));
}

#[test]
fn any_bytes_are_a_request_or_none() {
    Fuzz::new("request").folder("tests/corpus", |_| true).run(|bytes| {
        again::<StatusRequest>(bytes);
        again::<DiagnoseRequest>(bytes);
        again::<PlanRequest>(bytes);
        again::<HealRequest>(bytes);
        again::<WatchRequest>(bytes);
        again::<CancelRequest>(bytes);
        again::<ConfirmRequest>(bytes);
        again::<RebootRequest>(bytes);
        again::<UndoRequest>(bytes);
        again::<HistoryRequest>(bytes);
        again::<BaselineRequest>(bytes);
        again::<DenyRequest>(bytes);
        again::<RequestCertificateRequest>(bytes);
        again::<TakeCertificateRequest>(bytes);
        again::<LogsRequest>(bytes);
    });
}

#[test]
fn any_bytes_are_a_reply_or_none() {
    Fuzz::new("reply").folder("tests/corpus", |_| true).run(|bytes| {
        again::<StatusReply>(bytes);
        again::<DiagnoseReply>(bytes);
        again::<PlanReply>(bytes);
        again::<HealReply>(bytes);
        again::<WatchReply>(bytes);
        again::<HistoryReply>(bytes);
        again::<BaselineReply>(bytes);
        again::<DenyReply>(bytes);
        again::<TakeCertificateReply>(bytes);
        again::<LogsReply>(bytes);
    });
}

#[test]
fn a_message_of_the_corpus_is_read_to_its_end() {
    // Any bytes that are refused would do for the above.
    let bytes = std::fs::read("tests/corpus/status-reply").unwrap();
    let reply = StatusReply::decode(bytes.as_slice()).unwrap();
    assert_eq!((reply.node.as_str(), reply.cluster.as_str()), ("calypso", "lab"));
}
