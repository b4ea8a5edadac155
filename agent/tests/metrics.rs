//! Metrics over the local socket, asked for with curl, and as a textfile: what they say of a capture and of its heal, and that
//! nobody can take them away from others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod stage;

use arc_swap::ArcSwapOption;
use lifeline_agent::clock::Clock;
use lifeline_agent::config::{Metrics, Tls};
use lifeline_agent::metrics;
use lifeline_agent::papers::Papers;
use lifeline_agent::roles::Caller;
use lifeline_agent::serve::door::listen_locally;
use lifeline_agent::serve::service::{About, Service};
use lifeline_agent::sight::Sight;
use lifeline_agent::store::Store;
use lifeline_core::policy::Policy;
use stage::Stage;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

struct Told {
    dir: tempfile::TempDir,
    socket: PathBuf,
    file: PathBuf,
    service: Service<Stage>,
    stage: Arc<Stage>,
}

/// A captured node whose agent tells its metrics.
async fn captured() -> Told {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::read().unwrap();
    let stage = Arc::new(Stage::of("r1-exit-node", &clock));
    let runs = stage::start(&stage, dir.path(), &clock).await;
    let (store, policy) = (Arc::new(Store::open(dir.path()).0), Arc::new(Policy::default()));
    let sight = Arc::new(Sight::new(stage.clone(), store.clone(), policy.clone(), clock.clone()));
    sight.look().await;
    let about =
        About { node: "calypso".into(), cluster: "lab".into(), boot: clock.boot().to_owned() };
    let trust = Arc::new(ArcSwapOption::empty());
    let papers = Papers::new(Tls::default(), "lab", "calypso", trust.clone());
    let service = Service {
        runs,
        sight,
        store,
        node: stage.clone(),
        policy,
        trust,
        papers,
        about: Arc::new(about),
    };
    let (socket, file) = (dir.path().join("metrics.sock"), dir.path().join("lifeline.prom"));
    let listener = listen_locally(&socket).unwrap();
    let to = Metrics { textfile: Some(file.clone()) };
    tokio::spawn(metrics::tell(Some(listener), service.clone(), to));
    Told { dir, socket, file, service, stage }
}

async fn curl(socket: &Path, args: &[&str]) -> (bool, String) {
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--unix-socket"]).arg(socket);
    let ran = curl.args(args).output().await.unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8(said).unwrap())
}

async fn page(told: &Told) -> String {
    let (answered, page) = curl(&told.socket, &["--fail", "http://localhost/metrics"]).await;
    assert!(answered, "{page}");
    page
}

fn value<'p>(page: &'p str, series: &str) -> &'p str {
    let line = page.lines().find(|l| l.strip_prefix(series).is_some_and(|l| l.starts_with(' ')));
    line.unwrap_or_else(|| panic!("{series} is missing in {page}")).rsplit(' ').next().unwrap()
}

#[tokio::test]
async fn a_capture_and_its_heal_are_told() {
    let told = captured().await;
    let before = page(&told).await;
    assert_eq!(value(&before, "lifeline_verdict{lifeline_verdict=\"Captured\"}"), "1");
    assert_eq!(value(&before, "lifeline_fault_present{fault=\"tailscale-capture\"}"), "1");
    assert_eq!(value(&before, "lifeline_incidents_total{ending=\"recovered\"}"), "0");
    assert_eq!(value(&before, "lifeline_journal_trouble"), "0");
    assert!(before.ends_with("# EOF\n"), "{before}");
    let build = before.lines().find(|l| l.starts_with("lifeline_build_info{")).unwrap();
    for label in [lifeline_agent::BUILD, lifeline_agent::TARGET, env!("CARGO_PKG_VERSION")] {
        assert!(build.contains(&format!("=\"{label}\"")), "{label} is missing in {build}");
        assert!(lifeline_agent::VERSION.contains(label), "and --version says it");
    }
    let root = Caller::local(0, 0).unwrap().operator().unwrap();
    let asked = stage::heal("m-1", told.stage.consent());
    let (incident, _) = told.service.runs.heal(&root, asked).await.unwrap();
    assert_eq!(stage::ended(&told.service.runs, &incident).await.0, "recovered");
    told.service.sight.look().await;
    let after = page(&told).await;
    assert_eq!(value(&after, "lifeline_incidents_total{ending=\"recovered\"}"), "1");
    assert_eq!(value(&after, "lifeline_incident_under_way"), "0");
    assert_eq!(value(&after, "lifeline_verdict{lifeline_verdict=\"Captured\"}"), "0");
    assert!(
        after.lines().any(|l| l.starts_with("lifeline_runs_total{") && l.ends_with(" 1")),
        "{after}"
    );
}

#[tokio::test]
async fn the_textfile_follows_a_change_and_is_readable_by_all() {
    let told = captured().await;
    let within = Instant::now() + Duration::from_secs(10);
    let read = async |wanted: &str| loop {
        let text = std::fs::read_to_string(&told.file).unwrap_or_default();
        if text.contains(wanted) {
            return text;
        }
        assert!(Instant::now() < within, "{wanted} is missing in {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let text = read("\nlifeline_verdict{lifeline_verdict=\"Captured\"} 1\n").await;
    assert!(
        !text.contains("stateset") && !text.contains("EOF"),
        "node_exporter refuses it: {text}"
    );
    told.service.store.fell_silent();
    told.service.sight.look().await;
    read("\nlifeline_journal_trouble 1\n").await;
    let mode = std::fs::metadata(&told.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[tokio::test]
async fn what_is_not_a_scrape_is_refused() {
    let told = captured().await;
    let (_, posted) =
        curl(&told.socket, &["-i", "-X", "POST", "-d", "x", "http://localhost/metrics"]).await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    let (_, elsewhere) = curl(&told.socket, &["-i", "http://localhost/etc/shadow"]).await;
    assert!(elsewhere.starts_with("HTTP/1.1 404"), "{elsewhere}");
    let old = ["-i", "--http1.0", "-H", "Accept: text/plain", "http://localhost/metrics"];
    let (_, old) = curl(&told.socket, &old).await;
    assert!(old.starts_with("HTTP/1.0 200") && old.contains("version=0.0.4"), "{old}");
    let mode = std::fs::metadata(&told.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "in {}", told.dir.path().display());
}

#[tokio::test]
async fn callers_that_say_nothing_or_never_end_keep_nobody_out() {
    let told = captured().await;
    let mut idle = Vec::new();
    for n in 0..20 {
        let mut io = UnixStream::connect(&told.socket).await.unwrap();
        if n % 2 == 0 {
            io.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await.unwrap();
        }
        idle.push(io);
    }
    let begun = Instant::now();
    page(&told).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
