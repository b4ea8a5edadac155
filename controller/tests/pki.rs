//! `ctl pki`, read back with other eyes than it was written with.

use crate::desk::{Desk, mode};
use x509_parser::prelude::{FromDer, X509Certificate};

fn der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn every_key_is_its_owners_alone() {
    let desk = Desk::new().await;
    for key in ["pki/ca.key", "me/operator.key", "calypso/agent.key"] {
        assert_eq!(mode(&desk.path(key)), 0o600, "{key}");
    }
    assert_eq!(desk.read("me/ca.crt"), desk.read("pki/ca.crt"));
}

#[tokio::test]
async fn roles_are_in_the_certificates() {
    let desk = Desk::new().await;
    let agent = der(&desk.read("calypso/agent.crt"));
    let (_, agent) = X509Certificate::from_der(&agent).unwrap();
    let usage = agent.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    let names = agent.subject_alternative_name().unwrap().unwrap().value.to_owned();
    let said: Vec<_> = names.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["DNSName(calypso)", "IPAddress(7f:00:00:01)", "URI(lifeline://lab/agent/calypso)"]
    );
    let me = der(&desk.read("me/operator.crt"));
    let (_, me) = X509Certificate::from_der(&me).unwrap();
    let usage = me.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let days = (me.validity().not_after.timestamp() - me.validity().not_before.timestamp()) / 3600;
    assert_eq!(days, 7 * 24 + 1, "seven days, and an hour for clocks that differ");
    let ca = der(&desk.read("pki/ca.crt"));
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    assert!(ca.is_ca());
}

#[tokio::test]
async fn an_authority_is_never_overwritten() {
    let desk = Desk::new().await;
    let before = desk.read("pki/ca.key");
    let again = desk.ctl(&["pki", "init", "--cluster", "lab", "--dir", "pki"]).await.exits(1);
    again.says("never overwritten").says("Hint:");
    assert_eq!(desk.read("pki/ca.key"), before);
}

#[tokio::test]
async fn show_says_whose_a_certificate_is() {
    let desk = Desk::new().await;
    let shown = desk.pki(&["show", "me/operator.crt", "-o", "json"]).await.json();
    assert_eq!(shown["kind"], "operator");
    assert_eq!((&shown["cluster"], &shown["name"]), (&"lab".into(), &"alice".into()));
    assert_eq!(shown["expired"], false);
    desk.write("rubbish.pem", "hello");
    desk.ctl(&["pki", "show", "rubbish.pem"]).await.exits(1).says("there is no certificate in it");
    desk.ctl(&["pki", "show", "gone.pem"]).await.exits(1).says("read gone.pem: No such file");
}

#[tokio::test]
async fn a_certificate_for_a_drill_has_expired_when_it_is_written() {
    let desk = Desk::new().await;
    let args =
        ["operator", "late", "--role", "operator", "--days", "0", "--dir", "pki", "--out", "late"];
    desk.pki(&args).await;
    desk.configure_as("late", &["127.0.0.1:9".parse().unwrap()]);
    desk.ctl(&["status"]).await.exits(1).says("operator.crt: it expired on");
}

#[tokio::test]
async fn a_name_that_would_lie_is_refused() {
    let desk = Desk::new().await;
    for name in ["../eve", "a/b", "", "Calypso"] {
        let args = ["pki", "agent", name, "--address", "::1", "--dir", "pki", "--out", "x"];
        desk.ctl(&args).await.exits(2);
    }
    assert!(!desk.path("x").exists());
}
