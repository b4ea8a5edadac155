//! `ctl cleanup namespace`: what makes pods first, then the pods, then the namespace, and proof that nothing is left.

use super::show;
use crate::ask;
use crate::cli::Global;
use crate::cluster::desk::Desk;
use crate::cluster::journal::{self, Journal};
use crate::cluster::namespace::{self, Done, Ending, Limits, Permit, Proof, Seen};
use crate::cluster::{Failure, kinds, pods, rights};
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::{Out, Tone};
use crate::words;
use serde::Serialize;
use std::time::{Duration, Instant};

const HELP: &str = "Examples:
  ctl cleanup namespace tailscale-system --plan                shows what is in it, and touches nothing
  ctl cleanup namespace tailscale-system                       has the name typed
  ctl cleanup namespace vpn --yes --confirm vpn                for scripts

Whoever puts things back (Flux, Argo CD, k3s) must be suspended first, and is named. Pods of a node that is heard get
their grace, a minute at most; those of a silent node are taken out of the API by force, and whether their processes
ended is for the node's agent to say. Taking finalizers off, and finalize, are asked for, each by itself.

Exit codes:
  0  gone, and nothing came back
  1  failed
  2  usage, a namespace that must not be touched, or nobody to ask
  3  not agreed to, or something came back
  4  stuck: only finalizers hold what is left, or the namespace is empty and does not go
  5  pending on an API service, or a time limit passed: run it again to go on";

/// Arguments of `ctl cleanup namespace`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The namespace
    namespace: String,
    /// Show what is in it and what would be done; touch nothing
    #[arg(long)]
    plan: bool,
    /// Agree to the questions beforehand; the name still has to be given
    #[arg(long)]
    yes: bool,
    /// The namespace's name once more, for scripts
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Whoever puts things back has been suspended
    #[arg(long)]
    owner_suspended: bool,
    /// Take finalizers off what nobody lets go
    #[arg(long)]
    strip_finalizers: bool,
    /// Let an empty namespace go that its controller does not; needs the break-glass role
    #[arg(long)]
    finalize: bool,
    /// How long it may take
    #[arg(long, default_value = "3m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
    /// How long nothing may come back
    #[arg(long, default_value = "30s", value_parser = words::span, value_name = "SPAN")]
    quiet: Duration,
}

/// `-o json`.
#[derive(Serialize)]
struct CleanupJson<'a> {
    namespace: &'a str,
    /// As it was.
    before: &'a Seen,
    /// What was done; `null` when only the plan was asked for.
    done: Option<&'a Done>,
    proof: Option<&'a Proof>,
    seconds: f64,
}

/// Runs `ctl cleanup namespace`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let begun = Instant::now();
    namespace::unprotected(&args.namespace)?;
    let prepared = async {
        let desk = Desk::open(global, out).await?;
        rights::must(&desk.cluster, "cleanup", &kinds::look(&desk.cluster).await?).await?;
        let (seen, cut_off) = look(&desk, &args.namespace).await?;
        Ok::<_, CommandError>((desk, seen, cut_off))
    };
    let Some(prepared) = interruptible(prepared).await else { return Ok(nothing(out)) };
    let (desk, seen, cut_off) = prepared?;
    show::lines(&seen).iter().for_each(|l| out.say(l));
    if args.plan {
        plan(&seen, out)?;
        return Ok(Exit::Done);
    }
    if cut_off {
        out.say(format!("{} is gone already, and that is not proven: going on.", seen.name));
    } else if !agreed(args, &seen, out).await? {
        return Ok(nothing(out));
    }
    let name = &args.namespace;
    let mut journal = desk.journal(&format!("namespace-{name}"), format!("clean up {name}"))?;
    let working = work(args, &desk, &seen, &mut journal);
    let Some(worked) = interruptible(working).await else {
        let error = CommandError::new(
            Kind::TimedOut,
            format!("clean up namespace {name}: interrupted; what was deleted stays deleted"),
        );
        let lines = journal.last();
        return Err(lines
            .into_iter()
            .fold(error, CommandError::hinted)
            .hinted(format!("run it again to go on: ctl cleanup namespace {name}")));
    };
    let (done, proof) = worked?;
    out.json(&CleanupJson {
        namespace: name,
        before: &seen,
        done: Some(&done),
        proof: proof.as_ref(),
        seconds: begun.elapsed().as_secs_f64(),
    })?;
    tell(name, &done, proof.as_ref(), &mut journal, out)
}

