//! Says which commit a program was built from and for which machine: for release builds alone, because a debug build would be made
//! anew for each commit. `LIFELINE_BUILD` answers where there is no git, as in a package's source archive; no clock, no host name and
//! no folder of the builder's gets into it. Nothing is asked of the network. And how a static program is linked.

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
    let (version, target) = (said("CARGO_PKG_VERSION"), said("TARGET"));
    println!("cargo:rustc-env=LIFELINE_VERSION={version} ({build}, {target})");
    println!("cargo:rustc-env=LIFELINE_COMMIT={build}");
    println!("cargo:rustc-env=LIFELINE_TARGET={target}");
    // A release aborts on a panic (Cargo.toml); what cargo tells a build script of that is the target's habit, not the profile's.
    if said("CARGO_CFG_TARGET_ENV") == "musl" && said("PROFILE") == "release" {
        link();
    }
}

/// What makes a static program a fifth smaller.
fn link() {
    println!("cargo:rerun-if-changed=no-unwinding.ld");
    // Of whichever package this is: the script lies beside it, or in the agent's folder.
    let here = said("CARGO_MANIFEST_DIR");
    let script = ["no-unwinding.ld", "../agent/no-unwinding.ld"].map(|p| Path::new(&here).join(p));
    if let Some(script) = script.iter().find(|p| p.exists()) {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
    // A static program finds its own place; half a megabyte of addresses says how, when they are not packed. binutils packs them
    // for this machine alone.
    if said("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

fn said(name: &str) -> String {
    env::var(name).unwrap_or_default()
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
