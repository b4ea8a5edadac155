//! `ctl verify` on the real cluster: what it asks for by pods of its own.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ground::{NODE, told};
use super::{Case, Ground, Verdict};
use crate::agent;
use crate::real::cluster::{self, kubectl};
use crate::real::incident::OTHER;
use crate::recover::desk::SERVICE;
use crate::run::{self, Output};

pub const REAL: &[Case] = &[Case {
    name: "real_verify_asks_for_a_service_by_its_name_from_each_node_with_curl_and_without",
    run: asked,
}];

const CURL: &str = "docker.io/lab/curl:1";
/// A busybox whose wget crashes, as Debian's does.
const TOOLS: &str = "docker.io/lab/tools:1";
const PROBES: &str = "app.kubernetes.io/name=lifeline-probe";
/// Where the sample application is asked.
const APP: &str = "http://label-studio-ls-app.apps.svc.cluster.local:8080";
/// Of each URL: the image by which it is asked, what must be said, and a part of why.
const REACHES: [(&str, &str, &str, &str); 5] = [
    ("/health", CURL, "good", "reachable"),
    ("/", TOOLS, "good", "reachable"),
    ("/nothing", CURL, "bad", "unreachable: curl ended with code 22"),
    ("/none", TOOLS, "bad", " 404 "),
    ("/absent", "docker.io/lab/absent:1", "unknown", "is not on"),
];
/// A name that no Service has.
const NOBODY: &str = "http://nobody.apps.svc.cluster.local/";
const VERIFY: Duration = Duration::from_secs(90);
const REST: Duration = Duration::from_secs(120);

/// What `ctl verify` said.
struct Said {
    verified: bool,
    /// What, how, and why.
    checks: Vec<[String; 3]>,
}

impl Said {
    /// Asks; whatever it says it must say by its exit code, too.
    fn by(g: &Ground<'_>, config: Option<&PathBuf>) -> std::result::Result<Self, String> {
        let mut command = g.lab.ctl_command("laptop", &["verify", "-o", "json"]).map_err(told)?;
        if let Some(config) = config {
            command.env("LIFELINE_CONFIG", config);
        }
        let out = run::run(&mut command, VERIFY, None).map_err(told)?;
        let seen: Value = serde_json::from_str(&out.stdout)
            .map_err(|e| format!("ctl verify: {e}: {}{}", out.stdout, out.stderr))?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let checks = seen["checks"].as_array().into_iter().flatten();
        let checks = checks.map(|c| [text(&c["what"]), text(&c["said"]), text(&c["detail"])]);
        let said = Self { verified: seen["verified"] == true, checks: checks.collect() };
        let wanted = if said.verified { 0 } else { 3 };
        if out.code != Some(wanted) {
            return Err(format!("exit code {:?}, not {wanted}: {seen:#}", out.code));
        }
        Ok(said)
    }

    fn expect(&self, what: &str, word: &str, why: &str) -> Verdict {
        match self.checks.iter().find(|[is, ..]| is == what) {
            Some([_, said, detail]) if said == word && detail.contains(why) => Ok(()),
            Some([_, said, detail]) => {
                Err(format!("{what}: {word:?} ({why}) was to be said, {said:?} was: {detail}"))
            }
            None => Err(format!("{what} was not asked: {:?}", self.checks)),
        }
    }

    /// What is not good, for people.
    fn doubts(&self) -> Vec<String> {
        let doubts = self.checks.iter().filter(|[_, said, _]| said != "good");
        doubts.map(|[what, said, detail]| format!("{what}: {said}, {detail}")).collect()
    }
}

/// The operator's configuration, with these to be reached.
fn reaching(all: &[(String, &str)]) -> std::result::Result<PathBuf, String> {
    let full = agent::operator_dir().join("ctl.toml");
    let mut text = fs::read_to_string(&full).map_err(told)?;
    for (url, image) in all {
        text.push_str(&format!("\n[[verify.reach]]\nurl = \"{url}\"\nimage = \"{image}\"\n"));
    }
    let config = full.with_file_name("verify.toml");
    fs::write(&config, text).map_err(told)?;
    Ok(config)
}

fn asked(g: &Ground<'_>) -> Verdict {
    cluster::await_rest(REST, g.progress).map_err(told)?;
    let url = |path: &str| format!("{APP}{path}");
    let mut all: Vec<(String, &str)> =
        REACHES.iter().map(|(path, image, ..)| (url(path), *image)).collect();
    all.push((NOBODY.to_owned(), TOOLS));
    let said = Said::by(g, Some(&reaching(&all)?))?;
    for node in [NODE, OTHER] {
        for (path, _, word, why) in REACHES {
            said.expect(&format!("{} from {node}", url(path)), word, why)?;
        }
        said.expect(&format!("{NOBODY} from {node}"), "bad", "no address of nobody")?;
    }
    if said.verified {
        return Err("what is bad and what is unknown were verified".to_owned());
    }
    let good = [(SERVICE.to_owned(), CURL), (url("/"), TOOLS)];
    let said = Said::by(g, Some(&reaching(&good)?))?;
    if !said.verified {
        return Err(format!("not verified: {}", said.doubts().join("; ")));
    }
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let left = kubectl(&["get", "pods", "-A", "-l", PROBES, "-o", "name"]);
        let left = left.and_then(Output::success).map_err(told)?.stdout;
        if left.trim().is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("pods that asked are left: {left}"));
        }
        thread::sleep(Duration::from_millis(500));
    }
}
