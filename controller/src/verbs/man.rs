//! `ctl man`: the manual, made from the command line's own description, so that the two cannot disagree.

use crate::cli;
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::files::{self, Present};
use crate::out::Out;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use serde::Serialize;
use std::path::{Path, PathBuf};

const HELP: &str = "Examples:
  ctl man ~/.local/share/man/man1 && man ctl-heal
  ctl man man1 && man ./man1/ctl.1";

/// Arguments of `ctl man`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Where the pages go: ctl.1, ctl-heal.1, …; those of the same name are replaced
    dir: PathBuf,
}

/// `-o json`.
#[derive(Serialize)]
struct ManJson {
    pages: Vec<PathBuf>,
}

/// Runs `ctl man`.
pub fn run(args: &Args, out: Out) -> Outcome {
    let mut command = cli::command(false).disable_help_subcommand(true);
    command.build();
    files::create_dir(&args.dir)?;
    let mut pages = Vec::new();
    write(&command, &args.dir, &mut pages)?;
    out.print(format!("{} pages are in {}", pages.len(), args.dir.display()));
    out.json(&ManJson { pages })?;
    Ok(Exit::Done)
}

fn write(
    command: &clap::Command,
    dir: &Path,
    pages: &mut Vec<PathBuf>,
) -> Result<(), CommandError> {
    // Its file is named `ctl-vps-restart.1`, as `build` names the commands within commands.
    let man = Man::new(command.clone()).manual("Lifeline").source(cli::VERSION);
    let path = dir.join(man.get_filename());
    let page = page(command, &man).map_err(CommandError::failed)?;
    let text = String::from_utf8(page).map_err(CommandError::failed)?;
    files::write(&path, &text, 0o644, Present::Replace)?;
    pages.push(path);
    command.get_subcommands().try_for_each(|inner| write(inner, dir, pages))
}

/// The library's sections, and ours for what stands below a help: its lines are to stay lines.
fn page(command: &clap::Command, man: &Man) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(below) = command.get_after_help() {
        let mut roff = Roff::new();
        roff.control("SH", ["NOTES"]).control("nf", []);
        for line in below.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []).to_writer(&mut page)?;
    }
    Ok(page)
}
