//! `[verify]`: what must be true of a cluster that is well.

use serde::Deserialize;

/// What must be true, as `[verify]` of the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// So many Ready nodes; all of them when it is not said.
    pub nodes: Option<usize>,
    /// Workloads that matter.
    pub workloads: Vec<Workload>,
    /// What must stand in a log.
    pub logs: Vec<Log>,
    /// What must be reachable from every node.
    pub reach: Vec<Reach>,
    /// Parts of names of which nothing may be left.
    pub remnants: Vec<String>,
}

/// A workload that matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Labels of its pods: `app=web`.
    pub selector: String,
    /// Pods that must be ready.
    #[serde(default = "one")]
    pub ready: usize,
}

/// What must stand in the last lines of a workload's log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Its namespace.
    pub namespace: String,
    /// Labels of its pods.
    pub selector: String,
    /// The text.
    pub contains: String,
    /// So many lines.
    #[serde(default = "fifty")]
    pub lines: i64,
}

/// What must be reachable.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// `http://NAME.NAMESPACE.svc.cluster.local:PORT/PATH`
    pub url: String,
    /// An image that nodes have already, with a shell and any of curl, wget, or (for plain http) nc.
    pub image: String,
    /// Where the asking pod is made.
    #[serde(default = "default_space")]
    pub namespace: String,
}

fn one() -> usize {
    1
}

fn fifty() -> i64 {
    50
}

fn default_space() -> String {
    "default".to_owned()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use std::path::Path;

    #[test]
    fn what_must_be_true_is_read_and_a_mistyped_key_is_named() {
        let text = "cluster = \"lab\"\n[verify]\nnodes = 2\nremnants = [\"tailscale\"]\n[[verify.workloads]]\n\
                    namespace = \"apps\"\nselector = \"app=web\"\n";
        let config = Config::parse(Path::new("/x/ctl.toml"), text).unwrap();
        assert_eq!((config.verify.nodes, config.verify.workloads[0].ready), (Some(2), 1));
        let wrong = Config::parse(Path::new("/x/ctl.toml"), &text.replace("selector", "selektor"));
        assert!(wrong.unwrap_err().to_string().contains("selektor"));
    }
}
