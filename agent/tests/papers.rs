//! Certificates that change while the agent serves, over real TLS; made and looked at with openssl.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod call;
mod stage;

use call::{Agent, Authority, OPERATOR, VIEWER, Wanted, agent, authority, issue, named_authority};
use lifeline_agent::config::Tls;
use lifeline_agent::tls::Trust;
use lifeline_core::expiry::Whose;
use lifeline_proto::v1 as wire;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::Code;

const CAROL: Wanted<'static> =
    Wanted { uri: "lifeline://lab/operator/carol", serial: 9, ..OPERATOR };

fn deny(serial: &str) -> wire::DenyRequest {
    wire::DenyRequest { serials: vec![serial.to_string()] }
}

#[tokio::test]
async fn a_denied_certificate_is_refused_in_open_connections_in_new_ones_and_after_a_restart() {
    let ca = authority();
    let (agent, tls) = agent(&ca).await;
    let mut alice = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    let mut carol = agent.dial(&ca, Some(issue(&ca, &CAROL))).await.unwrap();
    // A stream of alice's that would go on for minutes.
    let consent = alice.plan(wire::PlanRequest {}).await.unwrap().into_inner().consent;
    let heal = wire::HealRequest {
        request_id: "r".into(),
        consent,
        stability_s: 600,
        ..wire::HealRequest::default()
    };
    let incident = alice.heal(heal).await.unwrap().into_inner().incident;
    let watch = wire::WatchRequest { incident, since: 0 };
    let mut story = alice.watch(watch).await.unwrap().into_inner();
    story.next().await.unwrap().unwrap();

    let all = carol.deny(deny("00:07")).await.unwrap().into_inner().serials;
    assert_eq!(all, ["07", "0D"], "with what the configuration denies");
    let refused = alice.status(wire::StatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("serial 07 has been denied on this node"), "{refused}");
    let end = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match story.next().await {
                Some(Ok(_)) => {}
                Some(Err(end)) => return end,
                None => panic!("the stream ended as if all were well"),
            }
        }
    });
    assert_eq!(end.await.expect("the stream ends").code(), Code::Unauthenticated);
    let heard = agent.turned_away(&ca, Some(issue(&ca, &OPERATOR))).await;
    assert!(heard.contains("CertificateRevoked"), "{heard}");
    let status = carol.status(wire::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.denied_serials, ["07", "0D"]);
    // Who asked is beside it, and what a start would read says the same.
    let kept = std::fs::read_to_string(&tls.denied).unwrap();
    assert!(kept.lines().any(|l| l == "07 # by operator carol"), "{kept}");
    assert_eq!(Trust::load(&tls, "lab").unwrap().denied(), ["07", "0D"]);
    // Twice is once.
    carol.deny(deny("07")).await.unwrap();
    assert_eq!(std::fs::read_to_string(&tls.denied).unwrap(), kept);
}

