//! The text form reads back what it writes, whatever it is, and says what it does not understand.
//!
//! Longer than most files: a strategy for each noun that an observation has.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its own case must fail")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use lifeline_core::clock::Stamp;
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::*;
use lifeline_core::supervisor::Supervisor;
use lifeline_core::text::{read, write};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// Words as they may come from outside: with spaces, quotes, our own keywords, control characters, or nothing in them.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9./-]{1,12}",
        "[ -~]{0,12}",
        "\\PC{0,6}",
        any::<String>(),
        prop_oneof![
            Just("dev"),
            Just("#"),
            Just("\""),
            Just(":x"),
            Just("native"),
            Just("handle 7 x")
        ]
        .prop_map(str::to_string),
    ]
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|a| IpAddr::V4(Ipv4Addr::from_bits(a))),
        any::<u128>().prop_map(|a| IpAddr::V6(Ipv6Addr::from_bits(a))),
    ]
}

fn end() -> impl Strategy<Value = SocketAddr> {
    (ip(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (ip(), 0u8..=128).prop_map(|(a, l)| Prefix::new(a, l))
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn table() -> impl Strategy<Value = u32> {
    prop_oneof![Just(52), Just(TABLE_MAIN), Just(TABLE_LOCAL), Just(TABLE_DEFAULT), any::<u32>()]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        table().prop_map(Action::Lookup),
        any::<u32>().prop_map(Action::Goto),
        Just(Action::Nop),
        Just(Action::Blackhole),
        Just(Action::Unreachable),
        Just(Action::Prohibit),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let selectors = (
        any::<bool>(),
        option::of(prefix()),
        option::of(prefix()),
        option::of(word()),
        option::of(word()),
        option::of((any::<u32>(), any::<u32>()).prop_map(|(value, mask)| Mark { value, mask })),
        option::of(any::<u8>()),
        option::of(any::<(u16, u16)>()),
        option::of(any::<(u16, u16)>()),
        option::of(any::<(u32, u32)>()),
    );
    let rest =
        (family(), any::<u32>(), action(), option::of(any::<u32>()), any::<u8>(), any::<bool>());
    (selectors, rest).prop_map(|(s, (family, pref, action, suppress, protocol, exotic))| {
        let (not, from, to, iif, oif, mark, ipproto, sport, dport, uids) = s;
        let bare = Rule::bare(family, pref, action);
        Rule {
            not,
            from,
            to,
            iif,
            oif,
            mark,
            ipproto,
            sport,
            dport,
            uids,
            suppress,
            protocol,
            exotic,
            ..bare
        }
    })
}

fn hop() -> impl Strategy<Value = Hop> {
    (option::of(ip()), option::of(word()), any::<bool>(), any::<bool>(), any::<u16>()).prop_map(
        |(via, dev, onlink, dead, weight)| Hop {
            via,
            dev: dev.map(Into::into),
            onlink,
            dead,
            weight,
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let kinds = vec![
        RouteKind::Unicast,
        RouteKind::Local,
        RouteKind::Broadcast,
        RouteKind::Anycast,
        RouteKind::Multicast,
        RouteKind::Blackhole,
        RouteKind::Unreachable,
        RouteKind::Prohibit,
        RouteKind::Throw,
    ];
    let numbers = (any::<u32>(), any::<u8>(), any::<u8>(), any::<bool>());
    (
        family(),
        table(),
        proptest::sample::select(kinds),
        prefix(),
        vec(hop(), 0..4),
        option::of(ip()),
        numbers,
    )
        .prop_map(
            |(family, table, kind, dst, hops, src, (metric, protocol, scope, exotic))| Route {
                family,
                table,
                kind,
                dst,
                hops,
                metric,
                src,
                protocol,
                scope,
                exotic,
            },
        )
}

fn nf_table() -> impl Strategy<Value = NfTable> {
    let chain = (word(), option::of(word()), option::of(word()))
        .prop_map(|(name, policy, hook)| Chain { name, policy, hook });
    let rule = (word(), word(), option::of(any::<u64>()))
        .prop_map(|(chain, spec, handle)| NfRule { chain, spec, handle });
    (
        prop_oneof![Just(Backend::Legacy), Just(Backend::Nft)],
        family(),
        word(),
        prop_oneof![Just(Dialect::Iptables), Just(Dialect::Nft)],
        vec(chain, 0..4),
        vec(rule, 0..4),
    )
        .prop_map(|(backend, family, name, dialect, chains, rules)| NfTable {
            backend,
            family,
            name,
            dialect,
            chains: chains.into(),
            rules: rules.into(),
        })
}

/// Of both families, so its own says nothing.
fn inet_table() -> impl Strategy<Value = NfTable> {
    nf_table().prop_map(|t| NfTable { backend: Backend::Nft, family: Family::V4, ..t })
}

// Boxed: by value the strategies of a whole observation do not fit on a test's stack.
fn supervisor() -> BoxedStrategy<Supervisor> {
    prop_oneof![
        (word(), option::of(word()), option::of(word()))
            .prop_map(|(uid, name, owner)| Supervisor::Pod { uid, name, owner }),
        (word(), option::of(word())).prop_map(|(name, restart)| Supervisor::Unit { name, restart }),
        word().prop_map(|id| Supervisor::Container { id }),
    ]
    .boxed()
}

fn process() -> impl Strategy<Value = Process> {
    (
        any::<(u32, u32, u64)>(),
        (word(), word(), word(), word()),
        prop_oneof![Just(Netns::Host), Just(Netns::Other), Just(Netns::Unknown)],
        vec(word(), 0..3),
        (option::of(word()), option::of(word()), option::of(supervisor())),
    )
        .prop_map(
            |(
                (pid, ppid, start),
                (exe, inode, comm, cgroup),
                netns,
                tuns,
                (socket, statedir, supervisor),
            )| {
                Process {
                    pid,
                    ppid,
                    start,
                    exe,
                    inode,
                    comm,
                    netns,
                    cgroup,
                    tuns,
                    socket,
                    statedir,
                    supervisor,
                }
            },
        )
}

fn through() -> impl Strategy<Value = Through> {
    prop_oneof![Just(Through::Plain), Just(Through::SeeThrough), Just(Through::Lifeline)]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        (word(), option::of(ip()), table(), option::of(ip()))
            .prop_map(|(dev, via, table, src)| Fate::Leaves { dev, via, table, src }),
        Just(Fate::Local),
        any::<i32>().prop_map(Fate::Refused),
    ]
}

fn reach() -> impl Strategy<Value = Reach> {
    prop_oneof![
        Just(Reach::Tls),
        Just(Reach::Stranger),
        Just(Reach::TcpOnly),
        Just(Reach::Echo),
        Just(Reach::Refused),
        Just(Reach::Silent),
        any::<i32>().prop_map(Reach::Unsent),
    ]
}

fn sense() -> impl Strategy<Value = Sense> {
    proptest::sample::select(vec![
        Sense::Cluster,
        Sense::Links,
        Sense::Rules,
        Sense::Routes,
        Sense::Legacy4,
        Sense::Legacy6,
        Sense::Nft4,
        Sense::Nft6,
        Sense::Processes,
        Sense::Units,
        Sense::Sysctls,
        Sense::Resolv,
        Sense::Fdb,
        Sense::Xfrm,
        Sense::Sockets,
        Sense::Lookups,
        Sense::Probes,
        Sense::Lease,
        Sense::HostPorts,
    ])
}

fn tables() -> impl Strategy<Value = Observation> {
    let taken = (word(), any::<u64>(), any::<u64>()).prop_map(|(boot, ms, wall_ms)| Stamp {
        boot,
        ms,
        wall_ms,
    });
    let cluster =
        (
            word(),
            option::of(ip()),
            vec(end(), 0..3),
            option::of(prefix()),
            option::of(prefix()),
            option::of(prefix()),
        )
            .prop_map(|(node, node_ip, api, pod_cidr, cluster_cidr, service_cidr)| {
                Cluster { node, node_ip, api, pod_cidr, cluster_cidr, service_cidr }
            });
    let link =
        (word(), any::<u32>(), word(), any::<(bool, bool, bool)>(), word(), option::of(word()))
            .prop_map(|(name, index, kind, (up, carrier, persist), mac, master)| Link {
                name,
                index,
                kind,
                up,
                carrier,
                mac,
                master,
                persist,
            });
    let addr = (word(), ip(), any::<u8>()).prop_map(|(dev, addr, len)| Addr { dev, addr, len });
    (
        taken,
        cluster,
        vec(link, 0..3),
        vec(addr, 0..3),
        vec(rule(), 0..4),
        vec(route(), 0..4),
        (vec(nf_table(), 0..4), vec(inet_table(), 0..2)),
        vec(process(), 0..3),
    )
        .prop_map(
            |(taken, cluster, links, addrs, rules, routes, (netfilter, inet), processes)| {
                Observation {
                    taken,
                    cluster,
                    links,
                    addrs,
                    rules,
                    routes: routes.into(),
                    netfilter,
                    inet,
                    processes,
                    ..Observation::default()
                }
            },
        )
}

fn xfrm() -> impl Strategy<Value = XfrmPolicy> {
    let dir = proptest::sample::select(&[Direction::In, Direction::Out, Direction::Forward]);
    let numbers = any::<(u8, u16, u16, u32)>();
    (dir, prefix(), prefix(), numbers, any::<(bool, bool, bool)>()).prop_map(
        |(dir, src, dst, (ipproto, sport, dport, priority), (block, transform, exotic))| {
            XfrmPolicy {
                family: dst.family(),
                dir,
                src,
                dst,
                ipproto,
                sport,
                dport,
                priority,
                block,
                transform,
                exotic,
            }
        },
    )
}

fn observation() -> impl Strategy<Value = Observation> {
    let said = (any::<u32>(), word(), vec(word(), 0..3));
    let unit = (word(), word(), word(), word(), any::<u32>(), word(), said).prop_map(
        |(name, load, active, sub, pid, invocation, (restarts, result, said))| Unit {
            name,
            load,
            active,
            sub,
            pid,
            invocation,
            restarts,
            result,
            said,
        },
    );
    let resolv = (word(), option::of(word()), option::of(word()))
        .prop_map(|(text, link, backup)| Resolv { text, link, backup });
    let socket = (word(), end(), end(), any::<u32>()).prop_map(|(state, src, dst, mark)| Socket {
        state,
        src,
        dst,
        mark,
    });
    let lookup =
        (ip(), through(), fate()).prop_map(|(dst, through, fate)| Lookup { dst, through, fate });
    let probe = (word(), ip(), through(), reach(), option::of(ip()))
        .prop_map(|(name, dst, through, reach, src)| Probe { name, dst, through, reach, src });
    let lease = (word(), any::<u64>()).prop_map(|(renewed, age_ms)| Lease { renewed, age_ms });
    let gap = (sense(), word()).prop_map(|(what, why)| Gap { what, why });
    let rest = (
        vec(unit, 0..3),
        btree_map(word(), word(), 0..3),
        option::of(resolv),
        vec((word(), ip()).prop_map(|(dev, dst)| Fdb { dev, dst }), 0..3),
        vec(socket, 0..3),
        vec(lookup, 0..3),
        vec(probe, 0..3),
        option::of(lease),
        vec(word(), 0..3),
        vec(gap, 0..3),
    );
    let held = (word(), word(), vec(word(), 0..3)).prop_map(|(sandbox, pod, ports)| HostPorts {
        sandbox,
        pod,
        ports,
    });
    let more = (vec(xfrm(), 0..3), vec(held, 0..3));
    (tables(), rest, more).prop_map(|(seen, rest, (xfrm, host_ports))| {
        let (units, sysctls, resolv, fdb, sockets, lookups, probes, lease, paths, gaps) = rest;
        Observation {
            units,
            sysctls,
            resolv,
            fdb,
            xfrm,
            sockets,
            lookups,
            probes,
            lease,
            paths,
            host_ports,
            gaps,
            ..seen
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(seen in observation()) {
        let text = write(&seen);
        let again = read(&text).map_err(|e| TestCaseError::fail(format!("{e} in:\n{text}")))?;
        prop_assert_eq!(again, seen, "{}", text);
    }

    #[test]
    fn no_line_whatever_makes_the_reader_fall_over(text in "(route|rule6|nft|probe|link|gap|sysctl)? ?\\PC{0,40}") {
        // It reads or it says in which line it does not: both are fine, a panic is not.
        if let Err(e) = read(&text) {
            prop_assert_eq!(e.line, 1);
        }
    }
}

#[test]
fn an_unknown_word_is_an_error_with_its_line() {
    let bad = |text: &str| read(text).expect_err("must not be read").to_string();
    assert_eq!(
        bad("# a comment\n\nrule 5270 lookup 52\nrule 5270 lookup 52 sideways"),
        "read an observation: line 4: the word \"sideways\" is unknown here"
    );
    assert!(bad("bogus eth0").contains("line 1: \"bogus\" is no kind of object"));
    assert!(bad("rule 5270").contains("does nothing"));
    assert!(bad("nft filter -A INPUT -j X").contains("has not been begun"));
    assert!(bad("link \"eth").contains("a quote is not closed"));
    assert!(bad("sysctl a=1\nsysctl a=2").contains("line 2: sysctl a is there twice"));
    assert!(bad("addr eth0 192.168.2.80").contains("is no ADDRESS/LENGTH"));
    assert!(bad("lookup 1.2.3.4 plain dev eth0 table main via").contains("ends too early"));
    assert!(bad("fdb flannel.1 203.0.113.20 more").contains("\"more\" is one word too many"));
}

#[test]
fn the_usual_lines_read_as_they_are_meant() {
    let seen = read("rule6 5210 fwmark 0x80000/0xff0000 lookup main\nroute main 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink\n").unwrap();
    let rule = Rule {
        mark: Some(Mark { value: 0x80000, mask: 0xff_0000 }),
        ..Rule::bare(Family::V6, 5210, Action::Lookup(TABLE_MAIN))
    };
    assert_eq!(seen.rules, [rule]);
    let route = &seen.routes[0];
    assert_eq!((route.table, route.dev(), route.protocol), (TABLE_MAIN, Some("flannel.1"), 3));
    assert!(route.hops[0].onlink);
}
