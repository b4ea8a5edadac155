//! Incidents afterwards: watched again, told, listed, undone; and the baseline.

use crate::agent::StandIn;
use crate::desk::Desk;
use crate::story::{self, Story};
use lifeline_core::engine::Ending;
use lifeline_core::plan::Rung;
use std::sync::Arc;

async fn desk(stories: Vec<Story>) -> (Desk, Arc<StandIn>) {
    let desk = Desk::new().await;
    let agent = StandIn::captured(vec![]);
    for story in stories {
        agent.state().opened.push(("past".into(), story));
    }
    let (at, agent) = agent.serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    (desk, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_incident_is_watched_from_its_first_line() {
    let (desk, _) = desk(vec![Story::recovered()]).await;
    let ran = desk.ctl(&["watch", "calypso"]).await.exits(0);
    let first = ran.stdout.lines().next().unwrap();
    assert_eq!(first, "12:00:00 UTC  agent      guard raised for 203.0.113.10");
    assert_eq!(
        ran.stdout.lines().last().unwrap(),
        "12:01:00 UTC  end        recovered: well for 30 s"
    );
    let json = desk.ctl(&["watch", "calypso", "i-1", "-o", "json"]).await.exits(0).json();
    assert_eq!((&json["incident"], &json["ending"]), (&"i-1".into(), &"recovered".into()));
    assert_eq!(json["lines"].as_array().unwrap().len(), 13);
    desk.ctl(&["watch", "calypso", "i-9"]).await.exits(1).says("there is no incident i-9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_incidents_says_so() {
    let (desk, _) = desk(vec![]).await;
    desk.ctl(&["watch", "calypso"])
        .await
        .exits(1)
        .says("find an incident of calypso: it has had none");
    let ran = desk.ctl(&["history", "calypso"]).await.exits(0);
    assert_eq!(ran.stdout, "calypso has had no incident\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_goes_to_the_terminal_or_to_a_file() {
    let (desk, _) = desk(vec![Story::recovered()]).await;
    let shown = desk.ctl(&["report", "calypso"]).await.exits(0).stdout;
    assert!(shown.starts_with("# calypso: recovered\n"), "{shown}");
    let ran = desk.ctl(&["report", "calypso", "i-1", "--out", "i-1.md"]).await.exits(0);
    assert_eq!(ran.stdout, "i-1.md\n");
    assert_eq!(desk.read("i-1.md").trim_end(), shown.trim_end());
    let ran = desk.ctl(&["report", "calypso", "--out", "/nowhere/i-1.md"]).await.exits(1);
    ran.says("write /nowhere/i-1.md: No such file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_what_goes_on_ends_where_it_has_got() {
    let lines = story::run("r-1", Rung::Quiet, story::stop(), Ending::Unwell);
    let (desk, agent) = desk(vec![Story { hangs: true, ..Story::of(&[lines]) }]).await;
    agent.state().running = "i-1".into();
    let shown = desk.ctl(&["report", "calypso"]).await.exits(0).stdout;
    assert!(
        shown.starts_with("# calypso: under way\n") && shown.contains("Rung 2, quiet: unwell"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn history_names_incidents_and_their_runs() {
    let (desk, _) = desk(vec![Story::recovered()]).await;
    let ran = desk.ctl(&["history", "calypso"]).await.exits(0);
    assert_eq!(
        ran.stdout,
        "INCIDENT  OPENED                   BY              ENDING     RUNS     FOUND\n\
         i-1       2025-10-13 12:00:00 UTC  operator alice  recovered  r-1 r-2  exit-node/tailscale\n"
    );
    let json = desk.ctl(&["history", "calypso", "-o", "json"]).await.exits(0).json();
    assert_eq!(json["incidents"][0]["runs"][1], "r-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_shows_what_comes_back_and_what_stays() {
    let (desk, agent) = desk(vec![Story::recovered()]).await;
    let ran = desk.ctl(&["undo", "calypso", "r-1", "--yes"]).await.exits(0);
    ran.says("stays:    stop /usr/sbin/tailscaled").says("Undo this? yes (--yes)");
    let ran = desk.ctl(&["undo", "calypso", "r-2", "--yes", "-o", "json"]).await.exits(0);
    let ran = ran.says("put back: policy rules (IPv4)");
    assert_eq!(ran.json()["ending"], "rolled-back");
    let undone: Vec<_> = agent.asked().into_iter().filter(|a| a.starts_with("undo")).collect();
    assert_eq!(undone, ["undo r-1", "undo r-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_is_asked_and_a_wrong_name_is_helped() {
    let (desk, agent) = desk(vec![Story::recovered()]).await;
    desk.ctl(&["undo", "calypso", "r-2"]).await.exits(2).says("--yes was not given");
    let (code, said) = desk.typed(&["undo", "calypso", "r-2"], "n\n").await;
    assert_eq!(code, 3, "{said}");
    desk.ctl(&["undo", "calypso", "r-9", "--yes"])
        .await
        .exits(2)
        .says("ctl history calypso names them");
    desk.ctl(&["undo", "calypso", "i-1", "--yes"]).await.exits(2).says("its runs: r-1, r-2");
    assert!(!agent.asked().iter().any(|a| a.starts_with("undo")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_under_way_is_stopped_only_when_told() {
    let (desk, agent) = desk(vec![Story { hangs: true, ..Story::ended("cancelled", &[]) }]).await;
    agent.state().running = "i-1".into();
    desk.ctl(&["undo", "calypso", "i-1"]).await.exits(2);
    assert!(!agent.asked().iter().any(|a| a.starts_with("cancel")));
    let ran = desk.ctl(&["undo", "calypso", "i-1", "--yes"]).await.exits(0);
    assert_eq!(ran.stdout, "incident i-1 of calypso: cancelled\n");
    assert!(agent.asked().contains(&"cancel i-1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_is_shown_freely_and_changed_only_when_told() {
    let (desk, agent) = desk(vec![]).await;
    let ran = desk.ctl(&["baseline", "show", "calypso"]).await.exits(0);
    assert!(
        ran.stdout.contains("What differs now:\n  rule 5270 lookup 52 is new"),
        "{}",
        ran.stdout
    );
    let ran = desk.ctl(&["baseline", "accept", "calypso"]).await.exits(2);
    ran.says("rule 5270 lookup 52 is new").says("Take the node as it is now for healthy?");
    let asked: Vec<_> = agent.asked().into_iter().filter(|a| a.starts_with("baseline")).collect();
    assert_eq!(asked, ["baseline Show", "baseline Show"]);
    let json =
        desk.ctl(&["baseline", "accept", "calypso", "--yes", "-o", "json"]).await.exits(0).json();
    assert_eq!(json["differences"], serde_json::json!([]));
    assert!(agent.asked().contains(&"baseline Accept".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_their_own_time_with_its_offset_and_documents_stay_at_utc() {
    let (desk, _) = desk(vec![Story::recovered()]).await;
    let there = async |args: &[&str], zone: &str| {
        let out = desk.command(args).env("TZ", zone).output().await.unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    // A zone that needs no file of zones.
    let shown = there(&["history", "calypso"], "XYZ-5:30").await;
    assert!(shown.contains("i-1       2025-10-13 17:30:00 +05:30  operator alice"), "{shown}");
    let document = there(&["history", "calypso", "-o", "json"], "XYZ-5:30").await;
    assert!(document.contains("\"opened\": \"2025-10-13 12:00:00\""), "{document}");
    let card = there(&["pki", "show", "me/operator.crt"], "XYZ-5:30").await;
    assert!(card.contains(" +05:30 to 20") && !card.contains("UTC"), "{card}");
    let card = there(&["pki", "show", "me/operator.crt", "-o", "yaml"], "XYZ-5:30").await;
    assert!(card.contains(" UTC") && !card.contains("+05:30"), "{card}");
    // One by name, where this machine has such files, as Linux and macOS have.
    if std::path::Path::new("/usr/share/zoneinfo/Asia/Kolkata").exists() {
        let shown = there(&["history", "calypso"], "Asia/Kolkata").await;
        assert!(shown.contains("2025-10-13 17:30:00 +05:30"), "{shown}");
    }
}
