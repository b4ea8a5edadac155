//! One recovery at a time on one cluster: whose turn it is stands in a Lease there, and here it is decided what that means.
//!
//! Its holder renews it. Whether he still does is judged by a change that is seen to happen, within the time he wrote down: no two
//! clocks are compared. So a laptop that was closed keeps others out for that time and no longer.

use super::book::wall_ms;
use super::opened::Opened;
use crate::words;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;
use std::time::{Duration, Instant};

/// The lease's name.
pub const NAME: &str = "lifeline-recover";
/// Where it lies.
pub const SPACE: &str = "kube-system";
/// Without a renewal for so long it is anybody's.
pub const LASTS: Duration = Duration::from_secs(60);
/// What somebody else wrote down is believed up to this.
const LONGEST: Duration = Duration::from_secs(300);

/// Who acts, and in which run: `operator alice@mimas, recovery 20251013T120000-5d1c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    words: String,
    run: String,
}

impl Claimant {
    /// Who begins or goes on with this run, from this machine.
    pub fn of(opened: &Opened) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let run = format!("{} {}", if opened.heal { "heal" } else { "recovery" }, opened.id);
        Self { words: format!("{}@{host}, {run}", opened.by), run }
    }

    /// The run's own: gone on with, it is the same one, whatever its machine is called now.
    fn is(&self, holder: &str) -> bool {
        holder.ends_with(&format!(", {}", self.run))
    }

    /// The lease as it is to be; the version of the one that was found is the precondition.
    pub fn lease(&self, found: Option<Lease>) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let (mut metadata, was) = match found {
            Some(found) => (found.metadata, found.spec.unwrap_or_default()),
            None => (ObjectMeta::default(), LeaseSpec::default()),
        };
        metadata.name = Some(NAME.to_owned());
        let ours = was.holder_identity.as_deref().is_some_and(|h| self.is(h));
        let since = was.acquire_time.clone().filter(|_| ours);
        let spec = LeaseSpec {
            acquire_time: Some(since.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            holder_identity: Some(self.words.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            lease_transitions: Some(was.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..was
        };
        Lease { metadata, spec: Some(spec) }
    }

    /// The lease as nobody's; `None` when it is not this run's to give back.
    pub fn given_back(&self, found: Lease) -> Option<Lease> {
        let mut spec =
            found.spec.filter(|s| s.holder_identity.as_deref().is_some_and(|h| self.is(h)))?;
        spec.holder_identity = None;
        Some(Lease { spec: Some(spec), ..found })
    }
}

/// Somebody else, as the lease tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who, and in which run.
    pub who: String,
    /// When he took it, by his own clock.
    pub since: String,
}

impl Holder {
    fn of(who: &str, spec: &LeaseSpec) -> Self {
        let ms = spec.acquire_time.as_ref().and_then(|t| u64::try_from(t.0.as_millisecond()).ok());
        Self { who: who.to_owned(), since: ms.map_or_else(|| "?".to_owned(), words::local_date) }
    }

    /// The lease was deleted, and says no more.
    pub fn nobody() -> Self {
        Self { who: "whoever deleted its lease".to_owned(), since: words::local_date(wall_ms()) }
    }
}

/// What the lease means, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is this run's, or nobody's: written, and written again to keep it.
    Take,
    /// Somebody's, who may be gone: looked at again.
    Wait(Holder),
    /// Somebody's, who renewed it just now.
    Held(Holder),
}

/// Somebody else's lease, as it was seen first, and when.
#[derive(Debug, Default)]
pub struct Watch(Option<(LeaseSpec, Instant)>);

impl Watch {
    /// What is next, by what is found now.
    pub fn next(&mut self, me: &Claimant, found: Option<&LeaseSpec>, now: Instant) -> Next {
        let held = found.and_then(|spec| Some((spec, spec.holder_identity.as_deref()?)));
        let Some((spec, who)) = held.filter(|(_, who)| !who.is_empty() && !me.is(who)) else {
            self.0 = None;
            return Next::Take;
        };
        let holder = Holder::of(who, spec);
        match &self.0 {
            None => {
                self.0 = Some((spec.clone(), now));
                Next::Wait(holder)
            }
            Some((seen, _)) if seen != spec => Next::Held(holder),
            Some((_, first)) if now.duration_since(*first) >= lasts(spec) => Next::Take,
            Some(_) => Next::Wait(holder),
        }
    }
}

