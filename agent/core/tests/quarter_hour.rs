//! Fifteen minutes of virtual time beside each near miss, an operator who agrees to everything at hand: nothing is planned,
//! no guard stands, and nothing foreign is learnt.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod case;

use lifeline_core::baseline;
use lifeline_core::diagnosis::Verdict;
use lifeline_core::engine::Ending;
use lifeline_core::guard::{self, Stand};
use lifeline_core::incident::{Climb, Incident, climb};
use lifeline_core::judge::judge;
use lifeline_core::observation::{Route, RouteKind, TABLE_MAIN};
use lifeline_core::plan::Consent;
use lifeline_core::policy::Policy;
use std::path::Path;

/// One look each five seconds.
const LOOKS: u64 = 15 * 60 / 5;

const CASES: [(&str, Verdict); 31] = [
    ("healthy", Verdict::Healthy),
    ("healthy-dhcp", Verdict::Healthy),
    ("d2-somebody-elses", Verdict::Healthy),
    ("n3-known-refusal", Verdict::Upstream),
    ("n5-port-forwarding", Verdict::Healthy),
    ("n9-calico", Verdict::Healthy),
    ("n9-cilium", Verdict::Healthy),
    ("n9-docker", Verdict::Healthy),
    ("n9-firewalld", Verdict::Healthy),
    ("n9-firewalld-api-down", Verdict::Upstream),
    ("n9-ufw", Verdict::Healthy),
    ("n9-ufw-api-down", Verdict::Upstream),
    ("r9-works", Verdict::Moved),
    ("r12-elsewhere", Verdict::Healthy),
    ("r12-calico", Verdict::Healthy),
    ("r16-benign", Verdict::Healthy),
    ("r17-over-tailscale", Verdict::Healthy),
    ("r18-in-a-pod", Verdict::Healthy),
    ("r19-bare", Verdict::Healthy),
    ("r19-foreign", Verdict::Healthy),
    ("r20-api-moved", Verdict::Healthy),
    ("r20-gateway", Verdict::Moved),
    ("r20-metric", Verdict::Moved),
    ("r20-uplink", Verdict::Moved),
    ("r20-vpn", Verdict::Moved),
    ("r21-node-left", Verdict::Healthy),
    ("r24-others", Verdict::Healthy),
    ("u1-api-down", Verdict::Upstream),
    ("u2-gateway-dead", Verdict::Upstream),
    ("u2-no-carrier", Verdict::Upstream),
    ("u4-port-blocked", Verdict::Upstream),
];

/// Every row of the catalogue in which touching anything is the failure. U3 and U5 are no state that stands: `upstream.rs` lives
/// through them.
const ROWS: [&str; 10] = ["r16", "r17", "r18", "r19", "r20", "r21", "n9", "u1", "u2", "u4"];

#[test]
fn every_near_miss_of_the_catalogue_is_lived_through() {
    let has = |row: &str| CASES.iter().any(|(name, _)| name.split('-').next() == Some(row));
    let missing: Vec<&str> = ROWS.into_iter().filter(|row| !has(row)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Everything that can be agreed to, for any finding.
fn consent() -> Consent {
    Consent { rung: 6, ..Consent::default() }
}

#[test]
fn a_near_miss_is_left_alone_for_a_quarter_of_an_hour() {
    let policy = Policy::default();
    for (name, verdict) in CASES {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let mut seen = case::observation(&dir).unwrap();
        let mut base = case::baseline_of(&dir).unwrap();
        let first = base.clone();
        let mut incident = None;
        let mut ended = Vec::new();
        for look in 0..LOOKS {
            seen.taken.ms += 5_000;
            if let Some(lease) = &mut seen.lease {
                lease.age_ms = look % 3 * 4_000;
            }
            let diag = judge(&seen, &base, &policy);
            let what = format!("{name} after {} s: {}", look * 5, diag.summary);
            assert_eq!(diag.verdict, verdict, "{what}");
            // The operator says heal, again and again.
            let open = incident.get_or_insert_with(|| {
                Incident::new("i".into(), seen.taken.clone(), "op".into(), consent(), 10_000)
            });
            match climb(open, &seen, &base, &policy, &diag) {
                Climb::Watch(..) => {}
                Climb::Close(ending, _) => {
                    ended.push(ending);
                    incident = None;
                }
                Climb::Plan(p) | Climb::Ask(p, _) => panic!("{what}\n{p:#?}"),
            }
            let stand = if verdict == Verdict::Moved { Stand::Lifeline } else { Stand::Guard };
            let own: Vec<Route> = seen
                .routes
                .iter()
                .filter(|r| r.table == TABLE_MAIN && r.kind == RouteKind::Unicast)
                .cloned()
                .collect();
            let mirror = if verdict == Verdict::Moved { &own } else { &base.routes };
            let tables = guard::Tables {
                rules: &seen.rules,
                routes: &seen.routes,
                links: &seen.links,
                threats: &[],
                marks: &[],
            };
            let wanted = guard::wanted(tables, &base, mirror, &policy, stand);
            assert!(!wanted.guarded, "{what}: {:?}", wanted.captors);
            if let Ok(learned) = baseline::learn(&seen, &diag, Some(&base)) {
                base = learned;
            }
        }
        // What was well stays the measure: no rule, no path of a stranger's has crept in.
        assert_eq!(base.rules, first.rules, "{name}");
        for old in &first.expected {
            let kept = base.expected.iter().find(|e| e.role == old.role && e.prefix == old.prefix);
            let left = verdict == Verdict::Healthy && kept.is_none();
            assert!(left || kept == Some(old), "{name}: {old:?} became {kept:?}");
        }
        let fits = |e: &Ending| {
            *e == if verdict == Verdict::Healthy { Ending::Recovered } else { Ending::Held }
        };
        assert!(!ended.is_empty() && ended.iter().all(fits), "{name}: {ended:?}");
    }
}
