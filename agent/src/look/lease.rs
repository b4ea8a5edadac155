//! The kubelet's own lease, read from the API server with the node's credentials over the lifeline path: proof that the kubelet
//! gets through, whatever its health endpoint says.

use super::handshake::{self, Call, Patience};
use super::{LIMIT, Places, Seen};
use lifeline_core::observation::{Cluster, Lease, Reach, Sense};
use rustls::ClientConfig;
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A lease is some 700 bytes.
const CAP: u64 = 64 << 10;
const CALL_LIMIT: Duration = Duration::from_millis(2_500);

/// What was read of the lease before: its age is counted from then on by a clock that nobody sets and that stands still while the
/// machine sleeps. By the wall clock alone a step of that clock, or a night's sleep, would make every lease stale (U5).
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Option<Known>>);

#[derive(Clone, Debug)]
struct Known {
    renewed: String,
    /// Its age when it was first seen, and when that was.
    age_ms: u64,
    first: Instant,
    last: Instant,
}

impl Memory {
    /// The age of a lease that was renewed at that time, seen now; `by_clock` is what the wall clock makes of it.
    fn age(&self, renewed: &str, by_clock: u64, now: Instant) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |since: Instant| {
            u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
        };
        match known.as_mut() {
            Some(k) if k.renewed == renewed => {
                k.last = now;
                k.age_ms.saturating_add(ms(k.first))
            }
            // It was renewed since the other one was last seen, whatever the wall clock says.
            other => {
                let age_ms = other.map_or(by_clock, |k| by_clock.min(ms(k.last)));
                let renewed = renewed.to_owned();
                *known = Some(Known { renewed, age_ms, first: now, last: now });
                age_ms
            }
        }
    }
}

#[derive(Deserialize)]
struct Object {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    renew_time: String,
}

/// Reads it from the first API server that gives it, over what has been called already with the node's credentials.
pub(super) async fn read(
    places: &Places,
    cluster: &Cluster,
    node: Result<Arc<ClientConfig>, String>,
    mut called: Vec<(SocketAddr, Call)>,
    memory: &Memory,
) -> Seen<Option<Lease>> {
    if cluster.node.is_empty() || cluster.api.is_empty() {
        return Seen::nothing(Sense::Lease, "read the lease: node or API server is not known");
    }
    let config = match node {
        Ok(config) => config,
        Err(why) => return Seen::nothing(Sense::Lease, why),
    };
    let asks = cluster.api.iter().map(|api| {
        let config = config.clone();
        let called = called.iter().position(|(to, _)| to == api).map(|at| called.swap_remove(at).1);
        async move {
            let call = match called {
                Some(call) => call,
                None => {
                    let (patience, _) = Patience::new(CALL_LIMIT);
                    handshake::call(*api, places.policy.lifeline, &config, &patience).await
                }
            };
            match call.stream {
                Some(stream) => ask(stream, *api, &cluster.node).await,
                None if call.reach == Reach::Stranger => {
                    Err("somebody else answers there".to_owned())
                }
                None => Err("it does not answer".to_owned()),
            }
            .map_err(|why| format!("read the lease from {api}: {why}"))
        }
    });
    let answers = timeout(LIMIT, futures_util::future::join_all(asks)).await;
    let mut whys = Vec::new();
    for answer in
        answers.unwrap_or_else(|_| vec![Err("read the lease: no answer in time".to_owned())])
    {
        match answer {
            Ok(mut lease) => {
                lease.age_ms = memory.age(&lease.renewed, lease.age_ms, Instant::now());
                return Seen::whole(Some(lease));
            }
            Err(why) => whys.push(why),
        }
    }
    Seen::nothing(Sense::Lease, whys.join("; "))
}

/// The node's own, as its kubelet uses them.
pub(super) fn credentials(places: &Places) -> Result<Arc<ClientConfig>, String> {
    let agent = places.k3s.join("agent");
    let (cert, key) = (agent.join("client-kubelet.crt"), agent.join("client-kubelet.key"));
    handshake::config(&agent.join("server-ca.crt"), Some((&cert, &key)))
}

/// The body of one GET.
pub(super) async fn get(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    api: SocketAddr,
    path: &str,
    accept: &str,
) -> Result<Vec<u8>, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {api}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    stream.flush().await.map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    // A server that closes without TLS's own goodbye is an error to rustls; what came is judged by its length.
    let _cut = stream.take(CAP).read_to_end(&mut answer).await;
    body(&answer)
}

