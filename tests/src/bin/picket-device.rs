//! `picket-device`: the virtual device for developers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use picket_tests::device::{Boot, Machine};

/// Longest that a command of a developer may take.
const COMMAND: Duration = Duration::from_secs(1800);

#[derive(Parser)]
#[command(name = "picket-device", about = "A Debian 12 with a virtual camera, in QEMU.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots a new machine, runs a shell script in it as root, and prints what it says.
    ///
    /// The machine sees this checkout as /checkout, with what was built in target/ and fetched into
    /// .cache/, and may write to /share. `modprobe vivid` makes /dev/video0.
    Run {
        /// Folder for its disk and its console; a temporary one if unset.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The script, in one argument or several.
        #[arg(required = true, trailing_var_arg = true)]
        script: Vec<String>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Run { dir, script } => run(dir, &script.join(" ")).await,
    }
}

async fn run(dir: Option<PathBuf>, script: &str) -> Result<ExitCode> {
    let temporary = tempfile::Builder::new().prefix("picket-device.").tempdir()?;
    let dir = dir.unwrap_or_else(|| temporary.path().to_owned());
    let mut machine = Machine::new(&dir, &[])?;
    machine.boot(&Boot::default()).await?;
    let output = machine.try_run(script, COMMAND).await?;
    print!("{}", output.out);
    eprint!("{}", output.err);
    Ok(ExitCode::from(u8::try_from(output.code).unwrap_or(u8::MAX)))
}
