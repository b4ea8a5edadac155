//! The papers' repository, through the operator's own `git`: his keys, his hooks, his name on the commit.
//!
//! Existing and un-ignored paths alone are committed, and by name: what is staged beside them stays staged. A trailer names the
//! recovery, so that a commit that was made before a crash is found, and not made again.

use crate::secret::redact_tokens;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// The trailer's key.
pub const TRAILER: &str = "Lifeline-Recovery";
/// A hook may take its time.
const HERE: Duration = Duration::from_secs(60);
/// So may a remote.
const THERE: Duration = Duration::from_secs(120);

/// Why the repository could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// `git` could not be started.
    #[error("run git {what} in {}", dir.display())]
    Start {
        /// What it was to do.
        what: String,
        /// Where.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It took too long, and was ended.
    #[error("run git {what} in {}: not done after {} s", dir.display(), limit.as_secs())]
    Late {
        /// What it was to do.
        what: String,
        /// Where.
        dir: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// It said no.
    #[error("run git {what} in {}: {why}", dir.display())]
    Said {
        /// What it was to do.
        what: String,
        /// Where.
        dir: PathBuf,
        /// Its words.
        why: String,
    },
}

/// A work tree.
#[derive(Clone, Debug)]
pub struct Tree {
    dir: PathBuf,
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Tree {
    /// The work tree at this path.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    async fn git(&self, args: &[&str], limit: Duration) -> Result<Ran, GitError> {
        let what = || args.first().copied().unwrap_or_default().to_owned();
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.dir).args(args);
        // Nobody answers its questions here; a hook of the repository must not see another one's variables.
        git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_EDITOR", "true").env("LC_ALL", "C");
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
            git.env_remove(name);
        }
        git.stdin(Stdio::null()).kill_on_drop(true);
        let output = match timeout(limit, git.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => {
                return Err(GitError::Start { what: what(), dir: self.dir.clone(), source });
            }
            Err(_) => return Err(GitError::Late { what: what(), dir: self.dir.clone(), limit }),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    fn said(&self, what: &str, ran: &Ran) -> GitError {
        let words = if ran.err.is_empty() { &ran.out } else { &ran.err };
        let lines: Vec<_> =
            words.lines().map(str::trim).filter(|l| !l.is_empty()).take(4).collect();
        // A remote's address may hold a token.
        let why = redact_tokens(&lines.join(" / "));
        GitError::Said { what: what.to_owned(), dir: self.dir.clone(), why }
    }

    async fn ok(&self, args: &[&str], limit: Duration) -> Result<String, GitError> {
        let ran = self.git(args, limit).await?;
        match ran.code {
            Some(0) => Ok(ran.out),
            _ => Err(self.said(args.first().copied().unwrap_or_default(), &ran)),
        }
    }

    /// Fails, with git's reason, unless this is a work tree.
    pub async fn is_work_tree(&self) -> Result<(), GitError> {
        let what = ["rev-parse", "--is-inside-work-tree"];
        let ran = self.git(&what, HERE).await?;
        match (ran.code, ran.out.as_str()) {
            (Some(0), "true") => Ok(()),
            // A bare repository, or the inside of .git: git finds nothing wrong with either.
            (Some(0), _) => {
                let why = "it is a repository and no work tree".to_owned();
                Err(GitError::Said { what: what[0].to_owned(), dir: self.dir.clone(), why })
            }
            _ => Err(self.said(what[0], &ran)),
        }
    }

    /// What somebody has begun here and not ended, while which git takes no commit of some paths alone.
    pub async fn half_done(&self) -> Result<Option<&'static str>, GitError> {
        if !self.ok(&["ls-files", "--unmerged"], HERE).await?.is_empty() {
            return Ok(Some("files are in conflict"));
        }
        for (name, what) in [
            ("MERGE_HEAD", "a merge is under way"),
            ("CHERRY_PICK_HEAD", "a cherry-pick is under way"),
        ] {
            if self.git(&["rev-parse", "--verify", "-q", name], HERE).await?.code == Some(0) {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    /// Fails, with git's reason, where it does not know who commits.
    pub async fn committer(&self) -> Result<(), GitError> {
        self.ok(&["var", "GIT_COMMITTER_IDENT"], HERE).await.map(drop)
    }

    /// Would this path be ignored, whether or not it is there?
    pub async fn ignores(&self, path: &str) -> Result<bool, GitError> {
        match self.git(&["check-ignore", "-q", "--", path], HERE).await? {
            Ran { code: Some(0), .. } => Ok(true),
            Ran { code: Some(1), .. } => Ok(false),
            ran => Err(self.said("check-ignore", &ran)),
        }
    }

    /// Those of the paths that differ from what is committed.
    pub async fn changed(&self, paths: &[String]) -> Result<Vec<String>, GitError> {
        let mut changed = Vec::new();
        for path in paths {
            let told = self.ok(&["status", "--porcelain", "--", path], HERE).await?;
            if !told.is_empty() {
                changed.push(path.clone());
            }
        }
        Ok(changed)
    }

    /// Is there a remote of this name? Where it leads is not asked: its address may hold a token.
    pub async fn knows(&self, remote: &str) -> Result<bool, GitError> {
        let all = self.ok(&["remote"], HERE).await?;
        Ok(all.lines().any(|name| name == remote))
    }

    /// The commit of a recovery, if there is one on this branch.
    pub async fn commit_of(&self, id: &str) -> Result<Option<String>, GitError> {
        // A repository without any commit has no history to ask.
        if self.git(&["rev-parse", "--verify", "-q", "HEAD"], HERE).await?.code != Some(0) {
            self.ok(&["rev-parse", "--git-dir"], HERE).await?;
            return Ok(None);
        }
        let wanted = format!("--grep={TRAILER}: {id}");
        let found = self
            .ok(&["log", "-1", "--format=%H", "--fixed-strings", &wanted, "HEAD"], HERE)
            .await?;
        Ok(Some(found).filter(|f| !f.is_empty()))
    }

    /// Those of the paths that exist and are not ignored, and what was wrong with the others.
    pub async fn papers(&self, paths: &[String]) -> Result<(Vec<String>, Vec<String>), GitError> {
        let (mut good, mut left) = (Vec::new(), Vec::new());
        for path in paths {
            if !self.dir.join(path).exists() {
                left.push(format!("{path} is not there"));
                continue;
            }
            match self.ignores(path).await? {
                true => left.push(format!("{path} is ignored")),
                false => good.push(path.clone()),
            }
        }
        Ok((good, left))
    }

    /// Commits these paths and nothing else.
    pub async fn commit(&self, paths: &[String], message: &str) -> Result<(), GitError> {
        let with = |head: &[&'static str]| {
            let mut args: Vec<String> = head.iter().map(|a| (*a).to_owned()).collect();
            args.push("--".to_owned());
            args.extend(paths.iter().cloned());
            args
        };
        let run = async |args: Vec<String>| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            self.ok(&args, HERE).await
        };
        let unknown = run(with(&["ls-files", "--others", "--exclude-standard"])).await?;
        let new: Vec<String> = unknown.lines().map(ToOwned::to_owned).collect();
        if !new.is_empty() {
            let mut args = vec!["add".to_owned(), "--intent-to-add".to_owned(), "--".to_owned()];
            args.extend(new.iter().cloned());
            run(args).await?;
        }
        let mut args =
            vec!["commit".to_owned(), "-q".to_owned(), "-m".to_owned(), message.to_owned()];
        args.extend(["--only".to_owned(), "--".to_owned()]);
        args.extend(paths.iter().cloned());
        let done = run(args).await;
        if done.is_err() && !new.is_empty() {
            // The index is the operator's: what was announced to it is taken back.
            let mut args =
                vec!["rm".to_owned(), "-q".to_owned(), "--cached".to_owned(), "--".to_owned()];
            args.extend(new);
            drop(run(args).await);
        }
        done.map(drop)
    }

    /// Does the remote's branch have this commit?
    pub async fn has(&self, remote: &str, branch: &str, commit: &str) -> Result<bool, GitError> {
        let name = format!("refs/heads/{branch}");
        let told = self.ok(&["ls-remote", "--", remote, &name], THERE).await?;
        let Some(tip) = told.split_whitespace().next() else { return Ok(false) };
        // A tip that is not known here has moved on elsewhere: whether ours is among it, it does not say.
        let ran = self.git(&["merge-base", "--is-ancestor", commit, tip], HERE).await?;
        Ok(ran.code == Some(0))
    }

    /// Pushes the commit, and what stands before it on this branch.
    pub async fn push(&self, remote: &str, branch: &str, commit: &str) -> Result<(), GitError> {
        let what = format!("{commit}:refs/heads/{branch}");
        self.ok(&["push", "-q", "--", remote, &what], THERE).await.map(drop)
    }
}

/// A commit message; an issue is named by a word that closes nothing.
pub fn message(cluster: &str, id: &str, summary: &str, issues: &[u64]) -> String {
    let mut text = format!("docs: recovery of cluster {cluster}\n\n{}\n", tame(summary));
    if !issues.is_empty() {
        let list: Vec<_> = issues.iter().map(|i| format!("#{i}")).collect();
        text.push_str(&format!("\nRelated: {}\n", list.join(", ")));
    }
    text.push_str(&format!("\n{TRAILER}: {id}\n"));
    text
}

/// GitHub closes what stands behind these words, as completed.
const CLOSING: [&str; 9] =
    ["close", "closes", "closed", "fix", "fixes", "fixed", "resolve", "resolves", "resolved"];

/// The text, in which no closing word stands in front of an issue.
pub fn tame(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let issue = word.contains('#') || word.contains("/issues/");
        let closes = out.last().is_some_and(|w| {
            let bare = w.rsplit('\n').next().unwrap_or(w).trim_end_matches(':');
            CLOSING.iter().any(|c| bare.eq_ignore_ascii_case(c))
        });
        if issue && closes {
            out.push("issue".to_owned());
        }
        out.push(word.to_owned());
    }
    out.join(" ")
}
