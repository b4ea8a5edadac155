//! What the stand-in for the API server answers to which request.

use std::sync::{Arc, Mutex};

use hyper::{Method, Request, StatusCode, body::Incoming};
use serde_json::{Value, json};

use super::{
    cluster::{self, Cluster, Kind, Refusal},
    identity::Identity,
    lease::boottime,
};
use crate::standin::http::{self, Answer};

/// A path of the API, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    resource: &'a str,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// `/api/v1[/namespaces/NS]/RESOURCE[/NAME[/status]]`, or the same under `/apis/GROUP/v1`.
    fn parse(path: &'a str) -> Option<Self> {
        let path = path.trim_end_matches('/');
        let (group, rest) = match path.strip_prefix("/api/v1/") {
            Some(rest) => ("", rest),
            None => path.strip_prefix("/apis/")?.split_once("/v1/")?,
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let (namespace, parts) = match parts.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest[0] != "status" => {
                (Some(*namespace), rest)
            }
            all => (None, all),
        };
        let (resource, name) = match parts {
            [resource] => (*resource, None),
            [resource, name] | [resource, name, "status"] => (*resource, Some(*name)),
            _ => return None,
        };
        let known = match resource {
            "leases" => group == "coordination.k8s.io",
            "nodes" | "namespaces" | "pods" => group.is_empty(),
            _ => false,
        };
        known.then_some(Self { resource, namespace, name })
    }
}

/// Answers one request of one client.
pub async fn answer(
    request: Request<Incoming>,
    who: Identity,
    cluster: Arc<Mutex<Cluster>>,
    ca: Vec<u8>,
) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match path.as_str() {
        "/readyz" | "/livez" | "/healthz" => return http::text(StatusCode::OK, "ok"),
        "/version" => return http::json(StatusCode::OK, &version()),
        "/ping" => return http::text(StatusCode::OK, "pong"),
        "/cacerts" => return http::text(StatusCode::OK, ca),
        "/v1-k3s/connect" if !who.is_anonymous() => return http::text(StatusCode::OK, "connected"),
        _ => {}
    }
    if who.is_anonymous() {
        return status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
    }
    if let Some(found) = discovery(&path) {
        return http::json(StatusCode::OK, &found);
    }
    let Some(wanted) = Wanted::parse(&path) else {
        return status(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        );
    };
    let (resource, namespace) = (wanted.resource, wanted.namespace);
    let name = wanted.name.map(str::to_owned);
    if request.uri().query().is_some_and(|query| query.contains("watch=")) {
        return status(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "this stand-in has no watches",
        );
    }
    let read = http::body(request).await.map_err(|cause| cause.to_string());
    let body = match read {
        Ok(bytes) if bytes.is_empty() => Ok(Value::Null),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|cause| cause.to_string()),
        Err(why) => Err(why),
    };
    let body: Value = match body {
        Ok(body) => body,
        Err(why) => return status(StatusCode::BAD_REQUEST, "BadRequest", &why),
    };
    let named = name.as_deref().or_else(|| body["metadata"]["name"].as_str()).map(str::to_owned);
    if !who.may(&method, resource, named.as_deref()) {
        let why = format!(
            "{resource} {:?} is forbidden: User {:?} cannot {method} it",
            named.unwrap_or_default(),
            who.user
        );
        return status(StatusCode::FORBIDDEN, "Forbidden", &why);
    }
    let mut cluster = cluster::lock(&cluster);
    match resource {
        "namespaces" => {
            fixed(&cluster.namespaces(), "Namespace", &cluster.version(), name.as_deref())
        }
        "pods" => fixed(&[], "Pod", &cluster.version(), name.as_deref()),
        "leases" if namespace.is_some_and(|namespace| namespace != "kube-node-lease") => {
            fixed(&[], "Lease", &cluster.version(), name.as_deref())
        }
        "leases" => kept(&mut cluster, Kind::Lease, &method, name.as_deref(), body),
        _ => kept(&mut cluster, Kind::Node, &method, name.as_deref(), body),
    }
}

/// Objects that cannot be written here.
fn fixed(objects: &[Value], kind: &str, version: &str, name: Option<&str>) -> Answer {
    match name {
        None => http::json(StatusCode::OK, &list(kind, version, objects)),
        Some(name) => objects.iter().find(|object| object["metadata"]["name"] == name).map_or_else(
            || refused(&Refusal::NotFound, kind, name),
            |object| http::json(StatusCode::OK, object),
        ),
    }
}

