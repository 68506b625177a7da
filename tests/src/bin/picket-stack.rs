//! `picket-stack`: Kafka and MongoDB for the demo and for trying things by hand. See the library's
//! `stack` for what it starts and who may do what there.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use picket_tests::process::until;
use picket_tests::stack::{Settings, Stack, StackOptions, enrol_device};
use tokio::signal::unix::{SignalKind, signal};

const UP_LIMIT: Duration = Duration::from_secs(300);
const DOWN_LIMIT: Duration = Duration::from_secs(60);

/// Starts and stops the Kafka and the MongoDB of the demo and the tests.
#[derive(Parser)]
#[command(name = "picket-stack", version)]
enum Cli {
    /// Start both in the background, and print how to connect.
    Up {
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        options: Options,
    },
    /// Stay in the foreground until SIGTERM or Ctrl-C; `up` starts this in the background.
    Run {
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        options: Options,
    },
    /// Stop both; certificates and data stay for the next `up`.
    Down {
        #[command(flatten)]
        folder: Folder,
    },
    /// Make a device's certificate and let it write the device topics.
    AddDevice {
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
    /// Print how to connect.
    Show {
        #[command(flatten)]
        folder: Folder,
    },
}

#[derive(Args)]
struct Folder {
    /// Folder of the stack.
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Args)]
struct Options {
    /// Of the topics and of the aggregator's consumer groups.
    #[arg(long, default_value_t = StackOptions::default().topic_prefix)]
    topic_prefix: String,
    /// A device to enrol; may be given several times.
    #[arg(long = "device", default_values_t = StackOptions::default().devices)]
    devices: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Up { folder, options } => up(&folder.dir, &options).await,
        Cli::Run { folder, options } => run(&folder.dir, options).await,
        Cli::Down { folder } => down(&folder.dir).await,
        Cli::AddDevice { name, folder } => add_device(&folder.dir, &name).await,
        Cli::Show { folder } => show(&folder.dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("picket-stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn up(dir: &Path, options: &Options) -> Result<()> {
    if let Some(process) = running(dir) {
        println!("stack: runs already (process {process})");
        return show(dir);
    }
    fs::create_dir_all(dir).with_context(|| format!("make folder {}", dir.display()))?;
    let dir = fs::canonicalize(dir)?;
    let log = dir.join("stack.log");
    let output = fs::File::create(&log).with_context(|| format!("log {}", log.display()))?;
    println!("stack: starting Kafka and MongoDB in {}", dir.display());

    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run").arg("--dir").arg(&dir).args(["--topic-prefix", &options.topic_prefix]);
    command.args(options.devices.iter().flat_map(|device| ["--device", device]));
    // A group of its own, so that Ctrl-C in this terminal does not reach it.
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let mut child = command.spawn().context("start the stack's own process")?;

    until("the stack to be ready", UP_LIMIT, async || {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}:\n{}", fs::read_to_string(&log)?.trim_end());
        }
        Ok(if running(&dir).is_some() { Ok(()) } else { Err("starting".to_owned()) })
    })
    .await?;
    show(&dir)
}

async fn run(dir: &Path, options: Options) -> Result<()> {
    // Before the start, so that a signal during it ends this process in order as well.
    let mut end = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that closes must not take the stack along.
    let _hangup = signal(SignalKind::hangup())?;

    let options = StackOptions {
        topic_prefix: options.topic_prefix,
        devices: options.devices,
        ..Default::default()
    };
    let stack = tokio::select! {
        started = Stack::start(dir, options) => started?,
        _ = end.recv() => bail!("stopped while starting"),
        _ = interrupt.recv() => bail!("stopped while starting"),
    };
    let ready = stack.settings().dir.join("stack.pid");
    let partial = ready.with_extension("pid.partial");
    fs::write(&partial, std::process::id().to_string())?;
    fs::rename(&partial, &ready)?;
    println!("stack: ready");
    tokio::select! {
        _ = end.recv() => {}
        _ = interrupt.recv() => {}
    }
    println!("stack: stopping");
    let stopped = stack.stop().await;
    fs::remove_file(&ready)?;
    stopped
}

async fn down(dir: &Path) -> Result<()> {
    let Some(process) = running(dir) else {
        println!("stack: not running in {}", dir.display());
        return Ok(());
    };
    let sent = Command::new("kill").args(["-TERM", &process.to_string()]).status()?;
    anyhow::ensure!(sent.success(), "cannot stop process {process}");
    until("the stack to stop", DOWN_LIMIT, async || {
        Ok(if running(dir).is_none() { Ok(()) } else { Err(format!("process {process} runs")) })
    })
    .await?;
    println!("stack: stopped");
    Ok(())
}

async fn add_device(dir: &Path, name: &str) -> Result<()> {
    anyhow::ensure!(running(dir).is_some(), "no stack runs in {}", dir.display());
    let device = enrol_device(&Settings::read(dir)?, name).await?;
    println!("{}", toml::to_string(&device)?.trim_end());
    Ok(())
}

fn show(dir: &Path) -> Result<()> {
    let settings = Settings::read(dir)?;
    println!(
        "{}# for a shell: . {}\n# for kcat -F: {}/*.kcat",
        toml::to_string(&settings)?,
        settings.dir.join("settings.env").display(),
        settings.dir.join("kafka/clients").display()
    );
    Ok(())
}

/// The process that holds this folder's stack, if it is ready. A number in a file may be of a process
/// that is long gone, and the number another's by now: so its command line is asked too.
fn running(dir: &Path) -> Option<u32> {
    let process: u32 = fs::read_to_string(dir.join("stack.pid")).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).into_owned();
    (command.contains("picket-stack") && command.contains("run")).then_some(process)
}
