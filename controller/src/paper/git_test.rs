//! `git` itself as the witness: real repositories in a directory of their own.

use super::git::{GitError, TRAILER, Tree, message, tame};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(dir).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A work tree with one commit, and a bare remote.
fn papers() -> (TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let (bare, dir) = (place.path().join("remote.git"), place.path().join("papers"));
    std::fs::create_dir(&dir).unwrap();
    git(place.path(), &["init", "-q", "--bare", "-b", "main", bare.to_str().unwrap()]);
    git(&dir, &["init", "-q", "-b", "main"]);
    git(&dir, &["config", "user.name", "Alice"]);
    git(&dir, &["config", "user.email", "alice@example.org"]);
    git(&dir, &["remote", "add", "origin", bare.to_str().unwrap()]);
    std::fs::write(dir.join(".gitignore"), "ignored.md\n").unwrap();
    git(&dir, &["add", ".gitignore"]);
    git(&dir, &["commit", "-q", "-m", "first"]);
    (place, dir)
}

fn list(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

#[tokio::test]
async fn only_what_exists_and_is_not_ignored_is_committed_and_the_index_stays_the_operators() {
    let (_place, dir) = papers();
    for name in ["report.md", "ignored.md", "half-written.md"] {
        std::fs::write(dir.join(name), name).unwrap();
    }
    git(&dir, &["add", "half-written.md"]);
    let tree = Tree::at(&dir);
    let (good, left) =
        tree.papers(&list(&["report.md", "ignored.md", "missing.md"])).await.unwrap();
    assert_eq!(good, ["report.md"]);
    assert_eq!(left, ["ignored.md is ignored", "missing.md is not there"]);
    assert_eq!(tree.commit_of("r-1").await.unwrap(), None);
    tree.commit(&good, &message("lab", "r-1", "As it was found.", &[110, 99])).await.unwrap();
    assert_eq!(git(&dir, &["show", "--format=", "--name-only", "HEAD"]), "report.md");
    assert_eq!(git(&dir, &["diff", "--cached", "--name-only"]), "half-written.md");
    let commit = git(&dir, &["rev-parse", "HEAD"]);
    assert_eq!(tree.commit_of("r-1").await.unwrap(), Some(commit));
    assert_eq!(tree.commit_of("r-2").await.unwrap(), None);
    let trailer = format!("--format=%(trailers:key={TRAILER},valueonly)");
    assert_eq!(git(&dir, &["log", "-1", &trailer]), "r-1");
    // A file that is known already, and has changed.
    std::fs::write(dir.join("report.md"), "again").unwrap();
    tree.commit(&good, &message("lab", "r-2", "x", &[])).await.unwrap();
    assert!(tree.commit_of("r-2").await.unwrap().is_some());
}

#[tokio::test]
async fn a_commit_that_a_hook_refuses_leaves_the_index_as_it_was() {
    let (_place, dir) = papers();
    let hook = dir.join(".git/hooks/pre-commit");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho no papers on a Sunday >&2\nexit 1\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.join("report.md"), "x").unwrap();
    std::fs::write(dir.join("mine.md"), "x").unwrap();
    git(&dir, &["add", "mine.md"]);
    let before = git(&dir, &["status", "--porcelain"]);
    let error = Tree::at(&dir).commit(&list(&["report.md"]), "m").await.unwrap_err();
    assert!(error.to_string().contains("no papers on a Sunday"), "{error}");
    assert_eq!(git(&dir, &["status", "--porcelain"]), before);
    assert!(dir.join("report.md").exists());
}

#[tokio::test]
async fn the_remote_is_asked_whether_it_has_the_commit_and_one_that_moved_on_is_not_overrun() {
    let (place, dir) = papers();
    let tree = Tree::at(&dir);
    let first = git(&dir, &["rev-parse", "HEAD"]);
    assert!(!tree.has("origin", "main", &first).await.unwrap());
    tree.push("origin", "main", &first).await.unwrap();
    assert!(tree.has("origin", "main", &first).await.unwrap());
    // Somebody else pushes.
    let other = place.path().join("other");
    git(place.path(), &["clone", "-q", place.path().join("remote.git").to_str().unwrap(), "other"]);
    git(
        &other,
        &["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-q", "--allow-empty", "-m", "b"],
    );
    git(&other, &["push", "-q", "origin", "main"]);
    std::fs::write(dir.join("report.md"), "x").unwrap();
    tree.commit(&list(&["report.md"]), &message("lab", "r-1", "x", &[])).await.unwrap();
    let ours = git(&dir, &["rev-parse", "HEAD"]);
    assert!(!tree.has("origin", "main", &ours).await.unwrap());
    let error = tree.push("origin", "main", &ours).await.unwrap_err();
    assert!(error.to_string().contains("rejected"), "{error}");
    let bare = place.path().join("remote.git");
    assert_eq!(git(&bare, &["log", "-1", "--format=%s", "main"]), "b");
}

#[tokio::test]
async fn what_is_no_repository_or_has_no_remote_is_said() {
    let place = tempfile::tempdir().unwrap();
    let error = Tree::at(place.path()).commit_of("r").await.unwrap_err();
    assert!(matches!(&error, GitError::Said { .. }), "{error}");
    assert!(error.to_string().contains("not a git repository"), "{error}");
    let (_place, dir) = papers();
    git(&dir, &["remote", "remove", "origin"]);
    let error = Tree::at(&dir).has("origin", "main", "HEAD").await.unwrap_err();
    assert!(error.to_string().contains("origin"), "{error}");
}

#[test]
fn no_word_of_a_message_closes_an_issue() {
    let text =
        message("lab", "r", "fixes #110 and closes: #99; resolved goldfish/oceanid#95", &[1]);
    for issue in ["#110", "#99", "goldfish/oceanid#95"] {
        assert!(text.contains(&format!("issue {issue}")), "{text}");
    }
    assert_eq!(tame("it fixes the path"), "it fixes the path");
}
