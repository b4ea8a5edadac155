//! A canary among the secrets: it is sung to the provider and to nobody else.

use crate::rented::{Rented, TOKEN};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Everything that is written below a directory, but for the named files.
fn written(dir: &Path, but: &[&str], out: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            written(&path, but, out);
        } else if !but.contains(&name.as_str()) {
            out.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

/// The arguments of every process of this machine, the canary's own included.
fn arguments() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().map(Result::unwrap);
    let of = |e: std::fs::DirEntry| std::fs::read(e.path().join("cmdline")).ok();
    processes.filter_map(of).map(|b| String::from_utf8_lossy(&b).into_owned()).collect()
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(TOKEN.len()).any(|w| w == TOKEN.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_in_no_argument_file_log_or_word() {
    let rented = Rented::new(Duration::from_secs(1)).await;
    rented.reconfigure("file:token", "op://Infrastructure/hostinger/api_token");
    // It takes its time, so that whoever looks at arguments sees it.
    rented.desk.program(
        "op",
        &format!(
            "printf '%s\\n' \"$*\" >> op.log; sleep 0.5; printf '%s' \"$(cat {})\"",
            rented.desk.path("token").display()
        ),
    );
    let mut ctl = rented.desk.command(&["vps", "restart", "calypso", "--yes", "-o", "json"]);
    let child =
        ctl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id().unwrap();
    let looking = tokio::task::spawn_blocking(move || {
        let (mut seen, mut op) = (0, 0);
        while Path::new(&format!("/proc/{id}/status")).exists()
            && !std::fs::read_to_string(format!("/proc/{id}/status"))
                .unwrap_or_default()
                .contains("State:\tZ")
        {
            let all = arguments();
            seen += all.iter().filter(|a| holds(a.as_bytes())).count();
            op += all.iter().filter(|a| a.contains("--no-newline\0op://Infrastructure")).count();
            std::thread::sleep(Duration::from_millis(10));
        }
        (seen, op)
    });
    let out = child.wait_with_output().await.unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let (seen, op) = looking.await.unwrap();
    assert!(op > 0, "the search would have seen it: op's own arguments were seen");
    assert_eq!(seen, 0, "the canary was in somebody's arguments");
    assert!(!holds(&out.stdout) && !holds(&out.stderr));
    let mut files = Vec::new();
    written(&rented.desk.path("."), &["token"], &mut files);
    assert!(
        files.iter().any(|(name, _)| name.ends_with("vps-calypso.jsonl")),
        "the diary was looked at, too"
    );
    for (name, bytes) in files {
        assert!(!holds(&bytes), "it is in {name}");
    }
    assert_eq!(
        rented.desk.read("op.log"),
        "read --no-newline op://Infrastructure/hostinger/api_token\n",
        "once a run"
    );
    assert_eq!(rented.provider.wishes(), 1, "and the provider did get it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_echoes_the_token_does_not_bring_it_to_the_terminal() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rented = Rented::new(Duration::ZERO).await;
    let tls = rustls::ServerConfig::builder_with_provider(lifeline_lab::standin::http::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            lifeline_lab::standin::http::certificates(&rented.desk.path("provider/agent.crt"))
                .unwrap(),
            lifeline_lab::standin::http::private_key(&rented.desk.path("provider/agent.key"))
                .unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut request = vec![0; 8192];
            let n = tls.read(&mut request).await.unwrap();
            let said = String::from_utf8_lossy(&request[..n]).replace("\r\n", " | ");
            assert!(said.contains(TOKEN), "{said}");
            let body = serde_json::json!({"message": format!("you sent: {said}")}).to_string();
            let head = format!(
                "HTTP/1.1 422 x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            tls.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            tls.flush().await.unwrap();
        }
    });
    let config = rented.desk.read("ctl.toml");
    let api = config.lines().find(|l| l.starts_with("api = ")).unwrap().to_owned();
    rented.reconfigure(&api, &format!("api = \"https://{at}\""));
    rented.vps(&["list"]).await.exits(1).says("you sent: GET");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_picture_of_its_memory() {
    let rented = Rented::new(Duration::from_secs(30)).await;
    let shell = |script: &str| {
        let mut sh = tokio::process::Command::new("sh");
        sh.args(["-c", script]).current_dir(rented.desk.path(".")).kill_on_drop(true);
        sh.env("HOME", rented.desk.path(".")).env("LIFELINE_CONFIG", rented.desk.path("ctl.toml"));
        sh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sh
    };
    // Others do leave one here, or nothing is proven.
    let control = shell("ulimit -c unlimited && kill -ABRT $$").status().await.unwrap();
    if !control.core_dumped() {
        assert!(std::env::var_os("CI").is_none(), "this machine writes no core dumps");
        println!("skipped: this machine writes no core dumps");
        return;
    }
    let script = format!(
        "ulimit -c unlimited; exec {} vps restart calypso --yes",
        env!("CARGO_BIN_EXE_ctl")
    );
    let mut child = shell(&script).spawn().unwrap();
    while rented.provider.wishes() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    let status = child.wait().await.unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_gives_nothing_is_said_with_what_to_try() {
    let rented = Rented::new(Duration::ZERO).await;
    rented.reconfigure("file:token", "op://Infrastructure/hostinger/api_token");
    rented
        .vps(&["list"])
        .await
        .exits(1)
        .says("the program op is not there")
        .says("install the 1Password CLI");
    for (said, hint) in [
        ("[ERROR] 2025/10/13 12:00:00 account is not signed in", "op signin"),
        (
            "[ERROR] 2025/10/13 12:00:00 could not get item: \"hostinger\" isn't an item in the vault",
            "op item get",
        ),
    ] {
        rented.desk.program("op", &format!("cat >&2 <<'END'\n{said}\nEND\nexit 1"));
        rented.vps(&["list"]).await.exits(1).says("op says: [ERROR]").says(hint);
    }
    rented.desk.program("op", "printf ''");
    rented.vps(&["list"]).await.exits(1).says("it is empty");
    assert!(rented.provider.asked().is_empty());
    rented.reconfigure(
        "op://Infrastructure/hostinger/api_token",
        "op://Infrastructure/VPS (styx)/api_token",
    );
    rented
        .vps(&["list"])
        .await
        .exits(2)
        .says("'(' cannot stand in one")
        .says("op item get 'VPS (styx)'");
    rented.reconfigure("op://Infrastructure/VPS (styx)/api_token", "env:HOSTINGER_API_TOKEN");
    rented.vps(&["list"]).await.exits(1).says("the variable is not set");
    let mut ctl = rented.desk.command(&["vps", "list"]);
    let out = ctl.env("HOSTINGER_API_TOKEN", TOKEN).output().await.unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    rented.reconfigure("env:HOSTINGER_API_TOKEN", TOKEN);
    rented.vps(&["list"]).await.exits(2).says("a secret itself does not belong here");
    rented.reconfigure(TOKEN, "file:token");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(rented.desk.path("token"), std::fs::Permissions::from_mode(0o644))
        .unwrap();
    rented.vps(&["list"]).await.exits(1).says("its mode is 0644").says("chmod 600");
}
