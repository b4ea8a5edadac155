//! `ctl completions`: what a shell needs to complete our words, made from the command line's own description.

use crate::cli;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::out::Out;
use clap_complete::Shell;

const HELP: &str = "Examples:
  source <(ctl completions bash)                                              for this shell
  ctl completions bash > ~/.local/share/bash-completion/completions/ctl       for every new one
  ctl completions zsh > \"${fpath[1]}/_ctl\"
  ctl completions fish > ~/.config/fish/completions/ctl.fish";

/// Arguments of `ctl completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Runs `ctl completions`.
pub fn run(args: &Args, out: Out) -> Outcome {
    let shell: Shell = args.shell.parse().map_err(|e: String| CommandError::usage(e))?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(false), "ctl", &mut script);
    out.document(&String::from_utf8(script).map_err(CommandError::failed)?);
    Ok(Exit::Done)
}
