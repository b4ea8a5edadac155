//! The service over real TLS with a throw-away authority: who is let in, who is told what, and who cannot keep others out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod call;
mod stage;

use call::{OPERATOR, VIEWER, Wanted, agent, authority, issue, named_authority, write_server};
use lifeline_agent::config::{Limits, Tls};
use lifeline_agent::tls::Trust;
use lifeline_core::diagnosis::Diagnosis;
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::lifeline_client::LifelineClient;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::Endpoint;

#[tokio::test]
async fn each_who_may_not_come_in_hears_why() {
    let (ca, other) = (authority(), named_authority("somebody else's"));
    let (agent, _) = agent(&ca).await;
    let expired = issue(&ca, &Wanted { expired: true, ..OPERATOR });
    let server = issue(&ca, &Wanted { usage: ExtendedKeyUsagePurpose::ServerAuth, ..OPERATOR });
    let denied = issue(&ca, &Wanted { serial: 13, ..OPERATOR });
    for (who, alert) in [
        (None, "CertificateRequired"),
        (Some(issue(&other, &OPERATOR)), "UnknownCA"),
        // Another authority of the same name is found out by its signature.
        (Some(issue(&authority(), &OPERATOR)), "DecryptError"),
        (Some(expired), "CertificateExpired"),
        (Some(server), "UnsupportedCertificate"),
        (Some(denied), "CertificateRevoked"),
    ] {
        // Several times: what is heard must not depend on who writes first.
        for _ in 0..5 {
            let heard = agent.turned_away(&ca, who.clone()).await;
            assert!(heard.contains(alert), "wanted {alert}: {heard}");
        }
    }
    // A certificate that is in order and gives no role here is told so in words.
    for (uri, code, words) in [
        ("lifeline://prod/operator/alice", Code::PermissionDenied, "is for cluster prod"),
        ("lifeline://lab/root/alice", Code::Unauthenticated, "is no lifeline://CLUSTER/operator"),
        ("https://lab/operator/alice", Code::Unauthenticated, "has no lifeline:// name"),
    ] {
        let who = issue(&ca, &Wanted { uri, ..OPERATOR });
        let mut client = agent.dial(&ca, Some(who)).await.unwrap();
        let status = client.status(wire::StatusRequest {}).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
}

#[tokio::test]
async fn a_drill_is_for_operators_and_for_nodes_that_are_well() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let mut viewer = agent.dial(&ca, Some(issue(&ca, &VIEWER))).await.unwrap();
    let status = viewer.drill(wire::DrillRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let mut operator = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    let status = operator.drill(wire::DrillRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().starts_with("drill calypso: it is Captured: "), "{status}");
}

#[tokio::test]
async fn a_viewer_looks_without_evidence_and_may_not_act() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let mut viewer = agent.dial(&ca, Some(issue(&ca, &VIEWER))).await.unwrap();
    let mut operator = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    let status = viewer.status(wire::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.node.as_str(), status.verdict()), ("calypso", wire::Verdict::Captured));
    let seen = |r: wire::DiagnoseReply| serde_json::from_str::<Diagnosis>(&r.diagnosis).unwrap();
    let bare = seen(viewer.diagnose(wire::DiagnoseRequest {}).await.unwrap().into_inner());
    let full = seen(operator.diagnose(wire::DiagnoseRequest {}).await.unwrap().into_inner());
    assert!(bare.findings.iter().all(|f| f.evidence.is_empty()), "{bare:?}");
    assert!(full.findings.iter().any(|f| !f.evidence.is_empty()), "{full:?}");
    assert_eq!(bare.verdict, full.verdict);
    let plan = viewer.plan(wire::PlanRequest {}).await.unwrap().into_inner();
    assert!(plan.rungs.iter().any(|r| r.number == 2), "{plan:?}");
    assert!(
        plan.rungs
            .iter()
            .flat_map(|r| &r.steps)
            .filter(|s| s.kind != "guard")
            .all(|s| s.details.is_empty())
    );
    let heal =
        wire::HealRequest { request_id: "r".into(), consent: plan.consent, ..Default::default() };
    let refusals = [
        viewer.heal(heal).await.unwrap_err(),
        viewer.cancel(wire::CancelRequest::default()).await.unwrap_err(),
        viewer.undo(wire::UndoRequest::default()).await.unwrap_err(),
        viewer.baseline(wire::BaselineRequest { verb: 1 }).await.unwrap_err(),
        viewer.baseline(wire::BaselineRequest { verb: 2 }).await.unwrap_err(),
        viewer.logs(wire::LogsRequest::default()).await.unwrap_err(),
    ];
    for refused in refusals {
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("viewer bob may look and not act"), "{refused}");
    }
    assert!(viewer.baseline(wire::BaselineRequest { verb: 0 }).await.is_ok());
    let nobody = wire::PodsRequest { uids: vec!["2f1e9c34-6d0b-4f7a".to_owned()] };
    assert!(viewer.pods(nobody).await.unwrap().into_inner().alive.is_empty());
    let too_many = wire::PodsRequest { uids: vec![String::new(); 1_001] };
    assert_eq!(viewer.pods(too_many).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(*agent.stage.calls.lock().unwrap(), 0, "nothing was touched");
}

