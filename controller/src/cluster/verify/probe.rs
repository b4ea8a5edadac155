//! Asks for a Service by its name from a pod on a node: name resolution and the way to it in one question.
//!
//! The pod's image must be on the node already, nothing is pulled; its answer comes as its termination message, because its
//! log would come over the kubelet's port 10250, which may be what is broken.

use super::{Check, Said};
use crate::cluster::{Cluster, ClusterError, ask, remove};
use crate::config::verify::Reach;
use crate::obstacle::chain;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// From its creation to its answer.
const LIMIT: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(500);

/// What the pod does, by whichever of the tools its image has. One that crashes has said nothing of the network, and the next is asked:
/// Debian's static busybox has a wget that does. What the image cannot ask at all is told as not tested.
const ASK: &str = r#"
say() { printf '%s' "$1" > /dev/termination-log; exit 0; }
has() { command -v "$1" > /dev/null 2>&1; }
judge() {
  [ "$2" = 0 ] && say reachable
  [ "$2" -lt 126 ] && say "unreachable: $1 ended with code $2${3:+: $3}"
  doubts="$doubts, $1 ended with code $2"
}
if has curl; then
  said=$(curl -q -sS -f -o /dev/null --max-time 8 "$URL" 2>&1)
  judge curl $? "$said"
fi
if has wget; then
  said=$(wget -q -T 8 -t 1 -O /dev/null "$URL" 2>&1)
  judge wget $? "$said"
