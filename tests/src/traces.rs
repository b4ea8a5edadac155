//! What of a lab is to be seen on the host, looked for by other means than the lab's own sweep.

use crate::error::Result;
use crate::{names, run};

/// Namespaces, devices, mounts, cgroups, folders and processes that bear the lab's name, a line each.
pub fn of(lab: &str) -> Result<Vec<String>> {
    let prefix = format!("lifeline.{lab}-");
    let look = format!(
        "ip netns list; ip -o link; cat /proc/self/mountinfo; \
         find /sys/fs/cgroup -maxdepth 3 -name '*{prefix}*'; \
         find /run /var/tmp -maxdepth 4 -name '*{prefix}*' 2>/dev/null; \
         ps -ww -e -o stat=,args= | grep -v '^Z'"
    );
    let seen = run::host("sh", &["-c", &look])?.stdout;
    let mine = |l: &&str| l.contains(&prefix) && !l.contains("find /sys");
    Ok(seen.lines().filter(mine).map(str::to_owned).collect())
}

/// Those of the lab this process has to do with.
pub fn ours() -> Result<Vec<String>> {
    of(names::chosen())
}
