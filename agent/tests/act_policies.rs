//! Policies of chains, set with the tools themselves and put right by our hands: no rule moves, and an undo closes what was closed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

mod alone;

use alone::{all, alone, sh};
use lifeline_agent::act::{Hands, Paths};
use lifeline_agent::netfilter::read_inet;
use lifeline_agent::netlink::Kernel;
use lifeline_core::net::Family;
use lifeline_core::observation::{Backend, Dialect};
use lifeline_core::op::{ChainPolicy, NodeOp, Now, Op, Seen, Undo};

fn hands() -> Hands {
    Hands::new(Kernel::open().unwrap(), Paths::default(), "test")
}

fn op(backend: Backend, family: Family, dialect: Dialect) -> NodeOp {
    let open = |chain: &str| ChainPolicy { chain: chain.into(), policy: "ACCEPT".into() };
    let wanted = vec![open("INPUT"), open("OUTPUT")];
    NodeOp::Policies { backend, family, table: "filter".into(), dialect, wanted }
}

async fn take(hands: &Hands, op: &NodeOp) -> Seen {
    let before = hands.look(op).await.unwrap();
    hands.act(op, &before).await.unwrap();
    let now = hands.look(op).await.unwrap();
    assert_eq!(op.compare(&before, &now), Now::Settled, "{now:?}");
    before
}

#[test]
fn a_policy_is_set_back_and_no_rule_moves() {
    alone(async || {
        let hands = hands();
        for (v, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
            for (backend, kind) in [(Backend::Nft, "nft"), (Backend::Legacy, "legacy")] {
                let tool = format!("{v}-{kind}");
                let rules = || sh(&format!("{tool} -S | grep -v '^-P'"));
                all(&format!(
                    "{tool} -N mine\n{tool} -A INPUT -p tcp --dport 22 -j mine\n{tool} -P FORWARD DROP\n\
                     {tool} -P INPUT DROP\n{tool} -P OUTPUT DROP"
                ));
                let shut = rules();
                let wish = op(backend, family, Dialect::Iptables);
                let before = take(&hands, &wish).await;
                let policies = sh(&format!("{tool} -S | grep '^-P' | sort"));
                assert_eq!(policies.trim(), "-P FORWARD DROP\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT");
                assert_eq!(rules(), shut, "{tool}");
                let Undo::Put(back) = wish.undo(&before) else { panic!("{wish} has no undo") };
                take(&hands, &back).await;
                let policies = sh(&format!("{tool} -S | grep '^-P' | sort"));
                assert_eq!(policies.trim(), "-P FORWARD DROP\n-P INPUT DROP\n-P OUTPUT DROP");
                assert_eq!(rules(), shut, "{tool}");
            }
        }
    });
}

#[test]
fn a_table_that_iptables_cannot_express_is_opened_by_nft() {
    alone(async || {
        all(
            "iptables-nft -P INPUT DROP\nnft add rule ip filter INPUT ip saddr { 1.2.3.4, 5.6.7.8 } counter drop",
        );
        let wish = op(Backend::Nft, Family::V4, Dialect::Nft);
        take(&hands(), &wish).await;
        let now = sh("nft list chain ip filter INPUT");
        assert!(now.contains("policy accept") && now.contains("5.6.7.8"), "{now}");
        assert!(!sh("nft list table ip filter").contains("chain OUTPUT"), "no chain is made");
    });
}

#[test]
fn tables_of_the_inet_family_are_seen() {
    alone(async || {
        assert!(read_inet().await.unwrap().is_empty());
        all(
            "nft add table inet fw\nnft 'add chain inet fw out { type filter hook output priority 0; policy drop; }'\n\
             nft add rule inet fw out oifname lo accept\nnft add table ip other",
        );
        let tables = read_inet().await.unwrap();
        let table = tables.first().unwrap();
        assert_eq!((tables.len(), table.name.as_str()), (1, "fw"));
        assert_eq!(table.chains[0].policy.as_deref(), Some("DROP"));
        assert_eq!(table.rules[0].spec, "oifname \"lo\" accept");
    });
}
