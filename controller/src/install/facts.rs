//! What a machine is like before anything is put on it, and whether that will do.

use super::binary::Binary;
use std::collections::BTreeMap;

/// A certificate is valid from an hour before it is made.
const CLOCK_S: i64 = 3_000;
/// Program, its predecessor, and its successor.
const ROOM_KB: u64 = 96 * 1024;
/// The oldest release that has what the unit says.
const SYSTEMD: u32 = 247;

/// What `survey.sh` said.
#[derive(Debug)]
pub struct Facts(BTreeMap<String, String>);

/// One condition.
#[derive(Debug, PartialEq, Eq)]
pub struct Point {
    /// `None` is worth a word and hinders nothing.
    pub fine: Option<bool>,
    /// What was looked at, and what was seen.
    pub what: String,
    /// What to try.
    pub hint: &'static str,
}

impl Facts {
    /// Reads the lines of the survey.
    pub fn read(text: &str) -> Self {
        let lines = text.lines().filter_map(|l| l.split_once('='));
        Self(lines.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect())
    }

    /// One answer; empty when it was not given.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Is it there?
    pub fn has(&self, key: &str) -> bool {
        self.get(key) == "yes"
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.get(key).parse().ok()
    }

    /// Anything of Lifeline's.
    pub fn installed(&self) -> bool {
        ["binary", "unit", "config", "key", "state"].iter().any(|k| self.has(k))
    }

    /// Every condition.
    pub fn points(&self, node: &str, binary: &Binary, now_s: i64) -> Vec<Point> {
        let point = |fine, what, hint| Point { fine, what, hint };
        let clock = self.number("clock").map(|c| c - now_s);
        let systemd = self.get("systemd").parse::<u32>().ok();
        let free = self.get("free_kb").parse::<u64>().ok();
        let mut points = vec![
            point(
                Some(self.get("user") == "0"),
                format!("root there (uid {})", self.get("user")),
                "use --ssh root@HOST, or let that user sudo without a password",
            ),
            point(
                Some(self.get("system") == "Linux" && self.get("arch") == binary.arch),
                format!(
                    "{} on {}, and the program is for {}",
                    self.get("system"),
                    self.get("arch"),
                    binary.arch
                ),
                "name the program for that machine with --binary",
            ),
            point(
                Some(systemd.is_some_and(|v| v >= SYSTEMD)),
                format!(
                    "systemd {}",
                    if self.get("systemd").is_empty() {
                        "is not running"
                    } else {
                        self.get("systemd")
                    }
                ),
                "the agent runs under systemd 247 or newer",
            ),
            point(
                Some(clock.is_some_and(|c| c.abs() < CLOCK_S)),
                clock.map_or_else(
                    || "its clock cannot be read".into(),
                    |c| format!("its clock differs by {c} s from this one"),
                ),
                "certificates need clocks that agree: set it right first",
            ),
            point(
                Some(free.is_some_and(|f| f >= ROOM_KB)),
                format!("{} MB free for the program", free.unwrap_or(0) / 1024),
                "make room on the disk of /usr/local/bin",
            ),
            point(
                Some(self.get("port").is_empty() || self.get("active") == "active"),
                match self.get("port") {
                    "" => "port 7443 is free".into(),
                    at => format!("port 7443 is taken ({at})"),
                },
                "somebody else listens there: stop it, or set listen in agent.toml after --upgrade",
            ),
        ];
        let k3s = match (self.get("k3s"), self.get("balancer")) {
            ("active", b) if !b.is_empty() => {
                point(Some(true), format!("k3s-agent runs, and {b} names its API servers"), "")
            }
            (k3s, b) => point(
                None,
                format!(
                    "k3s-agent is {}, its file of API servers is {}",
                    or(k3s, "not there"),
                    or(b, "missing")
                ),
                "the agent learns from k3s's files once they are there",
            ),
        };
        points.push(k3s);
        if self.get("host") != node {
            points.push(point(
                None,
                format!("it calls itself {}, not {node}", self.get("host")),
                "the name must be the one of `kubectl get nodes`",
            ));
        }
        points
    }
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "user=0\nsystem=Linux\narch=x86_64\nhost=calypso\nclock=1000\nsystemd=252\nk3s=active\nbalancer=/x.json\nfree_kb=999999\nport=\nagent=\n";

    fn bad(text: &str) -> Vec<String> {
        let binary = Binary { path: "x".into(), bytes: Vec::new(), arch: "x86_64", vouched: false };
        let all = Facts::read(text).points("calypso", &binary, 1060);
        all.into_iter().filter(|p| p.fine != Some(true)).map(|p| p.what).collect()
    }

    #[test]
    fn a_worker_of_k3s_will_do() {
        assert_eq!(bad(GOOD), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_will_not_do_is_named() {
        for (from, to, said) in [
            ("user=0", "user=1000", "root there (uid 1000)"),
            ("arch=x86_64", "arch=aarch64", "Linux on aarch64, and the program is for x86_64"),
            ("systemd=252", "systemd=", "systemd is not running"),
            ("clock=1000", "clock=90000", "its clock differs by 88940 s from this one"),
            ("clock=1000", "clock=", "its clock cannot be read"),
            ("free_kb=999999", "free_kb=2048", "2 MB free for the program"),
            ("port=", "port=0.0.0.0:7443", "port 7443 is taken (0.0.0.0:7443)"),
            (
                "k3s=active",
                "k3s=inactive",
                "k3s-agent is inactive, its file of API servers is /x.json",
            ),
            ("host=calypso", "host=styx", "it calls itself styx, not calypso"),
        ] {
            assert_eq!(bad(&GOOD.replace(from, to)), [said], "{to}");
        }
        assert!(bad("").len() >= 7, "no answer is no consent");
    }
}
