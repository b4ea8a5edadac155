//! A newer agent in the old one's place: the program and what `ctl install` puts beside it, all of it or nothing. A unit that an
//! upgrade left alone would keep a node at the hardening of the day it was installed.

use super::binary::{self, Binary};
use super::facts::Facts;
use super::ssh::{self, Ssh, SshError};
use super::{CATALOG, CATALOG_FILE, PROGRAM, QUICK, RESTARTS, UNIT, UNIT_FILE};

const PIECES: &str = include_str!("pieces.sh");
const UPGRADE: &str = concat!(include_str!("pieces.sh"), include_str!("upgrade.sh"));

/// What became of an upgrade on the node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// The new one came up and stayed.
    Up,
    /// It did not; the old one is back and runs.
    RolledBack,
    /// It did not, and the old one did not come up again either.
    Stuck,
}

/// What would become of each piece, a line each.
pub fn plan(facts: &Facts, binary: &Binary) -> Vec<String> {
    let piece = |key: &str, path: &str, new: &[u8]| {
        let there = facts.get(&format!("{key}_sum"));
        let (fate, other) = match (facts.has(key), there) {
            (false, _) => ("is missing there, and comes", false),
            (true, "") => ("cannot be read there, and is replaced", true),
            (true, sum) if sum == binary::sum(new) => ("is the same there already", false),
            (true, _) => ("changes", true),
        };
        (format!("{path} {fate}"), other)
    };
    let (unit, edited) = piece("unit", UNIT_FILE, UNIT.as_bytes());
    let mut lines = vec![
        piece("binary", PROGRAM, &binary.bytes).0,
        unit,
        piece("catalog", CATALOG_FILE, CATALOG.as_bytes()).0,
    ];
    if edited {
        lines.push("what somebody wrote into that unit by hand goes with it; drop-ins of systemctl edit stay".to_owned());
    }
    lines.push("configuration, key and state stay as they are".to_owned());
    lines
}

/// Puts the unit and the message texts beside those in use, both or neither; the program has been carried before.
pub async fn carry_texts(ssh: &Ssh) -> Result<(), SshError> {
    let file = |path: &str, text: &str| {
        format!("printf %s {} > {path}.new; chmod 644 {path}.new\n", ssh::quoted(text))
    };
    let script = format!(
        "set -e; umask 022; trap 'rm -f {PROGRAM}.new {UNIT_FILE}.new {CATALOG_FILE}.new' EXIT\n\
         mkdir -p /usr/local/lib/systemd/catalog\n{}{}trap - EXIT",
        file(UNIT_FILE, UNIT),
        file(CATALOG_FILE, CATALOG),
    );
    ssh.run("carry unit and message texts", "sh -s", script.as_bytes(), QUICK).await.map(drop)
}

/// Swaps the pieces in a unit of its own on the node, which ends whether or not we are still there.
pub async fn swap(ssh: &Ssh) -> Result<Swapped, SshError> {
    // One that failed and re-read systemd's files stays known by its name, and the next could not have it.
    let script = format!(
        "systemctl reset-failed lifeline-upgrade.service 2>/dev/null\n\
         systemd-run --quiet --collect --wait --unit=lifeline-upgrade sh -c {}",
        ssh::quoted(UPGRADE)
    );
    match ssh.run("upgrade", &script, &[], RESTARTS).await {
        Ok(_) => Ok(Swapped::Up),
        Err(SshError::Failed { code: 7, .. }) => Ok(Swapped::RolledBack),
        Err(SshError::Failed { code: 8, .. }) => Ok(Swapped::Stuck),
        Err(other) => Err(other),
    }
}

/// The old pieces back in their places, for a program that came up and cannot be reached.
const BACK: &str =
    "[ -e \"$at.old\" ] || { echo 'the old program is not there any more' >&2; exit 1; }
put_back
timeout 100 systemctl restart \"$unit\"";

/// Does that.
pub async fn back(ssh: &Ssh) -> Result<(), SshError> {
    let script = format!("{PIECES}{BACK}");
    ssh.run("put the old program back", "sh -s", script.as_bytes(), RESTARTS).await.map(drop)
}

