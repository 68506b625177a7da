//! Where the tests find what `make fetch` brings.

use std::path::PathBuf;

/// A fetched file. `PICKET_MODELS` names the folder that holds `models`, `runtime` and `video`;
/// `.cache` at the workspace's root if unset.
pub fn fetched(path: &str) -> PathBuf {
    let folder = match std::env::var_os("PICKET_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.cache"),
    };
    let file = folder.join(path);
    assert!(file.exists(), "{} is missing: run `make fetch`", file.display());
    file
}

/// A real clip, 120 frames of 176x144, with one face in every frame.
pub fn clip() -> PathBuf {
    fetched("video/carphone_pristine.mp4")
}
