//! Rung 1: keeps our rules as the judgement wants them, on every change of the kernel's routing.
//!
//! A reconciler of its own, outside the engine: it looks at links, rules and routes only, puts one batch in place, and tells
//! of it afterwards. It has no budget, only a rate limit: a tool that flaps its rules must not tire the guard out.

mod drill;
mod hands;

use crate::event;
use crate::netlink::{Hint, Kernel, NetlinkError};
pub use drill::{Drill, Drilled};
use hands::Quick;
use lifeline_core::baseline::Baseline;
use lifeline_core::fib::Answer;
use lifeline_core::filter::Marked;
use lifeline_core::guard::{self, Stand, Tables};
use lifeline_core::observation::Route;
use lifeline_core::policy::Policy;
use lifeline_core::threat::Threats;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Changes come in bursts: what arrives within this time is answered once.
const COALESCE: Duration = Duration::from_millis(5);
/// At most twenty batches a second, whatever somebody does to the rules.
const AT_LEAST: Duration = Duration::from_millis(50);
/// Among 100 000 routes a batch takes tenths of a second: then the pause is as long, up to this, and half of one processor is left
/// alone while somebody flaps a route.
const AT_MOST: Duration = Duration::from_millis(500);
/// Looked at anew without any hint, in case one was lost; the full look, which orders a guard, comes as often.
const TICK: Duration = Duration::from_secs(5);
/// The same while a guard stands or somebody is feared: what ends by itself is seen to end.
const CLOSE: Duration = Duration::from_secs(2);
/// That long at most, when each look costs much: without hints a twentieth of one processor is enough.
const SLOWEST: Duration = Duration::from_secs(10);
/// How long one batch may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What the guard is told to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// What should stand.
    pub stand: Stand,
    /// The healthy node; without one, nothing but the lifeline path can stand.
    pub base: Option<Arc<Baseline>>,
    /// The network has moved and works: the lifeline path follows the node's own `main`, not the baseline's.
    pub moved: bool,
    /// How often an operator's recovery has ended: after each, who captured before is no longer held to do it again.
    pub forgiven: u64,
    /// What the packet filter writes on critical calls, as of the last full look: the guard does not read it itself.
    pub marks: Vec<Marked>,
    /// The drill under way.
    pub drill: Option<Drill>,
}

/// How it stands.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Counts the orders that have been carried out.
    pub done: u64,
    /// Does the guard stand?
    pub guarded: bool,
    /// Why it cannot be placed where it is needed.
    pub no_room: Option<String>,
    /// Why the last batch failed.
    pub trouble: Option<String>,
    /// How often it has been raised.
    pub raised: u64,
    /// How a drill goes.
    pub drill: Drilled,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The guard has been raised.
    Raised {
        /// The captors, in words.
        captors: Vec<String>,
        /// Addresses on the captors' devices: sockets with such a source are dead and stay so (field guide K6).
        sources: Vec<IpAddr>,
    },
    /// It has moved in front of a new captor, or was put back after somebody deleted it.
    Renewed {
        /// Rules added.
        rules: usize,
    },
    /// It has gone.
    Lowered,
    /// It cannot be placed.
    NoRoom {
        /// Why.
        why: String,
    },
    /// A batch failed; it will be tried again.
    Trouble {
        /// What, and why.
        why: String,
    },
}

impl Note {
    /// Its kind, and the whole of it in words.
    fn told(&self) -> (&'static event::Kind, String) {
        match self {
            Self::Raised { captors, .. } => {
                (&event::RAISED, format!("the guard stands, against {}", captors.join("; ")))
            }
            Self::Renewed { rules } => (
                &event::RENEWED,
                format!("the guard was put back: {rules} rules of it were gone or passed by"),
            ),
            Self::Lowered => {
                (&event::LOWERED, "the guard is lowered: it is not needed any more".to_owned())
            }
            Self::NoRoom { why } => {
                (&event::HELPLESS, format!("the guard cannot be placed: {why}"))
            }
            Self::Trouble { why } => (
                &event::HELPLESS,
                format!("the guard could not be put in place, and is tried again: {why}"),
            ),
        }
    }
}

/// The guard; its task ends when this is dropped, and what stands, stands.
#[derive(Debug)]
pub struct Guard {
    order: watch::Sender<(u64, Order)>,
    state: watch::Receiver<State>,
    notes: broadcast::Sender<Note>,
    task: JoinHandle<()>,
}

