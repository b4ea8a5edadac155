//! Policy rules made with `ip`, removed and put back by our hands, and asserted with `ip`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

mod alone;
mod iproute;

use alone::{alone, sh};
use lifeline_agent::act::{Hands, Paths};
use lifeline_agent::netlink::Kernel;
use lifeline_core::net::Family;
use lifeline_core::observation::Rule;
use lifeline_core::op::{NodeOp, Now, Op, Seen, Undo};

/// What tailscaled leaves after SIGKILL, in either family.
const TAILSCALE: [&str; 4] = [
    "pref 5210 fwmark 0x80000/0xff0000 lookup main protocol 0",
    "pref 5230 fwmark 0x80000/0xff0000 lookup default protocol 0",
    "pref 5250 fwmark 0x80000/0xff0000 unreachable protocol 0",
    "pref 5270 lookup 52 protocol 0",
];

fn hands() -> Hands {
    Hands::new(Kernel::open().unwrap(), Paths::default(), "test")
}

fn flag(family: Family) -> &'static str {
    if family == Family::V4 { "-4" } else { "-6" }
}

/// Byte for byte what `ip` shows.
fn shown(family: Family) -> String {
    sh(&format!("ip {} -d rule", flag(family)))
}

fn rules(family: Family) -> Vec<Rule> {
    iproute::rules(&sh(&format!("ip {} -j -d rule", flag(family))), family)
}

fn add(family: Family, rule: &str) {
    sh(&format!("ip {} rule add {rule}", flag(family)));
}

/// Tailscale's, as far as they are there: every copy is listed.
fn remnant(family: Family) -> Vec<Rule> {
    let own = |r: &Rule| [5210, 5230, 5250, 5270].contains(&r.pref) && r.protocol == 0;
    rules(family).into_iter().filter(|r| own(r) && (r.pref != 5270 || r.mark.is_none())).collect()
}

