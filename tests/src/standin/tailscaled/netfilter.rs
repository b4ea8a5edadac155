//! The packet filter of the stand-in, in each of the three ways the original may write it.
//!
//! Copies `util/linuxfw`: `iptables_runner.go` (legacy or nft, whichever `iptables` is) and `nftables_runner.go` (native
//! expressions in the tables of iptables-nft). The native ones carry no counter in mangle and are what makes
//! `iptables-nft-save` stop half-way. Not copied: the user data of the two mangle rules, which no tool shows.

use std::{net::IpAddr, process::Stdio};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::say;

/// Which tool writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// iptables-legacy, as in Tailscale's container images up to 1.88 and from 1.96
    Legacy,
    /// iptables over nf_tables, as in 1.90 to 1.94
    IptablesNft,
    /// Native nf_tables expressions, `TS_DEBUG_FIREWALL_MODE=nftables`
    Nft,
}

/// A tool that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It could not be run.
    #[error("run {tool}")]
    Run {
        /// The tool.
        tool: &'static str,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
    /// It said no.
    #[error("{tool} {about}: {said}")]
    Refused {
        /// The tool.
        tool: &'static str,
        /// What was asked of it.
        about: String,
        /// What it printed.
        said: String,
    },
}

/// What the rules depend on.
#[derive(Debug, Clone)]
pub struct Netfilter {
    /// The tool that writes.
    pub backend: Backend,
    /// The tun device.
    pub tun: String,
    /// The node's address in the tailnet, IPv4.
    pub addr4: IpAddr,
    /// The same for IPv6.
    pub addr6: IpAddr,
    /// The port of the daemon's own UDP socket, IPv4.
    pub port4: u16,
    /// The same for IPv6.
    pub port6: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// (table, chain, hook) of every hook.
const HOOKS: [(&str, &str, &str); 3] = [
    ("filter", "INPUT", "ts-input"),
    ("filter", "FORWARD", "ts-forward"),
    ("nat", "POSTROUTING", "ts-postrouting"),
];

const CONNMARK: [(&str, &str); 2] = [
    (
        "PREROUTING",
        "-m conntrack --ctstate RELATED,ESTABLISHED -m connmark ! --mark 0x0/0xff0000 -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000",
    ),
    (
        "OUTPUT",
        "-m conntrack --ctstate NEW -m mark ! --mark 0x0/0xff0000 -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000",
    ),
];

impl Netfilter {
    /// Adds chains, hooks and rules.
    pub async fn add(&self) -> Result<(), Failed> {
        for family in FAMILIES {
            match self.backend {
                Backend::Nft => self.add_native(family).await?,
                _ => self.add_iptables(family).await?,
            }
        }
        Ok(())
    }

    /// Removes everything again, as `Close` does: hooks, rules, chains, marks.
    ///
    /// With native rules a chain that somebody else has removed meanwhile is an error, at which the original stops (`DelBase`); with
    /// iptables it is what was wanted.
    pub async fn delete(&self) -> Result<(), Failed> {
        self.delete_chains().await?;
        for family in FAMILIES {
            for (chain, rule) in CONNMARK {
                note(match self.backend {
                    Backend::Nft => delete_native(family, "mangle", chain, is_connmark).await,
                    _ => self.iptables(family, "mangle", &format!("-D {chain} {rule}")).await,
                });
            }
        }
        Ok(())
    }

    /// Removes what `tailscaled --cleanup` removes: chains and hooks in filter and nat, never the rules in mangle
    /// (`IPTablesCleanUp`, `NfTablesCleanUp`).
    pub async fn clean_up(&self) {
        note(self.delete_chains().await);
    }

