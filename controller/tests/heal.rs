//! `ctl heal` from the first look to the exit code.

use crate::agent::StandIn;
use crate::desk::{Desk, Ran};
use crate::story::{self, FINDING, Story};
use lifeline_core::diagnosis::Verdict;
use lifeline_core::plan::Rung;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::Status;

const HEAL: [&str; 5] = ["heal", "calypso", "--stability", "0s", "--yes"];

async fn desk(agent: StandIn) -> (Desk, Arc<StandIn>) {
    let desk = Desk::new().await;
    let (at, agent) = agent.serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    (desk, agent)
}

async fn heal(agent: StandIn, more: &[&str]) -> (Ran, Arc<StandIn>) {
    let (desk, agent) = desk(agent).await;
    let args: Vec<_> = HEAL.iter().chain(more).copied().collect();
    (desk.ctl(&args).await, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_node_is_healed_and_the_story_told() {
    let (desk, agent) = desk(StandIn::captured(vec![Story::recovered()])).await;
    let args = ["heal", "calypso", "--yes", "--report", "incident.md", "-o", "json"];
    let ran = desk.ctl(&args).await.exits(0);
    let order: Vec<_> =
        agent.asked().iter().map(|a| a.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(order, ["status", "status", "plan", "heal", "watch", "diagnose"]);
    let json = ran.json();
    assert_eq!(json["result"], "done");
    assert_eq!((&json["verdict"], &json["guarded"]), (&"Healthy".into(), &false.into()));
    assert_eq!(json["incidents"][0]["ending"], "recovered");
    assert_eq!(json["incidents"][0]["runs"][0]["rung"], "quiet");
    assert_eq!(json["incidents"][0]["runs"][1]["steps"][0]["outcome"], "done");
    let ran = ran
        .says("rung 2 quiet  for exit-node/tailscale\n  1. stop /usr/sbin/tailscaled (pid 812)")
        .says("rung 3 clean  for exit-node/tailscale; if still needed")
        .says("Heal calypso like this? yes (--yes)")
        .says("12:00:20 UTC  quiet      stop /usr/sbin/tailscaled (pid 812)")
        .says("12:00:00 UTC  agent      guard raised for 203.0.113.10")
        .says("end        recovered: well for 30 s");
    assert!(!ran.stderr.contains('\u{1b}'), "no colours without a terminal");
    let report = desk.read("incident.md");
    assert!(
        report.starts_with("# calypso: recovered\n") && report.contains("```mermaid"),
        "{report}"
    );
    assert_eq!(agent.consents()[0].findings, [FINDING]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_node_is_left_alone() {
    let (ran, agent) = heal(StandIn::calypso(), &[]).await;
    let ran = ran.exits(0);
    assert_eq!(ran.stdout, "calypso is Healthy, without our guard\nnothing had to be done\n");
    assert!(agent.consents().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_nodes_fault_is_not_touched() {
    let agent = StandIn::calypso();
    agent.state().verdict = Verdict::Upstream;
    let (ran, agent) = heal(agent, &[]).await;
    ran.exits(3).says("Nothing can be done here for calypso");
    assert!(agent.consents().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_and_without_yes_the_plan_is_shown_and_nothing_done() {
    let (desk, agent) = desk(StandIn::captured(vec![])).await;
    let ran = desk.ctl(&["heal", "calypso"]).await.exits(2);
    ran.says("1. stop /usr/sbin/tailscaled")
        .says("--yes was not given")
        .says("Hint: nothing was done");
    assert!(agent.consents().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_typed_yes_is_consent() {
    let (desk, agent) = desk(StandIn::captured(vec![Story::recovered()])).await;
    for no in ["\n", "n\n", "maybe\n", "\u{4}"] {
        let (code, said) = desk.typed(&["heal", "calypso"], no).await;
        assert_eq!(code, 3, "{no:?}: {said}");
        assert!(
            said.contains("Heal calypso like this? [y/N]")
                && said.contains("Nothing more was done."),
            "{said}"
        );
    }
    assert!(agent.consents().is_empty());
    let (code, said) = desk.typed(&["heal", "calypso"], "y\n").await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("calypso is Healthy, without our guard"), "{said}");
    assert_eq!(agent.consents().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn up_to_narrows_what_is_agreed_to() {
    let (ran, agent) =
        heal(StandIn::captured(vec![Story::recovered()]), &["--up-to", "quiet"]).await;
    ran.exits(0).says("rung 3 clean  for exit-node/tailscale; not allowed by --up-to quiet");
    let consent = &agent.consents()[0];
    assert_eq!((consent.rung, consent.kinds.as_slice()), (2, &["stopped".to_owned()][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_made_again_and_no_line_is_lost_or_told_twice() {
    let story = Story { breaks_after: Some(4), ..Story::recovered() };
    let (ran, agent) = heal(StandIn::captured(vec![story]), &[]).await;
    let ran = ran.exits(0).says("the connection was lost").says("reached again by 127.0.0.1");
    let watches: Vec<_> = agent.asked().into_iter().filter(|a| a.starts_with("watch")).collect();
    assert_eq!(watches, ["watch i-1 0", "watch i-1 4"]);
    for once in ["guard raised", "rung 2 (quiet) opened", "rung 3 (clean) opened", "guard lowered"]
    {
        assert_eq!(ran.stderr.matches(once).count(), 1, "{once}\n{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heal_whose_answer_was_lost_is_not_asked_for_twice() {
    let agent = StandIn::captured(vec![Story::recovered()]);
    agent.state().lost = 2;
    let (ran, agent) = heal(agent, &[]).await;
    ran.exits(0);
    let asked = agent.asked();
    let ids: Vec<_> =
        asked.iter().filter_map(|a| a.strip_prefix("heal ")?.split(' ').next()).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0] && id.len() == 32), "{ids:?}");
    assert_eq!(agent.state().opened.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_whose_answer_was_lost_is_asked_for_again_and_not_for_ever() {
    for (lost, code) in [(3, 0), (4, 1)] {
        let agent = StandIn::captured(vec![Story::recovered()]);
        agent.state().lost_plans = lost;
        let (ran, agent) = heal(agent, &[]).await;
        ran.exits(code).says("the answer was lost; asking again");
        let opened = agent.state().opened.len();
        assert_eq!(opened, usize::from(code == 0), "{lost} lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_agreed_to_is_shown_and_asked_anew() {
    let stories = vec![
        Story::ended("ask", &["rung 4 (reconnect)", "step of kind restarted"]),
        Story::recovered(),
    ];
    let agent = StandIn::captured(stories);
    agent.state().plans = [
        story::plan(&[(Rung::Quiet, story::stop())]),
        story::plan(&[(Rung::Reconnect, story::restart())]),
    ]
    .into();
    let (ran, agent) = heal(agent, &[]).await;
    ran.exits(0)
        .says("It needs what was not agreed to: rung 4 (reconnect), step of kind restarted.")
        .says("1. restart k3s-agent.service");
    let rungs: Vec<_> = agent.consents().iter().map(|c| c.rung).collect();
    assert_eq!(rungs, [2, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn yes_reaches_no_further_than_up_to() {
    let agent = StandIn::captured(vec![Story::ended("ask", &["rung 4 (reconnect)"])]);
    agent.state().plans = [
        story::plan(&[(Rung::Quiet, story::stop())]),
        story::plan(&[(Rung::Reconnect, story::restart())]),
    ]
    .into();
    let (ran, agent) = heal(agent, &["--up-to", "clean"]).await;
    ran.exits(3).says("It now needs rung 4, and clean does not reach that far.");
    assert_eq!(agent.consents().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_consent_is_not_given_over_and_over() {
    let stories = vec![Story::ended("ask", &["finding x"]), Story::ended("ask", &["finding x"])];
    let (ran, agent) = heal(StandIn::captured(stories), &[]).await;
    ran.exits(3).says("That was agreed to already and did not suffice.");
    assert_eq!(agent.consents().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_ending_has_its_exit_code() {
    for (ending, code) in
        [("stuck", 4), ("rolled-back", 3), ("unwell", 3), ("held", 3), ("cancelled", 3)]
    {
        let (ran, _) = heal(StandIn::captured(vec![Story::ended(ending, &[])]), &[]).await;
        let ran = ran.exits(code);
        assert!(ran.stdout.contains(&format!("{ending} after")), "{}", ran.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contained_is_not_healed() {
    let agent = StandIn::captured(vec![Story::recovered()]);
    agent.state().guarded = 2;
    let (ran, agent) = heal(agent, &[]).await;
    let ran = ran.exits(0).says("Waiting until a fresh look says healthy and the guard is gone");
    assert!(ran.stdout.starts_with("calypso is Healthy, without our guard\n"), "{}", ran.stdout);
    assert_eq!(agent.asked().iter().filter(|a| *a == "diagnose").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_refused_before_anybody_is_asked() {
    let (desk, agent) = desk(StandIn::captured(vec![])).await;
    desk.pki(&["operator", "bob", "--role", "viewer", "--dir", "pki", "--out", "bob"]).await;
    let at = desk.read("ctl.toml").split('"').rev().nth(1).unwrap().parse().unwrap();
    desk.configure_as("bob", &[at]);
    desk.ctl(&HEAL).await.exits(1).says("heal calypso: viewer bob may look and not act");
    desk.ctl(&["undo", "calypso", "r-1"]).await.exits(1).says("viewer bob");
    desk.ctl(&["baseline", "reset", "calypso", "--yes"]).await.exits(1).says("viewer bob");
    assert!(agent.asked().is_empty());
    desk.ctl(&["plan", "calypso"]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_refusal_is_passed_on() {
    let agent = StandIn::captured(vec![]);
    agent.state().refuses = Some(Status::permission_denied("alice was denied on this node"));
    let (ran, _) = heal(agent, &[]).await;
    ran.exits(1)
        .says("ask calypso to heal: alice was denied on this node")
        .says("Hint: an operator's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_that_no_longer_fits_leads_to_the_new_plan() {
    let agent = StandIn::captured(vec![Story::recovered()]);
    agent.state().refuses = Some(Status::failed_precondition("the consent does not cover rung 3"));
    agent.state().plans = [
        story::plan(&[(Rung::Quiet, story::stop())]),
        story::plan(&[(Rung::Quiet, story::stop()), (Rung::Clean, story::rules())]),
    ]
    .into();
    let (ran, agent) = heal(agent, &[]).await;
    ran.exits(0).says("the consent does not cover rung 3").says("rung 3 clean");
    assert_eq!(agent.consents().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_failed_attempt_is_no_answer() {
    let agent = StandIn::captured(vec![Story::recovered()]);
    agent.state().opened.push(("theirs".into(), Story::ended("rolled-back", &[])));
    agent.state().running = "i-1".into();
    let (ran, agent) = heal(agent, &[]).await;
    ran.exits(0).says("That ended: rolled-back. Looking again.");
    assert_eq!(agent.consents().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_under_way_is_followed_first() {
    let agent = StandIn::captured(vec![]);
    agent.state().opened.push(("theirs".into(), Story::recovered()));
    agent.state().running = "i-1".into();
    let (ran, agent) = heal(agent, &[]).await;
    ran.exits(0).says("Incident i-1 is under way at calypso; following it.");
    assert!(agent.consents().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_the_watching_and_says_how_to_go_on() {
    let story = Story {
        hangs: true,
        ..Story::of(&[story::run(
            "r-1",
            Rung::Quiet,
            story::stop(),
            lifeline_core::engine::Ending::Unwell,
        )])
    };
    let (desk, agent) = desk(StandIn::captured(vec![story])).await;
    let mut child = desk
        .command(&HEAL)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        said = format!("{said}{line}\n");
        if line.contains("ended: unwell") {
            let pid = child.id().unwrap().to_string();
            let kill =
                tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
            assert!(kill.success());
        }
    }
    let code = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.unwrap().unwrap();
    assert_eq!(code.code(), Some(5), "{said}");
    assert!(said.contains("The heal goes on at calypso by itself."), "{said}");
    assert!(
        said.contains("ctl watch calypso i-1") && said.contains("ctl undo calypso i-1"),
        "{said}"
    );
    assert!(!agent.asked().iter().any(|a| a.starts_with("cancel")), "never cancelled silently");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_passes_leaves_the_agent_to_it() {
    let story = Story { hangs: true, ..Story::of(&[vec![story::note("waiting")]]) };
    let (ran, agent) = heal(StandIn::captured(vec![story]), &["--limit", "1s"]).await;
    ran.exits(5).says("It goes on at calypso. Follow it: ctl watch calypso i-1");
    assert!(!agent.asked().iter().any(|a| a.starts_with("cancel")));
}
