//! Why the API server could not be asked, or did not do what it was asked for.

use super::journal::JournalError;
use super::pin::PinError;
use crate::error::{CommandError, Kind};
use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why the API server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("use kubeconfig {}", path.display())]
    Kubeconfig {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No client can be made of it.
    #[error("use kubeconfig {}", path.display())]
    Client {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<Told>,
    },
    /// It answered with an error, or not at all.
    #[error("ask the API server for {what}")]
    Call {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: Box<Told>,
    },
    /// It did not answer.
    #[error("ask the API server for {what}: no answer within {} s", limit.as_secs())]
    Late {
        /// What was asked.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// What it answered is not what Kubernetes answers.
    #[error("ask the API server for {what}: {why}")]
    Odd {
        /// What was asked.
        what: String,
        /// What is odd about it.
        why: String,
    },
}

impl ClusterError {
    /// The HTTP status of its answer, when there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Call { source, .. } => source.code(),
            _ => None,
        }
    }

    /// What was answered, without what was asked.
    pub fn said(&self) -> String {
        match self {
            Self::Call { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// It is not there.
    pub fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }

    /// It is not what it was, or another one of that name.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }
}

/// Why something was not done, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server could not be asked, or refused.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// It could not be written down, so it was not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It is not certain which cluster this is.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// It must not be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What must not be done, and what to do instead.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Refusal {
    /// What was asked for.
    pub what: String,
    /// Why not.
    pub why: String,
    /// What to try.
    pub hint: String,
}

impl Refusal {
    /// Nothing was done.
    pub fn new(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), hint: hint.into() }
    }
}

/// What the client library says, once: its own words repeat each cause in every line.
#[derive(Debug)]
pub struct Told(pub kube::Error);

impl Told {
    fn code(&self) -> Option<u16> {
        match &self.0 {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }

    /// Programs that hand out a token, and files that hold one, fail in ways of their own.
    fn is_auth(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&self.0);
        while let Some(e) = cause {
            if e.is::<kube::client::AuthError>() {
                return true;
            }
            cause = e.source();
        }
        matches!(self.0, kube::Error::Auth(_))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            kube::Error::Api(status) => {
                write!(f, "{} {}: {}", status.code, status.reason, status.message)?;
                // Which budget refuses stands only here.
                let causes = status.details.iter().flat_map(|d| &d.causes);
                causes
                    .filter(|c| !status.message.contains(&c.message))
                    .try_for_each(|c| write!(f, " {}", c.message))
            }
            other => match other.source() {
                Some(source) => write!(f, "{source}"),
                None => write!(f, "{other}"),
            },
        }
    }
}

impl StdError for Told {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            kube::Error::Api(_) => None,
            other => other.source().and_then(StdError::source),
        }
    }
}

impl From<ClusterError> for CommandError {
    fn from(error: ClusterError) -> Self {
        use kube::config::KubeconfigError as K;
        let said = crate::obstacle::chain(&error);
        let hint = match &error {
            ClusterError::Kubeconfig { source: K::ReadConfig(..), .. } => Some(
                "name it in ctl.toml (kubeconfig = \"…\"); k3s keeps one in /etc/rancher/k3s/k3s.yaml on its server",
            ),
            ClusterError::Kubeconfig {
                source: K::LoadContext(_) | K::CurrentContextNotSet,
                ..
            } => Some(
                "name a context it has in ctl.toml (context = \"…\"): kubectl config get-contexts",
            ),
            ClusterError::Call { source, .. } | ClusterError::Client { source, .. }
                if source.is_auth() =>
            {
                Some(
                    "the program or file by which the kubeconfig proves who you are failed; run kubectl auth whoami with it",
                )
            }
            ClusterError::Call { source, .. } if source.code() == Some(401) => Some(
                "the kubeconfig's certificate or token has expired, or is another cluster's; fetch a new one",
            ),
            ClusterError::Call { source, .. } if source.code() == Some(403) => Some(
                "ctl rights prints the roles each verb needs, and checks which of them you have",
            ),
            ClusterError::Call { .. } if said.contains("certificate") => Some(
                "is the kubeconfig of another cluster, or has its certificate expired? nothing was done",
            ),
            ClusterError::Call { .. } | ClusterError::Late { .. } => {
                Some("nodes can be healed without the API server: ctl heal NODE")
            }
            _ => None,
        };
        let kind = match (&error, error.code()) {
            (ClusterError::Kubeconfig { .. }, _) => Kind::Usage,
            (ClusterError::Late { .. }, _) => Kind::TimedOut,
            _ => Kind::Failed,
        };
        let out = Self::new(kind, error);
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    }
}

impl From<Failure> for CommandError {
    fn from(error: Failure) -> Self {
        match error {
            Failure::Cluster(e) => e.into(),
            Failure::Journal(e) => e.into(),
            Failure::Pin(e) => e.into(),
            Failure::Refused(e) => e.into(),
        }
    }
}

impl From<Refusal> for CommandError {
    fn from(error: Refusal) -> Self {
        let hint = error.hint.clone();
        Self::usage(error).hinted(hint)
    }
}

impl From<PinError> for CommandError {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Cluster(e) => e.into(),
            PinError::File(e) => e.into(),
            PinError::Place(e) => Self::failed(e),
            PinError::Other { ref path, .. } => {
                let hint = format!(
                    "nothing was done; check kubeconfig and context in ctl.toml; if the cluster was made anew, remove {}",
                    path.display()
                );
                Self::usage(error).hinted(hint)
            }
            PinError::Form { ref path, .. } => {
                let hint = format!("nothing was done; remove {} to learn it anew", path.display());
                Self::failed(error).hinted(hint)
            }
        }
    }
}

impl From<JournalError> for CommandError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Place(e) => Self::failed(e),
            JournalError::Held { .. } => {
                Self::failed(error).hinted("nothing was done; wait for the other one")
            }
            JournalError::File { .. } => Self::failed(error).hinted("nothing more was done"),
            JournalError::Line { ref path, .. } | JournalError::OtherCluster { ref path, .. } => {
                let hint = format!(
                    "nothing was done; read {} by eye, and move it away when nothing of it goes on",
                    path.display()
                );
                Self::new(Kind::Stuck, error).hinted(hint)
            }
        }
    }
}
