//! The documents of `-o json`: `tests/golden/json/` shows them all, and this test holds them still. `UPDATE=1` rewrites them.

use crate::agent::StandIn;
use crate::desk::Desk;
use crate::story::Story;
use lifeline_proto::v1 as wire;
use serde_json::Value;
use std::path::Path;

/// Puts the same in place of what differs from one run to the next.
fn still(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(still),
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
                    _ => still(value),
                }
            }
        }
        _ => {}
    }
}

fn golden(verb: &str, mut value: Value) {
    still(&mut value);
    let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/json/{verb}.json"));
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
    let heal = ["heal", "calypso", "--yes", "--report", "incident.md"];
    // In the order of an incident.
    let verbs: [(&[&str], i32); 11] = [
        (&["status"], 3),
        (&["diagnose", "calypso"], 3),
        (&["plan", "calypso"], 0),
        (&heal, 0),
        (&["watch", "calypso"], 0),
        (&["report", "calypso"], 0),
        (&["history", "calypso"], 0),
        (&["undo", "calypso", "r-2", "--yes"], 0),
        (&["baseline", "show", "calypso"], 0),
        (&["drill", "calypso"], 0),
        (&["pki", "show", "me/operator.crt"], 0),
    ];
    for (args, code) in verbs {
        let all: Vec<_> = args.iter().chain(&["-o", "json"]).copied().collect();
        golden(args[0], desk.ctl(&all).await.exits(code).json());
    }
}
