//! Drills on a node in a network namespace: what is proven, and that `ip` shows the same before and after, also when the
//! process is killed in the middle.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on must stop"
)]

mod far;
mod scene;

use lifeline_agent::act::Paths;
use lifeline_agent::guard::{Drill, Guard, Order};
use lifeline_agent::look::{Look, Places};
use lifeline_agent::netlink::Kernel;
use lifeline_agent::runs::Node;
use lifeline_agent::worker::Worker;
use lifeline_core::baseline::{Baseline, Expected, derive};
use lifeline_core::drill::{self, Outcome, Trial};
use lifeline_core::guard::Stand;
use lifeline_core::net::Prefix;
use lifeline_core::policy::{Mode, Policy};
use scene::{alone, ip, node};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a process that is to be killed finds its files.
const FILES: &str = "LIFELINE_TEST_DRILL_FILES";

/// All rules and routes.
fn tables() -> Vec<String> {
    let all =
        ["-d rule", "-6 -d rule", "-d route show table all", "-6 -d route show table all"].map(ip);
    all.concat().lines().map(str::to_owned).collect()
}

/// What of a drill's there is.
fn drilled() -> Vec<String> {
    tables().into_iter().filter(|l| l.contains("21301") || l.contains("proto 214")).collect()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {:#?}", tables());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn two_families() {
    // Link-local addresses come with duplicate address detection's own delay, and a drill that sees one come is no proof.
    std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    node();
    ip("-6 route add default via fd00:2::1 dev eth0");
}

async fn worker(places: Places, mode: Mode) -> (Arc<Worker>, Arc<Baseline>) {
    let kernel = Kernel::open().unwrap();
    let policy = Policy { mode, ..Policy::default() };
    let look = Look::new(kernel.clone(), Places { policy: policy.clone(), ..places });
    let base = Arc::new(derive(&look.full().await));
    assert!(!base.cluster.api.is_empty() && !base.expected.is_empty(), "{base:?}");
    let stand = if mode == Mode::Observe { Stand::Lifeline } else { Stand::Guard };
    let guard = Guard::start(kernel.clone(), policy.clone(), order(stand, &base)).unwrap();
    guard.settled(Duration::from_secs(5)).await;
    let base_too = Some(base.clone());
    let worker = Worker::new(look, guard, kernel, Paths::default(), &policy, base_too);
    (Arc::new(worker), base)
}

fn order(stand: Stand, base: &Arc<Baseline>) -> Order {
    Order {
        stand,
        base: Some(base.clone()),
        moved: false,
        forgiven: 0,
        marks: Vec::new(),
        drill: None,
    }
}

/// `ip monitor`, an eye of another make on what is put into the kernel.
struct Monitor(Child);

impl Monitor {
    fn begin() -> Self {
        let mut monitor = Command::new("ip");
        monitor.args(["monitor", "rule", "route"]).stdout(Stdio::piped());
        Self(monitor.spawn().unwrap())
    }

    fn end(mut self) -> String {
        self.0.kill().unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        text
    }
}

fn outcomes(trial: &Trial) -> Vec<(&'static str, Outcome)> {
    let steps = drill::steps(trial);
    for s in &steps {
        eprintln!("{:12} {:8} {:?} us: {}", s.name, s.outcome.word(), s.us, s.seen);
    }
    steps.iter().map(|s| (s.name, s.outcome)).collect()
}

#[test]
fn a_drill_proves_every_step_and_leaves_rules_and_routes_byte_for_byte() {
    alone(|| async {
        two_families();
        let (_dir, places) = far::files(&far::far(), 6443);
        let (worker, base) = worker(places, Mode::Guard).await;
        let (before, monitor) = (tables(), Monitor::begin());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let trial = worker.drill(base).await.unwrap();
        let seen = monitor.end();
        assert_eq!(before, tables());
        let steps = outcomes(&trial);
        assert_eq!(steps.len(), 6);
        assert!(steps.iter().all(|(_, o)| *o == Outcome::Passed), "{steps:?}\n{trial:#?}");
        // Two captures, two families; a guard for each; and no address but documentation's.
        let count = |what: &str| seen.lines().filter(|l| l.contains(what)).count();
        let (put, gone) = (count("lookup 21301"), count("Deleted"));
        assert_eq!((put, gone), (8, 12), "{seen}");
        let ours = |l: &&str| l.contains("214") || l.contains("21301");
        let doc = |l: &str| ["192.0.2.", "198.51.100.", "2001:db8:"].iter().any(|d| l.contains(d));
        let strange: Vec<&str> = seen.lines().filter(|l| !ours(l) || !doc(l)).collect();
        assert_eq!(strange, [""; 0], "something else was changed\n{seen}");
        assert_eq!(worker.guard().raised, 0, "no guard was raised");
    });
}

#[test]
fn in_mode_observe_no_guard_is_placed_and_the_rest_is_proven() {
    alone(|| async {
        two_families();
        let (_dir, places) = far::files(&far::far(), 6443);
        let (worker, base) = worker(places, Mode::Observe).await;
        let (before, monitor) = (tables(), Monitor::begin());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let trial = worker.drill(base).await.unwrap();
        let seen = monitor.end();
        assert_eq!(before, tables());
        let skipped = |name: &str| match name {
            "warning" | "guard" => Outcome::Skipped,
            _ => Outcome::Passed,
        };
        let steps = outcomes(&trial);
        assert!(steps.iter().all(|(name, o)| *o == skipped(name)), "{steps:?}");
        assert!(seen.contains("lookup 21301") && !seen.contains("0x1000"), "{seen}");
    });
}

#[test]
fn a_look_in_the_middle_of_a_drill_sees_nothing_of_it() {
    alone(|| async {
        two_families();
        let (_dir, places) = far::files(&far::far(), 6443);
        // Full and quick looks read the tables in the same way; a quick one is over before the drill is.
        let look = Look::new(Kernel::open().unwrap(), places.clone());
        let (worker, base) = worker(places, Mode::Guard).await;
        let before = look.quick().await;
        let drill = tokio::spawn({
            let (worker, base) = (worker.clone(), base.clone());
            async move { worker.drill(base).await }
        });
        until("captured", || drilled().len() > 4).await;
        let during = look.quick().await;
        assert!(!drilled().is_empty(), "the look was over in time");
        assert_eq!((&before.rules, &before.routes), (&during.rules, &during.routes));
        let refused = worker.drill(base).await.unwrap_err();
        assert!(refused.contains("another drill is under way"), "{refused}");
        let trial = drill.await.unwrap().unwrap();
        assert_eq!((trial.broken, drilled()), (None, Vec::new()));
    });
}

#[test]
fn a_real_captor_in_the_middle_of_a_drill_is_guarded_against_and_ends_it() {
    alone(|| async {
        two_families();
        let (_dir, places) = far::files(&far::far(), 6443);
        let (worker, base) = worker(places, Mode::Guard).await;
        let drill = tokio::spawn({
            let (worker, base) = (worker.clone(), base.clone());
            async move { worker.drill(base).await }
        });
        until("captured by the drill", || !drilled().is_empty()).await;
        ip("route add default dev tailscale0 table 52");
        ip("rule add pref 5270 lookup 52");
        until("guarded", || ip(&format!("route get {}", far::API)).contains("dev eth0")).await;
        let trial = drill.await.unwrap().unwrap();
        let why = trial.broken.clone().unwrap();
        assert!(why.contains("real captor"), "{why}");
        assert!(outcomes(&trial).iter().any(|(_, o)| *o == Outcome::Failed), "it is no proof");
        assert_eq!(drilled(), Vec::<String>::new());
        assert!(worker.guard().standing && worker.guard().raised == 1);
        assert!(ip(&format!("route get {} mark 0x1000", far::API)).contains("tailscale0"));
    });
}

#[test]
fn a_recovery_that_begins_ends_a_drill_before_it_goes_on() {
    alone(|| async {
        two_families();
        let (_dir, places) = far::files(&far::far(), 6443);
        let (worker, base) = worker(places, Mode::Heal).await;
        let drill = tokio::spawn({
            let (worker, base) = (worker.clone(), base.clone());
            async move { worker.drill(base).await }
        });
        until("captured by the drill", || !drilled().is_empty()).await;
        worker.hold(true).await;
        assert_eq!(drilled(), Vec::<String>::new(), "gone when the recovery goes on");
        let trial = drill.await.unwrap().unwrap();
        assert_eq!(trial.broken.as_deref(), Some("a recovery has begun"));
        assert_eq!(drilled(), Vec::<String>::new());
        let refused = worker.drill(base).await.unwrap_err();
        assert!(refused.contains("a recovery is under way"), "{refused}");
    });
}

#[test]
fn what_nobody_takes_back_goes_by_itself_when_its_time_is_over() {
    alone(|| async {
        two_families();
        let (_dir, places) = far::files(&far::far(), 6443);
        let (worker, base) = worker(places, Mode::Guard).await;
        let before = tables();
        let trial = worker.drill(base.clone()).await.unwrap();
        assert_eq!(trial.broken, None);
        drop(worker);
        // Whoever drilled has hung: the order stands, and nobody ends it.
        let kernel = Kernel::open().unwrap();
        let mut hung = order(Stand::Guard, &base);
        let ask = "192.0.2.9".parse().unwrap();
        let target = base.expected.iter().find(|e| e.prefix.to_string() == far::API).unwrap();
        let target = Expected { prefix: Prefix::host(ask), ask, ..target.clone() };
        let until_then = tokio::time::Instant::now() + Duration::from_secs(2);
        hung.drill = Some(Drill { round: 1, targets: vec![target], until: until_then });
        let _guard = Guard::start(kernel, Policy::default(), hung).unwrap();
        ip("route add unreachable 192.0.2.9 table 21301 protocol 214");
        ip("rule add pref 5310 to 192.0.2.9 lookup 21301 protocol 214");
        until("met by a guard", || ip("rule").contains("to 192.0.2.9 fwmark 0/0x1000")).await;
        assert!(tokio::time::Instant::now() < until_then, "it stands before its time is over");
        until("gone", || drilled().is_empty()).await;
        assert_eq!(before, tables());
    });
}

#[test]
fn killed_in_the_middle_nothing_outlasts_the_next_start_or_a_cleanup() {
    alone(|| async {
        two_families();
        let (dir, _) = far::files(&far::far(), 6443);
        let pristine = tables();
        killed(dir.path()).await;
        let config = dir.path().join("agent.toml");
        let text = format!(
            "cluster = \"lab\"\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n",
            dir.path().display()
        );
        std::fs::create_dir_all(dir.path().join("state")).unwrap();
        std::fs::write(&config, text).unwrap();
        let cleanup = Command::new(env!("CARGO_BIN_EXE_lifeline-agent"))
            .args(["--config", config.to_str().unwrap(), "cleanup"])
            .output()
            .unwrap();
        assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
        assert_eq!(pristine, tables(), "after lifeline-agent cleanup");

        // As it is with an agent and without a drill.
        let (first, base) = worker(places_of(dir.path()), Mode::Guard).await;
        let standing = tables();
        drop(first);
        killed(dir.path()).await;
        let kernel = Kernel::open().unwrap();
        let next = Guard::start(kernel, Policy::default(), order(Stand::Guard, &base)).unwrap();
        let state = next.settled(Duration::from_secs(5)).await;
        assert_eq!((state.trouble, state.guarded, state.raised), (None, false, 0));
        assert_eq!(standing, tables(), "after the next start");
    });
}

/// Another process drills here, and is killed while something is captured.
async fn killed(dir: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["a_process_that_is_to_be_killed", "--exact", "--ignored", "--nocapture"])
        .env(FILES, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Captors of both families and a guard: as much as ever stands.
    until("the other process captures", || drilled().len() >= 6).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(drilled().len() >= 6, "killed in the middle, it is all still there: {:?}", drilled());
}

fn places_of(dir: &Path) -> Places {
    Places {
        k3s: dir.join("k3s"),
        etc: dir.join("etc"),
        run: dir.join("run"),
        var: dir.join("var"),
        bus: Some(format!("unix:path={}", dir.join("no-bus").display())),
        ..Places::default()
    }
}

#[test]
#[ignore = "a part of another test, which starts it in its own namespace"]
fn a_process_that_is_to_be_killed() {
    let Some(dir) = std::env::var_os(FILES) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (worker, base) = worker(places_of(Path::new(&dir)), Mode::Guard).await;
        loop {
            worker.drill(base.clone()).await.unwrap();
        }
    });
}
