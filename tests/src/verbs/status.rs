//! `cargo lab status`.

#![allow(clippy::print_stdout, reason = "results go to stdout")]

use std::process::ExitCode;

use lifeline_lab::status::Status;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

/// Says what runs; exit code 3 when the lab is not up.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status = Status::look()?;
    if args.output == "json" {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status.told());
    }
    Ok(if status.up { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
