//! What a drill has shown, step by step, and whether that is proof.

use crate::fib::TABLE_MIRROR;
use crate::observation::{Fate, Reach, TABLE_MAIN};
use crate::policy::Mode;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// T1's p99: a drill is one sample, and one that takes longer is none of the hundred that may pass.
const T1_MOST_US: u64 = 1_000_000;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was seen.
    Passed,
    /// It was not, or something else was.
    Failed,
    /// It was not tried.
    Skipped,
}

impl Outcome {
    /// As `ctl` writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One step, as an operator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name, which never changes: `warning`, `detection`, `guard`, `see-through`, `lifeline`, `as-before`.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// How long it took, microseconds.
    pub us: Option<u64>,
    /// What it should reach, if anything was promised.
    pub target: Option<&'static str>,
}

/// A captor that warns: its rules come, its route later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warning {
    /// From the rule until the guard stood, microseconds; `None` when it did not.
    pub stood_us: Option<u64>,
    /// How often the kernel was asked after the route had come too.
    pub asked: u32,
    /// How often it answered otherwise than before.
    pub lost: u32,
}

/// A captor that does not: rule and route at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// From the rule until its event was heard, microseconds; `None` when it was not heard.
    pub heard_us: Option<u64>,
    /// From the rule until the unmarked answer was as before, microseconds; `None` when it was not.
    pub freed_us: Option<u64>,
    /// For each address: how it went before, how it goes now, how it goes by the see-through mark.
    pub answers: Vec<(IpAddr, Fate, Fate, Fate)>,
}

/// A call to an API server along the lifeline path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub api: SocketAddr,
    /// How the kernel routes it by the lifeline mark; `None` when it did not say.
    pub fate: Option<Fate>,
    /// How far it got.
    pub reach: Reach,
    /// How long that took, microseconds.
    pub us: u64,
}

/// All that a drill has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// How much the agent does by itself.
    pub mode: Mode,
    /// Why it ended early.
    pub broken: Option<String>,
    /// With a warning; `None` when it did not come to that.
    pub warning: Option<Warning>,
    /// Without.
    pub capture: Option<Capture>,
    /// Why the guard could not be placed.
    pub no_room: Option<String>,
    /// Along the lifeline path.
    pub calls: Option<Vec<Call>>,
    /// How rules and routes differ from before; or why that could not be read.
    pub changed: Option<Result<Vec<String>, String>>,
    /// What of the drill's own is left; empty when all is gone.
    pub left: Vec<String>,
    /// From the end of the drill until all was gone, microseconds.
    pub cleared_us: Option<u64>,
}

/// Is everything proven that could be drilled?
pub fn is_proven(steps: &[Step]) -> bool {
    steps.iter().all(|s| s.outcome != Outcome::Failed)
        && steps.iter().any(|s| s.outcome == Outcome::Passed)
}

/// The steps of a drill.
pub fn steps(t: &Trial) -> Vec<Step> {
    let mut out = Vec::from([warning(t), detection(t), guarded(t), seen_through(t), lifeline(t)]);
    if let Some(why) = &t.broken {
        // The first that it did not come to has failed; the others were not tried.
        let mut first = true;
        for step in out.iter_mut().filter(|s| s.seen.is_empty()) {
            (step.outcome, step.seen) = match core::mem::take(&mut first) {
                true => (Outcome::Failed, format!("broken off: {why}")),
                false => (Outcome::Skipped, "not tried any more".to_string()),
            };
        }
    }
    for step in out.iter_mut().filter(|s| s.seen.is_empty()) {
        (step.outcome, step.seen) = (Outcome::Failed, "the drill did not come to it".to_string());
    }
    out.push(as_before(t));
    out
}

/// A step that it has not come to yet.
fn blank(name: &'static str, target: Option<&'static str>) -> Step {
    Step { name, outcome: Outcome::Skipped, seen: String::new(), us: None, target }
}

fn passed(good: bool) -> Outcome {
    if good { Outcome::Passed } else { Outcome::Failed }
}

const OBSERVES: &str =
    "not drilled: in mode observe the guard stands only while an operator's heal runs";

fn warning(t: &Trial) -> Step {
    let step = blank("warning", Some("T0: no answer lost"));
    match &t.warning {
        _ if t.mode == Mode::Observe => Step { seen: OBSERVES.to_string(), ..step },
        None => step,
        Some(Warning { stood_us: None, .. }) => Step {
            outcome: Outcome::Failed,
            seen: format!(
                "a rule came without its route, and no guard stood as a precaution{}",
                why_not(t)
            ),
            ..step
        },
        Some(Warning { stood_us, asked, lost }) => Step {
            outcome: passed(*lost == 0 && *asked > 0),
            seen: format!(
                "the guard stood before the route came: {lost} of {asked} answers were lost"
            ),
            us: *stood_us,
            ..step
        },
    }
}

