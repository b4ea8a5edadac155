//! What a monitoring system gets to know of a node: facts in, a page of text out. It never waits, and never names a process,
//! an address or a reason: labels come from closed lists, so that their number is bounded.
//!
//! Two forms of the same page. OpenMetrics is what is served; node_exporter reads textfiles with a parser of the older text
//! format, which refuses a whole file for one `stateset` or `info`, so there these are gauges.

use crate::baseline::Provenance;
use crate::diagnosis::{Diagnosis, Verdict};
use crate::engine::Ending;
use crate::expiry::Certificate;
use crate::faults;
use crate::observation::{Observation, Sense};
use crate::plan::Rung;
use crate::policy::Mode;
use crate::text;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

mod page;

pub use page::Form;
use page::{Page, seconds};

/// What incidents end with besides a run's endings: a rung lacks somebody's consent.
pub const ASK: &str = "ask";

/// All that is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of the agent.
    pub version: String,
    /// The commit it was built from, or that it is a debug build.
    pub build: String,
    /// The machine it was built for.
    pub target: String,
    /// This node's name.
    pub node: String,
    /// Its cluster's.
    pub cluster: String,
    /// How much the agent does by itself.
    pub mode: Mode,
    /// The last look; none before the first has ended.
    pub look: Option<Look>,
    /// Looks since the agent's start.
    pub looks: u64,
    /// How the guard stands.
    pub guard: Guard,
    /// Generation and provenance of the baseline; none before there is one.
    pub baseline: Option<(u64, Provenance)>,
    /// What has ended since the agent's start.
    pub tally: Tally,
    /// An incident is under way.
    pub under_way: bool,
    /// The agent does not repair what it would repair alone.
    pub paused: bool,
    /// Nothing can be journalled, so nothing is repaired.
    pub disk_trouble: bool,
    /// Certificates in use that end.
    pub certificates: Vec<Certificate>,
}

/// A look and what it meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When it began, milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// Faults that are there, by id.
    pub present: BTreeMap<String, u64>,
    /// Faults that could not be judged, or must wait.
    pub held: Vec<String>,
    /// What could not be read.
    pub unread: Vec<Sense>,
    /// How old the kubelet's lease was.
    pub lease_age_ms: Option<u64>,
}

/// How the guard stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// It stands.
    pub standing: bool,
    /// It is needed and cannot be placed.
    pub helpless: bool,
    /// How often it was raised since the agent's start.
    pub raised: u64,
}

/// How often what has ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    incidents: BTreeMap<&'static str, u64>,
    runs: BTreeMap<(Rung, Ending), u64>,
}

impl Tally {
    /// An incident has ended.
    pub fn incident(&mut self, ending: &'static str) {
        *self.incidents.entry(ending).or_default() += 1;
    }

    /// A run has ended.
    pub fn run(&mut self, rung: Rung, ending: Ending) {
        *self.runs.entry((rung, ending)).or_default() += 1;
    }
}

impl Look {
    /// What of a look is told.
    pub fn of(seen: &Observation, judged: &Diagnosis, took_ms: u64) -> Self {
        let mut present = BTreeMap::new();
        for finding in &judged.findings {
            *present.entry(finding.fault.clone()).or_default() += 1;
        }
        Self {
            wall_ms: seen.taken.wall_ms,
            took_ms,
            verdict: judged.verdict,
            present,
            held: judged.held.iter().map(|h| h.fault.clone()).collect(),
            unread: seen.gaps.iter().map(|g| g.what).collect(),
            lease_age_ms: seen.lease.as_ref().map(|l| l.age_ms),
        }
    }
}

impl Facts {
    /// Without what differs at every look although nothing has happened.
    pub fn steady(&self) -> Self {
        let look = self.look.clone().map(|look| Look {
            wall_ms: 0,
            took_ms: 0,
            lease_age_ms: look.lease_age_ms.map(|_| 0),
            ..look
        });
        Self { look, looks: 0, ..self.clone() }
    }

    /// The page.
    pub fn page(&self, form: Form) -> String {
        let mut page = Page::new(form);
        self.identity(&mut page);
        self.look(&mut page);
        self.guard(&mut page);
        self.repairs(&mut page);
        self.memory(&mut page);
        self.papers(&mut page);
        page.end()
    }

    fn identity(&self, page: &mut Page) {
        let build: [(&str, &str); 3] =
            [("version", &self.version), ("build", &self.build), ("target", &self.target)];
        page.info("lifeline_build", "The agent's build.", &build);
        let node: [(&str, &str); 3] =
            [("node", &self.node), ("cluster", &self.cluster), ("mode", self.mode.word())];
        page.info("lifeline_agent", "Whom it watches, and how much it does by itself.", &node);
    }