impl Guard {
    /// Starts it with a first order.
    ///
    /// # Errors
    /// When there is no socket for hints.
    pub fn start(kernel: Kernel, policy: Policy, first: Order) -> Result<Self, NetlinkError> {
        let events = kernel.events()?;
        let (order, orders) = watch::channel((1, first));
        let (tell, state) = watch::channel(State::default());
        let (notes, _) = broadcast::channel(64);
        let mut keeper = Keeper {
            kernel,
            policy,
            orders,
            tell,
            notes: notes.clone(),
            threats: Threats::default(),
            begun: Instant::now(),
            clear_since: None,
            standing: false,
            anew: false,
            forgiven: 0,
            hinted: None,
            drill: drill::Keeper::default(),
        };
        let task = tokio::spawn(async move { keeper.keep(events).await });
        Ok(Self { order, state, notes, task })
    }

    /// Gives a new order; [`Self::settled`] waits for it.
    pub fn order(&self, order: Order) {
        self.order.send_modify(|(n, o)| {
            *n += 1;
            *o = order;
        });
    }

    /// Waits until the latest order has been carried out, or could not be, at most `limit`.
    pub async fn settled(&self, limit: Duration) -> State {
        let wanted = self.order.borrow().0;
        let mut state = self.state.clone();
        // On a time-out the last state is given as it is: its `done` says that it is older.
        let _in_time = timeout(limit, state.wait_for(|s| s.done >= wanted)).await.is_ok();
        self.state()
    }

    /// Waits until it stands as is wished, at most `limit`; says whether it does.
    pub async fn wait(&self, limit: Duration, wish: impl FnMut(&State) -> bool) -> bool {
        let mut state = self.state.clone();
        timeout(limit, state.wait_for(wish)).await.is_ok_and(|s| s.is_ok())
    }

    /// How it stands now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What happens from now on.
    pub fn notes(&self) -> broadcast::Receiver<Note> {
        self.notes.subscribe()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    kernel: Kernel,
    policy: Policy,
    orders: watch::Receiver<(u64, Order)>,
    tell: watch::Sender<State>,
    notes: broadcast::Sender<Note>,
    threats: Threats,
    begun: Instant,
    /// Since when nothing captures although our guard stands.
    clear_since: Option<Instant>,
    standing: bool,
    /// Somebody has added a rule since the last look.
    anew: bool,
    /// As of the last order.
    forgiven: u64,
    /// When an event of a rule came that no look has answered yet.
    hinted: Option<Instant>,
    drill: drill::Keeper,
}

impl Keeper {
    async fn keep(&mut self, mut events: crate::netlink::Events) {
        loop {
            let (number, order) = self.orders.borrow_and_update().clone();
            let began = Instant::now();
            let again = match timeout(LIMIT, self.reconcile(&order)).await {
                // A guard that stands is not put off.
                Ok(Ok(again)) if again < TICK => again,
                Ok(Ok(_)) => (began.elapsed() * 20).clamp(TICK, SLOWEST),
                Ok(Err(e)) => self.trouble(chain(&e)),
                Err(_) => self.trouble(format!("not done within {LIMIT:?}")),
            };
            self.tell.send_modify(|s| s.done = number);
            // Before the events are taken: what comes meanwhile is seen by the next look, and would else be told as new after it.
            sleep(began.elapsed().clamp(AT_LEAST, AT_MOST)).await;
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { return },
                hints = events.next() => match hints {
                    Some(hints) => {
                        self.anew |= hints.contains(&Hint::RuleAdded);
                        if hints.contains(&Hint::Rule) {
                            self.hinted.get_or_insert_with(Instant::now);
                        }
                        sleep(COALESCE).await;
                    }
                    // The socket is gone: open anew, and look at once, as something may have been missed.
                    None => match self.kernel.events() {
                        Ok(fresh) => (events, self.anew) = (fresh, true),
                        Err(e) => { self.trouble(chain(&e)); sleep(TICK).await; }
                    },
                },
                () = sleep_until(Instant::now() + again) => {}
            }
        }
    }

    fn trouble(&self, why: String) -> Duration {
        tracing::warn!(%why, "guard: a batch failed");
        self.tell.send_modify(|s| s.trouble = Some(why.clone()));
        // Nobody listening is no failure.
        let _listeners = self.notes.send(Note::Trouble { why }).ok();
        Duration::from_millis(200)
    }

