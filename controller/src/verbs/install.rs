//! `ctl install`: the agent on a node that has nothing but sshd, its key made there, until it has seen the node well; or a newer agent
//! in the old one's place with what belongs to it, and the old one back if the new one does not come up.

mod denials;
mod first_look;

use crate::ask;
use crate::cli::Global;
use crate::config::{Config, PORT};
use crate::error::{CommandError, Outcome};
use crate::exit::Exit;
use crate::files::{self, Present};
use crate::install::binary::{Binary, BinaryError};
use crate::install::facts::Facts;
use crate::install::ssh::{self, Ssh};
use crate::install::upgrade::{self, Swapped};
use crate::install::{self, Papers};
use crate::out::{Out, Tone};
use crate::pki::authority::{Ca, Passphrase};
use crate::pki::issue::{self, Days};
use crate::words;
use clap::value_parser;
use first_look::{Seen, first_look};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HELP: &str = "Examples:
  ctl install calypso --ssh root@192.168.2.80
  ctl install calypso --ssh admin@192.168.2.80 --host-key SHA256:… --mode heal --yes
  ctl install calypso --ssh root@192.168.2.80 --upgrade

The host's key is pinned in known_hosts beside ctl.toml. The agent's key is made on the node and never leaves it. What would be done
is shown first. A node that ctl.toml does not know is added to it.

Exit codes: 0 the agent answers and its node is well, 1 failed, 2 usage, 3 rolled back, or the node is not well, 4 stuck, 5 no
healthy look within --limit";

/// Arguments of `ctl install`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The node's name in Kubernetes
    node: String,
    #[command(flatten)]
    shell: Shell,
    /// An address operators reach the agent at; may be repeated [default: the one of --ssh]
    #[arg(long = "address", value_name = "IP")]
    addresses: Vec<IpAddr>,
    /// The agent's program [default: lifeline-agent beside ctl]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the authority is [default: pki beside ctl.toml]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    /// What the agent may do alone
    #[arg(long, default_value = "guard", value_parser = ["observe", "guard", "heal"])]
    mode: String,
    /// How long the agent's certificate is valid
    #[arg(long, default_value_t = 365, value_parser = value_parser!(u16).range(1..=3650))]
    days: u16,
    /// Replace the program, its unit and its message texts, and put the old ones back unless the new one comes up
    #[arg(long)]
    upgrade: bool,
    /// Agree beforehand to what is shown
    #[arg(long)]
    yes: bool,
    /// How long to wait for the first healthy look
    #[arg(long, default_value = "90s", value_parser = words::span, value_name = "SPAN")]
    limit: Duration,
}

/// How a machine is reached when it has no agent.
#[derive(Debug, clap::Args)]
pub struct Shell {
    /// Where its sshd is reached, by a user who is root or may become it
    #[arg(long, value_name = "USER@HOST")]
    ssh: String,
    /// Its sshd's port
    #[arg(long, default_value_t = 22, value_name = "PORT")]
    ssh_port: u16,
    /// A private key for ssh, if not one of its own choice
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Its host key, as its console shows it; asked about when it is not given and not pinned yet
    #[arg(long, value_name = "SHA256:…")]
    host_key: Option<String>,
}

impl Shell {
    /// Reaches the machine, its host key pinned; `None` when the operator says it is another one.
    pub async fn open(
        &self,
        node: &str,
        config: &Path,
        out: Out,
    ) -> Result<Option<Ssh>, CommandError> {
        crate::pki::subject::host("node", node)?;
        if self.ssh.starts_with('-') || self.ssh.contains(char::is_whitespace) {
            return Err(CommandError::usage(format!("use {:?} as a host", self.ssh)));
        }
        let ssh = Ssh {
            target: self.ssh.clone(),
            port: self.ssh_port,
            node: node.to_owned(),
            known: ssh::known_hosts(config),
            identity: self.identity.clone(),
        };
        Ok(ssh.pin(out, self.host_key.as_deref()).await?.then_some(ssh))
    }
}

/// `-o json`.
#[derive(Serialize)]
struct InstallJson<'a> {
    node: &'a str,
    /// `installed`, `upgraded`, `rolled-back`, `stuck` or `cancelled`.
    ending: &'static str,
    version: Option<&'a str>,
    before: Option<&'a str>,
    verdict: Option<&'static str>,
    baseline: Option<String>,
    seconds: f64,
}

impl From<BinaryError> for CommandError {
    fn from(error: BinaryError) -> Self {
        let hint = match &error {
            BinaryError::Altered { .. } => {
                "take the release anew, both files; a program you have built yourself lies in a folder of its own"
            }
            _ => "name it: --binary target/dist/x86_64-unknown-linux-musl/lifeline-agent",
        };
        Self::usage(error).hinted(hint)
    }
}

