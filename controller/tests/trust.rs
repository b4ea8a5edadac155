//! Certificates that end, are renewed and are revoked, and an authority under a passphrase; looked at with openssl.

use crate::agent::StandIn;
use crate::desk::{Desk, Ran, mode};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

const PASSPHRASE: &str = "correct horse battery";

async fn openssl(desk: &Desk, args: &str) -> (bool, String) {
    let mut c = Command::new("openssl");
    c.args(args.split(' ')).current_dir(desk.path("")).stdin(Stdio::null()).env("PASS", PASSPHRASE);
    let done = tokio::time::timeout(Duration::from_secs(30), c.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    (done.status.success(), text.into_owned())
}

async fn serial(desk: &Desk, file: &str) -> String {
    openssl(desk, &format!("x509 -in {file} -noout -serial")).await.1.trim().to_owned()
}

/// Makes styx's certificate anew, so that it has expired.
async fn expire(desk: &Desk) {
    desk.write(
        "ext",
        "subjectAltName=DNS:styx,URI:lifeline://lab/agent/styx\nextendedKeyUsage=serverAuth\n",
    );
    for args in [
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout styx/agent.key -subj /CN=styx -out csr",
        "x509 -req -in csr -CA pki/ca.crt -CAkey pki/ca.key -set_serial 77 -days -1 -extfile ext -out styx/agent.crt",
    ] {
        let (fine, said) = openssl(desk, args).await;
        assert!(fine, "{said}");
    }
}

/// Calypso and styx, each with an agent.
async fn two(desk: &Desk) -> [std::sync::Arc<StandIn>; 2] {
    let (at, calypso) = StandIn::calypso().serve(desk, "calypso", "pki").await;
    let mut styx = StandIn::calypso();
    styx.node = "styx".into();
    let (styx_at, styx) = styx.serve(desk, "styx", "pki").await;
    desk.configure(&[at]);
    let text = desk.read("ctl.toml");
    desk.write("ctl.toml", &format!("{text}[nodes.styx]\naddresses = [\"{styx_at}\"]\n"));
    [calypso, styx]
}

fn states(ran: &Ran) -> Vec<(String, String)> {
    let list = ran.json()["certificates"].as_array().unwrap().clone();
    let word = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    list.iter().map(|c| (word(&c["whose"]), word(&c["state"]))).collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[tokio::test]
async fn what_expires_when_is_said_of_everybody_and_told_by_the_exit_code() {
    let desk = Desk::new().await;
    let _agents = two(&desk).await;
    let well = desk.ctl(&["pki", "status", "-o", "json"]).await.exits(0);
    let all = [
        ("authority", "valid"),
        ("operator alice", "valid"),
        ("agent calypso", "valid"),
        ("agent styx", "valid"),
    ];
    assert_eq!(states(&well), pairs(&all));
    // The agent's is the one it shows; openssl reads its date from the file.
    let until = well.json()["certificates"][2]["until_s"].as_i64().unwrap();
    let (_, date) =
        openssl(&desk, "x509 -in calypso/agent.crt -noout -enddate -dateopt iso_8601").await;
    let date = date.trim().trim_start_matches("notAfter=").replace(' ', "T");
    assert_eq!(date.parse::<jiff::Timestamp>().unwrap().as_second(), until);
    let soon =
        desk.ctl(&["pki", "status", "calypso", "--within", "10", "-o", "json"]).await.exits(3);
    let wanted = [("authority", "valid"), ("operator alice", "soon"), ("agent calypso", "valid")];
    assert_eq!(states(&soon), pairs(&wanted));

    expire(&desk).await;
    let late = desk.ctl(&["pki", "status", "-o", "json"]).await.exits(3);
    assert_eq!(states(&late)[3], ("agent styx".into(), "expired".into()));
    assert!(late.json()["certificates"][3]["error"].as_str().unwrap().contains("xpired"));
    // Who cannot be looked at is not said to be well.
    desk.configure(&["127.0.0.1:9".parse().unwrap()]);
    let dark = desk.ctl(&["pki", "status", "-o", "json"]).await.exits(1);
    assert_eq!(states(&dark)[2], ("agent calypso".into(), "unknown".into()));
    let args =
        ["operator", "alice", "--role", "operator", "--days", "0", "--dir", "pki", "--out", "me"];
    desk.pki(&args).await;
    let mine = desk.ctl(&["pki", "status", "-o", "json"]).await.exits(1);
    mine.says("ctl pki renew --operator");
}

#[tokio::test]
async fn a_certificate_is_revoked_at_every_agent_and_where_it_was_not_is_said() {
    let desk = Desk::new().await;
    let [calypso, styx] = two(&desk).await;
    desk.pki(&["operator", "lost", "--role", "operator", "--dir", "pki", "--out", "lost"]).await;
    desk.ctl(&["pki", "revoke", "me/operator.crt", "--yes"])
        .await
        .exits(2)
        .says("the certificate you act with");
    desk.ctl(&["pki", "revoke", "calypso/agent.crt", "--yes"]).await.exits(2);
    desk.ctl(&["pki", "revoke", "gone.crt", "--yes"]).await.exits(2).says("no serial number");
    desk.ctl(&["pki", "revoke", "lost/operator.crt"]).await.exits(2).says("--yes");
    assert!(calypso.state().denied.is_empty() && styx.state().denied.is_empty());

    let args = ["pki", "revoke", "lost/operator.crt", "--node", "calypso", "--yes"];
    desk.ctl(&args).await.exits(0);
    let half = desk.ctl(&["pki", "status", "-o", "json"]).await.exits(3);
    assert_eq!(half.json()["denied"][0]["missing_at"], serde_json::json!(["styx"]));
    half.says("is denied elsewhere, and not here: ctl pki revoke");
    desk.ctl(&["pki", "revoke", "lost/operator.crt", "--yes"]).await.exits(0);
    let number = serial(&desk, "lost/operator.crt").await.replace("serial=", "").to_lowercase();
    let told = styx.state().denied.clone();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].trim_start_matches('0'), number.trim_start_matches('0'));

    let text = desk.read("ctl.toml") + "[nodes.dead]\naddresses = [\"127.0.0.1:9\"]\n";
    desk.write("ctl.toml", &text);
    let partly = desk.ctl(&["pki", "revoke", "1a:2b", "--yes", "-o", "json"]).await.exits(1);
    let nodes = partly.json()["nodes"].clone();
    assert_eq!((&nodes[0]["denied"], &nodes[1]["node"]), (&true.into(), &"dead".into()));
    partly.says("again later: ctl pki revoke 1a:2b --node dead");
}

