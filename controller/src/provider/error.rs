//! What can go wrong with the provider, each with what is known of its effect.

use std::time::Duration;

/// Why the provider did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Its authorities cannot be read.
    #[error("trust the provider's certificate: {0}")]
    Trust(String),
    /// Nothing was sent.
    #[error("ask the provider {what}: {why}")]
    Unsent {
        /// What was asked.
        what: String,
        /// What was in the way.
        why: String,
    },
    /// It was sent, and what came back says nothing of what became of it.
    #[error("ask the provider {what}: {why}")]
    Unclear {
        /// What was asked.
        what: String,
        /// What came, if anything.
        why: String,
    },
    /// Our token is not accepted.
    #[error("ask the provider {what}: it does not accept the token ({status}: {why})")]
    Unauthorised {
        /// What was asked.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Its words.
        why: String,
    },
    /// It says no.
    #[error("ask the provider {what}: it refuses ({status}: {why})")]
    Refused {
        /// What was asked.
        what: String,
        /// Its number.
        status: u16,
        /// Its words.
        why: String,
    },
    /// Too many questions.
    #[error("ask the provider {what}: it wants fewer questions (429){}", later(*wait))]
    Busy {
        /// What was asked.
        what: String,
        /// When it may be asked again, if it said so.
        wait: Option<Duration>,
    },
    /// Its answer has another form than was published.
    #[error("read the provider's answer to the question {what}")]
    Form {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

fn later(wait: Option<Duration>) -> String {
    wait.map(|w| format!(" and says to come back in {} s", w.as_secs())).unwrap_or_default()
}

impl ProviderError {
    /// Can a question be asked again? A wish never is: what became of it is looked up.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unsent { .. } | Self::Unclear { .. } | Self::Busy { .. })
    }

    /// What to try.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unauthorised { .. } => Some(
                "make a new token in hPanel (profile, API) and put it where [provider] token points",
            ),
            Self::Busy { .. } => Some("wait a few minutes: who goes on asking is blocked"),
            Self::Trust(_) => {
                Some("check [provider] ca, or remove it to trust this machine's authorities")
            }
            Self::Unsent { .. } => Some("check this machine's own network, and [provider] api"),
            Self::Unclear { .. } | Self::Refused { .. } | Self::Form { .. } => None,
        }
    }
}
