//! The documents of `-o json`: `tests/golden/json/` shows them, one of each verb that is [`SHOWN`], and this test holds them still.
//! `UPDATE=1` rewrites them.

use crate::agent::StandIn;
use crate::api::{self, Asked, usual, worker};
use crate::desk::Desk;
use crate::story::Story;
use lifeline_proto::v1 as wire;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Verbs whose document is in a golden file of their name.
const SHOWN: [&str; 35] = [
    "status",
    "diagnose",
    "plan",
    "heal",
    "watch",
    "confirm",
    "undo",
    "report",
    "history",
    "logs",
    "baseline show",
    "baseline accept",
    "baseline reset",
    "recover",
    "vps list",
    "vps show",
    "vps restart",
    "cleanup orphans",
    "cleanup culprit",
    "cordon",
    "uncordon",
    "drain",
    "verify",
    "rights",
    "check",
    "drill",
    "uninstall",
    "audit",
    "faults",
    "pki init",
    "pki agent",
    "pki operator",
    "pki show",
    "pki status",
    "man",
];

/// Verbs that have none, and why.
const NOT_SHOWN: [(&str, &str); 9] = [
    ("reboot", "it writes heal's document"),
    ("install", "it needs an agent's program and a machine to put it on: the lab's tests read it"),
    ("delete", "it needs a cluster that a node can leave: nodes.rs reads it, on a real API server"),
    (
        "cleanup namespace",
        "it needs a cluster whose namespaces end: cleanup.rs reads it, on a real API server",
    ),
    ("vps rescue", "it is not undone before a node is back: vps.rs reads it"),
    ("vps recreate", "it wipes a disk: vps.rs reads it"),
    ("pki renew", "it is in a file of what was declined: trust.rs reads the other"),
    ("pki revoke", "it is in a file of what was declined: trust.rs reads the other"),
    ("completions", "it writes what a shell reads"),
];

/// What was asked, and not agreed to.
const DECLINED: [&str; 3] = ["uninstall", "pki renew", "pki revoke"];

/// Puts the same in place of what differs from one run to the next.
fn still(value: &mut Value, home: &str) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|v| still(v, home)),
        Value::String(text) => *text = words(text, home),
        Value::Object(map) => {
            for (key, value) in map {
                match key.as_str() {
                    "via" => *value = "192.168.2.80:7443".into(),
                    "seconds" => *value = 14.2.into(),
                    "serial" => *value = "2b267f2fd757137a8bb1683a97d9f500d54c27c4".into(),
                    "from_s" => *value = 1_760_353_200.into(),
                    "until_s" => *value = 1_760_961_600.into(),
                    "valid_from" => *value = "2025-10-13 11:00:00 UTC".into(),
                    "valid_until" => *value = "2025-10-20 12:00:00 UTC".into(),
                    "markdown" => *value = "# calypso: recovered …".into(),
                    "recovery" => *value = "20251013T120000".into(),
                    "created_at" | "updated_at" => *value = "2025-10-13T12:00:00Z".into(),
                    _ => still(value, home),
                }
            }
        }
        _ => {}
    }
}

/// The same for what stands within a text: folders, ports, days that are left, the version.
fn words(text: &str, home: &str) -> String {
    let text = text.replace(home, "/home/alice");
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(at) =
        ["127.0.0.1:", "valid for ", "0.1.0 ("].iter().filter_map(|w| rest.find(w)).min()
    {
        let (before, here) = rest.split_at(at);
        out.push_str(before);
        let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        if let Some(port) = here.strip_prefix("127.0.0.1:") {
            out.push_str("192.168.2.80:7443");
            rest = &port[digits(port)..];
        } else if let Some(days) = here.strip_prefix("valid for ") {
            out.push_str("valid for 90");
            rest = &days[digits(days)..];
        } else {
            out.push_str("0.1.0 (1a2b3c)");
            rest = &here[here.find(')').map_or(here.len(), |end| end + 1)..];
        }
    }
    out + rest
}

fn place(verb: &str) -> PathBuf {
    let file = format!("tests/golden/json/{}.json", verb.replace(' ', "-"));
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn golden(desk: &Desk, verb: &str, mut value: Value) {
    still(&mut value, desk.path("").display().to_string().trim_end_matches('/'));
    let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
    let path = place(verb);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap_or_default(),
        "{verb}: UPDATE=1 rewrites it"
    );
}

/// Runs each, in this order, and compares what it writes.
async fn compare(desk: &Desk, verbs: &[(&str, &[&str], i32)]) {
    for (verb, more, code) in verbs {
        assert!(SHOWN.contains(verb), "{verb} is not in the list");
        let words = verb.split(' ').chain(more.iter().copied()).chain(["-o", "json"]);
        let all: Vec<_> = words.collect();
        golden(desk, verb, desk.ctl(&all).await.exits(*code).json());
    }
}

