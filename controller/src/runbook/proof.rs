//! Pods that were taken out of the API by force: their nodes' agents say whether their processes ended.

use super::book::Book;
use super::missed::Missed;
use super::run::Shelf;
use super::side::Side;
use crate::cluster::pods::PodFact;
use crate::obstacle::chain;
use crate::session::Session;
use std::collections::BTreeMap;

/// An agent is asked for so many at once.
const AT_ONCE: usize = 500;

/// Said, and written down: the report tells it.
fn note(session: &Session, book: &Book, line: &str) {
    session.out.say(line);
    if let Err(why) = book.note("unproven", line) {
        session.out.say(format!("it could not be written down: {}", chain(&why)));
    }
}

/// Says of each pod that came to be in doubt that it is.
pub fn doubt(session: &Session, book: &Book, side: &Side<'_>) {
    let pods = side.doubted();
    for pod in &pods {
        let node = pod.node.as_deref().unwrap_or("no node");
        note(
            session,
            book,
            &format!("unproven: whether the processes of {} on {node} ended", pod.words()),
        );
    }
    side.doubt(pods);
}

/// Asks the agents; which processes run on although the API server has forgotten their pod. What no agent could say stays in doubt.
pub async fn ended(
    session: &Session,
    missed: &Missed,
    book: &Book,
    side: &Side<'_>,
) -> Option<String> {
    let mut of_node: BTreeMap<String, Vec<PodFact>> = BTreeMap::new();
    for pod in side.doubted() {
        of_node.entry(pod.node.clone().unwrap_or_default()).or_default().push(pod);
    }
    let mut running = Vec::new();
    for (node, pods) in of_node {
        for pods in pods.chunks(AT_ONCE) {
            let uids = pods.iter().map(|p| p.uid.clone()).collect();
            let told = match missed.agent(session, &node).await {
                Ok(agent) => agent.pods(uids).await.map_err(|e| chain(&e)),
                Err(why) => Err(why),
            };
            let alive = match told {
                Ok(alive) => alive,
                Err(why) => {
                    note(
                        session,
                        book,
                        &format!("{node}: its agent cannot say whether they ended: {why}"),
                    );
                    side.doubt(pods.to_vec());
                    continue;
                }
            };
            let (live, gone): (Vec<_>, Vec<_>) = pods.iter().partition(|p| alive.contains(&p.uid));
            if !gone.is_empty() {
                let all: Vec<String> = gone.iter().map(|p| p.words()).collect();
                note(
                    session,
                    book,
                    &format!("proven by {node}'s agent: the processes of {} ended", all.join(", ")),
                );
            }
            for pod in &live {
                let words =
                    format!("{} runs on {node}, and the API server has forgotten it", pod.words());
                note(session, book, &words);
                running.push(words);
            }
            side.doubt(live.into_iter().cloned().collect());
        }
    }
    (!running.is_empty()).then(|| running.join("; "))
}
