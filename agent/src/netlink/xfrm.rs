//! IPsec policies through `NETLINK_XFRM`, as `ip xfrm policy` sees them.

use super::wire::{HEADER, attributes, converse};
use super::{Kernel, LIMIT, NetlinkError};
use lifeline_core::net::{Family, Prefix};
use lifeline_core::observation::{Direction, XfrmPolicy};
use std::net::IpAddr;
use tokio::time::timeout;

/// `NETLINK_XFRM` of `linux/netlink.h`.
const NETLINK_XFRM: isize = 6;
/// `XFRM_MSG_GETPOLICY` of `linux/xfrm.h`.
const GETPOLICY: u16 = 0x15;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `xfrm_userpolicy_id`: a selector, an index, a direction.
const REQUEST: usize = 64;
/// `xfrm_selector`.
const SELECTOR: usize = 56;
/// `xfrm_userpolicy_info`: the selector, 64 bytes of limits, 32 of counters, then priority, index, direction, action.
const PRIORITY: usize = SELECTOR + 96;
const DIR: usize = PRIORITY + 8;
const INFO: usize = 168;
/// `XFRMA_TMPL`, `XFRMA_POLICY_TYPE`, `XFRMA_MARK`, `XFRMA_IF_ID`.
const TMPL: u16 = 5;
const MARK: u16 = 21;
const IF_ID: u16 = 31;
const AF_INET6: u16 = 10;
/// A kernel without IPsec has no such protocol; nothing is hidden then.
const EPROTONOSUPPORT: i32 = 93;

impl Kernel {
    /// All IPsec policies but those of single sockets.
    ///
    /// # Errors
    /// When they could not be read to the end.
    pub async fn xfrm_policies(&self) -> Result<Vec<XfrmPolicy>, NetlinkError> {
        let what = "read IPsec policies";
        let mut all = Vec::new();
        let mut garbled = false;
        let call = converse(what, NETLINK_XFRM, GETPOLICY, DUMP, &[0; REQUEST], |_, message| {
            match message.get(HEADER..).map(read) {
                Some(Some(policy)) => all.extend(policy),
                Some(None) | None => garbled = true,
            }
            Ok(())
        });
        match timeout(LIMIT, call).await {
            Err(_) => Err(NetlinkError::Late { what: what.to_owned() }),
            Ok(Err(NetlinkError::Open { source }))
                if source.raw_os_error() == Some(EPROTONOSUPPORT) =>
            {
                Ok(Vec::new())
            }
            Ok(Err(e)) => Err(e),
            Ok(Ok(())) if garbled => Err(NetlinkError::Garbled { what: what.to_owned() }),
            Ok(Ok(())) => Ok(all),
        }
    }
}

/// One `xfrm_userpolicy_info`; an inner `None` for a policy of a single socket, which is no matter of ours.
pub(super) fn read(message: &[u8]) -> Option<Option<XfrmPolicy>> {
    let byte = |at: usize| message.get(at).copied();
    let native = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
    let port = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
    // `daddr`, `saddr`, `dport`, `dport_mask`, `sport`, `sport_mask`, `family`, `prefixlen_d`, `prefixlen_s`, `proto`, device, user.
    let six = u16::from_ne_bytes([byte(40)?, byte(41)?]) == AF_INET6;
    let addr = |at: usize| -> Option<IpAddr> {
        if six {
            Some(IpAddr::from(<[u8; 16]>::try_from(message.get(at..at + 16)?).ok()?))
        } else {
            Some(IpAddr::from(<[u8; 4]>::try_from(message.get(at..at + 4)?).ok()?))
        }
    };
    let dir = match byte(DIR)? {
        0 => Direction::In,
        1 => Direction::Out,
        2 => Direction::Forward,
        _ => return Some(None),
    };
    let ranged = |at: usize| Some(!matches!(port(at)?, 0 | u16::MAX));
    let has = |kind: u16| {
        attributes(message, INFO).any(|(k, v)| k == kind && v.iter().any(|byte| *byte != 0))
    };
    Some(Some(XfrmPolicy {
        family: if six { Family::V6 } else { Family::V4 },
        dir,
        src: Prefix::new(addr(16)?, byte(43)?),
        dst: Prefix::new(addr(0)?, byte(42)?),
        ipproto: byte(44)?,
        sport: port(36)?,
        dport: port(32)?,
        priority: native(PRIORITY)?,
        block: byte(DIR + 1)? == 1,
        transform: has(TMPL),
        exotic: ranged(34)?
            || ranged(38)?
            || native(48)? != 0
            || native(52)? != 0
            || has(MARK)
            || has(IF_ID),
    }))
}
