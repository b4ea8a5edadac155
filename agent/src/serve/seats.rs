//! Who sits where once a handshake is done: how many connections there are at all, how many of them one certificate may have, and
//! how somebody is told that there is no seat.

use crate::config::Limits;
use crate::roles::serial_of;
use crate::serve::conn::Seat;
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All seats.
#[derive(Debug)]
pub struct Seats {
    all: Arc<Semaphore>,
    viewers: Arc<Semaphore>,
    each: Each,
}

impl Seats {
    /// As many as the configuration has.
    pub fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            viewers: Arc::new(Semaphore::new(limits.connections - limits.reserved)),
            each: Each::new(limits.connections),
        }
    }

    /// A seat for who has shown this chain. Nobody gets more than a share, and some seats only operators get: neither one caller
    /// nor all viewers keep the others out.
    ///
    /// # Errors
    /// In words for the caller, when there is none.
    pub fn take(&self, chain: &[CertificateDer<'_>], acts: bool) -> Result<Seat, String> {
        let all = || "all connections are taken: try again in a while".to_owned();
        // A certificate that cannot be read has been refused before.
        let serial = chain.first().and_then(|own| serial_of(own).ok()).unwrap_or_default();
        let mut held = vec![self.each.take(serial)?];
        held.push(self.all.clone().try_acquire_owned().map_err(|_| all())?);
        if !acts {
            held.push(self.viewers.clone().try_acquire_owned().map_err(|_| all())?);
        }
        Ok(Seat(held))
    }
}

/// Seats of one certificate, by its serial number; those of a certificate that has none taken are forgotten.
#[derive(Debug)]
struct Each {
    most: usize,
    taken: Mutex<HashMap<Vec<u8>, Arc<Semaphore>>>,
}

impl Each {
    /// A quarter of all, and at least four.
    fn new(all: usize) -> Self {
        Self { most: (all / 4).max(4), taken: Mutex::default() }
    }

    /// The newest is refused, not the oldest: what is under way over an older one goes on.
    fn take(&self, serial: Vec<u8>) -> Result<OwnedSemaphorePermit, String> {
        let most = self.most;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, seats| seats.available_permits() < most);
        let seats = taken.entry(serial).or_insert_with(|| Arc::new(Semaphore::new(most)));
        seats.clone().try_acquire_owned().map_err(|_| {
            format!("this certificate has {most} connections here, which is all that one may have: end some")
        })
    }
}

/// Says why in the caller's own protocol, for TLS has no word for it: no settings of ours, and GOAWAY with ENHANCE_YOUR_CALM
/// (RFC 9113, 6.5 and 6.8), which a gRPC client shows as "resource exhausted" with these words.
pub fn goaway(words: &str) -> Vec<u8> {
    const CALM: u32 = 0xb;
    let words = &words.as_bytes()[..words.len().min(1_000)];
    let length = u32::try_from(words.len() + 8).unwrap_or(8);
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    frames.extend(&length.to_be_bytes()[1..]);
    frames.extend([7, 0, 0, 0, 0, 0]);
    // The last stream that was served: none.
    frames.extend([0; 4]);
    frames.extend(CALM.to_be_bytes());
    frames.extend(words);
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_its_share_and_what_it_gives_back_is_forgotten() {
        let each = Each::new(8);
        let mut held: Vec<_> = (0..4).map(|_| each.take(vec![1]).unwrap()).collect();
        let full = each.take(vec![1]).unwrap_err();
        assert!(full.starts_with("this certificate has 4 connections here"), "{full}");
        let other = each.take(vec![2]).unwrap();
        held.pop();
        held.push(each.take(vec![1]).unwrap());
        drop((held, other));
        let _third = each.take(vec![3]).unwrap();
        assert_eq!(each.taken.lock().unwrap().len(), 1, "only who sits there is remembered");
    }
}
