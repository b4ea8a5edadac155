//! Which pods have processes on this node, whatever the API server still knows of them: by the control groups that the kubelet made.

use lifeline_core::supervisor::Supervisor;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Pods that may be asked for at once; a node has some hundred.
pub const MOST: usize = 1_000;
/// Reading the control group of every process takes some milliseconds.
const LIMIT: Duration = Duration::from_secs(3);

/// Those of the pods that have a process here, looked for off the loop.
///
/// # Errors
/// Says why the process table could not be read in time.
pub async fn on_this_node(uids: Vec<String>) -> Result<Vec<String>, String> {
    let looking = tokio::task::spawn_blocking(move || alive(Path::new("/proc"), &uids));
    let why = match timeout(LIMIT, looking).await {
        Ok(Ok(Ok(alive))) => return Ok(alive),
        Ok(Ok(Err(why))) => why.to_string(),
        Ok(Err(why)) => why.to_string(),
        Err(_) => format!("not done within {LIMIT:?}"),
    };
    Err(format!("look for pods' processes: {why}"))
}

/// Those of the pods that have a process; `proc` is `/proc`.
///
/// # Errors
/// When the process table cannot be read: that is not the same as nobody being there. A process that ends meanwhile is no error.
fn alive(proc: &Path, uids: &[String]) -> io::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        match fs::read_to_string(entry.path().join("cgroup")) {
            // `HIERARCHY:CONTROLLERS:PATH`, one line for each hierarchy.
            Ok(groups) => found.extend(
                groups
                    .lines()
                    .filter_map(|line| line.splitn(3, ':').nth(2))
                    .filter_map(Supervisor::of_cgroup)
                    .filter_map(|of| match of {
                        Supervisor::Pod { uid, .. } => Some(uid),
                        _ => None,
                    }),
            ),
            // ESRCH: it ended between the two.
            Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(3) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(uids.iter().filter(|uid| found.contains(*uid)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_alive_while_a_process_is_in_its_control_group_and_an_unreadable_table_is_an_error()
    {
        let proc = tempfile::tempdir().unwrap();
        let uid = "2f1e9c34-6d0b-4f7a-9a55-1c0e8d3b7f21";
        let of = |pid: &str, text: &str| {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("cgroup"), text).unwrap();
        };
        of("1", "0::/init.scope\n");
        of(
            "77",
            "4:cpu,cpuacct:/system.slice/sshd.service\n1:name=systemd:/system.slice/sshd.service\n",
        );
        // It ended before its group was read.
        fs::create_dir(proc.path().join("78")).unwrap();
        fs::create_dir(proc.path().join("sys")).unwrap();
        let asked = [uid.to_owned(), "another".to_owned()];
        assert!(alive(proc.path(), &asked).unwrap().is_empty());
        of(
            "90",
            &format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/cri-containerd-7c1d.scope\n",
                uid.replace('-', "_")
            ),
        );
        assert_eq!(alive(proc.path(), &asked).unwrap(), [uid]);
        assert!(alive(Path::new("/nowhere"), &asked).is_err());
    }
}
