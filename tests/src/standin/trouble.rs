//! How a request to a service beyond the cluster can go wrong.

use std::collections::VecDeque;
use std::time::Duration;

/// Which requests meet with trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Whatever comes.
    Anything,
    /// What only asks.
    Questions,
    /// What changes something.
    Wishes,
}

/// What happens instead of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// This status with a published error document.
    Status(u16),
    /// 429, with a `Retry-After` or without.
    Busy(Option<&'static str>),
    /// A page for people, with this status.
    Html(u16),
    /// The connection is closed without a word.
    Hangup,
    /// Nothing, for this long; then the connection is closed.
    Silence(Duration),
    /// JSON of another form than was published.
    Nonsense,
}

/// Trouble for some requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which.
    pub on: On,
    /// What.
    pub what: What,
    /// Is the wish granted all the same, and only its answer lost?
    pub granted: bool,
    /// For how many requests.
    pub times: u32,
}

impl Trouble {
    /// Once.
    #[must_use]
    pub fn once(on: On, what: What) -> Self {
        Self { on, what, granted: false, times: 1 }
    }

    /// Once, and the wish is granted all the same.
    #[must_use]
    pub fn granted(what: What) -> Self {
        Self { on: On::Wishes, what, granted: true, times: 1 }
    }

    /// For a long time.
    #[must_use]
    pub fn lasting(on: On, what: What) -> Self {
        Self { on, what, granted: false, times: 1000 }
    }
}

/// The trouble that this request meets with, if any; what was ordered for a number of requests is used up.
pub fn meet(ordered: &mut VecDeque<Trouble>, question: bool) -> Option<Trouble> {
    let fits = |t: &Trouble| match t.on {
        On::Anything => true,
        On::Questions => question,
        On::Wishes => !question,
    };
    let at = ordered.iter().position(fits)?;
    let trouble = ordered.get_mut(at)?;
    trouble.times = trouble.times.saturating_sub(1);
    let met = trouble.clone();
    if met.times == 0 {
        ordered.remove(at);
    }
    Some(met)
}