fn lasts(spec: &LeaseSpec) -> Duration {
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
    seconds.map_or(LASTS, Duration::from_secs).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(by: &str, id: &str) -> Claimant {
        Claimant::of(&Opened { by: by.to_owned(), id: id.to_owned(), ..Opened::default() })
    }

    fn held(by: &Claimant) -> LeaseSpec {
        by.lease(None).spec.unwrap()
    }

    #[test]
    fn what_is_nobodys_or_the_runs_own_is_taken_at_once_wherever_it_goes_on() {
        let me = of("operator alice", "r-1");
        let now = Instant::now();
        let mut own = held(&me);
        own.holder_identity = Some("operator alice@elsewhere, recovery r-1".to_owned());
        let mut free = own.clone();
        free.holder_identity = Some(String::new());
        for found in [None, Some(&own), Some(&free), Some(&LeaseSpec::default())] {
            assert_eq!(Watch::default().next(&me, found, now), Next::Take, "{found:?}");
        }
        // A run's name that ends like another's is another.
        let mut longer = held(&me);
        longer.holder_identity = Some("operator bob@x, recovery r-11".to_owned());
        assert!(matches!(Watch::default().next(&me, Some(&longer), now), Next::Wait(_)));
    }

    #[test]
    fn another_is_believed_to_live_when_a_renewal_is_seen_and_gone_when_none_is_for_as_long_as_he_said()
     {
        let (me, other) = (of("operator alice", "r-1"), of("operator bob", "r-2"));
        let begun = Instant::now();
        let at = |s| begun + Duration::from_secs(s);
        let first = held(&other);
        let mut watch = Watch::default();
        assert!(matches!(watch.next(&me, Some(&first), at(0)), Next::Wait(_)));
        assert!(matches!(watch.next(&me, Some(&first), at(59)), Next::Wait(_)));
        let mut renewed = first.clone();
        renewed.renew_time = Some(MicroTime(jiff::Timestamp::UNIX_EPOCH));
        // His clock may say what it likes.
        let Next::Held(holder) = watch.next(&me, Some(&renewed), at(60)) else { panic!() };
        assert!(holder.who.starts_with("operator bob@") && holder.who.ends_with(", recovery r-2"));
        let mut watch = Watch::default();
        assert!(matches!(watch.next(&me, Some(&first), at(0)), Next::Wait(_)));
        assert_eq!(watch.next(&me, Some(&first), at(60)), Next::Take);
        // He gave it back while it was watched.
        let mut watch = Watch::default();
        drop(watch.next(&me, Some(&first), at(0)));
        let free = other.given_back(other.lease(None)).unwrap();
        assert_eq!(watch.next(&me, free.spec.as_ref(), at(1)), Next::Take);
        let ever = LeaseSpec { lease_duration_seconds: Some(i32::MAX), ..first.clone() };
        let mut watch = Watch::default();
        drop(watch.next(&me, Some(&ever), at(0)));
        assert_eq!(
            watch.next(&me, Some(&ever), at(300)),
            Next::Take,
            "nobody locks others out for ever"
        );
    }

    #[test]
    fn what_is_kept_says_since_when_and_what_is_somebody_elses_is_not_given_back() {
        let (me, other) = (of("operator alice", "r-1"), of("operator bob", "r-2"));
        let first = me.lease(None);
        let again = me.lease(Some(first.clone()));
        let spec = |l: &Lease| l.spec.clone().unwrap();
        assert_eq!(spec(&first).acquire_time, spec(&again).acquire_time);
        assert_eq!([1, 1], [&first, &again].map(|l| spec(l).lease_transitions.unwrap()));
        let theirs = other.lease(Some(again));
        assert_eq!(spec(&theirs).lease_transitions, Some(2));
        assert_eq!(me.given_back(theirs), None);
    }
}
