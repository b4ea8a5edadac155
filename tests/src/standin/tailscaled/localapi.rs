//! The LocalAPI of the stand-in: status and preferences over a unix socket.
//!
//! Copies `ipn/localapi/localapi.go` (paths, host check, permissions) and `ipn/ipnauth` (root may write, others may read).

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use hyper::{Method, Request, StatusCode, body::Incoming};
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use super::prefs::Prefs;
use crate::{
    say,
    standin::http::{self, Answer},
};

/// What the LocalAPI asks of the daemon.
#[derive(Debug)]
pub enum Ask {
    /// The status document.
    Status(oneshot::Sender<Value>),
    /// The preferences.
    Prefs(oneshot::Sender<Prefs>),
    /// New preferences; the answer is what holds now, or why not.
    Edit(Value, oneshot::Sender<Result<Prefs, String>>),
}

/// Opens the socket, in the original's mode 0666: permission is decided by the peer's uid.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves every connection until the daemon ends.
pub async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let may_write = is_root(&stream);
                let asks = asks.clone();
                tokio::spawn(http::serve(stream, move |request| {
                    answer(request, may_write, asks.clone())
                }));
            }
            Err(cause) => say!("localapi: accept: {cause}"),
        }
    }
}

fn is_root(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0)
}

/// `validHost`: nothing, or the name that the client puts in for a socket.
fn is_valid_host(request: &Request<Incoming>) -> bool {
    let named = request.headers().get("host").map_or(&b""[..], |host| host.as_bytes());
    matches!(named, b"" | b"local-tailscaled.sock")
        && !request.headers().contains_key("origin")
        && !request.headers().contains_key("referer")
}

async fn answer(request: Request<Incoming>, may_write: bool, asks: mpsc::Sender<Ask>) -> Answer {
    if !is_valid_host(&request) {
        return http::text(StatusCode::FORBIDDEN, "invalid localapi request\n");
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/localapi/v0/status") => reply(&asks, Ask::Status)
            .await
            .map_or_else(ended, |status| http::json(StatusCode::OK, &status)),
        (&Method::GET, "/localapi/v0/prefs") => reply(&asks, Ask::Prefs)
            .await
            .map_or_else(ended, |prefs| http::json(StatusCode::OK, &json!(prefs))),
        (&Method::PATCH, "/localapi/v0/prefs") if !may_write => {
            http::text(StatusCode::FORBIDDEN, "prefs write access denied\n")
        }
        (&Method::PATCH, "/localapi/v0/prefs") => edit(request, &asks).await,
        (_, "/localapi/v0/status" | "/localapi/v0/prefs") => {
            http::text(StatusCode::METHOD_NOT_ALLOWED, "unsupported method\n")
        }
        _ => http::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

async fn edit(request: Request<Incoming>, asks: &mpsc::Sender<Ask>) -> Answer {
    let read = http::body(request).await.map_err(|cause| cause.to_string());
    let masked =
        read.and_then(|body| serde_json::from_slice(&body).map_err(|cause| cause.to_string()));
    let masked: Value = match masked {
        Ok(masked) => masked,
        Err(why) => return http::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    match reply(asks, |to| Ask::Edit(masked, to)).await {
        Some(Ok(prefs)) => http::json(StatusCode::OK, &json!(prefs)),
        Some(Err(why)) => http::json(StatusCode::BAD_REQUEST, &json!({"error": why})),
        None => ended(),
    }
}

fn ended() -> Answer {
    http::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
}

async fn reply<T>(
    asks: &mpsc::Sender<Ask>,
    ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Option<T> {
    let (to, from) = oneshot::channel();
    asks.send(ask(to)).await.ok()?;
    from.await.ok()
}