fn why_not(t: &Trial) -> String {
    t.no_room.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
}

fn detection(t: &Trial) -> Step {
    let step = blank("detection", None);
    match &t.capture {
        None => step,
        Some(Capture { heard_us: Some(us), .. }) => Step {
            outcome: Outcome::Passed,
            seen: "the kernel's event of the captor's rule was heard".to_string(),
            us: Some(*us),
            ..step
        },
        Some(Capture { heard_us: None, .. }) => Step {
            outcome: Outcome::Failed,
            seen: "the captor's rule was not heard of by an event".to_string(),
            ..step
        },
    }
}

fn guarded(t: &Trial) -> Step {
    let step = blank("guard", Some("T1: ≤ 300 ms, at most 1 s"));
    match &t.capture {
        _ if t.mode == Mode::Observe => Step { seen: OBSERVES.to_string(), ..step },
        None => step,
        Some(Capture { freed_us: None, .. }) => Step {
            outcome: Outcome::Failed,
            seen: format!("unmarked traffic did not get its path back{}", why_not(t)),
            ..step
        },
        Some(Capture { freed_us: Some(us), .. }) => Step {
            outcome: passed(*us <= T1_MOST_US),
            seen: "captured without warning, unmarked traffic has its path again".to_string(),
            us: Some(*us),
            ..step
        },
    }
}

fn seen_through(t: &Trial) -> Step {
    let step = blank("see-through", None);
    let Some(capture) = &t.capture else { return step };
    let mut said = Vec::new();
    let mut good = !capture.answers.is_empty();
    for (dst, before, plain, through) in &capture.answers {
        let caught = matches!(through, Fate::Refused(_));
        // Without a guard, what is unmarked is captured too.
        let right = match t.mode {
            Mode::Observe => matches!(plain, Fate::Refused(_)),
            Mode::Guard | Mode::Heal => plain == before,
        };
        good &= caught && right;
        let plain = if plain == before { "goes as before".to_string() } else { said_of(plain) };
        let through = if caught { "is captured".to_string() } else { said_of(through) };
        said.push(format!("{dst} {plain}, and by the see-through mark it {through}"));
    }
    Step { outcome: passed(good), seen: said.join("; "), ..step }
}

fn said_of(fate: &Fate) -> String {
    match fate {
        Fate::Leaves { dev, via: Some(via), .. } => format!("leaves by {dev} via {via}"),
        Fate::Leaves { dev, via: None, .. } => format!("leaves by {dev}"),
        Fate::Local => "is for this machine".to_string(),
        Fate::Refused(errno) => format!("is refused (errno {errno})"),
    }
}

fn lifeline(t: &Trial) -> Step {
    let step = blank("lifeline", None);
    let Some(calls) = &t.calls else { return step };
    let by_ours = |c: &&Call| {
        c.reach == Reach::Tls
            && matches!(&c.fate, Some(Fate::Leaves { table, .. }) if *table == TABLE_MIRROR)
    };
    if let Some(best) = calls.iter().filter(by_ours).min_by_key(|c| c.us) {
        return Step {
            outcome: Outcome::Passed,
            seen: format!("{} answered TLS along the agent's own path", best.api),
            us: Some(best.us),
            ..step
        };
    }
    let said: Vec<String> = calls
        .iter()
        .map(|c| match (&c.fate, &c.reach) {
            (Some(Fate::Leaves { table: TABLE_MIRROR, .. }), reach) => {
                format!("{} along the agent's own path: {reach:?}", c.api)
            }
            (Some(Fate::Leaves { table: TABLE_MAIN, .. }), _) => {
                format!("{} goes by main, not by the agent's own path", c.api)
            }
            (Some(fate), _) => format!("{} {}", c.api, said_of(fate)),
            (None, _) => format!("{}: the kernel did not say where it leaves", c.api),
        })
        .collect();
    let none = "no API server is known that could be called".to_string();
    let seen = if said.is_empty() { none } else { said.join("; ") };
    Step { outcome: Outcome::Failed, seen, ..step }
}

fn as_before(t: &Trial) -> Step {
    let step = Step { outcome: Outcome::Failed, us: t.cleared_us, ..blank("as-before", None) };
    if !t.left.is_empty() {
        return Step { seen: format!("of the drill's own is left: {}", t.left.join("; ")), ..step };
    }
    match &t.changed {
        None => Step { seen: "rules and routes were not compared".to_string(), ..step },
        Some(Err(why)) => {
            Step { seen: format!("rules and routes could not be compared: {why}"), ..step }
        }
        Some(Ok(lines)) if lines.is_empty() => Step {
            outcome: Outcome::Passed,
            seen: "all rules and routes of both families are as they were".to_string(),
            ..step
        },
        Some(Ok(lines)) => Step {
            seen: format!(
                "nothing of the drill is left, but somebody changed something meanwhile, drill again: {}",
                lines.join("; ")
            ),
            ..step
        },
    }
}
