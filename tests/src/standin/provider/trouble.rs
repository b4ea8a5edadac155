//! How a request can go wrong.

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
