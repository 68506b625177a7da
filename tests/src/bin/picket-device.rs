//! `picket-device`: the virtual device for developers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use picket_tests::device::{Boot, Emulation, Machine, Site, claims};

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
        #[command(flatten)]
        emulation: Emulation,
        /// The script, in one argument or several.
        #[arg(required = true, trailing_var_arg = true)]
        script: Vec<String>,
    },
    /// Installs the package on a new machine, and shows each claim of the device test.
    Test {
        /// The agent's package, for this architecture.
        #[arg(long)]
        package: PathBuf,
        /// Folder for everything that is written; a temporary one if unset.
        #[arg(long)]
        dir: Option<PathBuf>,
        #[command(flatten)]
        emulation: Emulation,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Run { dir, emulation, script } => run(dir, emulation, &script.join(" ")).await,
        Command::Test { package, dir, emulation } => test(dir, &package, emulation).await,
    }
}

fn temporary() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("picket-device.").tempdir()?)
}

async fn test(dir: Option<PathBuf>, package: &Path, emulation: Emulation) -> Result<ExitCode> {
    let start = Instant::now();
    let temporary = temporary()?;
    let dir = dir.unwrap_or_else(|| temporary.path().to_owned());
    println!("device test: {emulation:?}");
    let mut site = Site::start(&dir, emulation).await?;
    let failed = claims::show(&mut site, package).await;
    let seconds = start.elapsed().as_secs();
    anyhow::ensure!(
        failed.is_empty(),
        "after {seconds} s, these do not hold: {}",
        failed.join(", ")
    );
    site.machine.shut_down().await.context("the last shutdown")?;
    site.fleet.stop().await?;
    println!("device test: all claims hold, {seconds} s");
    Ok(ExitCode::SUCCESS)
}

async fn run(dir: Option<PathBuf>, emulation: Emulation, script: &str) -> Result<ExitCode> {
    let temporary = temporary()?;
    let dir = dir.unwrap_or_else(|| temporary.path().to_owned());
    let mut machine = Machine::new(&dir, emulation)?;
    machine.boot(&Boot::default()).await?;
    let output = machine.try_run(script, COMMAND).await?;
    print!("{}", output.out);
    eprint!("{}", output.err);
    Ok(ExitCode::from(u8::try_from(output.code).unwrap_or(u8::MAX)))
}
