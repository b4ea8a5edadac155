//! Many agents in one process, for whoever measures a controller against them: the real doors, service and judgement over a healthy
//! node of the golden cases each.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on must stop")]

mod call;
mod stage;

use lifeline_agent::clock::Clock;
use lifeline_agent::config::Tls;
use stage::Stage;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

/// A folder with a folder for each agent: its certificate, key and authority as `ctl pki agent` makes them, and its `address`; and a
/// file `silent` of addresses where connections are taken and nobody serves.
const FLEET: &str = "LIFELINE_FLEET";

fn tls(dir: &Path) -> Tls {
    Tls {
        ca: dir.join("ca.crt"),
        cert: dir.join("agent.crt"),
        key: dir.join("agent.key"),
        denied_serials: Vec::new(),
        denied: dir.join("denied"),
    }
}

#[test]
#[ignore = "it serves for ever, for `cargo lab bench T12`"]
fn serves_a_fleet_until_it_is_killed() {
    let Some(fleet) = std::env::var_os(FLEET) else { return };
    let clock = Clock::read().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let silent = std::fs::read_to_string(Path::new(&fleet).join("silent")).unwrap();
        let _open: Vec<_> = silent.lines().map(|at| TcpListener::bind(at).unwrap()).collect();
        let mut agents = 0;
        for entry in std::fs::read_dir(fleet).unwrap() {
            let dir = entry.unwrap().path();
            let Ok(address) = std::fs::read_to_string(dir.join("address")) else { continue };
            let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
            let stage = Arc::new(Stage::of("healthy", &clock));
            let (at, tls) = (address.trim().parse().unwrap(), tls(&dir));
            call::serve(at, &name, "fleet", &tls, &stage, &dir).await;
            agents += 1;
        }
        eprintln!("{agents} agents serve");
        std::future::pending::<()>().await;
    });
}
