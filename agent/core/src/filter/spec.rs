//! One rule's text: what it does, and whether it does it to a call.

use super::{Call, Way, prefix};
use crate::observation::Dialect;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What a rule does with what it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Lets it through.
    Accept,
    /// Drops or rejects it.
    Refuse,
    /// Asks another chain.
    Jump(String),
    /// Something else, or nothing.
    Other,
}

/// Does it match the call?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bearing {
    /// Certainly not.
    No,
    /// It has a condition this file has no words for.
    Maybe,
    /// Every packet of the call that passes it.
    Yes,
}

/// What a rule's text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it does.
    pub deed: Deed,
    /// To the call?
    pub bearing: Bearing,
    /// It names the call's address or port.
    pub names: bool,
    /// What it does to the packet's mark, if that can be told.
    pub mark: Option<Marking>,
}

/// What becomes of a packet's mark: the bits of the mask are cleared, and the value's are flipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marking {
    /// Flipped.
    pub value: u32,
    /// Cleared before that.
    pub mask: u32,
}

impl Marking {
    /// The mark that comes of a mark.
    pub fn of(self, mark: u32) -> u32 {
        (mark & !self.mask) ^ self.value
    }

    /// This, and another behind it.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self { value: next.of(self.value), mask: self.mask | next.mask }
    }
}

/// The call, and which way its packets pass the rule's chain, when that is known.
type Asked<'a> = Option<(&'a Call<'a>, Option<Way>)>;

/// Reads a rule.
pub fn read(dialect: Dialect, spec: &str, asked: Asked<'_>) -> Reading {
    let mut reading =
        Reading { deed: Deed::Other, bearing: Bearing::Yes, names: false, mark: None };
    let words = words(spec);
    match dialect {
        Dialect::Iptables => iptables(&words, asked, &mut reading),
        Dialect::Nft => nft(&words, asked, &mut reading),
    }
    reading
}

/// Where a rule leads; a comment may say anything, and is no word of its own.
pub fn leads_to(dialect: Dialect, spec: &str) -> Option<String> {
    match read(dialect, spec, None).deed {
        Deed::Jump(to) => Some(to),
        Deed::Accept | Deed::Refuse | Deed::Other => None,
    }
}

/// Does it rewrite the destination of all it sees, whatever the port? A device it comes by, or does not, is the one condition it may have.
pub fn diverts(dialect: Dialect, spec: &str) -> bool {
    let words = words(spec);
    let mut rest: &[String] = &words;
    loop {
        let word = |at: usize| rest.get(at).map_or("", String::as_str);
        let skip = match (dialect, word(0)) {
            (Dialect::Iptables, "-j") => return word(1) == "DNAT",
            (Dialect::Iptables, "!") => 1,
            (Dialect::Iptables, "--comment") => 2,
            (Dialect::Iptables, "-m") if word(1) == "comment" => 2,
            // What comes by the machine's own loopback comes not from outside.
            (Dialect::Iptables, "-i") if word(1) != "lo" => 2,
            (Dialect::Nft, "dnat") => return true,
            (Dialect::Nft, "counter") => 1,
            (Dialect::Nft, "comment") => 2,
            (Dialect::Nft, "iifname" | "iif") if word(1) == "!=" => 3,
            (Dialect::Nft, "iifname" | "iif") if word(1) != "lo" => 2,
            _ => return false,
        };
        rest = rest.get(skip..).unwrap_or_default();
    }
}

/// Splits a text at its spaces; what is quoted is one word, without its quotes.
fn words(text: &str) -> Vec<String> {
    let (mut out, mut word) = (Vec::new(), String::new());
    let (mut quoted, mut escaped, mut any) = (false, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                any = true;
            }
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    out.push(core::mem::take(&mut word));
                }
                any = false;
            }
            _ => word.push(c),
        }
    }
    if any || !word.is_empty() {
        out.push(word);
    }
    out
}

