//! What `--help` says, verb by verb, against a golden file. `UPDATE=1` rewrites it.

use crate::desk::Desk;
use std::path::Path;

#[tokio::test]
async fn help_is_as_it_was_agreed() {
    let desk = Desk::new().await;
    let mut text = String::new();
    let verbs = [
        "",
        "status",
        "diagnose",
        "plan",
        "heal",
        "watch",
        "undo",
        "report",
        "history",
        "logs",
        "baseline",
        "cleanup",
        "cleanup namespace",
        "cleanup orphans",
        "cleanup culprit",
        "cordon",
        "uncordon",
        "drain",
        "delete",
        "verify",
        "rights",
        "check",
        "drill",
        "install",
        "uninstall",
        "audit",
        "faults",
        "recover",
        "vps",
        "vps list",
        "vps show",
        "vps restart",
        "vps rescue",
        "vps recreate",
        "pki",
        "pki init",
        "pki agent",
        "pki operator",
        "pki status",
        "pki renew",
        "pki revoke",
        "pki show",
        "completions",
        "man",
    ];
    for verb in verbs {
        let args: Vec<_> = verb.split_whitespace().chain(["--help"]).collect();
        let help = desk.ctl(&args).await.exits(0).stdout;
        assert!(help.contains("Usage: ctl"), "{help}");
        text = format!("{text}$ ctl {}\n{help}\n", args.join(" "));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "UPDATE=1 rewrites it");
}

#[tokio::test]
async fn faults_are_listed_told_and_guessed() {
    let desk = Desk::new().await;
    let list = desk.ctl(&["faults", "-o", "json"]).await.exits(0).json();
    let ids: Vec<_> =
        list["faults"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).collect();
    assert_eq!(ids, lifeline_core::faults::ALL.iter().map(|f| f.id).collect::<Vec<_>>());
    let one = desk.ctl(&["faults", ids[0]]).await.exits(0).stdout;
    assert!(one.starts_with(&format!("{}: ", ids[0])) && one.contains("mended by"), "{one}");
    let typo = format!("{}x", ids[0]);
    desk.ctl(&["faults", &typo]).await.exits(2).says(&format!("did you mean {}?", ids[0]));
}