#[tokio::test]
async fn every_verb_has_a_document_to_show_or_a_reason_why_not() {
    let desk = Desk::new().await;
    let all = crate::help::verbs(&desk).await;
    let leaf = |v: &&String| !all.iter().any(|o| o.starts_with(&format!("{v} ")));
    let there: BTreeSet<&str> =
        all.iter().filter(|v| !v.is_empty()).filter(leaf).map(String::as_str).collect();
    let listed: Vec<&str> =
        SHOWN.into_iter().chain(NOT_SHOWN.iter().map(|(verb, _)| *verb)).collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), there);
    assert_eq!(listed.len(), there.len(), "a verb is in both lists");
    let declined = DECLINED.map(|v| format!("{v} declined"));
    let wanted: BTreeSet<PathBuf> =
        SHOWN.iter().map(|v| place(v)).chain(declined.iter().map(|v| place(v))).collect();
    let files = std::fs::read_dir(place("x").parent().unwrap()).unwrap();
    let found: BTreeSet<PathBuf> = files.map(|f| f.unwrap().path()).collect();
    assert_eq!(found, wanted, "a file of no verb, or a verb without its file");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verbs_document_is_as_it_was_promised() {
    let desk = Desk::new().await;
    let (at, agent) =
        StandIn::captured(vec![Story::recovered()]).serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let step = |name: &str, micros, target: &str| wire::DrillStep {
        name: name.into(),
        outcome: wire::drill_step::Outcome::Passed.into(),
        text: "what was seen".into(),
        micros,
        target: target.into(),
    };
    agent.state().drill = Some(wire::DrillReply {
        steps: vec![
            step("guard", Some(10_340), "T1: ≤ 300 ms, at most 1 s"),
            step("see-through", None, ""),
        ],
        proven: true,
        mode: "heal".into(),
    });
    let line = wire::LogLine { wall_ms: 1_760_356_800_000, priority: 4, text: "captured".into() };
    let page = wire::LogsReply { lines: vec![line], cursor: "c".into(), cut: false };
    agent.state().pages = [page].into();
    // In the order of an incident.
    compare(
        &desk,
        &[
            ("check", &[], 3),
            ("status", &[], 3),
            ("diagnose", &["calypso"], 3),
            ("plan", &["calypso"], 0),
            ("heal", &["calypso", "--yes", "--report", "incident.md"], 0),
            ("watch", &["calypso"], 0),
            ("confirm", &["calypso", "i-1.1-reset"], 0),
            ("report", &["calypso"], 0),
            ("history", &["calypso"], 0),
            ("undo", &["calypso", "r-2", "--yes"], 0),
            ("logs", &["calypso"], 0),
            ("baseline show", &["calypso"], 0),
            ("baseline accept", &["calypso", "--yes"], 0),
            ("baseline reset", &["calypso", "--yes"], 0),
            ("drill", &["calypso"], 0),
            ("faults", &["refusing-route"], 0),
            ("pki show", &["me/operator.crt"], 0),
            ("pki status", &[], 0),
            ("pki init", &["--cluster", "lab", "--dir", "other"], 0),
            (
                "pki agent",
                &["hades", "--address", "192.0.2.9", "--dir", "pki", "--out", "hades"],
                0,
            ),
            ("pki operator", &["bob", "--role", "viewer", "--dir", "pki", "--out", "bob"], 0),
            ("man", &["man1"], 0),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_documents_are_as_they_were_promised() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let nodes = [worker("calypso", "192.0.2.80")];
    let server = move |asked: &Asked| usual(asked, &nodes, "create pods/eviction");
    api::kubeconfig(&desk, &api::serve(server).await);
    compare(
        &desk,
        &[
            ("rights", &[], 3),
            ("audit", &[], 0),
            ("cordon", &["calypso"], 0),
            ("uncordon", &["calypso"], 0),
            ("verify", &[], 0),
            ("cleanup orphans", &[], 0),
            ("cleanup culprit", &[], 0),
        ],
    )
    .await;
    // Nothing is missing for it.
    let nodes = [worker("calypso", "192.0.2.80")];
    let server = api::serve(move |asked: &Asked| usual(asked, &nodes, "")).await;
    desk.configure(&[at]);
    api::kubeconfig(&desk, &server);
    compare(&desk, &[("drain", &["calypso", "--plan"], 0)]).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_providers_documents_are_as_they_were_promised() {
    let rented = crate::rented::Rented::new(std::time::Duration::from_millis(300)).await;
    compare(
        &rented.desk,
        &[
            ("vps list", &[], 0),
            ("vps restart", &["calypso", "--yes", "--limit", "30s"], 0),
            ("vps show", &["calypso"], 0),
            ("recover", &["--plan"], 0),
        ],
    )
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_agreed_to_has_a_document_that_says_so() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    desk.program("ssh-keygen", "echo 'calypso ED25519 SHA256:abc'");
    // Who looks around is told that it is root; who takes away, that nothing is left.
    desk.program("ssh", "cat >/dev/null; case \"$*\" in *\"'sh -s'\") ;; *) echo user=0;; esac");
    desk.write("known_hosts", "calypso ssh-ed25519 AAAA\n");
    let shell = ["calypso", "--ssh", "root@192.0.2.80"];
    for (verb, more) in DECLINED.into_iter().zip([&shell[..], &["--operator"], &["1a:2b"]]) {
        let words = verb.split(' ').chain(more.iter().copied()).chain(["-o", "json"]);
        let all: Vec<_> = words.collect();
        let (code, said) = desk.typed(&all, "n\n").await;
        assert_eq!(code, 0, "{said}");
        let (_, document) =
            said.split_once("Nothing was done.\n").unwrap_or_else(|| panic!("{said}"));
        golden(&desk, &format!("{verb} declined"), serde_json::from_str(document).unwrap());
    }
    assert!(!agent.asked().iter().any(|a| a.starts_with("deny")), "{:?}", agent.asked());
    compare(&desk, &[("uninstall", &[&shell[..], &["--yes"]].concat(), 0)]).await;
}
