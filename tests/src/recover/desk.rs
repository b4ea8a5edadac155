//! The operator's desk: an account at the provider, a vault, an issue tracker, and a repository of papers with a remote.
//!
//! Provider and tracker listen at the gateway, on the laptop's side of it: what a worker's routing does is nothing to them. The
//! provider's `restart` cuts styx's power for real.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::pki::Authority;
use crate::progress::Progress;
use crate::run::{self, LIMIT, Output};
use crate::standin::github::{GitHub, Issue};
use crate::standin::provider::{Hand, Machine, Provider};
use crate::topology::{GATEWAY, HOME};
use crate::{agent, disk, names, real, space, topology};

/// They must be seen by the provider, by the tracker, and by nobody else.
pub const TOKENS: [&str; 2] = ["canary-Pr0vider-7f3a91c2e4d8", "canary-Tr4cker-b82d05f96a1c"];
/// Where they are.
pub const REFERENCES: [&str; 2] =
    ["op://Infrastructure/hostinger/api_token", "op://Infrastructure/github/token"];
/// The machine that is styx.
pub const STYX: u64 = 712_695;
pub const REPOSITORY: &str = "goldfish-inc/oceanid";
/// Papers that the plan commits.
pub const PAPERS: [&str; 3] = [
    "RECOVERY_PLAN_2025-10-13.md",
    "TAILSCALE_DAEMONSET_INCIDENT_2025-10-13.md",
    "FUTURE_NETWORKING_ARCHITECTURE.md",
];
/// The program behind `op` is the lab's own, and knows the tokens.
pub const VAULT_PROGRAM: &str = "vault-program";
/// What must be reached from every worker, by its name and over its Service.
pub const SERVICE: &str = "http://label-studio-ls-app.apps.svc.cluster.local:8080/health";
/// Lies staged and uncommitted beside them, and is nobody's but the operator's.
pub const STAGED: &str = "half-written.md";

/// Everything, for one recovery.
#[derive(Debug)]
pub struct Desk {
    pub provider: Provider,
    pub github: GitHub,
    /// Where the two are asked.
    pub provider_at: SocketAddr,
    pub github_at: SocketAddr,
    cycles: Arc<Mutex<Vec<Duration>>>,
}

impl Desk {
    /// Lays everything out afresh.
    pub fn lay(progress: &Progress) -> Result<Self> {
        let dir = dir();
        if dir.exists() {
            fs::remove_dir_all(&dir).doing(|| format!("clear {}", dir.display()))?;
        }
        fs::create_dir_all(dir.join("home")).doing(|| format!("make {}", dir.display()))?;
        let (cert, key) = certificates()?;
        vault()?;
        papers()?;
        wrap_ssh()?;
        let cycles = Arc::default();
        let provider = Provider::new(TOKENS[0], machines(), hand(&cycles, progress.beside()));
        let issues = vec![
            Issue::open(110, "Phase 2"),
            Issue::open(99, "Tailscale DaemonSet"),
            Issue::open(95, "Networking architecture"),
        ];
        let github = GitHub::new(TOKENS[1], REPOSITORY, issues);
        let trouble =
            |e: anyhow::Error| LabError::Refused(format!("serve beyond the gateway: {e:#}"));
        let provider_at = provider.serve(listen()?, &cert, &key).map_err(trouble)?;
        let github_at = github.serve(listen()?, &cert, &key).map_err(trouble)?;
        let desk = Self { provider, github, provider_at, github_at, cycles };
        desk.configure()?;
        Ok(desk)
    }

    /// A command that the operator gives on the laptop, with his vault and his configuration.
    pub fn command(&self, lab: &Lab, argv: &[&str]) -> Result<Command> {
        let mut command = lab.space("laptop")?.command(argv);
        let path = command.get_envs().find(|(name, _)| *name == "PATH");
        let path = path.and_then(|(_, value)| value).unwrap_or_default().to_owned();
        command.env("PATH", format!("{}:{}", dir().join("bin").display(), path.display()));
        command.env("HOME", dir().join("home"));
        command.env("XDG_STATE_HOME", dir().join("home/.local/state"));
        command.env("LIFELINE_CONFIG", config());
        Ok(command)
    }

