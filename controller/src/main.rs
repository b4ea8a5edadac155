//! The operator's command: reaches agents, shows plans, asks, heals, and proves it.

mod agent;
mod alive;
mod ask;
mod audit;
mod check;
mod cli;
mod climb;
mod cluster;
mod config;
mod consent;
mod error;
mod exit;
mod files;
mod follow;
mod found;
#[cfg(test)]
#[path = "../../agent/core/tests/fuzz/mod.rs"]
mod fuzz;
mod heal_view;
mod https;
mod identity;
mod install;
mod interrupt;
mod kept;
mod member;
mod obstacle;
mod out;
mod paper;
mod pki;
mod plan_view;
mod proof;
mod provider;
mod reach;
mod record;
mod runbook;
mod secret;
mod session;
mod sight;
mod skew;
mod ssh;
mod status_view;
mod suggest;
mod tls;
mod verbs;
mod words;

use cli::{Cli, Verb};
use error::CommandError;
use exit::Exit;
use out::Out;
use session::Session;
use std::process::ExitCode;

fn main() -> ExitCode {
    secret::hush::hush();
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // Nobody is left to tell when the terminal is gone.
            drop(error.print());
            return exit.into();
        }
    };
    let out = Out::new(cli.global.output);
    let exit = run(&cli, out).unwrap_or_else(|error| {
        out.error(&error);
        error.exit()
    });
    exit.into()
}

fn run(cli: &Cli, out: Out) -> error::Outcome {
    // One provider for everything that speaks TLS here; a second call would only say that it is there already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CommandError::failed)?;
    let done = runtime.block_on(verb(cli, out));
    // A blocked read of the terminal must not keep the program from ending.
    runtime.shutdown_background();
    done
}

async fn verb(cli: &Cli, out: Out) -> error::Outcome {
    let session = || Session::open(&cli.global, out);
    match &cli.verb {
        Verb::Status(args) => verbs::status::run(args, &session()?).await,
        Verb::Diagnose(args) => verbs::diagnose::run(args, &session()?).await,
        Verb::Plan(args) => verbs::plan::run(args, &session()?).await,
        Verb::Heal(args) => Box::pin(verbs::heal::run(args, &session()?, &cli.global)).await,
        Verb::Watch(args) => verbs::watch::run(args, &session()?).await,
        Verb::Confirm(args) => verbs::confirm::run(args, &session()?).await,
        Verb::Reboot(args) => verbs::reboot::run(args, &session()?).await,
        Verb::Undo(args) => verbs::undo::run(args, &session()?).await,
        Verb::Report(args) => verbs::report::run(args, &session()?).await,
        Verb::History(args) => verbs::history::run(args, &session()?).await,
        Verb::Logs(args) => verbs::logs::run(args, &session()?).await,
        Verb::Baseline(args) => verbs::baseline::run(args, &session()?).await,
        Verb::Recover(args) => Box::pin(verbs::recover::run(args, &cli.global, out)).await,
        Verb::Vps(args) => verbs::vps::run(args, &cli.global, out).await,
        Verb::Cleanup(args) => verbs::cleanup::run(args, &cli.global, out).await,
        Verb::Cordon(args) => verbs::cordon::run(args, &cli.global, out).await,
        Verb::Uncordon(args) => verbs::uncordon::run(args, &cli.global, out).await,
        Verb::Drain(args) => verbs::drain::run(args, &cli.global, out).await,
        Verb::Delete(args) => verbs::delete::run(args, &cli.global, out).await,
        Verb::Verify(args) => verbs::verify::run(args, &cli.global, out).await,
        Verb::Rights(args) => verbs::rights::run(args, &cli.global, out).await,
        Verb::Check(args) => verbs::check::run(args, &cli.global, out).await,
        Verb::Drill(args) => verbs::drill::run(args, &session()?).await,
        Verb::Install(args) => verbs::install::run(args, &cli.global, out).await,
        Verb::Uninstall(args) => verbs::uninstall::run(args, &cli.global, out).await,
        Verb::Audit(args) => verbs::audit::run(args, &cli.global, out).await,
        Verb::Faults(args) => verbs::faults::run(args, out),
        Verb::Pki(args) => verbs::pki::run(args, &cli.global, out).await,
        Verb::Completions(args) => verbs::completions::run(args, out),
        Verb::Man(args) => verbs::man::run(args, out),
    }
}
