//! A real API server beside the operator's desk. One serves all tests of this program; each has names of its own in it.

use crate::desk::{Desk, Ran};
use lifeline_lab::real::apiserver::{self, Control};
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;

static SHARED: OnceLock<Option<Control>> = OnceLock::new();

/// The shared one; `None`, and said, on a machine where it has not been built.
pub fn shared() -> Option<&'static Control> {
    SHARED.get_or_init(start).as_ref()
}

/// One of its own, for a test that breaks something for everybody.
#[allow(clippy::print_stderr, reason = "what was not tried is said")]
pub fn start() -> Option<Control> {
    let control = apiserver::begin().unwrap();
    if control.is_none() {
        eprintln!(
            "skipped: kube-apiserver has not been built on this machine; build it with: cargo lab parts"
        );
    }
    control
}

/// A desk whose configuration leads to it.
pub async fn desk(kubeconfig: &Path) -> Desk {
    let desk = Desk::new().await;
    configure(&desk, kubeconfig);
    desk
}

/// Writes the configuration.
pub fn configure(desk: &Desk, kubeconfig: &Path) {
    let text = format!(
        "cluster = \"lab\"\nkubeconfig = \"{}\"\ncontext = \"lab\"\n",
        kubeconfig.display()
    );
    desk.write("ctl.toml", &text);
}

/// What `kubectl get … -o json` answers.
pub fn get(control: &Control, args: &[&str]) -> Value {
    let args = [&["get", "-o", "json"], args].concat();
    control.kubectl(&args).unwrap().json().unwrap()
}

/// Is there such an object?
pub fn is_there(control: &Control, args: &[&str]) -> bool {
    control.kubectl(&[&["get"], args].concat()).unwrap().ok()
}

/// Pods of a namespace, as `kubectl` counts them.
pub fn pods(control: &Control, namespace: &str) -> usize {
    get(control, &["pods", "-n", namespace])["items"].as_array().unwrap().len()
}

/// Runs kubectl, which must succeed.
pub fn kubectl(control: &Control, args: &[&str]) -> String {
    control.kubectl(args).unwrap().success().unwrap().stdout
}

/// A pod bound to a node, without a scheduler.
pub fn pod(namespace: &str, name: &str, node: &str, grace: u32) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {namespace}}}}}\n\
         spec: {{nodeName: {node}, terminationGracePeriodSeconds: {grace}, containers: [{{name: c, image: lab/tools}}]}}\n"
    )
}

/// Makes a namespace, with the service account that pods need.
pub fn namespace(control: &Control, name: &str) {
    kubectl(control, &["create", "namespace", name]);
    for _ in 0..300 {
        if is_there(control, &["serviceaccount", "default", "-n", name]) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no service account in {name}");
}

/// A clean-up as a script does it.
pub async fn clean(desk: &Desk, name: &str, more: &[&str]) -> Ran {
    let args =
        ["cleanup", "namespace", name, "--yes", "--confirm", name, "--quiet", "3s", "-o", "json"];
    desk.ctl(&[&args, more].concat()).await
}
