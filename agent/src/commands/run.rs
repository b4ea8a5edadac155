//! The daemon's frame: starts the parts in the order in which they need each other, and ends them in the other.

use anyhow::Context;
use arc_swap::ArcSwapOption;
use lifeline_agent::act::Paths;
use lifeline_agent::act::netfilter::Locks;
use lifeline_agent::act::timer::Outside;
use lifeline_agent::alone::Alone;
use lifeline_agent::clock::Clock;
use lifeline_agent::config::{Config, PORT};
use lifeline_agent::event;
use lifeline_agent::expiry;
use lifeline_agent::guard::{Guard, Order};
use lifeline_agent::hints;
use lifeline_agent::lines::DEADLINE;
use lifeline_agent::look::{Look, Places};
use lifeline_agent::metrics;
use lifeline_agent::netlink::Kernel;
use lifeline_agent::papers::Papers;
use lifeline_agent::runs::{Node, Parts, Runs};
use lifeline_agent::serve::service::{About, Service};
use lifeline_agent::serve::{answer, door};
use lifeline_agent::sight::{Sight, chain};
use lifeline_agent::store::{Store, disk};
use lifeline_agent::systemd::{Journald, Pulse};
use lifeline_agent::tls::Trust;
use lifeline_agent::worker::Worker;
use lifeline_core::guard::Stand;
use lifeline_core::policy::Mode;
use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::filter::{LevelFilter, Targets, dynamic_filter_fn};
use tracing_subscriber::prelude::*;

/// How long callers have to hang up when the agent stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// One thread is enough: everything waits, nothing computes for long.
pub fn one_thread() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

/// One process at a time works with a state directory. Without a directory there is nothing to guard against.
pub fn hold_state(config: &Config) -> anyhow::Result<Option<File>> {
    let path = config.state.join("lock");
    let file = match File::options().create(true).truncate(false).write(true).open(&path) {
        Ok(file) => file,
        Err(why) => {
            tracing::warn!("open {}: {why}", path.display());
            return Ok(None);
        }
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!(
            "lock {}: another lifeline-agent works with {}",
            path.display(),
            config.state.display()
        )
    })?;
    Ok(Some(file))
}

/// Runs until it is told to stop.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    speak();
    // Journals and evidence hold what only root may read.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let runtime = one_thread()?;
    let ended = runtime.block_on(serve(path, config));
    // A thread that waits for a dead disk is not waited for.
    runtime.shutdown_timeout(GOODBYE);
    ended
}

/// To the journal with its fields under systemd, to stderr elsewhere; never both, or every line is there twice.
pub fn speak() {
    // `debug`, or `lifeline_agent::guard=trace,info`. The filter that knows spans, too, brings a regex engine's builder along.
    let wanted = std::env::var("LIFELINE_LOG").ok().filter(|w| !w.trim().is_empty());
    let parsed = wanted.as_deref().map(str::parse::<Targets>).transpose();
    let (filter, wrong) = match parsed {
        Ok(filter) => (filter, None),
        Err(why) => (None, Some(why)),
    };
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let registry = tracing_subscriber::registry().with(filter);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let journal = std::env::var_os("JOURNAL_STREAM")
        .and_then(|_| tracing_journald::layer().ok())
        .zip(Journald::here().ok())
        // Fields are named as they are to be found: MESSAGE_ID, LIFELINE_NODE.
        .map(|(journal, journald)| {
            let listens = dynamic_filter_fn(move |_, _| journald.listens());
            journal.with_field_prefix(None).with_filter(listens)
        });
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => registry.with(stderr).init(),
    }
    if let Some(why) = wrong {
        tracing::warn!(
            "read LIFELINE_LOG: {why}: info is told instead; try debug, or lifeline_agent=debug,info"
        );
    }
}

/// What the agent remembers.
struct Opened {
    store: Store,
    /// Held as long as the process lives.
    _alone: Option<File>,
    /// Not all of it could be read, or it could not be locked.
    badly: bool,
}

/// Opens the state directory. A disk that says no, or nothing at all, must not keep the guard from standing.
async fn open_state(config: &Config) -> anyhow::Result<Opened> {
    let ours = config.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let (store, trouble) = Store::open(&ours.state);
        if let Some(why) = &trouble {
            tracing::error!("{}", disk::said(&chain(why)));
        }
        hold_state(&ours).map(|_alone| Opened { badly: _alone.is_none(), store, _alone })
    });
    match tokio::time::timeout(DEADLINE, opening).await {
        Ok(opened) => opened.context("open the state directory")?,
        Err(_) => {
            let store = Store::unread(&config.state);
            store.fell_silent();
            Ok(Opened { store, _alone: None, badly: true })
        }
    }
}

