//! What the other agents refuse, a new one is to refuse, too: a certificate that was revoked before it came is no more welcome there.

use crate::cli::Global;
use crate::error::CommandError;
use crate::out::Out;
use crate::session::Session;
use futures_util::StreamExt;

/// So many agents are asked at a time.
const AT_ONCE: usize = 64;

/// Has the new agent refuse what any other one does, and says so. Nothing of this fails an install: what is left is said with the
/// command that ends it.
pub(super) async fn pass_on(node: &str, global: &Global, out: Out) {
    match passed_on(node, global, out).await {
        Ok(0) => {}
        Ok(some) => out
            .say(format!("It refuses {some} revoked certificates from now on, as the others do.")),
        Err(why) => {
            out.error(&why);
            out.say("Which certificates the others refuse and it does not: ctl pki status");
        }
    }
}

async fn passed_on(node: &str, global: &Global, out: Out) -> Result<usize, CommandError> {
    let session = Session::open(global, out)?;
    let others: Vec<String> =
        session.nodes(&[]).await?.into_iter().filter(|other| other != node).collect();
    let asked = others.iter().map(|other| {
        let session = &session;
        async move { (other, session.agent(other).await) }
    });
    let asked: Vec<_> = futures_util::stream::iter(asked).buffered(AT_ONCE).collect().await;
    let mut denied = Vec::new();
    for (other, agent) in asked {
        match agent {
            Ok(agent) => denied.extend(agent.status.denied_serials),
            Err(why) => out.say(format!("What {other} refuses is not known: {why}")),
        }
    }
    if denied.is_empty() {
        return Ok(0);
    }
    let agent = session.agent(node).await?;
    let lacks = lacking(denied, &agent.status.denied_serials);
    if !lacks.is_empty() {
        agent.deny(lacks.clone()).await?;
    }
    Ok(lacks.len())
}

/// Those that one refuses and the other does not, each once.
fn lacking(mut denied: Vec<String>, there: &[String]) -> Vec<String> {
    denied.sort();
    denied.dedup();
    denied.retain(|serial| !there.contains(serial));
    denied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_refuse_is_passed_on_once_and_what_is_refused_already_not_at_all() {
        let of = |serials: &[&str]| serials.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(lacking(of(&["2b", "1a", "2b", "3c"]), &of(&["3c"])), ["1a", "2b"]);
        assert!(lacking(of(&["3c"]), &of(&["3c"])).is_empty());
    }
}
