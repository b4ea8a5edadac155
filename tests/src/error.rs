//! What can go wrong in the lab; each variant names what was being done and to what.

use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("{doing}")]
    Io { doing: String, source: std::io::Error },
    #[error("{doing}: ended with {status}: {said}")]
    Tool { doing: String, status: String, said: String },
    #[error("{doing}: not done after {} s", .after.as_secs())]
    TimedOut { doing: String, after: Duration },
    #[error("{what}\n  try: {hint}")]
    Missing { what: String, hint: String },
    #[error("{0}")]
    Refused(String),
    #[error("node {node}: {trouble}")]
    Node { node: String, trouble: String },
    #[error("read {what}")]
    Format { what: String, source: serde_json::Error },
    #[error("make certificate {what}")]
    Certificate { what: String, source: rcgen::Error },
}

pub type Result<T> = std::result::Result<T, LabError>;

/// Gives an I/O or kernel error its subject.
pub trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| LabError::Io { doing: what(), source: e.into() })
    }
}
