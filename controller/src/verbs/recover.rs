//! `ctl recover`: the whole runbook, from looking to the report; every step written down, so that it can be gone on with.

use crate::ask;
use crate::cli::Global;
use crate::cluster::Cluster;
use crate::cluster::namespace::{self, Permit};
use crate::cluster::pin::Pin;
use crate::cluster::{kinds, rights};
use crate::config::Record;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::obstacle::chain;
use crate::out::Out;
use crate::paper::github::Tracker;
use crate::runbook::book::{self, Book, wall_ms};
use crate::runbook::card;
use crate::runbook::conduct::{Conduct, Told, Word};
use crate::runbook::consent::Consent;
use crate::runbook::hold::Hold;
use crate::runbook::leg::Halt;
use crate::runbook::look::{self, Looked};
use crate::runbook::missed::Missed;
use crate::runbook::opened::Opened;
use crate::runbook::real::Real;
use crate::runbook::record::{Papers, runs, usual};
use crate::runbook::side::Side;
use crate::runbook::start;
use crate::runbook::view;
use crate::secret;
use crate::session::Session;
use crate::verbs::heal;
use crate::verbs::vps::desk::Desk;
use crate::words;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;

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
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let (cluster, provider, mut gaps) = eyes;
    let Some(pin) = interruptible(start::pinned(cluster.as_ref(), &config.cluster)).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let pin = pin?;
    if args.resume.is_some() {
        let named = args.resume.as_deref().filter(|id| !id.is_empty());
        let (book, opened) = Book::again(&config.cluster, named)?;
        same_cluster(&opened, config.context.as_deref(), pin.as_ref().ok())?;
        out.say(format!(
            "Going on with recovery {}, begun {}.",
            opened.id,
            words::local_date(opened.wall_ms)
        ));
        wiped_are_looked_after(&args.machine_wiped, &opened)?;
        let hold = Hold::new(cluster.as_ref(), &pin, &opened, out);
        let with = (&book, &hold);
        let work = conduct(args, &session, (cluster.as_ref(), pin), provider, with, &opened);
        let outcome = hold.around(work).await?;
        return outcome.unwrap_or_else(|| Err(interrupted(&book, &opened)));
    }
    if !args.plan
        && !args.anew
        && let Some(open) = book::unfinished(&config.cluster)?
    {
        let again = match open.heal_of() {
            Some(node) => format!("go on with it: ctl heal {node}"),
            None => "go on with it: ctl recover --resume".to_owned(),
        };
        return Err(CommandError::usage(format!("recover: recovery {} has not ended", open.id))
            .hinted(again)
            .hinted("or leave it as it is: ctl recover --anew"));
    }
    if let Some(namespace) = &args.namespace {
        let looking = checked_namespace(args, namespace, cluster.as_ref().filter(|_| pin.is_ok()));
        match interruptible(looking).await {
            Some(gap) => gaps.extend(gap?),
            None => return Ok(Exit::Unhealthy),
        }
    }
    let looking = async {
        tokio::join!(
            look::look(&session, cluster.as_ref(), &args.nodes),
            start::suspects(cluster.as_ref()),
            may(cluster.as_ref().filter(|_| pin.is_ok()), !args.machine_wiped.is_empty())
        )
    };
    let Some((looked, suspects, may)) = interruptible(looking).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let Looked { nodes, gaps: more } = looked?;
    gaps.extend(more);
    let suspects = suspects.unwrap_or_else(|why| {
        gaps.push(why);
        Vec::new()
    });
    if let Err(why) = &provider {
        gaps.push(format!("the provider: {why}"));
    }
    let id = start::id()?;
    let report = match &args.report {
        Some(path) => Some(std::path::absolute(path).map_err(CommandError::failed)?),
        None => usual(config.record(), &config.cluster, &id),
    };
    let mut opened = Opened {
        id,
        cluster: config.cluster.clone(),
        context: config.context.clone(),
        uid: pin.as_ref().ok().map(|p| p.uid.clone()),
        by: session.who(),
        wall_ms: wall_ms(),
        namespace: args.namespace.clone(),
        nodes,
        report: report.map(|p| p.display().to_string()),
        gaps,
        before: BTreeMap::new(),
        suspects,
        heal: false,
    };
    wiped_are_looked_after(&args.machine_wiped, &opened)?;
    let refused = |node: &str| match &provider {
        Ok(desk) => desk.config.vps(node).err().map(|e| e.to_string()),
        Err(why) => Some(why.clone()),
    };
    out.print(view::plan(&opened, config.record(), &refused));
    for node in &args.machine_wiped {
        out.print(format!("{node}: its machine was wiped: no restart; deleted from the cluster with the password k3s keeps of it; it joins anew"));
    }
    may.iter().for_each(|line| out.print(line));
    if args.plan {
        out.json(&view::json(&opened, config.record()))?;
        let well = opened.nodes.iter().all(crate::runbook::opened::NodeWas::is_well);
        return Ok(if well { Exit::Done } else { Exit::Unhealthy });
    }
    if opened.nodes.iter().all(crate::runbook::opened::NodeWas::is_well)
        && opened.namespace.is_none()
    {
        out.say("Every node is well; nothing is to be recovered. To prove the cluster: ctl verify");
        return Ok(Exit::Done);
    }
    let asked = interruptible(ask::confirm(out, args.yes, "Recover the cluster like this?")).await;
    if asked.transpose()? != Some(true) {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    }
    let before = interruptible(start::before(cluster.as_ref(), &opened)).await;
    let Some(before) = before else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    opened.before = before;
    let hold = Hold::new(cluster.as_ref(), &pin, &opened, out);
    let work = async {
        let book = Book::begin(&opened)?;
        let with = (&book, &hold);
        conduct(args, &session, (cluster.as_ref(), pin), provider, with, &opened).await
    };
    hold.around(work).await?.unwrap_or_else(|| {
        out.say("Nothing was done.");
        Ok(Exit::Unhealthy)
    })
}