fi
rest=${URL#http://}
host=${rest%%/*}
name=${host%:*}
port=${host##*:}
[ "$port" = "$host" ] && port=80
address() {
  named=
  printf '%s\n' "$told" | while read -r word first rest; do
    case $word in
      Name:) named=yes ;;
      Address:) if [ "$named" ]; then echo "$first"; break; fi ;;
      Address) if [ "$named" ]; then echo "${rest%% *}"; break; fi ;;
    esac
  done
}
by_hand() {
  at=$name
  case $name in *[!0-9.]*)
    if has nslookup; then
      told=$(nslookup "$name" 2>&1)
      code=$?
      at=$(address)
      [ "$at" ] || judge nslookup $(( code ? code : 1 )) "no address of $name"
      [ "$at" ] || return
    fi ;;
  esac
  path=${rest#"$host"}
  said=$(printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "${path:-/}" "$host" | nc -w 8 "$at" "$port" 2>&1)
  code=$?
  case $said in
    HTTP/?.?' '[23]*) say reachable ;;
    HTTP/*) say "unreachable: ${said%%"$(printf '\r')"*}" ;;
  esac
  judge nc $(( code ? code : 1 )) "no answer from $at port $port"
}
case $URL in
  http://\[*) ;;
  http://*) has nc && by_hand ;;
esac
say "untested: its image has neither curl nor wget, nor nc for plain http, that works${doubts}"
"#;

/// Asks from one node.
pub async fn ask_from(cluster: &Cluster, node: &str, reach: &Reach) -> Check {
    let what = format!("{} from {node}", reach.url);
    match from(cluster, node, reach).await {
        Ok(Ok(answer)) => {
            let (said, detail) = judged(&answer);
            Check::new(what, said, detail)
        }
        Ok(Err(why)) => Check::new(what, Said::Unknown, format!("could not be tested: {why}")),
        Err(e) => Check::new(what, Said::Unknown, format!("could not be tested: {}", chain(&e))),
    }
}

/// What the pod's last words mean. The runtime's own, of a container that could not be begun, say nothing of the network.
fn judged(answer: &str) -> (Said, String) {
    if answer == "reachable" {
        return (Said::Good, answer.to_owned());
    }
    if answer.starts_with("unreachable: ") {
        return (Said::Bad, answer.to_owned());
    }
    let why = answer.strip_prefix("untested: ").unwrap_or(answer);
    (Said::Unknown, format!("could not be tested: {why}"))
}

async fn from(
    cluster: &Cluster,
    node: &str,
    reach: &Reach,
) -> Result<Result<String, String>, ClusterError> {
    let there = ask(format!("node {node}"), cluster.wide::<Node>().get(node)).await?;
    if !has(&there, &reach.image) {
        return Ok(Err(format!("image {} is not on {node}, and nothing is pulled", reach.image)));
    }
    let pods = cluster.api::<Pod>(Some(&reach.namespace));
    let how = PostParams::default();
    let wanted = pod(node, reach);
    let made = ask("a pod that asks", pods.create(&how, &wanted)).await?;
    let name = made.metadata.name.unwrap_or_default();
    let uid = made.metadata.uid.unwrap_or_default();
    let answer = answer(cluster, reach, &name).await;
    // Whatever it said, it goes.
    remove("the end of the pod that asked", &pods, (&name, &uid), Some(0)).await?;
    answer
}

/// A kubelet tells an image by several names; the host in front may be left out in a manifest.
fn has(node: &Node, image: &str) -> bool {
    let images = node.status.as_ref().and_then(|s| s.images.as_deref()).unwrap_or_default();
    let mut names = images.iter().flat_map(|i| i.names.iter().flatten());
    names.any(|n| {
        n == image
            || n.strip_prefix("docker.io/")
                .is_some_and(|n| n == image || n == format!("library/{image}"))
    })
}

fn pod(node: &str, reach: &Reach) -> Pod {
    let pod = json!({
        "metadata": {"generateName": "lifeline-probe-", "labels": {"app.kubernetes.io/name": "lifeline-probe"}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 30,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "ask",
                "image": reach.image,
                "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", ASK],
                "env": [{"name": "URL", "value": reach.url}],
                "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    serde_json::from_value(pod).unwrap_or_default()
}

async fn answer(
    cluster: &Cluster,
    reach: &Reach,
    name: &str,
) -> Result<Result<String, String>, ClusterError> {
    let begun = Instant::now();
    let mut waits = "no kubelet has begun it".to_owned();
    loop {
        let pods = cluster.api::<Pod>(Some(&reach.namespace));
        let now = ask(format!("pod {name}"), pods.get(name)).await?;
        let status = now.status.unwrap_or_default();
        // Refused by its kubelet, or ended by its own deadline: no container of it says anything more.
        let failed = (status.phase.as_deref() == Some("Failed"))
            .then(|| [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>());
        let state = status.container_statuses.unwrap_or_default().pop().and_then(|c| c.state);
        let state = state.unwrap_or_default();
        if let Some(ended) = state.terminated {
            let said = ended.message.filter(|m| !m.is_empty());
            let why = format!("it ended with code {} and said nothing", ended.exit_code);
            return Ok(said.map(|m| m.trim().to_owned()).ok_or(why));
        }
        if let Some(why) = failed {
            return Ok(Err(format!("its pod failed: {}", why.join(": "))));
        }
        if let Some(waiting) = state.waiting {
            waits = [waiting.reason, waiting.message]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": ");
            // These do not pass by waiting.
            if waits.starts_with("ErrImage")
                || waits.starts_with("Create")
                || waits.starts_with("InvalidImage")
            {
                return Ok(Err(waits));
            }
        }
        if begun.elapsed() > LIMIT {
            return Ok(Err(format!("no answer in {} s: {waits}", LIMIT.as_secs())));
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    /// What the pod would say, in an image that has these programs alone.
    fn says(url: &str, programs: &[(&str, &str)]) -> String {
        let image = tempfile::tempdir().unwrap();
        for (name, script) in programs {
            let file = image.path().join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let log = image.path().join("log");
        let ask = ASK.replace("/dev/termination-log", &log.display().to_string());
        let mut shell = Command::new("/bin/sh");
        let done = shell.args(["-c", &ask]).env_clear().env("PATH", image.path()).env("URL", url);
        let done = done.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        fs::read_to_string(log).unwrap()
    }

    const URL: &str = "http://web.apps.svc.cluster.local:8080/health";
    const CRASHES: &str = "kill -SEGV $$";
    const NSLOOKUP: &str =
        r"printf 'Server:\t10.43.0.10\nAddress:\t10.43.0.10:53\n\nName:\tx\nAddress: 10.43.7.7\n'";

    /// An nc that hears what it is asked where it is asked, and answers so.
    fn nc(answer: &str) -> String {
        format!(
            "read -r line; [ \"$* $line\" = \"-w 8 10.43.7.7 8080 $(printf 'GET /health HTTP/1.0\\r')\" ] || exit 9; printf '{answer}'"
        )
    }

    #[test]
    fn whichever_tool_the_image_has_is_asked() {
        assert_eq!(says(URL, &[("curl", "[ \"$8\" = \"$URL\" ]")]), "reachable");
        assert_eq!(says(URL, &[("wget", ":")]), "reachable");
        let answers = nc("HTTP/1.0 200 OK\\r\\n\\r\\nok");
        let by_hand = [("nslookup", NSLOOKUP), ("nc", answers.as_str())];
        assert_eq!(says(URL, &by_hand), "reachable");
        let old = NSLOOKUP.replace("Address: 10.43.7.7", "Address 1: 10.43.7.7 x.svc");
        assert_eq!(says(URL, &[("nslookup", old.as_str()), by_hand[1]]), "reachable");
    }

    #[test]
    fn a_tool_that_crashes_says_nothing_and_the_next_one_is_asked() {
        let answers = nc("HTTP/1.1 204 \\r\\n\\r\\n");
        let programs = [("wget", CRASHES), ("nslookup", NSLOOKUP), ("nc", answers.as_str())];
        assert_eq!(says(URL, &programs), "reachable");
        let none = says(URL, &programs[..1]);
        assert!(
            none.starts_with("untested: ") && none.ends_with("wget ended with code 139"),
            "{none}"
        );
        assert!(says(URL, &[]).starts_with("untested: "));
        assert!(says("https://web", &programs).starts_with("untested: "), "nc speaks no TLS");
    }

    #[test]
    fn what_was_asked_and_did_not_answer_is_unreachable_and_why() {
        let refused = says(URL, &[("curl", "echo 'refused' >&2; exit 7"), ("wget", ":")]);
        assert_eq!(refused, "unreachable: curl ended with code 7: refused");
        assert_eq!(says(URL, &[("wget", "exit 4")]), "unreachable: wget ended with code 4");
        let told = |answer: &str| says(URL, &[("nslookup", NSLOOKUP), ("nc", &nc(answer))]);
        assert_eq!(told("HTTP/1.1 503 Busy\\r\\n"), "unreachable: HTTP/1.1 503 Busy");
        let silent = "unreachable: nc ended with code 1: no answer from 10.43.7.7 port 8080";
        assert_eq!(told(""), silent);
        let nameless = says(URL, &[("nslookup", "exit 1"), ("nc", ":")]);
        assert!(
            nameless.ends_with("code 1: no address of web.apps.svc.cluster.local"),
            "{nameless}"
        );
        assert!(nameless.starts_with("unreachable: "), "{nameless}");
        let crashed = says(URL, &[("nslookup", CRASHES), ("nc", ":")]);
        assert!(crashed.starts_with("untested: "), "{crashed}");
    }

    #[test]
    fn only_the_probes_own_words_say_anything_of_the_network() {
        assert_eq!(judged("reachable").0, Said::Good);
        assert_eq!(judged("unreachable: curl ended with code 7").0, Said::Bad);
        for other in ["untested: no tool", "exec: \"/bin/sh\": no such file", "reachable\nnot"] {
            assert_eq!(judged(other).0, Said::Unknown, "{other}");
        }
    }

    #[test]
    fn the_probe_pulls_nothing_and_passes_the_restricted_standard() {
        let reach = Reach {
            url: "http://web.apps.svc".into(),
            image: "lab/tools:1".into(),
            namespace: "default".into(),
        };
        let pod = serde_json::to_value(pod("calypso", &reach)).unwrap();
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Never");
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["spec"]["nodeName"], "calypso");
    }

    #[test]
    fn an_image_is_known_by_any_of_its_names() {
        let node: Node = serde_json::from_value(json!({"metadata": {}, "status": {"images": [
            {"names": ["docker.io/lab/tools@sha256:1", "docker.io/lab/tools:1"], "sizeBytes": 1}]}}))
        .unwrap();
        assert!(has(&node, "lab/tools:1") && has(&node, "docker.io/lab/tools:1"));
        assert!(!has(&node, "lab/tools:2"));
    }
}