/// Runs `ctl install`.
pub async fn run(args: &Args, global: &Global, out: Out) -> Outcome {
    let begun = Instant::now();
    let place = Config::place(global.config.as_deref())?;
    let binary = Binary::load(args.binary.as_deref())?;
    let Some(ssh) = args.shell.open(&args.node, &place, out).await? else {
        out.say("Nothing was done.");
        out.json(&InstallJson {
            node: &args.node,
            ending: "cancelled",
            version: None,
            before: None,
            verdict: None,
            baseline: None,
            seconds: begun.elapsed().as_secs_f64(),
        })?;
        return Ok(Exit::Done);
    };
    let facts = install::survey(&ssh).await?;
    let old = facts.get("agent").trim_start_matches("lifeline-agent ").to_owned();
    show(args, &ssh, &facts, &binary, out)?;
    let end = |ending, version: Option<&str>, seen: Option<&Seen>, exit| -> Outcome {
        out.json(&InstallJson {
            node: &args.node,
            ending,
            version,
            before: (!old.is_empty()).then_some(&*old),
            verdict: seen.map(|s| s.verdict),
            baseline: seen.map(|s| s.baseline.clone()),
            seconds: begun.elapsed().as_secs_f64(),
        })?;
        Ok(exit)
    };
    let what = if args.upgrade { "Upgrade" } else { "Install on" };
    if !ask::confirm(out, args.yes, &format!("{what} {} like this?", args.node)).await? {
        out.say("Nothing was done.");
        return end("cancelled", None, None, Exit::Done);
    }
    if !args.upgrade {
        let version = fresh(args, &ssh, &binary, &place, out).await?;
        let seen = first_look(args, global, out, &version).await?;
        denials::pass_on(&args.node, global, out).await;
        out.print(format!("{} runs lifeline-agent {version}: {}", args.node, seen.told()));
        return end("installed", Some(&version), Some(&seen), seen.exit);
    }
    let version = install::carry(&ssh, &binary.bytes).await?;
    out.say(format!("Carried {} there; it says it is {version}.", binary.path.display()));
    upgrade::carry_texts(&ssh).await?;
    match upgrade::swap(&ssh).await? {
        Swapped::Up => {}
        Swapped::RolledBack => {
            out.print(format!("{}: {version} did not come up; {old} is back and runs", args.node));
            out.say(format!("Why it did not: journalctl -u lifeline-agent on {}.", args.node));
            return end("rolled-back", Some(&old), None, Exit::Unhealthy);
        }
        Swapped::Stuck => {
            out.print(format!(
                "{}: {version} did not come up, and {old} is back and does not either",
                args.node
            ));
            return end("stuck", None, None, Exit::Stuck);
        }
    }
    match first_look(args, global, out, &version).await {
        Ok(seen) => {
            upgrade::forget_old(&ssh).await?;
            out.print(format!(
                "{} runs lifeline-agent {version}, {old} before: {}",
                args.node,
                seen.told()
            ));
            end("upgraded", Some(&version), Some(&seen), seen.exit)
        }
        // It runs and cannot be reached: for an operator that is as good as not running.
        Err(why) => {
            out.error(&why);
            upgrade::back(&ssh).await?;
            out.print(format!("{}: {version} could not be asked; {old} is back", args.node));
            end("rolled-back", Some(&old), None, Exit::Unhealthy)
        }
    }
}

/// What is there, what would change, and whether it can be done at all.
fn show(
    args: &Args,
    ssh: &Ssh,
    facts: &Facts,
    binary: &Binary,
    out: Out,
) -> Result<(), CommandError> {
    let points = facts.points(&args.node, binary, jiff::Timestamp::now().as_second());
    out.say(format!("{} ({}):", args.node, ssh.target));
    for p in &points {
        let (tone, mark) = match p.fine {
            Some(true) => (Tone::Good, "ok"),
            Some(false) => (Tone::Bad, "no"),
            None => (Tone::Warn, "? "),
        };
        out.say(format!("  {}  {}", out.progress.tone(tone, mark), p.what));
    }
    let bad: Vec<_> = points.iter().filter(|p| p.fine == Some(false)).collect();
    if !bad.is_empty() {
        let error = CommandError::failed(format!(
            "install on {}: it does not meet what is needed",
            args.node
        ));
        return Err(bad.iter().fold(error, |e, p| e.hinted(p.hint)).hinted("nothing was done"));
    }
    if !facts.get("package").is_empty() {
        let what = format!(
            "install on {}: Debian's package of the agent is there ({})",
            args.node,
            facts.get("package")
        );
        return Err(CommandError::failed(what)
            .hinted("a newer package in its place: dpkg -i there")
            .hinted("all of it away first: apt-get purge lifeline-agent there"));
    }
    let installed = facts.installed();
    if installed && !args.upgrade {
        let what = format!(
            "install on {}: something of Lifeline's is there already ({})",
            args.node,
            facts.get("agent")
        );
        return Err(CommandError::failed(what)
            .hinted("a newer program in its place: --upgrade")
            .hinted(format!(
                "all of it away first: ctl uninstall {} --ssh {}",
                args.node, ssh.target
            )));
    }
    if !installed && args.upgrade {
        return Err(CommandError::failed(format!(
            "upgrade {}: there is no agent on it",
            args.node
        ))
        .hinted("install it: the same without --upgrade"));
    }
    let size = binary.bytes.len() / (1024 * 1024);
    let vouched = if binary.vouched { ", as its SHA256SUMS says" } else { "" };
    out.say(format!("  {}  {size} MB from {}{vouched}", install::PROGRAM, binary.path.display()));
    if !args.upgrade {
        out.say("  /etc/lifeline/  agent.toml, agent.crt, ca.crt, and agent.key, which is made there and stays there");
        out.say("  lifeline-agent.service, enabled and started; message texts for journalctl -x");
        out.say(format!("  mode {}: /var/lib/lifeline/ keeps what it learns and does", args.mode));
    } else {
        out.say(format!("  in the place of {}", facts.get("agent")));
        upgrade::plan(facts, binary).iter().for_each(|line| out.say(format!("  {line}")));
    }
    Ok(())
}

