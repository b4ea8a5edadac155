//! The part of flannel, whose own main is not to be had: tunnel, neighbours, routes and chains as flannel keeps them.
//!
//! Set anew at its start; the chains are looked after every minute (`SetupAndEnsureMasqRules`,
//! `…ForwardRules` in k3s's `pkg/agent/flannel`). Routes are not: flannel's vxlan backend writes them on events alone.

use std::fs;
use std::process::Command;

use crate::error::{Doing, Result};
use crate::furniture;
use crate::run::{self, LIMIT};
use crate::standin::k3s_agent::{overlay, words};

/// The tunnel with its routes, and the chains.
pub fn ensure() -> Result<()> {
    let me = furniture::here()?;
    overlay()?;
    fs::create_dir_all("/run/flannel").doing(|| "make /run/flannel".to_owned())?;
    fs::write("/run/flannel/subnet.env", furniture::subnet_env(me))
        .doing(|| "write /run/flannel/subnet.env".to_owned())?;
    ensure_chains()
}

/// The chains anew if a rule of theirs is missing, as flannel's `ensureIPTables` does. Each rule is asked for by itself:
/// `iptables-save` leaves rules out while native nft expressions stand beside them.
pub fn ensure_chains() -> Result<()> {
    let (v4, v6) = furniture::rules_here()?;
    for (tool, rules) in [("iptables-nft", v4), ("ip6tables-nft", v6)] {
        let own = own(&rules);
        let there = |rule: &Rule| asks(tool, &rule.table, "-C", &rule.words);
        if own.iter().map(there).collect::<Result<Vec<_>>>()?.iter().all(|t| *t) {
            continue;
        }
        for rule in own.iter().filter(|r| r.is_jump()) {
            // Whatever else is in a built-in chain stays where it is.
            while asks(tool, &rule.table, "-D", &rule.words)? {}
        }
        let mut restore = Command::new(format!("{tool}-restore"));
        restore.args(["--noflush", "-w"]);
        run::run(&mut restore, LIMIT, Some(input(&own).as_bytes()))?.success()?;
    }
    Ok(())
}

/// A rule of flannel's, without its `-A`.
#[derive(Debug)]
struct Rule {
    table: String,
    line: String,
    words: Vec<String>,
}

impl Rule {
    fn chain(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn is_jump(&self) -> bool {
        !self.chain().starts_with("FLANNEL-")
    }
}

/// Flannel's rules of a dump.
fn own(dump: &str) -> Vec<Rule> {
    let mut table = "";
    let mut found = Vec::new();
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(rule) = line.strip_prefix("-A ").filter(|r| r.contains("FLANNEL-")) {
            let (table, line) = (table.to_owned(), line.to_owned());
            found.push(Rule { table, line, words: words(rule) });
        }
    }
    found
}

/// A chain that is named with a `:` is made, or emptied.
fn input(rules: &[Rule]) -> String {
    let mut text = String::new();
    let mut tables: Vec<&str> = rules.iter().map(|r| r.table.as_str()).collect();
    tables.dedup();
    for table in tables {
        let of = || rules.iter().filter(|r| r.table == table);
        let mut chains: Vec<&str> = of().filter(|r| !r.is_jump()).map(Rule::chain).collect();
        chains.dedup();
        text += &format!("*{table}\n");
        chains.iter().for_each(|c| text += &format!(":{c} - [0:0]\n"));
        of().for_each(|r| text += &format!("{}\n", r.line));
        text += "COMMIT\n";
    }
    text
}

fn asks(tool: &str, table: &str, verb: &str, words: &[String]) -> Result<bool> {
    let mut args = vec!["-w", "-t", table, verb];
    args.extend(words.iter().map(String::as_str));
    Ok(run::host(tool, &args)?.ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flannels_own_is_written_chains_first() {
        let rules = "*nat\n:POSTROUTING ACCEPT [0:0]\n:KUBE-X - [0:0]\n-A POSTROUTING -j KUBE-X\n\
            -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
            -A FLANNEL-POSTRTG -s 10.42.0.0/16 -j RETURN\nCOMMIT\n*filter\n-A INPUT -j ACCEPT\nCOMMIT\n";
        let own = own(rules);
        assert_eq!(own[0].words[4], "flanneld masq");
        assert_eq!(
            input(&own),
            "*nat\n:FLANNEL-POSTRTG - [0:0]\n-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
             -A FLANNEL-POSTRTG -s 10.42.0.0/16 -j RETURN\nCOMMIT\n"
        );
    }

    #[test]
    fn the_furnitures_rules_have_both_of_flannels_chains() {
        let rules = own(include_str!("../furniture/kube.v4"));
        let jumps: Vec<&str> = rules.iter().filter(|r| r.is_jump()).map(Rule::chain).collect();
        assert_eq!(jumps, ["FORWARD", "POSTROUTING"]);
        assert!(rules.len() > 6);
    }
}
