//! One recovery at a time on one cluster, whoever begins it and where: on a real API server, from laptops that share nothing else.

use crate::agent::StandIn;
use crate::api;
use crate::control::{get, is_there, kubectl, start};
use crate::desk::{Desk, end, interrupt, until};
use crate::rented::Rented;
use crate::story::Story;
use lifeline_lab::real::apiserver::Control;
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

const SOON: Duration = Duration::from_millis(300);
const LEASE: [&str; 4] = ["lease", "lifeline-recover", "-n", "kube-system"];

/// A control plane of these tests alone, one after the other: its one lease is what they are about.
async fn alone() -> Option<(&'static Control, MutexGuard<'static, ()>)> {
    static OWN: OnceLock<Option<Control>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let control = OWN.get_or_init(start).as_ref()?;
    control.node("stays", "True").unwrap();
    control.node("calypso", "Unknown").unwrap();
    control.kubectl(&[&["delete", "--ignore-not-found"], &LEASE[..]].concat()).unwrap();
    Some((control, turn))
}

fn lead(desk: &Desk, kubeconfig: &Path) {
    let config = desk.read("ctl.toml");
    let head = format!("kubeconfig = \"{}\"\ncontext = \"lab\"\n", kubeconfig.display());
    desk.write("ctl.toml", &format!("{head}{config}"));
}

/// A laptop whose calypso is being healed for as long as a test lasts.
async fn busy(control: &Control) -> Rented {
    let rented = Rented::new(SOON).await;
    let long = Story { hangs: true, ..Story::recovered() };
    let captured = StandIn::captured(vec![long.clone(), long.clone(), long]);
    *rented.agent.state() = captured.state.into_inner().unwrap();
    lead(&rented.desk, &control.admin());
    rented
}

/// A laptop that reaches no agent.
async fn other(control: &Control) -> Desk {
    let desk = Desk::new().await;
    desk.configure(&["127.0.0.1:1".parse().unwrap()]);
    lead(&desk, &control.admin());
    desk
}

fn spec(control: &Control) -> Value {
    match is_there(control, &LEASE) {
        true => get(control, &LEASE)["spec"].clone(),
        false => Value::Null,
    }
}

