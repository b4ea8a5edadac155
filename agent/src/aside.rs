//! Long computations beside the one thread that everything else runs on: with 20 000 rules a judgement takes as long as a
//! handshake, and neither the guard nor an operator waits for it.

/// Computes on another thread. A panic there is one here.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is being shut down takes it back, and then nobody waits.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::aside;
    use std::time::Duration;

    #[tokio::test]
    async fn what_is_computed_aside_holds_nobody_up() {
        let (go, wait) = std::sync::mpsc::channel();
        let work = tokio::spawn(aside(move || wait.recv_timeout(Duration::from_secs(20)).is_ok()));
        // On one thread this would come only after the wait above had ended without it.
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        assert!(work.await.unwrap());
    }

    #[tokio::test]
    #[should_panic(expected = "no such rule")]
    async fn a_panic_aside_is_a_panic() {
        aside(|| panic!("no such rule")).await;
    }
}
