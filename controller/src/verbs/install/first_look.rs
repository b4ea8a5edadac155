//! After an install: the new agent has looked, its node is well, and it knows from now on what that looks like.

use super::Args;
use crate::cli::Global;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::out::Out;
use crate::session::Session;
use crate::words;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What the agent said once it had looked.
pub(super) struct Seen {
    pub(super) verdict: &'static str,
    pub(super) summary: String,
    pub(super) baseline: String,
    pub(super) exit: Exit,
}

impl Seen {
    pub(super) fn told(&self) -> String {
        format!("{}: {} (baseline {})", self.verdict, self.summary, self.baseline)
    }
}

/// Waits until the agent of that version has seen its node well and knows what it looks like.
pub(super) async fn first_look(
    args: &Args,
    global: &Global,
    out: Out,
    version: &str,
) -> Result<Seen, CommandError> {
    let session = Session::open(global, out)?;
    let until = Instant::now() + args.limit;
    let mut last: Option<Seen> = None;
    loop {
        let answer = session.agent(&args.node).await;
        let late = Instant::now() > until;
        match answer {
            Ok(agent) if agent.status.version == version => {
                let s = &agent.status;
                let verdict = crate::agent::verdict(s.verdict);
                let learnt = !s.baseline.starts_with("none");
                let well = words::is_fine(verdict) && learnt;
                let exit = match (well, words::is_fine(verdict)) {
                    (true, _) => Exit::Done,
                    (false, true) => Exit::TimedOut,
                    (false, false) => Exit::Unhealthy,
                };
                let seen = Seen {
                    verdict: verdict.word(),
                    summary: s.summary.clone(),
                    baseline: s.baseline.clone(),
                    exit,
                };
                if last.as_ref().is_none_or(|l| l.told() != seen.told()) {
                    out.say(format!("{} says {}", args.node, seen.told()));
                }
                if well || late {
                    return Ok(seen);
                }
                last = Some(seen);
            }
            Ok(agent) if late => {
                return Err(CommandError::failed(format!(
                    "wait for {version} on {}: {} answers",
                    args.node, agent.status.version
                )));
            }
            Err(why) if late => return Err(why),
            Ok(_) | Err(_) => {}
        }
        sleep(Duration::from_millis(500)).await;
    }
}
