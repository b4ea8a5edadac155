//! Sysctls of the network. Never any other.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use lifeline_core::engine::Failure;
use lifeline_core::op::Seen;

use super::{blocking, lasting, passing};

/// A write takes the routing lock, which somebody may hold for a while.
const LIMIT: Duration = Duration::from_secs(3);

/// The file of a key. Like sysctl(8): `net.ipv4.conf.all.rp_filter`, or with slashes when a device's name has a dot,
/// `net/ipv4/conf/eth0.100/rp_filter`.
fn path_of(key: &str) -> Result<PathBuf, String> {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !plain || !path.starts_with("net/") {
        return Err(format!("sysctl {key}: refused: it is none of the network's"));
    }
    Ok(PathBuf::from("/proc/sys").join(path))
}

/// Its value; none when there is no such sysctl.
///
/// # Errors
/// When it cannot be read.
pub async fn look(key: &str) -> Result<Seen, String> {
    let path = path_of(key)?;
    let read = blocking(LIMIT, move || std::fs::read_to_string(path)).await;
    match read.map_err(|late| format!("read sysctl {key}: {late}"))? {
        Ok(text) => Ok(Seen::Sysctl { value: Some(text.trim().to_owned()) }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Seen::Sysctl { value: None }),
        Err(e) => Err(format!("read sysctl {key}: {e}")),
    }
}

/// Sets it.
///
/// # Errors
/// When the kernel does not take the value.
pub async fn act(key: &str, value: &str) -> Result<(), Failure> {
    let what = format!("set sysctl {key} to {value}");
    let path = path_of(key).map_err(lasting)?;
    let text = format!("{value}\n");
    match blocking(LIMIT, move || std::fs::write(path, text)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(lasting(format!("{what}: {e}"))),
        Err(late) => Err(passing(format!("{what}: {late}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_the_network_are_touched() {
        let path = |k| path_of(k).map(|p| p.to_string_lossy().into_owned());
        let dots = path("net.ipv4.conf.all.rp_filter").unwrap();
        assert_eq!(dots, "/proc/sys/net/ipv4/conf/all/rp_filter");
        let slashes = path("net/ipv4/conf/eth0.100/rp_filter").unwrap();
        assert_eq!(slashes, "/proc/sys/net/ipv4/conf/eth0.100/rp_filter");
        for bad in ["kernel.panic", "net/../kernel/panic", "net..x", "", "/etc/passwd", "net/"] {
            assert!(path_of(bad).is_err(), "{bad}");
        }
    }
}
