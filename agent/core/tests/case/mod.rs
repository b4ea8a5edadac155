//! A golden case on disk: its look, and what the healthy node is.
#![allow(dead_code, reason = "shared by several test files, each of which uses a part")]

use lifeline_core::baseline::{self, Baseline, Provenance};
use lifeline_core::judge::judge;
use lifeline_core::observation::Observation;
use lifeline_core::policy::Policy;
use lifeline_core::text;
use std::path::Path;

pub type Failure = Box<dyn std::error::Error>;

pub fn observation(case: &Path) -> Result<Observation, Failure> {
    let path = case.join("observation.txt");
    let read =
        std::fs::read_to_string(&path).map_err(|e| format!("read {}: {e}", path.display()))?;
    Ok(text::read(&read).map_err(|e| format!("{}: {e}", path.display()))?)
}

pub fn baseline_of(case: &Path) -> Result<Baseline, Failure> {
    let line = std::fs::read_to_string(case.join("baseline.txt"))?;
    let (how, of) = line.trim().split_once(' ').ok_or("baseline.txt: HOW CASE")?;
    let seen = observation(&case.join("..").join(if of == "." {
        case.file_name().and_then(|n| n.to_str()).unwrap_or(of)
    } else {
        of
    }))?;
    let derived = baseline::derive(&seen);
    if how == "derived" {
        return Ok(derived);
    }
    // A node is accepted as it stands, and learnt from only when it is well by that very measure.
    let policy = Policy::default();
    let accepted = baseline::accept(&seen, &judge(&seen, &derived, &policy), None)?;
    match how {
        "accepted" => Ok(accepted),
        "learned" => {
            let diag = judge(&seen, &accepted, &policy);
            let learned =
                baseline::learn(&seen, &diag, None).map_err(|e| format!("learn from {of}: {e}"))?;
            assert_eq!(learned.provenance, Provenance::Learned);
            Ok(learned)
        }
        other => {
            Err(format!("baseline.txt: {other:?} is none of learned, accepted, derived").into())
        }
    }
}
