//! `ctl verify` on a real API server: what is good, what is bad, and what could not be seen.

use crate::control::{desk, kubectl, namespace, pod, shared};
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
