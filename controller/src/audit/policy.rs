//! An admission policy that would have refused the DaemonSet of October: printed for the operator to read and apply.

use crate::error::CommandError;
use crate::pki::subject;

const TEXT: &str = include_str!("policy.yaml");
/// Of the policy and of its binding.
pub const NAME: &str = "lifeline-host-network";
/// Where a cluster's own network lives.
pub const ALWAYS: &str = "kube-system";
/// Words that take a node's routes, as RE2; `risk::takes` reads the same.
const TAKES: &str = r"(^|\\s)(--exit-node(=|\\s+)[^\\s-]|--accept-routes($|\\s|=true)|--?redirect-gateway|AllowedIPs\\s*=.*(0\\.0\\.0\\.0/0|::/0))";

/// The policy and its binding as YAML, letting these namespaces through besides the cluster's own.
pub fn render(allowed: &[String]) -> Result<String, CommandError> {
    let mut names = vec![ALWAYS];
    for name in allowed {
        // It goes into an expression: only what can be a namespace may.
        subject::host("namespace", name)?;
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let quoted: Vec<_> = names.iter().map(|n| format!("'{n}'")).collect();
    Ok(TEXT.replace("{ALLOWED}", &format!("[{}]", quoted.join(", "))).replace("{TAKES}", TAKES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::admissionregistration::v1::{
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    };

    #[test]
    fn the_policy_and_its_binding_are_what_the_api_server_takes() {
        let text = render(&["calico-system".into()]).unwrap();
        let (policy, binding) = text.split_once("\n---\n").unwrap();
        let policy: ValidatingAdmissionPolicy = serde_saphyr::from_str(policy).unwrap();
        let binding: ValidatingAdmissionPolicyBinding = serde_saphyr::from_str(binding).unwrap();
        assert_eq!(policy.metadata.name.as_deref(), Some(NAME));
        assert_eq!(binding.spec.policy_name, NAME);
        let spec = policy.spec.unwrap();
        let allowed = spec.variables.unwrap().into_iter().find(|v| v.name == "allowed").unwrap();
        assert!(allowed.expression.contains("['kube-system', 'calico-system']"));
        assert!(!text.contains("{TAKES}") && !text.contains("{ALLOWED}"));
    }

    #[test]
    fn what_is_no_namespace_gets_into_no_expression() {
        render(&["x'] || true || 'a' in ['".into()]).unwrap_err();
    }
}
