//! Addresses and prefixes, as the kernel's routing knows them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order they are looked at.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits in an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// What is appended to a word of the text form: nothing, or `6`.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "6",
        }
    }
}

/// A network prefix; host bits are always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a network prefix: {text:?} is not ADDRESS or ADDRESS/LENGTH")]
pub struct BadPrefix {
    /// The text as it was given.
    pub text: String,
}

impl Prefix {
    /// Makes a prefix, clearing host bits and capping `len` at the family's length.
    pub fn new(addr: IpAddr, len: u8) -> Self {
        let len = len.min(Family::of(addr).bits());
        let addr = match addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4((a.to_bits() & mask).into())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6((a.to_bits() & mask).into())
            }
        };
        Self { addr, len }
    }

    /// The single address as a prefix.
    pub fn host(addr: IpAddr) -> Self {
        Self::new(addr, Family::of(addr).bits())
    }

    /// The whole family: `0.0.0.0/0` or `::/0`.
    pub fn all(family: Family) -> Self {
        match family {
            Family::V4 => Self { addr: IpAddr::from([0, 0, 0, 0]), len: 0 },
            Family::V6 => Self { addr: IpAddr::from([0u8; 16]), len: 0 },
        }
    }

    /// First address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length in bits.
    #[allow(clippy::len_without_is_empty, reason = "a prefix's length is not a container's")]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// True for `/0`.
    pub fn is_all(&self) -> bool {
        self.len == 0
    }

    /// True for `/32` and `/128`.
    pub fn is_host(&self) -> bool {
        self.len == self.family().bits()
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(self.addr)
    }

    /// Does the prefix hold this address?
    pub fn contains(&self, addr: IpAddr) -> bool {
        Family::of(addr) == self.family() && Self::new(addr, self.len) == *self
    }

    /// Does the prefix hold every address of `other`?
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// Do the two share an address?
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Addresses inside that are good to ask about, best first: the second, the third, the first; its own for a host.
    pub fn samples(&self) -> Vec<IpAddr> {
        if self.family().bits() - self.len < 2 {
            return [self.addr].into();
        }
        let plus = |n: u8| match self.addr {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() | u32::from(n)).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() | u128::from(n)).into()),
        };
        [plus(2), plus(3), plus(1)].into()
    }

    /// The prefix of the same length behind this one.
    pub fn next(&self) -> Option<Self> {
        let host = u32::from(self.family().bits() - self.len);
        let addr: IpAddr = match self.addr {
            IpAddr::V4(a) => IpAddr::V4(a.to_bits().checked_add(1u32.checked_shl(host)?)?.into()),
            IpAddr::V6(a) => IpAddr::V6(a.to_bits().checked_add(1u128.checked_shl(host)?)?.into()),
        };
        Some(Self { addr, len: self.len })
    }

    /// An address inside that is good to ask about: the prefix's second address, or its only one.
    pub fn sample(&self) -> IpAddr {
        if self.family().bits() - self.len < 2 {
            return self.addr;
        }
        match self.addr {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() | 2).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() | 2).into()),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            write!(f, "{}", self.addr)
        } else {
            write!(f, "{}/{}", self.addr, self.len)
        }
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let bad = || BadPrefix { text: text.to_string() };
        let (addr, len) = match text.split_once('/') {
            Some((a, l)) => (a, Some(l)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        let most = Family::of(addr).bits();
        let len = match len {
            Some(l) => l.parse::<u8>().ok().filter(|l| *l <= most).ok_or_else(bad)?,
            None => most,
        };
        Ok(Self::new(addr, len))
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}