impl Reading {
    /// Another condition: it is met, it is not, or nobody can say.
    fn narrow(&mut self, met: Option<bool>, not: bool) {
        let bearing = match met {
            None => Bearing::Maybe,
            Some(met) if met == not => Bearing::No,
            Some(_) => Bearing::Yes,
        };
        self.bearing = self.bearing.min(bearing);
    }

    /// A condition on an address of the packet's.
    fn address(&mut self, asked: Asked<'_>, of_peer: Option<bool>, word: &str, not: bool) {
        let Some((call, _)) = asked else { return };
        let inside = prefix(word).map(|p| p.contains(call.peer));
        match of_peer {
            Some(true) => {
                self.narrow(inside, not);
                self.names |=
                    inside == Some(true) && !not && prefix(word).is_some_and(|p| !p.is_all());
            }
            // In a chain that others lead to it may be either end.
            None if inside == Some(true) && !not => {
                self.narrow(None, not);
                self.names = true;
            }
            _ => self.narrow(None, not),
        }
    }

    /// A condition on a port of the packet's: `6443`, `6000:7000`, `6000-7000`, `22,6443`.
    fn port(&mut self, asked: Asked<'_>, of_peer: Option<bool>, word: &str, not: bool) {
        let Some((call, _)) = asked else { return };
        let range = |w: &str| {
            let (a, b) = w.split_once([':', '-']).unwrap_or((w, w));
            let (a, b) = (a.parse::<u16>().ok()?, b.parse::<u16>().ok()?);
            Some((a..=b).contains(&call.port))
        };
        let met = word.split(',').map(range).reduce(|a, b| match (a, b) {
            (Some(a), Some(b)) => Some(a || b),
            _ => None,
        });
        let met = met.flatten();
        match of_peer {
            Some(false) => self.narrow(None, not),
            Some(true) => {
                self.narrow(met, not);
                self.names |= met == Some(true) && !not;
            }
            None => {
                self.narrow(None, not);
                self.names |= met == Some(true) && !not;
            }
        }
    }

    fn device(&mut self, asked: Asked<'_>, word: &str, not: bool) {
        let Some(dev) = asked.and_then(|(call, _)| call.dev) else {
            return self.narrow(None, not);
        };
        let met = match word.strip_suffix(['+', '*']) {
            Some(head) => dev.starts_with(head),
            None => dev == word,
        };
        self.narrow(Some(met), not);
    }

    fn protocol(&mut self, word: &str, not: bool) {
        self.narrow(Some(matches!(word, "tcp" | "6" | "all" | "0")), not);
    }

    /// A call begins with a packet of a new connection and is answered by one of an established one.
    fn state(&mut self, way: Option<Way>, word: &str, not: bool) {
        let has = |s: &str| word.split(',').any(|w| w.eq_ignore_ascii_case(s));
        let met = match way {
            Some(Way::Out) => Some(has("new") || has("established")),
            Some(Way::In) => Some(has("established")),
            Some(Way::Through) | None => None,
        };
        self.narrow(met.filter(|_| !not), not);
    }
}

/// Is the packet's destination the call's peer (going out), or its source (coming in)?
fn peers(asked: Asked<'_>, destination: bool) -> Option<bool> {
    match asked?.1? {
        Way::Out => Some(destination),
        Way::In => Some(!destination),
        Way::Through => None,
    }
}

