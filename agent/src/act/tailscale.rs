//! Asks tailscaled, over its own LocalAPI socket, to drop its exit node and accepted routes, or to take them back.
//!
//! The socket lies in the daemon's root, which may be a container's: it is resolved inside that root (a symbolic link there
//! must not lead into ours), and who answers is checked. A container's binary is never executed.

mod answer;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lifeline_core::engine::Failure;
use lifeline_core::op::{Prefs, ProcessId, Seen};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use answer::{is_whole, parse};

use super::process::{Pinned, identify};
use super::{blocking, lasting, passing};

/// For connecting, asking and reading together.
const LIMIT: Duration = Duration::from_secs(2);
/// A daemon's preferences are some 1.5 KiB.
const CAP: u64 = 256 << 10;

/// The preferences as the LocalAPI writes them (`ipn.Prefs`), what we use of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Shown {
    #[serde(rename = "ExitNodeID")]
    exit_node_id: String,
    #[serde(rename = "ExitNodeIP")]
    exit_node_ip: String,
    auto_exit_node: String,
    route_all: bool,
}

/// A change (`ipn.MaskedPrefs`): what is named `…Set` is changed, all else stays. Daemons ignore fields they do not know.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Masked<'a> {
    #[serde(rename = "ExitNodeID")]
    exit_node_id: &'a str,
    #[serde(rename = "ExitNodeIDSet")]
    exit_node_id_set: bool,
    #[serde(rename = "ExitNodeIP")]
    exit_node_ip: &'a str,
    #[serde(rename = "ExitNodeIPSet")]
    exit_node_ip_set: bool,
    auto_exit_node: &'a str,
    auto_exit_node_set: bool,
    route_all: bool,
    route_all_set: bool,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the process is gone")]
    Gone,
    #[error("{0}")]
    Refused(String),
    #[error("the daemon says {status}: {words}")]
    Said { status: u16, words: String },
    #[error("{doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

fn io_of<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Trouble {
    move |e| Trouble::Io { doing, source: e.into() }
}

/// The daemon's preferences; none when that very process is gone.
///
/// # Errors
/// When they cannot be read.
pub async fn look(process: &ProcessId, socket: &str) -> Result<Seen, String> {
    match ask(process, socket, "GET", Vec::new()).await {
        Ok(prefs) => Ok(Seen::Prefs { prefs: Some(prefs) }),
        Err((Trouble::Gone, _)) => Ok(Seen::Prefs { prefs: None }),
        Err((_, why)) => Err(why),
    }
}

/// Gives the daemon these preferences: [`Prefs::default`] captures nothing.
///
/// # Errors
/// When it does not take them.
pub async fn set(process: &ProcessId, socket: &str, prefs: &Prefs) -> Result<(), Failure> {
    let change = Masked {
        exit_node_id: &prefs.exit_node_id,
        exit_node_id_set: true,
        exit_node_ip: &prefs.exit_node_ip,
        exit_node_ip_set: true,
        auto_exit_node: &prefs.auto_exit_node,
        auto_exit_node_set: true,
        route_all: prefs.route_all,
        route_all_set: true,
    };
    let body =
        serde_json::to_vec(&change).map_err(|e| lasting(format!("write preferences: {e}")))?;
    match ask(process, socket, "PATCH", body).await {
        // A daemon that is gone captures nothing.
        Ok(_) | Err((Trouble::Gone, _)) => Ok(()),
        Err((Trouble::Refused(_) | Trouble::Said { .. }, why)) => Err(lasting(why)),
        Err((Trouble::Io { .. }, why)) => Err(passing(why)),
    }
}

async fn ask(
    process: &ProcessId,
    socket: &str,
    method: &'static str,
    body: Vec<u8>,
) -> Result<Prefs, (Trouble, String)> {
    let what = format!("{method} preferences of process {} at {socket}", process.pid);
    let (process, socket) = (process.clone(), socket.to_owned());
    let done = blocking(LIMIT * 2, move || exchange(&process, &socket, method, &body)).await;
    let told = |t: Trouble| {
        let why = format!("{what}: {}", super::chain(&t));
        (t, why)
    };
    match done {
        Ok(done) => done.map_err(told),
        Err(late) => {
            let source = io::Error::new(io::ErrorKind::TimedOut, late);
            Err(told(Trouble::Io { doing: "wait for the daemon", source }))
        }
    }
}

