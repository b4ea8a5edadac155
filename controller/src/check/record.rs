//! The papers: a git work tree that will take a commit, where the configured papers are. Nothing is written, no remote is asked.

use super::{Group, Mark};
use crate::config::Config;
use crate::error::CommandError;
use crate::obstacle::chain;
use crate::paper::git::{GitError, Tree};
use std::path::Path;

/// Looks, where a record is configured.
pub async fn look(config: &Config) -> Vec<Mark> {
    let mut group = Group::new("record");
    if let Some(record) = config.record() {
        let tree = Tree::at(&record.dir);
        let paper = record.report.join("report.md").display().to_string();
        let remote = record.branch.as_ref().map(|_| record.remote.as_str());
        if let Err(why) = work_tree(&mut group, &tree, &record.dir).await {
            group.wrong(&CommandError::failed(chain(&why)));
        } else if let Err(why) = papers(&mut group, &tree, &record.papers, &paper, remote).await {
            group.wrong(&CommandError::failed(chain(&why)));
        }
    }
    group.marks
}

async fn work_tree(group: &mut Group<'_>, tree: &Tree, dir: &Path) -> Result<(), GitError> {
    tree.is_work_tree().await?;
    let here = dir.display();
    group.mark(Some(true), format!("{here} is a git work tree"), "");
    match tree.half_done().await? {
        None => {}
        Some(what) => group.mark(
            Some(false),
            format!("in {here} {what}: git commits no single papers meanwhile"),
            format!("end or abort it: git -C {here} status"),
        ),
    }
    if let Err(why) = tree.committer().await {
        group.mark(
            Some(false),
            chain(&why),
            format!("say who commits: git -C {here} config user.email YOU@EXAMPLE"),
        );
    }
    Ok(())
}

async fn papers(
    group: &mut Group<'_>,
    tree: &Tree,
    papers: &[String],
    report: &str,
    remote: Option<&str>,
) -> Result<(), GitError> {
    if tree.ignores(report).await? {
        group.mark(
            Some(false),
            format!("reports go to {report} and the like, which git ignores: they would not be committed"),
            "name another folder as report, or take it out of .gitignore",
        );
    }
    let (good, left) = tree.papers(papers).await?;
    if !good.is_empty() {
        group.mark(Some(true), format!("{} would be committed along", good.join(", ")), "");
        let changed = tree.changed(&good).await?;
        if !changed.is_empty() {
            group.mark(
                None,
                format!(
                    "{} has changes that are not committed, and would be along with a report",
                    changed.join(", ")
                ),
                "commit them yourself first, if they are another matter",
            );
        }
    }
    for why in left {
        group.mark(
            None,
            format!("of the papers, {why}: it would be left out"),
            "correct papers in ctl.toml, if that is not meant",
        );
    }
    // An address in its place is git's own to understand.
    if let Some(remote) = remote.filter(|r| !r.contains(['/', ':'])) {
        match tree.knows(remote).await? {
            true => group.mark(
                Some(true),
                format!("there is a remote {remote} to push to; it was not asked"),
                "",
            ),
            false => group.mark(
                Some(false),
                format!("there is no remote {remote} to push to"),
                "add it with git remote add, or take branch out of [record]",
            ),
        }
    }
    Ok(())
}
