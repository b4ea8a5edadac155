//! The log of an agent, and what comes to it.

use crate::agent::StandIn;
use crate::desk::Desk;
use lifeline_proto::v1 as wire;
use std::time::{Duration, Instant};

fn page(texts: &[(u32, &str)], cursor: &str) -> wire::LogsReply {
    let line = |(priority, text): &(u32, &str)| wire::LogLine {
        wall_ms: 1_760_356_800_000,
        priority: *priority,
        text: (*text).into(),
    };
    let lines = texts.iter().map(line).collect();
    wire::LogsReply { lines, cursor: cursor.into(), cut: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_shown_with_its_times_and_nothing_of_it_moves_the_terminal() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let told = page(&[(4, "the disk says no"), (6, "\u{1b}[2Jcleared")], "c");
    agent.state().pages = [told.clone(), told].into();
    let shown = desk.ctl(&["logs", "calypso", "--since", "10m"]).await.exits(0).stdout;
    assert_eq!(
        shown,
        "2025-10-13 12:00:00 UTC  the disk says no\n2025-10-13 12:00:00 UTC  [2Jcleared\n"
    );
    assert!(agent.asked().contains(&"logs 600 \"\" 200".to_owned()), "{:?}", agent.asked());
    let lines = desk.ctl(&["logs", "calypso", "-o", "jsonl"]).await.exits(0).stdout;
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["priority"], &first["text"]), (&4.into(), &"the disk says no".into()));
    let never = desk.ctl(&["logs", "calypso", "--follow", "-o", "json"]).await.exits(2);
    never.says("-o jsonl");
    desk.pki(&["operator", "bob", "--role", "viewer", "--dir", "pki", "--out", "bob"]).await;
    desk.configure_as("bob", &[at]);
    desk.ctl(&["logs", "calypso"]).await.exits(1).says("viewer bob may look and not act");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_is_followed_from_where_the_last_page_ended_until_ctrl_c() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    agent.state().pages = [page(&[(6, "one")], "s=1;i=a"), page(&[(6, "two")], "s=1;i=b")].into();
    let mut command = desk.command(&["logs", "calypso", "--follow"]);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !agent.asked().contains(&"logs 0 \"s=1;i=b\" 2000".to_owned()) {
        assert!(Instant::now() < until, "{:?}", agent.asked());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(agent.asked().contains(&"logs 0 \"s=1;i=a\" 2000".to_owned()));
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = child.wait_with_output().await.unwrap();
    assert_eq!(out.status.code(), Some(0));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.ends_with("one\n2025-10-13 12:00:00 UTC  two\n"), "{text}");
}
