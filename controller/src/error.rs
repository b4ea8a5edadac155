//! What an operator reads when something goes wrong: `Error:` says what and to what, `Hint:` what to try.
//!
//! Every library error becomes one of these here and nowhere else, so kind and hints are decided in one file.

use crate::agent::AgentError;
use crate::config::{ConfigError, PORT};
use crate::exit::Exit;
use crate::identity::IdentityError;
use crate::provider::ProviderError;
use crate::provider::act::ActError;
use crate::provider::diary::DiaryError;
use crate::provider::pick::PickError;
use crate::reach::{NotWaitedFor, Unreached};
use crate::runbook::book::BookError;
use crate::runbook::hold::Taken;
use crate::secret::SecretError;
use crate::{files, pki};
use std::error::Error as StdError;
use std::fmt;

/// Sorts errors by what the caller can do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was tried and failed.
    Failed,
    /// The command line or the configuration cannot be used.
    Usage,
    /// A limit passed.
    TimedOut,
    /// A human is needed.
    Stuck,
}

/// An error with its hints.
#[derive(Debug)]
pub struct CommandError {
    kind: Kind,
    error: Box<dyn StdError + Send + Sync>,
    hints: Vec<String>,
}

/// What every verb returns.
pub type Outcome = Result<Exit, CommandError>;

impl CommandError {
    /// Wraps an error.
    pub fn new(kind: Kind, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, error: error.into(), hints: Vec::new() }
    }

    /// Something was tried and failed.
    pub fn failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Failed, error)
    }

    /// The command cannot be used like that.
    pub fn usage(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Kind::Usage, error)
    }

    /// Adds a hint.
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The exit code it stands for.
    pub fn exit(&self) -> Exit {
        match self.kind {
            Kind::Failed => Exit::Failed,
            Kind::Usage => Exit::Usage,
            Kind::TimedOut => Exit::TimedOut,
            Kind::Stuck => Exit::Stuck,
        }
    }

    /// No path led to a node's agent.
    pub fn is_unreached(&self) -> bool {
        self.error.is::<Unreached>()
    }

    /// A node's agent may answer yet: it was not waited for, which is not "out of reach".
    pub fn is_not_waited_for(&self) -> bool {
        self.error.is::<NotWaitedFor>()
    }

    /// Its hints.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for CommandError {
    /// The error and its causes on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut cause = self.error.source();
        while let Some(c) = cause {
            write!(f, ": {c}")?;
            cause = c.source();
        }
        Ok(())
    }
}

impl From<files::FileError> for CommandError {
    fn from(error: files::FileError) -> Self {
        let hint = match &error {
            files::FileError::TooOpen { path, .. } => {
                Some(format!("make it yours alone: chmod 600 {}", path.display()))
            }
            files::FileError::Exists { .. } => Some(
                "nothing was written; name another directory, or move the old file away".into(),
            ),
            files::FileError::Read { .. } | files::FileError::Write { .. } => None,
        };
        let out = Self::failed(error);
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    }
}

impl From<pki::PkiError> for CommandError {
    fn from(error: pki::PkiError) -> Self {
        match error {
            pki::PkiError::File(e) => e.into(),
            pki::PkiError::Name { .. } => Self::usage(error),
            pki::PkiError::NotOurCa { .. } => {
                Self::failed(error).hinted("create one: ctl pki init --cluster NAME --dir DIR")
            }
            pki::PkiError::KeyMismatch { .. } => Self::failed(error)
                .hinted("ca.crt and ca.key in that directory do not belong together"),
            pki::PkiError::Other { .. } => Self::failed(error)
                .hinted("nothing was written; name another --out directory for the other subject"),
            pki::PkiError::Parse { .. }
            | pki::PkiError::Issue { .. }
            | pki::PkiError::Seal(_)
            | pki::PkiError::Clock => Self::failed(error),
        }
    }
}

const SAMPLE: &str =
    "write one, or name it with --config or LIFELINE_CONFIG; on the node itself use --socket:

  cluster = \"lab\"
  [tls]
  ca = \"ca.crt\"
  cert = \"operator.crt\"
  key = \"operator.key\"
  [nodes.calypso]
  addresses = [\"192.168.2.80\"]";

const PROVIDER: &str = "add what is missing:

  [provider]
  token = \"op://Infrastructure/hostinger/api_token\"   # or env:NAME, or file:PATH of mode 0600
  [nodes.styx.vps]
  hostname = \"srv17923.hstgr.cloud\"                   # as the provider has it";

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        let hints = match &error {
            ConfigError::File { .. } | ConfigError::NoHome | ConfigError::NoTls { .. } => {
                vec![SAMPLE.to_owned()]
            }
            ConfigError::NoVps { .. } => vec![PROVIDER.to_owned()],
            ConfigError::Line { meant, .. } => {
                meant.iter().map(|m| format!("did you mean {m}?")).collect()
            }
            ConfigError::UnknownNode { meant, known, path, .. } => {
                let mut hints: Vec<_> =
                    meant.iter().map(|m| format!("did you mean {m}?")).collect();
                hints.push(match known.is_empty() {
                    true => {
                        format!("add [nodes.NAME] to {} (port {PORT} unless named)", path.display())
                    }
                    false => format!("known nodes: {}", known.join(", ")),
                });
                hints
            }
        };
        hints.into_iter().fold(Self::usage(error), Self::hinted)
    }
}