    /// Types a line on the laptop.
    pub fn type_line(&self, lab: &Lab, line: &str, patience: Duration) -> Result<Output> {
        run::run(&mut self.command(lab, &["bash", "-c", line])?, patience, None)
    }

    /// How long each power cycle took that the provider was asked for.
    #[must_use]
    pub fn cycles(&self) -> Vec<Duration> {
        self.cycles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn configure(&self) -> Result<()> {
        let from = agent::operator_dir().join("ctl.toml");
        let text = fs::read_to_string(&from).doing(|| format!("read {}", from.display()))?;
        let ca = dir().join("outside-ca.crt");
        let known = "role = \"worker\"\nvps = { hostname = \"srv712695.hstgr.cloud\" }\n";
        let mut text = text.replace("[nodes.styx]\n", &format!("[nodes.styx]\n{known}"));
        text.push_str(&format!(
            "\n[provider]\ntoken = \"{}\"\napi = \"https://{}\"\nca = \"{ca}\"\ntimeout = \"5s\"\n",
            REFERENCES[0],
            self.provider_at,
            ca = ca.display()
        ));
        write(&config(), &text, 0o600)
    }

    /// Adds where a recovery is written down, and how nodes are reached beside their agents.
    pub fn with_record(self) -> Result<Self> {
        let doing = || format!("read {}", config().display());
        let mut text = fs::read_to_string(config()).doing(doing)?;
        let ca = dir().join("outside-ca.crt");
        for machine in real::cluster::workers() {
            let head = format!("[nodes.{}]\n", machine.name);
            let ssh = format!("{head}ssh = \"root@{}\"\n", machine.v4());
            text = text.replace(&head, &ssh);
        }
        let papers: Vec<String> = PAPERS.iter().map(|p| format!("\"{p}\"")).collect();
        text.push_str(&format!(
            "\n[record]\ndir = \"{}\"\nreport = \"docs/incidents\"\npapers = [{}]\nbranch = \"main\"\n\
             \n[record.github]\nrepo = \"{REPOSITORY}\"\ntoken = \"{}\"\napi = \"https://{}\"\nca = \"{}\"\nissues = [\n\
             \x20 {{ number = 110, comment = \"Blocked: Phase 2 waits for the new architecture.\", close = \"not-planned\" }},\n\
             \x20 {{ number = 99, comment = \"DaemonSet approach abandoned.\" }},\n\
             \x20 {{ number = 95, comment = \"Pod-based egress gateway instead.\", label = \"architecture\" }},\n]\n",
            work_tree().display(),
            papers.join(", "),
            REFERENCES[1],
            self.github_at,
            ca.display()
        ));
        // What step 4 of the seed and its list for afterwards ask for.
        text.push_str(&format!(
            "\n[verify]\nremnants = [\"tailscale\"]\n\
             [[verify.workloads]]\nnamespace = \"apps\"\nselector = \"app=project-bootstrapper\"\n\
             [[verify.workloads]]\nnamespace = \"apps\"\nselector = \"app.kubernetes.io/name=ls-app\"\n\
             [[verify.logs]]\nnamespace = \"apps\"\nselector = \"app=project-bootstrapper\"\n\
             contains = \"webhook registration success\"\n\
             [[verify.reach]]\nurl = \"{SERVICE}\"\nimage = \"docker.io/lab/curl:1\"\n"
        ));
        write(&config(), &text, 0o600)?;
        Ok(self)
    }
}

/// Everything of it lies below.
#[must_use]
pub fn dir() -> PathBuf {
    names::state_dir().join("desk")
}

/// The operator's configuration, with provider and record.
#[must_use]
pub fn config() -> PathBuf {
    dir().join("ctl.toml")
}

/// Where `ctl` writes down what it does.
#[must_use]
pub fn journals() -> PathBuf {
    dir().join("home/.local/state/lifeline")
}

#[must_use]
pub fn work_tree() -> PathBuf {
    dir().join("papers")
}

/// The repository that it is pushed to.
#[must_use]
pub fn remote() -> PathBuf {
    dir().join("papers.git")
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
    }
    fs::write(path, text).doing(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .doing(|| format!("set the mode of {}", path.display()))
}

fn machines() -> Vec<Machine> {
    let v4 = |name| topology::machine(name).map(|m| m.v4().to_string()).unwrap_or_default();
    vec![
        Machine::running(712_429, "srv712429.hstgr.cloud", &v4("tethys")),
        Machine::running(STYX, "srv712695.hstgr.cloud", &v4("styx")),
    ]
}

fn hand(cycles: &Arc<Mutex<Vec<Duration>>>, progress: Progress) -> Hand {
    let cycles = Arc::clone(cycles);
    Arc::new(move |what, machine| {
        if what != "restart" || machine.id != STYX {
            return Err(format!("the lab cannot do {what} to {}", machine.hostname));
        }
        let begun = Instant::now();
        let lab = Lab::open().map_err(|e| e.to_string())?;
        lab.power_cycle("styx", &progress).map_err(|e| e.to_string())?;
        cycles.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
        Ok(())
    })
}

/// Port 0: each desk has ports of its own.
fn listen() -> Result<TcpListener> {
    let at = SocketAddr::from((HOME.v4(1), 0));
    space::within(&names::namespace(GATEWAY), move || {
        TcpListener::bind(at).doing(|| format!("listen at {at}"))
    })
}

/// What both show; their authority is not the cluster's.
fn certificates() -> Result<(PathBuf, PathBuf)> {
    let authority = Authority::new()?;
    let pair = authority.kubelet_serving("gateway", &HOME.v4(1).to_string())?;
    let (cert, key) = (dir().join("outside.crt"), dir().join("outside.key"));
    write(&cert, &pair.certificate, 0o644)?;
    write(&key, &pair.key, 0o600)?;
    write(&dir().join("outside-ca.crt"), &authority.server_ca(), 0o644)?;
    Ok((cert, key))
}

/// `op`, and what it finds. It takes its time, as one that asks a vault far away: whoever looks at arguments sees it.
fn vault() -> Result<()> {
    let lab = disk::Layer::common().path("/usr/local/bin/lab");
    let op = dir().join(VAULT_PROGRAM).join("op");
    fs::create_dir_all(dir().join(VAULT_PROGRAM)).doing(|| "make a folder for op".to_owned())?;
    fs::copy(&lab, &op).doing(|| format!("copy {} to {}", lab.display(), op.display()))?;
    let script = format!("#!/bin/sh\nsleep 0.3\nexec {} \"$@\"\n", op.display());
    write(&dir().join("bin/op"), &script, 0o755)?;
    let pairs = REFERENCES.iter().zip(TOKENS);
    let lines: String = pairs.map(|(at, token)| format!("{at} = {token}\n")).collect();
    write(&dir().join("home/.config/op/vault"), &lines, 0o600)
}

/// The laptop's own ssh would look for keys where the person at this machine has his.
pub fn wrap_ssh() -> Result<()> {
    let config = dir().join("ssh_config");
    let key = crate::ssh::key_path();
    let text = format!(
        "IdentityFile {}\nIdentitiesOnly yes\nBatchMode yes\nConnectTimeout 5\nStrictHostKeyChecking no\n\
         UserKnownHostsFile /dev/null\nLogLevel ERROR\n",
        key.display()
    );
    write(&config, &text, 0o600)?;
    let script = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", config.display());
    write(&dir().join("bin/ssh"), &script, 0o755)
}

/// A work tree with a remote: papers that are not committed yet, and something staged that is not theirs.
fn papers() -> Result<()> {
    let (tree, bare) = (work_tree(), remote());
    for paper in PAPERS {
        write(&tree.join(paper), &format!("# {paper}\n"), 0o644)?;
    }
    write(&tree.join("README.md"), "# Papers\n", 0o644)?;
    write(&tree.join(STAGED), "to be continued\n", 0o644)?;
    let script = format!(
        "git init -q --bare -b main {bare}; cd {tree}; git init -q -b main; git config user.name Alice; \
         git config user.email alice@example.org; git config commit.gpgsign false; git add README.md; \
         git commit -q -m 'the first paper'; git remote add origin {bare}; git push -q origin main; git add {STAGED}",
        bare = bare.display(),
        tree = tree.display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).env("HOME", dir().join("home"));
    run::run(&mut shell, LIMIT, None)?.success().map(drop)
}
