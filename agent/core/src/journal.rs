//! The journal's form: one JSON document a line behind its CRC-32, readable by people at 3 a.m.
//!
//! ```text
//! 1b2c3d4e {"seq":0,"stamp":{...},"event":{"event":"opened",...}}
//! ```
//!
//! Only the last line may be torn (a power cut in the middle of a write); a bad line anywhere else is damage, and the
//! run it tells of is stuck. Nothing here reads or writes a file.

use crate::engine::{Entry, Event};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a journal cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A line that is not the last does not match its checksum or is no entry.
    #[error("line {line} of the journal is damaged: {why}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Entries do not count up from 0.
    #[error("line {line} of the journal has number {found} where {wanted} belongs")]
    Order {
        /// From 1.
        line: usize,
        /// The number there.
        found: u64,
        /// The number that belongs there.
        wanted: u64,
    },
}

/// Entries of a journal file, and how many bytes of it are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<O: crate::op::Op> {
    /// The entries.
    pub entries: Vec<Entry<O>>,
    /// Length of the good part; behind it lies a torn line, or preallocated zeros.
    pub good: usize,
    /// A torn last line was left out.
    pub torn: bool,
}

/// Writes an entry as a line, newline included.
///
/// # Errors
/// When the entry cannot be written as JSON.
pub fn encode<O>(entry: &Entry<O>) -> Result<String, serde_json::Error>
where
    O: crate::op::Op + Serialize,
    O::Seen: Serialize,
{
    let json = serde_json::to_string(entry)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

/// Reads a journal file's bytes. Zeros at its end are preallocated space.
///
/// # Errors
/// When a line other than the last is damaged, or entries are out of order. A version this program does not know
/// reads as [`Event::Unknown`], which the engine answers with "stuck".
pub fn decode<O>(bytes: &[u8]) -> Result<Decoded<O>, Damage>
where
    O: crate::op::Op + DeserializeOwned,
    O::Seen: DeserializeOwned,
{
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let bytes = &bytes[..end];
    let mut entries: Vec<Entry<O>> = Vec::new();
    let (mut good, mut line) = (0, 0);
    while good < bytes.len() {
        line += 1;
        let rest = &bytes[good..];
        let Some(stop) = rest.iter().position(|b| *b == b'\n') else {
            return Ok(Decoded { entries, good, torn: true });
        };
        let last = good + stop + 1 == bytes.len();
        match parse(&rest[..stop]) {
            Ok(entry) => {
                let wanted = entries.len() as u64;
                if entry.seq != wanted {
                    return Err(Damage::Order { line, found: entry.seq, wanted });
                }
                entries.push(entry);
                good += stop + 1;
            }
            // A power cut may leave a whole last block of rubbish: the last line only.
            Err(_) if last => return Ok(Decoded { entries, good, torn: true }),
            Err(why) => return Err(Damage::Line { line, why }),
        }
    }
    Ok(Decoded { entries, good, torn: false })
}

fn parse<O>(line: &[u8]) -> Result<Entry<O>, &'static str>
where
    O: crate::op::Op + DeserializeOwned,
    O::Seen: DeserializeOwned,
{
    let text = core::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let (crc, json) = text.split_once(' ').ok_or("it has no checksum")?;
    let crc = u32::from_str_radix(crc, 16).map_err(|_| "its checksum is no number")?;
    if crc != crc32fast::hash(json.as_bytes()) {
        return Err("its checksum does not match");
    }
    // A line that is whole but that we do not understand was written by a newer version.
    match serde_json::from_str::<Entry<O>>(json) {
        Ok(entry) => Ok(entry),
        Err(_) => {
            let bare: Bare = serde_json::from_str(json).map_err(|_| "it is no entry")?;
            Ok(Entry { seq: bare.seq, stamp: bare.stamp, event: Event::Unknown })
        }
    }
}

#[derive(serde::Deserialize)]
struct Bare {
    seq: u64,
    #[serde(default)]
    stamp: crate::clock::Stamp,
}
