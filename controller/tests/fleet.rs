//! Many nodes: all are asked, those that fail are named, and the others' answers stand.

use crate::agent::StandIn;
use crate::desk::Desk;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_nodes_each_has_its_line_and_each_failure_its_reason() {
    let desk = Desk::new().await;
    let (at, _calypso) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    let mut styx = StandIn::calypso();
    styx.node = "styx".into();
    let (styx_at, _styx) = styx.serve(&desk, "styx", "pki").await;
    // A listener that accepts and says nothing: each of those takes its limit, beside the others.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    desk.configure(&[at]);
    let mut text = desk.read("ctl.toml") + &format!("[nodes.styx]\naddresses = [\"{styx_at}\"]\n");
    for n in 0..198 {
        let at = if n < 20 { silent.local_addr().unwrap() } else { "127.0.0.1:9".parse().unwrap() };
        text.push_str(&format!("[nodes.dead-{n:03}]\naddresses = [\"{at}\"]\n"));
    }
    desk.write("ctl.toml", &text);
    let begun = Instant::now();
    let ran = desk.ctl(&["status", "-o", "json"]).await.exits(1);
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "one after the other they take longer than this"
    );
    let list = ran.json()["nodes"].as_array().unwrap().clone();
    assert_eq!(list.len(), 200);
    let names: Vec<_> = list.iter().map(|n| n["node"].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "they are in the order of the configuration's names");
    let well: Vec<_> = list
        .iter()
        .filter(|n| n["verdict"] == "Healthy")
        .map(|n| n["node"].as_str().unwrap())
        .collect();
    assert_eq!(well, ["calypso", "styx"]);
    assert_eq!(list.iter().filter(|n| n["error"].is_string()).count(), 198);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_shown_again_and_again_until_it_is_interrupted() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let child = desk
        .command(&["status", "--watch", "1s"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while agent.state().asked.len() < 3 {
        assert!(Instant::now() < until, "it asked {} times", agent.state().asked.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = child.wait_with_output().await.unwrap();
    assert_eq!(out.status.code(), Some(0), "Ctrl-C is how it ends");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.matches("calypso").count() >= 2 && !text.contains('\u{1b}'), "{text}");
}
