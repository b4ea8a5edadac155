//! Pods that hold ports of this node, from the records that the CNI library keeps of every sandbox it has wired.
//!
//! `<cache>/results/NETWORK-SANDBOX-DEVICE`, kind `cniCacheV1`: written when a sandbox has been wired, deleted when it is unwired. Only
//! root can write there; what is in it is not believed further than to name a sandbox, which the runtime must know.

use super::{Places, Seen};
use lifeline_core::observation::{HostPorts, Sense};
use serde::Deserialize;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// A node runs at most 110 pods by default; some run 500.
const MOST: usize = 1_024;
/// A record is some 2 KiB.
const LONGEST: u64 = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    container_id: String,
    #[serde(default)]
    cni_args: Vec<(String, String)>,
    #[serde(default)]
    capability_args: Option<Capabilities>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    #[serde(default)]
    port_mappings: Option<Vec<Mapping>>,
}

/// containerd writes Go's own field names, CRI-O the documented ones.
#[derive(Deserialize)]
struct Mapping {
    #[serde(alias = "HostPort", rename = "hostPort", default)]
    host_port: u16,
    #[serde(alias = "Protocol", rename = "protocol", default)]
    protocol: String,
}

/// The pods that hold host ports, by sandbox; none where no CNI has been at work.
pub(super) fn read(places: &Places) -> Seen<Vec<HostPorts>> {
    let home = places.var.join("lib/cni/results");
    match among(&home) {
        Ok(mut found) => {
            found.sort_by(|a, b| (&a.pod, &a.sandbox).cmp(&(&b.pod, &b.sandbox)));
            // A record for each network: loopback's, too, tells all that the sandbox was asked for.
            found.dedup_by(|a, b| a.sandbox == b.sandbox);
            Seen::whole(found)
        }
        Err(why) => Seen::nothing(Sense::HostPorts, why),
    }
}

fn among(home: &Path) -> Result<Vec<HostPorts>, String> {
    let entries = match std::fs::read_dir(home) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("read {}: {e}", home.display())),
    };
    let mut found = Vec::new();
    for (count, entry) in entries.enumerate() {
        if count >= MOST {
            return Err(format!("read {}: more than {MOST} records", home.display()));
        }
        let path = entry.map_err(|e| format!("read {}: {e}", home.display()))?.path();
        let bad = |why: String| format!("read {}: {why}", path.display());
        let mut text = String::new();
        match std::fs::File::open(&path) {
            Ok(file) => {
                file.take(LONGEST).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?
            }
            // Unwired since the folder was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(bad(e.to_string())),
        };
        found.extend(holder(&text).map_err(bad)?);
    }
    Ok(found)
}

/// The pod of a record, if it holds a host port.
fn holder(text: &str) -> Result<Option<HostPorts>, String> {
    let record: Record = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if record.kind != "cniCacheV1" {
        return Err(format!("a record of kind {:?}", record.kind));
    }
    let mappings = record.capability_args.unwrap_or_default().port_mappings.unwrap_or_default();
    let ports: Vec<String> = mappings
        .iter()
        .filter(|m| m.host_port > 0)
        .map(|m| format!("{}/{}", m.protocol.to_lowercase(), m.host_port))
        .collect();
    if ports.is_empty() {
        return Ok(None);
    }
    let arg = |name: &str| {
        let found = record.cni_args.iter().find(|(key, _)| key == name);
        found.map_or("?", |(_, value)| value.as_str())
    };
    let pod = format!("{}/{}", arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME"));
    Ok(Some(HostPorts { sandbox: record.container_id.clone(), pod, ports }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ports: &str) -> String {
        format!(
            r#"{{"kind":"cniCacheV1","containerId":"ab12","config":"e30=","ifName":"eth0","networkName":"cbr0",
            "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","apps"],["K8S_POD_NAME","web-0"]],
            "capabilityArgs":{{"portMappings":{ports}}},"result":{{"cniVersion":"1.0.0"}}}}"#
        )
    }

    fn told(text: &str) -> Option<String> {
        let held = holder(text).unwrap()?;
        Some(format!("{} {} {}", held.sandbox, held.pod, held.ports.join(",")))
    }

    #[test]
    fn a_record_names_the_pod_and_its_host_ports_in_either_spelling() {
        let go = record(r#"[{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP","HostIP":""}]"#);
        assert_eq!(told(&go).as_deref(), Some("ab12 apps/web-0 tcp/8080"));
        let spec = record(r#"[{"hostPort":53,"containerPort":53,"protocol":"udp"}]"#);
        assert_eq!(told(&spec).as_deref(), Some("ab12 apps/web-0 udp/53"));
    }

    #[test]
    fn a_pod_without_host_ports_is_none_and_a_strange_record_is_an_error() {
        assert_eq!(told(&record("null")), None);
        assert_eq!(told(&record(r#"[{"HostPort":0,"ContainerPort":80,"Protocol":"tcp"}]"#)), None);
        assert_eq!(told(r#"{"kind":"cniCacheV1","containerId":"ab12"}"#), None);
        assert!(holder("{}").is_err() && holder(r#"{"kind":"x","containerId":"y"}"#).is_err());
    }

    #[test]
    fn a_sandbox_with_two_networks_is_one_pod() {
        let var = tempfile::tempdir().unwrap();
        let home = var.path().join("lib/cni/results");
        std::fs::create_dir_all(&home).unwrap();
        for name in ["cbr0-ab12-eth0", "cni-loopback-ab12-lo"] {
            let port = r#"[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp"}]"#;
            std::fs::write(home.join(name), record(port)).unwrap();
        }
        let seen = read(&Places { var: var.path().into(), ..Places::default() });
        assert_eq!((seen.found.len(), seen.gaps.len()), (1, 0));
    }

    #[test]
    fn no_folder_is_nothing_there_and_a_folder_that_cannot_be_read_is_a_gap() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(among(&home.path().join("none")), Ok(Vec::new()));
        std::fs::write(home.path().join("cbr0-ab12-eth0"), record("null")).unwrap();
        assert_eq!(among(home.path()), Ok(Vec::new()));
        std::fs::write(home.path().join("cbr0-cd34-eth0"), "half a rec").unwrap();
        assert!(among(home.path()).unwrap_err().contains("cbr0-cd34-eth0"));
    }
}
