//! Programs of the laptop's that the configuration counts on, and secrets it refers to. No secret is shown, and one that `op` would
//! bring is not asked for: it might have a finger waited for.

use super::Group;
use crate::config::Config;
use crate::secret::{self, Reference};
use std::path::PathBuf;

/// Where a program is, as a shell would find it.
fn found(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH")?;
    let runs = |p: &PathBuf| {
        p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(runs)
}

fn program(group: &mut Group<'_>, name: &str, what_for: &str, hint: &str) {
    match found(name) {
        Some(path) => {
            group.mark(Some(true), format!("{} is there, {what_for}", path.display()), "");
        }
        None => group.mark(
            Some(false),
            format!("the program {name} is not in PATH, and is needed {what_for}"),
            hint,
        ),
    }
}

/// What the configuration names, and nothing else.
pub async fn look(group: &mut Group<'_>, config: &Config) {
    let by_ssh: Vec<_> = config.nodes().filter(|n| config.ssh(n).is_some()).collect();
    if !by_ssh.is_empty() {
        let what_for = format!(
            "as another way to {}; whether it leads there was not tried",
            by_ssh.join(", ")
        );
        program(group, "ssh", &what_for, "install OpenSSH's client");
    }
    let mut secrets = Vec::new();
    if let Ok(provider) = config.provider() {
        secrets.push(("the provider's token", &provider.token));
    }
    if let Some(github) = config.record().and_then(|r| r.github.as_ref()) {
        secrets.push(("the issue tracker's token", &github.token));
    }
    if secrets.iter().any(|(_, r)| matches!(r, Reference::Op(_))) {
        program(
            group,
            "op",
            "for what is in 1Password",
            "install the 1Password CLI, or use env:NAME or file:PATH",
        );
    }
    for (what, reference) in secrets {
        secret_there(group, what, reference).await;
    }
}

async fn secret_there(group: &mut Group<'_>, what: &str, reference: &Reference) {
    if let Reference::Op(_) = reference {
        let said =
            format!("{what} is to come from {reference}: a legal reference, which was not read");
        return group.mark(None, said, "it is read when it is needed; try it: op read REFERENCE");
    }
    match secret::resolve(reference).await {
        Ok(_) => group.mark(Some(true), format!("{what} can be read from {reference}"), ""),
        Err(why) => group.wrong(&why.into()),
    }
}
