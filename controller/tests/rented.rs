//! A rented calypso: the provider's stand-in over real TLS, an agent whose boot changes when the machine is restarted,
//! and the operator's desk beside them.

use crate::agent::StandIn;
use crate::desk::{Desk, Ran};
use lifeline_lab::standin::provider::{Machine, Provider};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// The token, which must never be seen.
pub const TOKEN: &str = "canary-Tok3n-5d1c9e7ab2";
/// The machine that is calypso.
pub const CALYPSO: u64 = 17923;

pub struct Rented {
    pub desk: Desk,
    pub provider: Provider,
    pub agent: Arc<StandIn>,
}

impl Rented {
    /// A restart takes this long, and then the agent speaks of another boot.
    pub async fn new(takes: Duration) -> Self {
        let desk = Desk::new().await;
        let (at, agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
        let seen = Arc::clone(&agent);
        let hand = move |what: &str, _: &Machine| {
            std::thread::sleep(takes);
            if what != "recovery" {
                let next = format!("{}'", seen.state().boot);
                seen.state().boot = next;
            }
            Ok(())
        };
        let machines = vec![
            Machine::running(CALYPSO, "srv17923.hstgr.cloud", "203.0.113.20"),
            Machine::running(17900, "srv17900.hstgr.cloud", "203.0.113.10"),
        ];
        let provider = Provider::new(TOKEN, machines, Arc::new(hand));
        // What a server's certificate is made of, is the same for an agent and for a provider.
        desk.pki(&[
            "agent",
            "provider",
            "--address",
            "127.0.0.1",
            "--dir",
            "pki",
            "--out",
            "provider",
        ])
        .await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = provider
            .serve(listener, &desk.path("provider/agent.crt"), &desk.path("provider/agent.key"))
            .unwrap();
        desk.configure(&[at]);
        let config = desk.read("ctl.toml");
        desk.write(
            "ctl.toml",
            &format!(
                "{config}role = \"worker\"\nvps = {{ hostname = \"srv17923.hstgr.cloud\", ipv4 = \"203.0.113.20\" }}\n\
                 [provider]\ntoken = \"file:token\"\napi = \"https://{api}\"\nca = \"pki/ca.crt\"\ntimeout = \"1s\"\n"
            ),
        );
        desk.write("token", &format!("{TOKEN}\n"));
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(desk.path("token"), std::fs::Permissions::from_mode(0o600))
            .unwrap();
        Self { desk, provider, agent }
    }

    /// Another line in the configuration, in place of one.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let config = self.desk.read("ctl.toml");
        assert!(config.contains(from), "{from:?} is not in:\n{config}");
        self.desk.write("ctl.toml", &config.replace(from, to));
    }

    /// Runs `ctl vps …`; whatever comes of it, the token is nowhere in it and nothing was asked that may not be.
    pub async fn vps(&self, args: &[&str]) -> Ran {
        let mut all = vec!["vps"];
        all.extend(args);
        let ran = self.desk.ctl(&all).await;
        assert!(!format!("{ran:?}").contains(TOKEN), "{ran:#?}");
        self.asked_nothing_else();
        ran
    }

    /// Restarts calypso, agreed to beforehand.
    pub async fn restart(&self) -> Ran {
        self.vps(&["restart", "calypso", "--yes", "--limit", "30s", "-o", "json"]).await
    }

    /// The journal of what was asked for.
    pub fn diary(&self) -> String {
        self.desk.read(".local/state/lifeline/lab/vps-calypso.jsonl")
    }

    /// Of all that can be asked for with money or without, only this.
    pub fn asked_nothing_else(&self) {
        let root = "/api/vps/v1/virtual-machines";
        for told in self.provider.asked() {
            let rest: Vec<String> = told
                .line
                .replace(root, "")
                .split([' ', '/'])
                .filter(|p| !p.is_empty())
                .map(|p| if p.parse::<u64>().is_ok() { "N".into() } else { p.to_owned() })
                .collect();
            let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
            let allowed: [&[&str]; 8] = [
                &["GET"],
                &["GET", "N"],
                &["GET", "N", "actions"],
                &["GET", "N", "actions", "N"],
                &["POST", "N", "restart"],
                &["POST", "N", "recovery"],
                &["DELETE", "N", "recovery"],
                &["POST", "N", "recreate"],
            ];
            assert!(told.line.contains(root) && allowed.contains(&rest.as_slice()), "{told:?}");
        }
    }
}
