//! Says which commit a program was built from: for release builds alone, because a debug build would be made anew for each
//! commit. `LIFELINE_BUILD` answers where there is no git, as in a package's source archive. Nothing is asked of the network.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=LIFELINE_BUILD");
    let told = env::var("LIFELINE_BUILD").ok().filter(|b| !b.trim().is_empty());
    let build = match (told, env::var("PROFILE").as_deref()) {
        (Some(told), _) => told.trim().to_owned(),
        (None, Ok("release")) => described().unwrap_or_else(|| "no git".to_owned()),
        (None, _) => "debug build".to_owned(),
    };
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rustc-env=LIFELINE_VERSION={version} ({build})");
}

/// The commit, and whether files differ from it.
fn described() -> Option<String> {
    // What is checked out, and where each branch stands; a detached head or a branch, both tell in one of these.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let build = git(&["describe", "--tags", "--always", "--dirty", "--abbrev=12"])?;
    let day = git(&["show", "--no-patch", "--format=%cs", "HEAD"])?;
    Some(format!("{build}, {day}"))
}

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
