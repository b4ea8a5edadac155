//! The provider's documents. None of its fields is promised, so every one may be missing, and unknown words are kept.

use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its number.
    pub id: Option<u64>,
    /// Its host name.
    pub hostname: Option<String>,
    /// `running`, `stopped`, `recovery` …
    pub state: Option<String>,
    /// `locked` while something is being done to it.
    pub actions_lock: Option<String>,
    /// Its plan.
    pub plan: Option<String>,
    /// Its addresses; `null` when it has none yet.
    pub ipv4: Option<Vec<Address>>,
    /// What is installed.
    pub template: Option<Template>,
}

/// An address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// The address.
    pub address: Option<String>,
}

/// What is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Template {
    /// Its number.
    pub id: Option<u64>,
    /// `Ubuntu 24.04 LTS`
    pub name: Option<String>,
}

/// Something that is, or was, done to a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Action {
    /// Its number; later ones are greater.
    pub id: Option<u64>,
    /// A word of the provider's.
    pub name: Option<String>,
    /// `created`, `sent`, `delayed`, `success`, `error`.
    pub state: Option<String>,
    /// When it was asked for.
    pub created_at: Option<String>,
    /// When it last changed.
    pub updated_at: Option<String>,
}

/// How far an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not done yet.
    Going,
    /// Done.
    Success,
    /// Failed.
    Error,
    /// A word we do not know.
    Unknown,
}

/// One page.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Page {
    /// Its actions.
    pub data: Option<Vec<Action>>,
    /// Where in the list it is.
    pub meta: Option<Meta>,
}

/// Where in a list a page is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Entries a page.
    pub per_page: Option<u64>,
    /// Entries in all.
    pub total: Option<u64>,
}

/// An error. The overview calls the text `error`, the schemas `message`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Complaint {
    message: Option<String>,
    error: Option<String>,
    errors: Option<serde_json::Map<String, serde_json::Value>>,
    correlation_id: Option<String>,
}

impl Complaint {
    /// Is it one at all?
    pub fn says_something(&self) -> bool {
        self.message.is_some() || self.error.is_some()
    }

    /// For people, with each field's own complaint and the number the provider's support wants.
    pub fn words(&self) -> String {
        let mut text = self.message.clone().or_else(|| self.error.clone()).unwrap_or_default();
        for (field, why) in self.errors.iter().flatten() {
            let why: Vec<&str> =
                why.as_array().into_iter().flatten().filter_map(|w| w.as_str()).collect();
            text = format!("{text}; {field}: {}", why.join(" "));
        }
        match &self.correlation_id {
            Some(id) => format!("{text} (its number: {id})"),
            None => text,
        }
    }
}

impl Machine {
    /// Its addresses, as far as they can be read.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let all = self.ipv4.iter().flatten();
        all.filter_map(|a| a.address.as_deref()?.parse().ok()).collect()
    }

    /// Its state, in the provider's word.
    pub fn state(&self) -> &str {
        self.state.as_deref().unwrap_or("of unknown state")
    }

    /// Is something being done to it? A lock that is not told is taken for one.
    pub fn locked(&self) -> bool {
        self.actions_lock.as_deref() != Some("unlocked")
    }

    /// In a line: `17923 srv17923.hstgr.cloud (203.0.113.20), running`.
    pub fn words(&self) -> String {
        let id = self.id.map_or_else(|| "?".to_owned(), |i| i.to_string());
        let name = self.hostname.as_deref().unwrap_or("without a name");
        let ips: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        let ips = if ips.is_empty() { "no address".to_owned() } else { ips.join(", ") };
        format!("{id} {name} ({ips}), {}", self.state())
    }
}

impl Action {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        match self.state.as_deref() {
            Some("created" | "sent" | "delayed") => Progress::Going,
            Some("success") => Progress::Success,
            Some("error") => Progress::Error,
            _ => Progress::Unknown,
        }
    }

    /// In a line: `8123712 (restart)`.
    pub fn words(&self) -> String {
        let id = self.id.map_or_else(|| "?".to_owned(), |i| i.to_string());
        format!("{id} ({})", self.name.as_deref().unwrap_or("without a name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example_is_read_and_missing_fields_are_no_error() {
        let text = r#"{"id":17923,"firewall_group_id":null,"subscription_id":"Azz353Uhl1xC54pR0","data_center_id":521,
            "plan":"KVM 4","hostname":"srv17923.hstgr.cloud","state":"running","actions_lock":"unlocked","cpus":4,
            "ipv4":[{"id":52347,"address":"213.331.273.15","ptr":null},{"id":1,"address":"203.0.113.20"}],"ipv6":null}"#;
        let m: Machine = serde_json::from_str(text).unwrap();
        // The published example is no address at all; it must not hide the one that is.
        assert_eq!(m.words(), "17923 srv17923.hstgr.cloud (203.0.113.20), running");
        assert!(!m.locked());
        let bare: Machine = serde_json::from_str(r#"{"ipv4":null,"state":"thawing"}"#).unwrap();
        assert_eq!(bare.words(), "? without a name (no address), thawing");
        assert!(bare.locked(), "a lock that is not told is taken for one");
    }

    #[test]
    fn both_spellings_of_an_error_are_understood() {
        let words = |t: &str| serde_json::from_str::<Complaint>(t).unwrap().words();
        assert_eq!(words(r#"{"error":"Unauthenticated"}"#), "Unauthenticated");
        assert_eq!(
            words(
                r#"{"message":"Bad.","errors":{"template_id":["It is required."]},"correlation_id":"26a9"}"#
            ),
            "Bad.; template_id: It is required. (its number: 26a9)"
        );
    }
}
