//! The kernel's tables while they change, and many entries of them: each test in a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on must stop")]

mod scene;

use lifeline_agent::netlink::{Hint, Kernel, nft_generation, nft_tables};
use lifeline_core::net::Family;
use lifeline_core::observation::Rule;
use scene::{alone, ip, node, output};
use std::time::{Duration, Instant};

fn batch(lines: &str) {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), lines).unwrap();
    ip(&format!("-batch {}", path.path().display()));
}

async fn ours(kernel: &Kernel, family: Family) -> Vec<Rule> {
    kernel.rules(family).await.unwrap().into_iter().map(|(r, _)| r).collect()
}

#[test]
fn changes_are_hinted_at_once_each_however_many_there_are() {
    alone(async || {
        let kernel = Kernel::open().unwrap();
        let mut events = kernel.events().unwrap();
        let mut hints = async || -> Vec<Hint> {
            let mut all = Vec::new();
            while let Ok(Some(some)) =
                tokio::time::timeout(Duration::from_millis(300), events.next()).await
            {
                all.extend(some);
            }
            all.sort_unstable();
            all.dedup();
            all
        };
        ip("rule add pref 100 lookup 52");
        assert_eq!(hints().await, [Hint::Rule, Hint::RuleAdded]);
        ip("-6 rule add pref 100 lookup 52");
        assert_eq!(hints().await, [Hint::Rule, Hint::RuleAdded]);
        ip("rule add pref 101 lookup 52 protocol 213");
        assert_eq!(hints().await, [Hint::Rule], "it is one of ours");
        ip("rule del pref 101");
        assert_eq!(hints().await, [Hint::Rule], "it goes");
        ip("link add d0 type bridge");
        assert!(hints().await.contains(&Hint::Link));
        // Else a link-local address comes whenever it pleases.
        ip("link set d0 addrgenmode none");
        ip("link set d0 up");
        ip("addr add 10.0.0.1/24 dev d0");
        let seen = hints().await;
        assert!(seen.contains(&Hint::Addr) && seen.contains(&Hint::Route), "{seen:?}");
        std::fs::write("/proc/thread-self/net/../../../../sys/net/ipv4/conf/all/rp_filter", "1")
            .ok();
        // 400 rules without a reader: the bits do not grow, and when the buffer runs over that is said.
        let (mut batch, path) = (String::new(), tempfile::NamedTempFile::new().unwrap());
        for n in 0..20_000 {
            batch.push_str(&format!("route add 172.{}.{}.0/24 dev d0\n", n / 256, n % 256));
        }
        std::fs::write(path.path(), batch).unwrap();
        ip(&format!("-batch {}", path.path().display()));
        let seen = hints().await;
        assert!(seen.contains(&Hint::Overrun) && seen.contains(&Hint::Route), "{seen:?}");
        ip("rule del pref 100");
        assert_eq!(hints().await, [Hint::Rule], "it goes on after an overrun");
    });
}

