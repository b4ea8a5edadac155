//! The page of metrics against golden files, in both forms. `UPDATE=1` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lifeline_core::baseline::Provenance;
use lifeline_core::diagnosis::{Diagnosis, Finding, Health, Held, Severity, Verdict};
use lifeline_core::engine::Ending;
use lifeline_core::expiry::{Certificate, Whose};
use lifeline_core::faults;
use lifeline_core::metrics::{Facts, Form, Guard, Look, Tally};
use lifeline_core::observation::{Gap, Lease, Observation, Sense};
use lifeline_core::plan::Rung;
use lifeline_core::policy::Mode;
use std::collections::BTreeSet;
use std::path::Path;

fn captured() -> Facts {
    let mut seen = Observation::default();
    seen.taken.wall_ms = 1_760_400_000_042;
    seen.lease = Some(Lease { renewed: String::new(), age_ms: 61_007 });
    seen.gaps = vec![Gap { what: Sense::Nft4, why: "iptables-nft-save stopped".into() }];
    let judged = Diagnosis {
        taken: seen.taken.clone(),
        verdict: Verdict::Captured,
        health: Health::Contained,
        guarded: true,
        summary: "the API server is reached by tailscale0".into(),
        findings: vec![Finding {
            fault: "tailscale-capture".into(),
            verdict: Verdict::Captured,
            severity: Severity::Critical,
            culprit: None,
            harm: true,
            evidence: vec!["rule 5270 lookup 52".into()],
        }],
        held: vec![Held { fault: "policy-drop".into(), why: "nft could not be read".into() }],
        forwarding: Vec::new(),
    };
    let mut tally = Tally::default();
    tally.incident(Ending::Recovered.word());
    tally.incident(Ending::Recovered.word());
    tally.run(Rung::Quiet, Ending::Unwell);
    Facts {
        version: "0.1.0".into(),
        build: "8f3c21d9a0b4, 2025-10-01".into(),
        target: "x86_64-unknown-linux-musl".into(),
        node: "calypso".into(),
        cluster: "lab".into(),
        mode: Mode::Heal,
        look: Some(Look::of(&seen, &judged, 187)),
        looks: 12,
        guard: Guard { standing: true, helpless: false, raised: 1 },
        baseline: Some((3, Provenance::Learned)),
        tally,
        under_way: true,
        paused: false,
        disk_trouble: false,
        certificates: [(Whose::Agent, 1_791_936_000), (Whose::Authority, 2_075_932_800)]
            .into_iter()
            .filter_map(|(whose, at)| Certificate::of(whose, at))
            .collect(),
    }
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, wanted, "{} differs: UPDATE=1 rewrites it", path.display());
}

#[test]
fn a_captured_node_is_told_in_both_forms() {
    golden("metrics.openmetrics", &captured().page(Form::OpenMetrics));
    golden("metrics.prom", &captured().page(Form::Text));
}

#[test]
fn every_fault_verdict_and_sense_has_its_value_although_nothing_is_wrong() {
    let page = captured().page(Form::OpenMetrics);
    for fault in faults::ALL {
        for family in ["lifeline_fault_present", "lifeline_fault_held"] {
            assert!(
                page.contains(&format!("\n{family}{{fault=\"{}\"}} ", fault.id)),
                "{}",
                fault.id
            );
        }
    }
    for verdict in Verdict::ALL {
        let value = u8::from(verdict == Verdict::Captured);
        let line = format!("\nlifeline_verdict{{lifeline_verdict=\"{verdict}\"}} {value}\n");
        assert!(page.contains(&line), "{verdict}");
    }
    assert_eq!(page.matches("\nlifeline_sense_unread{").count(), Sense::ALL.len());
}

#[test]
fn before_the_first_look_nothing_is_said_of_the_node() {
    let facts = Facts { look: None, baseline: None, ..captured() };
    let page = facts.page(Form::OpenMetrics);
    for family in ["verdict", "fault", "last_look", "lease", "baseline"] {
        assert!(!page.contains(&format!("lifeline_{family}")), "{family}: {page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn a_lease_that_could_not_be_read_is_absent_and_not_zero() {
    let mut facts = captured();
    facts.look.as_mut().unwrap().lease_age_ms = None;
    assert!(!facts.page(Form::OpenMetrics).contains("lifeline_lease_age"));
}

#[test]
fn a_certificate_that_is_not_there_is_absent_and_does_not_end_in_1970() {
    let facts = Facts { certificates: Vec::new(), ..captured() };
    assert!(!facts.page(Form::OpenMetrics).contains("lifeline_certificate"));
}

#[test]
fn whatever_a_name_holds_each_line_stays_a_line() {
    let facts = Facts { cluster: "a\"b\\c\nd".into(), ..captured() };
    for form in [Form::OpenMetrics, Form::Text] {
        let page = facts.page(form);
        assert!(page.contains("cluster=\"a\\\"b\\\\c\\nd\""), "{page}");
        assert_eq!(page.lines().count(), captured().page(form).lines().count());
    }
}

#[test]
fn no_series_is_told_twice_and_no_family_is_torn() {
    for form in [Form::OpenMetrics, Form::Text] {
        let page = captured().page(form);
        let series: Vec<&str> = page
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.rsplit_once(' ').unwrap().0)
            .collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
        let families: Vec<&str> =
            page.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert_eq!(families.iter().collect::<BTreeSet<_>>().len(), families.len());
    }
}

#[test]
fn only_what_has_happened_makes_a_page_another_one() {
    let (facts, mut later) = (captured(), captured());
    let look = later.look.as_mut().unwrap();
    (look.wall_ms, look.took_ms, look.lease_age_ms) = (1, 2, Some(3));
    later.looks += 1;
    assert_eq!(facts.steady(), later.steady());
    later.guard.standing = false;
    assert_ne!(facts.steady(), later.steady());
}
