//! T16: calls of an operator that fail while certificates change under him: the node's own is renewed over the wire, and other
//! operators' are revoked. Each call is a handshake of its own; and a stream that was opened before goes on.

use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

use super::{Figure, Limit, Series, Wanted};
use crate::agent::operator_dir;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::trial::{Ground, NODE, plain_config};
use crate::{names, run};

/// One call or one change; this only bounds what hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// Changes follow each other at this distance, so that calls fall between them as well as into them.
const PAUSE: Duration = Duration::from_millis(500);

/// T16, in a lab of its own.
pub fn measure(lab: &Lab, wanted: &Wanted, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::new(lab, progress)?;
    ground.prepare().map_err(|why| anyhow!(why))?;
    let rounds = wanted.few().max(3);
    progress.say("T16: an operator's calls while nothing changes");
    let (calm, ()) = during(lab, || {
        thread::sleep(PAUSE * 4 * rounds);
        Ok(())
    })?;
    let mut stream = follow(lab)?;
    let (pressed, ()) = during(lab, || {
        for n in 1..=rounds {
            progress.pass(format!("T16: certificates change, {n} of {rounds}"));
            change(lab, n)?;
        }
        Ok(())
    })?;
    let ended = stream.try_wait().context("ask whether the stream goes on")?;
    stream.kill().ok();
    stream.wait().ok();
    let broken = usize::from(ended.is_some());
    let figure = Figure {
        id: "T16",
        what:
            "certificates renewed and revoked while serving: calls of another operator that failed"
                .to_owned(),
        target: "0",
        met: None,
        ours: Series::new("while they change", "calls", vec![(pressed.failed + broken) as f64]),
        baseline: Some(Series::new(
            format!("while nothing changes, of {}", calm.made),
            "calls",
            vec![calm.failed as f64],
        )),
        note: format!(
            "of {} calls of `ctl status`, and a `ctl logs --follow` that was open before; the node's certificate was renewed and another operator's revoked {rounds} times each, and each was refused afterwards",
            pressed.made
        ),
    };
    Ok(vec![figure.within(&[Limit(0.5, 0.0)])])
}

struct Calls {
    made: usize,
    failed: usize,
}

/// Calls one after the other, for as long as the work takes.
fn during<T: Send>(
    lab: &Lab,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Calls, T)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let calling = scope.spawn(|| -> anyhow::Result<Calls> {
            let mut calls = Calls { made: 0, failed: 0 };
            while !over.load(Ordering::Relaxed) {
                calls.made += 1;
                let served = served(lab, "plain.toml")?;
                calls.failed += usize::from(!served);
            }
            Ok(calls)
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let calls = calling.join().map_err(|_| anyhow!("the calls panicked"))??;
        ensure!(calls.made > 0, "no call was made");
        Ok((calls, done?))
    })
}

/// Is who has this configuration answered?
fn served(lab: &Lab, config: &str) -> anyhow::Result<bool> {
    let mut command = lab.ctl_command("laptop", &["status", NODE])?;
    command.env("LIFELINE_CONFIG", plain_config().with_file_name(config));
    Ok(run::run(&mut command, LIMIT, None)?.ok())
}

/// The lab's operator hears what the agent tells its journal, until it is killed.
fn follow(lab: &Lab) -> anyhow::Result<Child> {
    let mut command = lab.ctl_command("laptop", &["logs", NODE, "--follow"])?;
    command.env("LIFELINE_CONFIG", plain_config()).stdin(Stdio::null());
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("run ctl logs --follow")?;
    // One that is refused ends within this time, and proves nothing.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        if let Some(ended) = child.try_wait().context("ask whether the stream goes on")? {
            return Err(anyhow!("ctl logs --follow ended at once: {ended}"));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(child)
}

/// Renews the node's certificate, and revokes one that was made for this.
fn change(lab: &Lab, nth: u32) -> anyhow::Result<()> {
    let pki = names::state_dir().join("pki").display().to_string();
    let who = format!("mallory-{nth}");
    let lost = names::state_dir().join(&who);
    let out = lost.display().to_string();
    let ctl = |args: &[&str]| -> anyhow::Result<()> {
        let mut command = lab.ctl_command("laptop", args)?;
        command.env("LIFELINE_CONFIG", plain_config());
        run::run(&mut command, LIMIT, None)?.success()?;
        Ok(())
    };
    ctl(&["pki", "operator", &who, "--role", "operator", "--dir", &pki, "--out", &out])?;
    let theirs =
        theirs(&fs::read_to_string(plain_config()).context("read the configuration")?, &out);
    let config = format!("{who}.toml");
    fs::write(plain_config().with_file_name(&config), theirs)
        .context("write another operator's configuration")?;
    ensure!(served(lab, &config)?, "{who} is refused before anything was revoked");
    thread::sleep(PAUSE);
    ctl(&["pki", "renew", NODE, "--dir", &pki, "--yes"])?;
    thread::sleep(PAUSE);
    let certificate = lost.join("operator.crt").display().to_string();
    ctl(&["pki", "revoke", &certificate, "--node", NODE, "--yes"])?;
    thread::sleep(PAUSE);
    ensure!(!served(lab, &config)?, "{who} is served although the certificate was revoked");
    Ok(())
}

/// The lab's configuration, with another operator's papers.
fn theirs(plain: &str, dir: &str) -> String {
    plain.replace(&format!("\"{}/", operator_dir().display()), &format!("\"{dir}/"))
}
