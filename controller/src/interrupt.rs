//! Ctrl-C: stops what this program does, never what an agent does.

/// Runs to the end, or until Ctrl-C (`None`).
pub async fn interruptible<T>(work: impl Future<Output = T>) -> Option<T> {
    // On the heap: what a whole recovery may need at once would else lie on the stack, once in each of the calls it goes through.
    let work = Box::pin(work);
    tokio::select! {
        done = work => Some(done),
        // An error means that Ctrl-C cannot be heard; then it still ends the program as the system does it.
        Ok(()) = tokio::signal::ctrl_c() => None,
    }
}
