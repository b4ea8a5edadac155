//! Configurations nobody should have to debug.

use crate::desk::Desk;

#[tokio::test]
async fn a_missing_configuration_shows_what_one_looks_like() {
    let desk = Desk::new().await;
    let ran = desk.ctl(&["status"]).await.exits(2);
    ran.says("read configuration: read ").says("ctl.toml: No such file").says("[nodes.calypso]");
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_line() {
    let desk = Desk::new().await;
    desk.configure(&[]);
    desk.write("ctl.toml", "cluster = \"lab\"\n\nkubeconfg = \"x\"\n");
    let ran = desk.ctl(&["status"]).await.exits(2);
    ran.says("ctl.toml, line 3: unknown key `kubeconfg`").says("Hint: did you mean kubeconfig?");
}

#[tokio::test]
async fn an_unknown_node_is_guessed_before_anybody_is_dialled() {
    let desk = Desk::new().await;
    desk.configure(&["127.0.0.1:9".parse().unwrap()]);
    let ran = desk.ctl(&["diagnose", "calipso"]).await.exits(2);
    ran.says("find node calipso").says("Hint: did you mean calypso?");
}

#[tokio::test]
async fn usage_errors_exit_with_two_and_help_with_zero() {
    let desk = Desk::new().await;
    desk.ctl(&["heel"]).await.exits(2);
    desk.ctl(&["status", "-o", "yaml"]).await.exits(2);
    let help = desk.ctl(&["--help"]).await.exits(0);
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("Examples:"));
}
