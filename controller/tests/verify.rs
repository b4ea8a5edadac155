//! `ctl verify` on a real API server: what is good, what is bad, what could not be seen, and what is not believed.

use crate::agent::StandIn;
use crate::control::{desk, get, kubectl, namespace, pod, shared};
use crate::desk::{Desk, Ran};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_well_is_good_what_is_left_is_bad_and_what_cannot_be_asked_is_unknown() {
    let Some(control) = shared() else { return };
    control.node("verified", "True").unwrap();
    namespace(control, "verified");
    control.apply(&pod("verified", "web", "verified", 0)).unwrap();
    let ready = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    kubectl(
        control,
        &[
            "patch",
            "pod",
            "web",
            "-n",
            "verified",
            "--subresource=status",
            "--type=merge",
            "-p",
            ready,
        ],
    );
    kubectl(control, &["create", "clusterrole", "okapi-reader", "--verb=get", "--resource=pods"]);
    let desk = desk(&control.admin()).await;
    let config = desk.read("ctl.toml");
    desk.write(
        "ctl.toml",
        &format!(
            "{config}[verify]\nnodes = 1\nremnants = [\"okapi\", \"quagga\"]\n\
             [[verify.workloads]]\nnamespace = \"verified\"\nselector = \"app=verified\"\n\
             [[verify.workloads]]\nnamespace = \"verified\"\nselector = \"app=other\"\n\
             [[verify.logs]]\nnamespace = \"verified\"\nselector = \"app=verified\"\ncontains = \"registered\"\n\
             [[verify.reach]]\nurl = \"http://web.verified.svc.cluster.local/health\"\nimage = \"lab/absent:1\"\n"
        ),
    );
    let ran = desk.ctl(&["verify", "-o", "json"]).await.exits(3).json();
    assert_eq!(ran["verified"], false);
    let said = |what: &str| -> (String, String) {
        let all = ran["checks"].as_array().unwrap();
        let check = all.iter().find(|c| c["what"].as_str().unwrap().starts_with(what));
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let check = check.unwrap_or_else(|| panic!("{what} is not in {all:?}"));
        (text(&check["said"]), text(&check["detail"]))
    };
    assert_eq!(said("nodes").0, "good");
    assert_eq!(said("workload verified/app=verified").0, "good");
    assert_eq!(said("workload verified/app=other").0, "bad");
    assert_eq!(said("log of verified").0, "unknown", "there is no kubelet to ask");
    let (reach, why) = said("http://web.verified.svc.cluster.local/health from verified");
    assert!(reach == "unknown" && why.contains("image lab/absent:1 is not on verified"), "{why}");
    let (left, which) = said("remnants of okapi");
    assert!(
        left == "bad" && which.contains("clusterrole.rbac.authorization.k8s.io/okapi-reader"),
        "{which}"
    );
    assert_eq!(said("remnants of quagga").0, "good");
}

/// What was said of a check, and why.
fn check(ran: &Ran, what: &str) -> (String, String) {
    let json = ran.json();
    let found = json["checks"].as_array().unwrap().iter().find(|c| c["what"] == what);
    let found = found.unwrap_or_else(|| panic!("{what} is not in {json}"));
    (found["said"].as_str().unwrap().to_owned(), found["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_said_to_be_well_is_believed_only_when_its_agent_is_in_that_boot_and_sees_its_pods_run()
 {
    let Some(control) = shared() else { return };
    control.node("lied", "True").unwrap();
    namespace(control, "lied");
    control.apply(&pod("lied", "web", "lied", 0)).unwrap();
    let runs = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    let patch = ["patch", "pod", "web", "-n", "lied", "--subresource=status", "--type=merge"];
    kubectl(control, &[&patch[..], &["-p", runs]].concat());
    let uid = get(control, &["pod", "web", "-n", "lied"])["metadata"]["uid"].clone();
    let desk = Desk::new().await;
    desk.pki(&["agent", "lied", "--address", "127.0.0.1", "--dir", "pki", "--out", "lied"]).await;
    let (at, agent) = StandIn::named("lied").serve(&desk, "lied", "pki").await;
    desk.configure(&[at]);
    let config = desk.read("ctl.toml").replace("[nodes.calypso]", "[nodes.lied]");
    let head = format!("kubeconfig = \"{}\"\ncontext = \"lab\"\n", control.admin().display());
    desk.write("ctl.toml", &format!("{head}{config}"));
    let verify = async || desk.ctl(&["verify", "-o", "json"]).await;
    let said = |ran: &Ran| check(ran, "what is said of lied");
    // Another boot: whatever is said is from before.
    let (word, why) = said(&verify().await.exits(3));
    assert!(word == "bad" && why.contains("boot boot-of-lied"), "{word}: {why}");
    // The same boot, and nothing of what is called Running runs.
    agent.state().boot = "boot-of-lied".to_owned();
    let ran = verify().await.exits(3);
    let (word, why) = said(&ran);
    assert!(word == "bad" && why.ends_with("no process there: lied/web"), "{word}: {why}");
    assert_eq!(check(&ran, "routing of lied").0, "good", "nothing else gives it away");
    agent.state().alive = vec![uid.as_str().unwrap().to_owned()];
    assert_eq!(said(&verify().await).0, "good");
}