async fn serve(path: &Path, config: Config) -> anyhow::Result<()> {
    let clock = Clock::read().context("read the boot id")?;
    let Opened { store, _alone, badly } = open_state(&config).await?;
    let store = Arc::new(store);
    let policy = Arc::new(config.policy.clone());
    let kernel = Kernel::open().context("open the kernel's routing")?;
    let places = Places {
        node: config.node.clone(),
        api: config.api.clone(),
        policy: config.policy.clone(),
        critical: store.baseline().map(|b| b.expected.clone()).unwrap_or_default(),
        ..Places::default()
    };
    let look = Look::new(kernel.clone(), places);
    let stand = if policy.mode == Mode::Observe { Stand::Lifeline } else { Stand::Guard };
    let order = Order {
        stand,
        base: store.baseline(),
        moved: false,
        forgiven: 0,
        marks: Vec::new(),
        drill: None,
    };
    // Before the first full look: a node that boots captured is guarded in milliseconds, by what it remembers.
    let guard =
        Guard::start(kernel.clone(), config.policy.clone(), order).context("start the guard")?;
    let paths = paths_of(path, &config);
    let node = Arc::new(Worker::new(look, guard, kernel.clone(), paths, &policy, store.baseline()));
    let sight = Arc::new(Sight::new(node.clone(), store.clone(), policy.clone(), clock.clone()));
    let first = sight.look().await;
    let name = config
        .node
        .clone()
        .or_else(|| Some(first.seen.cluster.node.clone()).filter(|n| !n.is_empty()));
    let name = plain(&name.unwrap_or_else(host_name));
    event::of_node(&name);
    let parts = Parts {
        node: node.clone(),
        sight: sight.clone(),
        store: store.clone(),
        policy: policy.clone(),
        clock: clock.clone(),
        name: name.clone(),
    };
    let (reading, when) = (store.clone(), clock.clone());
    let reading = tokio::task::spawn_blocking(move || reading.load_budget(&when));
    if tokio::time::timeout(DEADLINE, reading).await.is_err() {
        tracing::error!("read the budget: the disk does not answer; nothing is repaired alone");
    }
    let ours = store.clone();
    let runs = Runs::open(parts).await;
    runs.resume().await;

    let trust = Arc::new(ArcSwapOption::empty());
    let papers = Papers::new(config.tls.clone(), &config.cluster, &name, trust.clone());
    papers.read(&config.tls);
    let about =
        About { node: name, cluster: config.cluster.clone(), boot: clock.boot().to_string() };
    let service = Service {
        runs: runs.clone(),
        sight: sight.clone(),
        store: store.clone(),
        node: node.clone(),
        policy,
        trust: trust.clone(),
        papers: papers.clone(),
        about: Arc::new(about),
    };
    let stop = watch::Sender::new(false);
    let local = config.run.join("agent.sock");
    let listener =
        door::listen_locally(&local).with_context(|| format!("listen on {}", local.display()))?;
    let mut doors = vec![tokio::spawn({
        let (service, limits, stopped) = (service.clone(), config.limits.clone(), stopped(&stop));
        async move { said(answer(service, door::open_locally(listener), &limits, stopped).await) }
    })];
    let meter = config.run.join("metrics.sock");
    // Whoever counts is no reason not to guard.
    let listener = door::listen_locally(&meter)
        .inspect_err(|why| tracing::error!("listen on {}: {why}", meter.display()))
        .ok();
    let heralding = tokio::spawn(expiry::keep(trust.clone()));
    let telling = tokio::spawn(metrics::tell(listener, service.clone(), config.metrics.clone()));
    doors.push(tokio::spawn(open_door(
        config.clone(),
        service,
        sight.clone(),
        trust.clone(),
        stop.subscribe(),
    )));
    let pulse = Pulse::to_systemd().context("start the thread that tells systemd")?;
    pulse.tell(NotifyState::Ready);
    let verdict = first.diagnosis.verdict.to_string();
    let about = event::About { verdict: Some(&verdict), ..event::About::default() };
    let words =
        format!("lifeline-agent {} is ready: {}", lifeline_agent::VERSION, first.diagnosis.summary);
    event::tell(&event::READY, about, &words);

    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let hints = tokio::spawn({
        let (sight, unit) = (sight.clone(), config.policy.unit.clone());
        hints::listen(kernel.clone(), unit, move || sight.nudge())
    });
    let alone = Alone::new(runs.clone(), sight.clone(), ours, config.policy.clone().into());
    let alone = tokio::spawn(alone.keep());
    let trying = tokio::spawn(store.clone().keep_trying());
    let looking = sight.keep_looking(|| pulse.tell(NotifyState::Watchdog));
    tokio::pin!(looking);
    let mut troubles = store.troubles();
    // Without trouble at the start a new one would find nothing else.
    let badly = badly && store.trouble().is_some();
    loop {
        tokio::select! {
            () = &mut looking => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(path, &config, &papers),
            // What could not be read or locked at the start is not known until the next one; the guard stands meanwhile.
            Ok(_) = troubles.wait_for(Option::is_none), if badly => {
                tracing::info!("the agent starts anew, to read its state directory");
                break;
            }
        }
    }
    pulse.tell(NotifyState::Stopping);
    tracing::info!(
        "stopping: the present step is ended, and what is left is gone on with after the next start"
    );
    for task in [hints, alone, trying, heralding, telling] {
        task.abort();
    }
    node.end_drill("the agent stops").await;
    runs.leave().await;
    stop.send_replace(true);
    goodbye(doors).await;
    for socket in [local, meter] {
        if let Err(why) = std::fs::remove_file(&socket) {
            tracing::debug!("remove {}: {why}", socket.display());
        }
    }
    Ok(())
}

