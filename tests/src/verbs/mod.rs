//! What can be asked of the lab, a verb each: its arguments, and what comes of them.

pub mod bench;
pub mod by_hand;
pub mod cluster;
pub mod fault;
pub mod incident;
mod lanes;
pub mod place;
mod readme;
pub mod recover;
pub mod release;
pub mod status;
pub mod test;
pub mod up;
pub mod witness;
pub mod workspace;

use std::process::{ExitCode, ExitStatus};

use lifeline_lab::lab::{self, Lab, Wish};
use lifeline_lab::progress::Progress;
use lifeline_lab::state::Gear;

/// The gear that a `--real` asks for.
#[must_use]
pub fn gear(real: bool) -> Gear {
    if real { Gear::Real } else { Gear::Quick }
}

/// A child's exit code as ours.
#[must_use]
pub fn code_of(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

/// Does `work` in a lab that is up; one that was not is taken down afterwards, whatever came of the work.
pub fn raised<T>(
    yes: bool,
    keep: bool,
    gear: Gear,
    progress: &Progress,
    work: impl FnOnce(&Lab) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let was_up = Lab::open().is_ok();
    let lab = Lab::up(&Wish { yes, mode: "observe".to_owned(), gear }, progress)?;
    let done = work(&lab);
    if !was_up && !keep {
        lab::down(progress)?;
    }
    done
}
