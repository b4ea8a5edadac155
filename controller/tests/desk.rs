//! An operator's desk: a directory with an authority, certificates and a configuration, and `ctl` run from it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// The desk.
pub struct Desk {
    dir: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn from(output: Output) -> Self {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Self {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The document on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Expects an exit code.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Expects words on stderr.
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in:\n{}", self.stderr);
        self
    }
}

impl Desk {
    /// A desk with an authority of cluster `lab`, an operator's certificate, and agents' for calypso and styx.
    pub async fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        desk.pki(&["init", "--cluster", "lab", "--dir", "pki"]).await;
        desk.pki(&["operator", "alice", "--role", "operator", "--dir", "pki", "--out", "me"]).await;
        for node in ["calypso", "styx"] {
            desk.pki(&["agent", node, "--address", "127.0.0.1", "--dir", "pki", "--out", node])
                .await;
        }
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Writes the configuration: calypso at these addresses.
    pub fn configure(&self, addresses: &[SocketAddr]) {
        self.configure_as("me", addresses);
    }

    /// Writes the configuration with the certificate of another directory.
    pub fn configure_as(&self, who: &str, addresses: &[SocketAddr]) {
        let list: Vec<_> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
        self.write(
            "ctl.toml",
            &format!(
                "cluster = \"lab\"\n[tls]\nca = \"{who}/ca.crt\"\ncert = \"{who}/operator.crt\"\nkey = \"{who}/operator.key\"\n\
                 [nodes.calypso]\naddresses = [{}]\n",
                list.join(", ")
            ),
        );
    }

    /// `ctl pki …`, which must succeed.
    pub async fn pki(&self, args: &[&str]) -> Ran {
        let mut all = vec!["pki"];
        all.extend(args);
        self.ctl(&all).await.exits(0)
    }

    /// Runs `ctl` without a terminal and with nothing on stdin.
    pub async fn ctl(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).stdin(Stdio::null()).output().await.unwrap())
    }

    /// A `ctl` that is yet to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        self.dressed(Command::new(env!("CARGO_BIN_EXE_ctl")), args)
    }

    /// Runs `ctl` on half of the stack that a main thread usually has, 8 MiB.
    pub async fn cramped(&self, args: &[&str]) -> Ran {
        let mut sh = Command::new("/bin/sh");
        sh.args(["-c", "ulimit -s 4096; \"$0\" \"$@\"; exit", env!("CARGO_BIN_EXE_ctl")]);
        Ran::from(self.dressed(sh, args).stdin(Stdio::null()).output().await.unwrap())
    }

    fn dressed(&self, mut c: Command, args: &[&str]) -> Command {
        c.args(args).current_dir(self.dir.path()).kill_on_drop(true);
        c.env_clear().env("HOME", self.dir.path()).env("LIFELINE_CONFIG", self.path("ctl.toml"));
        // Wherever this runs, times are said the same.
        c.env("TZ", "UTC");
        // Programs that a test puts on the desk come first.
        c.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        c
    }

    /// Starts `ctl` without a terminal; [`end`] tells what it left behind.
    pub fn begin(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Puts a program on the desk.
    pub fn program(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(self.path("bin")).unwrap();
        let path = self.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs `ctl` on a terminal of its own (`script` of util-linux makes one) and types; both outputs arrive mixed.
    pub async fn typed(&self, args: &[&str], keys: &str) -> (i32, String) {
        let quoted: Vec<_> = args.iter().map(|a| format!("'{a}'")).collect();
        let line = format!("{} {}", env!("CARGO_BIN_EXE_ctl"), quoted.join(" "));
        let mut c = Command::new("script");
        c.args(["-qec", &line, "/dev/null"]).current_dir(self.dir.path()).kill_on_drop(true);
        c.env_clear().env("SHELL", "/bin/sh").env("NO_COLOR", "1").env("TZ", "UTC");
        c.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        c.env("HOME", self.dir.path()).env("LIFELINE_CONFIG", self.path("ctl.toml"));
        let mut child =
            c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(keys.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        drop(stdin);
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n"),
        )
    }
}

/// Waits until it is so, a minute at most.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Waits for its end.
pub async fn end(child: Child) -> Ran {
    Ran::from(child.wait_with_output().await.unwrap())
}

/// Ctrl-C, and what it left behind.
#[cfg(target_os = "linux")]
pub async fn interrupt(child: Child) -> Ran {
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    end(child).await
}

/// The mode bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().unwrap().permissions().mode() & 0o777
}
