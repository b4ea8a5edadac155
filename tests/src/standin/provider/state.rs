//! Machines, actions, and what was asked.

use crate::standin::outside::Told;
use crate::standin::trouble::Trouble;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// Does to a machine what an action says: `restart`, `recovery`, `recovery-end`, `recreate`. It may take its time.
pub type Hand = Arc<dyn Fn(&str, &Machine) -> Result<(), String> + Send + Sync>;

/// A rented machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub id: u64,
    pub hostname: String,
    pub ipv4: Vec<String>,
    pub state: String,
    pub locked: bool,
}

impl Machine {
    #[must_use]
    pub fn running(id: u64, hostname: &str, ipv4: &str) -> Self {
        Self {
            id,
            hostname: hostname.to_owned(),
            ipv4: vec![ipv4.to_owned()],
            state: "running".to_owned(),
            locked: false,
        }
    }

    /// As published, with the fields a client may meet and need not know.
    pub(super) fn document(&self) -> Value {
        let address =
            |(i, a): (usize, &String)| json!({"id": 52347 + i, "address": a, "ptr": null});
        json!({
            "id": self.id, "firewall_group_id": null, "subscription_id": "Azz353Uhl1xC54pR0", "data_center_id": 521,
            "plan": "KVM 4", "hostname": self.hostname, "state": self.state,
            "actions_lock": if self.locked { "locked" } else { "unlocked" },
            "cpus": 4, "memory": 8192, "disk": 51200, "bandwidth": 1_073_741_824, "ns1": "1.1.1.1", "ns2": null,
            "ipv4": if self.ipv4.is_empty() { Value::Null } else { self.ipv4.iter().enumerate().map(address).collect() },
            "ipv6": null, "template": {"id": 1121, "name": "Debian 12", "description": "Debian 12"},
            "created_at": "2024-09-05T07:25:36.00000Z"
        })
    }
}

#[derive(Debug)]
pub(super) struct Action {
    pub id: u64,
    pub machine: u64,
    pub name: String,
    pub state: String,
    pub since: String,
}

impl Action {
    pub(super) fn document(&self) -> Value {
        json!({"id": self.id, "name": self.name, "state": self.state, "created_at": self.since, "updated_at": now()})
    }
}

pub(super) struct State {
    pub token: String,
    pub machines: Vec<Machine>,
    pub actions: Vec<Action>,
    pub troubles: VecDeque<Trouble>,
    pub asked: Vec<Told>,
    pub lies: bool,
    pub fails: bool,
    pub hand: Hand,
    next: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State of {} machines", self.machines.len())
    }
}

impl State {
    pub(super) fn new(token: &str, machines: Vec<Machine>, hand: Hand) -> Self {
        Self {
            token: token.to_owned(),
            machines,
            actions: Vec::new(),
            troubles: VecDeque::new(),
            asked: Vec::new(),
            lies: false,
            fails: false,
            hand,
            next: 8_123_712,
        }
    }

    pub(super) fn begin(&mut self, machine: u64, name: &str, state: &str) -> u64 {
        let id = self.next;
        self.next += 1;
        let (name, state) = (name.to_owned(), state.to_owned());
        self.actions.push(Action { id, machine, name, state, since: now() });
        id
    }

    pub(super) fn set(&mut self, action: u64, state: &str) {
        if let Some(found) = self.actions.iter_mut().find(|a| a.id == action) {
            state.clone_into(&mut found.state);
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