fn exchange(id: &ProcessId, socket: &str, method: &str, body: &[u8]) -> Result<Prefs, Trouble> {
    let until = Instant::now() + LIMIT;
    let pinned = Pinned::open(id).map_err(io_of("look for the process"))?.ok_or(Trouble::Gone)?;
    let mut stream = connect(id, socket)?;
    // Whose root that was is certain only as long as it lives.
    if pinned.has_ended().map_err(io_of("look for the process"))? {
        return Err(Trouble::Gone);
    }
    let request = format!(
        "{method} /localapi/v0/prefs HTTP/1.1\r\nHost: local-tailscaled.sock\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let left =
        || Some(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    stream.set_write_timeout(left()).map_err(io_of("ask the daemon"))?;
    stream.write_all(request.as_bytes()).map_err(io_of("ask the daemon"))?;
    stream.write_all(body).map_err(io_of("ask the daemon"))?;
    let mut answer = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        if Instant::now() >= until {
            let source = io::ErrorKind::TimedOut.into();
            return Err(Trouble::Io { doing: "read the daemon's answer", source });
        }
        stream.set_read_timeout(left()).map_err(io_of("read the daemon's answer"))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_of("read the daemon's answer")(e)),
        }
        if answer.len() as u64 > CAP {
            return Err(Trouble::Refused(format!("it answers more than {CAP} bytes")));
        }
        if is_whole(&answer) {
            break;
        }
    }
    let (status, body) = parse(&answer)
        .ok_or_else(|| Trouble::Refused("its answer is no whole HTTP answer".to_owned()))?;
    if status != 200 {
        let words: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        return Err(Trouble::Said { status, words: words.trim().replace('\n', "; ") });
    }
    let shown: Shown = serde_json::from_slice(&body)
        .map_err(|e| Trouble::Refused(format!("its answer holds no preferences: {e}")))?;
    Ok(Prefs {
        exit_node_id: shown.exit_node_id,
        exit_node_ip: shown.exit_node_ip,
        auto_exit_node: shown.auto_exit_node,
        route_all: shown.route_all,
    })
}

/// Connects to the socket at a path of the process's root, and makes sure that the daemon is at its other end.
fn connect(id: &ProcessId, socket: &str) -> Result<UnixStream, Trouble> {
    const FIND: &str = "find the socket in the daemon's root";
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let root = format!("/proc/{}/root", id.pid);
    let root =
        rustix::fs::open(root, path | OFlags::DIRECTORY, Mode::empty()).map_err(io_of(FIND))?;
    let node = match (resolve(&root, socket), socket.strip_prefix("/var/run/")) {
        // A container's root may lack the link by which `/var/run` is `/run`.
        (Err(e), Some(rest)) if io::Error::from(e).kind() == io::ErrorKind::NotFound => {
            resolve(&root, &format!("/run/{rest}"))
        }
        (found, _) => found,
    };
    let node = node.map_err(io_of(FIND))?;
    let kind = rustix::fs::fstat(&node).map_err(io_of(FIND))?;
    if FileType::from_raw_mode(kind.st_mode) != FileType::Socket {
        return Err(Trouble::Refused("it is not a socket".to_owned()));
    }
    // By descriptor: between the check and the connection nobody can put another file there. Not blocking: a daemon that
    // does not accept must not hold us.
    let address = socket2::SockAddr::unix(format!("/proc/self/fd/{}", node.as_raw_fd()))
        .map_err(io_of("connect to the daemon"))?;
    let stream = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)
        .map_err(io_of("connect to the daemon"))?;
    stream.connect_timeout(&address, LIMIT).map_err(io_of("connect to the daemon"))?;
    let peer = getsockopt(&stream.as_fd(), PeerCredentials).map_err(io_of("ask who answers"))?;
    let peer = u32::try_from(peer.pid()).unwrap_or(0);
    let same_program = || identify(peer).is_ok_and(|p| p.inode == id.inode);
    if peer != id.pid && !same_program() {
        return Err(Trouble::Refused(format!("process {peer} answers there, not the daemon")));
    }
    Ok(UnixStream::from(OwnedFd::from(stream)))
}

