//! What operators are used to: completions that a shell understands, a manual that `man` reads, a kubectl plugin, four formats.

use crate::agent::StandIn;
use crate::desk::Desk;
use std::process::Command;

#[tokio::test]
async fn bash_completes_a_verb_and_an_option() {
    let desk = Desk::new().await;
    let script = desk.ctl(&["completions", "bash"]).await.exits(0).stdout;
    desk.write("completions.bash", &script);
    let complete = |words: &str, count: u32| {
        let line = format!(
            "source completions.bash; COMP_WORDS=({words}); COMP_CWORD={count}; _ctl ctl \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let out =
            Command::new("bash").args(["-c", &line]).current_dir(desk.path(".")).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("ctl stat", 1), "status");
    assert_eq!(complete("ctl heal --up", 2), "--up-to");
    assert_eq!(complete("ctl status --output ''", 3), "table json jsonl yaml");
}

#[tokio::test]
async fn zsh_and_fish_have_theirs_and_another_shell_is_refused() {
    let desk = Desk::new().await;
    assert!(desk.ctl(&["completions", "zsh"]).await.exits(0).stdout.starts_with("#compdef ctl"));
    assert!(desk.ctl(&["completions", "fish"]).await.exits(0).stdout.contains("complete -c ctl"));
    desk.ctl(&["completions", "tcsh"]).await.exits(2).says("bash, zsh, fish");
}

#[tokio::test]
async fn each_verb_has_a_page_whose_examples_stay_lines() {
    let desk = Desk::new().await;
    desk.ctl(&["man", "man1"]).await.exits(0);
    for page in ["ctl.1", "ctl-heal.1", "ctl-vps-restart.1", "ctl-pki-agent.1"] {
        assert!(desk.read(&format!("man1/{page}")).contains(".SH NAME"), "{page}");
    }
    let heal = desk.read("man1/ctl-heal.1");
    let notes = heal.split(".SH NOTES").nth(1).unwrap();
    assert!(notes.contains(".nf") && notes.contains("\n  ctl heal calypso "), "{notes}");
}

#[tokio::test]
async fn kubectl_finds_it_under_the_name_of_a_plugin() {
    let desk = Desk::new().await;
    std::fs::create_dir(desk.path("bin")).unwrap();
    let plugin = desk.path("bin/kubectl-lifeline");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ctl"), &plugin).unwrap();
    let out = Command::new(&plugin).args(["status", "--help"]).output().unwrap();
    let help = String::from_utf8(out.stdout).unwrap();
    assert!(help.contains("Usage: kubectl lifeline status"), "{help}");
}

#[tokio::test]
async fn a_mistyped_verb_is_guessed_and_the_version_says_its_build() {
    let desk = Desk::new().await;
    desk.ctl(&["dianose", "calypso"]).await.exits(2).says("'diagnose'");
    let version = desk.ctl(&["--version"]).await.exits(0).stdout;
    let numbers = format!("ctl {} (", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&numbers) && version.trim().ends_with(')'), "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_document_in_three_forms_for_machines() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    let json = desk.ctl(&["status", "-o", "json"]).await.exits(0).json();
    let lines = desk.ctl(&["status", "-o", "jsonl"]).await.exits(0).stdout;
    let one: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(one["verdict"], json["nodes"][0]["verdict"]);
    let yaml = desk.ctl(&["status", "-o", "yaml"]).await.exits(0).stdout;
    let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(read["nodes"][0]["summary"], json["nodes"][0]["summary"]);
    assert!(yaml.starts_with("nodes:\n"), "{yaml}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_color_is_no_colour_even_on_a_terminal() {
    let desk = Desk::new().await;
    let (at, _agent) = StandIn::calypso().serve(&desk, "calypso", "pki").await;
    desk.configure(&[at]);
    // `typed` runs on a terminal with NO_COLOR set.
    let (code, said) = desk.typed(&["status"], "").await;
    assert!(code == 0 && said.contains("Healthy") && !said.contains('\u{1b}'), "{said:?}");
}
