//! The preferences of a tailscaled: what they are, how a PATCH changes them, where they are kept.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The part of `ipn.Prefs` that decides about routing, under its names on the wire (`ipn/prefs.go`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Prefs {
    /// Accept the subnets that peers advertise.
    pub route_all: bool,
    /// The peer that carries everything, by stable node id.
    #[serde(rename = "ExitNodeID")]
    pub exit_node_id: String,
    /// The same by address, until the daemon has resolved it to an id.
    #[serde(rename = "ExitNodeIP")]
    pub exit_node_ip: String,
    /// Leave the local networks where they are while an exit node is in use.
    #[serde(rename = "ExitNodeAllowLANAccess")]
    pub exit_node_allow_lan_access: bool,
    /// Accept the tailnet's DNS configuration.
    #[serde(rename = "CorpDNS")]
    pub corp_dns: bool,
    /// Whether the tunnel is wanted at all.
    pub want_running: bool,
    /// The name of this node in the tailnet.
    pub hostname: String,
}

/// A PATCH that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum BadPatch {
    /// The body is no JSON object.
    #[error("read masked preferences: not a JSON object")]
    NotAnObject,
    /// A field has a value of the wrong kind.
    #[error("apply masked preferences")]
    Value(#[source] serde_json::Error),
}

impl Prefs {
    /// Whether traffic for everywhere is to go through a peer.
    #[must_use]
    pub fn uses_exit_node(&self) -> bool {
        !self.exit_node_id.is_empty() || !self.exit_node_ip.is_empty()
    }

    /// Applies `ipn.MaskedPrefs`: a field changes only if its `…Set` companion is true, and then also to its zero value.
    pub fn merge(&self, masked: &Value) -> Result<Self, BadPatch> {
        let masked = masked.as_object().ok_or(BadPatch::NotAnObject)?;
        let zero = serde_json::to_value(Self::default()).map_err(BadPatch::Value)?;
        let mut now = serde_json::to_value(self).map_err(BadPatch::Value)?;
        for (field, value) in now.as_object_mut().into_iter().flatten() {
            if masked.get(&format!("{field}Set")) == Some(&Value::Bool(true)) {
                *value = masked.get(field).unwrap_or_else(|| &zero[field]).clone();
            }
        }
        serde_json::from_value(now).map_err(BadPatch::Value)
    }

    /// Reads what an earlier run kept; `None` when there was none.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(kept) => serde_json::from_slice(&kept).map(Some).map_err(io::Error::other),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Keeps the preferences for the next run.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, serde_json::to_vec_pretty(self).map_err(io::Error::other)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exit_node() -> Prefs {
        Prefs {
            exit_node_id: "nEXIT".into(),
            exit_node_allow_lan_access: true,
            route_all: true,
            want_running: true,
            ..Prefs::default()
        }
    }

    #[test]
    fn only_fields_marked_as_set_change() {
        let after = exit_node()
            .merge(&json!({"ExitNodeID": "", "ExitNodeIDSet": true, "RouteAll": false}))
            .unwrap();
        assert_eq!(after, Prefs { exit_node_id: String::new(), ..exit_node() });
        assert!(!after.uses_exit_node());
    }

    #[test]
    fn a_set_field_without_a_value_becomes_its_zero() {
        let after =
            exit_node().merge(&json!({"ExitNodeIDSet": true, "RouteAllSet": true})).unwrap();
        assert_eq!(after, Prefs { exit_node_id: String::new(), route_all: false, ..exit_node() });
    }

    #[test]
    fn fields_this_stand_in_does_not_know_are_ignored() {
        let patch = json!({"ShieldsUp": true, "ShieldsUpSet": true, "EggSet": true});
        assert_eq!(exit_node().merge(&patch).unwrap(), exit_node());
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused() {
        assert!(exit_node().merge(&json!({"RouteAll": "yes", "RouteAllSet": true})).is_err());
        assert!(exit_node().merge(&json!(["ExitNodeIDSet"])).is_err());
    }

    #[test]
    fn names_on_the_wire_are_those_of_the_original() {
        let wire = serde_json::to_value(exit_node()).unwrap();
        for field in [
            "RouteAll",
            "ExitNodeID",
            "ExitNodeIP",
            "ExitNodeAllowLANAccess",
            "CorpDNS",
            "WantRunning",
        ] {
            assert!(wire.get(field).is_some(), "{field} is missing: {wire}");
        }
    }

    #[test]
    fn what_is_saved_is_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deeper/tailscaled.state");
        assert_eq!(Prefs::load(&file).unwrap(), None);
        exit_node().save(&file).unwrap();
        assert_eq!(Prefs::load(&file).unwrap(), Some(exit_node()));
    }
}