#[tokio::test]
async fn an_operator_heals_watches_and_goes_on_watching_without_a_gap() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let mut operator = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    let plan = operator.plan(wire::PlanRequest {}).await.unwrap().into_inner();
    let heal = wire::HealRequest {
        request_id: "r-1".into(),
        consent: plan.consent,
        digest: plan.rungs[1].digest.clone(),
        stability_s: 0,
    };
    let reply = operator.heal(heal.clone()).await.unwrap().into_inner();
    assert!(operator.heal(heal).await.unwrap().into_inner().repeated);
    let watch = |since| wire::WatchRequest { incident: String::new(), since };
    // The first watcher hangs up after a while; the second goes on where it stopped.
    let mut first = operator.watch(watch(0)).await.unwrap().into_inner();
    let mut told = Vec::new();
    while told.len() < 4 {
        told.push(first.next().await.unwrap().unwrap());
    }
    drop(first);
    let mut second = operator.watch(watch(4)).await.unwrap().into_inner();
    while let Some(item) = second.next().await {
        told.push(item.unwrap());
    }
    let numbers: Vec<u64> = told.iter().map(|t| t.number).collect();
    assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>());
    match &told.last().unwrap().what {
        Some(wire::watch_reply::What::End(end)) => {
            assert_eq!(end.ending, "recovered", "{}", end.text);
        }
        other => panic!("{other:?}"),
    }
    // From the disk it is told the same; to a viewer without the raw lines, which hold pre-images.
    let named = wire::WatchRequest { incident: reply.incident.clone(), since: 0 };
    let again: Vec<_> = operator
        .watch(named.clone())
        .await
        .unwrap()
        .into_inner()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(again, told);
    let mut viewer = agent.dial(&ca, Some(issue(&ca, &VIEWER))).await.unwrap();
    let seen: Vec<_> =
        viewer.watch(named).await.unwrap().into_inner().map(Result::unwrap).collect().await;
    assert_eq!(seen.len(), told.len());
    for item in seen {
        if let Some(wire::watch_reply::What::Line(line)) = item.what {
            assert!(line.json.is_empty() && !line.text.is_empty(), "{line:?}");
        }
    }
    let history = viewer.history(wire::HistoryRequest { limit: 5 }).await.unwrap().into_inner();
    assert_eq!(history.items[0].by, "operator alice");
    assert_eq!(history.items[0].ending, "recovered");
    let none = operator.cancel(wire::CancelRequest::default()).await.unwrap_err();
    assert_eq!(none.code(), Code::FailedPrecondition, "{none}");
    let unknown = wire::WatchRequest { incident: "../../etc/passwd".into(), since: 0 };
    assert_eq!(operator.watch(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn trust_is_exchanged_while_serving_and_a_broken_file_changes_nothing() {
    let (old, new) = (authority(), authority());
    let (agent, tls) = agent(&old).await;
    let mut before = agent.dial(&old, Some(issue(&old, &OPERATOR))).await.unwrap();
    before.status(wire::StatusRequest {}).await.unwrap();
    // Rubbish is read as no certificates at all, without an error of its own.
    std::fs::write(&tls.ca, "rubbish").unwrap();
    let why = Trust::load(&tls, "lab").unwrap_err();
    assert!(why.to_string().contains("there is none in it"), "{why}");
    before.status(wire::StatusRequest {}).await.unwrap();
    // A key that is not this certificate's.
    let tls = write_server(agent.dir.path(), &new);
    std::fs::write(&tls.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(Trust::load(&tls, "lab").unwrap_err().to_string().contains("with key"));
    let tls = write_server(agent.dir.path(), &new);
    agent.trust.store(Some(Arc::new(Trust::load(&tls, "lab").unwrap())));
    // The connection that was open has lost its trust too.
    let lost = before.status(wire::StatusRequest {}).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unauthenticated, "{lost}");
    assert!(lost.message().contains("was not signed by this cluster's authority"), "{lost}");
    let heard = agent.turned_away(&new, Some(issue(&old, &OPERATOR))).await;
    assert!(heard.contains("UnknownCA") || heard.contains("DecryptError"), "{heard}");
    let mut after = agent.dial(&new, Some(issue(&new, &OPERATOR))).await.unwrap();
    after.status(wire::StatusRequest {}).await.unwrap();
    // And a serial that is denied while its connection is open.
    let denied = Tls { denied_serials: vec!["07".into()], ..tls };
    agent.trust.store(Some(Arc::new(Trust::load(&denied, "lab").unwrap())));
    let denied = after.status(wire::StatusRequest {}).await.unwrap_err();
    assert!(denied.message().contains("serial 07 has been denied"), "{denied}");
}

#[tokio::test]
async fn a_thousand_idle_connections_from_the_same_address_keep_no_operator_out() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let mut idle = Vec::new();
    for n in 0..1_000 {
        let socket = tokio::net::TcpStream::connect(agent.at).await.unwrap();
        if n % 3 == 0 {
            drop(socket.try_write(b"GET / HTTP/1.1\r\n\r\n"));
        }
        idle.push(socket);
    }
    let begun = Instant::now();
    let mut operator = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    operator.status(wire::StatusRequest {}).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Carries connections to the agent, and its answers only after a while, as a long line does.
async fn long_line(to: std::net::SocketAddr, delay: Duration) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(to).await.unwrap();
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                (near.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(n @ 1..) = far_in.read(&mut bytes).await {
                    tokio::time::sleep(delay).await;
                    if near_out.write_all(&bytes[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

#[tokio::test]
async fn who_is_in_the_middle_of_a_handshake_is_not_displaced_by_hundreds_who_say_nothing() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let at = agent.at;
    // From the operator's own address, some hundred a second: each says nothing, or what no TLS client says.
    let (tell, count) = (Arc::new(AtomicUsize::new(0)), 4);
    for n in 0..count {
        let tell = tell.clone();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let socket = tokio::net::TcpStream::connect(at).await.unwrap();
                if n == 0 {
                    drop(socket.try_write(b"GET / HTTP/1.1\r\n\r\n"));
                }
                held.push(socket);
                tell.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let line = long_line(at, Duration::from_millis(150)).await;
    let (begun, before) = (Instant::now(), tell.load(Ordering::Relaxed));
    let mut operator = agent
        .dial_at(line, &ca, Some(issue(&ca, &OPERATOR)))
        .await
        .expect("let in at the first try");
    operator.status(wire::StatusRequest {}).await.unwrap();
    let others = tell.load(Ordering::Relaxed) - before;
    assert!(others > 50, "only {others} came within {:?}: it proves nothing", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn viewers_cannot_take_the_last_seats_from_operators() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let limits = Limits::default();
    // Several of them, for one alone has only a part of the seats.
    let viewers: Vec<_> =
        (0..8).map(|n| issue(&ca, &Wanted { serial: 100 + n, ..VIEWER })).collect();
    let who = viewers[0].clone();
    let mut seated = Vec::new();
    for n in 0..limits.connections {
        if let Ok(mut client) = agent.dial(&ca, Some(viewers[n % 8].clone())).await
            && client.status(wire::StatusRequest {}).await.is_ok()
        {
            seated.push(client);
        }
    }
    assert_eq!(seated.len(), limits.connections - limits.reserved);
    let mut operator = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    operator.status(wire::StatusRequest {}).await.unwrap();
    // Who hangs up makes room.
    seated.pop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut late = agent.dial(&ca, Some(who)).await.unwrap();
    late.status(wire::StatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn one_operators_two_hundred_connections_leave_another_operator_served() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let most = Limits::default().connections / 4;
    let alice = issue(&ca, &OPERATOR);
    let (mut seated, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        match agent.dial(&ca, Some(alice.clone())).await {
            Ok(mut client) => match client.status(wire::StatusRequest {}).await {
                Ok(_) => seated.push(client),
                Err(why) => {
                    assert_eq!(why.code(), Code::ResourceExhausted, "{why}");
                    refused.push(call::all(&why));
                }
            },
            Err(why) => refused.push(why),
        }
    }
    assert_eq!(seated.len(), most);
    let words = format!("this certificate has {most} connections here");
    assert!(refused.iter().all(|why| why.contains(&words)), "{:?}", refused.first());
    // Both kinds of others, at once.
    for wanted in [Wanted { serial: 9, ..OPERATOR }, Wanted { serial: 10, ..VIEWER }] {
        let mut other = agent.dial(&ca, Some(issue(&ca, &wanted))).await.unwrap();
        other.status(wire::StatusRequest {}).await.unwrap();
    }
    // Whose connections were there first are served on, and who ends one has it again.
    seated[0].status(wire::StatusRequest {}).await.unwrap();
    seated.pop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut late = agent.dial(&ca, Some(alice)).await.unwrap();
    late.status(wire::StatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused() {
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let mut operator = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    let heal = wire::HealRequest { consent: "x".repeat(1 << 20), ..Default::default() };
    let refused = operator.heal(heal).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let heal =
        wire::HealRequest { request_id: "r".into(), consent: "{".into(), ..Default::default() };
    let refused = operator.heal(heal).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[tokio::test]
async fn the_local_socket_is_roots_and_root_is_an_operator() {
    use std::os::unix::fs::PermissionsExt;
    let ca = authority();
    let (agent, _) = agent(&ca).await;
    let mode = std::fs::metadata(&agent.local).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let endpoint = Endpoint::from_shared(format!("unix:{}", agent.local.display())).unwrap();
    let mut root = LifelineClient::new(endpoint.connect().await.unwrap());
    let consent = root.plan(wire::PlanRequest {}).await.unwrap().into_inner().consent;
    let heal = wire::HealRequest { request_id: "local".into(), consent, ..Default::default() };
    let incident = root.heal(heal).await.unwrap().into_inner().incident;
    let watch = wire::WatchRequest { incident, since: 0 };
    let told: Vec<_> =
        root.watch(watch).await.unwrap().into_inner().map(Result::unwrap).collect().await;
    let first = format!("{:?}", told[0]);
    let version = format!("lifeline-agent {}", lifeline_agent::VERSION);
    assert!(first.contains("root (local)") && first.contains(&version), "{first}");
}
