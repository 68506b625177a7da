//! Files that are generated from the types and kept in the repository: a test compares them, and
//! `make generate` (which sets `UPDATE_GENERATED`) writes them anew.

use std::path::Path;

/// Compares a published file with what the types say, or writes it when asked to.
pub fn check(path: &Path, made: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        return std::fs::write(path, made).map_err(|e| format!("{}: {e}", path.display()));
    }
    match std::fs::read_to_string(path) {
        Ok(kept) if kept == made => Ok(()),
        Ok(_) => Err(format!("{} is stale: run `make generate`", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
