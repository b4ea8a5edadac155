//! The agent's Debian package on a node: installed, upgraded, refused while it is needed, removed, purged.

use std::path::Path;
use std::time::Duration;

use super::fleet::{Way, ends, forget_host_keys, program, traces};
use super::ground::told;
use super::{Case, Ground, Verdict};
use crate::{names, package};

/// Before the cases of `ctl install`: it leaves an agent that `ctl` has put there, too.
pub const CASES: &[Case] = &[Case {
    name: "the_package_is_installed_upgraded_kept_while_needed_removed_and_purged_without_a_trace",
    run: from_package_to_bare,
}];

/// A node that was left alone is healthy after a look or two.
const SETTLED: Duration = Duration::from_secs(40);
const PID: &str = "systemctl show -p MainPID --value lifeline-agent";

fn carry(g: &Ground<'_>, version: &str) -> Verdict {
    let built = program();
    let built = Path::new(&built).parent().ok_or("the agent's program lies nowhere")?;
    let package = package::pack(built, version, &names::state_dir()).map_err(told)?;
    let bytes = std::fs::read(&package).map_err(told)?;
    std::fs::remove_file(&package).map_err(told)?;
    g.node()?.write(&format!("/root/{version}.deb"), bytes).map_err(told)
}

fn expect(what: &str, seen: &str, wanted: &str) -> Verdict {
    if seen == wanted {
        return Ok(());
    }
    Err(format!("{what}: {wanted:?} was expected, seen was {seen:?}"))
}

fn from_package_to_bare(g: &Ground<'_>) -> Verdict {
    let way = Way::of(g)?;
    forget_host_keys();
    carry(g, "1")?;
    carry(g, "2")?;
    g.sh("rm -rf /root/papers; cp -a /etc/lifeline /root/papers")?;
    // A node that ctl has given an agent keeps it.
    if g.sh("test -e /etc/systemd/system/lifeline-agent.service").is_ok()
        && g.sh("dpkg -i /root/1.deb").is_ok()
    {
        return Err("a second agent was installed beside the one that is there".into());
    }
    ends(&way.ctl(g, "uninstall", &["--discard"])?, 0, "")?;
    g.sh("dpkg --purge lifeline-agent 2>/dev/null; true")?;

    // Without papers of its own it does not run: the sample's cluster is nobody's.
    g.sh_patiently("dpkg -i /root/1.deb")?;
    let modes = "stat -c %a /etc/lifeline /etc/lifeline/agent.toml /usr/bin/lifeline-agent";
    expect("modes", &g.sh(modes)?, "700\n600\n755\n")?;
    expect("at first", &g.sh("systemctl is-active lifeline-agent || true")?, "inactive\n")?;
    g.sh("cp -a /root/papers/. /etc/lifeline/ && systemctl enable -q --now lifeline-agent")?;
    g.settled(SETTLED)?;
    let runs = g.sh("readlink /proc/$(systemctl show -p MainPID --value lifeline-agent)/exe")?;
    expect("what runs", &runs, "/usr/bin/lifeline-agent\n")?;

    let (pid, config) = (g.sh(PID)?, g.sh("sha256sum /etc/lifeline/*")?);
    g.sh_patiently("dpkg -i /root/2.deb")?;
    if g.sh(PID)? == pid {
        return Err("an upgrade did not start the new program".into());
    }
    expect(
        "configuration and keys after an upgrade",
        &g.sh("sha256sum /etc/lifeline/*")?,
        &config,
    )?;
    g.settled(SETTLED)?;

    // A configuration that the new program would refuse leaves the old one running.
    let pid = g.sh(PID)?;
    g.sh("echo 'colour = 1' >> /etc/lifeline/agent.toml")?;
    g.sh_patiently("dpkg -i /root/2.deb")?;
    expect("what runs beside a broken configuration", &g.sh(PID)?, &pid)?;
    g.sh("cp -a /root/papers/agent.toml /etc/lifeline/agent.toml")?;

    // An agent that lowers no guard stands still; what stands then is needed.
    g.sh("systemctl kill -s STOP lifeline-agent; ip rule add to 198.51.100.0/24 lookup main pref 5000 protocol 213")?;
    let removed = g.sh("dpkg -r lifeline-agent");
    let left = g.sh("ip rule | grep -c 198.51.100.0; systemctl is-active lifeline-agent");
    g.sh("ip rule del pref 5000; systemctl kill -s CONT lifeline-agent")?;
    if removed.is_ok() {
        return Err("it was removed although the guard stood".into());
    }
    expect("what a refused removal leaves", &left?, "1\nactive\n")?;
    g.settled(SETTLED)?;

    g.sh_patiently("dpkg -r lifeline-agent")?;
    let left = "ls /etc/lifeline/agent.toml /etc/lifeline/agent.key; ls -d /var/lib/lifeline/journal; pgrep -c lifeline; \
                { ip rule; ip -6 rule; } | grep -c 'proto 213'; systemctl is-enabled lifeline-agent 2>/dev/null; true";
    let wanted =
        "/etc/lifeline/agent.key\n/etc/lifeline/agent.toml\n/var/lib/lifeline/journal\n0\n0\n";
    expect("what a removal leaves", &g.sh(left)?, wanted)?;
    g.sh_patiently("dpkg -P lifeline-agent")?;
    traces(g)?;
    g.sh("rm -rf /root/papers /root/1.deb /root/2.deb")?;
    // The cases after this one need an agent.
    ends(&way.install(g, &program(), &[])?, 0, "installed").map(drop)
}
