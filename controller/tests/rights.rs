//! The roles that `ctl rights` prints are enough, and without them nothing begins. On a real API server.

use crate::control::{clean, configure, desk, get, is_there, kubectl, namespace, shared};
use crate::desk::Desk;
use lifeline_lab::real::apiserver::Control;

/// Gives a user the role that `ctl` prints for a verb, and a desk with that user's kubeconfig.
async fn allowed(control: &Control, user: &str, verb: &str) -> Desk {
    let admin = desk(&control.admin()).await;
    let role = admin.ctl(&["rights", verb]).await.exits(0).stdout;
    let (old, new) = (format!("name: lifeline-{verb}\n"), format!("name: {user}\n"));
    control.apply(&role.replace(&old, &new)).unwrap();
    kubectl(
        control,
        &["create", "clusterrolebinding", user, "--clusterrole", user, "--user", user],
    );
    let kubeconfig = control.kubeconfig(user, user, None).unwrap();
    let desk = desk(&kubeconfig).await;
    configure(&desk, &kubeconfig);
    desk
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_role_is_enough_to_cordon_and_not_to_drain() {
    let Some(control) = shared() else { return };
    control.node("allowed", "True").unwrap();
    let desk = allowed(control, "cordoner", "cordon").await;
    desk.ctl(&["cordon", "allowed"]).await.exits(0);
    assert_eq!(get(control, &["node", "allowed"])["spec"]["unschedulable"], true);
    desk.ctl(&["uncordon", "allowed"]).await.exits(0);
    let ran = desk.ctl(&["drain", "allowed", "--yes"]).await.exits(2);
    ran.says("your user may not: create pods/eviction")
        .says("nothing was done; the role it needs: ctl rights drain");
    assert!(get(control, &["node", "allowed"])["spec"]["unschedulable"].is_null());
    let all = desk.ctl(&["rights"]).await.exits(3).stdout;
    assert!(
        all.contains("cordon: allowed") && all.contains("drain: not allowed: create pods/eviction"),
        "{all}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_needs_no_right_to_secrets_and_says_that_it_could_not_list_them() {
    let Some(control) = shared() else { return };
    namespace(control, "without-secrets");
    kubectl(control, &["create", "secret", "generic", "s", "-n", "without-secrets"]);
    let desk = allowed(control, "cleaner", "cleanup").await;
    let ran = clean(&desk, "without-secrets", &[]).await.exits(0);
    ran.says(
        "not proven: secrets could not be listed (ask the API server for secrets: 403 Forbidden",
    );
    assert!(!is_there(control, &["namespace", "without-secrets"]));
    let last = desk.ctl(&["rights", "--break-glass"]).await.exits(0).stdout;
    assert!(last.contains("namespaces/finalize") && last.contains("secrets"), "{last}");
}
