//! What the lab is doing, told on stderr with a clock beside each line; results go to stdout by the callers.
#![allow(clippy::print_stderr, reason = "telling the person at the terminal is what this is for")]

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One story on one terminal; shared by threads, one line at a time.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    live: bool,
    /// Whether a passing line stands on the terminal that the next line must replace.
    passing: Mutex<bool>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    #[must_use]
    pub fn new() -> Self {
        let live = std::io::stderr().is_terminal();
        Self { begun: Instant::now(), live, passing: Mutex::new(false) }
    }

    /// The same story, told by somebody who outlives the caller.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { begun: self.begun, live: self.live, passing: Mutex::new(false) }
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A line that stays.
    pub fn say(&self, line: impl AsRef<str>) {
        let clock = self.clock();
        if let Ok(mut passing) = self.passing.lock() {
            let wipe = if *passing { "\r\x1b[K" } else { "" };
            *passing = false;
            eprintln!("{wipe}{clock}  {}", line.as_ref());
        }
    }

    /// A line that the next one replaces; on anything but a terminal it is not shown.
    pub fn pass(&self, line: impl AsRef<str>) {
        if !self.live {
            return;
        }
        let clock = self.clock();
        if let Ok(mut passing) = self.passing.lock() {
            *passing = true;
            let short: String = line.as_ref().chars().take(90).collect();
            eprint!("\r\x1b[K{clock}  {short}");
            std::io::stderr().flush().ok();
        }
    }

    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Asks a question that only `y` or `yes` answers with yes.
    #[must_use]
    pub fn ask(&self, question: &str) -> bool {
        if !std::io::stdin().is_terminal() {
            return false;
        }
        eprint!("{question} [y/N] ");
        std::io::stderr().flush().ok();
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    fn clock(&self) -> String {
        let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        format!("{now} {:>6.1}s", self.begun.elapsed().as_secs_f64())
    }
}