/// The old pieces are not needed any more.
const FORGET: &str = "for f in $pieces; do rm -f \"$f.old\" \"$f.none\"; done";

/// Takes them away.
pub async fn forget_old(ssh: &Ssh) -> Result<(), SshError> {
    let script = format!("{PIECES}{FORGET}");
    ssh.run("take the old program away", "sh -s", script.as_bytes(), QUICK).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// A node's disk in a folder, with a systemd that starts what says "good".
    struct Disk(tempfile::TempDir);

    const UNIT_OF: &str = "etc/systemd/system/lifeline-agent.service";
    const CATALOG_OF: &str = "usr/local/lib/systemd/catalog/lifeline.catalog";
    const PROGRAM_OF: &str = "usr/local/bin/lifeline-agent";

    impl Disk {
        fn of(files: &[(&str, &str)]) -> Self {
            let disk = Self(tempfile::tempdir().unwrap());
            for (path, text) in files {
                let path = disk.path(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let systemctl = format!(
                "echo \"$@\" >> {log}\ncase \"$1\" in\nrestart) grep -q good {at};;\nis-active) echo active;;\nshow) echo 0;;\nesac",
                log = disk.path("log").display(),
                at = disk.path(PROGRAM_OF).display(),
            );
            disk.program("systemctl", &systemctl);
            let journalctl = format!("echo catalog >> {}", disk.path("log").display());
            disk.program("journalctl", &journalctl);
            disk.program("sleep", "exit 0");
            disk
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn program(&self, name: &str, text: &str) {
            let path = self.path("bin").join(name);
            fs::create_dir_all(self.path("bin")).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn run(&self, script: &str) -> Option<i32> {
            let root = self.0.path().display();
            let script = script
                .replace("/usr/local/", &format!("{root}/usr/local/"))
                .replace("/etc/systemd/", &format!("{root}/etc/systemd/"));
            let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
            let ran = Command::new("sh").args(["-c", &script]).env("PATH", path).output().unwrap();
            ran.status.code()
        }

        /// Every file of the node's, in order.
        fn files(&self) -> Vec<(String, String)> {
            fn walk(dir: &Path, root: &Path, into: &mut Vec<(String, String)>) {
                let Ok(entries) = fs::read_dir(dir) else { return };
                for path in entries.map(|e| e.unwrap().path()) {
                    if path.is_dir() {
                        walk(&path, root, into);
                    } else {
                        let name = path.strip_prefix(root).unwrap().display().to_string();
                        into.push((name, fs::read_to_string(&path).unwrap()));
                    }
                }
            }
            let mut files = Vec::new();
            for top in ["etc", "usr"] {
                walk(&self.path(top), self.0.path(), &mut files);
            }
            files.sort();
            files
        }

        fn log(&self) -> Vec<String> {
            let text = fs::read_to_string(self.path("log")).unwrap_or_default();
            text.lines().map(Into::into).collect()
        }
    }

    fn new(suffix: &str, program: &str) -> Vec<(String, String)> {
        [(UNIT_OF, "new unit"), (CATALOG_OF, "new texts"), (PROGRAM_OF, program)]
            .map(|(path, text)| (format!("{path}{suffix}"), text.to_owned()))
            .to_vec()
    }

    fn old() -> Vec<(String, String)> {
        [(UNIT_OF, "old unit"), (CATALOG_OF, "old texts"), (PROGRAM_OF, "good, old")]
            .map(|(path, text)| (path.to_owned(), text.to_owned()))
            .to_vec()
    }

    fn disk(of: &[Vec<(String, String)>]) -> Disk {
        let all: Vec<(&str, &str)> =
            of.iter().flatten().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        Disk::of(&all)
    }

    fn sorted(mut files: Vec<(String, String)>) -> Vec<(String, String)> {
        files.sort();
        files
    }

    #[test]
    fn an_upgrade_replaces_program_unit_and_message_texts_and_has_systemd_read_them_first() {
        let disk = disk(&[old(), new(".new", "good, new")]);
        assert_eq!(disk.run(UPGRADE), Some(0));
        assert!(
            new("", "good, new").iter().all(|f| disk.files().contains(f)),
            "{:?}",
            disk.files()
        );
        let log = disk.log();
        let at = |what: &str| log.iter().position(|l| l.starts_with(what)).unwrap();
        assert!(at("daemon-reload") < at("restart") && at("catalog") < at("restart"), "{log:?}");
        // It could still be put back, until it is known to be reached.
        assert_eq!(disk.files().len(), 6);
        assert_eq!(disk.run(&format!("{PIECES}{FORGET}")), Some(0));
        assert_eq!(disk.files(), sorted(new("", "good, new")));
    }

    #[test]
    fn what_does_not_come_up_takes_its_unit_and_its_message_texts_away_again() {
        let disk = disk(&[old(), new(".new", "bad")]);
        assert_eq!(disk.run(UPGRADE), Some(7));
        assert_eq!(disk.files(), sorted(old()));
        let log = disk.log();
        let reload = log.iter().rposition(|l| l == "daemon-reload").unwrap();
        let restart = log.iter().rposition(|l| l.starts_with("restart")).unwrap();
        assert_eq!(log.iter().filter(|l| *l == "daemon-reload").count(), 2, "{log:?}");
        assert!(reload < restart, "the old program starts under its own unit: {log:?}");
    }

    #[test]
    fn what_comes_up_and_is_not_reached_is_put_back_whole() {
        let disk = disk(&[old(), new(".new", "good, new")]);
        assert_eq!(disk.run(UPGRADE), Some(0));
        assert_eq!(disk.run(&format!("{PIECES}{BACK}")), Some(0));
        assert_eq!(disk.files(), sorted(old()));
        assert_eq!(
            disk.run(&format!("{PIECES}{BACK}")),
            Some(1),
            "a second time takes nothing away"
        );
        assert_eq!(disk.files(), sorted(old()));
    }

    #[test]
    fn a_piece_that_was_not_there_before_goes_again_with_the_rollback() {
        let bare: Vec<_> = old().into_iter().filter(|(p, _)| p != CATALOG_OF).collect();
        let disk = disk(&[bare.clone(), new(".new", "bad")]);
        assert_eq!(disk.run(UPGRADE), Some(7));
        assert_eq!(disk.files(), sorted(bare));
    }

    #[test]
    fn an_upgrade_whose_pieces_did_not_all_arrive_changes_nothing() {
        let some: Vec<_> =
            new(".new", "good, new").into_iter().filter(|(p, _)| !p.contains("bin")).collect();
        let disk = disk(&[old(), some]);
        assert_eq!(disk.run(UPGRADE), Some(1));
        assert_eq!(disk.files(), sorted(old()));
        assert!(!disk.log().iter().any(|l| l.starts_with("restart")), "{:?}", disk.log());
    }

    #[test]
    fn the_plan_says_of_each_piece_whether_it_changes() {
        let binary =
            Binary { path: "x".into(), bytes: b"new".to_vec(), arch: "x86_64", vouched: false };
        let told = |text: &str| plan(&Facts::read(text), &binary).join("\n");
        let same =
            |key: &str, bytes: &[u8]| format!("{key}=yes\n{key}_sum={}\n", binary::sum(bytes));
        let (program, unit) = (same("binary", b"new"), same("unit", UNIT.as_bytes()));
        let all = told(&(program + &unit + &same("catalog", CATALOG.as_bytes())));
        assert_eq!(all.matches("is the same there already").count(), 3, "{all}");
        assert!(!all.contains("by hand"), "{all}");
        let old =
            told("binary=yes\nbinary_sum=1\nunit=yes\nunit_sum=2\ncatalog=no\ncatalog_sum=\n");
        for said in [
            format!("{PROGRAM} changes"),
            format!("{UNIT_FILE} changes"),
            format!("{CATALOG_FILE} is missing there, and comes"),
            "wrote into that unit by hand".to_owned(),
        ] {
            assert!(old.contains(&said), "{said}: {old}");
        }
        let dumb =
            told("binary=yes\nbinary_sum=\nunit=yes\nunit_sum=\ncatalog=yes\ncatalog_sum=\n");
        assert_eq!(dumb.matches("cannot be read there, and is replaced").count(), 3, "{dumb}");
    }
}
