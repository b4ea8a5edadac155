//! Restarting a unit, against a stand-in for systemd on a bus of its own: it answers what systemd would, and can hang.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must stop"
)]

use futures_util::StreamExt;
use lifeline_agent::act::unit;
use lifeline_core::op::Seen;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zbus::connection::Builder;
use zbus::{Connection, MessageStream};

/// A `dbus-daemon` that anybody may own names on.
struct Bus {
    daemon: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Bus {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:dir={}</listen><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            dir.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is installed");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().to_owned(), _dir: dir }
    }

    async fn connect(&self) -> Connection {
        Builder::address(self.address.as_str()).build().await.unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
        let _gone = self.daemon.wait();
    }
}

/// What the unit does when it is told to restart.
#[derive(Clone, Copy)]
enum Manner {
    /// Starts, and never says it is ready: k3s-agent without an API server.
    Activates,
    /// Takes a while to stop, then starts.
    StopsSlowly,
    /// Nothing.
    Hangs,
    /// Is masked.
    Refuses,
    /// Fails at once.
    Fails,
}

struct State {
    invocation: u8,
    active: &'static str,
    asked: Option<Instant>,
    restarts: u32,
}

impl State {
    fn pass_time(&mut self, manner: Manner) {
        let Some(asked) = self.asked else { return };
        let passed = asked.elapsed();
        match manner {
            Manner::Activates if passed > Duration::from_millis(200) => {
                (self.invocation, self.active) = (2, "activating");
            }
            Manner::StopsSlowly if passed > Duration::from_secs(6) => {
                (self.invocation, self.active) = (2, "active");
            }
            Manner::StopsSlowly => self.active = "deactivating",
            Manner::Fails if passed > Duration::from_millis(200) => {
                (self.invocation, self.active) = (2, "failed");
            }
            _ => {}
        }
    }
}

/// Answers as systemd's manager and its one unit.
async fn systemd(bus: &Bus, manner: Manner) -> Arc<Mutex<State>> {
    let state =
        Arc::new(Mutex::new(State { invocation: 1, active: "active", asked: None, restarts: 0 }));
    let connection = bus.connect().await;
    connection.request_name("org.freedesktop.systemd1").await.unwrap();
    let shared = Arc::clone(&state);
    tokio::spawn(async move {
        let mut calls = MessageStream::from(&connection);
        while let Some(Ok(call)) = calls.next().await {
            let header = call.header();
            let path = zbus::ObjectPath::try_from("/unit").unwrap();
            let member = header.member().map(|m| m.to_string()).unwrap_or_default();
            match member.as_str() {
                "LoadUnit" => connection.reply(&header, &path).await.unwrap(),
                "RestartUnit" if matches!(manner, Manner::Refuses) => {
                    let name = "org.freedesktop.systemd1.UnitMasked";
                    connection
                        .reply_error(&header, name, &"Unit k3s-agent.service is masked.")
                        .await
                        .unwrap();
                }
                "RestartUnit" => {
                    let (_, mode): (String, String) = call.body().deserialize().unwrap();
                    assert_eq!(mode, "replace");
                    {
                        let mut s = shared.lock().unwrap();
                        s.asked = Some(Instant::now());
                        s.restarts += 1;
                    }
                    connection.reply(&header, &path).await.unwrap();
                }
                "Get" => {
                    let (_, property): (String, String) = call.body().deserialize().unwrap();
                    let value = {
                        let mut s = shared.lock().unwrap();
                        s.pass_time(manner);
                        match property.as_str() {
                            "InvocationID" => zbus::Variant::from(vec![s.invocation; 16]),
                            "ActiveState" => zbus::Variant::from(s.active),
                            _ => zbus::Variant::from("loaded"),
                        }
                    };
                    connection.reply(&header, &value).await.unwrap();
                }
                "GetAll" => connection
                    .reply(&header, &HashMap::<String, zbus::Variant<'_>>::new())
                    .await
                    .unwrap(),
                _ => {}
            }
        }
    });
    state
}

const UNIT: &str = "k3s-agent.service";

async fn restart(
    manner: Manner,
) -> (Result<(), lifeline_core::engine::Failure>, Duration, Arc<Mutex<State>>, Bus, Connection, Seen)
{
    let bus = Bus::start();
    let state = systemd(&bus, manner).await;
    let connection = bus.connect().await;
    let before = unit::look(&connection, UNIT).await.unwrap();
    assert_eq!(before, Seen::Unit { invocation: "01".repeat(16), active: "active".into() });
    let began = Instant::now();
    let done = unit::act(&connection, UNIT, &before).await;
    (done, began.elapsed(), state, bus, connection, before)
}

#[tokio::test]
async fn a_unit_that_never_gets_ready_counts_as_restarted_and_a_second_time_nothing_happens() {
    let (done, took, state, _bus, connection, before) = restart(Manner::Activates).await;
    done.unwrap();
    assert!(took < Duration::from_secs(3), "{took:?}");
    unit::act(&connection, UNIT, &before).await.unwrap();
    assert_eq!(state.lock().unwrap().restarts, 1);
    let now = unit::look(&connection, UNIT).await.unwrap();
    assert_eq!(now, Seen::Unit { invocation: "02".repeat(16), active: "activating".into() });
}

#[tokio::test]
async fn a_unit_that_takes_long_to_stop_is_waited_for() {
    let (done, took, ..) = restart(Manner::StopsSlowly).await;
    done.unwrap();
    assert!(took > Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_job_that_hangs_is_given_up_in_time() {
    let (done, took, ..) = restart(Manner::Hangs).await;
    let e = done.unwrap_err();
    assert!(e.retryable && e.why.contains("not started anew within 5s"), "{}", e.why);
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn a_masked_unit_and_one_that_fails_are_told_apart() {
    let e = restart(Manner::Refuses).await.0.unwrap_err();
    assert!(
        !e.retryable && e.why.contains("UnitMasked: Unit k3s-agent.service is masked."),
        "{}",
        e.why
    );
    let e = restart(Manner::Fails).await.0.unwrap_err();
    assert!(e.retryable && e.why.contains("started anew and failed at once"), "{}", e.why);
}

#[tokio::test]
async fn without_systemd_on_the_bus_it_is_told_and_not_waited_for() {
    let bus = Bus::start();
    let connection = bus.connect().await;
    let began = Instant::now();
    let why = unit::look(&connection, UNIT).await.unwrap_err();
    assert!(why.contains("org.freedesktop.DBus.Error.ServiceUnknown"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(4));
}
