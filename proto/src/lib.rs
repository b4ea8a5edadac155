//! The wire between `ctl` and `lifeline-agent`: generated code, no logic.

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, reason = "generated from proto/lifeline.proto, which is commented")]
    tonic::include_proto!("lifeline.v1");
}