/// Everything that makes a node a protected one, up to the start of its agent.
async fn fresh(
    args: &Args,
    ssh: &Ssh,
    binary: &Binary,
    place: &Path,
    out: Out,
) -> Result<String, CommandError> {
    let pki = args.pki.clone().unwrap_or_else(|| place.with_file_name("pki"));
    let addresses = addresses(args, ssh)?;
    let cluster = issue::cluster_of(&pki)?;
    // Asked for before anything is carried anywhere.
    let ca = Ca::open(&pki, &args.passphrase, out).await?;
    let config = Config::load_if_there(Some(place))?;
    if let Some(config) = &config
        && config.cluster != cluster
    {
        return Err(CommandError::usage(format!(
            "install on {}: {} is the authority of cluster {cluster}, and {} is for {}",
            args.node,
            pki.display(),
            place.display(),
            config.cluster
        )));
    }
    // Before anything is changed there: without it nobody could ask the agent afterwards.
    add_node(place, config.as_ref(), &cluster, &args.node, &addresses, out)?;
    let version = install::carry(ssh, &binary.bytes).await?;
    out.say(format!("Carried {} there; it says it is {version}.", binary.path.display()));
    let request = install::request(ssh).await?;
    let signed = issue::signed(&args.node, &addresses, &ca, &request, Days(args.days))?;
    out.say(format!("Signed its certificate for {} days; the key stays there.", args.days));
    let listen = SocketAddr::new(addresses[0], PORT);
    let text = format!(
        "# Written by ctl install. Every setting: systemd/agent.toml of Lifeline.\ncluster = \"{cluster}\"\nnode = \"{}\"\nlisten = \"{listen}\"\n\n\
         [policy]\nmode = \"{}\"\n",
        args.node, args.mode
    );
    install::place(ssh, &Papers { cert: &signed.cert, ca: &signed.ca, config: &text })
        .await
        .map_err(|e| {
            CommandError::from(e).hinted(format!(
                "take it away again: ctl uninstall {} --ssh {}",
                args.node, ssh.target
            ))
        })?;
    out.say("Enabled and started lifeline-agent.service.");
    Ok(version)
}

/// Those that were named, or the one that ssh went to.
fn addresses(args: &Args, ssh: &Ssh) -> Result<Vec<IpAddr>, CommandError> {
    if !args.addresses.is_empty() {
        return Ok(args.addresses.clone());
    }
    match ssh.host().trim_matches(['[', ']']).parse() {
        Ok(ip) => Ok(vec![ip]),
        Err(_) => Err(CommandError::usage(format!(
            "install on {}: {} is a name, and an agent listens on an address",
            args.node,
            ssh.host()
        ))
        .hinted("name it: --address 192.168.2.80")),
    }
}

/// Adds the node to ctl.toml, which is begun where there is none.
fn add_node(
    place: &Path,
    config: Option<&Config>,
    cluster: &str,
    node: &str,
    addresses: &[IpAddr],
    out: Out,
) -> Result<(), CommandError> {
    let list = addresses.iter().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
    let entry = format!("\n[nodes.\"{node}\"]\naddresses = [{list}]\n");
    let text = match config {
        Some(config) if config.addresses(node).is_ok() => return Ok(()),
        Some(_) => files::read(place)? + &entry,
        None => format!(
            "cluster = \"{cluster}\"\n\n[tls]\nca = \"ca.crt\"\ncert = \"operator.crt\"\nkey = \"operator.key\"\n{entry}"
        ),
    };
    // What we write must be what we can read.
    let read = Config::parse(place, &text)?;
    crate::identity::Identity::load(read.tls()?, cluster)?;
    files::write(place, &text, 0o600, Present::Replace)?;
    out.say(format!("Added {node} to {}.", place.display()));
    Ok(())
}
