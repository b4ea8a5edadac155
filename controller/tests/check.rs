//! `ctl check`: what is there is said, and what is not has a hint.

use crate::agent::StandIn;
use crate::api::{self, Asked, usual, worker};
use crate::desk::{Desk, Ran};
use serde_json::Value;

fn bad(ran: &Ran) -> Vec<Value> {
    let all = ran.json()["checks"].as_array().unwrap().clone();
    all.into_iter().filter(|c| c["fine"] == false).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desk_that_is_ready_says_so_and_names_each_certificates_end() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let table = desk.ctl(&["check"]).await.exits(0).stdout;
    for said in [
        "the authority's certificate is valid for 36",
        "your certificate (operator alice) is valid for ",
        "no kubeconfig is configured",
        "its agent answers at 127.0.0.1:",
        "its certificate is valid for 36",
        "Nothing that was looked at is missing.",
    ] {
        assert!(table.contains(said), "{said:?} is not in:\n{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_missing_has_a_hint() {
    let desk = Desk::new().await;
    let none = desk.ctl(&["check", "-o", "json"]).await.exits(3);
    assert!(bad(&none).iter().all(|c| c["hint"].is_string()), "{none:?}");
    assert_eq!(bad(&none)[0]["group"], "laptop");

    desk.configure(&["127.0.0.1:9".parse().unwrap()]);
    let unreached = desk.ctl(&["check", "-o", "json"]).await.exits(3);
    let bad = bad(&unreached);
    assert_eq!((bad.len(), &bad[0]["group"]), (1, &"calypso".into()), "{bad:?}");
    assert!(bad[0]["what"].as_str().unwrap().contains("127.0.0.1:9") && bad[0]["hint"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_named_by_how_much_and_which_way() {
    let desk = Desk::new().await;
    let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let agree = desk.ctl(&["check", "-o", "json"]).await.exits(0);
    says(&of(&agree, "calypso"), &true.into(), "its clock and this machine's agree");

    agent.state().ahead_ms = 20_500;
    let near = desk.ctl(&["check", "-o", "json"]).await.exits(0);
    says(&of(&near, "calypso"), &Value::Null, "its clock is 20 s ahead of this machine's");

    agent.state().ahead_ms = -3_630_500;
    let far = desk.ctl(&["check", "-o", "json"]).await.exits(3);
    says(&of(&far, "calypso"), &false.into(), "its clock is 1 h 0 min behind this machine's");
    assert!(bad(&far)[0]["hint"].as_str().unwrap().contains("timedatectl"), "{far:?}");
}

fn of(ran: &Ran, group: &str) -> Vec<(Value, String)> {
    let all = ran.json()["checks"].as_array().unwrap().clone();
    let mine = all.into_iter().filter(|c| c["group"] == group);
    mine.map(|c| (c["fine"].clone(), c["what"].as_str().unwrap().to_owned())).collect()
}

fn says(marks: &[(Value, String)], fine: &Value, words: &str) {
    assert!(marks.iter().any(|(f, w)| f == fine && w.contains(words)), "{words:?}: {marks:#?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_only_the_kubeconfig_knows_are_asked_and_need_no_entry() {
    let desk = Desk::new().await;
    let (at, _styx) = api::at_home("styx", &desk).await;
    desk.configure(&[at]);
    let text = desk.read("ctl.toml");
    desk.write("ctl.toml", text.split("[nodes.calypso]").next().unwrap());
    let styx = worker("styx", &at.ip().to_string());
    let well = [styx.clone()];
    api::kubeconfig(&desk, &api::serve(move |asked: &Asked| usual(asked, &well, "")).await);
    let ran = desk.ctl(&["check", "-o", "json"]).await.exits(0);
    says(&of(&ran, "styx"), &true.into(), &format!("its agent answers at {at}"));
    says(&of(&ran, "cluster"), &true.into(), "your user may do all that drain needs");
    // One that does not answer is missed for that, and not for an entry in a file.
    let both = [styx, worker("hades", "127.0.0.1")];
    let server = api::serve(move |asked: &Asked| usual(asked, &both, "create pods/eviction")).await;
    desk.write(
        "ctl.toml",
        desk.read("ctl.toml").trim_start_matches("kubeconfig = \"kubeconfig\"\n"),
    );
    api::kubeconfig(&desk, &server);
    let ran = desk.ctl(&["check", "-o", "json"]).await.exits(3);
    let missing = bad(&ran);
    let told: Vec<_> = missing
        .iter()
        .map(|m| (m["group"].as_str().unwrap(), m["hint"].as_str().unwrap()))
        .collect();
    assert_eq!(told.len(), 3, "{missing:?}");
    assert_eq!(told[0], ("cluster", "the role it needs: ctl rights drain"));
    assert_eq!(told[1], ("cluster", "the role it needs: ctl rights recover"));
    assert_eq!(told[2].0, "hades");
    let said = missing[2]["what"].as_str().unwrap();
    assert!(said.contains("127.0.0.1:7443") && !said.contains("ctl.toml"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_one_agent_refuses_and_another_serves_is_named() {
    let desk = Desk::new().await;
    let (at, calypso) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    let (styx_at, _styx) = StandIn::named("styx").serve(&desk, "styx", "pki").await;
    desk.configure(&[at]);
    let styx = format!("[nodes.styx]\naddresses = [\"{styx_at}\"]\n");
    desk.write("ctl.toml", &(desk.read("ctl.toml") + &styx));
    desk.ctl(&["check"]).await.exits(0);
    calypso.state().denied = vec!["1a2b".into()];
    let ran = desk.ctl(&["check", "-o", "json"]).await.exits(3);
    assert_eq!(bad(&ran)[0]["hint"], "ctl pki revoke 1a2b --node styx");
    says(
        &of(&ran, "nodes"),
        &false.into(),
        "certificate 1a2b is refused elsewhere, and welcome at styx",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_counted_on_are_looked_for_and_op_is_never_run() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let with =
        desk.read("ctl.toml") + "ssh = \"root@192.0.2.80\"\n[provider]\ntoken = \"op://v/i/f\"\n";
    desk.write("ctl.toml", &with);
    let look = async || {
        let mut command = desk.command(&["check", "-o", "json"]);
        let out = command.env("PATH", desk.path("bin")).output().await.unwrap();
        let text = |b| String::from_utf8(b).unwrap();
        Ran { code: out.status.code().unwrap(), stdout: text(out.stdout), stderr: text(out.stderr) }
    };
    let none = look().await.exits(3);
    says(
        &of(&none, "laptop"),
        &false.into(),
        "the program ssh is not in PATH, and is needed as another way to calypso",
    );
    says(&of(&none, "laptop"), &false.into(), "the program op is not in PATH");
    let noted = desk.path("run");
    for name in ["ssh", "op"] {
        desk.program(name, &format!("echo {name} >>{}", noted.display()));
    }
    let there = look().await.exits(0);
    says(&of(&there, "laptop"), &true.into(), "bin/ssh is there");
    says(&of(&there, "laptop"), &Value::Null, "op://v/i/f: a legal reference, which was not read");
    says(&of(&there, "provider"), &Value::Null, "it was not asked");
    assert!(!noted.exists(), "{}", desk.read("run"));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn provider_and_papers_are_looked_at_and_no_secret_is_shown() {
    use crate::rented::{Rented, TOKEN};
    let rented = Rented::new(std::time::Duration::ZERO).await;
    let desk = &rented.desk;
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        assert!(git.arg("-C").arg(desk.path("papers")).args(args).status().unwrap().success());
    };
    let check = async || {
        let ran = desk.ctl(&["check", "-o", "json"]).await;
        assert!(!format!("{ran:?}").contains(TOKEN), "{ran:?}");
        ran
    };
    let config = desk.read("ctl.toml");
    let record = "[record]\ndir = \"papers\"\nreport = \"docs\"\npapers = [\"PLAN.md\", \"missing.md\"]\nbranch = \"main\"\n";
    desk.write("ctl.toml", &(config.clone() + record));
    std::fs::create_dir(desk.path("papers")).unwrap();
    let ran = check().await.exits(3);
    let (provider, papers) = (of(&ran, "provider"), of(&ran, "record"));
    says(&of(&ran, "laptop"), &true.into(), "the provider's token can be read from file:");
    says(&provider, &true.into(), "answers, and has 2 of your machines");
    says(&provider, &true.into(), "calypso is certainly its machine 17923 srv17923.hstgr.cloud");
    says(&papers, &false.into(), "not a git repository");

    git(&["init", "-q", "-b", "main"]);
    git(&["config", "user.name", "Alice"]);
    git(&["config", "user.email", "alice@example.org"]);
    desk.write("papers/PLAN.md", "the plan");
    desk.write("papers/.gitignore", "docs/\n");
    let papers = of(&check().await.exits(3), "record");
    says(&papers, &true.into(), "PLAN.md would be committed along");
    says(&papers, &Value::Null, "PLAN.md has changes that are not committed");
    says(&papers, &Value::Null, "missing.md is not there");
    says(&papers, &false.into(), "docs/report.md and the like, which git ignores");
    says(&papers, &false.into(), "there is no remote origin to push to");

    git(&["remote", "add", "origin", "https://127.0.0.1:9/x.git"]);
    git(&["add", "PLAN.md"]);
    git(&["commit", "-q", "-m", "first"]);
    std::fs::remove_file(desk.path("papers/.gitignore")).unwrap();
    let papers = of(&check().await.exits(0), "record");
    says(&papers, &true.into(), "there is a remote origin to push to; it was not asked");
    assert!(!papers.iter().any(|(_, w)| w.contains("has changes")), "{papers:?}");

    // A merge that nobody has ended lets no single paper be committed.
    let head = std::fs::read_to_string(desk.path("papers/.git/refs/heads/main")).unwrap();
    desk.write("papers/.git/MERGE_HEAD", &head);
    says(&of(&check().await.exits(3), "record"), &false.into(), "a merge is under way");
    std::fs::remove_file(desk.path("papers/.git/MERGE_HEAD")).unwrap();

    // The name of one machine and the address of another are no machine; a token that others may read is none either.
    desk.write("ctl.toml", &config.replace("ipv4 = \"203.0.113.20\"", "ipv4 = \"203.0.113.10\""));
    says(&of(&check().await.exits(3), "provider"), &false.into(), "are not the same machine");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(desk.path("token"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = check().await.exits(3);
    says(&of(&ran, "laptop"), &false.into(), "its mode is 0644");
    assert!(of(&ran, "provider").is_empty(), "nobody is asked without a token: {ran:?}");
    assert_eq!(rented.provider.wishes(), 0);
    rented.asked_nothing_else();
}
