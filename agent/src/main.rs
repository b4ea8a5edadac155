//! `lifeline-agent`: the daemon, and the two things one does to it by hand.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a command says to whoever typed it"
)]

#[cfg(target_os = "linux")]
mod commands;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    commands::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("lifeline-agent runs on Linux: it repairs what only Linux has");
    std::process::ExitCode::from(2)
}
