//! Metrics for root on this node: `curl --unix-socket /run/lifeline/metrics.sock http://localhost/metrics`. A socket of its own, so
//! that whoever scrapes takes no seat from whoever repairs.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifeline_core::metrics::Form;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Callers at once; others wait in the kernel's queue.
const SEATS: usize = 8;
/// How long a caller may take to ask.
const ASK: Duration = Duration::from_secs(2);
/// How long a caller may take over all.
const STAY: Duration = Duration::from_secs(5);
/// Longest request: a line and some headers.
const REQUEST_BYTES: usize = 8 << 10;

/// Answers for ever.
pub async fn serve(
    listener: UnixListener,
    page: impl Fn(Form) -> String + Clone + Send + Sync + 'static,
) {
    let seats = Arc::new(Semaphore::new(SEATS));
    // Dropped with this task: then nobody is answered any more.
    let mut callers = JoinSet::new();
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let io = match listener.accept().await {
            Ok((io, _)) => io,
            Err(why) => {
                tracing::warn!("accept on the socket for metrics: {why}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let page = page.clone();
        callers.spawn(async move {
            let _seat = seat;
            let said = tokio::time::timeout(STAY, converse(io, page)).await;
            if let Ok(Err(why)) = said {
                tracing::debug!("answer whoever asks for metrics: {why}");
            }
        });
        while callers.try_join_next().is_some() {}
    }
}

async fn converse(
    io: UnixStream,
    page: impl Fn(Form) -> String + Clone + Send + 'static,
) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let reply = answer(&request, &page);
        async move { Ok::<_, Infallible>(reply) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(ASK)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .await
}

fn answer(request: &Request<Incoming>, page: impl Fn(Form) -> String) -> Response<Full<Bytes>> {
    let reply = |status, kind, text: String| {
        let mut reply = Response::new(Full::new(Bytes::from(text)));
        *reply.status_mut() = status;
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        reply
    };
    const PLAIN: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused =
            reply(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if request.uri().path() != "/metrics" {
        return reply(StatusCode::NOT_FOUND, PLAIN, "metrics are at /metrics\n".to_owned());
    }
    let accepts = request.headers().get_all(ACCEPT);
    let form = wanted(accepts.iter().filter_map(|a| a.to_str().ok()));
    reply(StatusCode::OK, form.media_type(), page(form))
}

/// OpenMetrics, unless the caller knows only the older form.
fn wanted<'a>(accepts: impl Iterator<Item = &'a str>) -> Form {
    let (mut old, mut new) = (false, false);
    for accept in accepts {
        old |= accept.contains("text/plain");
        new |= accept.contains("application/openmetrics-text");
    }
    if old && !new { Form::Text } else { Form::OpenMetrics }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_knows_only_the_older_form_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        for (accepts, form) in [
            (vec![prometheus], Form::OpenMetrics),
            (vec!["text/plain;version=0.0.4"], Form::Text),
            (vec!["*/*"], Form::OpenMetrics),
            (vec![], Form::OpenMetrics),
        ] {
            assert_eq!(wanted(accepts.iter().copied()), form, "{accepts:?}");
        }
    }
}
