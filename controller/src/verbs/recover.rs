//! `ctl recover`: the whole runbook, from looking to the report; every step written down, so that it can be gone on with.

mod checks;
mod hands;

use crate::ask;
use crate::cli::Global;
use crate::cluster::Cluster;
use crate::cluster::pin::Pin;
use crate::config::Config;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::Out;
use crate::runbook::book::{self, Book, wall_ms};
use crate::runbook::card;
use crate::runbook::hold::Hold;
use crate::runbook::look::{self, Looked};
use crate::runbook::opened::{Named, Opened};
use crate::runbook::record::usual;
use crate::runbook::start;
use crate::runbook::view;
use crate::session::Session;
use crate::verbs::heal;
use crate::verbs::vps::desk::Desk;
use crate::words;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "Examples:
  ctl recover --plan                              what is wrong, and what would be done; touches nothing
  ctl recover --namespace tailscale-system        shows the plan, asks, does it, proves it
  ctl recover calypso styx --yes --confirm styx   for scripts: styx may be restarted by its provider
  ctl recover --resume --machine-wiped styx       styx was made anew (ctl vps recreate styx), and k3s refuses its password
  ctl recover --resume                            goes on with what was cut off: looks again, never repeats
  ctl recover --explain                           each step of the manual runbook, and what is done instead

What cannot be undone asks again, by a name that is typed; --yes does not cover it, --confirm NAME does. Ctrl-C at any
moment leaves nothing half known: it says what is under way, and how to go on. One recovery at a time acts on a cluster: the
Lease kube-system/lifeline-recover names it, and keeps others out until a minute after it was last heard of.

Exit codes:
  0  recovered: every node well, the namespace gone, the cluster verified
  1  failed
  2  usage, nobody to ask and no --yes, or another cluster than the journal's
  3  something is not well, or not agreed to
  4  stuck: needs a human
  5  a time limit passed, Ctrl-C, or a recovery from another machine took over: ctl recover --resume";

/// Arguments of `ctl recover`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Nodes [default: those of ctl.toml, and the workers its kubeconfig knows; the plan says which is from where]
    nodes: Vec<String>,
    /// The namespace the culprit lives in; it is cleaned up
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// Show what would be done, and stop
    #[arg(long, conflicts_with_all = ["resume", "explain", "anew"])]
    plan: bool,
    /// Show each step of the manual runbook, what is done instead, and why
    #[arg(long, conflicts_with_all = ["resume", "anew", "nodes"])]
    explain: bool,
    /// Go on with a recovery that was cut off [default: the newest]
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["nodes", "namespace", "anew"])]
    resume: Option<String>,
    /// Begin anew, although one has not ended
    #[arg(long)]
    anew: bool,
    /// Agree beforehand to the plan, and to all that can be undone
    #[arg(long)]
    yes: bool,
    /// Agree beforehand to one thing that cannot be undone, by the name that would be typed
    #[arg(long, value_name = "NAME")]
    confirm: Vec<String>,
    /// This node's machine was wiped or made anew: delete the node, and the password k3s keeps of it, so that it can join
    #[arg(long, value_name = "NODE", conflicts_with = "explain")]
    machine_wiped: Vec<String>,
    /// Whoever puts back what is deleted (Flux, Argo CD, Helm's operator) has been suspended
    #[arg(long)]
    owner_suspended: bool,
    /// How long a healed node must stay well, at most 10m
    #[arg(long, default_value = "30s", value_parser = heal::stability, value_name = "SPAN")]
    stability: Duration,
    /// How long to follow one agent at most; it goes on by itself
    #[arg(long, default_value = "15m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
    /// Write the report to this file [default: as [record] says]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Runs `ctl recover`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    if args.explain {
        out.document(&card::markdown());
        return Ok(Exit::Done);
    }
    let session = Session::open(global, out)?;
    session.may_act("recover the cluster")?;
    let Some(config) = &session.config else {
        return Err(CommandError::usage("recover: there is no configuration"));
    };
    let Some(eyes) = interruptible(start::open(&session, global)).await else {
        return Ok(nothing(out));
    };
    let (cluster, provider, gaps) = eyes;
    let Some(pin) = interruptible(start::pinned(cluster.as_ref(), &config.cluster)).await else {
        return Ok(nothing(out));
    };
    let reached =
        Reached { session: &session, config, cluster: cluster.as_ref(), pin: pin?, provider };
    match args.resume.as_deref() {
        Some(id) => reached.resume(args, Some(id).filter(|id| !id.is_empty())).await,
        None => reached.begin(args, gaps).await,
    }
}

fn nothing(out: Out) -> Exit {
    out.say("Nothing was done.");
    Exit::Unhealthy
}

/// What a recovery looks with, once it is known which of it can be reached.
struct Reached<'a> {
    session: &'a Session,
    config: &'a Config,
    cluster: Option<&'a Cluster>,
    pin: Result<Pin, String>,
    provider: Result<Desk, String>,
}