#[tokio::test]
async fn certificates_are_renewed_for_a_key_that_was_made_where_it_is_used() {
    let desk = Desk::new().await;
    let [calypso, _styx] = two(&desk).await;
    let before = serial(&desk, "calypso/agent.crt").await;
    let mine = (serial(&desk, "me/operator.crt").await, desk.read("me/operator.key"));
    let kept = desk.ctl(&["pki", "renew", "--within", "3", "--yes", "-o", "json"]).await.exits(0);
    let endings = |ran: &Ran| -> Vec<String> {
        let list = ran.json()["renewed"].as_array().unwrap().clone();
        list.iter().map(|r| r["ending"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(endings(&kept), ["kept"; 3]);
    assert!(!calypso.asked().iter().any(|a| a == "request a certificate"));
    assert_eq!(serial(&desk, "calypso/agent.crt").await, before);

    let done = desk.ctl(&["pki", "renew", "--yes", "-o", "json"]).await.exits(0);
    assert_eq!(endings(&done), ["renewed"; 3]);
    assert_ne!(serial(&desk, "calypso/agent.crt").await, before);
    assert_ne!((serial(&desk, "me/operator.crt").await, desk.read("me/operator.key")), mine);
    assert_eq!(mode(&desk.path("me/operator.key")), 0o600);
    for cert in ["calypso/agent.crt", "styx/agent.crt", "me/operator.crt"] {
        let (fine, said) = openssl(&desk, &format!("verify -CAfile pki/ca.crt {cert}")).await;
        assert!(fine, "{said}");
    }
    let (_, names) = openssl(&desk, "x509 -in calypso/agent.crt -noout -ext subjectAltName").await;
    assert!(names.contains("IP Address:127.0.0.1") && names.contains("DNS:calypso"), "{names}");
    desk.ctl(&["status"]).await.exits(0);

    // One's own may have expired meanwhile, and an agent's not.
    let args =
        ["operator", "alice", "--role", "operator", "--days", "0", "--dir", "pki", "--out", "me"];
    desk.pki(&args).await;
    desk.ctl(&["status"]).await.exits(1);
    desk.ctl(&["pki", "renew", "--operator", "--yes"]).await.exits(0);
    desk.ctl(&["status"]).await.exits(0);
    expire(&desk).await;
    let late = desk.ctl(&["pki", "renew", "styx", "--yes", "-o", "json"]).await.exits(1);
    assert_eq!(endings(&late), ["failed"]);
}

#[tokio::test]
async fn an_authority_under_a_passphrase_signs_for_who_knows_it() {
    let desk = Desk::new().await;
    let file = format!("file:{}", desk.path("pass").display());
    desk.write("pass", PASSPHRASE);
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(desk.path("pass"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let init = ["pki", "init", "--cluster", "lab", "--dir", "safe", "--encrypt", "--passphrase"];
    desk.write("short", "eleven char");
    std::fs::set_permissions(desk.path("short"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let short = format!("file:{}", desk.path("short").display());
    desk.ctl(&[&init[..], &[&short]].concat()).await.exits(2).says("fewer than 12 characters");
    let told = desk.ctl(&[&init[..], &[PASSPHRASE]].concat()).await.exits(2);
    assert!(!told.stderr.contains(PASSPHRASE), "{}", told.stderr);
    assert!(!desk.path("safe").exists());
    desk.ctl(&[&init[..], &[&file]].concat()).await.exits(0);
    assert!(desk.read("safe/ca.key").starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    assert_eq!(mode(&desk.path("safe/ca.key")), 0o600);
    let (fine, key) = openssl(&desk, "pkey -in safe/ca.key -passin env:PASS -pubout").await;
    assert!(fine && key.contains("BEGIN PUBLIC KEY"), "{key}");
    let (_, of_cert) = openssl(&desk, "x509 -in safe/ca.crt -noout -pubkey").await;
    assert_eq!(key, of_cert);
    assert!(!openssl(&desk, "pkey -in safe/ca.key -passin pass:wrong -noout").await.0);

    let sign = ["pki", "operator", "eve", "--role", "viewer", "--dir", "safe", "--out", "eve"];
    desk.ctl(&sign).await.exits(2).says("--passphrase env:NAME");
    desk.ctl(&[&sign[..], &["--passphrase", &short]].concat())
        .await
        .exits(1)
        .says("ca.key: the passphrase does not open it");
    assert!(!desk.path("eve").exists());
    desk.ctl(&[&sign[..], &["--passphrase", &file]].concat()).await.exits(0);
    let (fine, said) = openssl(&desk, "verify -CAfile safe/ca.crt eve/operator.crt").await;
    assert!(fine, "{said}");
}

/// Types on a terminal, each line once its question is there.
async fn asked(desk: &Desk, args: &str, lines: &[&str]) -> (i32, String) {
    let mut c = Command::new("script");
    c.args(["-qec", &format!("{} {args}", env!("CARGO_BIN_EXE_ctl")), "/dev/null"]);
    c.current_dir(desk.path("")).env_clear().env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh");
    c.env("NO_COLOR", "1");
    c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = c.spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    let mut waiting = lines.iter();
    let mut next = waiting.next();
    let talk = async {
        loop {
            let n = screen.read(&mut buffer).await.unwrap();
            if n == 0 {
                break;
            }
            seen += &String::from_utf8_lossy(&buffer[..n]);
            if let Some(line) = next.filter(|_| seen.ends_with(": ")) {
                keys.write_all(format!("{line}\n").as_bytes()).await.unwrap();
                next = waiting.next();
            }
        }
        child.wait().await.unwrap().code().unwrap()
    };
    let code = tokio::time::timeout(Duration::from_secs(60), talk).await.unwrap();
    (code, seen)
}

#[tokio::test]
async fn a_typed_passphrase_is_not_shown_and_must_be_typed_the_same_twice() {
    let desk = Desk::new().await;
    let init = "pki init --cluster lab --dir safe --encrypt";
    let (code, seen) = asked(&desk, init, &[PASSPHRASE, "correct horse batterx"]).await;
    assert_eq!(code, 2, "{seen}");
    assert!(seen.contains("was something else") && !desk.path("safe").exists(), "{seen}");
    let (code, seen) = asked(&desk, init, &[PASSPHRASE, PASSPHRASE]).await;
    assert_eq!(code, 0, "{seen}");
    assert!(!seen.contains("horse"), "{seen}");
    let sign = "pki operator eve --role viewer --dir safe --out eve";
    let (code, seen) = asked(&desk, sign, &[PASSPHRASE]).await;
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains("Passphrase of safe/ca.key") && !seen.contains("horse"), "{seen}");
}
