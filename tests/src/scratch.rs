//! Folders of what lives as long as the test process.

use std::io::PipeReader;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Waits for the end of its input, which is that of the process that holds the other end, and then
/// removes the folder. Servers that end with that process may write a last file meanwhile.
const REAPER: &str =
    r#"cat; for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" && exit 0; sleep 1; done"#;

/// A folder that is removed when this process ends, however it does. Nothing in Rust runs then: a
/// static is never dropped, and a process may be killed.
pub fn until_exit() -> Result<PathBuf> {
    let folder = tempfile::tempdir()?.keep();
    let (input, held_open) = std::io::pipe().context("a pipe")?;
    reap(&folder, input)?;
    std::mem::forget(held_open);
    Ok(folder)
}

fn reap(folder: &std::path::Path, input: PipeReader) -> Result<()> {
    Command::new("sh")
        .args(["-c", REAPER, "reaper"])
        .arg(folder)
        // Ctrl-C in a terminal reaches the tests alone, and not who tidies up behind them.
        .process_group(0)
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start sh")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::until;

    #[tokio::test]
    async fn a_folder_goes_with_the_process_that_holds_the_pipe() {
        let folder = tempfile::tempdir().unwrap().keep();
        std::fs::write(folder.join("log"), "said").unwrap();
        let (input, held_open) = std::io::pipe().unwrap();
        reap(&folder, input).unwrap();
        assert!(folder.is_dir());
        drop(held_open);
        let limit = Duration::from_secs(60);
        let gone = async || Ok(if folder.exists() { Err("there".to_owned()) } else { Ok(()) });
        until("the folder to be removed", limit, gone).await.unwrap();
    }
}
