//! Every fault of the catalogue on a live node: it is to be seen while it stands, and gone without a trace when it is taken back.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says why it skips"
)]

use lifeline_lab::{
    Lab,
    faults::{self, Fault, Site},
    lab::{self, Wish},
    names,
    progress::Progress,
    witness::{self, Change, Difference, Kind, Snapshot},
};

/// A lab of this test's own, taken down at its end.
struct Own;

impl Own {
    fn up() -> Option<(Self, Lab)> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI runs these tests as root");
            println!("skipped: a lab needs root");
            return None;
        }
        let build = ["build", "--quiet", "--workspace", "--locked"];
        assert!(lifeline_lab::cargo::command().args(build).status().unwrap().success());
        names::choose(Some("faults")).unwrap();
        let wish =
            Wish { yes: true, mode: "observe".to_owned(), gear: lifeline_lab::state::Gear::Quick };
        let lab = Lab::up(&wish, &Progress::new()).unwrap();
        // This is about the faults alone: an agent's own path would move in front of each of them.
        let gone = "systemctl stop lifeline-agent && lifeline-agent cleanup";
        lab.node("calypso").and_then(|n| n.sh(gone)?.success()).unwrap();
        Some((Self, lab))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        lab::down(&Progress::new()).unwrap();
    }
}

fn told(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("\n  {difference}")).collect()
}

/// Makes one fault and takes it back; returns what was wrong with it. How the node was before, and is afterwards, is `known`: a
/// look costs a second.
fn try_fault(lab: &Lab, fault: &Fault, known: &mut Option<Snapshot>) -> Result<(), String> {
    let mut site = Site::of(lab, "calypso").map_err(|cause| cause.to_string())?;
    site.netmap_delay = 0.0;
    let look = || witness::look(&*site.node).map_err(|cause| cause.to_string());
    let before = known.take().map_or_else(look, Ok)?;
    let made = fault.ground.map_or(Ok(()), |lay| lay(&site)).and_then(|()| (fault.strike)(&site));
    let struck = look()?;
    let back = (fault.restore)(&site);
    let after = look()?;
    made.map_err(|cause| format!("was not made: {cause}"))?;
    back.map_err(|cause| format!("was not taken back: {cause}"))?;
    if witness::diff(&before, &struck).is_empty() {
        return Err("is not to be seen".to_owned());
    }
    match witness::diff(&before, &after) {
        left if left.is_empty() => {
            *known = Some(after);
            Ok(())
        }
        left => Err(format!("left behind:{}", told(&left))),
    }
}

/// The capture that the incident is about has the shape that the real daemon gives it.
fn the_exit_node_captures_both_families(lab: &Lab) {
    let mut site = Site::of(lab, "calypso").unwrap();
    site.netmap_delay = 0.0;
    let before = witness::look(&*site.node).unwrap();
    let fault = faults::find("R1").unwrap();
    (fault.strike)(&site).unwrap();
    let struck = witness::diff(&before, &witness::look(&*site.node).unwrap());
    (fault.restore)(&site).unwrap();
    let rules: Vec<String> =
        struck.iter().filter(|found| found.kind == Kind::Rules).map(ToString::to_string).collect();
    let expected = |family: char| {
        [
            format!(
                "rule{family} + 5210: from all fwmark 0x80000/0xff0000 lookup main proto unspec"
            ),
            format!(
                "rule{family} + 5230: from all fwmark 0x80000/0xff0000 lookup default proto unspec"
            ),
            format!(
                "rule{family} + 5250: from all fwmark 0x80000/0xff0000 unreachable proto unspec"
            ),
            format!("rule{family} + 5270: from all lookup 52 proto unspec"),
        ]
    };
    assert_eq!(rules, [expected('4'), expected('6')].concat());
    for line in [
        "default dev tailscale0 table 52 proto boot scope global",
        "192.168.2.0/24 dev tailscale0 table 52 proto boot scope global",
        "10.42.1.0/24 dev tailscale0 table 52 proto boot scope global",
        "throw 127.0.0.0/8 table 52 proto boot scope global",
        "filter -A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP",
        "ipv4/conf/all/src_valid_mark:1",
    ] {
        let is_there = struck.iter().any(|found| found.line == line && found.change == Change::New);
        assert!(is_there, "{line} is missing in:{}", told(&struck));
    }
}

#[test]
fn every_fault_is_made_and_taken_back_without_a_trace() {
    let Some((_own, lab)) = Own::up() else { return };
    the_exit_node_captures_both_families(&lab);
    let mut known = None;
    let failures: Vec<String> = faults::all()
        .iter()
        // Waits for a guard; without an agent there is none, and R2 and R8 are tried by themselves.
        .filter(|fault| fault.id != "R22")
        .filter_map(|fault| {
            try_fault(&lab, fault, &mut known).err().map(|why| format!("{} {why}", fault.id))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
