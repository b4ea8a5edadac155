//! State directories known culprits leave behind. Their content is not looked at.

use super::Places;
use std::path::Path;

/// Where tailscaled keeps state, socket and cache (field guide A9); siblings with a suffix come from a second instance.
const PREFIX: &str = "tailscale";

/// The directories that are there.
pub(super) fn read(places: &Places) -> Vec<String> {
    let homes = [places.var.join("lib"), places.run.clone(), places.var.join("cache")];
    let mut found: Vec<String> = homes.iter().flat_map(|home| among(home)).collect();
    found.sort();
    found
}

fn among(home: &Path) -> Vec<String> {
    // A home that cannot be read has nothing we could clean either.
    let Ok(entries) = std::fs::read_dir(home) else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX))
        // Not followed: a symlink is not a directory of the culprit's.
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path().to_string_lossy().into_owned())
        .collect()
}