/// Refuses a namespace that is protected, that does not exist, or that somebody would put back; what could not be seen is said.
async fn checked_namespace(
    args: &Args,
    name: &str,
    cluster: Option<&Cluster>,
) -> Result<Option<String>, CommandError> {
    namespace::unprotected(name).map_err(crate::cluster::Failure::from)?;
    let Some(cluster) = cluster else { return Ok(None) };
    let seen = match namespace::look(cluster, name).await {
        Ok(seen) => seen,
        Err(crate::cluster::Failure::Cluster(e)) => {
            return Ok(Some(format!("namespace {name}: {}", chain(&e))));
        }
        Err(error) => return Err(error.into()),
    };
    // What could not be brought to its end is not begun.
    let kinds = kinds::look(cluster).await?;
    rights::must(cluster, "cleanup", &kinds).await?;
    match seen.owners.iter().find(|o| o.is_told_first()).filter(|_| !args.owner_suspended) {
        Some(owner) => Err(CommandError::usage(format!(
            "recover: namespace {name}: {} {}",
            owner.words(),
            owner.does()
        ))
        .hinted(format!("nothing was done; {}; then add --owner-suspended", owner.suspend()))),
        None => Ok(None),
    }
}

/// What of the last resort and of the proof is not allowed: said before anybody agrees, because it would only fail midway. What a
/// clean-up lacks refuses it.
async fn may(cluster: Option<&Cluster>, wiped: bool) -> Option<String> {
    let cluster = cluster?;
    let asked = async {
        let kinds = kinds::look(cluster).await?;
        let mut needs = rights::of("recover", &kinds);
        needs.extend(wiped.then(rights::forget).into_iter().flatten());
        rights::lacking(cluster, &needs).await
    };
    match asked.await {
        Ok(lacking) if lacking.is_empty() => None,
        Ok(lacking) => {
            let few: Vec<&str> = lacking.iter().take(5).map(String::as_str).collect();
            let more = lacking.len() - few.len();
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            let secrets = lacking.iter().any(|l| l.ends_with(" secrets"));
            let and = if secrets { ", ctl rights --break-glass" } else { "" };
            Some(format!(
                "Your user may not: {}{rest}; what needs it will fail. The role: ctl rights recover{and}",
                few.join(", ")
            ))
        }
        Err(e) => Some(format!("What your user may do could not be asked: {}", chain(&e))),
    }
}

/// A name that was mistyped must not have another node's disk taken for what it is not.
fn wiped_are_looked_after(wiped: &[String], opened: &Opened) -> Result<(), CommandError> {
    let names: Vec<&str> = opened.nodes.iter().map(|n| n.name.as_str()).collect();
    match wiped.iter().find(|w| !names.contains(&w.as_str())) {
        None => Ok(()),
        Some(node) => Err(CommandError::usage(format!(
            "recover: --machine-wiped {node}: this recovery does not look after a node of that name"
        ))
        .hinted(format!("nothing was done; it looks after {}", names.join(", ")))),
    }
}

/// The issue tracker, with its token; why not, if not, is said when it is asked for.
async fn tracker(record: Option<&Record>) -> Result<Tracker, String> {
    let github =
        record.and_then(|r| r.github.as_ref()).ok_or("no [record.github] is configured")?;
    let token = secret::resolve(&github.token).await.map_err(|e| chain(&e))?;
    Tracker::new(github, token).map_err(|e| chain(&e))
}

