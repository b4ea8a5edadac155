//! What can be typed.

mod check_config;
mod cleanup;
mod look;
mod request_certificate;
mod resume;
mod run;

use clap::{Parser, Subcommand};
use lifeline_agent::config;
use std::path::PathBuf;
use std::process::ExitCode;

/// Keeps this node's path to its API server open, repairs it when an operator says so, and answers `ctl`.
#[derive(Debug, Parser)]
#[command(
    name = "lifeline-agent",
    version = lifeline_agent::VERSION,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    /// Configuration file
    #[arg(long, global = true, default_value = config::USUAL, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the configuration and the certificates, and say what is wrong with them
    CheckConfig,
    /// Take away every rule and route of ours, and the file of metrics; for when the agent is removed
    Cleanup {
        /// Only say whether the node needs them: fails while the guard stands
        #[arg(long)]
        check: bool,
    },
    /// Look at this node once and print what is seen, a line for each object; changes nothing
    Look {
        /// Only what the guard goes by: links, addresses, rules, routes and where critical traffic leaves
        #[arg(long)]
        quick: bool,
        /// Look this many times and print how long each took, in JSON
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        times: Option<u32>,
    },
    /// Make a key that never leaves this node, and print a request for a certificate; the key in use stays in use
    RequestCertificate {
        /// Where the new key goes
        #[arg(long, default_value = "/etc/lifeline/agent.key.new", value_name = "FILE")]
        key: PathBuf,
    },
    /// Undo a run that nobody confirmed, if the daemon does not; a timer calls this
    Resume {
        /// The run
        run: String,
    },
}

/// Does what was typed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => run::run(&cli.config),
        Some(Command::CheckConfig) => check_config::check(&cli.config),
        Some(Command::Cleanup { check: true }) => cleanup::check(),
        Some(Command::Cleanup { check: false }) => cleanup::cleanup(&cli.config),
        Some(Command::Look { quick, times }) => look::look(&cli.config, quick, times),
        Some(Command::RequestCertificate { key }) => request_certificate::request(&key),
        Some(Command::Resume { run }) => resume::resume(&cli.config, &run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("Error: {why:#}");
            ExitCode::FAILURE
        }
    }
}