fn op(family: Family, absent: Vec<Rule>, present: Vec<Rule>) -> NodeOp {
    NodeOp::Rules { family, absent, present }
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

#[test]
fn a_remnant_goes_and_comes_back_byte_for_byte() {
    alone(async || {
        let hands = hands();
        for family in Family::ALL {
            add(family, "pref 100 fwmark 0x40/0x40 lookup 77 protocol 213");
            add(family, "pref 5240 fwmark 0x80000/0xff0000 lookup 99");
            let clean = shown(family);
            for rule in TAILSCALE {
                add(family, rule);
            }
            let spoilt = shown(family);
            let op = op(family, remnant(family), Vec::new());
            let before = take(&hands, &op).await;
            assert_eq!(shown(family), clean);
            undo(&hands, &op, &before).await;
            assert_eq!(shown(family), spoilt);
            take(&hands, &op).await;
            // Twice is once.
            hands.act(&op, &before).await.unwrap();
            assert_eq!(shown(family), clean);
        }
    });
}

/// Each of these is hit by the message of Tailscale's plain rule, which has no selector and protocol 0.
fn strangers(family: Family) {
    let net = if family == Family::V4 { "10.0.0.0/8" } else { "fd00::/8" };
    add(family, "pref 5270 fwmark 0x1 lookup 52");
    add(family, &format!("pref 5270 to {net} lookup 52 protocol 7"));
    add(family, "pref 5270 not iif cni0 lookup 52 protocol 7");
    add(family, "pref 5270 ipproto tcp dport 6443 lookup 52 protocol 9");
}

#[test]
fn a_foreign_rule_that_the_kernel_would_delete_instead_stays_and_keeps_its_place() {
    alone(async || {
        let hands = hands();
        for family in Family::ALL {
            strangers(family);
            let clean = shown(family);
            add(family, TAILSCALE[3]);
            add(family, "pref 5270 fwmark 0x2 lookup 52");
            add(family, "pref 5271 lookup 52");
            let behind = ["pref 5270 fwmark 0x2 lookup 52", "pref 5271 lookup 52"];
            let op = op(family, remnant(family), Vec::new());
            take(&hands, &op).await;
            let cleaned = shown(family);
            for rule in behind {
                sh(&format!("ip {} rule del {rule}", flag(family)));
            }
            assert_eq!(shown(family), clean, "{cleaned}");
            // What would have happened: the trap is real.
            add(family, TAILSCALE[3]);
            sh(&format!("ip {} rule del pref 5270 lookup 52", flag(family)));
            assert!(!shown(family).contains("fwmark 0x1 lookup 52"), "the trap is gone");
        }
    });
}

#[test]
fn behind_strangers_of_its_preference_it_comes_back_byte_for_byte() {
    alone(async || {
        let hands = hands();
        for family in Family::ALL {
            strangers(family);
            add(family, TAILSCALE[3]);
            let spoilt = shown(family);
            let op = op(family, remnant(family), Vec::new());
            let before = take(&hands, &op).await;
            assert_ne!(shown(family), spoilt);
            undo(&hands, &op, &before).await;
            assert_eq!(shown(family), spoilt);
        }
    });
}

/// A rule once more, which `ip` refuses to add: as a tool that does not ask for exclusiveness does.
async fn again(rule: &Rule) {
    let message = lifeline_agent::netlink::rule_message(rule);
    Kernel::open().unwrap().copy_rule(message).await.unwrap();
}

#[test]
fn every_copy_goes_and_as_many_come_back() {
    alone(async || {
        let hands = hands();
        let family = Family::V4;
        add(family, "pref 5270 fwmark 0x1 lookup 52");
        let clean = shown(family);
        add(family, TAILSCALE[3]);
        let rule = remnant(family).remove(0);
        again(&rule).await;
        again(&rule).await;
        let spoilt = shown(family);
        assert_eq!(spoilt.matches("from all lookup 52").count(), 3, "{spoilt}");
        // Listed once, all go; listed thrice, three come back.
        take(&hands, &op(family, vec![rule.clone()], Vec::new())).await;
        assert_eq!(shown(family), clean);
        take(&hands, &op(family, Vec::new(), vec![rule.clone(); 3])).await;
        assert_eq!(shown(family), spoilt);
        let op = op(family, remnant(family), Vec::new());
        let before = take(&hands, &op).await;
        undo(&hands, &op, &before).await;
        assert_eq!(shown(family), spoilt);
    });
}

#[test]
fn rules_of_one_preference_come_back_in_their_order_even_when_one_of_them_was_there() {
    alone(async || {
        let hands = hands();
        let family = Family::V4;
        for mark in ["0x10", "0x20", "0x30"] {
            add(family, &format!("pref 5270 fwmark {mark} lookup 52"));
        }
        let spoilt = shown(family);
        let all: Vec<Rule> = rules(family).into_iter().filter(|r| r.pref == 5270).collect();
        // Cut off half-way: the first and the third had gone.
        sh("ip rule del pref 5270 fwmark 0x10 lookup 52");
        sh("ip rule del pref 5270 fwmark 0x30 lookup 52");
        take(&hands, &op(family, Vec::new(), all)).await;
        assert_eq!(shown(family), spoilt);
    });
}

#[test]
fn a_rule_that_the_kernel_takes_for_another_is_put_back_all_the_same() {
    alone(async || {
        let hands = hands();
        let family = Family::V4;
        add(family, TAILSCALE[3]);
        let plain = remnant(family);
        sh("ip rule del pref 5270");
        // An exclusive addition of the plain rule says "exists" to either: the kernel compares no address selector that the new one
        // has not, and never `not`.
        for other in [
            "pref 5270 to 10.0.0.0/8 lookup 52 protocol 0",
            "pref 5270 not from all lookup 52 protocol 0",
        ] {
            add(family, other);
            let kernel = Kernel::open().unwrap();
            let said = kernel.add_rule(&plain[0]).await.unwrap();
            println!("{other}: {said:?}");
            if said == lifeline_agent::netlink::Added::Added {
                kernel.delete_rule(lifeline_agent::netlink::rule_message(&plain[0])).await.unwrap();
            }
            take(&hands, &op(family, Vec::new(), plain.clone())).await;
            take(&hands, &op(family, plain.clone(), Vec::new())).await;
            sh(&format!("ip rule del {other}"));
        }
    });
}

#[test]
fn the_first_rule_of_all_can_go_without_taking_another() {
    alone(async || {
        let hands = hands();
        let family = Family::V4;
        // A preference of 0 is not dumped: a message without it would match the plain rule of any preference.
        add(family, "pref 0 lookup 52");
        add(family, "pref 5270 lookup 52");
        let rule = rules(family)
            .into_iter()
            .find(|r| r.pref == 0 && r.action == lifeline_core::observation::Action::Lookup(52));
        take(&hands, &op(family, vec![rule.unwrap()], Vec::new())).await;
        let left = shown(family);
        assert!(left.contains("5270:") && left.contains("0:\tfrom all lookup local"), "{left}");
        assert!(
            !left.contains("0:\tfrom all lookup 52\n") || left.matches("lookup 52").count() == 1
        );
    });
}

#[test]
fn a_rule_with_a_selector_we_do_not_know_is_never_deleted_and_moved_only_as_it_is() {
    alone(async || {
        let hands = hands();
        let family = Family::V4;
        add(family, "pref 5270 tos 0x10 lookup 52 protocol 0");
        add(family, "pref 5270 tos 0x08 iif gone0 lookup 52 protocol 0");
        let clean = shown(family);
        let strange: Vec<Rule> = remnant(family);
        assert!(strange.iter().all(|r| r.exotic) && strange.len() == 2);
        let mut plain = strange[0].clone();
        plain.exotic = false;
        again(&plain).await;
        let spoilt = shown(family);
        let refused = op(family, strange, Vec::new());
        let seen = hands.look(&refused).await.unwrap();
        let e = hands.act(&refused, &seen).await.unwrap_err();
        assert!(!e.retryable, "{}", e.why);
        assert!(e.why.starts_with("set policy rules of preference 5270: refused: "), "{}", e.why);
        assert_eq!(shown(family), spoilt);
        take(&hands, &op(family, vec![plain], Vec::new())).await;
        assert_eq!(shown(family), clean);
    });
}

#[test]
fn a_tool_that_puts_them_back_does_not_keep_us_busy_for_ever() {
    alone(async || {
        let hands = hands();
        let family = Family::V4;
        add(family, TAILSCALE[3]);
        let absent = remnant(family);
        let net = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let tool = std::thread::spawn({
            let (stop, rule) = (std::sync::Arc::clone(&stop), absent[0].clone());
            move || {
                nix::sched::setns(net, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let kernel = Kernel::open().unwrap();
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        kernel.add_rule(&rule).await.unwrap();
                    }
                });
            }
        });
        let op = op(family, absent, Vec::new());
        let began = std::time::Instant::now();
        let mut failures = 0;
        for _ in 0..5 {
            let seen = hands.look(&op).await.unwrap();
            if let Err(e) = hands.act(&op, &seen).await {
                assert!(e.retryable, "{}", e.why);
                failures += 1;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        tool.join().unwrap();
        println!("{failures} of 5 gave up");
        assert!(began.elapsed() < std::time::Duration::from_secs(20));
        take(&hands, &op).await;
    });
}
