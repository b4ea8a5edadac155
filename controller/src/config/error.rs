//! Why the operator's configuration cannot be used.

use crate::files;
use std::path::PathBuf;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration")]
    File {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        #[source]
        source: files::FileError,
    },
    /// A line cannot be used.
    #[error("read configuration {}, line {line}: {why}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        why: String,
        /// The key that was probably meant.
        meant: Option<String>,
    },
    /// There is no home directory to look in.
    #[error("find the configuration: neither LIFELINE_CONFIG nor HOME is set")]
    NoHome,
    /// No such node.
    #[error("find node {name}: it is not in {}", path.display())]
    UnknownNode {
        /// As typed.
        name: String,
        /// File.
        path: PathBuf,
        /// The node that was probably meant.
        meant: Option<String>,
        /// All nodes there are.
        known: Vec<String>,
    },
    /// No `[provider]`, or none of its machines.
    #[error("read configuration {}: {what}", path.display())]
    NoVps {
        /// File.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// No `[tls]`.
    #[error("read configuration {}: it has no [tls] section, which the network needs", path.display())]
    NoTls {
        /// File.
        path: PathBuf,
    },
}
