//! What the real tailscaled left on a real node, loaded again as it was captured, removed by our hands and put back: nothing else
//! changes by one byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

mod alone;

use alone::{alone, sh};
use lifeline_agent::act::{Hands, Paths, netfilter::Locks};
use lifeline_agent::netfilter::read_all;
use lifeline_agent::netlink::Kernel;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Dialect, NfRule, NfTable};
use lifeline_core::op::{NodeOp, Now, Op, Seen, Undo};
use std::path::Path;
use std::time::{Duration, Instant};

const CHAINS: [&str; 3] = ["ts-input", "ts-forward", "ts-postrouting"];

fn capture(name: &str) -> String {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    std::fs::read_to_string(home.join(name)).unwrap()
}

fn feed(tool: &str, script: &str) {
    std::fs::write("/run/script", script).unwrap();
    sh(&format!("{tool} </run/script"));
}

/// A save as it was captured, but for a warning in the midst of it, and what asks for an accounting object that is not here.
fn load(tool: &str, file: &str) {
    let warning =
        "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n";
    let text =
        capture(file).replace(warning, "").replace(&warning.replace("iptables", "ip6tables"), "");
    let lines: Vec<String> =
        text.lines().filter(|l| !l.contains("nfacct")).map(|l| format!("{l}\n")).collect();
    feed(&format!("{tool}-restore"), &lines.concat());
}

fn hands() -> Hands {
    Hands::new(Kernel::open().unwrap(), Paths::default(), "test")
}

/// Is this one of Tailscale's, outside its own chains?
fn own(rule: &NfRule) -> bool {
    !CHAINS.contains(&rule.chain.as_str())
        && (CHAINS.iter().any(|c| rule.spec.ends_with(c)) || rule.spec.contains("ff0000"))
}

/// One op for each table that holds anything of Tailscale's.
async fn ops(backend: Backend, family: Family) -> Vec<NodeOp> {
    let of = |t: NfTable| NodeOp::Netfilter {
        backend,
        family,
        absent: t.rules.iter().filter(|r| own(r)).cloned().collect(),
        absent_chains: t
            .chains
            .iter()
            .map(|c| c.name.clone())
            .filter(|n| CHAINS.contains(&n.as_str()))
            .collect(),
        table: t.name,
        dialect: t.dialect,
        present_chains: Vec::new(),
        present: Vec::new(),
    };
    let tables = read_all(backend, family).await.unwrap();
    tables.into_iter().filter(|t| t.rules.iter().any(own)).map(of).collect()
}

/// Looks, acts, looks: as the engine does.
async fn take(hands: &Hands, op: &NodeOp) -> Seen {
    let before = hands.look(op).await.unwrap();
    hands.act(op, &before).await.unwrap();
    let now = hands.look(op).await.unwrap();
    assert_eq!(op.compare(&before, &now), Now::Settled, "{now:?}");
    before
}

async fn undo(hands: &Hands, op: &NodeOp, before: &Seen) {
    let Undo::Put(back) = op.undo(before) else { panic!("{op} cannot be undone") };
    take(hands, &back).await;
}

/// Byte for byte, but for the time and the counters.
fn saved(tool: &str) -> String {
    let text = sh(&format!("{tool}-save"));
    let line = |l: &str| l.split(" [").next().unwrap().to_owned() + "\n";
    text.lines().filter(|l| !l.starts_with('#')).map(line).collect()
}

/// Everything nf_tables holds, each chain by itself: nft lists chains in the order they were made, which means nothing.
fn listed() -> Vec<String> {
    let (mut table, mut chain, mut all) = (String::new(), String::new(), Vec::new());
    for line in sh("nft -n -s list ruleset").lines() {
        if line.starts_with("table ") {
            table = line.to_owned();
        } else if line.starts_with("\tchain ") {
            chain = format!("{table}\n");
        }
        chain.push_str(&format!("{line}\n"));
        if line == "\t}" {
            all.push(std::mem::take(&mut chain));
        }
    }
    all.sort();
    all
}

#[test]
fn the_legacy_remnant_goes_and_comes_back_byte_for_byte_and_kube_proxys_rules_stay() {
    alone(async || {
        let hands = hands();
        let from = "09-after-sigkill-legacy";
        for v in ["iptables", "ip6tables"] {
            load(&format!("{v}-nft"), &format!("{from}/{v}-nft-save.txt"));
            load(&format!("{v}-legacy"), &format!("{from}/{v}-legacy-save.txt"));
        }
        let nft = listed();
        assert!(nft.iter().any(|c| c.contains("KUBE-SERVICES")));
        for (v, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
            let tool = format!("{v}-legacy");
            let spoilt = saved(&tool);
            let ops = ops(Backend::Legacy, family).await;
            assert_eq!(ops.len(), 3, "filter, nat and mangle");
            let mut done = Vec::new();
            for op in &ops {
                done.push(take(&hands, op).await);
            }
            let foreign =
                |l: &&str| !CHAINS.iter().any(|c| l.contains(c)) && !l.contains("CONNMARK");
            let clean: String = spoilt.lines().filter(foreign).map(|l| format!("{l}\n")).collect();
            assert_eq!(saved(&tool), clean);
            for (op, before) in ops.iter().zip(&done).rev() {
                undo(&hands, op, before).await;
            }
            assert_eq!(saved(&tool), spoilt);
        }
        assert_eq!(listed(), nft, "the other backend was not touched");
    });
}