impl From<IdentityError> for CommandError {
    fn from(error: IdentityError) -> Self {
        let hint = match error {
            IdentityError::File(e) => return e.into(),
            IdentityError::Pki(e) => return e.into(),
            IdentityError::Expired { ref whose, .. } => Some(format!(
                "issue a new one: ctl pki operator {} --role {} --dir PKI --out DIR; or: ctl pki renew --operator",
                whose.name,
                whose.role.word()
            )),
            IdentityError::NotYet { .. } => Some("check this machine's clock".to_owned()),
            IdentityError::ServerOnly { .. } | IdentityError::Nobody { .. } => Some(
                "make one of your own: ctl pki operator NAME --role operator --dir PKI --out DIR".to_owned(),
            ),
            IdentityError::Elsewhere { .. } => {
                Some("name that cluster's certificate in [tls], or that cluster's configuration with --config".to_owned())
            }
            IdentityError::Stranger { .. } => {
                Some("ca, cert and key in [tls] belong together: take all three from one `ctl pki operator`".to_owned())
            }
            IdentityError::NotAPair { .. } | IdentityError::Key { .. } | IdentityError::Refused { .. } => None,
        };
        let out = Self::failed(error);
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    }
}

impl From<SecretError> for CommandError {
    fn from(error: SecretError) -> Self {
        let hint = error.hint();
        let out = Self::failed(error);
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    }
}

impl From<ProviderError> for CommandError {
    fn from(error: ProviderError) -> Self {
        let hint = error.hint();
        let kind = match error {
            ProviderError::Busy { .. } => Kind::TimedOut,
            _ => Kind::Failed,
        };
        let out = Self::new(kind, error);
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    }
}

impl From<PickError> for CommandError {
    fn from(error: PickError) -> Self {
        let mut hints = vec![
            "nothing was done; compare hostname and ipv4 in [nodes.NAME.vps] with: ctl vps list"
                .to_owned(),
        ];
        if let PickError::None { there, .. } = &error {
            hints.extend(there.iter().map(|t| format!("there is {t}")));
        }
        hints.into_iter().fold(Self::failed(error), Self::hinted)
    }
}

impl From<DiaryError> for CommandError {
    fn from(error: DiaryError) -> Self {
        match &error {
            DiaryError::Held { .. } => {
                Self::failed(error).hinted("nothing was done; wait for the other one")
            }
            DiaryError::Line { path, .. } => {
                let hint = format!(
                    "nothing was done; read {} by eye, and move it away when nothing of it goes on",
                    path.display()
                );
                Self::new(Kind::Stuck, error).hinted(hint)
            }
            DiaryError::File { .. } | DiaryError::NoHome => {
                Self::failed(error).hinted("nothing more was asked of the provider")
            }
        }
    }
}

impl From<BookError> for CommandError {
    fn from(error: BookError) -> Self {
        match error {
            BookError::Small(e) => e.into(),
            BookError::Place(e) => e.into(),
            BookError::Held { .. } => {
                Self::failed(error).hinted("nothing was done; wait for the other one")
            }
            BookError::None { .. } => Self::usage(error)
                .hinted("begin one: ctl recover; what is there is in that directory"),
            BookError::Damaged { .. } | BookError::Form { .. } => Self::new(Kind::Stuck, error)
                .hinted(
                    "nothing more was done; read it by eye, and begin anew: ctl recover --anew",
                ),
            BookError::File { .. } => Self::failed(error).hinted("nothing more was done"),
        }
    }
}

impl From<Taken> for CommandError {
    fn from(error: Taken) -> Self {
        match error {
            Taken::Before { .. } => Self::failed(error)
                .hinted("nothing was done; that run is alive: wait until it has ended, and run the same command again")
                .hinted("or stop it: there with Ctrl-C, or from here, before its next act: kubectl delete lease lifeline-recover -n kube-system"),
            Taken::Meanwhile { .. } => {
                Self::new(Kind::TimedOut, error).hinted("nothing more was begun from here")
            }
        }
    }
}

impl From<ActError> for CommandError {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Diary(e) => e.into(),
            ActError::Provider(e) => e.into(),
            ActError::Lost { .. } => Self::new(Kind::TimedOut, error)
                .hinted("run the same command again: it looks at the machine's actions first, and asks before it sends anything anew"),
            ActError::Foreign { .. } => Self::new(Kind::Stuck, error)
                .hinted("look at it: ctl vps show NODE, and hPanel; it was not sent a second time"),
            ActError::Failed { .. } => Self::failed(error)
                .hinted("hPanel may tell more; `ctl vps show NODE` shows the machine as it is now"),
            ActError::Late { .. } => Self::new(Kind::TimedOut, error)
                .hinted("run the same command again: it goes on following, and sends nothing"),
        }
    }
}

impl From<Unreached> for CommandError {
    fn from(error: Unreached) -> Self {
        let mut hints: Vec<String> =
            error.tried.iter().filter_map(|t| t.obstacle.hint(&error.node)).collect();
        hints.dedup();
        if hints.is_empty() {
            hints.push(
                "from the node's own console: ctl --socket /run/lifeline/agent.sock status"
                    .to_owned(),
            );
        }
        hints.into_iter().fold(Self::failed(error), Self::hinted)
    }
}

impl From<AgentError> for CommandError {
    fn from(error: AgentError) -> Self {
        use tonic::Code;
        let hint = match (&error, error.code()) {
            (_, Some(Code::PermissionDenied)) => {
                Some("an operator's certificate may act: ctl pki operator NAME --role operator …")
            }
            (_, Some(Code::Unimplemented)) | (AgentError::Form { .. }, _) => Some(
                "ctl and the agent are of different versions: compare `ctl --version` and `ctl status -o json`",
            ),
            _ => None,
        };
        let kind =
            if matches!(error, AgentError::Late { .. }) { Kind::TimedOut } else { Kind::Failed };
        let out = Self::new(kind, error);
        match hint {
            Some(hint) => out.hinted(hint),
            None => out,
        }
    }
}
