//! The laptop: a configuration, a certificate that is ours and lasts, an authority we believe.

use super::{Group, Mark, SOON_S, programs};
use crate::cli::Global;
use crate::config::Config;
use crate::out::Out;
use crate::pki::card::Card;
use crate::session::Session;
use crate::words;

/// An authority is renewed on every node: that takes longer.
const AUTHORITY_SOON_S: i64 = 60 * 86_400;

fn count_of(nodes: usize) -> String {
    words::count(nodes, "node")
}

/// Looks; the session is there when everything that agents need is.
pub async fn look(global: &Global, out: Out) -> (Vec<Mark>, Option<Session>) {
    let mut laptop = Group::new("laptop");
    if global.socket.is_some() {
        laptop.mark(
            None,
            "over the unix socket neither configuration nor certificate is needed",
            "",
        );
        let session = Session::open(global, out).map_err(|e| laptop.wrong(&e)).ok();
        return (laptop.marks, session);
    }
    let config = match Config::load(global.config.as_deref()) {
        Ok(config) => config,
        Err(why) => {
            laptop.wrong(&why.into());
            return (laptop.marks, None);
        }
    };
    let (count, path) = (config.nodes().count(), config.path.display());
    match (count, &config.kubeconfig) {
        (0, None) => laptop.mark(
            Some(false),
            format!("{path} names no node, and no kubeconfig whose workers could be asked"),
            "add one: ctl install NODE --ssh root@ADDRESS",
        ),
        (_, None) => laptop.mark(Some(true), format!("{path} names {}", count_of(count)), ""),
        (_, Some(_)) => laptop.mark(
            Some(true),
            format!(
                "{path} names {}, and a kubeconfig whose other workers are asked, too",
                count_of(count)
            ),
            "",
        ),
    }
    if let Ok(tls) = config.tls() {
        if let Ok(card) = Card::from_file(&tls.ca) {
            laptop.expiry(
                "the authority's certificate",
                card.until_s,
                AUTHORITY_SOON_S,
                "a new authority means a new certificate for every node and operator: plan it",
            );
        }
        if let Ok(card) = Card::from_file(&tls.cert) {
            let whose = card.whose().map_or_else(
                || "your certificate".to_owned(),
                |s| format!("your certificate ({} {})", s.role.word(), s.name),
            );
            laptop.expiry(
                &whose,
                card.until_s,
                SOON_S,
                "issue a new one: ctl pki renew --operator",
            );
        }
    }
    programs::look(&mut laptop, &config).await;
    match Session::open(global, out) {
        Ok(session) => {
            match session.may_act("heal") {
                Ok(()) => laptop.mark(
                    Some(true),
                    "certificate, key and authority belong together, and you may act",
                    "",
                ),
                Err(why) => laptop.mark(
                    None,
                    why.to_string(),
                    why.hints().first().cloned().unwrap_or_default(),
                ),
            }
            (laptop.marks, Some(session))
        }
        Err(why) => {
            laptop.wrong(&why);
            (laptop.marks, None)
        }
    }
}