/// Where things are on this machine.
pub fn paths_of(path: &Path, config: &Config) -> Paths {
    let config_file = std::path::absolute(path).unwrap_or_else(|_| path.into());
    Paths {
        quarantine: config.state.join("quarantine"),
        locks: Locks { own: config.run.join("xtables.lock"), ..Paths::default().locks },
        outside: Outside { config: config_file, ..Outside::default() },
        ..Paths::default()
    }
}

/// Resolves when the daemon stops.
fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        // An error means that the daemon is gone, which is a stop too.
        let _gone = stop.wait_for(|s| *s).await.is_err();
    }
}

fn said(ended: Result<(), tonic::transport::Error>) {
    if let Err(why) = ended {
        tracing::error!("a door has closed: {}", chain(&why));
    }
}

/// Opens the door to the network as soon as there is an address to open it at.
async fn open_door(
    config: Config,
    service: Service<Worker>,
    sight: Arc<Sight<Worker>>,
    trust: Arc<ArcSwapOption<Trust>>,
    mut stop: watch::Receiver<bool>,
) {
    let at = match config.listen {
        Some(at) => at,
        None => {
            let mut latest = sight.latest();
            let known = |g: &Option<lifeline_agent::sight::Glance>| {
                g.as_ref().is_some_and(|g| g.seen.cluster.node_ip.is_some())
            };
            let Ok(glance) = latest.wait_for(known).await else { return };
            let Some(ip) = glance.as_ref().and_then(|g| g.seen.cluster.node_ip) else { return };
            SocketAddr::new(ip, PORT)
        }
    };
    let mut last = String::new();
    let listener = loop {
        match door::listen(at, config.policy.lifeline) {
            Ok(listener) => break listener,
            // Somebody else may hold the port for a while; the local socket is there meanwhile.
            Err(why) => {
                let why = why.to_string();
                if last != why {
                    tracing::error!("listen on {at}: {why}; trying on");
                    last = why;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            _ = stop.wait_for(|s| *s) => return,
        }
    };
    tracing::info!("listening on {at}");
    let guests = door::open(listener, trust, &config.limits);
    let stopped = async move {
        let _gone = stop.wait_for(|s| *s).await.is_err();
    };
    said(answer(service, guests, &config.limits, stopped).await);
}

/// Certificates and the list of denied ones are read again; everything else needs a restart, and says so.
fn reload(path: &Path, running: &Config, papers: &Papers) {
    match Config::load(path) {
        Ok(new) => {
            if papers.read(&new.tls) {
                tracing::info!("certificates read again");
            }
            if (Config { tls: running.tls.clone(), ..new }) != *running {
                tracing::warn!("only [tls] is read again while running: restart for the rest");
            }
        }
        Err(why) => tracing::error!("nothing is changed: {}", chain(&why)),
    }
}

async fn goodbye(doors: Vec<JoinHandle<()>>) {
    for door in doors {
        let abort = door.abort_handle();
        if tokio::time::timeout(GOODBYE, door).await.is_err() {
            abort.abort();
        }
    }
}

/// A name that is part of file names.
fn plain(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    name.trim_start_matches('.').chars().map(fit).take(63).collect()
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|n| n.into_string().ok())
        .map_or_else(|| "node".to_string(), |n| n.split('.').next().unwrap_or("node").to_string())
}
