//! The recovery by hand: the runbook's commands for calypso, as they stand there, typed at the console.
//!
//! They are those of the recovery plan of 13 October 2025, step 3, option A, from "Stop k3s agent" to "Verify service status". The
//! comments are not typed. `sudo` is a function that runs its words, because root at the console needs none. Somebody at a
//! console gives a command up with Ctrl-C when nothing has come for a while: `systemctl start k3s-agent` waits for ever when the
//! API server cannot be reached.

use std::time::{Duration, Instant};

use crate::{error::Result, faults::Place};

/// What is typed.
pub const LINES: [&str; 10] = [
    "sudo systemctl stop k3s-agent",
    "sudo pkill tailscaled 2>/dev/null || true",
    "sudo rm -rf /var/lib/tailscale-worker /var/run/tailscale-worker 2>/dev/null || true",
    "sudo iptables -F",
    "sudo iptables -t nat -F",
    "sudo iptables -t mangle -F",
    "sudo iptables -X",
    "sudo ip route flush cache",
    "sudo systemctl start k3s-agent",
    "sudo systemctl status k3s-agent",
];

/// After this long without an end a command is given up. Below the bound that every command on a node has.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// The exit status by which `timeout` says that it had to interrupt.
const GIVEN_UP: i32 = 124;

/// One line that was typed, and what came of it.
#[derive(Debug, Clone)]
pub struct Typed {
    /// The line.
    pub line: &'static str,
    /// Its exit status.
    pub code: Option<i32>,
    /// Whether it was interrupted.
    pub given_up: bool,
    /// How long it took.
    pub took: Duration,
    /// What it printed.
    pub said: String,
}

/// Types all lines, one after the other, whatever each of them says, and tells of each when it is done.
pub fn type_all(console: &dyn Place, told: impl FnMut(&Typed)) -> Result<Vec<Typed>> {
    type_lines(console, &LINES, PATIENCE, told)
}

fn type_lines(
    console: &dyn Place,
    lines: &[&'static str],
    patience: Duration,
    mut told: impl FnMut(&Typed),
) -> Result<Vec<Typed>> {
    let mut all = Vec::new();
    for line in lines {
        let begun = Instant::now();
        let shell = format!("sudo() {{ \"$@\"; }}; {line}");
        let limit = format!("{:.1}", patience.as_secs_f64());
        let out = console.run(&["timeout", "-s", "INT", "-k", "2", &limit, "sh", "-c", &shell])?;
        let typed = Typed {
            line,
            code: out.code,
            given_up: out.timed_out || out.code == Some(GIVEN_UP),
            took: begun.elapsed(),
            said: format!("{}{}", out.stdout, out.stderr),
        };
        told(&typed);
        all.push(typed);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::run::{self, LIMIT, Output};

    #[derive(Debug)]
    struct Here;

    impl Place for Here {
        fn run(&self, argv: &[&str]) -> Result<Output> {
            run::run(Command::new(argv[0]).args(&argv[1..]), LIMIT, None)
        }

        fn write(&self, _path: &str, _text: &str) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_does_not_end_is_given_up_and_the_next_one_typed() {
        let lines = ["sudo sleep 30", "sudo echo typed"];
        let typed = type_lines(&Here, &lines, Duration::from_millis(300), |_| {}).unwrap();
        assert!(typed[0].given_up && typed[0].took < Duration::from_secs(5));
        assert_eq!((typed[1].said.as_str(), typed[1].given_up), ("typed\n", false));
    }

    #[test]
    fn a_line_that_fails_stops_nothing() {
        let typed = type_lines(&Here, &["sudo false", "sudo true"], PATIENCE, |_| {}).unwrap();
        assert_eq!(typed.iter().map(|typed| typed.code).collect::<Vec<_>>(), [Some(1), Some(0)]);
    }
}
