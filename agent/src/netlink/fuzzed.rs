//! What comes from the kernel, mutated: a message is read, or the whole answer is an error; none is passed over in silence.

use super::links::{addr_of, bare, destination};
use super::wire::{HEADER, Place, Raw, attributes, walk};
use super::{
    LinkNames, nftables, route_from, route_message, rule_from, rule_message, sockets, xfrm,
};
use crate::fuzz::Fuzz;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::hash::RandomState;

/// What `ip … save` writes in front of its messages.
const MAGIC: usize = 4;

/// Every message of a datagram, and whether it ended the answer.
fn messages(datagram: &[u8]) -> (Vec<(u16, Vec<u8>)>, Option<Place>) {
    let mut found = Vec::new();
    let place = walk("try", datagram, &mut |kind, message| {
        assert!(message.len() >= HEADER);
        found.push((kind, message.to_vec()));
        Ok(())
    });
    let bytes: usize = found.iter().map(|(_, m)| m.len()).sum();
    assert!(bytes <= datagram.len(), "more was handed over than came");
    for (_, message) in &found {
        let inside: usize = attributes(message, HEADER).map(|(_, value)| value.len() + 4).sum();
        assert!(inside <= message.len());
    }
    (found, place.ok())
}

/// The message that a message of ours becomes, read again.
fn again(inner: RouteNetlinkMessage) -> RouteNetlinkMessage {
    let mut message = NetlinkMessage::from(inner);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    match NetlinkMessage::deserialize(&bytes).unwrap().payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        other => panic!("{other:?}"),
    }
}

fn look_at(message: RouteNetlinkMessage) {
    let names: LinkNames = (0..9).map(|i| (i, format!("eth{i}"))).collect();
    match message {
        RouteNetlinkMessage::NewRule(message) => {
            let rule = rule_from(&message);
            if rule.exotic {
                return;
            }
            // What has no word of its own in a rule is exotic: any other is written as it was read.
            let RouteNetlinkMessage::NewRule(same) =
                again(RouteNetlinkMessage::NewRule(rule_message(&rule)))
            else {
                panic!("a rule became something else");
            };
            assert_eq!(rule_from(&same), rule);
        }
        RouteNetlinkMessage::NewRoute(message) => {
            let route = route_from(&message, &names);
            if let Ok(message) = route_message(&route, &names) {
                let same = again(RouteNetlinkMessage::NewRoute(message));
                assert!(matches!(same, RouteNetlinkMessage::NewRoute(_)));
            }
        }
        RouteNetlinkMessage::NewLink(message) => drop(bare(message)),
        RouteNetlinkMessage::NewAddress(message) => drop(addr_of(&message)),
        RouteNetlinkMessage::NewNeighbour(message) => drop(destination(&message)),
        _ => {}
    }
}

#[test]
fn a_dump_of_the_routing_is_read_message_by_message_or_refused() {
    let fuzz = Fuzz::new("routing").folder("tests/captures", |p| p.ends_with(".netlink"));
    fuzz.folder("tests/corpus/routing", |_| true).run(|bytes| {
        let (found, _) = messages(bytes.get(MAGIC..).unwrap_or_default());
        let state = RandomState::new();
        for (_, message) in found {
            let raw = Raw { what: "try", bytes: &message };
            assert_eq!(raw.mark(&state), raw.mark(&state));
            if let Ok(message) = raw.read() {
                look_at(message);
            }
        }
    });
}

#[test]
fn a_capture_of_the_routing_is_read_to_its_last_message() {
    // The property above would hold of a reader that refuses everything.
    let bytes = std::fs::read("tests/captures/04-exit-node-nft/route4.netlink").unwrap();
    let (found, place) = messages(&bytes[MAGIC..]);
    assert!(found.len() > 5 && place.is_some());
    for (_, message) in &found {
        assert!(Raw { what: "try", bytes: message }.read().is_ok());
    }
}

#[test]
fn sockets_are_read_or_the_answer_is_garbled() {
    Fuzz::new("sockets").folder("tests/corpus/sockets", |_| true).run(|bytes| {
        for (_, message) in messages(bytes).0 {
            // Too short to hold what every socket has is never "no socket".
            if message.len() < HEADER + 72 {
                assert!(!matches!(sockets::read(&message[HEADER..]), Some(Some(_))));
            }
            let _whole = sockets::read(&message[HEADER..]);
        }
    });
}

#[test]
fn ipsec_policies_are_read_or_the_answer_is_garbled() {
    Fuzz::new("xfrm").folder("tests/corpus/xfrm", |_| true).run(|bytes| {
        for (_, message) in messages(bytes).0 {
            let read = xfrm::read(&message[HEADER..]);
            assert!(message.len() >= HEADER + 168 || !matches!(read, Some(Some(_))), "{read:?}");
        }
    });
}

#[test]
fn a_table_of_nftables_has_a_name_or_the_answer_is_garbled() {
    Fuzz::new("nftables").folder("tests/corpus/nftables", |_| true).run(|bytes| {
        for (_, message) in messages(bytes).0 {
            assert!(nftables::name_of(&message).is_none_or(|name| !name.is_empty()));
            let _number = nftables::generation_of(&message);
        }
    });
}