fn iptables(words: &[String], asked: Asked<'_>, out: &mut Reading) {
    let way = asked.and_then(|(_, way)| way);
    let mut words = words.iter().map(String::as_str);
    let mut not = false;
    while let Some(word) = words.next() {
        if word == "!" {
            not = true;
            continue;
        }
        let mut value = || words.next().unwrap_or_default();
        match word {
            "-s" | "--source" => out.address(asked, peers(asked, false), value(), not),
            "-d" | "--destination" => out.address(asked, peers(asked, true), value(), not),
            "-p" | "--protocol" => out.protocol(value(), not),
            "--dport" | "--dports" => out.port(asked, peers(asked, true), value(), not),
            "--sport" | "--sports" => out.port(asked, peers(asked, false), value(), not),
            "-o" | "-i" => out.device(asked, value(), not),
            "--ctstate" | "--state" => out.state(way, value(), not),
            "-m" | "--comment" => drop(value()),
            "-j" | "-g" => {
                out.deed = match value() {
                    "ACCEPT" => Deed::Accept,
                    "DROP" | "REJECT" => Deed::Refuse,
                    // Targets of the kernel's own are capital letters only, and so may be a chain's name; what is asked of a
                    // jump is only whether that chain accepts, and one that is not there does not.
                    to => Deed::Jump(to.to_string()),
                };
                // What follows are the target's own words.
                if matches!(&out.deed, Deed::Jump(to) if to == "MARK") {
                    out.mark = marking(value(), value());
                }
                return;
            }
            w if w.starts_with('-') => out.narrow(None, not),
            // A value of an option this file does not know.
            _ => {}
        }
        not = false;
    }
}

fn nft(words: &[String], asked: Asked<'_>, out: &mut Reading) {
    let way = asked.and_then(|(_, way)| way);
    let mut at = 0;
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    // The value behind a selector, with `!=` or without; a set is nobody's to say.
    let value = |at: usize| {
        let (not, at) = if word(at) == "!=" { (true, at + 1) } else { (false, at) };
        if word(at) == "{" {
            let end = (at..words.len()).find(|i| word(*i) == "}").unwrap_or(words.len());
            return ("?", not, end + 1);
        }
        (word(at), not, at + 1)
    };
    while at < words.len() {
        match (word(at), word(at + 1)) {
            ("ip" | "ip6", "saddr" | "daddr") => {
                let (v, not, next) = value(at + 2);
                out.address(asked, peers(asked, word(at + 1) == "daddr"), v, not);
                at = next;
            }
            ("tcp", "dport" | "sport") => {
                let (v, not, next) = value(at + 2);
                out.port(asked, peers(asked, word(at + 1) == "dport"), v, not);
                at = next;
            }
            ("udp" | "icmp" | "icmpv6" | "sctp", _) => {
                out.narrow(Some(false), false);
                at += 1;
            }
            ("ip", "protocol") | ("meta", "l4proto") | ("ip6", "nexthdr") => {
                let (v, not, next) = value(at + 2);
                out.protocol(v, not);
                at = next;
            }
            ("oifname" | "iifname" | "oif" | "iif", _) => {
                let (v, not, next) = value(at + 1);
                out.device(asked, v, not);
                at = next;
            }
            ("ct", "state") => {
                let (v, not, next) = value(at + 2);
                out.state(way, v, not);
                at = next;
            }
            ("meta", "mark") if word(at + 2) == "set" && number(word(at + 3)).is_some() => {
                out.mark = number(word(at + 3)).map(|value| Marking { value, mask: u32::MAX });
                at += 4;
            }
            ("comment", _) => at += 2,
            ("counter", _) => at += 1,
            ("accept", _) => {
                out.deed = Deed::Accept;
                return;
            }
            ("drop" | "reject", _) => {
                out.deed = Deed::Refuse;
                return;
            }
            ("jump" | "goto", to) => {
                out.deed = Deed::Jump(to.to_string());
                return;
            }
            _ => {
                out.narrow(None, false);
                at += 1;
            }
        }
    }
}

fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// The words behind `-j MARK`, as `iptables-save` writes them.
fn marking(option: &str, value: &str) -> Option<Marking> {
    let (value, mask) = match value.split_once('/') {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(value)?, u32::MAX),
    };
    match option {
        "--set-xmark" => Some(Marking { value, mask }),
        // Its bits are set rather than flipped: they are cleared as well.
        "--set-mark" => Some(Marking { value, mask: mask | value }),
        _ => None,
    }
}