#[tokio::test]
async fn what_is_no_order_to_deny_changes_nothing() {
    let ca = authority();
    let (agent, tls) = agent(&ca).await;
    let mut viewer = agent.dial(&ca, Some(issue(&ca, &VIEWER))).await.unwrap();
    assert_eq!(viewer.deny(deny("09")).await.unwrap_err().code(), Code::PermissionDenied);
    let mut alice = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    for (serial, words) in [
        ("7", "07 is the one you call with"),
        ("zz", "\"zz\" is no serial number"),
        ("0", "is no serial number"),
    ] {
        let refused = alice.deny(deny(serial)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    alice.deny(wire::DenyRequest::default()).await.unwrap_err();
    assert!(!tls.denied.exists());
    // A list that cannot be read is not an empty one.
    std::fs::write(&tls.denied, "07\nalice\n").unwrap();
    let refused = alice.deny(deny("0A")).await.unwrap_err();
    assert!(refused.message().contains("denied-serials, line 2"), "{refused}");
    assert!(Trust::load(&tls, "lab").is_err());
    alice.status(wire::StatusRequest {}).await.expect("what was in use stays in use");
}

async fn openssl(dir: &Path, args: &str) -> (bool, String) {
    let mut command = tokio::process::Command::new("openssl");
    command.args(args.split(' ')).current_dir(dir).stdin(std::process::Stdio::null());
    let done = tokio::time::timeout(Duration::from_secs(30), command.output());
    let done = done.await.expect("openssl ends").unwrap();
    let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    (done.status.success(), text.into_owned())
}

/// Signs the request in `csr.pem` as openssl does it; gives the certificate.
async fn sign(dir: &Path, by: &Authority, node: &str, usage: &str, days: &str) -> String {
    std::fs::write(dir.join("by.crt"), by.pem()).unwrap();
    std::fs::write(dir.join("by.key"), by.key().serialize_pem()).unwrap();
    let names = format!(
        "subjectAltName=DNS:{node},URI:lifeline://lab/agent/{node}\nextendedKeyUsage={usage}\n"
    );
    std::fs::write(dir.join("ext"), names).unwrap();
    let args = format!(
        "x509 -req -in csr.pem -CA by.crt -CAkey by.key -set_serial 0xABCD -days {days} -extfile ext -out made.crt"
    );
    let (fine, said) = openssl(dir, &args).await;
    assert!(fine, "{said}");
    std::fs::read_to_string(dir.join("made.crt")).unwrap()
}

/// The serial number of the certificate that the agent shows to whoever connects.
async fn shown(agent: &Agent) -> String {
    let dir = agent.dir.path();
    let (_, said) = openssl(dir, &format!("s_client -connect {} -tls1_3", agent.at)).await;
    let begin = said.find("-----BEGIN CERTIFICATE").expect("a certificate is shown");
    let end = said.find("-----END CERTIFICATE-----").unwrap() + 25;
    std::fs::write(dir.join("shown.crt"), &said[begin..end]).unwrap();
    openssl(dir, "x509 -in shown.crt -noout -serial").await.1.trim().to_string()
}

#[tokio::test]
async fn a_certificate_is_renewed_while_serving_and_no_bad_answer_replaces_it() {
    let ca = authority();
    let (agent, tls) = agent(&ca).await;
    let dir = agent.dir.path();
    let mut alice = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    let take = |chain: String| wire::TakeCertificateRequest { chain };
    let early = alice.take_certificate(take("x".into())).await.unwrap_err();
    assert!(early.message().contains("no key lies ready"), "{early}");
    let before = shown(&agent).await;
    let old = [std::fs::read(&tls.cert).unwrap(), std::fs::read(&tls.key).unwrap()];

    let request = wire::RequestCertificateRequest {};
    let request = alice.request_certificate(request).await.unwrap().into_inner().request;
    std::fs::write(dir.join("csr.pem"), &request).unwrap();
    let (fine, said) = openssl(dir, "req -in csr.pem -verify -noout").await;
    assert!(fine && !request.contains("PRIVATE"), "{said}");
    let other = named_authority("somebody else's");
    let server = "serverAuth";
    let good = sign(dir, &ca, "calypso", server, "2").await;
    let bad = [
        ("rubbish".to_string(), "there is none in it"),
        (sign(dir, &other, "calypso", server, "2").await, "UnknownIssuer"),
        (sign(dir, &ca, "styx", server, "2").await, "calypso"),
        (sign(dir, &ca, "calypso", "serverAuth,clientAuth", "2").await, "nothing else"),
        (sign(dir, &ca, "calypso", server, "-1").await, "xpired"),
        (String::from_utf8(old[0].clone()).unwrap(), "not for the key that lies ready"),
    ];
    for (chain, words) in bad {
        let refused = alice.take_certificate(take(chain)).await.unwrap_err();
        assert!(refused.message().contains(words), "wanted {words}: {refused}");
        let now = [std::fs::read(&tls.cert).unwrap(), std::fs::read(&tls.key).unwrap()];
        assert_eq!(now, old);
        assert_eq!(shown(&agent).await, before);
    }
    let mut viewer = agent.dial(&ca, Some(issue(&ca, &VIEWER))).await.unwrap();
    let refused = viewer.take_certificate(take(good.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let taken = alice.take_certificate(take(good)).await.unwrap().into_inner();
    assert_eq!(taken.serial, "AB:CD");
    assert_eq!(shown(&agent).await, "serial=ABCD");
    alice.status(wire::StatusRequest {}).await.expect("the open connection goes on");
    // What is told of its end is that of the new one, from now on.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let ends = agent.trust.load().as_ref().unwrap().ends().to_vec();
    let own = ends.iter().find(|c| c.whose == Whose::Agent).unwrap();
    assert!((now + 86_400..now + 3 * 86_400).contains(&own.not_after_s), "{ends:?}");
    assert!(ends.iter().any(|c| c.whose == Whose::Authority), "{ends:?}");
    let mut late = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    late.status(wire::StatusRequest {}).await.unwrap();
    // What a start finds is the new pair, its key for root alone, and nothing beside it.
    Trust::load(&tls, "lab").unwrap();
    assert_eq!(std::fs::metadata(&tls.key).unwrap().permissions().mode() & 0o777, 0o600);
    let left = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let left: Vec<_> = left.filter(|n| n.to_string_lossy().starts_with("agent.")).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().ends_with(".next")), "{left:?}");
}

#[tokio::test]
async fn a_change_that_was_cut_off_between_its_two_files_is_ended_by_the_next_start() {
    let ca = authority();
    let (agent, tls) = agent(&ca).await;
    let dir = agent.dir.path();
    let mut alice = agent.dial(&ca, Some(issue(&ca, &OPERATOR))).await.unwrap();
    let request = wire::RequestCertificateRequest {};
    let request = alice.request_certificate(request).await.unwrap().into_inner().request;
    std::fs::write(dir.join("csr.pem"), request).unwrap();
    // Cut off before either: the old pair is whole, and stays.
    assert!(agent.papers.read(&tls));
    let made = sign(dir, &ca, "calypso", "serverAuth", "2").await;
    std::fs::write(&tls.cert, made).unwrap();
    assert!(Trust::load(&tls, "lab").is_err(), "certificate and key are not a pair just now");
    assert!(agent.papers.read(&tls));
    assert_eq!(shown(&agent).await, "serial=ABCD");
    Trust::load(&tls, "lab").unwrap();
    // A key that is nobody's ends nothing.
    std::fs::write(&tls.key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(!agent.papers.read(&tls));
    let elsewhere = Tls { cert: dir.join("gone.crt"), ..tls.clone() };
    assert!(!agent.papers.read(&elsewhere));
    assert_eq!(shown(&agent).await, "serial=ABCD", "what was in use stays in use");
}
