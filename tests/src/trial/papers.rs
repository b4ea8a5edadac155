//! Who shows what: nobody without a certificate comes in, and the agent's own is changed while it serves. Asserted with curl, openssl
//! and systemctl.

use std::fs;
use std::time::Duration;

use super::ground::{NODE, told};
use super::routing::within;
use super::{Case, Ground, Verdict};
use crate::agent::operator_dir;
use crate::disk::Layer;
use crate::run::{self, Output};

pub const CASES: &[Case] = &[
    Case { name: "A8_who_shows_no_certificate_is_turned_away_and_told_why", run: none },
    Case { name: "A8_a_certificate_is_changed_while_serving_without_a_restart", run: rotated },
];

const DOOR: &str = "192.168.2.80:7443";
const PID: &str = "systemctl show -p MainPID -p NRestarts --value lifeline-agent";

/// Whoever calls is told by TLS itself which it was, and the node's own journal says from whom, in the agent's words.
fn none(g: &Ground<'_>) -> Verdict {
    let laptop = g.lab.space("laptop").map_err(told)?;
    let call = format!("curl -sSk -m 5 --http2 https://{DOOR}/lifeline.v1.Lifeline/Status");
    let out = laptop.sh(&call).map_err(told)?;
    if out.ok() || !out.stderr.contains("certificate required") {
        return Err(format!("curl ended with {:?}: {}{}", out.code, out.stdout, out.stderr));
    }
    let log =
        "journalctl -u lifeline-agent -n 50 -o cat --no-pager | grep 'was turned away' | tail -1";
    within(Duration::from_secs(5), || {
        let said = g.sh(log)?;
        let words = ["no client certificate was shown", "ctl pki operator"];
        match words.iter().find(|w| !said.contains(**w)) {
            None => Ok(()),
            Some(word) => Err(format!("{word:?} is missing in: {said:?}")),
        }
    })?;
    // An operator who has none is told which file is missing, before anybody is called.
    let text = fs::read_to_string(operator_dir().join("ctl.toml")).map_err(told)?;
    let config = operator_dir().join("bare.toml");
    fs::write(&config, text.replace("operator.crt", "nowhere.crt")).map_err(told)?;
    let mut command = g.lab.ctl_command("laptop", &["heal", NODE, "--yes"]).map_err(told)?;
    let out = run::run(command.env("LIFELINE_CONFIG", &config), Duration::from_secs(20), None);
    fs::remove_file(&config).map_err(told)?;
    let out = out.map_err(told)?;
    let said = format!("{}{}", out.stdout, out.stderr);
    if out.ok() || !said.contains("nowhere.crt") {
        return Err(format!("ctl without a certificate ended with {:?}: {said}", out.code));
    }
    Ok(())
}

/// The serial number of what the agent shows to whoever connects.
fn shown(g: &Ground<'_>) -> std::result::Result<String, String> {
    let ask = format!(
        "openssl s_client -connect {DOOR} -tls1_3 </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    let laptop = g.lab.space("laptop").map_err(told)?;
    let out = laptop.sh(&ask).and_then(Output::success).map_err(told)?;
    Ok(out.stdout.trim().to_owned())
}

/// Another certificate is shown, by the same process, and operators are served.
fn is_another(g: &Ground<'_>, old: &str, pid: &str) -> std::result::Result<String, String> {
    within(Duration::from_secs(10), || match shown(g)? {
        now if now == old => Err(format!("it still shows {now}")),
        _ => Ok(()),
    })?;
    g.verdict()?;
    match g.sh(PID)? {
        now if now == pid => shown(g),
        now => Err(format!("it was started anew: {pid:?} became {now:?}")),
    }
}

/// By hand, with a new pair laid in place and a reload; and over the wire, where the key never leaves the node.
fn rotated(g: &Ground<'_>) -> Verdict {
    let pki = operator_dir().join("../pki").display().to_string();
    let made = operator_dir().join("trial-agent");
    let (first, pid) = (shown(g)?, g.sh(PID)?);
    let ctl = Layer::common().path("/usr/local/bin/ctl").display().to_string();
    let out = made.display().to_string();
    let args = ["pki", "agent", NODE, "--address", "192.168.2.80", "--dir", &pki, "--out", &out];
    run::host(&ctl, &args).and_then(Output::success).map_err(told)?;
    for file in ["agent.crt", "agent.key"] {
        let text = fs::read(made.join(file)).map_err(told)?;
        g.node()?.write(&format!("/etc/lifeline/{file}"), text).map_err(told)?;
    }
    fs::remove_dir_all(&made).map_err(told)?;
    g.sh("chmod 600 /etc/lifeline/agent.key; systemctl reload lifeline-agent")?;
    let second = is_another(g, &first, &pid).map_err(|why| format!("after a reload: {why}"))?;
    let out = g.ctl(&["pki", "renew", NODE, "--dir", &pki, "--yes"])?;
    if !out.ok() {
        return Err(format!("ctl pki renew: {}{}", out.stdout, out.stderr));
    }
    let third = is_another(g, &second, &pid).map_err(|why| format!("over the wire: {why}"))?;
    // What it shows is what lies on its disk: the next start shows it, too.
    let disk = g.node()?.read("/etc/lifeline/agent.crt").map_err(told)?;
    let file = operator_dir().join("trial.crt");
    fs::write(&file, disk).map_err(told)?;
    let serial = format!("openssl x509 -in {} -noout -serial", file.display());
    let kept = run::host("sh", &["-c", &serial]).and_then(Output::success).map_err(told)?.stdout;
    fs::remove_file(&file).map_err(told)?;
    if kept.trim() == third { Ok(()) } else { Err(format!("shows {third}, keeps {kept}")) }
}
