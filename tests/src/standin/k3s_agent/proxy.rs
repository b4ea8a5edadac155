//! What kube-proxy, kubelet and flannel do to the packet filter when k3s starts: their chains anew, their jumps if missing.
//!
//! Copies `pkg/proxy/iptables/proxier.go syncProxyRules` (own chains in one `iptables-restore --noflush`, jumps by
//! `EnsureRule(Prepend)`), `pkg/kubelet/kubelet_network_linux.go` and flannel's rules (appended). Chains of the CNI plugins are not
//! among them: portmap writes those when a pod's sandbox is made, and at no other time.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::furniture;

/// The two parts of a sync.
#[derive(Debug, PartialEq, Eq, Default)]
struct Sync {
    /// Input for `iptables-restore --noflush`: every own chain is emptied and filled.
    chains: String,
    /// (table, rule without `-A`) of every jump from a built-in chain.
    jumps: Vec<(String, Vec<String>)>,
}

/// Syncs both families of the node this runs on.
pub fn sync() -> anyhow::Result<()> {
    let (v4, v6) = furniture::rules_here()?;
    for (tool, rules) in [("iptables-nft", v4), ("ip6tables-nft", v6)] {
        let sync = plan(&rules);
        feed(&format!("{tool}-restore"), &["--noflush".to_owned()], &sync.chains)?;
        // Backwards, because each is put in front of the last.
        for (table, rule) in sync.jumps.iter().rev() {
            let words = |verb: &str, rule: &[String]| {
                let head = ["-w", "-t", table, verb].map(str::to_owned);
                head.into_iter().chain(rule.iter().cloned()).collect::<Vec<_>>()
            };
            if feed(tool, &words("-C", rule), "").is_err() {
                let flannel = rule.last().is_some_and(|target| target.starts_with("FLANNEL-"));
                feed(tool, &words(if flannel { "-A" } else { "-I" }, rule), "")?;
            }
        }
    }
    Ok(())
}

fn is_own(chain: &str) -> bool {
    chain.starts_with("KUBE-") || chain.starts_with("FLANNEL-")
}

/// Takes from a dump what k3s itself would write.
fn plan(dump: &str) -> Sync {
    let mut sync = Sync::default();
    let mut table = String::new();
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        }
        let own = match line.strip_prefix("-A ").or_else(|| line.strip_prefix(':')) {
            None => line.starts_with('*') || line == "COMMIT",
            Some(rest) => rest.split(' ').next().is_some_and(is_own),
        };
        if own {
            sync.chains += line;
            sync.chains.push('\n');
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            if words.last().is_some_and(|target| is_own(target)) {
                sync.jumps.push((table.clone(), words));
            }
        }
    }
    sync
}

/// Splits a line of iptables-save, which quotes with `"` and escapes with `\`.
pub(crate) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for letter in line.chars() {
        match letter {
            _ if escaped => {
                word.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words
}

fn feed(tool: &str, args: &[String], input: &str) -> anyhow::Result<()> {
    let doing = || format!("run {tool}");
    let mut child = Command::new(tool)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(doing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(doing)?;
    }
    let out = child.wait_with_output().with_context(doing)?;
    ensure!(
        out.status.success(),
        "{tool} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"*nat
:PREROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cbr0\"" -j CNI-DN-x
-A KUBE-SERVICES -d 10.43.0.1/32 -j KUBE-SVC-Y
COMMIT
"#;

    #[test]
    fn own_chains_are_rebuilt_and_those_of_cni_are_not() {
        let sync = plan(DUMP);
        assert_eq!(
            sync.chains,
            "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -d 10.43.0.1/32 -j KUBE-SVC-Y\nCOMMIT\n"
        );
        let jump = [
            "PREROUTING",
            "-m",
            "comment",
            "--comment",
            "kubernetes service portals",
            "-j",
            "KUBE-SERVICES",
        ];
        assert_eq!(sync.jumps, [("nat".to_owned(), jump.map(str::to_owned).to_vec())]);
    }

    #[test]
    fn quotes_and_escapes_of_a_dump_are_understood() {
        assert_eq!(
            words(r#"-m comment --comment "name: \"cbr0\" id" -j X"#),
            ["-m", "comment", "--comment", "name: \"cbr0\" id", "-j", "X"]
        );
    }
}
