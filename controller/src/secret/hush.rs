//! Keeps this program's memory from ever being written to a disk as a core dump.

use rustix::process::{Resource, Rlimit, setrlimit};

/// No core dumps from here on, of this program and of what it starts. A failure changes nothing else and stops nobody.
pub fn hush() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).ok();
    // The limit does not hold where dumps are piped to a program (core(5)); this does, and keeps debuggers out, too.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).ok();
}
