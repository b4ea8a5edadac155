//! A recovery under way: everything it acts with is brought together, and what became of it is said.

use super::{Args, Reached};
use crate::cluster::namespace::Permit;
use crate::config::Record;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::obstacle::chain;
use crate::out::Out;
use crate::paper::github::Tracker;
use crate::runbook::book::{Book, wall_ms};
use crate::runbook::conduct::{Conduct, Told, Word};
use crate::runbook::consent::Consent;
use crate::runbook::hold::Hold;
use crate::runbook::leg::Halt;
use crate::runbook::missed::Missed;
use crate::runbook::opened::Opened;
use crate::runbook::real::Real;
use crate::runbook::record::{Papers, runs};
use crate::runbook::run::Shelf;
use crate::runbook::side::Side;
use crate::runbook::view;
use crate::secret;
use std::time::Duration;
use tokio::sync::Mutex;

/// The issue tracker, with its token; why not, if not, is said when it is asked for.
async fn tracker(record: Option<&Record>) -> Result<Tracker, String> {
    let github =
        record.and_then(|r| r.github.as_ref()).ok_or("no [record.github] is configured")?;
    let token = secret::resolve(&github.token).await.map_err(|e| chain(&e))?;
    Tracker::new(github, token).map_err(|e| chain(&e))
}

/// Goes through the runbook, and tells how it ended.
pub(super) async fn conduct(
    args: &Args,
    reached: Reached<'_>,
    (book, hold): (&Book, &Hold<'_>),
    opened: &Opened,
) -> Outcome {
    let Reached { session, config, cluster, pin, provider } = reached;
    let (out, record, name) = (session.out, config.record(), config.cluster.as_str());
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
pub(super) fn interrupted(book: &Book, opened: &Opened) -> CommandError {
    let error =
        CommandError::new(Kind::TimedOut, format!("stopped: recovery {} has not ended", opened.id));
    under_way(book, error).hinted("go on with it: ctl recover --resume")
}

fn tell(told: &Told, book: &Book, opened: &Opened, out: Out) -> Outcome {
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