    async fn delete_chains(&self) -> Result<(), Failed> {
        for family in FAMILIES {
            for (table, base, chain) in HOOKS {
                match self.backend {
                    Backend::Nft => {
                        let jumps =
                            |rule: &Value| rule.to_string().contains(&format!("\"{chain}\""));
                        delete_native(family, table, base, jumps).await?;
                    }
                    _ => note(self.iptables(family, table, &format!("-D {base} -j {chain}")).await),
                }
            }
        }
        for (verb, word, stops) in
            [("flush chain", "-F", self.backend == Backend::Nft), ("delete chain", "-X", false)]
        {
            for family in FAMILIES {
                for (table, _, chain) in HOOKS {
                    let done = match self.backend {
                        Backend::Nft => {
                            let script = format!("{verb} {} {table} {chain}\n", family.nft());
                            feed("nft", &["-f", "-"], &script).await.map(drop)
                        }
                        _ => self.iptables(family, table, &format!("{word} {chain}")).await,
                    };
                    if stops {
                        done?;
                    } else {
                        note(done);
                    }
                }
            }
        }
        Ok(())
    }

    async fn add_iptables(&self, family: Family) -> Result<(), Failed> {
        for (table, base, chain) in HOOKS {
            self.iptables(family, table, &format!("-N {chain}")).await?;
            self.iptables(family, table, &format!("-I {base} 1 -j {chain}")).await?;
        }
        for (chain, rule) in self.rules(family) {
            let table = if chain == "ts-postrouting" { "nat" } else { "filter" };
            self.iptables(family, table, &format!("-A {chain} {rule}")).await?;
        }
        for (chain, rule) in CONNMARK {
            // A rule left by a killed daemon is found and not doubled (`AddConnmarkSaveRule`).
            if self.iptables(family, "mangle", &format!("-C {chain} {rule}")).await.is_err() {
                self.iptables(family, "mangle", &format!("-I {chain} 1 {rule}")).await?;
            }
        }
        Ok(())
    }

    /// The rules of Tailscale's own chains, in the words of iptables-save.
    fn rules(&self, family: Family) -> Vec<(&'static str, String)> {
        let tun = &self.tun;
        let v4 = family == Family::V4;
        let (own, port) = if v4 { (self.addr4, self.port4) } else { (self.addr6, self.port6) };
        let len = if v4 { 32 } else { 128 };
        let mut rules = vec![
            ("ts-input", format!("-s {own}/{len} -i lo -j ACCEPT")),
            ("ts-input", format!("-i {tun} -j ACCEPT")),
            ("ts-input", format!("-p udp -m udp --dport {port} -j ACCEPT")),
        ];
        if v4 {
            rules.push(("ts-input", format!("-s 100.115.92.0/23 ! -i {tun} -j RETURN")));
            rules.push(("ts-input", format!("-s 100.64.0.0/10 ! -i {tun} -j DROP")));
        }
        rules.push(("ts-forward", format!("-i {tun} -j MARK --set-xmark 0x40000/0xff0000")));
        rules.push(("ts-forward", "-m mark --mark 0x40000/0xff0000 -j ACCEPT".to_owned()));
        if v4 {
            rules.push(("ts-forward", format!("-s 100.64.0.0/10 -o {tun} -j DROP")));
        }
        rules.push(("ts-forward", format!("-o {tun} -j ACCEPT")));
        rules.push(("ts-postrouting", "-m mark --mark 0x40000/0xff0000 -j MASQUERADE".to_owned()));
        rules
    }

    async fn iptables(&self, family: Family, table: &str, rule: &str) -> Result<(), Failed> {
        let tool = match (self.backend, family) {
            (Backend::Legacy, Family::V4) => "iptables-legacy",
            (Backend::Legacy, Family::V6) => "ip6tables-legacy",
            (_, Family::V4) => "iptables-nft",
            (_, Family::V6) => "ip6tables-nft",
        };
        let mut words = vec!["-w", "-t", table];
        words.extend(rule.split(' '));
        feed(tool, &words, "").await.map(drop)
    }

    async fn add_native(&self, family: Family) -> Result<(), Failed> {
        let mut script = String::new();
        for (table, chain, spec) in [
            ("filter", "INPUT", "type filter hook input priority 0"),
            ("filter", "FORWARD", "type filter hook forward priority 0"),
            ("nat", "POSTROUTING", "type nat hook postrouting priority 100"),
            ("mangle", "PREROUTING", "type filter hook prerouting priority -150"),
            ("mangle", "OUTPUT", "type filter hook output priority -150"),
        ] {
            let nft = family.nft();
            let there = feed("nft", &["list", "chain", nft, table, chain], "").await;
            if there.is_err() {
                script += &format!("add table {nft} {table}\n");
                script +=
                    &format!("add chain {nft} {table} {chain} {{ {spec}; policy accept; }}\n");
            }
        }
        script += &self.native(family);
        feed("nft", &["-f", "-"], &script).await.map(drop)
    }