    /// Looks, judges, and puts one batch in place. Gives how long to wait at most before the next look.
    async fn reconcile(&mut self, order: &Order) -> Result<Duration, NetlinkError> {
        let hinted = self.hinted.take();
        let quick = Quick::look(&self.kernel).await?;
        let derived = Baseline::default();
        let base = order.base.as_deref().unwrap_or(&derived);
        // Without a baseline, and after the network has moved, the node's own main is all there is to mirror.
        let own: Option<Vec<Route>> =
            (order.moved || base.routes.is_empty()).then(|| quick.main_routes());
        let mirror = own.as_ref().unwrap_or(&base.routes);
        let caught = guard::captured(&quick.rules, &quick.routes, base, &order.marks);
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if core::mem::replace(&mut self.forgiven, order.forgiven) != order.forgiven {
            self.threats.forgive();
        }
        let anew = core::mem::take(&mut self.anew);
        let threats = self.threats.fresh(&quick.rules, base, &caught, anew, now_ms);
        let judge = |stand| {
            guard::wanted(
                Tables {
                    rules: &quick.rules,
                    routes: &quick.routes,
                    links: &quick.links,
                    threats: &threats,
                    marks: &order.marks,
                },
                base,
                mirror,
                &self.policy,
                stand,
            )
        };
        let mut wanted = judge(order.stand);
        let stands = quick.rules.iter().any(|r| lifeline_core::fib::is_ours(r) && r.to.is_some());
        let watchful = matches!(order.stand, Stand::Guard | Stand::GuardByMirror);
        let mut again = if stands || !threats.is_empty() { CLOSE } else { TICK };
        if stands && !wanted.guarded && watchful && wanted.no_room.is_none() {
            // Nothing captures any more. It lingers, because who has captured may do it again, and does not always warn.
            let since = *self.clear_since.get_or_insert_with(Instant::now);
            let linger = Duration::from_millis(self.threats.linger_ms(now_ms));
            if since.elapsed() < linger {
                let keep =
                    quick.rules.iter().filter(|r| lifeline_core::fib::is_ours(r) && r.to.is_some());
                wanted.rules.extend(keep.cloned());
                wanted.guarded = true;
                again = linger.saturating_sub(since.elapsed()).clamp(AT_LEAST, CLOSE);
            }
        } else {
            self.clear_since = None;
        }
        let changes = guard::changes(&quick.rules, &quick.routes, &wanted);
        let added = changes.add_rules.len();
        hands::apply(&self.kernel, &quick, &changes).await?;
        let rises = wanted.guarded && !self.standing;
        let sources = if rises { sources(&quick, base, &order.marks) } else { Vec::new() };
        self.announce(&wanted, added, sources);
        // Last: nobody waits for the real guard because of a drill.
        let now = drill::Now { hinted, ms: now_ms };
        self.drill.reconcile(&self.kernel, &self.policy, &quick, order, now).await?;
        self.tell.send_modify(|s| s.drill = self.drill.told.clone());
        Ok(again)
    }

    fn announce(&mut self, wanted: &guard::Wanted, added: usize, sources: Vec<IpAddr>) {
        let was = core::mem::replace(&mut self.standing, wanted.guarded);
        let note = match (&wanted.no_room, was, wanted.guarded) {
            (Some(why), _, _) => {
                let known = self.tell.borrow().no_room.as_ref() == Some(why);
                (!known).then(|| Note::NoRoom { why: why.clone() })
            }
            (None, false, true) => Some(Note::Raised { captors: wanted.captors.clone(), sources }),
            (None, true, true) if added > 0 => Some(Note::Renewed { rules: added }),
            (None, true, false) => Some(Note::Lowered),
            (None, _, _) => None,
        };
        self.tell.send_modify(|s| {
            s.guarded = wanted.guarded;
            s.raised += u64::from(matches!(note, Some(Note::Raised { .. })));
            s.no_room.clone_from(&wanted.no_room);
            s.trouble = None;
        });
        if let Some(note) = note {
            let (kind, words) = note.told();
            event::tell(kind, event::About::default(), &words);
            let _listeners = self.notes.send(note).ok();
        }
    }
}

/// Addresses on the devices by which captured destinations leave.
fn sources(quick: &Quick, base: &Baseline, marks: &[Marked]) -> Vec<IpAddr> {
    let devs: BTreeSet<String> = guard::captured(&quick.rules, &quick.routes, base, marks)
        .into_iter()
        .filter_map(|c| match c.answer {
            Answer::Leaves { dev, .. } => Some(dev),
            Answer::Local | Answer::Refused { .. } | Answer::NoRoute | Answer::Unknown { .. } => {
                None
            }
        })
        // The uplink's own addresses are nobody's captor.
        .filter(|dev| !base.links.iter().any(|l| l.name == *dev))
        .collect();
    quick.addrs.iter().filter(|a| devs.contains(&a.dev)).map(|a| a.addr).collect()
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}