    fn look(&self, page: &mut Page) {
        page.counter("lifeline_looks", "Looks at the node since the agent's start.");
        page.value("_total", &[], self.looks);
        let Some(look) = &self.look else { return };
        page.states(
            "lifeline_verdict",
            "The verdict of the last look.",
            Verdict::ALL.map(|v| (v.word(), v == look.verdict)),
        );
        page.gauge(
            "lifeline_last_look_timestamp",
            "seconds",
            "When the last look began: an agent whose looks do not end is an agent that hangs.",
        );
        page.value("", &[], seconds(look.wall_ms));
        page.gauge("lifeline_last_look_duration", "seconds", "How long the last look took.");
        page.value("", &[], seconds(look.took_ms));
        if let Some(age) = look.lease_age_ms {
            let help = "How old the kubelet's lease was at the last look; absent when it could not be read.";
            page.gauge("lifeline_lease_age", "seconds", help);
            page.value("", &[], seconds(age));
        }
        page.gauge("lifeline_fault_present", "", "Findings of each fault at the last look.");
        for fault in faults::ALL {
            let found = look.present.get(fault.id).copied().unwrap_or(0);
            page.value("", &[("fault", fault.id)], found);
        }
        let help = "Faults that could not be judged at the last look, or must wait.";
        page.gauge("lifeline_fault_held", "", help);
        for fault in faults::ALL {
            let held = look.held.iter().any(|h| h == fault.id);
            page.value("", &[("fault", fault.id)], u64::from(held));
        }
        page.gauge("lifeline_sense_unread", "", "What could not be read at the last look.");
        for sense in Sense::ALL {
            let unread = look.unread.contains(&sense);
            page.value("", &[("sense", text::word(sense))], u64::from(unread));
        }
    }

    fn guard(&self, page: &mut Page) {
        page.gauge(
            "lifeline_guard_standing",
            "",
            "The guard stands: something captures, and the node's own path is kept open.",
        );
        page.value("", &[], u64::from(self.guard.standing));
        let help = "The guard is needed and cannot be placed: a human should look.";
        page.gauge("lifeline_guard_helpless", "", help);
        page.value("", &[], u64::from(self.guard.helpless));
        page.counter("lifeline_guard_raised", "How often the guard was raised.");
        page.value("_total", &[], self.guard.raised);
    }

    fn repairs(&self, page: &mut Page) {
        page.gauge("lifeline_incident_under_way", "", "An incident is under way.");
        page.value("", &[], u64::from(self.under_way));
        page.counter("lifeline_incidents", "Incidents by how they ended.");
        for ending in Ending::ALL.map(Ending::word).into_iter().chain([ASK]) {
            let count = self.tally.incidents.get(ending).copied().unwrap_or(0);
            page.value("_total", &[("ending", ending)], count);
        }
        page.counter("lifeline_runs", "Runs, one rung each, by how they ended.");
        for rung in Rung::ENGINE.into_iter().chain(Rung::LAST) {
            for ending in Ending::ALL {
                let count = self.tally.runs.get(&(rung, ending)).copied().unwrap_or(0);
                let labels = [("rung", rung.word()), ("ending", ending.word())];
                page.value("_total", &labels, count);
            }
        }
        page.gauge("lifeline_repairs_paused", "", "The agent does not repair what it would repair alone: its budget is spent, or nothing can be written down.");
        page.value("", &[], u64::from(self.paused));
    }

    fn memory(&self, page: &mut Page) {
        if let Some((generation, provenance)) = self.baseline {
            let help = "Counts up with every baseline that is kept.";
            page.gauge("lifeline_baseline_generation", "", help);
            page.value("", &[], generation);
            page.states(
                "lifeline_baseline_provenance",
                "Where the baseline comes from.",
                [
                    ("derived", Provenance::Derived),
                    ("learned", Provenance::Learned),
                    ("accepted", Provenance::Accepted),
                ]
                .map(|(word, p)| (word, p == provenance)),
            );
        }
        let help = "The state directory takes nothing, so nothing can be journalled: the agent guards and does not repair.";
        page.gauge("lifeline_journal_trouble", "", help);
        page.value("", &[], u64::from(self.disk_trouble));
    }

    fn papers(&self, page: &mut Page) {
        if self.certificates.is_empty() {
            return;
        }
        let help = "When the agent's certificate and its authority's end; absent where there is none, or no end.";
        page.gauge("lifeline_certificate_not_after", "seconds", help);
        for certificate in &self.certificates {
            let labels = [("certificate", certificate.whose.word())];
            page.value("", &labels, certificate.not_after_s);
        }
    }
}
