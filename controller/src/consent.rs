//! What the operator agreed to: the agent's own words for the plan, narrowed to as far as the operator will go.

use crate::plan_view;
use lifeline_core::plan::{Consent, Rung};
use lifeline_proto::v1::PlanReply;

/// How far up the ladder the operator lets the agent climb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum UpTo {
    /// Make the culprit stop
    Quiet,
    /// Remove what it left, restore what is missing
    Clean,
    /// Close dead connections, restart the kubelet
    Reconnect,
    /// Flush the packet filter; undone unless confirmed
    Reset,
    /// Reboot
    Reboot,
}

impl UpTo {
    /// The rung's number.
    pub fn number(self) -> u32 {
        match self {
            Self::Quiet => Rung::Quiet.number(),
            Self::Clean => Rung::Clean.number(),
            Self::Reconnect => Rung::Reconnect.number(),
            Self::Reset => Rung::Reset.number(),
            Self::Reboot => Rung::Reboot.number(),
        }
    }

    /// The rung's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Quiet => Rung::Quiet.word(),
            Self::Clean => Rung::Clean.word(),
            Self::Reconnect => Rung::Reconnect.word(),
            Self::Reset => Rung::Reset.word(),
            Self::Reboot => Rung::Reboot.word(),
        }
    }
}

/// Narrows a consent: never wider than what the agent offered, and no kind of step that only higher rungs need. The last
/// rungs are part of it only as far as they were named and offered.
pub fn narrow(mut consent: Consent, plan: &PlanReply, up_to: Option<UpTo>) -> Consent {
    let Some(limit) = up_to.map(UpTo::number) else { return consent };
    let needs = |kind: &String, within: bool| {
        let rungs = plan.rungs.iter().filter(|r| (r.number <= limit) == within);
        rungs.flat_map(|r| &r.steps).any(|s| s.kind == *kind)
    };
    // A kind that no rung shows is the agent's business on the lower rungs too: it stays.
    consent.kinds.retain(|k| needs(k, true) || !needs(k, false));
    consent.rung = consent.rung.min(limit);
    let mut add = |list: fn(&mut Consent) -> &mut Vec<String>, what: &String| {
        let list = list(&mut consent);
        if !list.contains(what) {
            list.push(what.clone());
        }
    };
    let last: Vec<_> = plan_view::last_rungs(plan).filter(|r| r.number <= limit).collect();
    for rung in &last {
        rung.findings.iter().for_each(|f| add(|c| &mut c.findings, f));
        rung.steps.iter().for_each(|s| add(|c| &mut c.kinds, &s.kind));
    }
    consent.rung = last.iter().map(|r| r.number).fold(consent.rung, u32::max);
    consent
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeline_proto::v1::{LastResort, RungView, StepView};

    fn rung(number: u32, kinds: &[&str]) -> RungView {
        let step = |k: &&str| StepView { kind: (*k).into(), ..StepView::default() };
        RungView { number, steps: kinds.iter().map(step).collect(), ..RungView::default() }
    }

    #[test]
    fn a_last_rung_is_agreed_to_only_when_it_is_named_and_to_be_had() {
        let offer = |number, kinds: &[&str], refused: &str| LastResort {
            rung: Some(rung(number, kinds)),
            refused: refused.into(),
        };
        let plan = PlanReply {
            rungs: vec![rung(2, &["stopped"])],
            last: vec![
                offer(5, &["armed", "flushed", "restarted"], ""),
                offer(6, &[], "there is none"),
            ],
            ..PlanReply::default()
        };
        let offered = Consent { rung: 4, kinds: vec!["stopped".into()], ..Consent::default() };
        for low in [None, Some(UpTo::Reconnect)] {
            let consent = narrow(offered.clone(), &plan, low);
            assert!(consent.rung <= 4 && consent.kinds == ["stopped"], "{consent:?}");
        }
        let named = narrow(offered, &plan, Some(UpTo::Reboot));
        assert_eq!(named.rung, 5, "a reboot is not to be had");
        assert_eq!(named.kinds, ["stopped", "armed", "flushed", "restarted"]);
    }

    #[test]
    fn a_narrowed_consent_allows_nothing_that_only_higher_rungs_need() {
        let plan = PlanReply {
            rungs: vec![rung(2, &["stopped", "flows-gone"]), rung(4, &["flows-gone", "restarted"])],
            ..PlanReply::default()
        };
        let kinds = ["stopped", "flows-gone", "restarted", "exit-node-off"];
        let all = Consent {
            findings: vec!["f".into()],
            rung: 4,
            kinds: kinds.map(Into::into).to_vec(),
            ..Consent::default()
        };
        assert_eq!(narrow(all.clone(), &plan, None), all);
        let narrowed = narrow(all.clone(), &plan, Some(UpTo::Clean));
        assert_eq!(narrowed.rung, 3);
        assert_eq!(narrowed.kinds, ["stopped", "flows-gone", "exit-node-off"]);
        let low = Consent { rung: 2, ..all };
        assert_eq!(narrow(low, &plan, Some(UpTo::Reconnect)).rung, 2, "never wider than offered");
    }
}
