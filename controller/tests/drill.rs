//! `ctl drill`: what was seen is shown with its times, and a step that failed is no success.

use crate::agent::StandIn;
use crate::desk::Desk;
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::drill_step::Outcome;

fn step(name: &str, outcome: Outcome, micros: Option<u64>, target: &str) -> wire::DrillStep {
    wire::DrillStep {
        name: name.into(),
        outcome: outcome.into(),
        text: format!("what was seen of {name}"),
        micros,
        target: target.into(),
    }
}

fn reply(guard: Outcome) -> wire::DrillReply {
    let proven = guard != Outcome::Failed;
    let mode = if guard == Outcome::Skipped { "observe" } else { "heal" };
    wire::DrillReply {
        steps: vec![
            step("detection", Outcome::Passed, Some(412), ""),
            step("guard", guard, Some(10_340), "T1: ≤ 300 ms, at most 1 s"),
            step("as-before", Outcome::Passed, None, ""),
        ],
        proven,
        mode: mode.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_proven_is_shown_step_by_step_and_what_is_not_ends_with_three() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    agent.state().drill = Some(reply(Outcome::Passed));
    let shown = desk.ctl(&["drill", "calypso"]).await.exits(0).stdout;
    assert_eq!(
        shown,
        "\
STEP       OUTCOME  MS    TARGET                     SEEN
detection  passed   0.4                              what was seen of detection
guard      passed   10.3  T1: ≤ 300 ms, at most 1 s  what was seen of guard
as-before  passed                                    what was seen of as-before

calypso: detection, guard and lifeline path are proven
"
    );
    agent.state().drill = Some(reply(Outcome::Skipped));
    let shown = desk.ctl(&["drill", "calypso"]).await.exits(0).stdout;
    assert!(shown.contains("in mode observe is proven; no guard was"), "{shown}");
    agent.state().drill = Some(reply(Outcome::Failed));
    let shown = desk.ctl(&["drill", "calypso"]).await.exits(3).stdout;
    assert!(shown.contains("guard      failed") && shown.ends_with("calypso: not proven\n"));
    let json = desk.ctl(&["drill", "calypso", "-o", "json"]).await.exits(3).json();
    assert_eq!(json["proven"], false);
    assert_eq!(json["steps"][1]["outcome"], "failed");
    assert_eq!(json["steps"][1]["milliseconds"], 10.34);
    assert_eq!(json["steps"][2]["milliseconds"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_well_is_not_drilled_and_a_viewer_drills_nobody() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::captured(Vec::new()).serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    desk.ctl(&["drill", "calypso"]).await.exits(1).says("it is Captured");
    desk.pki(&["operator", "bob", "--role", "viewer", "--dir", "pki", "--out", "bob"]).await;
    desk.configure_as("bob", &[at]);
    desk.ctl(&["drill", "calypso"]).await.exits(1).says("viewer bob may look and not act");
    assert_eq!(agent.asked().iter().filter(|a| *a == "drill").count(), 1);
}