/// The namespace; or, where it is gone because of a clean-up that was cut off, that.
async fn look(desk: &Desk, name: &str) -> Result<(Seen, bool), CommandError> {
    let why = match namespace::look(&desk.cluster, name).await {
        Ok(seen) => return Ok((seen, false)),
        Err(Failure::Refused(why)) => why,
        Err(error) => return Err(error.into()),
    };
    let open = journal::unfinished(&desk.config.cluster, &format!("namespace-{name}"))?;
    match namespace::cut_off(name, &open) {
        Some(seen) => Ok((seen, true)),
        None => Err(why.into()),
    }
}

fn plan(seen: &Seen, out: Out) -> Result<(), CommandError> {
    let makers = crate::cluster::quiet::tops(&seen.inventory.objects);
    for maker in &makers {
        out.print(format!("stop and delete {}", maker.words()));
    }
    out.print(format!("end {}", words::count(seen.pods.len(), "pod")));
    out.print(format!("delete namespace {}, and prove that nothing is left", seen.name));
    for owner in seen.owners.iter().filter(|o| o.is_told_first()) {
        out.print(format!("before that, tell {}: {}", owner.words(), owner.suspend()));
    }
    out.json(&CleanupJson {
        namespace: &seen.name,
        before: seen,
        done: None,
        proof: None,
        seconds: 0.0,
    })
}

/// Has whoever puts things back suspended, and the name typed.
async fn agreed(args: &Args, seen: &Seen, out: Out) -> Result<bool, CommandError> {
    let returning: Vec<_> = seen.owners.iter().filter(|o| o.is_told_first()).collect();
    for owner in &seen.owners {
        out.say(format!("{} {}: {}", owner.words(), owner.does(), owner.suspend()));
    }
    if !returning.is_empty() && !args.owner_suspended {
        if !out.interactive {
            let owners: Vec<String> = returning.iter().map(|o| o.words()).collect();
            let why = format!(
                "clean up namespace {}: {} {}",
                seen.name,
                owners.join(", "),
                returning[0].does()
            );
            let hint =
                format!("nothing was done; {}; then add --owner-suspended", returning[0].suspend());
            return Err(CommandError::usage(why).hinted(hint));
        }
        if !ask::confirm(out, false, "Has it been told?").await? {
            return Ok(false);
        }
    }
    if args.confirm.is_some() && !args.yes && !out.interactive {
        return Err(CommandError::usage(format!(
            "clean up namespace {}: --confirm was given, and --yes was not",
            seen.name
        ))
        .hinted("nothing was done"));
    }
    out.say("All of it is lost. This cannot be undone.");
    ask::typed(out, args.confirm.as_deref(), &seen.name).await
}

