//! `[record]`: where a recovery is written down for others: the papers' repository, and the issues that wait for it.

use super::provider::base_of;
use super::{ConfigError, Line, absolute};
use crate::secret::Reference;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// GitHub's documented address.
pub const API: &str = "https://api.github.com";

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    dir: PathBuf,
    report: Option<Spanned<String>>,
    #[serde(default)]
    papers: Vec<Spanned<String>>,
    remote: Option<String>,
    branch: Option<String>,
    github: Option<WrittenGithub>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGithub {
    repo: Spanned<String>,
    // As with the provider's: another type would be repeated in the parser's error.
    token: Spanned<toml::Value>,
    api: Option<Spanned<String>>,
    ca: Option<PathBuf>,
    #[serde(default)]
    issues: Vec<WrittenIssue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenIssue {
    number: u64,
    comment: Option<String>,
    #[serde(default)]
    close: Option<Spanned<String>>,
    label: Option<String>,
}

/// The papers' repository, and what is told to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The work tree.
    pub dir: PathBuf,
    /// The directory of reports within it.
    pub report: PathBuf,
    /// Other papers that are committed along, where they exist.
    pub papers: Vec<String>,
    /// Where it is pushed to.
    pub remote: String,
    /// The branch there; without one nothing is pushed.
    pub branch: Option<String>,
    /// The issue tracker.
    pub github: Option<Github>,
}

/// The issue tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Github {
    /// `owner/name`.
    pub repo: String,
    /// Where the token is.
    pub token: Reference,
    /// `https://host[:port]`.
    pub api: String,
    /// Believed instead of the system's authorities.
    pub ca: Option<PathBuf>,
    /// How long one answer may take.
    pub timeout: Duration,
    /// What is told to whom.
    pub issues: Vec<Issue>,
}

/// An issue, and what is done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Its number.
    pub number: u64,
    /// What is written to it.
    pub comment: Option<String>,
    /// Closed as not planned.
    pub close: bool,
    /// Gets this label.
    pub label: Option<String>,
}

impl Written {
    pub(super) fn check(self, base: &Path, line: &Line<'_>) -> Result<Record, ConfigError> {
        let inside = |p: &Spanned<String>| match within(p.get_ref()) {
            true => Ok(p.get_ref().clone()),
            false => Err(line.wrong(
                p.span().start,
                format!("{:?} must be a path within dir", p.get_ref()),
                None,
            )),
        };
        let report = self.report.as_ref().map(inside).transpose()?.unwrap_or_default();
        let papers = self.papers.iter().map(inside).collect::<Result<Vec<_>, _>>()?;
        Ok(Record {
            dir: absolute(base, &self.dir),
            report: report.into(),
            papers,
            remote: self.remote.unwrap_or_else(|| "origin".to_owned()),
            branch: self.branch,
            github: self.github.map(|g| g.check(base, line)).transpose()?,
        })
    }
}

impl WrittenGithub {
    fn check(self, base: &Path, line: &Line<'_>) -> Result<Github, ConfigError> {
        let part = |p: &str| {
            !p.is_empty()
                && !p.starts_with('.')
                && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let repo = self.repo.get_ref();
        if !repo.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name)) {
            let why = format!("{repo:?} is no OWNER/NAME");
            return Err(line.wrong(self.repo.span().start, why, None));
        }
        let token = super::provider::reference(&self.token, base, line)?;
        let api = match &self.api {
            Some(a) => base_of(a.get_ref()).map_err(|why| line.wrong(a.span().start, why, None))?,
            None => API.to_owned(),
        };
        let issue = |i: WrittenIssue| {
            if let Some(close) = i.close.as_ref().filter(|c| c.get_ref() != "not-planned") {
                let why = "close can only be \"not-planned\": an incident completes nothing";
                return Err(line.wrong(close.span().start, why.into(), None));
            }
            Ok(Issue {
                number: i.number,
                comment: i.comment,
                close: i.close.is_some(),
                label: i.label,
            })
        };
        Ok(Github {
            repo: repo.clone(),
            token,
            api,
            ca: self.ca.map(|p| absolute(base, &p)),
            timeout: Duration::from_secs(20),
            issues: self.issues.into_iter().map(issue).collect::<Result<_, _>>()?,
        })
    }
}

fn within(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};
    use std::path::Path;

    const GOOD: &str = r##"
cluster = "lab"
[record]
dir = "papers"
report = "docs/incidents"
papers = ["RECOVERY_PLAN.md"]
branch = "main"
[record.github]
repo = "goldfish-inc/oceanid"
token = "env:GITHUB_TOKEN"
issues = [
  { number = 110, comment = "Blocked.", close = "not-planned" },
  { number = 99, label = "blocked" },
]
"##;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/home/a/ctl.toml"), text)
    }

    #[test]
    fn the_record_is_read_with_what_is_told_to_whom() {
        let config = parse(GOOD).unwrap();
        let record = config.record().unwrap();
        assert_eq!(record.dir, Path::new("/home/a/papers"));
        assert_eq!(record.remote, "origin");
        let github = record.github.as_ref().unwrap();
        assert_eq!((github.api.as_str(), github.issues.len()), (super::API, 2));
        assert!(github.issues[0].close && github.issues[1].label.as_deref() == Some("blocked"));
    }

    #[test]
    fn what_leads_out_of_the_repository_or_closes_as_completed_is_refused_with_its_line() {
        for (from, to, line, why) in [
            ("\"RECOVERY_PLAN.md\"", "\"../secrets\"", 6, "must be a path within dir"),
            ("\"docs/incidents\"", "\"/etc\"", 5, "must be a path within dir"),
            ("goldfish-inc/oceanid", "oceanid", 9, "is no OWNER/NAME"),
            ("\"not-planned\"", "\"completed\"", 12, "close can only be \"not-planned\""),
            ("env:GITHUB_TOKEN", "ghp_canary", 10, "token"),
        ] {
            let error = parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")) && error.contains(why), "{error}");
            assert!(!error.contains("ghp_canary"), "{error}");
        }
    }
}
