//! Who puts an object back when it is deleted: told by the marks that Flux, Argo CD, Helm, k3s and Pulumi leave on it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What kind of owner it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// A Kustomization of Flux.
    FluxKustomization,
    /// A `HelmRelease` of Flux.
    FluxHelmRelease,
    /// An Application of Argo CD.
    Argo,
    /// A file among the k3s server's manifests, or a `HelmChart` of k3s.
    K3s,
    /// A Helm release.
    Helm,
    /// A Pulumi stack.
    Pulumi,
}

/// An owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// What kind.
    pub by: By,
    /// Its namespace, if its marks tell.
    pub namespace: Option<String>,
    /// Its name; of Pulumi and of mere fields' managers it is not known.
    pub name: Option<String>,
}

impl Owner {
    /// It puts back what is deleted, by itself, within seconds or minutes.
    pub fn returns(&self) -> bool {
        !matches!(self.by, By::Helm | By::Pulumi)
    }

    /// It must be told before what it made is deleted: it puts that back, or keeps a record of a release that is no more.
    pub fn is_told_first(&self) -> bool {
        self.returns() || self.by == By::Helm
    }

    /// What it does when what it made is deleted behind its back.
    pub fn does(&self) -> &'static str {
        match self.by {
            By::Helm => {
                "keeps a record of what is deleted, and makes it again with its next upgrade"
            }
            By::Pulumi => "makes what is deleted again with its next run",
            By::FluxKustomization | By::FluxHelmRelease | By::Argo | By::K3s => {
                "puts back what is deleted"
            }
        }
    }

    /// For people: `Flux Kustomization flux-system/apps`.
    pub fn words(&self) -> String {
        let kind = match self.by {
            By::FluxKustomization => "Flux Kustomization",
            By::FluxHelmRelease => "Flux HelmRelease",
            By::Argo => "Argo CD Application",
            By::K3s => "k3s addon",
            By::Helm => "Helm release",
            By::Pulumi => "Pulumi stack",
        };
        match self.place() {
            place if place.is_empty() => format!("{kind} of unknown name"),
            place => format!("{kind} {place}"),
        }
    }

    /// How it is kept from putting things back, as somebody types it.
    pub fn suspend(&self) -> String {
        let name = self.name.as_deref().unwrap_or("NAME");
        let space = |flag: &str| match &self.namespace {
            Some(n) => format!(" {flag} {n}"),
            None => String::new(),
        };
        match self.by {
            By::FluxKustomization => format!("flux suspend kustomization {name}{}", space("-n")),
            By::FluxHelmRelease => format!("flux suspend helmrelease {name}{}", space("-n")),
            By::Argo => format!("argocd app set {name} --sync-policy none"),
            By::K3s => format!(
                "on the k3s server: touch /var/lib/rancher/k3s/server/manifests/{name}.yaml.skip"
            ),
            By::Helm => format!("helm uninstall {name}{}", space("-n")),
            By::Pulumi => {
                "take it out of the Pulumi program, or the next `pulumi up` makes it again"
                    .to_owned()
            }
        }
    }

    fn place(&self) -> String {
        let both = [self.namespace.as_deref(), self.name.as_deref()];
        both.into_iter().flatten().collect::<Vec<_>>().join("/")
    }
}

type Marks = BTreeMap<String, String>;

/// The owner an object's marks tell of; the most certain mark first.
pub fn of(meta: &ObjectMeta) -> Option<Owner> {
    let empty = Marks::new();
    let labels = meta.labels.as_ref().unwrap_or(&empty);
    let notes = meta.annotations.as_ref().unwrap_or(&empty);
    flux(labels)
        .or_else(|| argo(labels, notes))
        .or_else(|| k3s(notes))
        .or_else(|| helm(labels, notes))
        .or_else(|| pulumi(labels, notes))
        .or_else(|| managers(meta))
}

fn owner(by: By, namespace: Option<&String>, name: Option<&String>) -> Owner {
    let some = |s: Option<&String>| s.filter(|s| !s.is_empty()).cloned();
    Owner { by, namespace: some(namespace), name: some(name) }
}

fn flux(labels: &Marks) -> Option<Owner> {
    let kinds = [
        ("kustomize.toolkit.fluxcd.io", By::FluxKustomization),
        ("helm.toolkit.fluxcd.io", By::FluxHelmRelease),
    ];
    kinds.into_iter().find_map(|(domain, by)| {
        let name = labels.get(&format!("{domain}/name"))?;
        Some(owner(by, labels.get(&format!("{domain}/namespace")), Some(name)))
    })
}

fn argo(labels: &Marks, notes: &Marks) -> Option<Owner> {
    // `application:group/kind:namespace/name`; with applications in any namespace, `namespace_application`.
    if let Some(id) = notes.get("argocd.argoproj.io/tracking-id") {
        let app = id.split(':').next().unwrap_or_default();
        let (namespace, name) = match app.split_once('_') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
            None => (None, app.to_owned()),
        };
        return Some(owner(By::Argo, namespace.as_ref(), Some(&name)));
    }
    labels.get("argocd.argoproj.io/instance").map(|name| owner(By::Argo, None, Some(name)))
}

