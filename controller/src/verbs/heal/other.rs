//! `ctl heal` where neither the agent's own address nor SSH leads to it: the recovery's means, for this node alone, in their order.
//!
//! It is the recovery's own conduct and journal: what was begun is gone on with by the same command, looks again, and never repeats.

use super::Args;
use crate::ask;
use crate::cli::Global;
use crate::cluster::Cluster;
use crate::cluster::namespace::Permit;
use crate::cluster::pin::Pin;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::heal_view::{self, OtherJson, Told};
use crate::interrupt::interruptible;
use crate::out::{Out, Tone};
use crate::runbook::book::{self, Book, wall_ms};
use crate::runbook::conduct::{Conduct, NodeEnd};
use crate::runbook::consent::{Consent, console};
use crate::runbook::hold::Hold;
use crate::runbook::leg::Halt;
use crate::runbook::look;
use crate::runbook::missed::Missed;
use crate::runbook::opened::Opened;
use crate::runbook::real::Real;
use crate::runbook::record::{Papers, runs};
use crate::runbook::run::Shelf;
use crate::runbook::side::Side;
use crate::runbook::{start, view};
use crate::session::Session;
use crate::verbs::vps::desk::Desk;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Everybody who could help.
struct Help {
    cluster: Option<Cluster>,
    pin: Result<Pin, String>,
    provider: Result<Desk, String>,
    gaps: Vec<String>,
}

impl Help {
    async fn find(session: &Session, global: &Global) -> Result<Self, CommandError> {
        let (cluster, provider, gaps) = start::open(session, global).await;
        let name = session.config.as_ref().map_or("", |c| c.cluster.as_str());
        let pin = start::pinned(cluster.as_ref(), name).await?;
        Ok(Self { cluster, pin, provider, gaps })
    }