    /// The same rules as native expressions. An interface name is compared without its terminating zero, which nft shows as
    /// a wildcard: `tailscale0*`.
    fn native(&self, family: Family) -> String {
        let (nft, tun) = (family.nft(), &self.tun);
        let v4 = family == Family::V4;
        let (ip, own, port) =
            if v4 { ("ip", self.addr4, self.port4) } else { ("ip6", self.addr6, self.port6) };
        let mut script = String::new();
        for (table, base, chain) in HOOKS {
            script += &format!("add chain {nft} {table} {chain}\n");
            script += &format!("insert rule {nft} {table} {base} counter jump {chain}\n");
        }
        let mut rule = |chain: &str, words: &str| {
            let table = if chain == "ts-postrouting" { "nat" } else { "filter" };
            script += &format!("add rule {nft} {table} {chain} {words}\n");
        };
        rule("ts-input", &format!("iifname \"lo*\" {ip} saddr {own} counter accept"));
        rule("ts-input", &format!("iifname \"{tun}*\" counter accept"));
        rule("ts-input", &format!("udp dport {port} counter accept"));
        if v4 {
            rule(
                "ts-input",
                &format!("iifname != \"{tun}*\" ip saddr 100.115.92.0/23 counter return"),
            );
            rule("ts-input", &format!("iifname != \"{tun}*\" ip saddr 100.64.0.0/10 counter drop"));
        }
        rule(
            "ts-forward",
            &format!(
                "iifname \"{tun}*\" counter meta mark set meta mark & 0xff04ffff | 0x00040000"
            ),
        );
        rule("ts-forward", "meta mark & 0x00ff0000 == 0x00040000 counter accept");
        if v4 {
            rule("ts-forward", &format!("oifname \"{tun}*\" ip saddr 100.64.0.0/10 counter drop"));
        }
        rule("ts-forward", &format!("oifname \"{tun}*\" counter accept"));
        rule("ts-postrouting", "meta mark & 0x00ff0000 == 0x00040000 counter masquerade");
        script += &format!(
            "insert rule {nft} mangle PREROUTING ct state established,related ct mark & 0x00ff0000 != 0 meta mark set ct mark & 0x00ff0000\n"
        );
        script += &format!(
            "insert rule {nft} mangle OUTPUT ct state new meta mark & 0x00ff0000 != 0 ct mark set meta mark & 0x00ff0000\n"
        );
        script
    }
}

impl Family {
    fn nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

fn is_connmark(rule: &Value) -> bool {
    let mask = |key: Value| json!({"&": [key, 0xff_0000]});
    rule["expr"].as_array().into_iter().flatten().any(|expr| {
        let value = &expr["mangle"]["value"];
        *value == mask(json!({"ct": {"key": "mark"}}))
            || *value == mask(json!({"meta": {"key": "mark"}}))
    })
}

/// Deletes the rules of a chain that satisfy the predicate, by handle.
async fn delete_native(
    family: Family,
    table: &str,
    chain: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<(), Failed> {
    let nft = family.nft();
    let listed = feed("nft", &["-j", "list", "chain", nft, table, chain], "").await?;
    let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
    let mut script = String::new();
    for rule in listed["nftables"].as_array().into_iter().flatten().map(|object| &object["rule"]) {
        if rule.is_object() && wanted(rule) {
            script += &format!("delete rule {nft} {table} {chain} handle {}\n", rule["handle"]);
        }
    }
    feed("nft", &["-f", "-"], &script).await.map(drop)
}

fn note(done: Result<(), Failed>) {
    if let Err(failed) = done {
        say!("note: {failed}");
    }
}

async fn feed(tool: &'static str, words: &[&str], input: &str) -> Result<String, Failed> {
    let run = async {
        let mut child = Command::new(tool)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let out = run.await.map_err(|cause| Failed::Run { tool, cause })?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(Failed::Refused { tool, about: words.join(" "), said })
}
