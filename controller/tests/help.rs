//! What `--help` says, verb by verb, against a golden file, and that it shows examples. `UPDATE=1` rewrites it.

use crate::desk::Desk;
use std::path::Path;

/// Every verb there is, as it is typed; the whole command is the first, and has no name. The manual is made by walking the command
/// line's own description, a page a verb.
pub async fn verbs(desk: &Desk) -> Vec<String> {
    let json = desk.ctl(&["man", "pages-of-verbs", "-o", "json"]).await.exits(0).json();
    let name = |page: &serde_json::Value| {
        let file = Path::new(page.as_str().unwrap()).file_stem().unwrap().to_str().unwrap();
        file.trim_start_matches("ctl").trim_start_matches('-').replace('-', " ")
    };
    json["pages"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn help_is_as_it_was_agreed() {
    let desk = Desk::new().await;
    let mut text = String::new();
    let verbs = verbs(&desk).await;
    for verb in &verbs {
        // A verb of verbs has its examples below.
        let below = format!("{verb} ");
        let leaf = !verb.is_empty() && !verbs.iter().any(|v| v.starts_with(&below));
        let args: Vec<_> = verb.split_whitespace().chain(["--help"]).collect();
        let help = desk.ctl(&args).await.exits(0).stdout;
        assert!(help.contains("Usage: ctl"), "{help}");
        assert!(!leaf || help.contains("\nExamples:\n  "), "ctl {verb} --help has no examples");
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
