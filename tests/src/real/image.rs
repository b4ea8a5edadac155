//! Container images made by hand: a Docker archive around static programs, as there is no registry to ask.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{Doing, Result};

/// One image.
#[derive(Debug)]
pub struct Image<'a> {
    pub name: &'a str,
    /// From the host's file to the image's.
    pub files: &'a [(&'a Path, &'a str)],
    /// Names under which busybox is found in `/bin`; it knows its part by them.
    pub tools: &'a [&'a str],
    pub command: &'a [&'a str],
}

const FOLDERS: [&str; 14] = [
    "bin",
    "dev",
    "etc",
    "lib",
    "lib/modules",
    "proc",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "var",
    "var/lib",
];

/// Writes the image as an archive that `ctr images import` takes.
pub fn write(image: &Image<'_>, to: &Path) -> Result<()> {
    let layer = layer(image)?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": { "Cmd": image.command, "Env": ["PATH=/bin:/sbin:/usr/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [image.name], "Layers": ["layer.tar"] }]);
    let mut archive = Vec::with_capacity(layer.len() + 8192);
    file(&mut archive, &config_name, 0o644, config.as_bytes());
    file(&mut archive, "layer.tar", 0o644, &layer);
    file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
    end(&mut archive);
    fs::write(to, archive).doing(|| format!("write {}", to.display()))
}

fn layer(image: &Image<'_>) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    for folder in FOLDERS {
        let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
        tar.extend(header(folder, mode, 0, b'5', ""));
    }
    // A folder that no entry tells of would be whoever unpacks it's own.
    let above = image.files.iter().flat_map(|(_, to)| Path::new(to).ancestors().skip(1));
    let above: BTreeSet<&str> = above.filter_map(Path::to_str).filter(|f| !f.is_empty()).collect();
    for folder in above.iter().filter(|f| !FOLDERS.contains(f)) {
        tar.extend(header(folder, 0o755, 0, b'5', ""));
    }
    for (from, to) in image.files {
        let bytes = fs::read(from).doing(|| format!("read {}", from.display()))?;
        file(&mut tar, to, 0o755, &bytes);
    }
    for tool in image.tools {
        tar.extend(header(&format!("bin/{tool}"), 0o777, 0, b'2', "busybox"));
    }
    end(&mut tar);
    Ok(tar)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

fn file(tar: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    tar.extend(header(name, mode, bytes.len(), b'0', ""));
    tar.extend(bytes);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Two empty blocks.
fn end(tar: &mut Vec<u8>) {
    tar.resize(tar.len() + 1024, 0);
}

/// A ustar header; times are zero, so that the same content is the same image.
fn header(name: &str, mode: u32, size: usize, kind: u8, link: &str) -> [u8; 512] {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn tar_reads_what_is_written_here() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, vec![7; 1000]).unwrap();
        let image = Image {
            name: "docker.io/lab/x:1",
            files: &[(&program, "bin/busybox"), (&program, "lib/deep/er/x.so")],
            tools: &["sh"],
            command: &["/bin/sh"],
        };
        let archive = dir.path().join("x.tar");
        write(&image, &archive).unwrap();
        let tar = |args: &[&str], at: &Path| {
            let out = Command::new("tar").args(args).current_dir(at).output().unwrap();
            assert!(out.status.success(), "{out:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        assert!(tar(&["-xvf", "x.tar"], dir.path()).contains("manifest.json"));
        let listed = tar(&["-tvf", "layer.tar"], dir.path());
        assert!(listed.contains("bin/sh -> busybox") && listed.contains(" 1000 "), "{listed}");
        assert!(listed.contains("drwxr-xr-x") && listed.contains(" lib/deep/er\n"), "{listed}");
        let manifest = fs::read_to_string(dir.path().join("manifest.json")).unwrap();
        assert!(manifest.contains("docker.io/lab/x:1"), "{manifest}");
    }
}
