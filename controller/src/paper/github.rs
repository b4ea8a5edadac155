//! GitHub's issues, over its documented REST API: comments that are written once, issues that are closed as not planned or
//! labelled; nothing else is ever asked of it.
//!
//! A comment carries a hidden mark. It is looked for before anything is written, and after every wish whose fate is unclear.

use crate::config::Github;
use crate::https::{Ask, Missed, Place, Reply, Wire};
use crate::secret::{Secret, redact_tokens};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;
use zeroize::Zeroizing;

/// Between two tries of a question.
const PAUSES: [u64; 3] = [1, 2, 4];
/// Who is told to come back later than this is told so, instead of being kept waiting.
const PATIENCE: Duration = Duration::from_secs(60);
/// Comments a page; and no issue has more pages than this.
const PER_PAGE: usize = 100;
const PAGES: usize = 50;

/// Why it was not answered, or not done.
#[derive(Debug, thiserror::Error)]
pub enum GithubError {
    /// Its authorities cannot be read.
    #[error("trust GitHub's certificate: {0}")]
    Trust(String),
    /// Nothing is known to have been done.
    #[error("ask GitHub {what}: {why}")]
    Missed {
        /// What was asked.
        what: String,
        /// What was in the way.
        why: String,
        /// A question may be asked again.
        passing: bool,
        /// When, if it said so.
        wait: Option<Duration>,
    },
    /// Our token is not accepted, or may not do it.
    #[error("ask GitHub {what}: it does not let the token do that ({status}: {why})")]
    Unauthorised {
        /// What was asked.
        what: String,
        /// 401, 403 or 404: what a token may not see is not there.
        status: u16,
        /// Its words.
        why: String,
    },
    /// It says no.
    #[error("ask GitHub {what}: it refuses ({status}: {why})")]
    Refused {
        /// What was asked.
        what: String,
        /// Its number.
        status: u16,
        /// Its words.
        why: String,
    },
    /// Its answer has another form than was published.
    #[error("read GitHub's answer to the question {what}: {why}")]
    Form {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Everything that is ever asked.
#[derive(Clone, Debug)]
enum Call {
    Issue(String, u64),
    Comments(String, u64, usize),
    Comment(String, u64, String),
    Close(String, u64),
    Label(String, u64, String),
}

impl Ask for Call {
    fn method(&self) -> Method {
        match self {
            Self::Issue(..) | Self::Comments(..) => Method::GET,
            Self::Comment(..) | Self::Label(..) => Method::POST,
            Self::Close(..) => Method::PATCH,
        }
    }

    fn path(&self) -> String {
        let issue = |repo: &str, n: &u64| format!("/repos/{repo}/issues/{n}");
        match self {
            Self::Issue(repo, n) | Self::Close(repo, n) => issue(repo, n),
            Self::Comments(repo, n, page) => {
                format!("{}/comments?per_page={PER_PAGE}&page={page}", issue(repo, n))
            }
            Self::Comment(repo, n, _) => format!("{}/comments", issue(repo, n)),
            Self::Label(repo, n, _) => format!("{}/labels", issue(repo, n)),
        }
    }

    fn body(&self) -> Option<Zeroizing<String>> {
        let body = match self {
            Self::Comment(_, _, text) => json!({ "body": text }),
            Self::Close(..) => json!({ "state": "closed", "state_reason": "not_planned" }),
            Self::Label(_, _, label) => json!({ "labels": [label] }),
            Self::Issue(..) | Self::Comments(..) => return None,
        };
        Some(Zeroizing::new(body.to_string()))
    }

    fn accept(&self) -> &'static str {
        "application/vnd.github+json"
    }
}

impl Call {
    fn what(&self) -> String {
        match self {
            Self::Issue(repo, n) => format!("for {repo}#{n}"),
            Self::Comments(repo, n, _) => format!("for the comments of {repo}#{n}"),
            Self::Comment(repo, n, _) => format!("to comment on {repo}#{n}"),
            Self::Close(repo, n) => format!("to close {repo}#{n} as not planned"),
            Self::Label(repo, n, label) => format!("to label {repo}#{n} {label:?}"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// An issue, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Issue {
    state: String,
    #[serde(default)]
    state_reason: Option<String>,
    #[serde(default)]
    labels: Vec<Named>,
}

impl Issue {
    /// It is closed.
    pub fn is_closed(&self) -> bool {
        self.state == "closed"
    }

    /// Why it is closed.
    pub fn reason(&self) -> &str {
        self.state_reason.as_deref().unwrap_or("for no reason it gives")
    }

    /// It has this label; GitHub does not tell their cases apart.
    pub fn has(&self, label: &str) -> bool {
        self.labels.iter().any(|l| l.name.eq_ignore_ascii_case(label))
    }
}

#[derive(Debug, Deserialize)]
struct Comment {
    id: u64,
    #[serde(default)]
    body: Option<String>,
}

/// The issue tracker.
#[derive(Debug)]
pub struct Tracker {
    wire: Wire,
}

impl Tracker {
    /// Prepares everything; dials nobody.
    pub fn new(github: &Github, token: Secret) -> Result<Self, GithubError> {
        let (ca, timeout) = (github.ca.as_deref(), github.timeout);
        let place = Place { api: &github.api, ca, timeout };
        Ok(Self { wire: Wire::new(&place, token).map_err(GithubError::Trust)? })
    }

    /// An issue.
    pub async fn issue(&self, repo: &str, number: u64) -> Result<Issue, GithubError> {
        let call = Call::Issue(repo.to_owned(), number);
        let reply = self.ask(&call).await?;
        read(&call, &reply)
    }

    /// The comment with this mark, if there is one.
    pub async fn marked(
        &self,
        repo: &str,
        number: u64,
        marker: &str,
    ) -> Result<Option<u64>, GithubError> {
        for page in 1..=PAGES {
            let call = Call::Comments(repo.to_owned(), number, page);
            let reply = self.ask(&call).await?;
            let found: Vec<Comment> = read(&call, &reply)?;
            let ours = |c: &&Comment| c.body.as_deref().is_some_and(|b| b.contains(marker));
            if let Some(comment) = found.iter().find(ours) {
                return Ok(Some(comment.id));
            }
            if found.len() < PER_PAGE {
                return Ok(None);
            }
        }
        // Not having seen all of them is not the same as there being none.
        let what = format!("for the comments of {repo}#{number}");
        let why = format!("it has more than {} comments", PAGES * PER_PAGE);
        Err(GithubError::Form { what, why })
    }

    /// Writes a comment, once: whoever calls has looked for its mark, and looks again afterwards.
    pub async fn comment(&self, repo: &str, number: u64, text: &str) -> Result<(), GithubError> {
        self.once(&Call::Comment(repo.to_owned(), number, text.to_owned())).await.map(drop)
    }

    /// Closes an issue as not planned.
    pub async fn close(&self, repo: &str, number: u64) -> Result<(), GithubError> {
        self.once(&Call::Close(repo.to_owned(), number)).await.map(drop)
    }

    /// Gives an issue a label, beside those it has.
    pub async fn label(&self, repo: &str, number: u64, label: &str) -> Result<(), GithubError> {
        self.once(&Call::Label(repo.to_owned(), number, label.to_owned())).await.map(drop)
    }

    /// Asks, and asks again while the trouble is a passing one.
    async fn ask(&self, call: &Call) -> Result<Reply, GithubError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let error = match self.once(call).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let GithubError::Missed { passing: true, wait, .. } = &error else { return Err(error) };
            let Some(pause) = pauses.next() else { return Err(error) };
            let pause = wait.unwrap_or(Duration::from_secs(pause));
            if pause > PATIENCE {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// One exchange, its status judged.
    async fn once(&self, call: &Call) -> Result<Reply, GithubError> {
        let what = call.what();
        let missed = |what, why, wait| GithubError::Missed { what, why, passing: true, wait };
        let reply = match self.wire.exchange(call).await {
            Ok(reply) => reply,
            Err(Missed::Unsent(why) | Missed::Unclear(why)) => return Err(missed(what, why, None)),
        };
        let status = reply.status.as_u16();
        let why = self.words(&reply);
        match reply.status {
            s if s.is_success() => Ok(reply),
            // Both kinds of its rate limits come as 403, too; only those say when to come back.
            StatusCode::TOO_MANY_REQUESTS | StatusCode::FORBIDDEN if reply.wait.is_some() => {
                let said = reply.wait.map_or(0, |w| w.as_secs());
                let why = format!(
                    "it wants fewer questions ({status}), and says to come back in {said} s"
                );
                Err(missed(what, why, reply.wait))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(missed(what, format!("{status}: {why}"), None)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                Err(GithubError::Unauthorised { what, status, why })
            }
            s if s.is_client_error() || s.is_redirection() => {
                Err(GithubError::Refused { what, status, why })
            }
            _ => Err(missed(what, format!("{status}: {why}"), reply.wait)),
        }
    }

    /// A stranger's words: short, on one line, without our token.
    fn words(&self, reply: &Reply) -> String {
        #[derive(Deserialize)]
        struct Complaint {
            message: String,
        }
        let said = match serde_json::from_str::<Complaint>(&reply.body) {
            Ok(complaint) => complaint.message,
            Err(_) if reply.json => "it did not say why".to_owned(),
            Err(_) => "it answered with something else than JSON".to_owned(),
        };
        let line: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = redact_tokens(&self.wire.token().redact(&line));
        line.chars().take(200).collect()
    }
}

fn read<T: serde::de::DeserializeOwned>(call: &Call, reply: &Reply) -> Result<T, GithubError> {
    serde_json::from_str(&reply.body).map_err(|e| {
        let why = if reply.json { e.to_string() } else { "it is no JSON".to_owned() };
        GithubError::Form { what: call.what(), why }
    })
}

/// The hidden mark of a comment: which recovery, which issue.
pub fn marker(id: &str, issue: u64) -> String {
    format!("<!-- lifeline recovery {id} issue {issue} -->")
}
