//! `ctl verify`: the runbook's fourth step and its list for afterwards, by what the API server and each node's agent see.

use crate::alive;
use crate::cli::Global;
use crate::cluster::desk::Desk;
use crate::cluster::verify::{self, Check, Said};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::obstacle::chain;
use crate::out::{Out, Tone, columns};
use crate::session::Session;
use crate::words;
use futures_util::future::join_all;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl verify
  ctl verify --remnants tailscale
  ctl verify -o json | jq -r '.checks[] | select(.said != \"good\").what'

Nodes and pods are always looked at, and each node's routing as its agent sees it. What is said of a
node is held against its agent's boot and the processes there. The rest as ctl.toml says:

  [verify]
  nodes = 2                                               # Ready at least; all unless said
  remnants = [\"tailscale\"]                                # no object's name may contain it
  [[verify.workloads]]
  namespace = \"apps\"
  selector = \"app=project-bootstrapper\"
  [[verify.logs]]
  namespace = \"apps\"
  selector = \"app=project-bootstrapper\"
  contains = \"webhook registered\"
  [[verify.reach]]                                        # asked from every Ready node, by a pod that pulls nothing
  url = \"http://label-studio-ls-app.apps.svc.cluster.local:8080/health\"
  image = \"docker.io/library/busybox:1.36\"                # has curl, wget or nc

Exit codes: 0 all is as it must be, 1 failed, 2 configuration, 3 something is not, or could not be seen";

/// Arguments of `ctl verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Also look for anything whose name contains this
    #[arg(long, value_name = "WORD")]
    remnants: Vec<String>,
}

/// `-o json`.
#[derive(Serialize)]
struct VerifyJson<'a> {
    verified: bool,
    checks: &'a [Check],
}

/// Runs `ctl verify`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let desk = Desk::open(global, out).await?;
    let mut wanted = desk.config.verify.clone();
    wanted.remnants.extend(args.remnants.iter().cloned());
    let mut say = desk.say();
    let looking = async {
        let (mut checks, orphans, routing) = tokio::join!(
            verify::look(&desk.cluster, &wanted, None, &mut say),
            verify::orphans(&desk.cluster),
            routing(&desk, global)
        );
        checks.push(orphans);
        checks.extend(routing);
        checks
    };
    let Some(checks) = interruptible(looking).await else { return Ok(Exit::Unhealthy) };
    let verified = checks.iter().all(|c| c.said == Said::Good);
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|c| {
            let said = match c.said {
                Said::Good => out.result.tone(Tone::Good, "good"),
                Said::Bad => out.result.tone(Tone::Bad, "bad"),
                Said::Unknown => out.result.tone(Tone::Warn, "unknown"),
            };
            vec![said, c.what.clone(), c.detail.clone()]
        })
        .collect();
    out.print(columns(&["SAID", "WHAT", "DETAIL"], &rows));
    out.json(&VerifyJson { verified, checks: &checks })?;
    Ok(if verified { Exit::Done } else { Exit::Unhealthy })
}

/// What each node's agent sees. A laptop without a certificate for agents cannot ask them.
async fn routing(desk: &Desk, global: &Global) -> Vec<Check> {
    let nodes: Vec<&str> = desk.config.nodes().collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    let what = |node: &str| format!("routing of {node}");
    let session = match Session::open(global, desk.out) {
        Ok(session) => session,
        Err(e) => {
            return nodes
                .iter()
                .map(|n| Check::new(what(n), Said::Unknown, e.to_string()))
                .collect();
        }
    };
    let (session, cluster) = (&session, &desk.cluster);
    let asked = nodes.iter().map(|node| async move {
        let agent = match session.agent(node).await {
            Ok(agent) => agent,
            Err(e) => return vec![Check::new(what(node), Said::Unknown, e.to_string())],
        };
        let (seen, lie) = tokio::join!(agent.diagnose(), alive::lie(cluster, &agent));
        let routing = match seen {
            Ok(d) => {
                let well = words::is_fine(d.verdict) && !d.guarded;
                let guard = if d.guarded { ", thanks to our guard" } else { "" };
                let detail = format!("{}{guard} {}", d.verdict.word(), d.summary);
                Check::new(what(node), if well { Said::Good } else { Said::Bad }, detail)
            }
            Err(e) => Check::new(what(node), Said::Unknown, chain(&e)),
        };
        let (said, detail) = match lie {
            Ok(None) => (Said::Good, "so it is there, by its agent".to_owned()),
            Ok(Some(lie)) => (Said::Bad, lie),
            Err(why) => (Said::Unknown, why),
        };
        vec![routing, Check::new(format!("what is said of {node}"), said, detail)]
    });
    join_all(asked).await.concat()
}