/// Tailscale's part of what `nft` listed: its chains, and at the head of the others what it puts there.
fn remnant() -> String {
    let (mut table, mut chain) = (String::new(), String::new());
    let (mut chains, mut rules) = (String::new(), String::new());
    for line in capture("05-after-sigkill-nft/nft.txt").lines() {
        let words = line.trim();
        if let Some(name) = line.strip_prefix("table ") {
            name.trim_end_matches(" {").clone_into(&mut table);
        } else if let Some(name) = words.strip_prefix("chain ") {
            name.trim_end_matches(" {").clone_into(&mut chain);
            if CHAINS.contains(&chain.as_str()) {
                chains.push_str(&format!("add chain {table} {chain}\n"));
            }
        } else if words.starts_with("type ") && table.ends_with("mangle") {
            chains.push_str(&format!("add chain {table} {chain} {{ {words} }}\n"));
        } else if CHAINS.contains(&chain.as_str()) && words.len() > 1 {
            rules.push_str(&format!("add rule {table} {chain} {words}\n"));
        } else if words.contains("jump ts-") || words.contains("ff0000") {
            rules.push_str(&format!("insert rule {table} {chain} {words}\n"));
        }
    }
    chains + &rules
}

#[test]
fn the_native_nft_remnant_goes_and_comes_back_in_its_places_and_kube_proxys_rules_stay() {
    alone(async || {
        let hands = hands();
        for v in ["iptables", "ip6tables"] {
            load(&format!("{v}-nft"), &format!("01-healthy/{v}-nft-save.txt"));
        }
        // Here tailscaled made these chains itself, of a type that iptables does not know.
        sh("nft delete chain ip mangle PREROUTING 2>/dev/null; nft delete chain ip mangle OUTPUT 2>/dev/null
            nft delete chain ip6 mangle PREROUTING 2>/dev/null; nft delete chain ip6 mangle OUTPUT 2>/dev/null; true");
        let healthy = listed();
        feed("nft -f -", &remnant());
        let spoilt = listed();
        assert!(sh("iptables-nft-save 2>&1 || true").contains("incompatible"), "beyond iptables");
        let mut clean: Vec<Vec<String>> = Vec::new();
        for round in 0..2 {
            let mut done = Vec::new();
            for family in Family::ALL {
                let ops = ops(Backend::Nft, family).await;
                assert_eq!(ops.len(), 3, "{family:?}");
                for op in ops {
                    let NodeOp::Netfilter { dialect, .. } = &op else { unreachable!() };
                    println!("{op} in {dialect:?}");
                    done.push((take(&hands, &op).await, op));
                }
            }
            let left = listed();
            assert!(!left.iter().any(|c| c.contains("ts-") || c.contains("tailscale")), "{left:?}");
            for chain in &healthy {
                assert!(left.contains(chain), "gone or changed: {chain}");
            }
            clean.push(left);
            if round == 0 {
                for (before, op) in done.iter().rev() {
                    undo(&hands, op, before).await;
                }
                assert_eq!(listed(), spoilt);
            }
        }
        assert_eq!(clean[0], clean[1]);
    });
}

fn table(backend: Backend, dialect: Dialect, absent: Vec<NfRule>) -> NodeOp {
    NodeOp::Netfilter {
        backend,
        family: Family::V4,
        table: "filter".into(),
        dialect,
        absent,
        absent_chains: Vec::new(),
        present_chains: Vec::new(),
        present: Vec::new(),
    }
}

#[test]
fn of_equal_rules_as_many_go_as_are_listed_and_they_come_back_where_they_were() {
    alone(async || {
        let hands = hands();
        for (backend, tool) in
            [(Backend::Nft, "iptables-nft"), (Backend::Legacy, "iptables-legacy")]
        {
            for rule in ["-i x0", "-i a0", "-i x0", "-i b0", "-i x0"] {
                sh(&format!("{tool} -A INPUT {rule} -j ACCEPT"));
            }
            let spoilt = saved(tool);
            let x = NfRule { chain: "INPUT".into(), spec: "-i x0 -j ACCEPT".into(), handle: None };
            for listed in 1..=3usize {
                let op = table(backend, Dialect::Iptables, vec![x.clone(); listed]);
                let before = hands.look(&op).await.unwrap();
                let done = hands.act(&op, &before).await;
                assert_eq!(saved(tool).matches("-i x0").count(), 3 - listed, "{tool}");
                // That more were there is told, and is a new plan's business.
                assert_eq!(done.is_err(), listed < 3, "{done:?}");
                let Undo::Put(back) = op.undo(&before) else { panic!("{op}") };
                let now = hands.look(&back).await.unwrap();
                hands.act(&back, &now).await.unwrap();
                assert_eq!(saved(tool), spoilt, "{tool}, {listed} listed");
            }
        }
    });
}

#[test]
fn a_jump_named_only_in_a_comment_does_not_hold_a_chain() {
    alone(async || {
        let hands = hands();
        sh("iptables-nft -N ts-input");
        sh("iptables-nft -I INPUT -j ts-input");
        sh("iptables-nft -A INPUT -m comment --comment 'was -j ts-input once' -j ACCEPT");
        for op in ops(Backend::Nft, Family::V4).await {
            take(&hands, &op).await;
        }
        let left = sh("iptables-nft -S");
        assert!(!left.contains("-N ts-input") && left.contains("once"), "{left}");
    });
}

#[test]
fn while_another_process_holds_the_lock_nothing_happens_and_nothing_lands_later() {
    alone(async || {
        let tool = "iptables-legacy";
        load(tool, "09-after-sigkill-legacy/iptables-legacy-save.txt");
        let locks = Locks { shared: "/run/shared".into(), own: "/run/ours/lock".into() };
        let hands = Hands::new(
            Kernel::open().unwrap(),
            Paths { locks: locks.clone(), ..Paths::default() },
            "test",
        );
        let spoilt = saved(tool);
        let ops = ops(Backend::Legacy, Family::V4).await;
        let hold = |file: &Path, seconds: &str| {
            let mut holder = std::process::Command::new("flock");
            holder.arg("-x").arg(file).args(["sleep", seconds]).spawn().unwrap()
        };
        let mut holder = hold(&locks.shared, "7");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        let seen = hands.look(&ops[0]).await.unwrap();
        let e = hands.act(&ops[0], &seen).await.unwrap_err();
        assert!(e.retryable && e.why.contains("another process holds /run/shared"), "{}", e.why);
        assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
        holder.wait().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(saved(tool), spoilt, "something landed after the lock was free");
        // Held for a moment only, it is waited for.
        let mut holder = hold(&locks.shared, "1");
        tokio::time::sleep(Duration::from_millis(300)).await;
        for op in &ops {
            take(&hands, op).await;
        }
        holder.wait().unwrap();
        assert!(!saved(tool).contains("ts-"));
    });
}

#[test]
fn among_two_thousand_rules_only_those_of_the_remnant_go() {
    alone(async || {
        let hands = hands();
        for (backend, tool) in
            [(Backend::Nft, "iptables-nft"), (Backend::Legacy, "iptables-legacy")]
        {
            let mut script =
                String::from("*nat\n:KUBE-SERVICES - [0:0]\n:ts-postrouting - [0:0]\n");
            for i in 0..500u32 {
                script.push_str(&format!(":KUBE-SVC-{i:016} - [0:0]\n"));
            }
            script.push_str("-A POSTROUTING -j ts-postrouting\n");
            for i in 0..500u32 {
                let to = format!("10.43.{}.{}/32", i / 250, i % 250 + 1);
                let svc = format!("KUBE-SVC-{i:016}");
                script.push_str(&format!(
                    "-A KUBE-SERVICES -d {to} -p tcp -m comment --comment \"ns/ts-{i} -j ts-postrouting\" -m tcp --dport 80 -j {svc}\n\
                     -A {svc} ! -s 10.42.0.0/16 -d {to} -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x4000/0x4000\n\
                     -A {svc} -m statistic --mode random --probability 0.50000000000 -j RETURN\n\
                     -A {svc} -m comment --comment \"ns/ts-{i}\" -j RETURN\n"
                ));
                if i == 250 {
                    script.push_str("-A POSTROUTING -m comment --comment theirs -j RETURN\n");
                    script.push_str("-A POSTROUTING -j ts-postrouting\n");
                }
            }
            script.push_str(
                "-A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE\nCOMMIT\n",
            );
            feed(&format!("{tool}-restore"), &script);
            let spoilt = saved(tool);
            assert!(spoilt.lines().count() > 2_500);
            let op = ops(backend, Family::V4).await.pop().unwrap();
            let began = Instant::now();
            let before = take(&hands, &op).await;
            println!("{tool}: look, act and look among 2 000 rules in {:?}", began.elapsed());
            let foreign = |l: &&str| {
                !l.ends_with("-j ts-postrouting")
                    && !l.contains(":ts-postrouting")
                    && !l.contains("-A ts-postrouting")
            };
            let clean: String = spoilt.lines().filter(foreign).map(|l| format!("{l}\n")).collect();
            assert!(saved(tool) == clean, "{tool}: something else changed");
            undo(&hands, &op, &before).await;
            assert!(saved(tool) == spoilt, "{tool}: the undo is not exact");
        }
    });
}
