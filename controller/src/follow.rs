//! Following an incident to its end: the agent goes on without us, so a lost connection is made again and nothing is missed.

use crate::agent::{Agent, is_lost};
use crate::error::CommandError;
use crate::record::{Line, Record};
use crate::session::Session;
use crate::words::span_ms;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Streaming};

/// How long the agent may stay out of reach: a rung restarts the kubelet or loses the network, a reboot takes minutes.
const AWAY: Duration = Duration::from_secs(300);
/// A replay that brings nothing for this long has caught up.
const IDLE: Duration = Duration::from_secs(3);
/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Why following stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The incident has ended.
    Ended,
    /// The limit passed.
    Late,
    /// The agent stayed out of reach.
    Away,
}

/// Follows until the end; `live` is told each new line.
pub async fn follow(
    session: &Session,
    agent: &mut Agent,
    record: &mut Record,
    limit: Duration,
    mut live: impl FnMut(&Line),
) -> Result<Stopped, CommandError> {
    let deadline = Instant::now() + limit;
    let mut heard = Instant::now();
    let mut told = false;
    loop {
        let work = async {
            match agent.watch(&record.incident, record.seen).await {
                Ok(mut lines) => drain(&mut lines, record, &mut heard, &mut told, &mut live).await,
                // A restarted agent may need a moment to find its incident again.
                Err(e) if e.is_lost() || (e.code() == Some(Code::NotFound) && record.seen > 0) => {
                    Ok(Some(e.to_string()))
                }
                Err(e) => Err(e.into()),
            }
        };
        let Ok(lost) = timeout_at(deadline, work).await else { return Ok(Stopped::Late) };
        let lost = lost?;
        let Some(why) = lost else { return Ok(Stopped::Ended) };
        if !told {
            session.out.say(format!(
                "the connection was lost ({why}); {} goes on by itself, reconnecting …",
                agent.node
            ));
            told = true;
        }
        if heard.elapsed() > AWAY {
            session.out.say(format!("nothing was heard for {}", span_ms(AWAY.as_secs() * 1000)));
            return Ok(Stopped::Away);
        }
        let again = async {
            sleep(AGAIN).await;
            session.agent(&agent.node).await
        };
        match timeout_at(deadline, again).await {
            Ok(Ok(reached)) => {
                session.out.say(format!("reached again by {}", reached.via));
                *agent = reached;
            }
            // Why it cannot be reached was said once; it is tried until it can.
            Ok(Err(_)) => {}
            Err(_) => return Ok(Stopped::Late),
        }
    }
}

/// What is known of an incident now; one that goes on is read as far as it has got.
pub async fn replay(agent: &Agent, incident: &str) -> Result<Record, CommandError> {
    let mut record = Record::new(incident);
    let mut lines = agent.watch(incident, 0).await?;
    loop {
        match timeout(IDLE, lines.message()).await {
            Ok(Ok(Some(reply))) => {
                record.take(reply);
                if record.end.is_some() {
                    return Ok(record);
                }
            }
            // Closed, or nothing new for a while: that is all there is now.
            Ok(Ok(None)) | Err(_) => return Ok(record),
            Ok(Err(status)) => return Err(failed(incident, &status)),
        }
    }
}

fn failed(incident: &str, status: &tonic::Status) -> CommandError {
    CommandError::failed(format!("follow incident {incident}: {}", status.message()))
}

/// Takes lines until the end (`None`) or until the connection is lost (why).
async fn drain(
    lines: &mut Streaming<lifeline_proto::v1::WatchReply>,
    record: &mut Record,
    heard: &mut Instant,
    told: &mut bool,
    live: &mut impl FnMut(&Line),
) -> Result<Option<String>, CommandError> {
    loop {
        match lines.message().await {
            Ok(Some(reply)) => {
                *heard = Instant::now();
                *told = false;
                if let Some(line) = record.take(reply) {
                    live(&line);
                }
                if record.end.is_some() {
                    return Ok(None);
                }
            }
            Ok(None) => return Ok(Some("the agent closed it".into())),
            Err(status) if is_lost(&status) => return Ok(Some(status.message().to_owned())),
            Err(status) => return Err(failed(&record.incident, &status)),
        }
    }
}
