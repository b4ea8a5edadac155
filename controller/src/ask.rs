//! Asking the operator: typed, never assumed.

use crate::error::CommandError;
use crate::interrupt::interruptible;
use crate::out::{Out, Tone};
use crate::secret::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, Write};
use zeroize::Zeroizing;

/// Refuses when nobody can be asked and nobody said yes beforehand.
pub fn can_ask(out: Out, yes: bool, what: &str) -> Result<(), CommandError> {
    if yes || out.interactive {
        return Ok(());
    }
    Err(CommandError::usage(format!(
        "{what}: there is no terminal to ask on, and --yes was not given"
    ))
    .hinted("nothing was done; add --yes to agree beforehand, or look first: ctl plan NODE"))
}

/// Asks a question that only a typed `y` or `yes` answers with yes. The end of input is no.
pub async fn confirm(out: Out, yes: bool, question: &str) -> Result<bool, CommandError> {
    Ok(answer(out, yes, question, "y/N").await?.is_none_or(|line| is_yes(&line)))
}

/// Asks for something that is typed in full: for what no reflex may agree to.
pub async fn named(out: Out, yes: bool, question: &str, name: &str) -> Result<bool, CommandError> {
    let hint = format!("type {name}");
    Ok(answer(out, yes, question, &hint).await?.is_none_or(|line| line.trim() == name))
}

/// What was typed; `None` when it was agreed to beforehand.
async fn answer(
    out: Out,
    yes: bool,
    question: &str,
    hint: &str,
) -> Result<Option<String>, CommandError> {
    can_ask(out, yes, question)?;
    if yes {
        out.say(format!("{question} yes (--yes)"));
        return Ok(None);
    }
    line(out, &format!("{question} [{hint}] ")).await.map(Some)
}

/// Has a secret typed, which the terminal does not show.
pub async fn hidden(out: Out, question: &str) -> Result<Secret, CommandError> {
    if !out.interactive {
        return Err(CommandError::usage("ask for a passphrase: there is no terminal to ask on")
            .hinted("say where it is: --passphrase env:NAME or file:PATH"));
    }
    // Shown again however this ends.
    let quiet = Quiet::begin().map_err(CommandError::failed)?;
    let typed = interruptible(line(out, question)).await;
    drop(quiet);
    out.say("");
    let typed = typed.ok_or_else(|| CommandError::failed("interrupted; nothing was done"))??;
    let typed = Zeroizing::new(typed);
    let secret = typed.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(CommandError::usage("read a passphrase: nothing was typed"));
    }
    Ok(Secret::new(secret.to_owned()))
}

/// A terminal that does not show what is typed.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// Has a name typed, for what cannot be undone; a name given beforehand must be that very name.
pub async fn typed(out: Out, given: Option<&str>, name: &str) -> Result<bool, CommandError> {
    if let Some(given) = given {
        return match given == name && !name.is_empty() {
            true => Ok(true),
            false => Err(CommandError::usage(format!("confirm {name}: {given} is another name"))
                .hinted("nothing was done")),
        };
    }
    if !out.interactive {
        return Err(CommandError::usage(format!(
            "confirm {name}: there is no terminal to type it on, and --confirm was not given"
        ))
        .hinted("nothing was done"));
    }
    let line = line(out, &format!("Type {name} to go on: ")).await?;
    Ok(!name.is_empty() && line.trim() == name)
}

async fn line(out: Out, question: &str) -> Result<String, CommandError> {
    {
        let mut stderr = io::stderr().lock();
        let text = out.progress.tone(Tone::Strong, question);
        stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush())
            .map_err(CommandError::failed)?;
    }
    // On a thread of its own: Ctrl-C must be heard meanwhile, and is, by whoever called.
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    line.await.map_err(CommandError::failed)?.map_err(CommandError::failed)
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!([" y\n", "YES\r\n", "yes"].iter().all(|l| is_yes(l)));
        assert!(!["", "\n", "n", "yess", "yep", "j", "1"].iter().any(|l| is_yes(l)));
    }
}
