//! Issues, comments, labels, and what was asked.

use crate::standin::outside::Told;
use crate::standin::trouble::Trouble;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};

/// Who the token belongs to.
pub(super) const ME: &str = "alice";

/// One issue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issue {
    pub number: u64,
    pub title: String,
    /// `open` or `closed`.
    pub state: String,
    /// `completed`, `not_planned`, `duplicate`, `reopened`, or nothing.
    pub state_reason: Option<String>,
    pub labels: Vec<String>,
    pub comments: Vec<Comment>,
    /// Its conversation is locked: nobody comments.
    pub locked: bool,
    /// It was deleted, or issues were switched off.
    pub gone: bool,
    /// It is now in another repository: this is its address there.
    pub moved: Option<String>,
}

/// One comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    pub id: u64,
    pub author: String,
    pub body: String,
    pub since: String,
}

impl Issue {
    #[must_use]
    pub fn open(number: u64, title: &str) -> Self {
        Self { number, title: title.to_owned(), state: "open".to_owned(), ..Self::default() }
    }
}

pub(super) struct State {
    pub token: String,
    /// `owner/name`.
    pub repository: String,
    pub issues: Vec<Issue>,
    /// Labels the repository knows.
    pub labels: BTreeSet<String>,
    pub troubles: VecDeque<Trouble>,
    pub asked: Vec<Told>,
    pub read_only: bool,
    next: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State of {} with {} issues", self.repository, self.issues.len())
    }
}

impl State {
    pub(super) fn new(token: &str, repository: &str, issues: Vec<Issue>) -> Self {
        let labels = issues.iter().flat_map(|i| i.labels.iter().cloned()).collect();
        Self {
            token: token.to_owned(),
            repository: repository.to_owned(),
            issues,
            labels,
            troubles: VecDeque::new(),
            asked: Vec::new(),
            read_only: false,
            next: 3_396_581_000,
        }
    }

    pub(super) fn find(&mut self, number: u64) -> Option<&mut Issue> {
        self.issues.iter_mut().find(|i| i.number == number)
    }

    pub(super) fn comment(&mut self, number: u64, author: &str, body: &str) -> Option<Comment> {
        let id = self.next;
        let comment =
            Comment { id, author: author.to_owned(), body: body.to_owned(), since: now() };
        self.find(number)?.comments.push(comment.clone());
        self.next += 1;
        Some(comment)
    }

    /// As published, with fields a client may meet and need not know.
    pub(super) fn document(&self, issue: &Issue) -> Value {
        let (at, n) = (format!("/repos/{}/issues/{}", self.repository, issue.number), issue.number);
        let labels: Vec<Value> = issue.labels.iter().map(|l| label(&self.repository, l)).collect();
        json!({
            "id": 3_100_000_000_u64 + n, "node_id": format!("I_kwDOLab{n}"), "number": n, "title": issue.title,
            "url": format!("https://api.github.com{at}"), "comments_url": format!("https://api.github.com{at}/comments"),
            "html_url": format!("https://github.com/{}/issues/{n}", self.repository),
            "user": user("ryan-taylor"), "labels": labels, "state": issue.state, "state_reason": issue.state_reason,
            "locked": issue.locked, "active_lock_reason": null, "assignee": null, "assignees": [], "milestone": null,
            "comments": issue.comments.len(), "author_association": "OWNER", "body": "As planned.",
            "created_at": "2025-10-01T08:00:00Z", "updated_at": now(),
            "closed_at": if issue.state == "closed" { json!(now()) } else { Value::Null },
        })
    }

    pub(super) fn comment_document(&self, number: u64, comment: &Comment) -> Value {
        let id = comment.id;
        json!({
            "id": id, "node_id": format!("IC_kwDOLab{id}"), "body": comment.body, "user": user(&comment.author),
            "url": format!("https://api.github.com/repos/{}/issues/comments/{id}", self.repository),
            "html_url": format!("https://github.com/{}/issues/{number}#issuecomment-{id}", self.repository),
            "issue_url": format!("https://api.github.com/repos/{}/issues/{number}", self.repository),
            "created_at": comment.since, "updated_at": comment.since, "author_association": "COLLABORATOR",
            "performed_via_github_app": null,
        })
    }
}

pub(super) fn label(repository: &str, name: &str) -> Value {
    json!({"id": 208_045_946, "node_id": "LA_kwDOLab", "name": name, "color": "ededed", "default": false,
        "description": null, "url": format!("https://api.github.com/repos/{repository}/labels/{name}")})
}

pub(super) fn user(login: &str) -> Value {
    json!({"login": login, "id": 1, "type": "User", "site_admin": false, "html_url": format!("https://github.com/{login}")})
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
