//! Everything that is ever asked of the provider: a closed list of methods and paths.
//!
//! There is no purchase, no cancellation, no set-up and no free path among them, and no other way out to the network.

use crate::https::Ask;
use crate::secret::Secret;
use http::Method;
use serde_json::json;
use zeroize::Zeroizing;

/// What a machine is rebuilt as.
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// What is installed.
    pub template: u64,
    /// What is run afterwards.
    pub script: Option<u64>,
    /// Root's password; without one the provider draws one that nobody is told.
    pub password: Option<Secret>,
}

/// One question or wish.
#[derive(Clone, Debug)]
pub enum Call {
    /// Every machine of the account.
    Machines,
    /// One machine.
    Machine(u64),
    /// What was done to a machine, one page, newest first.
    Actions(u64, u32),
    /// One of these.
    Action(u64, u64),
    /// Stop a machine fully and start it.
    Restart(u64),
    /// Boot the rescue image.
    Rescue(u64, Secret),
    /// Boot the machine's own disk again.
    RescueEnd(u64),
    /// Wipe a machine and install it anew.
    Recreate(u64, Rebuild),
}

/// What the list above comes to; the test below holds the two together.
#[cfg(test)]
const SHAPES: [&str; 8] = [
    "GET /api/vps/v1/virtual-machines",
    "GET /api/vps/v1/virtual-machines/{id}",
    "GET /api/vps/v1/virtual-machines/{id}/actions",
    "GET /api/vps/v1/virtual-machines/{id}/actions/{id}",
    "POST /api/vps/v1/virtual-machines/{id}/restart",
    "POST /api/vps/v1/virtual-machines/{id}/recovery",
    "DELETE /api/vps/v1/virtual-machines/{id}/recovery",
    "POST /api/vps/v1/virtual-machines/{id}/recreate",
];

impl Ask for Call {
    fn method(&self) -> Method {
        match self {
            Self::Machines | Self::Machine(_) | Self::Actions(..) | Self::Action(..) => Method::GET,
            Self::Restart(_) | Self::Rescue(..) | Self::Recreate(..) => Method::POST,
            Self::RescueEnd(_) => Method::DELETE,
        }
    }

    fn path(&self) -> String {
        let vm = |id: &u64| format!("/api/vps/v1/virtual-machines/{id}");
        match self {
            Self::Machines => "/api/vps/v1/virtual-machines".to_owned(),
            Self::Machine(id) => vm(id),
            Self::Actions(id, 1) => format!("{}/actions", vm(id)),
            Self::Actions(id, page) => format!("{}/actions?page={page}", vm(id)),
            Self::Action(id, action) => format!("{}/actions/{action}", vm(id)),
            Self::Restart(id) => format!("{}/restart", vm(id)),
            Self::Rescue(id, _) | Self::RescueEnd(id) => format!("{}/recovery", vm(id)),
            Self::Recreate(id, _) => format!("{}/recreate", vm(id)),
        }
    }

    fn body(&self) -> Option<Zeroizing<String>> {
        let body = match self {
            Self::Rescue(_, password) => json!({ "root_password": password.expose() }),
            Self::Recreate(_, rebuild) => {
                let mut body = json!({ "template_id": rebuild.template });
                if let Some(script) = rebuild.script {
                    body["post_install_script_id"] = script.into();
                }
                if let Some(password) = &rebuild.password {
                    body["password"] = password.expose().into();
                }
                body
            }
            _ => return None,
        };
        Some(Zeroizing::new(body.to_string()))
    }
}

impl Call {
    /// Does it change anything?
    pub fn acts(&self) -> bool {
        self.method() != Method::GET
    }

    /// What is asked, for people.
    pub fn what(&self) -> String {
        match self {
            Self::Machines => "for its machines".to_owned(),
            Self::Machine(id) => format!("for machine {id}"),
            Self::Actions(id, _) => format!("what was done to machine {id}"),
            Self::Action(id, action) => format!("for action {action} of machine {id}"),
            Self::Restart(id) => format!("to restart machine {id}"),
            Self::Rescue(id, _) => format!("to boot machine {id} into its rescue system"),
            Self::RescueEnd(id) => format!("to end the rescue of machine {id}"),
            Self::Recreate(id, _) => format!("to wipe and rebuild machine {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_these_shapes_can_be_asked() {
        let all = [
            Call::Machines,
            Call::Machine(17923),
            Call::Actions(17923, 2),
            Call::Action(17923, 8_123_712),
            Call::Restart(17923),
            Call::Rescue(17923, Secret::new("x".into())),
            Call::RescueEnd(17923),
            Call::Recreate(17923, Rebuild { template: 1, script: None, password: None }),
        ];
        let shape = |c: &Call| {
            let path = c.path();
            let path = path.split('?').next().unwrap_or_default();
            let part =
                |p: &str| if p.parse::<u64>().is_ok() { "{id}".to_owned() } else { p.to_owned() };
            format!("{} {}", c.method(), path.split('/').map(part).collect::<Vec<_>>().join("/"))
        };
        assert_eq!(all.each_ref().map(shape), SHAPES);
        assert_eq!(all.iter().filter(|c| c.acts()).count(), 4);
        // A machine is bought by a POST to the list itself, and cancelled under `billing`.
        assert!(!SHAPES.contains(&"POST /api/vps/v1/virtual-machines"));
        assert!(!SHAPES.iter().any(|s| s.contains("billing") || s.contains("setup")));
    }
}