    /// Each means in its order: what it is, why it is tried where it stands, and what is in its way.
    fn means(
        &self,
        session: &Session,
        node: &str,
    ) -> [(String, &'static str, Result<(), String>); 4] {
        let config = session.config.as_ref();
        let ssh = config.and_then(|c| c.ssh(node)).map(str::to_owned);
        let no_ssh = format!("no [nodes.{node}] ssh is configured");
        let ssh = ssh.map(drop).ok_or(no_ssh);
        let provider = match &self.provider {
            Ok(desk) => desk.config.vps(node).map(drop).map_err(|e| e.to_string()),
            Err(why) => Err(why.clone()),
        };
        [
            (
                format!("start {node}'s agent over SSH"),
                "it knows what to mend; nothing is lost by it",
                ssh.clone(),
            ),
            (
                format!("lend {node} an agent over SSH"),
                "where its own is missing or does not come up; taken away afterwards",
                ssh,
            ),
            (
                format!("restart {node}'s machine through its provider"),
                "every pod on it ends: only when nothing reaches an agent; its name is typed",
                provider,
            ),
            (
                format!("leave {node} cordoned, drain it, delete it"),
                "the last resort, each asked by itself, the deletion typed",
                self.pin.as_ref().map(drop).map_err(Clone::clone),
            ),
        ]
    }
}

/// A heal of this node that was cut off. What cannot be read hinders no heal: it is said when a recovery wants it.
pub fn unfinished(args: &Args, session: &Session) -> Option<Opened> {
    let cluster = &session.config.as_ref()?.cluster;
    let open = book::unfinished(cluster).ok().flatten()?;
    (open.heal_of() == Some(&args.node)).then_some(open)
}

/// Goes on with one that was cut off.
pub async fn again(args: &Args, session: &Session, global: &Global, open: &Opened) -> Outcome {
    let out = session.out;
    out.say(format!("Going on with the heal {} of {}: looking again.", open.id, args.node));
    let Some(help) = interruptible(Help::find(session, global)).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let help = help?;
    if let (Some(began), Ok(here)) = (&open.uid, &help.pin)
        && *began != here.uid
    {
        let what = format!(
            "go on with heal {}: it was begun on cluster {began}, and this one is {}",
            open.id, here.uid
        );
        return Err(CommandError::usage(what)
            .hinted("nothing was done; name that cluster's configuration with --config"));
    }
    let (book, opened) = Book::again(&open.cluster, Some(&open.id))?;
    let cluster = help.cluster.clone();
    let hold = Hold::new(cluster.as_ref(), &help.pin, &opened, out);
    // Whatever was in the way then, it is looked at again.
    let work = conduct(args, session, help, (&book, &hold), &opened, Missed::default());
    hold.around(work).await?.unwrap_or_else(|| {
        out.say("Nothing was done.");
        Ok(Exit::Unhealthy)
    })
}

/// Shows what there is, asks, and does it.
pub async fn begin(args: &Args, session: &Session, global: &Global, why: CommandError) -> Outcome {
    let (out, node) = (session.out, args.node.as_str());
    let Some(config) = &session.config else { return Err(why) };
    let Some(help) = interruptible(Help::find(session, global)).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let help = help?;
    let means = help.means(session, node);
    if means.iter().all(|(.., way)| way.is_err()) {
        let none = means.iter().map(|(what, _, way)| {
            format!("not to be had: {what}: {}", way.as_ref().err().map_or("", String::as_str))
        });
        return Err(none.fold(why, CommandError::hinted).hinted(console(node)));
    }
    if !args.yes && !out.interactive {
        let can = means
            .iter()
            .filter(|(.., way)| way.is_ok())
            .map(|(what, ..)| format!("can be tried, with --yes: {what}"));
        return Err(can.fold(why, CommandError::hinted));
    }
    out.error(&why);
    out.say(format!("What can be tried for {node}, in this order, each after a fresh look:"));
    for (n, (what, reason, way)) in (1..).zip(&means) {
        match way {
            Ok(()) => out.say(format!("  {n}  {what}: {reason}")),
            Err(lacks) => out.say(format!("  {n}  not to be had: {what}: {lacks}")),
        }
        if n == 3 {
            out.say("     and what to type at its own console");
        }
    }
    let asked = interruptible(ask::confirm(out, args.yes, &format!("Try this for {node}?"))).await;
    if asked.transpose()? != Some(true) {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    }
    let looking = look::unreached(help.cluster.as_ref(), node, why.to_string());
    let Some((was, more)) = interruptible(looking).await else {
        out.say("Nothing was done.");
        return Ok(Exit::Unhealthy);
    };
    let report =
        args.report.as_ref().map(std::path::absolute).transpose().map_err(CommandError::failed)?;
    let mut opened = Opened {
        id: start::id()?,
        cluster: config.cluster.clone(),
        context: config.context.clone(),
        uid: help.pin.as_ref().ok().map(|p| p.uid.clone()),
        by: session.who(),
        wall_ms: wall_ms(),
        namespace: None,
        nodes: vec![was],
        report: report.map(|p| p.display().to_string()),
        gaps: help.gaps.iter().cloned().chain(more).collect(),
        before: BTreeMap::new(),
        suspects: Vec::new(),
        heal: true,
    };
    opened.before = start::before(help.cluster.as_ref(), &opened).await;
    // Who could not be reached a moment ago is not tried again at once.
    let missed = Missed::default();
    let ago = Duration::from_millis(wall_ms().saturating_sub(opened.wall_ms));
    let unreached = opened.nodes.iter().filter_map(|n| Some((&n.name, n.unreached.as_ref()?)));
    unreached.for_each(|(node, why)| missed.note(node, why, ago));
    let cluster = help.cluster.clone();
    let hold = Hold::new(cluster.as_ref(), &help.pin, &opened, out);
    let work = async {
        let book = Book::begin(&opened)?;
        conduct(args, session, help, (&book, &hold), &opened, missed).await
    };
    hold.around(work).await?.unwrap_or_else(|| {
        out.say("Nothing was done.");
        Ok(Exit::Unhealthy)
    })
}

async fn conduct(
    args: &Args,
    session: &Session,
    help: Help,
    (book, hold): (&Book, &Hold<'_>),
    opened: &Opened,
    missed: Missed,
) -> Outcome {
    let (out, begun, name) = (session.out, Instant::now(), opened.cluster.as_str());
    let cluster = help.cluster.as_ref();
    let side = match (cluster, help.pin) {
        (Some(cluster), Ok(pin)) => {
            let permit = Permit { strip: false, finalize: false };
            Ok(Side {
                cluster,
                pin,
                name,
                out,
                owner_suspended: false,
                permit,
                unproven: std::sync::Mutex::default(),
            })
        }
        (_, Err(why)) => Err(why),
        (None, Ok(_)) => Err("no API server is configured".to_owned()),
    };
    let consent = Consent {
        yes: args.yes,
        confirmed: args.confirm.clone(),
        wiped: Vec::new(),
        stability: args.stability,
        limit: args.limit,
        heal: true,
        from: args.rung,
        up_to: args.up_to.or(args.rung),
    };
    let tracker = Err("a heal is told to no issue".to_owned());
    let real = Real {
        session,
        cluster,
        side,
        provider: help.provider,
        hold,
        book,
        opened,
        consent,
        before: opened.before.clone(),
        papers: Papers { book, opened, record: None, tracker },
        asking: Mutex::new(()),
        checked: Mutex::new(None),
        missed,
        renewals: Mutex::default(),
    };
    let goes_on = format!("go on with it: ctl heal {}", args.node);
    let conduct = Conduct::new(&real, book, opened);
    let under_way = |error: CommandError| {
        let lines = view::under_way(&runs(book).unwrap_or_default());
        lines.into_iter().fold(error, CommandError::hinted)
    };
    match interruptible(hold.during(conduct.one())).await {
        Some(Ok(Ok(nodes))) => {
            let Some((_, end)) = nodes.into_iter().next() else { return Ok(Exit::Failed) };
            tell(args, &end, book, opened, (out, begun))
        }
        Some(Ok(Err(Halt::Book(error)))) => Err(CommandError::from(error).hinted(goes_on)),
        Some(Ok(Err(Halt::Command(error)))) => Err(error.hinted(goes_on)),
        Some(Err(taken)) => {
            Err(under_way(taken.into()).hinted(format!("when that run has ended, {goes_on}")))
        }
        None => {
            let what = format!("stopped: the heal of {} has not ended", args.node);
            Err(under_way(CommandError::new(Kind::TimedOut, what)).hinted(goes_on))
        }
    }
}

fn tell(
    args: &Args,
    end: &NodeEnd,
    book: &Book,
    opened: &Opened,
    (out, begun): (Out, Instant),
) -> Outcome {
    let (exit, word) = match end {
        NodeEnd::WasWell | NodeEnd::Healed(_) => (Exit::Done, "recovered"),
        NodeEnd::Dead(_) | NodeEnd::Spared(_) | NodeEnd::Wiped => (Exit::Unhealthy, "unwell"),
        NodeEnd::Held(_) => (Exit::TimedOut, "held"),
        NodeEnd::Stuck(_) => (Exit::Stuck, "stuck"),
    };
    // What has not ended is gone on with; so is what took a node out of its cluster, until that is given back to it.
    let taken = !end.is_well() && book.runs()?.iter().any(|run| run.starts_with("06-"));
    if exit != Exit::TimedOut && !taken {
        book.end(word)?;
    }
    let tried = match end {
        NodeEnd::Dead(tried) | NodeEnd::Spared(tried) => tried.clone(),
        NodeEnd::WasWell
        | NodeEnd::Healed(_)
        | NodeEnd::Wiped
        | NodeEnd::Held(_)
        | NodeEnd::Stuck(_) => Vec::new(),
    };
    let said = view::node(end);
    let tone = if exit == Exit::Done { Tone::Good } else { Tone::Bad };
    out.print(format!("{}: {}", args.node, out.result.tone(tone, &said)));
    let other = OtherJson { journal: opened.id.clone(), said, tried };
    out.json(&heal_view::json(&Told {
        node: &args.node,
        via: "",
        exit,
        verdict: None,
        guarded: None,
        records: &[],
        proof: None,
        report: opened.report.clone(),
        took: begun.elapsed(),
        other: Some(other),
    }))?;
    if taken {
        out.say(format!(
            "When it runs again, this gives back what was changed of it: ctl heal {}",
            args.node
        ));
    } else if exit == Exit::TimedOut {
        out.say(format!("To go on with it: ctl heal {}", args.node));
    }
    Ok(exit)
}
