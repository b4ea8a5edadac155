//! The agent's Debian package put together from what its manifest says, without the tool that releases are made with: so that what
//! its scripts promise is tried wherever `dpkg-deb` is.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Doing, LabError, Result};
use crate::run;

/// Packing a debug build takes seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// What cargo-deb puts the build's folder in the place of.
const BUILT: &str = "target/release/";

/// `[package.metadata.deb]` of the agent's manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Deb {
    maintainer: String,
    section: String,
    priority: String,
    depends: String,
    conf_files: Vec<String>,
    maintainer_scripts: PathBuf,
    /// What, where, and its mode in octal.
    assets: Vec<(String, String, String)>,
}

/// Packs the agent that lies in `built` as this version, and says where the package is.
pub fn pack(built: &Path, version: &str, into: &Path) -> Result<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../agent"));
    let deb = manifest(folder)?;
    let stage = into.join(format!("package-{version}"));
    if stage.exists() {
        fs::remove_dir_all(&stage).doing(|| format!("remove {}", stage.display()))?;
    }
    for (from, to, mode) in &deb.assets {
        let source = match from.strip_prefix(BUILT) {
            Some(program) => built.join(program),
            None => folder.join(from),
        };
        let name = source.file_name().unwrap_or_default();
        put(&source, &stage.join(to).join(name), mode)?;
    }
    let control = stage.join("DEBIAN");
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        put(&folder.join(&deb.maintainer_scripts).join(script), &control.join(script), "755")?;
    }
    let mut text = format!("Package: lifeline-agent\nVersion: {version}\nArchitecture: all\n");
    for (key, value) in [
        ("Maintainer", &deb.maintainer),
        ("Section", &deb.section),
        ("Priority", &deb.priority),
        ("Depends", &deb.depends),
    ] {
        // Nothing that writes to a string fails.
        let _written = writeln!(text, "{key}: {value}");
    }
    text += "Description: packed for a trial\n";
    write(&control.join("control"), &text)?;
    write(&control.join("conffiles"), &(deb.conf_files.join("\n") + "\n"))?;
    let package = into.join(format!("lifeline-agent_{version}.deb"));
    let mut call = Command::new("dpkg-deb");
    // A debugging program is large, and nobody keeps this.
    call.args(["--root-owner-group", "-Znone", "--build"]).arg(&stage).arg(&package);
    run::run(&mut call, LIMIT, None)?.success()?;
    fs::remove_dir_all(&stage).doing(|| format!("remove {}", stage.display()))?;
    Ok(package)
}

fn manifest(folder: &Path) -> Result<Deb> {
    let mut call = crate::cargo::command();
    call.args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]);
    let said = run::run(call.arg(folder.join("Cargo.toml")), LIMIT, None)?.success()?.stdout;
    let what = |what: &str| {
        let what = what.to_owned();
        |source| LabError::Format { what, source }
    };
    let all: serde_json::Value = serde_json::from_str(&said).map_err(what("cargo metadata"))?;
    let packages = all["packages"].as_array().into_iter().flatten();
    let ours = packages.into_iter().find(|p| p["name"] == "lifeline-agent");
    let deb = ours.map(|p| p["metadata"]["deb"].clone()).unwrap_or_default();
    serde_json::from_value(deb).map_err(what("[package.metadata.deb] of agent/Cargo.toml"))
}

fn put(from: &Path, to: &Path, mode: &str) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))?;
    fs::copy(from, to).doing(|| format!("copy {} to {}", from.display(), to.display()))?;
    let mode = u32::from_str_radix(mode, 8)
        .map_err(|why| LabError::Refused(format!("understand the mode {mode:?}: {why}")))?;
    fs::set_permissions(to, Permissions::from_mode(mode))
        .doing(|| format!("set the mode of {}", to.display()))
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs::write(to, text).doing(|| format!("write {}", to.display()))
}
