//! The repository's folder, and what `make fetch` put into its cache.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The checkout that this process was started in; else the one that it was built from, which may be
/// another one, or gone, where a build folder is shared or a program was copied.
pub fn repository() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = std::env::current_dir().unwrap_or_default();
    let checkout = here.ancestors().find(|folder| folder.join("tests/stack/pom.xml").exists());
    checkout.or_else(|| built_from.parent()).unwrap_or(built_from).to_owned()
}

/// The cache's folder, which `PICKET_CACHE` moves.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("PICKET_CACHE").map_or_else(|| ".cache".into(), PathBuf::from);
    repository().join(cache)
}

/// A file that `make fetch` puts into the cache.
pub fn fetched(path: &str) -> Result<PathBuf> {
    let path = cache().join(path);
    ensure!(path.exists(), "{} is missing: run `make fetch`", path.display());
    Ok(path)
}

/// The real clip with a face.
pub fn clip() -> Result<PathBuf> {
    Ok(std::fs::canonicalize(fetched("video/carphone_pristine.mp4")?)?)
}