async fn work(
    args: &Args,
    desk: &Desk,
    seen: &Seen,
    journal: &mut Journal,
) -> Result<(Done, Option<Proof>), CommandError> {
    let out = desk.out;
    let mut say = desk.say();
    let limits = Limits { all: args.limit, quiet: args.quiet, ..Limits::default() };
    let mut permit = Permit { strip: args.strip_finalizers, finalize: args.finalize };
    let mut unproven = namespace::begin(&desk.cluster, seen, journal, &mut say).await?;
    let mut stripped = Vec::new();
    loop {
        let done = namespace::finish(&desk.cluster, seen, permit, &limits, journal, &mut say).await;
        let mut done = done?;
        pods::add(&mut unproven, std::mem::take(&mut done.unproven));
        stripped.append(&mut done.stripped);
        let asked = match done.ending {
            Ending::Finalizers if !permit.strip && out.interactive => {
                done.left.iter().for_each(|o| {
                    out.say(format!("{} is held by {}", o.words(), o.finalizers.join(", ")));
                });
                out.say("Whoever put a finalizer there wanted to clean something up first, and will not.");
                permit.strip = ask::confirm(out, false, "Take these finalizers off?").await?;
                permit.strip
            }
            Ending::Empty if !permit.finalize && out.interactive => {
                out.say("Nothing is in it, every kind was listed, and it does not go. What finalize overlooks stays in etcd.");
                permit.finalize = ask::named(out, false, "Finalize it?", "finalize").await?;
                permit.finalize
            }
            _ => false,
        };
        if asked {
            continue;
        }
        (done.unproven, done.stripped) = (unproven, stripped);
        let proof = match done.ending {
            Ending::Gone => {
                Some(namespace::prove(&desk.cluster, &seen.name, &limits, &mut say).await?)
            }
            _ => None,
        };
        return Ok((done, proof));
    }
}

fn tell(
    name: &str,
    done: &Done,
    proof: Option<&Proof>,
    journal: &mut Journal,
    out: Out,
) -> Outcome {
    for pod in &done.unproven {
        let node = pod.node.as_deref().unwrap_or("?");
        out.say(format!("unproven: whether the processes of {} on {node} ended", pod.words()));
    }
    let left = done.left.iter().map(|o| format!("{} ({})", o.words(), o.finalizers.join(", ")));
    let left = left.collect::<Vec<_>>().join(", ");
    let stuck = |kind, what: String, hint: String| {
        Err(CommandError::new(kind, format!("clean up namespace {name}: {what}")).hinted(hint))
    };
    match (done.ending, proof) {
        (Ending::Gone, Some(proof)) if proof.proven => {
            journal.close("gone")?;
            let word = out.result.tone(Tone::Good, "gone, and nothing came back");
            out.print(format!("{name}: {word}"));
            for what in &proof.unknown {
                out.say(format!("not proven: {} could not be listed ({})", what.what, what.why));
            }
            Ok(Exit::Done)
        }
        (Ending::Gone, proof) => {
            journal.close("came back")?;
            let came: Vec<String> =
                proof.iter().flat_map(|p| &p.returned).map(|o| o.words()).collect();
            let came =
                if came.is_empty() { "the namespace itself".to_owned() } else { came.join(", ") };
            out.print(format!("{name}: was gone, and came back: {came}"));
            Ok(Exit::Unhealthy)
        }
        (Ending::Finalizers, _) => stuck(
            Kind::Stuck,
            format!("only finalizers hold what is left: {left}"),
            format!(
                "let their owner finish, or take them off: ctl cleanup namespace {name} --strip-finalizers"
            ),
        ),
        (Ending::Empty, _) => stuck(
            Kind::Stuck,
            "nothing is in it, and it does not go: its controller may not run".to_owned(),
            format!(
                "look after kube-controller-manager first; the last resort is: ctl cleanup namespace {name} --finalize"
            ),
        ),
        (Ending::Service, _) => {
            let services: Vec<String> = done.services.iter().map(|s| s.words()).collect();
            let unknown: Vec<&str> = done.unknown.iter().map(|u| u.what.as_str()).collect();
            let why = if services.is_empty() { unknown.join(", ") } else { services.join("; ") };
            stuck(
                Kind::TimedOut,
                format!("pending: an API service does not answer, and so nobody knows what is in it: {why}"),
                "bring the node or the pod behind it back, and run it again; the API service itself is never deleted".to_owned(),
            )
        }
        (Ending::Late, _) => stuck(
            Kind::TimedOut,
            format!("the time is over; left: {left}"),
            format!("run it again to go on: ctl cleanup namespace {name}"),
        ),
    }
}

fn nothing(out: Out) -> Exit {
    out.say("Nothing was done.");
    Exit::Unhealthy
}
