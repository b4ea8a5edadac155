//! Every precondition of a recovery, looked at before one is needed: on the laptop, in the cluster, on each node.

mod cluster;
mod laptop;
mod node;
mod programs;
mod provider;
mod record;

use crate::agent::Agent;
use crate::cli::Global;
use crate::config::Config;
use crate::error::CommandError;
use crate::out::Out;
use crate::session::{AT_ONCE, Session};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Certificates that end sooner are worth a word.
const SOON_S: i64 = 2 * 86_400;

/// One condition that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// `laptop`, `cluster`, `provider`, `record`, `nodes` (what is between them), or the node's name.
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

/// Looks at everything that is configured. What one part needs of another that failed is not looked at, and that is said.
pub async fn look(global: &Global, named: &[String], out: Out) -> Vec<Mark> {
    let (mut marks, session) = laptop::look(global, out).await;
    let say = |what: &str| {
        // A script has no use for it, and a person sees that nothing hangs.
        if out.interactive {
            out.say(what);
        }
    };
    // A certificate that agents would refuse hides nothing of what others can be asked; what is wrong with the file itself was said.
    let config = Config::load_if_there(global.config.as_deref()).ok().flatten();
    let config = config.as_ref();
    say("Asking what is configured: the cluster, the provider, the papers, each node's agent …");
    let (cluster, provider, record, agents) = tokio::join!(
        cluster::look(config),
        async {
            match config {
                Some(config) => provider::look(config).await,
                None => Vec::new(),
            }
        },
        async {
            match config {
                Some(config) => record::look(config).await,
                None => Vec::new(),
            }
        },
        nodes(session.as_ref(), named, &say)
    );
    marks.extend(cluster.into_iter().chain(provider).chain(record).chain(agents));
    marks
}

/// Every node's agent, many at a time and in the order of their names.
async fn nodes(session: Option<&Session>, named: &[String], say: &impl Fn(&str)) -> Vec<Mark> {
    let mut between = Group::new("nodes");
    let Some(session) = session else {
        between.mark(Some(false), "no agent was asked: the laptop is not ready to", "see above");
        return between.marks;
    };
    let nodes = match session.nodes(named).await {
        Ok(nodes) => nodes,
        Err(why) => {
            between.wrong(&why);
            return between.marks;
        }
    };
    if let Some(why) = session.unlisted() {
        between.wrong(&why);
    }
    let done = AtomicUsize::new(0);
    let looks = nodes.iter().map(|name| async {
        let answer = session.agent(name).await;
        let denied =
            answer.as_ref().ok().map(|a| (a.node.clone(), a.status.denied_serials.clone()));
        let marks = node::look(session, name, answer).await;
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        say(&format!("{done} of {} agents looked at", nodes.len()));
        (marks, denied)
    });
    let looks: Vec<_> = stream::iter(looks).buffered(AT_ONCE).collect().await;
    let (marks, denied): (Vec<_>, Vec<_>) = looks.into_iter().unzip();
    let denied: Vec<_> = denied.into_iter().flatten().collect();
    denials(&mut between, &denied);
    marks.into_iter().flatten().chain(between.marks).collect()
}

/// A certificate that one agent refuses and another serves is half revoked.
fn denials(group: &mut Group<'_>, lists: &[(String, Vec<String>)]) {
    let all: BTreeSet<&String> = lists.iter().flat_map(|(_, list)| list).collect();
    for serial in &all {
        let welcome: Vec<&str> =
            lists.iter().filter(|(_, l)| !l.contains(serial)).map(|(n, _)| n.as_str()).collect();
        match welcome.is_empty() {
            true => group.mark(
                Some(true),
                format!("certificate {serial} is refused by every agent that answered"),
                "",
            ),
            false => group.mark(
                Some(false),
                format!(
                    "certificate {serial} is refused elsewhere, and welcome at {}",
                    welcome.join(", ")
                ),
                format!("ctl pki revoke {serial} --node {}", welcome.join(" --node ")),
            ),
        }
    }
}

/// What was answered by a node's agent.
type Answer = Result<Agent, CommandError>;