/// A journal tells of one cluster; what it says of another would be done to the wrong one.
fn same_cluster(
    opened: &Opened,
    context: Option<&str>,
    pin: Option<&Pin>,
) -> Result<(), CommandError> {
    if let (Some(began), Some(here)) = (&opened.uid, pin)
        && *began != here.uid
    {
        return Err(CommandError::usage(format!(
            "go on with recovery {}: it was begun on cluster {began}, and this one is {}",
            opened.id, here.uid
        ))
        .hinted("nothing was done; name that cluster's configuration with --config"));
    }
    if opened.context.as_deref() == context {
        return Ok(());
    }
    let word = |c: Option<&str>| c.unwrap_or("the current one").to_owned();
    Err(CommandError::usage(format!(
        "go on with recovery {}: it was begun with context {}, and the configuration names {}",
        opened.id,
        word(opened.context.as_deref()),
        word(context)
    ))
    .hinted("nothing was done; name that cluster's configuration with --config"))
}

async fn conduct(
    args: &Args,
    session: &Session,
    (cluster, pin): (Option<&Cluster>, Result<Pin, String>),
    provider: Result<Desk, String>,
    (book, hold): (&Book, &Hold<'_>),
    opened: &Opened,
) -> Outcome {
    let out = session.out;
    let record = session.config.as_ref().and_then(|c| c.record());
    let name = session.config.as_ref().map_or("", |c| c.cluster.as_str());
    let confirmed = |word: &str| {
        let namespace = opened.namespace.as_deref().unwrap_or_default();
        args.confirm.iter().any(|c| *c == format!("{word} {namespace}"))
    };
    let permit = Permit { strip: confirmed("strip"), finalize: confirmed("finalize") };
    let owner_suspended = args.owner_suspended;
    let side = match (cluster, pin) {
        (Some(cluster), Ok(pin)) => Ok(Side {
            cluster,
            pin,
            name,
            out,
            owner_suspended,
            permit,
            unproven: std::sync::Mutex::default(),
        }),
        (_, Err(why)) => Err(why),
        (None, Ok(_)) => Err("no API server is configured".to_owned()),
    };
    let Some(tracker) = interruptible(tracker(record)).await else {
        return Err(interrupted(book, opened));
    };
    let real = Real {
        session,
        cluster,
        side,
        provider,
        hold,
        book,
        opened,
        consent: Consent {
            yes: args.yes,
            confirmed: args.confirm.clone(),
            wiped: args.machine_wiped.clone(),
            stability: args.stability,
            limit: args.limit,
            ..Consent::default()
        },
        before: opened.before.clone(),
        papers: Papers { book, opened, record, tracker },
        asking: Mutex::new(()),
        checked: Mutex::new(None),
        missed: Missed::default(),
        renewals: Mutex::default(),
    };
    if args.resume.is_none() {
        // Who could not be reached a moment ago is not tried again at once.
        let ago = Duration::from_millis(wall_ms().saturating_sub(opened.wall_ms));
        let missed = opened.nodes.iter().filter_map(|n| Some((&n.name, n.unreached.as_ref()?)));
        missed.for_each(|(node, why)| real.missed.note(node, why, ago));
    }
    let conduct = Conduct::new(&real, book, opened);
    let goes_on = format!("go on with it: ctl recover --resume {}", opened.id);
    match interruptible(hold.during(conduct.run())).await {
        Some(Ok(Ok(told))) => tell(&told, book, opened, out),
        Some(Ok(Err(Halt::Book(error)))) => Err(CommandError::from(error).hinted(goes_on)),
        Some(Ok(Err(Halt::Command(error)))) => Err(error.hinted(goes_on)),
        Some(Err(taken)) => {
            Err(under_way(book, taken.into()).hinted(format!("when that run has ended, {goes_on}")))
        }
        None => Err(interrupted(book, opened)),
    }
}

fn under_way(book: &Book, error: CommandError) -> CommandError {
    let lines = view::under_way(&runs(book).unwrap_or_default());
    lines.into_iter().fold(error, CommandError::hinted)
}

/// What Ctrl-C leaves behind: what is under way, and how to go on.
fn interrupted(book: &Book, opened: &Opened) -> CommandError {
    let error =
        CommandError::new(Kind::TimedOut, format!("stopped: recovery {} has not ended", opened.id));
    under_way(book, error).hinted("go on with it: ctl recover --resume")
}

fn tell(told: &Told, book: &Book, opened: &Opened, out: Out) -> Outcome {
    use crate::runbook::run::Shelf;
    let word = told.word();
    if word == Word::Recovered {
        book.end(word.text())?;
    }
    out.print(view::told(told, opened, out.result));
    out.json(&view::told_json(told, opened))?;
    if word != Word::Recovered {
        out.say("To go on with it: ctl recover --resume");
    }
    Ok(match word {
        Word::Recovered => Exit::Done,
        Word::Unwell => Exit::Unhealthy,
        Word::Held => Exit::TimedOut,
        Word::Stuck => Exit::Stuck,
    })
}
