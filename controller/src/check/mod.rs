//! Every precondition of a recovery, looked at before one is needed: on the laptop, in the cluster, on each node.

mod cluster;
mod laptop;
mod node;

use crate::agent::Agent;
use crate::cli::Global;
use crate::error::CommandError;
use crate::out::Out;
use serde::Serialize;

/// Certificates that end sooner are worth a word.
const SOON_S: i64 = 2 * 86_400;

/// One condition that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// `laptop`, `cluster`, or the node's name.
    pub group: String,
    /// `null` is worth a word and breaks nothing.
    pub fine: Option<bool>,
    /// What was looked at, and what was seen.
    pub what: String,
    /// What to try.
    pub hint: Option<String>,
}

/// Collects marks of one group.
struct Group<'a> {
    name: &'a str,
    marks: Vec<Mark>,
}

impl<'a> Group<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, marks: Vec::new() }
    }

    fn mark(&mut self, fine: Option<bool>, what: impl Into<String>, hint: impl Into<String>) {
        let hint = Some(hint.into()).filter(|h| !h.is_empty() && fine != Some(true));
        self.marks.push(Mark { group: self.name.to_owned(), fine, what: what.into(), hint });
    }

    fn wrong(&mut self, error: &CommandError) {
        self.mark(
            Some(false),
            error.to_string(),
            error.hints().first().cloned().unwrap_or_default(),
        );
    }

    /// How much longer a certificate is valid.
    fn expiry(&mut self, whose: &str, until_s: i64, soon_s: i64, hint: &str) {
        let left = until_s - jiff::Timestamp::now().as_second();
        let span = match left {
            ..0 => "has expired".to_owned(),
            0..172_800 => format!("is valid for {} more hours", left / 3600),
            _ => format!("is valid for {} more days", left / 86_400),
        };
        let fine = match left {
            ..0 => Some(false),
            _ if left < soon_s => None,
            _ => Some(true),
        };
        self.mark(fine, format!("{whose} {span}"), hint);
    }
}

/// Looks at everything. What one part needs of another that failed is not looked at, and that is said.
pub async fn look(global: &Global, named: &[String], out: Out) -> Vec<Mark> {
    let (mut marks, session) = laptop::look(global, out);
    let config = session.as_ref().and_then(|s| s.config.as_ref());
    marks.extend(cluster::look(config).await);
    let Some(session) = &session else {
        let mut nodes = Group::new("nodes");
        nodes.mark(Some(false), "no agent was asked: the laptop is not ready to", "see above");
        marks.extend(nodes.marks);
        return marks;
    };
    match session.nodes(named).await {
        Ok(nodes) => {
            for (name, answer) in session.each(&nodes).await {
                marks.extend(node::look(session, &name, answer).await);
            }
        }
        Err(why) => {
            let mut nodes = Group::new("nodes");
            nodes.wrong(&why);
            marks.extend(nodes.marks);
        }
    }
    marks
}

/// What was answered by a node's agent.
type Answer = Result<Agent, CommandError>;
