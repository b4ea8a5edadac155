//! `ctl recover` as an operator meets it: agents, a provider and an issue tracker that are stand-ins, a repository that is real.

use crate::desk::Desk;
use crate::rented::Rented;
use crate::story::Story;
use lifeline_core::diagnosis::Verdict;
use lifeline_lab::standin::github::{GitHub, Issue, Trouble, What};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_millis(300);
/// The tracker's token, which must never be seen.
const TOKEN: &str = "canary-Tr4cker-b82d05f96a1c";

fn git(desk: &Desk, args: &[&str]) -> String {
    let output =
        Command::new("git").arg("-C").arg(desk.path("papers")).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository of papers, and an issue tracker.
fn record(rented: &Rented) -> GitHub {
    let desk = &rented.desk;
    std::fs::create_dir(desk.path("papers")).unwrap();
    git(desk, &["init", "-q", "-b", "main"]);
    git(desk, &["config", "user.name", "Alice"]);
    git(desk, &["config", "user.email", "alice@example.org"]);
    git(desk, &["commit", "-q", "--allow-empty", "-m", "first"]);
    desk.write("papers/PLAN.md", "the plan");
    desk.write("papers/half-written.md", "mine");
    git(desk, &["add", "half-written.md"]);
    let issues = vec![Issue::open(110, "Phase 2"), Issue::open(99, "DaemonSet")];
    let github = GitHub::new(TOKEN, "o/r", issues);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (cert, key) = (desk.path("provider/agent.crt"), desk.path("provider/agent.key"));
    let at = github.serve(listener, &cert, &key).unwrap();
    desk.write("github-token", TOKEN);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(desk.path("github-token"), mode).unwrap();
    let config = desk.read("ctl.toml");
    desk.write(
        "ctl.toml",
        &format!(
            "{config}[record]\ndir = \"papers\"\nreport = \"docs\"\npapers = [\"PLAN.md\", \"missing.md\"]\n\
             [record.github]\nrepo = \"o/r\"\ntoken = \"file:github-token\"\napi = \"https://{at}\"\nca = \"pki/ca.crt\"\n\
             issues = [{{ number = 110, comment = \"Blocked.\", close = \"not-planned\" }}, {{ number = 99, comment = \"Abandoned.\", label = \"blocked\" }}]\n"
        ),
    );
    github
}

/// A calypso that is captured, and that its agent heals.
async fn captured() -> Rented {
    let rented = Rented::new(SOON).await;
    {
        let healed = crate::agent::StandIn::captured(vec![Story::recovered()]);
        let mut state = rented.agent.state();
        *state = healed.state.into_inner().unwrap();
    }
    rented
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_is_shown_and_nothing_is_touched() {
    let rented = captured().await;
    let github = record(&rented);
    let json = rented.desk.ctl(&["recover", "--plan", "-o", "json"]).await.exits(3).json();
    assert_eq!(json["nodes"][0]["verdict"], "Captured", "{json}");
    assert_eq!(json["phases"][2]["phase"], 3, "without a namespace there is no phase 2: {json}");
    let table = rented.desk.ctl(&["recover", "--plan"]).await.exits(3).stdout;
    assert!(table.contains("calypso: its agent; then its provider's restart"), "{table}");
    assert_eq!(rented.provider.wishes(), 0);
    assert!(github.asked().is_empty() && rented.agent.consents().is_empty());
    assert!(!rented.desk.path(".local/state/lifeline/lab/recover/lock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_healed_reported_committed_and_told_of_once() {
    let rented = captured().await;
    let github = record(&rented);
    let ran = rented.desk.ctl(&["recover", "--yes", "-o", "json"]).await;
    let said = format!("{ran:?}");
    assert!(!said.contains(TOKEN) && !said.contains(crate::rented::TOKEN), "{said}");
    // Without an API server nobody can say that the cluster is well: that is not "recovered".
    let json = ran.exits(3).json();
    assert_eq!(json["nodes"][0]["said"], "well again, by its agent", "{json}");
    let id = json["recovery"].as_str().unwrap().to_owned();
    let report = std::fs::read_to_string(json["report"].as_str().unwrap()).unwrap();
    assert!(
        report.contains("```mermaid\ngantt") && report.contains("| 3 | heal calypso"),
        "{report}"
    );
    assert!(report.contains("## calypso: recovered"), "the agent's own story is in it: {report}");
    let files = git(&rented.desk, &["show", "--format=", "--name-only", "HEAD"]);
    assert_eq!(files, format!("PLAN.md\ndocs/recovery-lab-{id}.md"));
    assert_eq!(git(&rented.desk, &["diff", "--cached", "--name-only"]), "half-written.md");
    let issue = |n| github.issue(n).unwrap();
    assert_eq!(issue(110).state_reason.as_deref(), Some("not_planned"));
    assert_eq!((issue(99).state.as_str(), issue(99).labels), ("open", vec!["blocked".to_owned()]));
    assert_eq!((issue(110).comments.len(), issue(99).comments.len()), (1, 1));
    // Gone on with: looked at again, and nothing happens twice.
    rented.desk.ctl(&["recover"]).await.exits(2).says("has not ended").says("--resume");
    rented.desk.ctl(&["recover", "--resume", "--yes"]).await.exits(3);
    assert_eq!(git(&rented.desk, &["rev-list", "--count", "HEAD"]), "2");
    assert_eq!((issue(110).comments.len(), issue(99).comments.len()), (1, 1));
    assert_eq!(rented.agent.consents().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_whose_fate_is_unclear_is_looked_for_and_not_written_twice() {
    let rented = captured().await;
    let github = record(&rented);
    github.trouble(Trouble::granted(What::Hangup));
    let json = rented.desk.ctl(&["recover", "--yes", "-o", "json"]).await.exits(3).json();
    let commented: Vec<_> = json["record"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["what"] == "commented")
        .map(|r| r["well"].as_bool().unwrap())
        .collect();
    assert_eq!(commented, [true, true], "{json}");
    assert_eq!(github.issue(110).unwrap().comments.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_out_of_reach_leads_to_the_provider_only_by_the_nodes_name() {
    let rented = captured().await;
    let config = rented.desk.read("ctl.toml");
    let at = config.split("addresses = [").nth(1).unwrap().split(']').next().unwrap().to_owned();
    rented.reconfigure(&at, "\"127.0.0.1:1\"");
    let ran = rented.desk.ctl(&["recover", "--yes", "-o", "json"]).await.exits(3);
    let ran = ran.says("agree to it beforehand: --confirm \"calypso\"").says("systemctl reboot");
    assert!(
        ran.json()["nodes"][0]["said"].as_str().unwrap().contains("its provider: not agreed to")
    );
    assert_eq!(rented.provider.wishes(), 0);
    assert!(rented.provider.asked().iter().all(|t| t.line.starts_with("GET ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_agent_cannot_mend_it_is_restarted_once_by_its_name() {
    let rented = Rented::new(SOON).await;
    {
        let story = Story::ended("rolled-back", &[]);
        let captured = crate::agent::StandIn::captured(vec![story]);
        *rented.agent.state() = captured.state.into_inner().unwrap();
    }
    let agent = std::sync::Arc::clone(&rented.agent);
    let provider = rented.provider.clone();
    tokio::spawn(async move {
        while provider.wishes() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        agent.state().verdict = Verdict::Healthy;
    });
    let args = ["recover", "--yes", "--confirm", "calypso", "-o", "json", "--report", "r.md"];
    let json = rented.desk.ctl(&args).await.exits(3).json();
    assert_eq!(json["nodes"][0]["said"], "well again, by its provider", "{json}");
    assert_eq!(rented.provider.wishes(), 1);
    let report = rented.desk.read("r.md");
    assert!(report.contains("restart calypso's machine through its provider"), "{report}");
    rented.desk.ctl(&["recover", "--resume", "--yes", "--confirm", "calypso"]).await.exits(3);
    assert_eq!(rented.provider.wishes(), 1, "a node that is well is not restarted again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_down_for_everybody_has_no_node_touched_and_no_machine_restarted() {
    let rented = Rented::new(SOON).await;
    rented.agent.state().verdict = Verdict::Upstream;
    crate::api::kubeconfig(&rented.desk, "http://127.0.0.1:1");
    let args = ["recover", "--yes", "--confirm", "calypso", "-o", "json"];
    let begun = std::time::Instant::now();
    let ran = rented.desk.ctl(&args).await.exits(3);
    let ran = ran.says("calypso is left as it is: its agent says Upstream: it is Upstream");
    let ran = ran.says("verify: ask the API server for its nodes").says("ctl recover --resume");
    assert!(begun.elapsed() < Duration::from_secs(60), "there is nothing to be waited for");
    let json = ran.json();
    assert_eq!(json["ending"], "unwell", "{json}");
    assert!(json["nodes"][0]["said"].as_str().unwrap().contains("Upstream"), "{json}");
    assert_eq!((rented.provider.wishes(), rented.agent.consents().len()), (0, 0));
    // Its agent has it back, and the laptop has not: what a restart would end may be well.
    rented.agent.state().verdict = Verdict::Healthy;
    let again = ["recover", "--resume", "--yes", "--confirm", "calypso"];
    rented.desk.ctl(&again).await.exits(3).says("its agent says Healthy, and nobody else can say");
    assert_eq!((rented.provider.wishes(), rented.agent.consents().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_agent_answers_and_cannot_look_is_restarted_only_by_who_was_told_so() {
    let rented = Rented::new(SOON).await;
    {
        let mut state = rented.agent.state();
        state.verdict = Verdict::Captured;
        state.blind = Some(tonic::Status::internal("read the routes: too many open files"));
    }
    let ran = rented.desk.ctl(&["recover", "--yes", "-o", "json"]).await.exits(3);
    let ran = ran
        .says("calypso: its agent answers, and cannot look: ")
        .says("too many open files; what a restart ends may be well")
        .says("agree to it beforehand: --confirm \"calypso\"");
    let json = ran.json();
    assert!(json["nodes"][0]["said"].as_str().unwrap().contains("cannot look"), "{json}");
    assert_eq!(rented.provider.wishes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_says_what_is_under_way_and_what_was_sent_is_gone_on_with_and_not_sent_again() {
    let rented = Rented::new(Duration::from_secs(4)).await;
    {
        let story = Story::ended("rolled-back", &[]);
        let captured = crate::agent::StandIn::captured(vec![story]);
        *rented.agent.state() = captured.state.into_inner().unwrap();
    }
    let args = ["recover", "--yes", "--confirm", "calypso"];
    let mut command = rented.desk.command(&args);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    while rented.provider.wishes() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("under way: restart calypso's machine through its provider"), "{said}");
    assert!(said.contains("go on with it: ctl recover --resume"), "{said}");
    rented.agent.state().verdict = Verdict::Healthy;
    let ran = rented.desk.ctl(&["recover", "--resume", "--yes", "-o", "json"]).await.exits(3);
    let json = ran.says("which was cut off: looking again").json();
    assert_eq!(json["nodes"][0]["said"], "well again, by its provider", "{json}");
    assert_eq!(rented.provider.wishes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_recoveries_never_overlap_and_another_context_is_refused() {
    let rented = captured().await;
    rented.desk.ctl(&["recover", "--yes"]).await.exits(3);
    let lock = rented.desk.path(".local/state/lifeline/lab/recover/lock");
    let file = std::fs::File::options().write(true).open(lock).unwrap();
    file.lock().unwrap();
    let ran = rented.desk.ctl(&["recover", "--resume", "--yes"]).await.exits(1);
    ran.says("another ctl is at it").says("wait for the other one");
    drop(file);
    let config = rented.desk.read("ctl.toml");
    rented.desk.write("ctl.toml", &format!("context = \"elsewhere\"\n{config}"));
    let ran = rented.desk.ctl(&["recover", "--resume", "--yes"]).await.exits(2);
    ran.says("it was begun with context the current one, and the configuration names elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_a_humans_affair_and_a_torn_last_line_is_not() {
    let rented = captured().await;
    rented.desk.ctl(&["recover", "--yes"]).await.exits(3);
    let home = rented.desk.path(".local/state/lifeline/lab/recover");
    let dir = std::fs::read_dir(&home).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir());
    let journal = dir.unwrap().join("03-heal-calypso.1.journal");
    let whole = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, format!("{whole}0000")).unwrap();
    rented.desk.ctl(&["recover", "--resume", "--yes"]).await.exits(3);
    std::fs::write(&journal, whole.replacen("\"seq\":1", "\"seq\":7", 1)).unwrap();
    let ran = rented.desk.ctl(&["recover", "--resume", "--yes"]).await.exits(4);
    ran.says("line 2 of the journal is damaged").says("ctl recover --anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_ask_and_nothing_agreed_to_is_nothing_done() {
    let rented = captured().await;
    rented.desk.ctl(&["recover", "--resume"]).await.exits(2).says("begin one: ctl recover");
    rented.desk.ctl(&["recover"]).await.exits(2).says("there is no terminal to ask on");
    let (code, text) = rented.desk.typed(&["recover"], "n\n").await;
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("Nothing was done."), "{text}");
    assert!(rented.agent.consents().is_empty());
}

#[tokio::test]
async fn every_step_of_the_manual_runbook_is_explained() {
    let desk = Desk::new().await;
    let told = desk.ctl(&["recover", "--explain"]).await.exits(0).stdout;
    for step in ["Step 1", "Step 2", "Step 3A", "Step 3B", "Step 3C", "Step 4", "Step 5", "Post 4"]
    {
        assert!(told.contains(&format!("| {step} |")), "{step} is not in:\n{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_real_api_server_the_namespace_goes_and_the_cluster_is_pinned_and_verified() {
    use crate::control::{get, is_there, namespace, pod, start};
    let Some(control) = start() else { return };
    let rented = Rented::new(SOON).await;
    let config = rented.desk.read("ctl.toml");
    let kubeconfig = control.admin();
    let head = format!("kubeconfig = \"{}\"\ncontext = \"lab\"\n", kubeconfig.display());
    rented.desk.write("ctl.toml", &format!("{head}{config}"));
    control.node("calypso", "True").unwrap();
    // As this API server says of every node: it and the agent speak of the same boot.
    rented.agent.state().boot = "boot-of-calypso".to_owned();
    namespace(&control, "tailscale-system");
    control.apply(&pod("tailscale-system", "worker", "calypso", 0)).unwrap();
    for (name, words) in [
        ("kube-system", "the cluster lives in it"),
        ("tailscale-systm", "did you mean tailscale-system?"),
    ] {
        let args = ["recover", "--namespace", name, "--yes", "--confirm", name];
        rented.desk.ctl(&args).await.exits(2).says(words);
    }
    // The name is typed, or nothing of the namespace is touched.
    let args = ["recover", "--namespace", "tailscale-system", "--yes", "-o", "json"];
    let ran = rented.desk.ctl(&args).await.exits(3);
    assert_eq!(ran.json()["namespace"], "not agreed to", "{ran:?}");
    assert!(is_there(&control, &["namespace", "tailscale-system"]));
    let confirmed = ["recover", "--resume", "--yes", "--confirm", "tailscale-system", "-o", "json"];
    let json = rented.desk.ctl(&confirmed).await.exits(0).json();
    assert_eq!(json["ending"], "recovered", "{json}");
    assert!(!is_there(&control, &["namespace", "tailscale-system"]));
    // Cut off after that, nobody knows but its journal.
    let again = rented.desk.ctl(&confirmed).await.exits(0).says("has ended: recovered");
    assert_eq!(again.json()["recovery"], json["recovery"]);
    let wish = ["recover", "--resume", "--machine-wiped", "calypso", "--yes"];
    rented.desk.ctl(&wish).await.exits(2).says("begin one: ctl recover");
    let home = rented.desk.path(".local/state/lifeline/lab/recover");
    let dirs = std::fs::read_dir(&home).unwrap().map(|e| e.unwrap().path());
    let opened = dirs.into_iter().find(|p| p.is_dir()).unwrap().join("opened.json");
    let opened: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(opened).unwrap()).unwrap();
    let system = get(&control, &["namespace", "kube-system"]);
    assert_eq!(opened["uid"], system["metadata"]["uid"]);
    // The same name, and another cluster.
    let other = start().unwrap();
    rented.reconfigure(&kubeconfig.display().to_string(), &other.admin().display().to_string());
    let ran = rented.desk.ctl(&["recover", "--plan"]).await.exits(2);
    ran.says("leads to another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heal_of_a_node_that_nothing_reaches_restarts_it_by_its_name_alone_and_leaves_it_where_it_is()
 {
    let rented = captured().await;
    let config = rented.desk.read("ctl.toml");
    let at = config.split("addresses = [").nth(1).unwrap().split(']').next().unwrap().to_owned();
    rented.reconfigure(&at, "\"127.0.0.1:1\"");
    let ran = rented.desk.ctl(&["heal", "calypso", "--yes", "-o", "json"]).await.exits(3);
    let ran = ran.says("agree to it beforehand: --confirm \"calypso\"").says("systemctl reboot");
    let tried = ran.json()["other_means"]["tried"].to_string();
    assert!(tried.contains("no [nodes.calypso] ssh is configured"), "{tried}");
    assert!(tried.contains("its provider: not agreed to"), "{tried}");
    assert_eq!(rented.provider.wishes(), 0);
    // Agreed to, it is sent once; that nobody can say how the node is, is no success.
    let args = ["heal", "calypso", "--yes", "--confirm", "calypso", "--limit", "5s", "-o", "json"];
    let (desk, provider) = (&rented.desk, &rented.provider);
    let healing = desk.command(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while provider.wishes() == 0 {
        assert!(std::time::Instant::now() < until, "nothing was sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pid = rustix::process::Pid::from_raw(healing.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = healing.wait_with_output().await.unwrap();
    assert_eq!(out.status.code(), Some(5));
    rented.desk.ctl(&["recover"]).await.exits(2).says("go on with it: ctl heal calypso");
    // Its agent answers again, in another boot: gone on with, and nothing is sent twice.
    rented.reconfigure("\"127.0.0.1:1\"", &at);
    rented.agent.state().verdict = Verdict::Healthy;
    let ran = rented.desk.ctl(&args).await.exits(0).says("Going on with the heal");
    let said = ran.json()["other_means"]["said"].to_string();
    assert!(said.contains("well again, by its agent, after the restart"), "{said}");
    assert_eq!(rented.provider.wishes(), 1);
}