impl Reached<'_> {
    /// Goes on with one that was cut off.
    async fn resume(self, args: &Args, named: Option<&str>) -> Outcome {
        let (config, out) = (self.config, self.session.out);
        // A wish is never passed over in silence: with one, that there is nothing to go on with is an error.
        if named.is_none()
            && args.machine_wiped.is_empty()
            && book::unfinished(&config.cluster)?.is_none()
            && let Some((opened, ended)) = book::newest_ended(&config.cluster)?
        {
            // Whoever was cut off after its last act finds that out here.
            out.say(format!(
                "Recovery {}, begun {}, has ended: {}, {}. There is nothing to go on with; to prove the cluster: ctl verify",
                opened.id,
                words::local_date(opened.wall_ms),
                ended.ending,
                words::local_date(ended.wall_ms)
            ));
            out.json(&serde_json::json!({ "recovery": opened.id, "ending": ended.ending }))?;
            return Ok(Exit::Done);
        }
        let (book, opened) = Book::again(&config.cluster, named)?;
        checks::same_cluster(&opened, config.context.as_deref(), self.pin.as_ref().ok())?;
        out.say(format!(
            "Going on with recovery {}, begun {}.",
            opened.id,
            words::local_date(opened.wall_ms)
        ));
        checks::wiped_are_looked_after(&args.machine_wiped, &opened)?;
        let hold = Hold::new(self.cluster, &self.pin, &opened, out);
        let work = hands::conduct(args, self, (&book, &hold), &opened);
        let outcome = hold.around(work).await?;
        outcome.unwrap_or_else(|| Err(hands::interrupted(&book, &opened)))
    }

    /// A new one: looks, shows what would be done, asks, and does it.
    async fn begin(self, args: &Args, mut gaps: Vec<String>) -> Outcome {
        let (config, out) = (self.config, self.session.out);
        if !args.plan && !args.anew {
            checks::none_is_open(&config.cluster)?;
        }
        let pinned = self.cluster.filter(|_| self.pin.is_ok());
        if let Some(namespace) = &args.namespace {
            let looking = checks::checked_namespace(args, namespace, pinned);
            match interruptible(looking).await {
                Some(gap) => gaps.extend(gap?),
                None => return Ok(Exit::Unhealthy),
            }
        }
        let looking = async {
            tokio::join!(
                look::look(self.session, self.cluster, &args.nodes),
                start::suspects(self.cluster),
                checks::may(pinned, !args.machine_wiped.is_empty())
            )
        };
        let Some((looked, suspects, may)) = interruptible(looking).await else {
            return Ok(nothing(out));
        };
        let mut opened = self.opened(args, looked?, suspects, gaps)?;
        checks::wiped_are_looked_after(&args.machine_wiped, &opened)?;
        self.show(args, &opened, may.as_deref());
        if args.plan {
            out.json(&view::json(&opened, config.record()))?;
            return Ok(if opened.is_well() { Exit::Done } else { Exit::Unhealthy });
        }
        if opened.is_well() && opened.namespace.is_none() {
            out.say(
                "Every node is well; nothing is to be recovered. To prove the cluster: ctl verify",
            );
            return Ok(Exit::Done);
        }
        let asked =
            interruptible(ask::confirm(out, args.yes, "Recover the cluster like this?")).await;
        if asked.transpose()? != Some(true) {
            return Ok(nothing(out));
        }
        match interruptible(start::before(self.cluster, &opened)).await {
            Some(before) => opened.before = before,
            None => return Ok(nothing(out)),
        }
        let hold = Hold::new(self.cluster, &self.pin, &opened, out);
        let work = async {
            let book = Book::begin(&opened)?;
            hands::conduct(args, self, (&book, &hold), &opened).await
        };
        hold.around(work).await?.unwrap_or_else(|| Ok(nothing(out)))
    }

    /// What is written down of it before anything is done.
    fn opened(
        &self,
        args: &Args,
        looked: Looked,
        suspects: Result<Vec<Named>, String>,
        mut gaps: Vec<String>,
    ) -> Result<Opened, CommandError> {
        let config = self.config;
        gaps.extend(looked.gaps);
        let suspects = suspects.unwrap_or_else(|why| {
            gaps.push(why);
            Vec::new()
        });
        if let Err(why) = &self.provider {
            gaps.push(format!("the provider: {why}"));
        }
        let id = start::id()?;
        let report = match &args.report {
            Some(path) => Some(std::path::absolute(path).map_err(CommandError::failed)?),
            None => usual(config.record(), &config.cluster, &id),
        };
        Ok(Opened {
            id,
            cluster: config.cluster.clone(),
            context: config.context.clone(),
            uid: self.pin.as_ref().ok().map(|p| p.uid.clone()),
            by: self.session.who(),
            wall_ms: wall_ms(),
            namespace: args.namespace.clone(),
            nodes: looked.nodes,
            report: report.map(|p| p.display().to_string()),
            gaps,
            before: BTreeMap::new(),
            suspects,
            heal: false,
        })
    }

    fn show(&self, args: &Args, opened: &Opened, may: Option<&str>) {
        let out = self.session.out;
        let refused = |node: &str| match &self.provider {
            Ok(desk) => desk.config.vps(node).err().map(|e| e.to_string()),
            Err(why) => Some(why.clone()),
        };
        out.print(view::plan(opened, self.config.record(), &refused));
        for node in &args.machine_wiped {
            out.print(format!("{node}: its machine was wiped: no restart; deleted from the cluster with the password k3s keeps of it; it joins anew"));
        }
        may.iter().for_each(|line| out.print(line));
    }
}
