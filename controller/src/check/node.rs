//! A node: its agent answers, is of our version, looks often, knows what well is, and shows a certificate that lasts.

use super::{Answer, Group, Mark};
use crate::agent::verdict;
use crate::cli::VERSION;
use crate::session::Session;
use crate::skew::Skew;
use crate::words;

/// The agent looks every 5 to 30 s.
const STALE_MS: u64 = 90_000;
/// A node's certificate is renewed over the wire while it is valid.
const SOON_S: i64 = 14 * 86_400;
/// Clocks that are kept right by NTP differ by less, even over a slow line; what is beyond puts two machines' reports in a wrong order.
const AGREE_MS: u64 = 2_000;
/// Beyond this, what is valid from now on (a certificate, a service account's token) may be refused as not valid yet.
const APART_MS: u64 = 60_000;

/// Looks at what the agent said when it was reached.
pub async fn look(session: &Session, node: &str, answer: Answer) -> Vec<Mark> {
    let mut group = Group::new(node);
    let agent = match answer {
        Ok(agent) => agent,
        Err(why) => {
            group.wrong(&why);
            return group.marks;
        }
    };
    let s = &agent.status;
    if node.is_empty() {
        group.name = &s.node;
    }
    match agent.via.starts_with("ssh ") {
        false => group.mark(Some(true), format!("its agent answers at {}", agent.via), ""),
        true => group.mark(
            None,
            format!("its agent answers by {} alone, and at none of its addresses", agent.via),
            format!("look why: ctl status {node}, and the port it listens at on the node"),
        ),
    }
    let same = if build(&s.version) == build(VERSION) { Some(true) } else { None };
    group.mark(
        same,
        format!("it is of version {}, and ctl of {VERSION}", s.version),
        format!("ctl install {node} --ssh root@ADDRESS --upgrade"),
    );
    let fresh = s.age_ms < STALE_MS;
    group.mark(
        Some(fresh),
        format!("its last look is {} old", words::span_ms(s.age_ms)),
        "it may hang: journalctl -u lifeline-agent on the node",
    );
    clocks(&mut group, agent.skew);
    let well = words::is_fine(verdict(s.verdict));
    group.mark(
        Some(well),
        format!("it calls its node {}: {}", verdict(s.verdict).word(), s.summary),
        format!("ctl diagnose {node}"),
    );
    let learnt = !s.baseline.starts_with("none");
    group.mark(
        Some(learnt),
        format!("its baseline is {}", s.baseline),
        "it learns when all is well; ctl baseline show says what differs",
    );
    let alone = match s.mode.as_str() {
        "observe" => None,
        _ => Some(true),
    };
    group.mark(
        alone,
        format!("in mode {}", s.mode),
        "nothing guards the node by itself: mode = \"guard\" in its agent.toml",
    );
    match session.certificate(&agent.node).await {
        Ok(Some(card)) => group.expiry(
            "its certificate",
            card.until_s,
            SOON_S,
            "a new one, its key made on the node: ctl pki renew NODE",
        ),
        Ok(None) => {}
        Err(why) => group.wrong(&why),
    }
    group.marks
}

/// Certificates, `--since` and the order of what reports tell are read by both clocks.
fn clocks(group: &mut Group<'_>, skew: Option<Skew>) {
    // An agent that does not say what its clock shows is of an older version, and that was said.
    let Some(skew) = skew else { return };
    let fine = match skew {
        _ if skew.exceeds(APART_MS) => Some(false),
        _ if skew.exceeds(AGREE_MS) => None,
        _ => Some(true),
    };
    let what = match fine {
        Some(true) => "its clock and this machine's agree".to_owned(),
        _ => format!(
            "its clock is {} {} this machine's",
            words::span_ms(skew.ahead_ms.unsigned_abs()),
            if skew.ahead_ms > 0 { "ahead of" } else { "behind" }
        ),
    };
    group.mark(
        fine,
        what,
        "which of the two is wrong, and whether it is kept right: timedatectl on both",
    );
}

/// Version and build without the machine it was built for: a laptop and a node of different kinds may run the same.
fn build(version: &str) -> &str {
    let (rest, last) = version.rsplit_once(", ").unwrap_or((version, ""));
    // A target is `x86_64-unknown-linux-musl)`; a day that stands last is part of the build.
    let target = last.ends_with(')') && !last.starts_with(|c: char| c.is_ascii_digit());
    if target { rest } else { version.trim_end_matches(')') }
}

#[cfg(test)]
mod tests {
    use super::build;

    #[test]
    fn the_same_build_for_another_machine_is_the_same_and_another_build_is_not() {
        let here = "0.1.0 (1a2b3c, 2026-11-29, x86_64-unknown-linux-musl)";
        assert_eq!(build(here), build("0.1.0 (1a2b3c, 2026-11-29, aarch64-apple-darwin)"));
        assert_eq!(build(here), build("0.1.0 (1a2b3c, 2026-11-29)"));
        for other in [
            "0.1.0 (1a2b3d, 2026-11-29, x86_64-unknown-linux-musl)",
            "0.1.1 (1a2b3c, 2026-11-29, x86_64-unknown-linux-musl)",
            "0.1.0 (1a2b3c, 2026-11-30, x86_64-unknown-linux-musl)",
            "0.1.0",
        ] {
            assert_ne!(build(here), build(other), "{other}");
        }
    }
}
