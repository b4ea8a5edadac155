//! `ctl vps rescue`: the provider's rescue system, with the machine's own disk at `/mnt`; and back.

use super::desk::Desk;
use super::work::Work;
use crate::ask;
use crate::cli::Global;
use crate::error::{CommandError, Kind, Outcome};
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::Out;
use crate::provider::call::Call;
use crate::provider::diary::Wish;
use crate::provider::shape::{Action, Machine};
use crate::secret::{self, Reference, Secret};
use crate::words;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const HELP: &str = "Examples:
  ctl vps rescue styx --root-password op://Infrastructure/styx/rescue
  ctl vps rescue styx --end                boots the machine's own disk again

The machine boots the provider's rescue system, its own disk is at /mnt. The password is given as a reference, never
itself: 12 characters at least, with upper and lower case and a digit.

Exit codes: 0 done, 1 failed or refused, 2 usage, 3 not agreed to, 4 stuck, 5 a time limit passed: run it again to go on";

/// Arguments of `ctl vps rescue`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
    /// Where the rescue system's root password is: op://…, env:NAME or file:PATH
    #[arg(long, value_name = "REFERENCE", required_unless_present = "end")]
    root_password: Option<String>,
    /// End the rescue: boot the machine's own disk
    #[arg(long, conflicts_with = "root_password")]
    end: bool,
    /// Agree beforehand
    #[arg(long)]
    yes: bool,
    /// How long the provider may take
    #[arg(long, default_value = "10m", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
}

/// `-o json`.
#[derive(Serialize)]
struct RescueJson<'a> {
    node: &'a str,
    machine: &'a Machine,
    action: &'a Action,
    /// The machine's state afterwards.
    state: &'a str,
}

/// Runs `ctl vps rescue`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let password = match &args.root_password {
        Some(reference) => Some(password(reference).await?),
        None => None,
    };
    let (wish, wanted) =
        if args.end { (Wish::RescueEnd, "running") } else { (Wish::Rescue, "recovery") };
    let desk = Desk::open(global, out).await?.with_eyes(global).await?;
    let node = args.node.as_str();
    let mut work = Work::prepare(&desk, node, wish).await?;
    let machine = work.found.machine.clone();
    out.say(format!("{node} is machine {}.", machine.words()));
    if work.pending.is_none() {
        if machine.state() == wanted && !args.end {
            out.say("It is in its rescue system already. Nothing was done.");
            return Ok(Exit::Done);
        }
        if args.end && machine.state() != "recovery" {
            return Err(CommandError::failed(format!(
                "end the rescue of {node}: its machine is {}, not in its rescue system",
                machine.state()
            ))
            .hinted("nothing was done"));
        }
        let question = if args.end {
            format!("End the rescue of {node}, and boot its own disk?")
        } else {
            out.say("It is stopped, and boots the rescue system: every pod on it ends.");
            format!("Boot {node}'s machine into its rescue system?")
        };
        if interruptible(ask::confirm(out, args.yes, &question)).await.transpose()? != Some(true) {
            out.say("Nothing was done.");
            return Ok(Exit::Unhealthy);
        }
    }
    let id = work.found.id;
    let call = match password {
        Some(password) => Call::Rescue(id, password),
        None => Call::RescueEnd(id),
    };
    let action = work.carry_out(&call, args.limit).await?;
    let Some(seen) = interruptible(settled(&desk, id, wanted)).await else {
        return Err(work.interrupted());
    };
    let now = seen?;
    if now.state() != wanted {
        return Err(CommandError::new(
            Kind::TimedOut,
            format!(
                "{} {node}: the provider says it is done, and its machine is {}",
                wish.verb(),
                now.state()
            ),
        )
        .hinted(format!("look again: ctl vps show {node}")));
    }
    work.close("done")?;
    let how = match (args.end, now.addresses().first()) {
        (false, Some(ip)) => format!(
            "\n  ssh root@{ip}     its own disk is at /mnt; its host key is another one\n  ctl vps rescue {node} --end"
        ),
        _ => String::new(),
    };
    out.print(format!("{node}: its machine is {}{how}", now.state()));
    out.json(&RescueJson { node, machine: &now, action: &action, state: now.state() })?;
    Ok(Exit::Done)
}

/// The password behind a reference, held against the provider's published rules before it is sent.
pub async fn password(reference: &str) -> Result<Secret, CommandError> {
    let place = Reference::parse(reference, Path::new(".")).map_err(|e| {
        let hint = e.hint();
        let out = CommandError::usage(format!("read the password's place: {e}"));
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    })?;
    let secret = secret::resolve(&place).await?;
    let text = secret.expose();
    let has = |f: fn(&char) -> bool| text.chars().any(|c| f(&c));
    let good = text.chars().count() >= 12
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_digit);
    match good {
        true => Ok(secret),
        false => Err(CommandError::usage(format!(
            "use the password of {place}: the provider wants 12 characters, with upper and lower case and a digit"
        ))),
    }
}

/// Waits until the machine is in a state, for a minute after its action ended.
async fn settled(desk: &Desk, id: u64, wanted: &str) -> Result<Machine, CommandError> {
    let begun = Instant::now();
    loop {
        let machine = desk.api.machine(id).await?;
        if machine.state() == wanted || begun.elapsed() > Duration::from_secs(60) {
            return Ok(machine);
        }
        sleep(Duration::from_secs(3)).await;
    }
}