fn holder(control: &Control) -> String {
    spec(control)["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// Somebody's, who renewed it a moment ago, and never again.
fn claimed(control: &Control, seconds: u32) {
    let now = jiff::Timestamp::now();
    let spec = serde_json::json!({"holderIdentity": "operator bob@far, recovery r-2", "leaseDurationSeconds": seconds,
        "acquireTime": format!("{now:.6}"), "renewTime": format!("{now:.6}")});
    if !is_there(control, &LEASE) {
        let head = "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: lifeline-recover, namespace: kube-system}";
        control.apply(&format!("{head}\nspec: {spec}\n")).unwrap();
    }
    let patch = serde_json::json!({ "spec": spec }).to_string();
    kubectl(control, &[&["patch", "--type=merge", "-p", &patch], &LEASE[..]].concat());
}

const RECOVER: [&str; 5] = ["recover", "calypso", "--yes", "--confirm", "calypso"];

#[tokio::test(flavor = "multi_thread")]
async fn a_second_recovery_is_refused_and_told_of_the_first_which_is_gone_on_with_after_a_kill() {
    let Some((control, _turn)) = alone().await else { return };
    let (one, two) = (busy(control).await, other(control).await);
    let mut first = one.desk.begin(&RECOVER);
    until("its agent is at it", || one.agent.consents().len() == 1).await;
    let who = holder(control);
    assert!(who.starts_with("operator alice@") && who.contains(", recovery 20"), "{who}");
    let begun = Instant::now();
    let ran = two.ctl(&["recover", "calypso", "--yes"]).await.exits(1);
    ran.says(&format!("recover cluster lab: {who} is at it, since 20"))
        .says("nothing was done; that run is alive")
        .says("kubectl delete lease lifeline-recover -n kube-system");
    assert!(
        begun.elapsed() < Duration::from_secs(45),
        "nobody waits for the end of a lease that is renewed"
    );
    assert!(!two.path(".local/state/lifeline/lab/recover").exists(), "nothing was begun");
    // A plan touches nothing, and takes nothing.
    two.ctl(&["recover", "calypso", "--plan"]).await.exits(3);
    // So does a heal by other means.
    two.ctl(&["heal", "calypso", "--yes"]).await.exits(1).says(&who);
    first.start_kill().unwrap();
    drop(first.wait().await);
    let left = spec(control);
    let resumed = Instant::now();
    let again = one.desk.begin(&["recover", "--resume", "--yes", "--confirm", "calypso"]);
    until("its own lease is kept again", || spec(control)["renewTime"] != left["renewTime"]).await;
    assert!(resumed.elapsed() < Duration::from_secs(30), "{:?}", resumed.elapsed());
    assert_eq!((holder(control), &spec(control)["acquireTime"]), (who, &left["acquireTime"]));
    let ran = interrupt(again).await.exits(5).says("go on with it: ctl recover --resume");
    assert!(!ran.stderr.contains("is at it"), "{ran:?}");
    assert_eq!(holder(control), "", "it is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_taken_over_and_who_loses_it_begins_nothing_more() {
    let Some((control, _turn)) = alone().await else { return };
    claimed(control, 3);
    let one = busy(control).await;
    let first = one.desk.begin(&RECOVER);
    until("it is taken over", || holder(control).contains("alice")).await;
    until("its agent is at it", || one.agent.consents().len() == 1).await;
    claimed(control, 60);
    let ran = end(first).await.exits(5);
    let ran = ran.says("operator bob@far, recovery r-2 has been at it since 20");
    let ran =
        ran.says("recover cluster lab: operator bob@far, recovery r-2 has taken it over, since 20");
    ran.says("under way: heal calypso through its agent")
        .says("when that run has ended, go on with it: ctl recover --resume 20");
    assert_eq!(holder(control), "operator bob@far, recovery r-2", "what is another's is left");
    // Where the other is gone, it is stopped by hand, and this one goes on.
    kubectl(control, &[&["delete"], &LEASE[..]].concat());
    let again = one.desk.begin(&["recover", "--resume", "--yes", "--confirm", "calypso"]);
    until("it is taken again", || holder(control).contains("alice")).await;
    kubectl(control, &[&["delete"], &LEASE[..]].concat());
    end(again).await.exits(5).says("whoever deleted its lease has taken it over");
}

/// A calypso that its agent heals, and an API server that cannot be asked, or not for this.
async fn healed_all_the_same(rented: &Rented, words: &str) {
    let captured = StandIn::captured(vec![Story::recovered()]);
    *rented.agent.state() = captured.state.into_inner().unwrap();
    let run = rented.desk.begin(&["recover", "calypso", "--yes"]);
    until("its agent is asked to heal it", || rented.agent.consents().len() == 1).await;
    // Long enough for it to be said twice.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let ran = interrupt(run).await.exits(5).says(words);
    assert_eq!(
        ran.stderr.matches("keeps no recovery from another machine out").count(),
        1,
        "{ran:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_leases_a_recovery_goes_on_and_says_so_once() {
    let Some((control, _turn)) = alone().await else { return };
    let rented = Rented::new(SOON).await;
    lead(&rented.desk, &control.admin());
    let role = rented.desk.ctl(&["rights", "recover"]).await.exits(0).stdout;
    let rule = "- apiGroups: [\"coordination.k8s.io\"]\n  resources: [\"leases\"]\n  verbs: [\"get\", \"create\", \"update\"]\n";
    assert!(role.contains(rule), "{role}");
    let less = role.replace(rule, "").replace("name: lifeline-recover\n", "name: unleased\n");
    control.apply(&less).unwrap();
    kubectl(
        control,
        &[
            "create",
            "clusterrolebinding",
            "unleased",
            "--clusterrole",
            "unleased",
            "--user",
            "unleased",
        ],
    );
    let kubeconfig = control.kubeconfig("unleased", "unleased", None).unwrap();
    rented.reconfigure(&control.admin().display().to_string(), &kubeconfig.display().to_string());
    let plan = rented.desk.ctl(&["recover", "calypso", "--plan"]).await;
    assert!(plan.stdout.contains("create leases.coordination.k8s.io"), "{plan:?}");
    healed_all_the_same(&rented, "the role: ctl rights recover").await;
    assert_eq!(spec(control), Value::Null);
    // Who may do what is printed keeps others out.
    let whole = format!("{less}{rule}");
    control.apply(&whole).unwrap();
    let run = rented.desk.begin(&["recover", "--resume", "--yes"]);
    until("it is taken", || holder(control).contains("alice")).await;
    interrupt(run).await.exits(5);
    assert_eq!(holder(control), "");
    assert!(get(control, &LEASE)["spec"]["leaseTransitions"] == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_does_not_answer_keeps_no_recovery_from_being_made() {
    let rented = Rented::new(SOON).await;
    api::kubeconfig(&rented.desk, "http://127.0.0.1:1");
    healed_all_the_same(&rented, "ask the API server for namespace kube-system").await;
}
