//! `ctl drill`: has the agent capture an address that nobody uses, and shows what was seen of it, and how fast.

use crate::error::Outcome;
use crate::exit::Exit;
use crate::interrupt::interruptible;
use crate::out::{Out, Paint, Tone, columns};
use crate::session::Session;
use lifeline_proto::v1 as wire;
use lifeline_proto::v1::drill_step::Outcome as Ended;
use serde::Serialize;

const HELP: &str = "Examples:
  ctl drill calypso
  ctl drill calypso -o json | jq '.steps[] | select(.outcome != \"passed\")'
  ctl drill calypso && echo proven      in a timer, say, once a week

For some seconds the agent puts a rule and a route into its node's kernel that capture one documentation address (192.0.2.0/24
and its like, 2001:db8::/32): nobody's traffic goes there. It then takes all of it away and compares rules and routes with before.

  warning      a rule comes before its route: the guard stands in time, and no answer of the kernel's is lost
  detection    rule and route at once: from the rule until the kernel's event was heard
  guard        … until unmarked traffic has its path again
  see-through  the capture was real, and could be seen through the guard
  lifeline     an API server answers TLS along the agent's own path meanwhile
  as-before    rules and routes of both families are as they were

No incident is opened, nothing is learnt and no budget is spent. It is refused on a node that is not well, and while an incident is
under way; a real captor in the middle of it ends it. In mode observe no guard is drilled.

Exit codes: 0 proven, 1 refused or the agent could not be asked, 2 usage, 3 a step failed";

/// Arguments of `ctl drill`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node
    node: String,
}

/// `-o json`.
#[derive(Serialize)]
struct DrillJson<'a> {
    node: &'a str,
    mode: &'a str,
    proven: bool,
    steps: Vec<StepJson<'a>>,
}

#[derive(Serialize)]
struct StepJson<'a> {
    step: &'a str,
    outcome: &'a str,
    seen: &'a str,
    milliseconds: Option<f64>,
    target: Option<&'a str>,
}

/// Runs `ctl drill`.
pub async fn run(args: &Args, session: &Session) -> Outcome {
    session.may_act(&format!("drill {}", args.node))?;
    let out = session.out;
    let drilled = async {
        let agent = session.agent(&args.node).await?;
        out.say(format!("{} is drilled: an address that nobody uses is captured …", agent.node));
        let reply = agent.drill().await?;
        Ok::<_, crate::error::CommandError>((agent.node.clone(), reply))
    };
    let Some(drilled) = interruptible(drilled).await else {
        out.say("Not waited for: the agent ends the drill by itself.");
        return Ok(Exit::TimedOut);
    };
    let (node, reply) = drilled?;
    show(&node, &reply, out)
}

fn show(node: &str, reply: &wire::DrillReply, out: Out) -> Outcome {
    out.print(render(node, reply, out.result));
    let steps = reply.steps.iter().map(step).collect();
    out.json(&DrillJson { node, mode: &reply.mode, proven: reply.proven, steps })?;
    Ok(if reply.proven { Exit::Done } else { Exit::Unhealthy })
}

fn step(s: &wire::DrillStep) -> StepJson<'_> {
    StepJson {
        step: &s.name,
        outcome: word(s).0,
        seen: &s.text,
        milliseconds: ms(s),
        target: Some(s.target.as_str()).filter(|t| !t.is_empty()),
    }
}

fn ms(step: &wire::DrillStep) -> Option<f64> {
    // Microseconds of a drill are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss, reason = "a drill takes seconds")]
    step.micros.map(|us| us as f64 / 1_000.0)
}

/// A newer agent's unknown outcome is no success.
fn word(step: &wire::DrillStep) -> (&'static str, Tone) {
    match step.outcome() {
        Ended::Passed => ("passed", Tone::Good),
        Ended::Skipped => ("skipped", Tone::Warn),
        Ended::Failed => ("failed", Tone::Bad),
        Ended::Unspecified => ("unknown", Tone::Bad),
    }
}

fn render(node: &str, reply: &wire::DrillReply, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = reply
        .steps
        .iter()
        .map(|s| {
            let (word, tone) = word(s);
            vec![
                s.name.clone(),
                paint.tone(tone, word),
                ms(s).map(|ms| format!("{ms:.1}")).unwrap_or_default(),
                s.target.clone(),
                s.text.clone(),
            ]
        })
        .collect();
    let table = columns(&["STEP", "OUTCOME", "MS", "TARGET", "SEEN"], &rows);
    let end = match (reply.proven, reply.mode.as_str()) {
        (true, "observe") => {
            format!("{node}: what can be drilled in mode observe is proven; no guard was")
        }
        (true, _) => format!("{node}: detection, guard and lifeline path are proven"),
        (false, _) => format!("{node}: not proven"),
    };
    format!("{table}\n\n{end}")
}