#[test]
fn ten_thousand_routes_are_read_in_time_and_none_is_missing() {
    alone(async || {
        node();
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut batch = String::new();
        for n in 0..10_000 {
            batch.push_str(&format!(
                "route add 172.{}.{}.0/24 via 192.168.2.1\n",
                16 + n / 256,
                n % 256
            ));
        }
        std::fs::write(path.path(), batch).unwrap();
        ip(&format!("-batch {}", path.path().display()));
        let kernel = Kernel::open().unwrap();
        let names = kernel.names().await.unwrap();
        let start = Instant::now();
        let routes = kernel.routes(&names).await.unwrap();
        let took = start.elapsed();
        eprintln!("10 000 routes, two dumps that agree: {took:?}");
        assert!(routes.len() > 10_000);
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
}

#[test]
fn routes_that_have_not_changed_are_not_read_again_and_those_that_have_are() {
    alone(async || {
        node();
        let lines =
            (0..2_000).map(|n| format!("route add 172.16.{}.{} dev eth0\n", n / 256, n % 256));
        batch(&lines.collect::<String>());
        let kernel = Kernel::open().unwrap();
        let look = async || {
            let names = kernel.names().await.unwrap();
            let (known, anew) = (
                kernel.bare_routes(&names).await.unwrap(),
                Kernel::open().unwrap().bare_routes(&names).await.unwrap(),
            );
            assert!(known == anew, "what is remembered is what a first look sees");
            known
        };
        let first = look().await;
        assert!(first.is_one_with(&look().await), "nothing has changed");
        ip("route del 172.16.3.7");
        ip("route add 172.16.200.1 dev eth0");
        ip("-6 route add 2001:db8:7::/48 dev eth0");
        let second = look().await;
        assert_eq!(second.len(), first.len() + 1);
        assert!(!second.iter().any(|r| r.dst == "172.16.3.7/32".parse().unwrap()));
        ip("route replace 172.16.200.1 dev eth0 src 192.168.2.80");
        assert_ne!(look().await, second, "the same destination, another source");
        ip("route flush root 172.16.0.0/16");
        assert!(look().await.len() + 1_900 < first.len());
    });
}

#[test]
fn a_device_that_takes_anothers_number_has_its_routes_by_its_own_name_at_once() {
    alone(async || {
        let kernel = Kernel::open().unwrap();
        let dev = async |name: &str| {
            ip(&format!("link add index 77 name {name} type bridge"));
            ip(&format!("link set {name} up"));
            ip(&format!("route add 10.9.0.0/16 dev {name}"));
            let names = kernel.names().await.unwrap();
            let routes = kernel.bare_routes(&names).await.unwrap();
            let route = routes.iter().find(|r| r.dst.to_string() == "10.9.0.0/16").unwrap();
            ip(&format!("link del {name}"));
            route.dev().map(ToOwned::to_owned)
        };
        assert_eq!(dev("wan0").await.as_deref(), Some("wan0"));
        // The kernel's message of the route is the same, byte for byte.
        assert_eq!(dev("wan7").await.as_deref(), Some("wan7"));
    });
}

/// Looks at rules 1000 to `last` while others come and go, and says how many looks missed one.
async fn missed(last: u32, looks: usize) -> usize {
    let add = |pref: u32| format!("rule add pref {pref} lookup 52\n");
    batch(&(1_000..last).map(add).collect::<String>());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let churn = std::thread::spawn({
        let stop = std::sync::Arc::clone(&stop);
        // A dump goes on at an entry's number, so what is deleted in front of it makes it skip one.
        let lines = "rule add pref 500 lookup 53\nrule del pref 500\n".repeat(500);
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                batch(&lines);
            }
        }
    });
    let kernel = Kernel::open().unwrap();
    let mut missing = 0;
    for _ in 0..looks {
        let rules = ours(&kernel, Family::V4).await;
        let seen: std::collections::BTreeSet<u32> = rules.iter().map(|r| r.pref).collect();
        let mut stays = (1_000..last).chain([32_766, 32_767]);
        missing += usize::from(!stays.all(|p| seen.contains(&p)));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    churn.join().unwrap();
    missing
}

#[test]
fn a_rule_that_stays_is_seen_in_every_look_while_others_come_and_go() {
    // More than one datagram holds.
    alone(async || assert_eq!(missed(2_500, 60).await, 0));
}

#[test]
fn some_hundred_rules_come_in_one_datagram_which_is_of_one_moment() {
    alone(async || assert_eq!(missed(1_350, 400).await, 0));
}

#[test]
fn nf_tables_tells_its_tables_and_its_generation_without_a_tool() {
    alone(async || {
        let nft = |args: &str| {
            let (ok, text) = output("nft", args);
            assert!(ok, "nft {args}: {text}");
        };
        assert_eq!(nft_tables(Family::V4).await.unwrap(), Vec::<String>::new());
        let first = nft_generation().await.unwrap();
        nft("add table ip mangle");
        nft("add table ip6 nat");
        nft("add table inet firewalld");
        nft("add table ip wg-quick-wg0");
        assert_eq!(nft_tables(Family::V4).await.unwrap(), ["mangle", "wg-quick-wg0"]);
        assert_eq!(nft_tables(Family::V6).await.unwrap(), ["nat"]);
        let second = nft_generation().await.unwrap();
        assert_ne!(first, second);
        output("nft", "list ruleset");
        assert_eq!(nft_generation().await.unwrap(), second, "to read it does not change it");
        nft("add chain ip mangle x");
        assert_ne!(nft_generation().await.unwrap(), second);
    });
}