async fn ask(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    api: SocketAddr,
    node: &str,
) -> Result<Lease, String> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
    let body = get(stream, api, &path, "application/json").await?;
    let object: Object = serde_json::from_slice(&body).map_err(|e| format!("not a lease: {e}"))?;
    let renewed = object.spec.renew_time;
    let then = epoch_ms(&renewed).ok_or_else(|| format!("not a time: {renewed:?}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let age = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(then);
    // The node's clock wrote it, so it is never ahead of the node's clock but for a step back of that clock.
    Ok(Lease { renewed, age_ms: u64::try_from(age).unwrap_or(0) })
}

/// The body of a whole HTTP/1.1 answer of status 200.
fn body(answer: &[u8]) -> Result<Vec<u8>, String> {
    let cut = || "the answer is cut short".to_owned();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(cut)?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let rest = &answer[end + 4..];
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("HTTP status {status}"));
    }
    let header = |name: &str| {
        let value = |l: &str| l.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim().to_owned());
        head.lines().find_map(value)
    };
    if header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        return chunks(rest).ok_or_else(cut);
    }
    match header("content-length").map(|l| l.parse::<usize>()) {
        Some(Ok(len)) => rest.get(..len).map(<[u8]>::to_vec).ok_or_else(cut),
        Some(Err(_)) => Err("the answer has no length".to_owned()),
        None => Ok(rest.to_vec()),
    }
}

fn chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(rest.get(..end)?).ok()?.split(';').next()?.trim().to_owned();
        let size = usize::from_str_radix(&size, 16).ok()?;
        if size == 0 {
            return Some(all);
        }
        let start = end + 2;
        all.extend_from_slice(rest.get(start..start.checked_add(size)?)?);
        rest = rest.get(start + size + 2..)?;
    }
}

/// Milliseconds since 1970 of `2026-11-23T08:46:51.123456Z`, the one form Kubernetes writes.
fn epoch_ms(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut ymd = date.splitn(3, '-').map(|p| p.parse::<i64>().ok());
    let (year, month, day) = (ymd.next()??, ymd.next()??, ymd.next()??);
    let (hms, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = hms.splitn(3, ':').map(|p| p.parse::<i64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // A year of nineteen digits is no year, and what is counted from it is no time.
    let within =
        (0..=9_999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !within
        || !(0..24).contains(&hour)
        || !(0..60).contains(&minute)
        || !(0..=60).contains(&second)
    {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days since 1970 in the Gregorian calendar, with the year beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day
            - 1
            - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Fuzz;

    #[test]
    fn the_times_kubernetes_writes_are_read() {
        assert_eq!(epoch_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(epoch_ms("2000-02-29T12:00:00.5Z"), Some(951_825_600_500));
        assert_eq!(epoch_ms("2026-11-23T08:46:51.123456Z"), Some(1_795_423_611_123));
        assert_eq!(epoch_ms(""), None);
        assert_eq!(epoch_ms("2026-11-23T08:46Z"), None);
        assert_eq!(epoch_ms("9223372036854775807-11-23T08:46:00Z"), None);
        assert_eq!(epoch_ms("2026-11-23T08:46:-1Z"), None);
    }

    #[test]
    fn any_answer_about_a_lease_is_understood_or_no_lease() {
        Fuzz::new("lease").folder("tests/corpus/lease", |_| true).run(|bytes| {
            if let Ok(found) = body(bytes) {
                assert!(found.len() <= bytes.len());
            }
            for word in String::from_utf8_lossy(bytes).split('"') {
                // From the year 0 to the year 10 000.
                let possible = |ms| (-62_167_219_200_000..=253_402_300_800_999).contains(&ms);
                assert!(epoch_ms(word).is_none_or(possible), "{word}");
            }
        });
    }

    #[test]
    fn a_clock_that_jumps_makes_no_lease_old() {
        let (memory, start) = (Memory::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(memory.age("a", 3_000, at(0)), 3_000);
        // The wall clock is set two hours ahead, then three back.
        assert_eq!(memory.age("a", 7_208_000, at(5)), 8_000);
        assert_eq!(memory.age("b", 7_200_500, at(10)), 5_000);
        assert_eq!(memory.age("b", 0, at(15)), 10_000);
        // Nobody renews any more: that shows, whatever the clock.
        assert_eq!(memory.age("b", 0, at(60)), 55_000);
        assert_eq!(memory.age("c", 900, at(61)), 900);
    }

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{\"\"}";
        assert_eq!(body(whole).unwrap(), b"{\"\"}");
        assert!(body(&whole[..whole.len() - 1]).unwrap_err().contains("cut short"));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n";
        assert_eq!(body(chunked).unwrap(), b"abcde");
        assert!(body(&chunked[..chunked.len() - 9]).is_err());
        assert_eq!(body(b"HTTP/1.1 403 Forbidden\r\n\r\nno").unwrap_err(), "HTTP status 403");
        assert!(body(b"garbage").is_err());
    }
}
