//! `ctl vps` against the provider's stand-in: every way in which it can go wrong, and nothing done twice.
//!
//! Longer than most files: a case for each answer that a provider can give.

use crate::rented::{CALYPSO, Rented};
use lifeline_core::diagnosis::Verdict;
use lifeline_lab::standin::provider::{Machine, On, Trouble, What};
use std::process::Stdio;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_listed_with_the_nodes_they_certainly_are() {
    let rented = Rented::new(SOON).await;
    let json = rented.vps(&["list", "-o", "json"]).await.exits(0).json();
    assert_eq!(json["machines"][0]["node"], "calypso");
    assert_eq!(json["machines"][1]["node"], serde_json::Value::Null);
    let table = rented.vps(&["list"]).await.exits(0).stdout;
    assert!(table.contains("calypso  17923    srv17923.hstgr.cloud  203.0.113.20"), "{table}");
    rented.provider.act(CALYPSO, "ct_set_rootpasswd", "success");
    let shown = rented.vps(&["show", "calypso"]).await.exits(0).stdout;
    assert!(
        shown.contains("calypso is machine 17923") && shown.contains("ct_set_rootpasswd"),
        "{shown}"
    );
    assert_eq!(rented.provider.wishes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_proven_by_another_boot() {
    let rented = Rented::new(SOON).await;
    let json = rented.restart().await.exits(0).json();
    assert_eq!(
        (&json["ending"], &json["verdict"]),
        (&"restarted".into(), &"Healthy".into()),
        "{json}"
    );
    assert_eq!((&json["boot_before"], &json["boot_after"]), (&"b".into(), &"b'".into()), "{json}");
    assert_eq!(json["told_by"], "its agent");
    assert_eq!(rented.provider.wishes(), 1);
    let diary = rented.diary();
    let events: Vec<String> = diary
        .lines()
        .map(|l| {
            serde_json::from_str::<serde_json::Value>(l).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(events, ["opened", "sending", "accepted", "ended", "booted", "closed"]);
    // A second one is another wish, not a continuation of the first.
    rented.restart().await.exits(0);
    assert_eq!(rented.provider.wishes(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn done_when_it_was_not_is_no_success() {
    let rented = Rented::new(SOON).await;
    rented.provider.lie(true);
    let ran = rented.restart().await.exits(1);
    let ran = ran.says(
        "the provider says it is done, and the node is still in boot b: it was not restarted",
    );
    assert_eq!(ran.json()["ending"], "not-restarted");
    assert_eq!(rented.provider.wishes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_and_not_well_is_said_so() {
    let rented = Rented::new(SOON).await;
    rented.agent.state().verdict = Verdict::Captured;
    // Three minutes are given to a node to come to rest; here it does after some seconds.
    let agent = std::sync::Arc::clone(&rented.agent);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(6)).await;
        agent.state().verdict = Verdict::Healthy;
    });
    let begun = Instant::now();
    rented.restart().await.exits(0);
    assert!(begun.elapsed() > Duration::from_secs(5), "it waited until the node was well");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_ask_and_nothing_agreed_to_is_nothing_done() {
    let rented = Rented::new(SOON).await;
    rented.vps(&["restart", "calypso"]).await.exits(2).says("there is no terminal to ask on");
    let (code, text) = rented.desk.typed(&["vps", "restart", "calypso"], "n\n").await;
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("Nothing was done."), "{text}");
    assert_eq!(rented.provider.wishes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_accepted_is_said_with_what_to_do() {
    let rented = Rented::new(SOON).await;
    rented.provider.trouble(Trouble::lasting(On::Anything, What::Status(401)));
    let ran = rented.vps(&["list"]).await.exits(1);
    ran.says("it does not accept the token (401: Unauthenticated")
        .says("Hint: make a new token in hPanel");
    assert_eq!(rented.provider.asked().len(), 1, "it is not asked again");
    rented.desk.write("token", "another-token");
    rented.vps(&["restart", "calypso", "--yes"]).await.exits(1).says("401");
    assert_eq!(rented.provider.wishes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shown_field_by_field_and_not_repeated() {
    let rented = Rented::new(SOON).await;
    rented.provider.trouble(Trouble::once(On::Wishes, What::Status(422)));
    let ran = rented.restart().await.exits(1);
    ran.says("it refuses (422: ")
        .says("template_id: The template id field is required.")
        .says("26a91bd9");
    assert_eq!(rented.provider.wishes(), 1);
    // It was certainly not taken, so the next one is a new one.
    rented.restart().await.exits(0);
    assert_eq!(rented.provider.wishes(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_questions_are_asked_when_fewer_are_wanted() {
    let rented = Rented::new(SOON).await;
    rented.provider.trouble(Trouble::once(On::Questions, What::Busy(Some("2"))));
    let begun = Instant::now();
    rented.vps(&["list"]).await.exits(0);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    rented.provider.trouble(Trouble::once(On::Questions, What::Busy(None)));
    let begun = Instant::now();
    rented.vps(&["list"]).await.exits(0);
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    // Longer than anybody waits in front of a terminal: said, and the exit code says that it can be tried again.
    rented.provider.trouble(Trouble::once(On::Questions, What::Busy(Some("3600"))));
    let begun = Instant::now();
    let ran = rented.vps(&["list"]).await.exits(5);
    ran.says("wants fewer questions (429) and says to come back in 3600 s");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // For ever: bounded.
    rented.provider.trouble(Trouble::lasting(On::Questions, What::Busy(Some("0"))));
    let before = rented.provider.asked().len();
    rented.vps(&["list"]).await.exits(5);
    assert_eq!(rented.provider.asked().len() - before, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_came_too_soon_is_sent_again_when_it_may_be() {
    let rented = Rented::new(SOON).await;
    rented.provider.trouble(Trouble::once(On::Wishes, What::Busy(Some("1"))));
    rented.provider.trouble(Trouble::once(On::Wishes, What::Busy(None)));
    rented.restart().await.exits(0).says("trying again in 1 s").says("trying again in 5 s");
    assert_eq!(rented.provider.wishes(), 3, "two that were not taken, and one that was");
    let shown = rented.vps(&["show", "calypso", "-o", "json"]).await.json();
    assert_eq!(shown["actions"].as_array().unwrap().len(), 1, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_says_nothing_is_looked_up_and_never_sent_again() {
    let unclear = [
        What::Status(500),
        What::Status(502),
        What::Html(200),
        What::Html(503),
        What::Nonsense,
        What::Hangup,
        What::Silence(Duration::from_secs(3)),
    ];
    let all = unclear.map(|what| async move {
        let rented = Rented::new(SOON).await;
        rented.provider.trouble(Trouble::granted(what.clone()));
        let ran = rented.restart().await;
        assert_eq!(ran.code, 0, "{what:?}: {ran:#?}");
        ran.says("What became of it is not known");
        assert_eq!(rented.provider.wishes(), 1, "{what:?}");
        assert!(rented.diary().contains("\"event\":\"found\""), "{what:?}");
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_on_its_way_is_known_to_be_lost_and_can_be_begun_anew() {
    let rented = Rented::new(SOON).await;
    rented.provider.trouble(Trouble::once(On::Wishes, What::Status(500)));
    let ran = rented.restart().await.exits(5);
    ran.says("what became of it is not known (500: ")
        .says("it knows of no new action")
        .says("Hint: run the same command again");
    assert_eq!(rented.provider.wishes(), 1);
    let ran = rented.restart().await.exits(1);
    ran.says("Nothing is sent.").says("the provider knows of no such action").says("begin anew");
    assert_eq!(rented.provider.wishes(), 1, "it was looked for, not sent");
    rented.restart().await.exits(0);
    assert_eq!(rented.provider.wishes(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_action_is_not_taken_for_ours() {
    let rented = Rented::new(SOON).await;
    rented.provider.trouble(Trouble::once(On::Wishes, What::Silence(Duration::from_secs(3))));
    let provider = rented.provider.clone();
    tokio::spawn(async move {
        while provider.wishes() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        provider.act(CALYPSO, "ct_set_rootpasswd", "sent");
    });
    let ran = rented.restart().await.exits(4);
    ran.says("(ct_set_rootpasswd) began meanwhile, and whose it is cannot be told");
    assert_eq!(rented.provider.wishes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_is_said_to_be_down() {
    let rented = Rented::new(SOON).await;
    for (what, said) in [
        (What::Status(503), "503: Error message"),
        (What::Html(200), "something else than JSON: \"<!DOCTYPE html>"),
        (What::Hangup, "the connection broke off"),
        (What::Silence(Duration::from_secs(2)), "no answer within 1 s"),
    ] {
        rented.provider.trouble(Trouble { times: 4, ..Trouble::once(On::Questions, what) });
        rented.vps(&["list"]).await.exits(1).says(said);
        rented.vps(&["list"]).await.exits(0);
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = rented.desk.read("ctl.toml");
    let api = config.lines().find(|l| l.starts_with("api = ")).unwrap().to_owned();
    rented.reconfigure(&api, &format!("api = \"https://{nobody}\""));
    rented.vps(&["list"]).await.exits(1).says("Connection refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_fails_is_a_failure() {
    let rented = Rented::new(SOON).await;
    rented.provider.fail(true);
    rented.restart().await.exits(1).says("(ct_restart) ended with an error");
    rented.provider.fail(false);
    rented.restart().await.exits(0);
    assert_eq!(rented.provider.wishes(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_to_which_something_is_being_done_is_left_alone() {
    let rented = Rented::new(SOON).await;
    rented.provider.change(CALYPSO, |m| m.locked = true);
    rented.restart().await.exits(5).says("the provider has locked it").says("nothing was done");
    rented.provider.change(CALYPSO, |m| m.locked = false);
    rented.provider.act(CALYPSO, "ct_backup", "sent");
    rented.restart().await.exits(5).says("(ct_backup) is under way since");
    assert_eq!(rented.provider.wishes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_certain_machine_is_touched() {
    let rented = Rented::new(SOON).await;
    rented.provider.change(CALYPSO, |m| m.hostname = "other.hstgr.cloud".into());
    rented.restart().await.exits(1).says("are not the same machine: 17923 other.hstgr.cloud");
    rented.provider.change(CALYPSO, |m| m.ipv4 = vec!["203.0.113.99".into()]);
    let none = rented.restart().await.exits(1);
    none.says("none is called srv17923.hstgr.cloud, and none has 203.0.113.20")
        .says("there is 17923 other");
    rented.provider.change(CALYPSO, |m| {
        *m = Machine::running(CALYPSO, "srv17923.hstgr.cloud", "203.0.113.20");
    });
    rented.provider.add(Machine::running(17999, "srv17923.hstgr.cloud", "203.0.113.20"));
    rented.restart().await.exits(1).says("2 have both its name and its address");
    rented.vps(&["restart", "styx", "--yes"]).await.exits(2).says("find node styx");
    rented.reconfigure("vps = { hostname", "# vps = { hostname");
    rented
        .restart()
        .await
        .exits(2)
        .says("is not said to be a machine of the provider's")
        .says("[nodes.styx.vps]");
    assert_eq!(rented.provider.wishes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_is_never_touched_nor_one_that_might_be() {
    let rented = Rented::new(SOON).await;
    rented.reconfigure("role = \"worker\"", "role = \"control-plane\"");
    rented.restart().await.exits(2).says("it carries the control plane");
    rented.reconfigure("role = \"control-plane\"\n", "");
    rented
        .restart()
        .await
        .exits(2)
        .says("it is not known whether it carries the control plane")
        .says("role = \"worker\"");
    assert_eq!(rented.provider.wishes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_it_was_sent_it_goes_on_and_sends_nothing() {
    let rented = Rented::new(Duration::from_secs(4)).await;
    let mut ctl = rented.desk.command(&["vps", "restart", "calypso", "--yes"]);
    let mut child =
        ctl.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    while rented.provider.wishes() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().await.unwrap();
    let ran = rented.restart().await.exits(0);
    let ran = ran.says("Nothing is sent.");
    assert_eq!(ran.json()["boot_before"], "b", "it is the boot from before the first command");
    assert_eq!(rented.provider.wishes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_says_what_goes_on_and_how_to_go_on_with_it() {
    let rented = Rented::new(Duration::from_secs(4)).await;
    let mut ctl = rented.desk.command(&["vps", "restart", "calypso", "--yes"]);
    let child =
        ctl.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    while rented.provider.wishes() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("goes on at the provider") && said.contains("ctl vps restart calypso"),
        "{said}"
    );
    let other = rented.vps(&["rescue", "calypso", "--end", "--yes"]).await.exits(1);
    other.says("its restart has not come to its end");
    let shown = rented.vps(&["show", "calypso"]).await.exits(0).stdout;
    assert!(shown.contains("not at its end: ctl vps restart calypso"), "{shown}");
    rented.restart().await.exits(0);
    assert_eq!(rented.provider.wishes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_commands_never_work_on_one_machine() {
    let rented = Rented::new(Duration::from_secs(3)).await;
    let first = async { rented.restart().await };
    let second = async {
        while rented.provider.wishes() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rented.restart().await
    };
    let (first, second) = tokio::join!(first, second);
    first.exits(0);
    second.exits(1).says("another ctl is at work on this machine");
    assert_eq!(rented.provider.wishes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diary_that_cannot_be_read_or_written_means_that_nothing_is_sent() {
    let rented = Rented::new(SOON).await;
    rented.restart().await.exits(0);
    let diary = rented.diary();
    rented
        .desk
        .write(".local/state/lifeline/lab/vps-calypso.jsonl", &diary.replacen("event", "evnet", 1));
    rented.restart().await.exits(4).says("vps-calypso.jsonl, line 1");
    std::fs::remove_file(rented.desk.path(".local/state/lifeline/lab/vps-calypso.jsonl")).unwrap();
    std::fs::create_dir(rented.desk.path(".local/state/lifeline/lab/vps-calypso.jsonl")).unwrap();
    rented.restart().await.exits(1).says("keep the diary").says("nothing more was asked");
    assert_eq!(rented.provider.wishes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_of_another_authority_gets_no_token() {
    let rented = Rented::new(SOON).await;
    rented.desk.pki(&["init", "--cluster", "lab", "--dir", "other"]).await;
    rented.reconfigure("ca = \"pki/ca.crt\"\ntimeout", "ca = \"other/ca.crt\"\ntimeout");
    rented
        .vps(&["list"])
        .await
        .exits(1)
        .says("TLS with 127.0.0.1")
        .says("invalid peer certificate");
    // Without `ca` this machine's own authorities are believed, and ours is none of them.
    rented.reconfigure("ca = \"other/ca.crt\"\ntimeout", "timeout");
    rented.vps(&["list"]).await.exits(1);
    assert!(rented.provider.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rescue_system_is_booted_and_left_with_a_password_nobody_sees() {
    let rented = Rented::new(SOON).await;
    let mut rescue = rented.desk.command(&[
        "vps",
        "rescue",
        "calypso",
        "--root-password",
        "env:RESCUE",
        "--yes",
    ]);
    let out = rescue.env("RESCUE", "short").stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        out.status.code() == Some(2) && said.contains("the provider wants 12 characters"),
        "{said}"
    );
    let out = rescue.env("RESCUE", "canary-Passw0rd").output().await.unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8(out.stdout).unwrap(),
        String::from_utf8(out.stderr).unwrap()
    );
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert!(said.contains("its machine is recovery") && !said.contains("canary"), "{said}");
    let sent = rented.provider.asked().into_iter().find(|t| t.line.starts_with("POST")).unwrap();
    assert_eq!(sent.body, r#"{"root_password":"canary-Passw0rd"}"#);
    assert!(!rented.diary().contains("canary"));
    rented
        .vps(&["rescue", "calypso", "--root-password", "canary-Passw0rd"])
        .await
        .exits(2)
        .says("it is no reference to a secret");
    rented.vps(&["rescue", "calypso", "--end", "--yes"]).await.exits(0);
    rented
        .vps(&["rescue", "calypso", "--end", "--yes"])
        .await
        .exits(1)
        .says("its machine is running, not in its rescue system");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_wiped_only_when_its_host_name_is_typed() {
    let rented = Rented::new(SOON).await;
    let recreate = ["recreate", "calypso", "--template", "1121"];
    rented.vps(&recreate).await.exits(2).says("--confirm was not given");
    rented
        .vps(&[&recreate[..], &["--confirm", "calypso"]].concat())
        .await
        .exits(2)
        .says("calypso is another name");
    assert_eq!(rented.provider.wishes(), 0);
    let typed = [&["vps"], &recreate[..]].concat();
    let (code, text) = rented.desk.typed(&typed, "yes\n").await;
    assert_eq!((code, rented.provider.wishes()), (3, 0), "{text}");
    let (code, text) = rented.desk.typed(&typed, "srv17923.hstgr.cloud\n").await;
    assert_eq!((code, rented.provider.wishes()), (0, 1), "{text}");
    assert!(
        text.contains("everything on its disk is lost") && text.contains("it is no node yet"),
        "{text}"
    );
    let sent = rented.provider.asked().into_iter().find(|t| t.line.starts_with("POST")).unwrap();
    assert_eq!(sent.body, r#"{"template_id":1121}"#);
    let scripted =
        [&recreate[..], &["--script", "309", "--confirm", "srv17923.hstgr.cloud", "-o", "json"]]
            .concat();
    rented.vps(&scripted).await.exits(0);
}
