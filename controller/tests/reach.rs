//! Reaching an agent, and every way of not reaching it, in words an operator can use.

use crate::agent::StandIn;
use crate::desk::Desk;
use crate::story::Story;
use lifeline_core::diagnosis::Verdict;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use std::net::SocketAddr;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;

/// Issues a certificate that `ctl pki` never would.
fn forge(desk: &Desk, stem: &str, uri: &str, usage: ExtendedKeyUsagePurpose, days: (i64, i64)) {
    let key = KeyPair::from_pem(&desk.read("pki/ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&desk.read("pki/ca.crt"), key).unwrap();
    let mut params = CertificateParams::default();
    let dns = |n: &str| SanType::DnsName(n.try_into().unwrap());
    params.subject_alt_names = vec![dns("calypso"), SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages = vec![usage];
    params.not_before = OffsetDateTime::now_utc() + Duration::days(days.0);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days.1);
    let pair = KeyPair::generate().unwrap();
    desk.write(&format!("{stem}.crt"), &params.signed_by(&pair, &issuer).unwrap().pem());
    // The file is there, so its mode stays 0600.
    desk.write(&format!("{stem}.key"), &pair.serialize_pem());
}

/// An address on which nothing listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_node_is_said_so_in_both_formats() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let table = desk.ctl(&["status"]).await.exits(0);
    let second = table.stdout.lines().nth(1).unwrap().to_owned();
    assert!(second.starts_with("calypso  Healthy  -"), "{second}");
    let json = desk.ctl(&["status", "calypso", "-o", "json"]).await.exits(0).json();
    assert_eq!(json["nodes"][0]["verdict"], "Healthy");
    assert_eq!(json["nodes"][0]["via"], at.to_string());
    assert_eq!(agent.asked(), ["status", "status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_well_exits_with_three() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    agent.state().verdict = Verdict::Captured;
    desk.configure(&[at]);
    desk.ctl(&["status"]).await.exits(3);
    let ran = desk.ctl(&["diagnose", "calypso"]).await.exits(3);
    assert!(ran.stdout.starts_with("calypso is Captured\n"), "{}", ran.stdout);
    let json = desk.ctl(&["diagnose", "calypso", "-o", "json"]).await.exits(3).json();
    assert_eq!(json["diagnosis"]["verdict"], "captured");
    agent.state().verdict = Verdict::Moved;
    desk.ctl(&["diagnose", "calypso"]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_works_wins_over_those_that_do_not() {
    let desk = Desk::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, _) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[nobody().await, silent.local_addr().unwrap(), at]);
    let json = desk.ctl(&["status", "-o", "json"]).await.exits(0).json();
    assert_eq!(json["nodes"][0]["via"], at.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_tried_in_vain_is_named_with_its_reason() {
    let desk = Desk::new().await;
    let (refuses, silent) = (nobody().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let silent_at = silent.local_addr().unwrap();
    desk.configure(&[refuses, silent_at]);
    let ran = desk.ctl(&["diagnose", "calypso"]).await.exits(1);
    ran.says("Error: reach calypso: no path led to its agent\n")
        .says(&format!("\n  {refuses}  connect: Connection refused"))
        .says(&format!("\n  {silent_at}  shake hands: no answer within 3 s"))
        .says("Hint: the machine lives and its agent does not listen");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_a_dead_node_does_not_hide_the_living_one() {
    let desk = Desk::new().await;
    let (at, _) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let config = desk.read("ctl.toml");
    desk.write(
        "ctl.toml",
        &format!("{config}[nodes.styx]\naddresses = [\"{}\"]\n", nobody().await),
    );
    let ran = desk.ctl(&["status", "-o", "json"]).await.exits(1).says("reach styx");
    let json = ran.json();
    assert_eq!(json["nodes"][0]["verdict"], "Healthy");
    assert!(json["nodes"][1]["error"].as_str().unwrap().contains("Connection refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_authority_is_not_believed() {
    let desk = Desk::new().await;
    desk.pki(&["init", "--cluster", "lab", "--dir", "other"]).await;
    let args = ["agent", "calypso", "--address", "127.0.0.1", "--dir", "other", "--out", "fake"];
    desk.pki(&args).await;
    let (at, agent) = StandIn::calypso().serve(&desk, "fake", "pki").await;
    desk.configure(&[at]);
    let ran = desk.ctl(&["status"]).await.exits(1);
    ran.says("its certificate was not issued by the authority in your configuration");
    assert!(agent.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_know_our_authority_says_so_late_and_is_understood() {
    let desk = Desk::new().await;
    desk.pki(&["init", "--cluster", "lab", "--dir", "other"]).await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "other").await;
    desk.configure(&[at]);
    for _ in 0..5 {
        let ran = desk.ctl(&["status"]).await.exits(1);
        ran.says("your client certificate was not accepted: ")
            .says("Hint: check yours: ctl pki show");
    }
    assert!(agent.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_agent_is_not_taken_for_this_one() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "styx", "pki").await;
    desk.configure(&[at]);
    let ran = desk.ctl(&["status"]).await.exits(1);
    ran.says("its certificate is for styx, 127.0.0.1, not for calypso").says("[nodes.calypso]");
    assert!(agent.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_certificate_does_not_make_an_agent() {
    let desk = Desk::new().await;
    let uri = "lifeline://lab/operator/eve";
    forge(&desk, "calypso/agent", uri, ExtendedKeyUsagePurpose::ServerAuth, (-1, 1));
    let (at, _) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let ran = desk.ctl(&["status"]).await.exits(1);
    ran.says("its certificate is for operator eve of cluster lab, not for agent calypso");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_expired_certificate_is_dated() {
    let desk = Desk::new().await;
    let uri = "lifeline://lab/agent/calypso";
    forge(&desk, "calypso/agent", uri, ExtendedKeyUsagePurpose::ServerAuth, (-9, -2));
    let (at, _) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    desk.ctl(&["status"])
        .await
        .exits(1)
        .says("its certificate has expired (20")
        .says("ctl pki agent calypso");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_expired_certificate_is_noticed_before_anybody_is_dialled() {
    let desk = Desk::new().await;
    let uri = "lifeline://lab/operator/alice";
    forge(&desk, "me/operator", uri, ExtendedKeyUsagePurpose::ClientAuth, (-9, -2));
    desk.configure(&[nobody().await]);
    let ran = desk.ctl(&["status"]).await.exits(1).says("operator.crt: it expired on 20");
    let ran = ran.says("Hint: issue a new one: ctl pki operator alice --role operator");
    assert!(!ran.stderr.contains("reach"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_certificate_does_not_call() {
    let desk = Desk::new().await;
    let uri = "lifeline://lab/operator/alice";
    forge(&desk, "me/operator", uri, ExtendedKeyUsagePurpose::ServerAuth, (-1, 1));
    desk.configure(&[nobody().await]);
    desk.ctl(&["status"])
        .await
        .exits(1)
        .says("it is for servers only (operator alice of cluster lab)");
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_told_apart() {
    let desk = Desk::new().await;
    desk.pki(&["init", "--cluster", "lab", "--dir", "other"]).await;
    desk.configure(&[nobody().await]);
    let good = desk.read("me/ca.crt");
    desk.write("me/ca.crt", &desk.read("other/ca.crt"));
    desk.ctl(&["status"]).await.exits(1).says("it was not issued by the authority in");
    desk.write("me/ca.crt", &good);
    let key = desk.read("me/operator.key");
    desk.write("me/operator.key", &KeyPair::generate().unwrap().serialize_pem());
    desk.ctl(&["status"]).await.exits(1).says("the key does not belong to the certificate");
    desk.write("me/operator.key", &key);
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(desk.path("me/operator.key"), open).unwrap();
    desk.ctl(&["status"]).await.exits(1).says("others may read it (mode 0644)").says("chmod 600");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_socket_needs_no_configuration_and_must_be_the_right_nodes() {
    let desk = Desk::new().await;
    let _agent = StandIn::calypso().serve_unix(&desk, "agent.sock");
    let socket = desk.path("agent.sock").display().to_string();
    desk.ctl(&["--socket", &socket, "status"]).await.exits(0);
    desk.ctl(&["--socket", &socket, "diagnose", "calypso"]).await.exits(0);
    let ran = desk.ctl(&["diagnose", "styx", "--socket", &socket]).await.exits(1);
    ran.says("the agent there is calypso's");
    let healed = StandIn::captured(vec![Story::recovered()]).serve_unix(&desk, "heal.sock");
    let socket = desk.path("heal.sock").display().to_string();
    desk.ctl(&["--socket", &socket, "heal", "calypso", "--yes"]).await.exits(0);
    assert_eq!(healed.consents().len(), 1);
    let ran = desk.ctl(&["--socket", "/nowhere/agent.sock", "status"]).await.exits(1);
    ran.says("/nowhere/agent.sock  connect: No such file");
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_on_the_port_is_said_so() {
    use tokio::io::AsyncWriteExt;
    let desk = Desk::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    desk.configure(&[listener.local_addr().unwrap()]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    });
    desk.ctl(&["status"]).await.exits(1).says("does not speak TLS 1.3");
}