fn kept(
    cluster: &mut Cluster,
    kind: Kind,
    method: &Method,
    name: Option<&str>,
    body: Value,
) -> Answer {
    let (word, at) = (word(kind), boottime());
    let done = match (method, name) {
        (&Method::GET, None) => {
            let objects: Vec<Value> =
                cluster.list(kind).into_iter().map(|object| typed(kind, object)).collect();
            return http::json(StatusCode::OK, &list(word, &cluster.version(), &objects));
        }
        (&Method::POST, None) => {
            cluster.create(kind, body, at).map(|object| (StatusCode::CREATED, object))
        }
        (&Method::GET, Some(name)) => {
            cluster.get(kind, name).map(|object| (StatusCode::OK, object))
        }
        (&Method::PUT, Some(name)) => {
            cluster.update(kind, name, body, at).map(|object| (StatusCode::OK, object))
        }
        (&Method::PATCH, Some(name)) => {
            cluster.patch(kind, name, &body, at).map(|object| (StatusCode::OK, object))
        }
        (&Method::DELETE, Some(name)) => {
            cluster.delete(kind, name).map(|object| (StatusCode::OK, object))
        }
        _ => {
            return status(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "not supported here",
            );
        }
    };
    match done {
        Ok((code, object)) => http::json(code, &typed(kind, object)),
        Err(refusal) => refused(&refusal, word, name.unwrap_or_default()),
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "Node",
        Kind::Lease => "Lease",
    }
}

fn api_version(kind: &str) -> &'static str {
    if kind == "Lease" { "coordination.k8s.io/v1" } else { "v1" }
}

fn typed(kind: Kind, mut object: Value) -> Value {
    object["kind"] = json!(word(kind));
    object["apiVersion"] = json!(api_version(word(kind)));
    if kind == Kind::Lease {
        object["metadata"]["namespace"] = json!("kube-node-lease");
    }
    if object["spec"]["taints"].is_null()
        && let Some(spec) = object["spec"].as_object_mut()
    {
        spec.remove("taints");
    }
    object
}

fn list(kind: &str, version: &str, items: &[Value]) -> Value {
    json!({"kind": format!("{kind}List"), "apiVersion": api_version(kind), "metadata": {"resourceVersion": version}, "items": items})
}

fn refused(refusal: &Refusal, kind: &str, name: &str) -> Answer {
    let plural = format!("{}s", kind.to_lowercase());
    match refusal {
        Refusal::NotFound => {
            status(StatusCode::NOT_FOUND, "NotFound", &format!("{plural} {name:?} not found"))
        }
        Refusal::AlreadyExists => status(
            StatusCode::CONFLICT,
            "AlreadyExists",
            &format!("{plural} {name:?} already exists"),
        ),
        Refusal::Conflict => status(
            StatusCode::CONFLICT,
            "Conflict",
            &format!(
                "Operation cannot be fulfilled on {plural} {name:?}: the object has been modified; please apply your changes to the latest version and try again"
            ),
        ),
        Refusal::Invalid(why) => status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", why),
    }
}

fn status(code: StatusCode, reason: &str, message: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16()});
    http::json(code, &body)
}

fn version() -> Value {
    json!({"major": "1", "minor": "34", "gitVersion": "v1.34.2+k3s1", "gitCommit": "lifeline-lab", "gitTreeState": "clean",
        "buildDate": "2025-11-12T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64"})
}

/// Enough for a client that wants to know which kinds there are.
fn discovery(path: &str) -> Option<Value> {
    let resource = |name: &str, kind: &str, namespaced: bool| {
        json!({"name": name, "singularName": kind.to_lowercase(), "kind": kind, "namespaced": namespaced,
            "verbs": ["get", "list", "create", "update", "patch", "delete"]})
    };
    let group = json!({"groupVersion": "coordination.k8s.io/v1", "version": "v1"});
    match path.trim_end_matches('/') {
        "/api" => Some(
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ),
        "/apis" => Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [
            {"name": "coordination.k8s.io", "versions": [group], "preferredVersion": group}]})),
        "/api/v1" => Some(json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            resource("nodes", "Node", false), resource("namespaces", "Namespace", false), resource("pods", "Pod", true)]})),
        "/apis/coordination.k8s.io/v1" => {
            Some(json!({"kind": "APIResourceList", "groupVersion": "coordination.k8s.io/v1",
            "resources": [resource("leases", "Lease", true)]}))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/calypso";
        let wanted = |resource, namespace, name| Some(Wanted { resource, namespace, name });
        assert_eq!(
            Wanted::parse(lease),
            wanted("leases", Some("kube-node-lease"), Some("calypso"))
        );
        assert_eq!(Wanted::parse("/api/v1/nodes"), wanted("nodes", None, None));
        assert_eq!(Wanted::parse("/api/v1/nodes/styx/status"), wanted("nodes", None, Some("styx")));
        assert_eq!(
            Wanted::parse("/api/v1/namespaces/kube-system"),
            wanted("namespaces", None, Some("kube-system"))
        );
        assert_eq!(Wanted::parse("/api/v1/namespaces/a/pods"), wanted("pods", Some("a"), None));
        assert_eq!(Wanted::parse("/api/v1/leases/x"), None);
        assert_eq!(Wanted::parse("/apis/apps/v1/nodes"), None);
    }
}
