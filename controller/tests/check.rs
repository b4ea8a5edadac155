//! `ctl check`: what is there is said, and what is not has a hint.

use crate::agent::StandIn;
use crate::desk::{Desk, Ran};
use serde_json::Value;

fn bad(ran: &Ran) -> Vec<Value> {
    let all = ran.json()["checks"].as_array().unwrap().clone();
    all.into_iter().filter(|c| c["fine"] == false).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desk_that_is_ready_says_so_and_names_each_certificates_end() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let table = desk.ctl(&["check"]).await.exits(0).stdout;
    for said in [
        "the authority's certificate is valid for 36",
        "your certificate (operator alice) is valid for ",
        "no kubeconfig is configured",
        "its agent answers at 127.0.0.1:",
        "its certificate is valid for 36",
        "All that a recovery needs is there.",
    ] {
        assert!(table.contains(said), "{said:?} is not in:\n{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_missing_has_a_hint() {
    let desk = Desk::new().await;
    let none = desk.ctl(&["check", "-o", "json"]).await.exits(3);
    assert!(bad(&none).iter().all(|c| c["hint"].is_string()), "{none:?}");
    assert_eq!(bad(&none)[0]["group"], "laptop");

    desk.configure(&["127.0.0.1:9".parse().unwrap()]);
    let unreached = desk.ctl(&["check", "-o", "json"]).await.exits(3);
    let bad = bad(&unreached);
    assert_eq!((bad.len(), &bad[0]["group"]), (1, &"calypso".into()), "{bad:?}");
    assert!(bad[0]["what"].as_str().unwrap().contains("127.0.0.1:9") && bad[0]["hint"].is_string());
}
