//! The lab's second gear: a real cluster of real parts, and the real tailscaled beyond the gateway and in the pods.
//!
//! Same wires, nodes and tools as the quick gear; only what stands behind the nodes differs. k3s itself and flannel's own main
//! are not to be had as Go modules: their supervisor and their furniture stand in (`supervisor.rs`, `flannel.rs`), everything
//! below them is what upstream builds.

pub mod ahead;
pub mod apiserver;
pub mod captor;
pub mod capture;
pub mod cgroup;
pub mod cluster;
pub mod culprit;
pub mod disk;
pub mod faults;
pub mod flannel;
pub mod go;
pub mod ground;
pub mod image;
pub mod incident;
pub mod itself;
pub mod judge;
pub mod logs;
pub mod parts;
pub mod supervisor;
pub mod tailnet;
pub mod view;

/// The password by which a k3s node says that it is the one of that name.
#[must_use]
pub fn node_password(node: &str) -> String {
    format!("lab-node-password-of-{node}")
}
