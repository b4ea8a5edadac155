//! Reads sockets, and what the kernel and the machines that were called answered.

use super::super::TABLES;
use super::super::words::{Result, Words};
use super::{number, unknown};
use crate::observation::{Fate, Probe, Reach, Socket, Through};
use alloc::format;
use alloc::string::ToString;

pub(super) fn socket(w: &mut Words<'_>) -> Result<Socket> {
    let (state, src, dst) = (w.word()?, w.value("ADDRESS:PORT")?, w.value("ADDRESS:PORT")?);
    let mut mark = 0;
    if w.take("mark") {
        let word = w.word()?;
        mark = number(&word).ok_or_else(|| format!("{word:?} is no mark"))?;
    }
    Ok(Socket { state, src, dst, mark })
}

pub(super) fn through(w: &mut Words<'_>) -> Result<Through> {
    match w.word()?.as_str() {
        "plain" => Ok(Through::Plain),
        "see-through" => Ok(Through::SeeThrough),
        "lifeline" => Ok(Through::Lifeline),
        other => Err(format!("{other:?} is none of plain, see-through, lifeline")),
    }
}

pub(super) fn fate(w: &mut Words<'_>) -> Result<Fate> {
    if w.take("local") {
        return Ok(Fate::Local);
    }
    if w.take("refused") {
        return Ok(Fate::Refused(w.value("errno")?));
    }
    if !w.take("dev") {
        return Err("what became of it is missing: dev DEVICE, local or refused ERRNO".to_string());
    }
    let (dev, mut via, mut table, mut src) = (w.word()?, None, 0, None);
    while let Some(key) = w.key() {
        match key {
            "via" => via = Some(w.value("address")?),
            "table" => table = w.named(&TABLES, "table")?,
            "src" => src = Some(w.value("address")?),
            other => return Err(unknown(other)),
        }
    }
    Ok(Fate::Leaves { dev, via, table, src })
}

pub(super) fn probe(w: &mut Words<'_>) -> Result<Probe> {
    let (name, dst, through) = (w.word()?, w.value("address")?, through(w)?);
    let reach = match w.word()?.as_str() {
        "tls" => Reach::Tls,
        "stranger" => Reach::Stranger,
        "tcp-only" => Reach::TcpOnly,
        "echo" => Reach::Echo,
        "refused" => Reach::Refused,
        "silent" => Reach::Silent,
        "unsent" => Reach::Unsent(w.value("errno")?),
        other => return Err(unknown(other)),
    };
    let src = if w.take("src") { Some(w.value("address")?) } else { None };
    Ok(Probe { name, dst, through, reach, src })
}
