//! Styx is rented: what its provider says and does, and what `ctl` makes of it. The power cut is real, the boot id has the last
//! word.

use std::time::Duration;

use super::ground::told;
use super::{Case, Ground, Verdict};
use crate::recover::desk::{Desk, STYX};
use crate::recover::secret;
use crate::run::{self, Output};
use crate::standin::provider::Machine;
use crate::standin::trouble::{On, Trouble, What};

pub const CASES: &[Case] = &[
    Case {
        name: "P1_a_restart_by_the_provider_cuts_the_power_and_is_proven_by_another_boot",
        run: restarted,
    },
    Case {
        name: "P1_a_restart_whose_answer_is_lost_is_looked_up_and_not_sent_again",
        run: answer_lost,
    },
    Case {
        name: "P1_whatever_a_provider_answers_instead_is_a_clear_error_and_no_power_is_cut",
        run: refused,
    },
    Case { name: "P1_two_machines_that_match_and_none_are_both_touched_by_nobody", run: ambiguous },
    Case { name: "P2_a_restart_that_is_said_to_be_done_and_was_not_is_no_success", run: lied },
];

const NODE: &str = "styx";
const LIMIT: Duration = Duration::from_secs(300);

struct Rented<'a, 'g> {
    g: &'a Ground<'g>,
    desk: Desk,
    boot: String,
}

impl<'a, 'g> Rented<'a, 'g> {
    fn new(g: &'a Ground<'g>) -> std::result::Result<Self, String> {
        let desk = Desk::lay(g.progress).map_err(told)?;
        let mut rented = Self { g, desk, boot: String::new() };
        rented.boot = rented.boot_now()?;
        Ok(rented)
    }

    fn boot_now(&self) -> std::result::Result<String, String> {
        let node = self.g.lab.node(NODE).map_err(told)?;
        let out = node.exec(&["cat", "/proc/sys/kernel/random/boot_id"]);
        out.and_then(Output::success).map(|o| o.stdout).map_err(told)
    }

    fn restart(&self, limit: &str) -> std::result::Result<Output, String> {
        let argv = ["ctl", "vps", "restart", NODE, "--yes", "--limit", limit];
        let mut command = self.desk.command(self.g.lab, &argv).map_err(told)?;
        let out = run::run(&mut command, LIMIT, None).map_err(told)?;
        if secret::holds(format!("{}{}", out.stdout, out.stderr).as_bytes()) {
            return Err("the token was said".to_owned());
        }
        Ok(out)
    }

    /// It ended so, said this, sent so many wishes, and the power was cut or not.
    fn expect(&self, out: &Output, code: i32, words: &[&str], wishes: usize, cut: bool) -> Verdict {
        let said = format!("{}{}", out.stdout, out.stderr);
        if out.code != Some(code) {
            return Err(format!("exit code {:?}, not {code}: {said}", out.code));
        }
        if let Some(word) = words.iter().find(|w| !said.contains(**w)) {
            return Err(format!("{word:?} is missing in: {said}"));
        }
        if self.desk.provider.wishes() != wishes {
            return Err(format!("the provider was asked for: {:?}", self.desk.provider.asked()));
        }
        let (cycles, other) = (self.desk.cycles().len(), self.boot_now()? != self.boot);
        if (cycles, other) != (usize::from(cut), cut) {
            return Err(format!("{cycles} power cycles, another boot: {other}"));
        }
        Ok(())
    }
}

fn restarted(g: &Ground<'_>) -> Verdict {
    let rented = Rented::new(g)?;
    let out = rented.restart("2m")?;
    rented.expect(&out, 0, &["restarted"], 1, true)
}

fn answer_lost(g: &Ground<'_>) -> Verdict {
    let rented = Rented::new(g)?;
    rented.desk.provider.trouble(Trouble::granted(What::Hangup));
    let out = rented.restart("2m")?;
    rented.expect(&out, 0, &["restarted"], 1, true)
}

fn refused(g: &Ground<'_>) -> Verdict {
    // 5: to be run again, later or to find out what became of it.
    let answers: [(What, i32, &[&str]); 7] = [
        (What::Status(401), 1, &["401", "token"]),
        (What::Status(422), 1, &["422", "template_id"]),
        (What::Busy(Some("3600")), 5, &["429", "3600 s"]),
        (What::Status(500), 5, &["500", "no new action"]),
        (What::Html(403), 1, &["403"]),
        (What::Hangup, 5, &["no new action"]),
        (What::Silence(Duration::from_secs(8)), 5, &["no answer within", "no new action"]),
    ];
    for (what, code, words) in answers {
        let rented = Rented::new(g)?;
        rented.desk.provider.trouble(Trouble::once(On::Wishes, what.clone()));
        let out = rented.restart("20s")?;
        rented.expect(&out, code, words, 1, false).map_err(|why| format!("{what:?}: {why}"))?;
    }
    Ok(())
}

fn ambiguous(g: &Ground<'_>) -> Verdict {
    let rented = Rented::new(g)?;
    rented.desk.provider.change(STYX, |m| m.hostname = "other.hstgr.cloud".to_owned());
    let out = rented.restart("20s")?;
    rented.expect(&out, 1, &["are not the same machine"], 0, false)?;
    rented.desk.provider.change(STYX, |m| m.ipv4 = vec!["203.0.113.99".to_owned()]);
    let out = rented.restart("20s")?;
    rented.expect(&out, 1, &["none is called srv712695.hstgr.cloud"], 0, false)?;
    rented.desk.provider.change(STYX, |m| {
        *m = Machine::running(STYX, "srv712695.hstgr.cloud", "203.0.113.20");
    });
    let twin = Machine::running(1, "srv712695.hstgr.cloud", "203.0.113.20");
    rented.desk.provider.add(twin);
    let out = rented.restart("20s")?;
    rented.expect(&out, 1, &["2 have both its name and its address"], 0, false)
}

fn lied(g: &Ground<'_>) -> Verdict {
    let rented = Rented::new(g)?;
    rented.desk.provider.lie(true);
    let out = rented.restart("20s")?;
    rented.expect(&out, 1, &["was not restarted"], 1, false)
}
