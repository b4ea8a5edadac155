//! Phase 9: the report, and where it goes; each step known again by the recovery's id, so that none is taken twice.

use super::book::Book;
use super::op::{Left, RunbookOp, Seen};
use super::opened::Opened;
use super::report::{Story, Told, mark, markdown};
use super::run::Shelf;
use crate::config::Record;
use crate::files::{self, Present};
use crate::obstacle::chain;
use crate::paper::git::{self, Tree};
use crate::paper::github::{self, Tracker};
use lifeline_core::engine::Journal;
use lifeline_core::report::Clean;
use std::path::{Path, PathBuf};

/// What is recorded, and where.
#[derive(Debug)]
pub struct Papers<'a> {
    /// Where it is written down here.
    pub book: &'a Book,
    /// How it began.
    pub opened: &'a Opened,
    /// The configuration's part.
    pub record: Option<&'a Record>,
    /// The issue tracker, or why it cannot be asked.
    pub tracker: Result<Tracker, String>,
}

impl Papers<'_> {
    /// Everything, in order.
    pub fn ops(&self) -> Vec<RunbookOp> {
        let Some(path) = self.opened.report.clone() else { return Vec::new() };
        let mut ops = vec![RunbookOp::ReportWritten { path: path.clone() }];
        let Some(record) = self.record else { return ops };
        let (dir, id) = (record.dir.display().to_string(), self.opened.id.clone());
        // A report that was sent elsewhere by name is no paper of the repository.
        let own = Path::new(&path).strip_prefix(&record.dir).ok();
        let own = own.map(|p| p.display().to_string());
        let paths: Vec<String> = own.into_iter().chain(record.papers.iter().cloned()).collect();
        ops.push(RunbookOp::Committed { dir: dir.clone(), paths, id: id.clone() });
        if let Some(branch) = &record.branch {
            let (remote, branch) = (record.remote.clone(), branch.clone());
            ops.push(RunbookOp::Pushed { dir, remote, branch, id });
        }
        let Some(github) = &record.github else { return ops };
        for i in &github.issues {
            let (repo, issue) = (github.repo.clone(), i.number);
            if let Some(text) = i.comment.clone() {
                let marker = github::marker(&self.opened.id, issue);
                ops.push(RunbookOp::Commented { repo: repo.clone(), issue, text, marker });
            }
            if let Some(label) = i.label.clone() {
                let left = Left::Label(label);
                ops.push(RunbookOp::IssueLeft { repo: repo.clone(), issue, left });
            }
            if i.close {
                ops.push(RunbookOp::IssueLeft { repo, issue, left: Left::NotPlanned });
            }
        }
        ops
    }

    fn tracker(&self) -> Result<&Tracker, String> {
        self.tracker.as_ref().map_err(Clone::clone)
    }

    /// Looks at what one of them is about.
    pub async fn look(&self, op: &RunbookOp) -> Result<Seen, String> {
        match op {
            RunbookOp::ReportWritten { path } => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Seen::is(
                    text.starts_with(&mark(&self.opened.id)),
                    format!("report: {path}"),
                )),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    Ok(Seen::is(false, format!("{path} is not there")))
                }
                Err(e) => Err(format!("read {path}: {e}")),
            },
            RunbookOp::Committed { dir, paths, id } => {
                let tree = Tree::at(Path::new(dir));
                if let Some(commit) = tree.commit_of(id).await.map_err(|e| chain(&e))? {
                    return Ok(Seen::is(true, format!("committed as {commit}")).known_by(commit));
                }
                let (good, left) = tree.papers(paths).await.map_err(|e| chain(&e))?;
                if good.is_empty() {
                    return Err(format!("there is nothing to commit: {}", left.join("; ")));
                }
                let left = if left.is_empty() {
                    String::new()
                } else {
                    format!("; left out: {}", left.join("; "))
                };
                Ok(Seen::is(false, format!("{}{left}", good.join(", "))))
            }
            RunbookOp::Pushed { dir, remote, branch, id } => {
                let tree = Tree::at(Path::new(dir));
                let Some(commit) = tree.commit_of(id).await.map_err(|e| chain(&e))? else {
                    return Err("there is no commit to push".to_owned());
                };
                let has = tree.has(remote, branch, &commit).await.map_err(|e| chain(&e))?;
                let words =
                    if has { format!("{remote} {branch} has {commit}") } else { String::new() };
                Ok(Seen::is(has, words).known_by(commit))
            }
            RunbookOp::Commented { repo, issue, marker, .. } => {
                let found = self.tracker()?.marked(repo, *issue, marker).await;
                Ok(match found.map_err(|e| chain(&e))? {
                    Some(id) => Seen::is(true, format!("{repo}#{issue} has comment {id}"))
                        .known_by(id.to_string()),
                    None => Seen::is(false, String::new()),
                })
            }
            RunbookOp::IssueLeft { repo, issue, left } => {
                let seen = self.tracker()?.issue(repo, *issue).await.map_err(|e| chain(&e))?;
                Ok(match left {
                    // Closed by somebody for another reason: that is theirs.
                    Left::NotPlanned if seen.is_closed() => {
                        Seen::is(true, format!("{repo}#{issue} is closed, {}", seen.reason()))
                    }
                    Left::NotPlanned => Seen::is(false, format!("{repo}#{issue} is open")),
                    Left::Label(label) => Seen::is(seen.has(label), String::new()),
                })
            }
            other => Err(format!("{other} is no paper")),
        }
    }

    /// Does it.
    pub async fn act(&self, op: &RunbookOp) -> Result<(), String> {
        match op {
            RunbookOp::ReportWritten { path } => self.write(Path::new(path)),
            RunbookOp::Committed { dir, paths, id } => {
                let tree = Tree::at(Path::new(dir));
                let (good, _) = tree.papers(paths).await.map_err(|e| chain(&e))?;
                let summary = self.summary();
                let message = git::message(&self.opened.cluster, id, &summary, &self.issues());
                tree.commit(&good, &message).await.map_err(|e| chain(&e))
            }
            RunbookOp::Pushed { dir, remote, branch, id } => {
                let tree = Tree::at(Path::new(dir));
                let commit = tree.commit_of(id).await.map_err(|e| chain(&e))?;
                let commit = commit.ok_or("there is no commit to push")?;
                tree.push(remote, branch, &commit).await.map_err(|e| chain(&e))
            }
            RunbookOp::Commented { repo, issue, text, marker } => {
                let text = format!("{}\n\n{marker}\n", Clean::of(text));
                self.tracker()?.comment(repo, *issue, &text).await.map_err(|e| chain(&e))
            }
            RunbookOp::IssueLeft { repo, issue, left } => {
                let tracker = self.tracker()?;
                match left {
                    Left::NotPlanned => tracker.close(repo, *issue).await,
                    Left::Label(label) => tracker.label(repo, *issue, label).await,
                }
                .map_err(|e| chain(&e))
            }
            other => Err(format!("{other} is no paper")),
        }
    }

    fn issues(&self) -> Vec<u64> {
        let github = self.record.and_then(|r| r.github.as_ref());
        github.map(|g| g.issues.iter().map(|i| i.number).collect()).unwrap_or_default()
    }

    fn summary(&self) -> String {
        let nodes = self.opened.nodes.iter().filter(|n| !n.is_well());
        let lines: Vec<_> = nodes.map(|n| format!("- {}: {}", n.name, n.words())).collect();
        format!("As it was found:\n{}", lines.join("\n"))
    }

    fn write(&self, path: &Path) -> Result<(), String> {
        let runs = runs(self.book).map_err(|e| chain(&e))?;
        let notes = self.book.notes().map_err(|e| chain(&e))?;
        let kept = self.book.kept().map_err(|e| chain(&e))?;
        let story = Story { opened: self.opened, runs: &runs, notes: &notes, kept: &kept };
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(dir) = dir {
            std::fs::create_dir_all(dir).map_err(|e| format!("create {}: {e}", dir.display()))?;
        }
        files::write(path, &markdown(&story), 0o644, Present::Replace).map_err(|e| chain(&e))
    }
}

/// All runs, in the order they began.
pub fn runs(book: &Book) -> Result<Vec<Told>, super::book::BookError> {
    let mut runs = Vec::new();
    for name in book.runs()? {
        let entries = book.run(&name)?.entries().to_vec();
        if !entries.is_empty() {
            runs.push(Told { name, entries });
        }
    }
    runs.sort_by_key(|r| r.entries.first().map(|e| e.stamp.wall_ms));
    Ok(runs)
}

/// Where the report goes unless it is told otherwise: with the papers, or beside the journals.
pub fn usual(record: Option<&Record>, cluster: &str, id: &str) -> Option<PathBuf> {
    let record = record?;
    Some(record.dir.join(&record.report).join(format!("recovery-{cluster}-{id}.md")))
}