fn k3s(notes: &Marks) -> Option<Owner> {
    let gvk = notes.get("objectset.rio.cattle.io/owner-gvk")?;
    let ours = gvk.contains("Kind=Addon") || gvk.contains("Kind=HelmChart");
    let namespace = notes.get("objectset.rio.cattle.io/owner-namespace");
    ours.then(|| owner(By::K3s, namespace, notes.get("objectset.rio.cattle.io/owner-name")))
}

fn helm(labels: &Marks, notes: &Marks) -> Option<Owner> {
    let name = notes.get("meta.helm.sh/release-name");
    let marked = labels.get("app.kubernetes.io/managed-by").is_some_and(|m| m == "Helm");
    let namespace = notes.get("meta.helm.sh/release-namespace");
    (marked || name.is_some()).then(|| owner(By::Helm, namespace, name))
}

fn pulumi(labels: &Marks, notes: &Marks) -> Option<Owner> {
    let marked = labels.get("app.kubernetes.io/managed-by").is_some_and(|m| m == "pulumi");
    let noted = notes.keys().any(|k| k.starts_with("pulumi.com/"));
    (marked || noted).then(|| owner(By::Pulumi, None, None))
}

/// Who wrote its fields last resort: a name without a place.
fn managers(meta: &ObjectMeta) -> Option<Owner> {
    let fields = meta.managed_fields.as_deref().unwrap_or_default();
    let known = [
        ("kustomize-controller", By::FluxKustomization),
        ("helm-controller", By::FluxHelmRelease),
        ("argocd", By::Argo),
        ("deploy@", By::K3s),
        ("pulumi", By::Pulumi),
    ];
    known.into_iter().find_map(|(prefix, by)| {
        let wrote = fields.iter().filter_map(|f| f.manager.as_deref());
        wrote.into_iter().any(|m| m.starts_with(prefix)).then(|| owner(by, None, None))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(meta: serde_json::Value) -> Option<String> {
        of(&serde_json::from_value(meta).unwrap()).map(|o| o.words())
    }

    #[test]
    fn each_owner_is_known_by_its_own_marks() {
        let cases = [
            (
                json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}}),
                "Flux Kustomization flux-system/apps",
            ),
            (
                json!({"labels": {"helm.toolkit.fluxcd.io/name": "ts", "helm.toolkit.fluxcd.io/namespace": "vpn", "app.kubernetes.io/managed-by": "Helm"},
                       "annotations": {"meta.helm.sh/release-name": "ts"}}),
                "Flux HelmRelease vpn/ts",
            ),
            (
                json!({"annotations": {"argocd.argoproj.io/tracking-id": "vpn:apps/DaemonSet:tailscale-system/ts"}}),
                "Argo CD Application vpn",
            ),
            (
                json!({"annotations": {"objectset.rio.cattle.io/owner-gvk": "k3s.cattle.io/v1, Kind=Addon",
                       "objectset.rio.cattle.io/owner-name": "vpn", "objectset.rio.cattle.io/owner-namespace": "kube-system"}}),
                "k3s addon kube-system/vpn",
            ),
            (
                json!({"annotations": {"meta.helm.sh/release-name": "ts", "meta.helm.sh/release-namespace": "vpn"}}),
                "Helm release vpn/ts",
            ),
            (
                json!({"labels": {"app.kubernetes.io/managed-by": "pulumi"}}),
                "Pulumi stack of unknown name",
            ),
            (
                json!({"managedFields": [{"manager": "argocd-controller"}]}),
                "Argo CD Application of unknown name",
            ),
        ];
        for (meta, words) in cases {
            assert_eq!(told(meta.clone()).as_deref(), Some(words), "{meta}");
        }
    }

    #[test]
    fn what_somebody_applied_by_hand_has_no_owner() {
        assert_eq!(
            told(
                json!({"labels": {"app": "x"}, "managedFields": [{"manager": "kubectl-client-side-apply"}]})
            ),
            None
        );
        let gvk = json!({"annotations": {"objectset.rio.cattle.io/owner-gvk": "management.cattle.io/v3, Kind=Project"}});
        assert_eq!(told(gvk), None);
    }

    #[test]
    fn only_what_reconciles_puts_things_back() {
        let by = |by| Owner { by, namespace: Some("n".into()), name: Some("a".into()) };
        assert!(by(By::K3s).returns() && by(By::Argo).returns() && !by(By::Helm).returns());
        assert!(by(By::Helm).is_told_first() && !by(By::Pulumi).is_told_first());
        assert_eq!(by(By::FluxKustomization).suspend(), "flux suspend kustomization a -n n");
    }
}
