//! When the certificates in use end: read from them, and told to the journal in time.

use crate::event::{self, About};
use crate::tls::Trust;
use arc_swap::ArcSwapOption;
use lifeline_core::expiry::{Certificate, Herald, Whose};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::parse_x509_certificate;

/// How often it is asked what there is to say; what is said is said once a day.
const ASKED: Duration = Duration::from_secs(600);

/// When a node's own certificate ends, and that of the authority which signed it: of several of that name, the last to end.
pub fn of(own: &[u8], authorities: &[CertificateDer<'_>]) -> Vec<Certificate> {
    let own = match parse_x509_certificate(own) {
        Ok((_, own)) => own,
        Err(why) => {
            tracing::warn!("read when this agent's certificate ends: {why}: it will not be said");
            return Vec::new();
        }
    };
    let mut last = None;
    for authority in authorities {
        if let Ok((_, authority)) = parse_x509_certificate(authority)
            && authority.subject().as_raw() == own.issuer().as_raw()
        {
            last = last.max(Some(authority.validity().not_after.timestamp()));
        }
    }
    let authority = last.and_then(|at| Certificate::of(Whose::Authority, at));
    let own = Certificate::of(Whose::Agent, own.validity().not_after.timestamp());
    own.into_iter().chain(authority).collect()
}

/// Tells the journal in time, for ever, of whatever is in use. Without certificates there is nothing to say.
pub async fn keep(trust: Arc<ArcSwapOption<Trust>>) {
    let mut herald = Herald::default();
    loop {
        let ends = trust.load().as_ref().map(|t| t.ends().to_vec()).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        for notice in herald.due(&ends, now_ms) {
            event::tell(&event::EXPIRES, About::default(), &notice.to_string());
        }
        tokio::time::sleep(ASKED).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
    };

    fn authority(name: &str, year: i32) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(year, 1, 1);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(by: &CertifiedIssuer<'static, KeyPair>, year: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 12, 31);
        if year == 9999 {
            params.not_after += Duration::from_secs(86_399);
        }
        params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().to_vec()
    }

    #[test]
    fn both_ends_are_read_and_of_several_authorities_it_is_the_one_that_signed() {
        let (ours, old) = (authority("ours", 2040), authority("another", 2030));
        let all = [old.der().clone(), ours.der().clone()];
        let seen = of(&leaf(&ours, 2031), &all);
        let wanted = [(Whose::Agent, 1_956_441_600), (Whose::Authority, 2_208_988_800)];
        let seen: Vec<_> = seen.iter().map(|c| (c.whose, c.not_after_s)).collect();
        assert_eq!(seen, wanted);
    }

    #[test]
    fn what_has_no_end_or_cannot_be_read_has_none() {
        let ours = authority("ours", 2040);
        assert_eq!(of(&leaf(&ours, 9999), &[]), []);
        assert_eq!(of(b"rubbish", &[ours.der().clone()]), []);
    }
}
