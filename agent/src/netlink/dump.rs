//! Dumps of several datagrams, which are not of one moment; and what is known of the last, so that the next need not be read.

use super::events::Watch;
use super::{LIMIT, NetlinkError, wire};
use lifeline_core::observation::Shared;
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::collections::HashMap;
use std::hash::RandomState;
use tokio::time::timeout;

/// A dump this small comes in one datagram, which the kernel fills in one go; larger ones are not of one moment. (It fills up
/// to 32 KiB for a reader who has shown a buffer of that size before: see [`wire::converse`].)
const ONE_DATAGRAM: usize = 30_000;
/// How often a larger dump that was disturbed is done again.
const ROUNDS: usize = 4;

/// What a dump brought, each entry with a number by which it is known again unread.
#[derive(Debug)]
pub(super) struct Known<T> {
    state: RandomState,
    marks: Vec<u64>,
    entries: Shared<T>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { state: RandomState::new(), marks: Vec::new(), entries: Shared::default() }
    }
}

/// What one more dump says of what is known: so many of the first are as they were, and behind them come others.
struct News<T> {
    same: usize,
    marks: Vec<u64>,
    others: Vec<T>,
    /// Of the longest of its dumps.
    bytes: usize,
}

/// What is asked for, in words and as a request; what several bring is one list.
pub(super) type Ask = (String, RouteNetlinkMessage);

impl<T: PartialEq + Clone> Known<T> {
    /// The entries.
    pub(super) fn entries(&self) -> Shared<T> {
        self.entries.clone()
    }

    /// The entries alone.
    pub(super) fn into_entries(self) -> Vec<T> {
        self.entries.into_first(usize::MAX)
    }

    /// Dumps, and again while something changes meanwhile, because a dump of several datagrams passes entries over while others
    /// come and go, and no flag says so (field guide K4). That something changed is told by the kernel's own events. When it
    /// never rests, what any of the dumps saw counts as there: under churn absence cannot be known, and a flapping entry is
    /// better seen than not.
    ///
    /// Only one list is ever held, and what differs from it; while nothing differs it is the list of the last time.
    pub(super) async fn renew(
        &mut self,
        asks: &[Ask],
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<(), NetlinkError> {
        let watch = Watch::open()?;
        let first = self.compare(asks, &pick).await?;
        let mut rounds = if first.bytes <= ONE_DATAGRAM || watch.is_calm() { 0 } else { ROUNDS };
        self.replace(first);
        while rounds > 0 {
            rounds -= 1;
            let news = self.compare(asks, &pick).await?;
            if watch.is_calm() {
                self.replace(news);
                break;
            }
            self.unite(news);
        }
        Ok(())
    }

    async fn compare(
        &self,
        asks: &[Ask],
        pick: &impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<News<T>, NetlinkError> {
        let mut news = News { same: 0, marks: Vec::new(), others: Vec::new(), bytes: 0 };
        let mut each = |raw: wire::Raw<'_>| {
            let mark = raw.mark(&self.state);
            let known = self.marks.get(news.same).filter(|_| news.others.is_empty());
            if known == Some(&mark) {
                news.same += 1;
                return Ok(());
            }
            let Some(entry) = pick(raw.read()?) else { return Ok(()) };
            if known.is_some() && self.entries.get(news.same) == Some(&entry) {
                news.same += 1;
            } else {
                news.marks.push(mark);
                news.others.push(entry);
            }
            Ok(())
        };
        let mut bytes = 0;
        for (what, ask) in asks {
            let late = |_| NetlinkError::Late { what: what.clone() };
            let dump = timeout(LIMIT, wire::dump(what, ask, &mut each));
            bytes = bytes.max(dump.await.map_err(late)??);
        }
        Ok(News { bytes, ..news })
    }

    /// The news alone count.
    fn replace(&mut self, news: News<T>) {
        if news.same < self.marks.len() || !news.others.is_empty() {
            self.cut(news.same);
            self.extend(news.marks, news.others);
        }
    }

    /// What was known and the news count alike.
    fn unite(&mut self, news: News<T>) {
        let behind = self.entries.get(news.same..).unwrap_or_default().to_vec();
        let marks = self.marks.get(news.same..).unwrap_or_default().iter().copied();
        let earlier = marks.zip(behind).collect();
        let later = news.marks.into_iter().zip(news.others).collect();
        let (marks, entries) = union(earlier, later).into_iter().unzip();
        self.cut(news.same);
        self.extend(marks, entries);
    }

    fn cut(&mut self, len: usize) {
        self.marks.truncate(len);
        if len < self.entries.len() {
            self.entries = std::mem::take(&mut self.entries).into_first(len).into();
        }
    }

    fn extend(&mut self, marks: Vec<u64>, entries: Vec<T>) {
        if self.marks.is_empty() {
            // Without a copy: among 100 000 it would be megabytes.
            (self.marks, self.entries) = (marks, entries.into());
        } else {
            self.marks.extend(marks);
            self.entries.extend(entries);
        }
    }
}

/// What either list holds: `later` in its order, and behind each of its entries those of `earlier` that followed it.
fn union<T>(earlier: Vec<(u64, T)>, later: Vec<(u64, T)>) -> Vec<(u64, T)> {
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, (mark, _)) in later.iter().enumerate().rev() {
        places.entry(*mark).or_default().push(at);
    }
    let (mut at, mut missing) = (0, Vec::new());
    for entry in earlier {
        match places.get_mut(&entry.0).and_then(Vec::pop) {
            Some(found) => at = found + 1,
            None => missing.push((at, entry)),
        }
    }
    missing.sort_by_key(|(at, _)| *at);
    let mut missing = missing.into_iter().peekable();
    let mut all = Vec::new();
    for (at, entry) in later.into_iter().enumerate() {
        while let Some((_, gone)) = missing.next_if(|(place, _)| *place <= at) {
            all.push(gone);
        }
        all.push(entry);
    }
    all.extend(missing.map(|(_, gone)| gone));
    all
}

#[cfg(test)]
mod tests {
    use super::union;

    #[test]
    fn what_either_dump_saw_counts_in_its_place() {
        let pairs = |a: &[u64]| a.iter().map(|n| (*n, *n)).collect();
        let union = |a: &[u64], b: &[u64]| -> Vec<u64> {
            union(pairs(a), pairs(b)).into_iter().map(|(_, n)| n).collect()
        };
        assert_eq!(
            union(&[0, 5210, 5270, 32766], &[0, 5210, 32766, 32767]),
            [0, 5210, 5270, 32766, 32767]
        );
        assert_eq!(union(&[1, 2], &[]), [1, 2]);
        assert_eq!(union(&[], &[1, 2]), [1, 2]);
        assert_eq!(union(&[0, 32766, 32767], &[0, 32767]), [0, 32766, 32767]);
        assert_eq!(union(&[7, 7, 7], &[7, 8]), [7, 7, 7, 8], "equal ones are counted");
    }
}