fn resolve(root: &OwnedFd, socket: &str) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        let found =
            rustix::fs::openat2(root, socket, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how);
        match found {
            // The kernel asks to be asked again when something on the way was renamed meanwhile.
            Err(rustix::io::Errno::AGAIN) if tries < 10 => tries += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::answer::{ON, head, header};
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    /// This process is the daemon; its root is ours.
    fn ourselves() -> ProcessId {
        let pid = std::process::id();
        let i = identify(pid).unwrap();
        ProcessId { pid, start: i.start, exe: i.exe, inode: i.inode, cgroup: String::new() }
    }

    /// Answers each connection with the next text, and keeps what was asked.
    fn daemon(path: &std::path::Path, answers: &[&str]) -> Arc<Mutex<Vec<String>>> {
        let listener = UnixListener::bind(path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answers) =
            (Arc::clone(&asked), answers.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut text = Vec::new();
                let mut chunk = [0; 4096];
                loop {
                    let n = stream.read(&mut chunk).unwrap();
                    text.extend_from_slice(&chunk[..n]);
                    let (head, body) = head(&text).unwrap();
                    if body.len() >= header(&head, "content-length").unwrap().parse().unwrap() {
                        break;
                    }
                }
                log.lock().unwrap().push(String::from_utf8(text).unwrap());
                let _ignored = stream.write_all(answer.as_bytes());
            }
            std::thread::sleep(Duration::from_secs(9));
        });
        asked
    }

    const OFF: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n{\"ExitNodeID\":\"\",\"ExitNodeIP\":\"\"}";

    #[tokio::test]
    async fn a_daemon_is_asked_over_its_socket_and_drops_its_exit_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tailscaled.sock");
        let asked = daemon(&path, &[ON, OFF]);
        let (id, path) = (ourselves(), path.to_str().unwrap());
        let on = Prefs { exit_node_id: "n1".into(), route_all: true, ..Prefs::default() };
        assert_eq!(look(&id, path).await.unwrap(), Seen::Prefs { prefs: Some(on) });
        set(&id, path, &Prefs::default()).await.unwrap();
        let patch = asked.lock().unwrap()[1].clone();
        assert!(
            patch.starts_with(
                "PATCH /localapi/v0/prefs HTTP/1.1\r\nHost: local-tailscaled.sock\r\n"
            )
        );
        let body: serde_json::Value =
            serde_json::from_str(patch.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let want = serde_json::json!({"ExitNodeID": "", "ExitNodeIDSet": true, "ExitNodeIP": "", "ExitNodeIPSet": true,
            "AutoExitNode": "", "AutoExitNodeSet": true, "RouteAll": false, "RouteAllSet": true});
        assert_eq!(body, want);
    }

    #[tokio::test]
    async fn a_daemon_that_is_gone_has_no_preferences() {
        let mut id = ourselves();
        id.start -= 1;
        assert_eq!(look(&id, "/x.sock").await.unwrap(), Seen::Prefs { prefs: None });
        set(&id, "/x.sock", &Prefs::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_or_refuses_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _asked = daemon(
            &path,
            &["HTTP/1.1 403 Forbidden\r\nContent-Length: 14\r\n\r\naccess denied\n", ""],
        );
        let (id, path) = (ourselves(), path.to_str().unwrap());
        let e = set(&id, path, &Prefs::default()).await.unwrap_err();
        assert!(e.why.ends_with("the daemon says 403: access denied") && !e.retryable, "{}", e.why);
        // The second connection is closed without an answer, the third is never accepted.
        assert!(look(&id, path).await.unwrap_err().contains("no whole HTTP answer"));
        let before = Instant::now();
        let e = set(&id, path, &Prefs::default()).await.unwrap_err();
        assert!(e.retryable && e.why.contains("read the daemon's answer"), "{}", e.why);
        assert!(before.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn somebody_else_behind_the_socket_is_not_talked_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let asked = daemon(&path, &[ON]);
        // The socket is ours, the daemon is supposed to be another process.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let i = identify(child.id()).unwrap();
        let id = ProcessId {
            pid: child.id(),
            start: i.start,
            exe: i.exe,
            inode: i.inode,
            cgroup: String::new(),
        };
        let why = look(&id, path.to_str().unwrap()).await.unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(why.contains("answers there, not the daemon"), "{why}");
        assert!(asked.lock().unwrap().is_empty());
    }

    #[test]
    fn a_link_in_the_daemons_root_does_not_lead_into_ours() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("abs")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/hostname", dir.path().join("up"))
            .unwrap();
        std::os::unix::fs::symlink("/proc/self/fd/0", dir.path().join("magic")).unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        let root: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        for link in ["/abs", "up", "magic"] {
            assert_eq!(resolve(&root, link).unwrap_err(), rustix::io::Errno::NOENT, "{link}");
        }
        std::fs::write(dir.path().join("etc/hostname"), "theirs").unwrap();
        assert!(resolve(&root, "/abs").is_ok() && resolve(&root, "up").is_ok());
    }
}
