//! The real gear's parts built ahead, beside other work, with the processor time that nobody else wants.
//!
//! Most live cases wait: for a lease, for a look, for a node to stay well. Building Kubernetes meanwhile costs them nothing that the
//! scheduler's idle class does not give back at once. The roots are not of that class: all labs wait for them.

use std::process::{Child, Command, Stdio};

use super::parts;
use crate::error::{Doing, LabError, Result};
use crate::progress::Progress;
use crate::state::Gear;
use crate::{process, root, run};

/// A build under way.
#[derive(Debug)]
pub struct Ahead(Child);

impl Ahead {
    /// Begins; it ends with us, whatever ends us.
    pub fn begin(yes: bool) -> Result<Self> {
        let me = process::own_program()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(me).args(["parts", "--ahead"]);
        command.args(yes.then_some("--yes")).stdin(Stdio::null());
        command.spawn().map(Self).doing(|| "begin to build the real gear's parts".to_owned())
    }

    /// Waits for its end.
    pub fn done(mut self, progress: &Progress) -> Result<()> {
        let doing = || "build the real gear's parts".to_owned();
        if self.0.try_wait().doing(doing)?.is_none() {
            progress.say("waiting for the real gear's parts");
        }
        // Bounded by the build's own limits.
        let status = self.0.wait().doing(doing)?;
        if status.success() {
            return Ok(());
        }
        let said = "see what it said above".to_owned();
        Err(LabError::Tool { doing: doing(), status: status.to_string(), said })
    }
}

/// Builds what is missing: the root first, for it is soon done. What is built `ahead` has both gears' roots before it steps back.
pub fn build(yes: bool, ahead: bool, progress: &Progress) -> Result<()> {
    crate::parts::check_machine()?;
    crate::parts::ensure(progress, yes)?;
    if ahead {
        root::ensure(Gear::Quick, progress)?;
    }
    root::ensure(Gear::Real, progress)?;
    if ahead {
        let me = std::process::id().to_string();
        run::host("chrt", &["--idle", "--all-tasks", "--pid", "0", &me])?.success()?;
    }
    parts::ensure(progress, yes).map(drop)
}
