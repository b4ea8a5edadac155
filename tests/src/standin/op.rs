//! Stands in for 1Password's command `op`: `op read [--no-newline] REFERENCE`, from a vault that is a file of lines
//! `REFERENCE = SECRET` in `$HOME/.config/op/vault`.
//!
//! It copies: exit code 1 whatever the reason, the form of the error lines, the characters a reference may have, a vault
//! that is locked (a file `locked` beside it). It does not copy: accounts, sections by id, unlocking.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read one secret
    Read {
        #[arg(short, long)]
        no_newline: bool,
        reference: String,
    },
}

/// Reads one secret, or exits with 1 and an error line of the original's form.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Verb::Read { no_newline, reference } = &args.verb;
    let secret = match find(reference) {
        Ok(secret) => secret,
        // As the original says it: time, what, why; on standard error.
        Err(why) => bail!(
            "{} could not read secret '{reference}': {why}",
            jiff::Timestamp::now().strftime("%Y/%m/%d %H:%M:%S")
        ),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(secret.as_bytes()).context("write the secret")?;
    if !no_newline {
        out.write_all(b"\n").context("write the secret")?;
    }
    out.flush().context("write the secret")
}

fn find(reference: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_. /:?=".contains(c);
    if let Some(c) = reference.chars().find(|c| !legal(*c)) {
        return Err(format!(
            "invalid secret reference '{reference}': invalid character in secret reference: '{c}'"
        ));
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".config/op");
    if home.join("locked").exists() {
        return Err("error initializing client: account is not signed in".to_owned());
    }
    let vault = std::fs::read_to_string(home.join("vault"))
        .map_err(|_| "no account found for filter".to_owned())?;
    let lines = vault.lines().filter_map(|l| l.split_once(" = "));
    let found = lines.into_iter().find(|(r, _)| r.eq_ignore_ascii_case(reference));
    found.map(|(_, secret)| secret.to_owned()).ok_or_else(|| {
        let item = reference.split('/').nth(3).unwrap_or_default();
        format!("could not get item: \"{item}\" isn't an item in the vault")
    })
}
