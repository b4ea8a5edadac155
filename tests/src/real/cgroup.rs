//! A node's own cgroup in each controller of a version 1 hierarchy, joined before its container starts.
//!
//! With a cgroup namespace that begins there, the container sees it as the top: two kubelets on one machine then never
//! meet, and taking the cgroup away takes away every pod's. On a machine with version 2 alone nspawn delegates the one tree; only
//! its controllers have to reach the node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};
use crate::names;

const TOP: &str = "/sys/fs/cgroup";

/// The mounted controllers of version 1; one mounted for two controllers is there once.
#[must_use]
pub fn controllers() -> Vec<PathBuf> {
    controllers_in(Path::new(TOP))
}

fn controllers_in(top: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(top) else { return Vec::new() };
    // `cpu` is a link to `cpu,cpuacct` where both are mounted together.
    let real = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let v1 = |p: &PathBuf| p.join("cgroup.clone_children").exists() && p.join("tasks").exists();
    let named = |p: &PathBuf| p.file_name().is_some_and(|n| n == "systemd" || n == "unified");
    real.map(|e| e.path()).filter(|p| v1(p) && !named(p)).collect()
}

/// Puts this process into the node's cgroup of every controller.
pub fn join(node: &str) -> Result<()> {
    let pid = std::process::id().to_string();
    for controller in controllers() {
        let above = controller.join(names::cgroup());
        let own = above.join(node);
        for dir in [&above, &own] {
            fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
            // A cpuset is born empty, and takes no process while it is.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(dir, file)?;
            }
        }
        let procs = own.join("cgroup.procs");
        fs::write(&procs, &pid).doing(|| format!("write {}", procs.display()))?;
    }
    Ok(())
}

/// Lets the controllers of version 2 reach a node's cgroup, which has those alone that each cgroup above it hands down.
pub fn hand_down(own: &Path) {
    let above: Vec<&Path> = own.ancestors().skip(1).take(2).collect();
    for dir in above.into_iter().rev() {
        let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            // Refused where processes stand beside the lab's cgroup. A kubelet then names those it lacks.
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).ok();
        }
    }
}

fn inherit(dir: &Path, file: &str) -> Result<()> {
    let (own, Some(above)) = (dir.join(file), dir.parent().map(|p| p.join(file))) else {
        return Ok(());
    };
    if !own.exists() {
        return Ok(());
    }
    let value = fs::read(&above).doing(|| format!("read {}", above.display()))?;
    fs::write(&own, value).doing(|| format!("write {}", own.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_and_the_unified_hierarchy_are_no_controllers() {
        let top = tempfile::tempdir().unwrap();
        for (name, v1) in [("memory", true), ("systemd", true), ("unified", false)] {
            let dir = top.path().join(name);
            fs::create_dir(&dir).unwrap();
            if v1 {
                fs::write(dir.join("cgroup.clone_children"), "0").unwrap();
                fs::write(dir.join("tasks"), "").unwrap();
            }
        }
        std::os::unix::fs::symlink("memory", top.path().join("mem")).unwrap();
        assert_eq!(controllers_in(top.path()), [top.path().join("memory")]);
    }

    #[test]
    fn what_the_top_has_is_handed_down_step_by_step_to_the_node() {
        let top = tempfile::tempdir().unwrap();
        let node = top.path().join("lab/node");
        fs::create_dir_all(&node).unwrap();
        for dir in [top.path(), &top.path().join("lab"), &node] {
            fs::write(dir.join("cgroup.controllers"), "memory\n").unwrap();
        }
        hand_down(&node);
        let handed = |dir: &Path| fs::read_to_string(dir.join("cgroup.subtree_control")).ok();
        assert_eq!(handed(top.path()).as_deref(), Some("+memory"));
        assert_eq!(handed(&top.path().join("lab")).as_deref(), Some("+memory"));
        assert_eq!(handed(&node), None, "nspawn's own to decide");
    }

    #[test]
    fn a_machine_with_version_two_alone_has_none() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("system.slice")).unwrap();
        assert!(controllers_in(top.path()).is_empty());
    }
}
