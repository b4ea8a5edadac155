//! The hands' acts: each brings one object to the state its op wants, and a look shows how it stands. Doing it twice is doing
//! it once; every wait has a bound; a child that was started has been reaped before an act returns.

pub mod process;
pub mod tailscale;

use std::time::Duration;

use lifeline_core::engine::Failure;

/// A failure that trying again will not change.
pub(crate) fn lasting(why: impl Into<String>) -> Failure {
    Failure { why: why.into(), retryable: false }
}

/// A failure that may be over the next time.
pub(crate) fn passing(why: impl Into<String>) -> Failure {
    Failure { why: why.into(), retryable: true }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

/// Runs what blocks on a thread of its own and waits at most `limit` for it. A file system that hangs must not hang the agent.
pub(crate) async fn blocking<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(format!("it broke off: {e}")),
        Err(_) => Err(format!("not done within {limit:?}")),
    }
}
