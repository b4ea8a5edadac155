//! What systemd's journal is told: every event with a message id that never changes, whatever its words, and with fields, so
//! that `journalctl MESSAGE_ID=…`, `journalctl LIFELINE_INCIDENT=calypso-7` and alerts find it. The message alone says it all.
//!
//! This is the table of message ids; `systemd/lifeline.catalog` tells it to `journalctl -x`, and a test keeps the two together.

use std::sync::OnceLock;

/// A kind of event.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// `MESSAGE_ID`: 128 random bits, chosen once.
    pub id: &'static str,
    /// A few words.
    pub name: &'static str,
    /// What it means, and which fields it has besides `LIFELINE_NODE`.
    pub says: &'static str,
}

/// The agent is ready.
pub static READY: Kind = Kind {
    id: "822bb6dc44b34a95980c246fd747577d",
    name: "The agent is ready",
    says: "It has looked once, goes on with what was cut off, and answers ctl. Fields: LIFELINE_VERDICT.",
};
/// The verdict on the node is another one.
pub static VERDICT: Kind = Kind {
    id: "ce269a532d794263b072cc11335fc58d",
    name: "The node is judged otherwise than before",
    says: "Fields: LIFELINE_VERDICT, and LIFELINE_FAULT with the first finding, if there is one.",
};
/// The guard stands.
pub static RAISED: Kind = Kind {
    id: "09411e08647c49de822070c8b1b52955",
    name: "The guard has been raised",
    says: "Something captures a critical destination; rules of ours keep the node's own path open.",
};
/// The guard has moved.
pub static RENEWED: Kind = Kind {
    id: "96e59e96608649c7bb3604a99caf2cd1",
    name: "The guard has been put back",
    says: "Somebody deleted a rule of the guard, or put one in front of it.",
};
/// The guard is gone.
pub static LOWERED: Kind = Kind {
    id: "c9e5fffb4ac24a758b48677f052e06c9",
    name: "The guard has been lowered",
    says: "What captured has been gone for long enough.",
};
/// The guard cannot stand.
pub static HELPLESS: Kind = Kind {
    id: "c688e474db4d49ad813300da045baa1d",
    name: "The guard cannot be placed",
    says: "There is no room in front of what captures, or the kernel refuses. A human should look.",
};
/// An incident has begun.
pub static OPENED: Kind = Kind {
    id: "6816fe8added46439b75582cc6e4991a",
    name: "An incident was opened",
    says: "Somebody asked for a repair, or the agent began one. Fields: LIFELINE_INCIDENT.",
};
/// An incident has ended.
pub static ENDED: Kind = Kind {
    id: "7e079527033b43b9a930ef63c339c2b6",
    name: "An incident has ended",
    says: "Fields: LIFELINE_INCIDENT, LIFELINE_ENDING (recovered, rolled-back, held, unwell, cancelled, void, stuck, ask).",
};
/// A rung is begun.
pub static RUN: Kind = Kind {
    id: "99111c7f2666404dad7e3274e09cbe54",
    name: "A run was opened",
    says: "One rung of an incident. Fields: LIFELINE_INCIDENT, LIFELINE_RUN, LIFELINE_RUNG, LIFELINE_FAULT.",
};
/// A rung has ended.
pub static RAN: Kind = Kind {
    id: "178db39df3e14c00a24c5182afe4369d",
    name: "A run has ended",
    says: "Fields: LIFELINE_INCIDENT, LIFELINE_RUN, LIFELINE_RUNG, LIFELINE_ENDING.",
};
/// The timer outside undoes.
pub static OVERDUE: Kind = Kind {
    id: "8f5695f442344c2e801b81e1aff06acf",
    name: "A run that nobody confirmed is undone by the timer",
    says: "The agent was dead or hung when the time to confirm was over. Fields: LIFELINE_RUN.",
};
/// Whom we believe, or how we show ourselves.
pub static TRUST: Kind = Kind {
    id: "348e9fecb230036d3a3cfcedfcd9d6bf",
    name: "An operator changed who is believed",
    says: "A certificate was denied, or the agent shows a new one of its own. The message says who asked.",
};
/// A certificate ends.
pub static EXPIRES: Kind = Kind {
    id: "311eace7fb0d4e9094c930cd5a446b05",
    name: "A certificate ends soon, or has ended",
    says: "Once a day from 14 days before the end of the agent's certificate or its authority's, and at once when 3 days are left. The message says which, and what to do.",
};

/// A repair is not made.
pub static HELD: Kind = Kind {
    id: "75d68895b9ed477398c43708ca69b038",
    name: "The agent would repair and does not",
    says: "Only the guard is kept. The message says why, for how long, and what an operator can do. Fields: LIFELINE_INCIDENT, if \
           one is under way.",
};
/// Nothing can be written down.
pub static DISK: Kind = Kind {
    id: "5242c0f7be394a04ab72b1a8c06a7090",
    name: "The state directory takes nothing",
    says: "What cannot be journalled is not repaired; the node is guarded all the same. It is tried again every ten seconds.",
};

/// All of them.
pub static ALL: [&Kind; 15] = [
    &READY, &VERDICT, &RAISED, &RENEWED, &LOWERED, &HELPLESS, &OPENED, &ENDED, &RUN, &RAN,
    &OVERDUE, &TRUST, &EXPIRES, &HELD, &DISK,
];

/// What an event is about; what is not known has no field.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// `calypso-7`.
    pub incident: Option<&'a str>,
    /// `calypso-7.1-quiet`.
    pub run: Option<&'a str>,
    /// `quiet`.
    pub rung: Option<&'a str>,
    /// A fault's id, or a finding's key.
    pub fault: Option<&'a str>,
    /// `Captured`.
    pub verdict: Option<&'a str>,
    /// `recovered`.
    pub ending: Option<&'a str>,
}

static NODE: OnceLock<String> = OnceLock::new();

/// Says of which node all events are, once it is known.
pub fn of_node(name: &str) {
    NODE.get_or_init(|| name.to_owned());
}

/// Tells one.
pub fn tell(kind: &Kind, about: About<'_>, message: &str) {
    let node = NODE.get().map(String::as_str);
    let About { incident, run, rung, fault, verdict, ending } = about;
    let bad = [&HELPLESS, &OVERDUE, &EXPIRES].contains(&kind) || ending == Some("stuck");
    macro_rules! say {
        ($at:ident) => {
            tracing::$at!(
                MESSAGE_ID = kind.id,
                LIFELINE_NODE = node,
                LIFELINE_INCIDENT = incident,
                LIFELINE_RUN = run,
                LIFELINE_RUNG = rung,
                LIFELINE_FAULT = fault,
                LIFELINE_VERDICT = verdict,
                LIFELINE_ENDING = ending,
                "{message}"
            )
        };
    }
    if *kind == HELD || *kind == DISK {
        say!(error);
    } else if bad {
        say!(warn);
    } else {
        say!(info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As journalctl(1) and systemd's catalog want it.
    fn catalog() -> String {
        let mut text = String::from(
            "# What Lifeline's agent tells the journal; for `journalctl -x`. Written by a test of agent/src/event.rs.\n",
        );
        for k in ALL {
            text += &format!(
                "\n-- {}\nSubject: {}\nDefined-By: Lifeline\n\n{}\n",
                k.id, k.name, k.says
            );
        }
        text
    }

    #[test]
    fn every_kind_has_an_id_of_its_own_and_the_catalog_tells_it() {
        let mut ids: Vec<&str> = ALL.iter().map(|k| k.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/lifeline.catalog");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, catalog()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), catalog(), "run again with UPDATE=1");
    }
}
