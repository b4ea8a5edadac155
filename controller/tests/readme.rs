//! The README's tables against the program they are about. `UPDATE=1` rewrites them.

use crate::desk::Desk;
use std::path::Path;

/// Compares (or rewrites) what stands between `<!-- name -->` and `<!-- /name -->`.
fn section(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) =
        text.split_once(&open).unwrap_or_else(|| panic!("README.md has no {open}"));
    let (found, after) =
        rest.split_once(&close).unwrap_or_else(|| panic!("README.md has no {close}"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{open}{wanted}{close}{after}")).unwrap();
    } else {
        assert_eq!(found, wanted, "README.md has drifted: UPDATE=1 rewrites it");
    }
}

#[tokio::test]
async fn the_readme_is_up_to_date() {
    let desk = Desk::new().await;
    section("faults", &desk.ctl(&["faults", "--markdown"]).await.exits(0).stdout);
    section("recover", &desk.ctl(&["recover", "--explain"]).await.exits(0).stdout);
    let help = desk.ctl(&["--help"]).await.exits(0).stdout;
    let verbs =
        help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let mut table = "| verb | what it does |\n|---|---|\n".to_owned();
    for line in verbs {
        let (verb, what) = line.trim().split_once(' ').unwrap();
        table = format!("{table}| `ctl {verb}` | {} |\n", what.trim());
    }
    assert!(table.contains("| `ctl heal` |"), "{table}");
    section("verbs", &table);
}
