//! The wire between `ctl` and `lifeline-agent`, and what the agent asks of a container runtime: generated code, no logic.

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, reason = "generated from proto/lifeline.proto, which is commented")]
    tonic::include_proto!("lifeline.v1");
}

/// The part of Kubernetes' Container Runtime Interface that is spoken.
pub mod cri {
    #![allow(missing_docs, reason = "generated from proto/cri.proto, which is commented")]
    tonic::include_proto!("runtime.v1");
}
