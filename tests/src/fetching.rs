//! What is fetched over a network is tried again: a mirror that does not answer for a moment ends no build of ten minutes.

use std::time::Duration;

use crate::error::Result;
use crate::progress::Progress;

/// How often it is tried; each pause is twice the last.
const TRIES: u32 = 4;
#[cfg(not(test))]
const PAUSE: Duration = Duration::from_secs(5);
#[cfg(test)]
const PAUSE: Duration = Duration::from_millis(1);

/// Calls `fetch` until it succeeds. The last error counts.
pub(crate) fn patiently<T>(
    what: &str,
    progress: &Progress,
    mut fetch: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut tries = 1;
    loop {
        match fetch() {
            Err(why) if tries < TRIES => {
                let pause = PAUSE * 2u32.pow(tries - 1);
                progress.say(format!("{what} failed, tried again in {pause:?}: {why}"));
                std::thread::sleep(pause);
                tries += 1;
            }
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LabError;

    #[test]
    fn a_mirror_that_answers_at_the_last_try_is_answer_enough_and_one_that_never_does_is_told() {
        let mut calls = 0;
        let mut answers_at = |at: u32| {
            calls = 0;
            patiently("fetch it", &Progress::new(), || {
                calls += 1;
                let refused = || LabError::Refused(format!("no answer to call {calls}"));
                if calls == at { Ok(calls) } else { Err(refused()) }
            })
        };
        assert_eq!(answers_at(1).unwrap(), 1);
        assert_eq!(answers_at(TRIES).unwrap(), TRIES);
        let why = answers_at(TRIES + 1).unwrap_err().to_string();
        assert!(why.contains(&format!("no answer to call {TRIES}")), "{why}");
    }
}
