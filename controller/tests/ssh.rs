//! SSH as another way to the agent. The `ssh` here is a small program that does what `-L` does with a socket that is on the
//! same machine; the real one is met in the lab.

use crate::agent::StandIn;
use crate::desk::Desk;
use crate::story::Story;
use tokio::net::TcpListener;

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";

async fn desk(ssh: &str) -> Desk {
    let desk = Desk::new().await;
    desk.configure(&[DEAD.parse().unwrap()]);
    let config = desk.read("ctl.toml");
    desk.write("ctl.toml", &format!("{config}ssh = \"root@192.0.2.80\"\n"));
    desk.program("ssh", ssh);
    desk
}

/// Notes its arguments, and brings the socket here; there is none of a lent agent.
fn carries(desk: &Desk) -> String {
    let (log, socket) = (desk.path("ssh.log"), desk.path("agent.sock"));
    format!(
        "echo \"$@\" >>{}\nfor word in \"$@\"; do case \"$word\" in *:/run/lifeline/agent.sock) ln -s {} \"${{word%%:*}}\";; esac; done\n\
         exec sleep 60",
        log.display(),
        socket.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_port_is_dead_is_healed_through_ssh() {
    let desk = desk("exit 9").await;
    desk.program("ssh", &carries(&desk));
    let agent = StandIn::captured(vec![Story::recovered()]).serve_unix(&desk, "agent.sock");
    let json = desk.ctl(&["heal", "calypso", "--yes", "-o", "json"]).await.exits(0).json();
    assert_eq!((&json["via"], &json["result"]), (&"ssh root@192.0.2.80".into(), &"done".into()));
    assert_eq!(agent.consents().len(), 1);
    let asked = desk.read("ssh.log");
    let asked = asked.lines().next().unwrap();
    for part in ["BatchMode=yes", ":/run/lifeline/agent.sock", "-- root@192.0.2.80"] {
        assert!(asked.contains(part), "{asked}");
    }
    let left = asked.split(" -L ").nth(1).unwrap().split(':').next().unwrap();
    assert!(!std::path::Path::new(left).exists(), "the socket is gone with the command");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_is_tried_beside_a_port_that_takes_the_call_and_keeps_silent() {
    let desk = desk("exit 9").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = desk.read("ctl.toml").replace(DEAD, &silent.local_addr().unwrap().to_string());
    desk.write("ctl.toml", &config);
    let hung_up = desk.path("hung-up");
    let noted = hung_up.clone();
    tokio::spawn(async move {
        let (mut call, _) = silent.accept().await.unwrap();
        tokio::io::copy(&mut call, &mut tokio::io::sink()).await.unwrap();
        std::fs::write(noted, "").unwrap();
    });
    let beside = format!("[ -e {} ] && exit 9\n{}", hung_up.display(), carries(&desk));
    desk.program("ssh", &beside);
    StandIn::calypso().serve_unix(&desk, "agent.sock");
    let json =
        desk.ctl(&["status", "calypso", "-o", "json", "--wait", "20s"]).await.exits(0).json();
    assert_eq!(json["nodes"][0]["via"], "ssh root@192.0.2.80", "{json}");
    let asked = desk.read("ssh.log");
    let left = asked.split(" -L ").nth(1).unwrap().split(':').next().unwrap();
    assert!(!std::path::Path::new(left).parent().unwrap().exists(), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_that_is_not_waited_for_any_longer_leaves_no_directory() {
    let desk = desk("exit 9").await;
    let script = format!("echo \"$@\" >>{}\nexec sleep 60", desk.path("ssh.log").display());
    desk.program("ssh", &script);
    desk.ctl(&["status", "calypso", "--wait", "1500ms"]).await.says("not waited for any longer");
    let asked = desk.read("ssh.log");
    let left = asked.split(" -L ").nth(1).unwrap().split(':').next().unwrap();
    assert!(!std::path::Path::new(left).parent().unwrap().exists(), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_is_told_with_its_own_reason() {
    let desk = desk("echo 'root@192.0.2.80: Permission denied (publickey).' >&2; exit 255").await;
    let ran = desk.ctl(&["diagnose", "calypso"]).await.exits(1);
    ran.says("127.0.0.1:1  connect:")
        .says("ssh root@192.0.2.80  root@192.0.2.80: Permission denied (publickey).");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_heal_by_other_means_is_begun_and_gone_on_with_on_half_of_the_usual_stack() {
    const REFUSED: &str = "echo 'Connection refused' >&2; exit 255";
    // Its end comes when it wants to begin something.
    let desk = desk(&format!("case \"$*\" in *-L*) {REFUSED};; *) kill -9 $PPID;; esac")).await;
    let killed = desk.cramped(&["heal", "calypso", "--yes"]).await;
    killed.exits(128 + 9).says("Try this for calypso?");
    desk.program("ssh", REFUSED);
    let ran = desk.cramped(&["heal", "calypso", "--yes"]).await.exits(3);
    ran.says("Going on with the heal").says("at its own console, as root");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_run_is_started_over_ssh_and_then_heals() {
    let desk = desk("exit 9").await;
    let started = desk.path("started");
    let script = format!(
        "case \"$*\" in *'systemctl start lifeline-agent.service'*) touch {0}; exit 0;; *' true') exit 0;; esac\n\
         [ -e {0} ] || {{ echo 'connect to host: Connection refused' >&2; exit 255; }}\n{1}",
        started.display(),
        carries(&desk)
    );
    desk.program("ssh", &script);
    StandIn::captured(vec![Story::recovered()]).serve_unix(&desk, "agent.sock");
    let args = ["recover", "--yes", "--report", "r.md", "-o", "json"];
    let json = desk.ctl(&args).await.exits(3).json();
    let said = json["nodes"][0]["said"].as_str().unwrap();
    assert_eq!(said, "well again, by its agent, started over SSH", "{json}");
    assert!(desk.read("r.md").contains("start calypso's agent over SSH"));
}

#[tokio::test]
async fn what_ssh_would_take_for_an_option_is_refused() {
    let desk = desk("exit 9").await;
    let config = desk.read("ctl.toml").replace("root@192.0.2.80", "-oProxyCommand=x");
    desk.write("ctl.toml", &config);
    desk.ctl(&["diagnose", "calypso"]).await.exits(2).says("is no destination of ssh");
}

/// An ssh that leads to a node whose agent's unit does not start, until one is lent to it: then the second socket answers.
fn lends(desk: &Desk) -> String {
    let (lent, socket, said) = (desk.path("lent"), desk.path("agent.sock"), desk.path("said"));
    let (lent, socket, said) = (lent.display(), socket.display(), said.display());
    format!(
        "case \"$*\" in *'systemctl start lifeline-agent.service'*) echo 'Unit lifeline-agent.service not found.' >&2; exit 5;;\n\
         *' uname '*) echo x86_64; echo 'lifeline-agent 9.9.9'; exit 0;; *' true') exit 0;;\n\
         *'is-active --quiet'*) if [ -e {lent} ]; then echo lent; fi; exit 0;;\n\
         *' sh -s') cat >{said}.new; cat {said}.new >>{said}; if grep -q '^go()' {said}.new; then touch {lent}; else rm {lent}; fi; exit 0;; esac\n\
         [ -e {lent} ] || {{ echo 'connect to host: Connection refused' >&2; exit 255; }}\n\
         for word in \"$@\"; do case \"$word\" in *:/run/lifeline-once/agent.sock) ln -s {socket} \"${{word%%:*}}\";; \
         *:/run/lifeline/agent.sock) ln -s {socket}.none \"${{word%%:*}}\"; touch {socket}.none;; esac; done\nexec sleep 60"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_agent_is_lent_one_over_ssh_which_heals_it_and_is_taken_away_again() {
    let desk = desk("exit 9").await;
    desk.program("ssh", &lends(&desk));
    let agent = StandIn::captured(vec![Story::recovered()]).serve_unix(&desk, "agent.sock");
    let args = ["heal", "calypso", "--yes", "--report", "r.md", "-o", "json"];
    let ran = desk.ctl(&args).await.exits(0);
    let ran = ran.says("1  start calypso's agent over SSH").says("2  lend calypso an agent");
    let ran = ran.says("not to be had: restart calypso's machine through its provider");
    assert_eq!(agent.consents().len(), 1);
    let json = ran.json();
    assert_eq!(
        json["other_means"]["said"], "well again, by an agent lent to it over SSH",
        "{json}"
    );
    let said = desk.read("said");
    assert!(
        said.contains("cluster='lab'; node='calypso'") && said.contains("--unit=lifeline-once"),
        "{said}"
    );
    assert!(!desk.path("lent").exists() && said.contains("systemctl stop lifeline-once.service"));
    let report = desk.read("r.md");
    for step in ["lend calypso an agent over SSH", "take away the agent that was lent to calypso"] {
        assert!(report.contains(step), "{report}");
    }
    // It has ended, and hinders nobody.
    desk.ctl(&["recover", "--plan"]).await.exits(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_yes_and_a_terminal_a_heal_says_what_else_there_is_and_does_nothing() {
    let desk = desk("exit 9").await;
    desk.program("ssh", &lends(&desk));
    let ran = desk.ctl(&["heal", "calypso"]).await.exits(1);
    ran.says("127.0.0.1:1  connect:")
        .says("can be tried, with --yes: lend calypso an agent over SSH");
    assert!(
        !desk.path("lent").exists() && !desk.path(".local/state/lifeline/lab/recover").exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_leads_to_a_node_a_heal_says_what_to_type_at_its_console() {
    let desk = Desk::new().await;
    desk.configure(&[DEAD.parse().unwrap()]);
    let ran = desk.ctl(&["heal", "calypso", "--yes"]).await.exits(1);
    ran.says("no [nodes.calypso] ssh is configured").says("at its own console, as root");
}
