//! `picket-edge-agent`: the program on the camera box.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use picket_edge_agent::capture::CameraSettings;
use picket_edge_agent::config::Sources;
use picket_edge_agent::control::{self, Done, Request};
use picket_edge_agent::detect::command::Arguments;
use picket_edge_agent::estimate::{self, Estimate};
use picket_edge_agent::identity::{self, Identity};
use picket_edge_agent::spool::{self, Former, KeyError};
use picket_edge_agent::spool_command::{self, ConfigFile};
use picket_edge_agent::wiring::{self, Ended};
use picket_edge_agent::{capture, config, detect, doctor, drill, look, metrics};
use picket_service::config::{Loaded, shown};
use picket_service::logging;
use picket_service::machine::Machine;
use picket_service::ops::{self, Holder};
use picket_wire::CameraName;

#[derive(Parser)]
#[command(name = "picket-edge-agent", version, about = "Captures, finds faces, keeps, publishes.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Captures and publishes until it is told to end, or every recording was read and acknowledged.
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// Exit status after every recording was read and acknowledged, so that a service manager can
        /// tell this end, after which there is nothing to do, from one by a signal, which is 0.
        #[arg(long, default_value_t = 0)]
        all_read_status: u8,
    },
    /// Says whether the config can work, and what is wrong with it.
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
        /// Prints each setting with the file that has the last word on it, without secrets.
        #[arg(long)]
        show: bool,
        /// For the estimate of bytes a day: for which share of it there is a face before a camera.
        #[arg(long, default_value_t = 0.1, value_parser = share)]
        faces: f64,
    },
    /// Lists the cameras that are plugged in: how to name them, what they give, which mode of it would
    /// be used and why, and what can be set.
    Cameras {
        /// A config file whose cameras to look for among them.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Shows on one page how everything is: cameras, decoders, model, spool, broker, clock.
    Doctor(ConfigFile),
    /// Looks through a video or a picture and prints what is found in each frame.
    Detect {
        /// The config file whose model and settings to use.
        #[arg(long)]
        config: Option<PathBuf>,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Lets the running agent capture nothing from a camera, also over a restart.
    Pause {
        #[command(flatten)]
        config: ConfigFile,
        /// Which camera.
        camera: CameraName,
        /// For so long, such as `30m`, `2h` or `1h30m`; until `resume` if left out.
        #[arg(long = "for", value_parser = duration)]
        time: Option<Duration>,
    },
    /// Lets the running agent capture from a camera again.
    Resume {
        #[command(flatten)]
        config: ConfigFile,
        /// Which camera.
        camera: CameraName,
    },
    /// Lets the running agent read its config again, and says what changed or why it is refused.
    Reload(ConfigFile),
    /// Looks along while the running agent looks at a camera: rates, decoder, brightness, sharpness,
    /// what is found with sizes, and a picture with boxes.
    Look {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        arguments: look::Arguments,
    },
    /// Has the running agent cut its own link for a while and restore it, and tells what was kept, sent
    /// and lost, and how fast it drained. Ends with 1 if anything was lost or still waits.
    Drill {
        #[command(flatten)]
        config: ConfigFile,
        /// For how long the link is cut, such as `60s`, `10m` or `1h`, an hour at most.
        #[arg(long, value_parser = duration)]
        offline: Duration,
    },
    /// Makes the state directory this board's, after a card was copied or a board replaced.
    ResetIdentity {
        #[command(flatten)]
        config: ConfigFile,
        /// It is the same device on another board: what it kept is published. Without it, the disk
        /// is a copy: what the original kept is set aside, and the service must be stopped before.
        #[arg(long)]
        same_device: bool,
    },
    /// What waits on the disk: looks at it, checks it, carries it away.
    Spool {
        #[command(subcommand)]
        command: spool_command::Command,
    },
}

fn main() -> ExitCode {
    match command(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("picket-edge-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { config: ConfigFile { path }, all_read_status } => {
            let loaded = config::load(&path)?;
            logging::init(&loaded.settings.log);
            Ok(match wiring::run(&path, loaded)? {
                Ended::Asked => ExitCode::SUCCESS,
                Ended::AllDone => all_read_status.into(),
            })
        }
        Command::CheckConfig { config, show, faces } => check_config(&config.path, show, faces),
        Command::Cameras { config } => cameras(config.as_deref()),
        Command::Pause { config, camera, time } => {
            let for_s = time.map(|time| time.as_secs());
            order(&config, &Request::Pause { camera, for_s })
        }
        Command::Resume { config, camera } => order(&config, &Request::Resume { camera }),
        Command::ResetIdentity { config, same_device } => reset_identity(&config.path, same_device),
        Command::Reload(config) => order(&config, &Request::Reload),
        Command::Look { config, arguments } => {
            let state_dir = config::state_dir(&config.path)?;
            look::run(&state_dir, &arguments, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Drill { config, offline } => {
            let state_dir = config::state_dir(&config.path)?;
            let fine = drill::run(&state_dir, offline, &mut std::io::stdout())?;
            Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Doctor(ConfigFile { path }) => {
            let healthy = doctor::print(&config::load(&path)?.settings)?;
            Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Detect { config, arguments } => {
            let configured = config.map(|path| config::load(&path)).transpose()?;
            let configured = configured.map(|loaded| loaded.settings.detect);
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            detect::command::run(&arguments, configured, &mut out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Spool { command } => {
            let as_it_should = spool_command::run(command, &mut std::io::stdout())?;
            Ok(if as_it_should { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// A share, 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn check_config(path: &Path, show: bool, faces: f64) -> Result<ExitCode> {
    let Loaded { settings, fields, .. } = config::load(path)?;
    if show {
        print!("{}", shown(&fields));
    }
    // The model and the runtime are files that the config names: they are tried, not only looked at.
    let detector = detect::Detector::load(&settings.detect).context("detect")?;
    let sources = settings.sources().map_err(|p| anyhow::anyhow!("{}: {}", p.field, p.problem))?;
    for camera in sources.settings() {
        detector.identity().check_blur(&camera.name, &camera.privacy)?;
    }
    let Sources { cameras, left_out } = sources;
    // A key that is a credential only the service has.
    let encryption = settings.spool.encryption.as_ref();
    let warning = match spool::encryption_in_words(&settings.state_dir, encryption) {
        Ok(_) => None,
        Err(error @ KeyError::NoCredentials { .. }) => Some(error),
        Err(error) => return Err(error).context("spool"),
    };
    println!("{} is valid: device {}, {} cameras", path.display(), settings.device, cameras.len());
    left_out.iter().for_each(|folder| println!("WARNING: {folder}"));
    warning.iter().for_each(|warning| println!("WARNING: {warning}"));
    if let Holder::Another(problem) = ops::holder(settings.ops.listen, metrics::PREFIX) {
        println!("WARNING: without /metrics and /healthz as long as it is so: {problem}");
    }
    print_estimate(&cameras, faces, settings.uplink.monthly_budget_bytes);
    Ok(ExitCode::SUCCESS)
}

/// Of what runs on; a recording is over some day.
fn print_estimate(cameras: &[CameraSettings], faces: f64, monthly_budget_bytes: Option<u64>) {
    let mut total_bytes = 0.0;
    for camera in cameras.iter().filter(|camera| !camera.is_recording()) {
        let estimate = Estimate::of(camera, faces);
        total_bytes += estimate.bytes();
        println!("camera {}: {estimate}", camera.name);
    }
    if total_bytes > 0.0 {
        println!("all cameras: about {} a day", estimate::megabytes(total_bytes));
        println!("{}", estimate::assumptions(faces));
        if let Some(budget_bytes) = monthly_budget_bytes {
            println!("{}", estimate::against_budget(total_bytes, budget_bytes));
        }
    }
}

/// How long the agent may take to do what it is told.
const ORDER: Duration = Duration::from_secs(30);

fn order(config: &ConfigFile, request: &Request) -> Result<ExitCode> {
    // Of the new config only where the agent is found is needed: a `reload` is to say what is wrong
    // with the rest as the agent sees it.
    let state_dir = config::state_dir(&config.path)?;
    let Done { done } = control::ask(&state_dir, request, ORDER)?;
    println!("{done}");
    Ok(ExitCode::SUCCESS)
}

fn reset_identity(path: &Path, same_device: bool) -> Result<ExitCode> {
    let settings = config::load(path)?.settings;
    let (state_dir, here) = (&settings.state_dir, Identity::of(&Machine::this(), &settings.device));
    // A damaged file does not say whose it was, and is what this command mends.
    let bound = identity::read(state_dir).ok().flatten();
    if let Some(bound) = bound.filter(|bound| !same_device && bound.device == settings.device) {
        bail!(
            "device {} already has this name, on the board with {}. Is this that device, with its \
             board replaced? Then `reset-identity --same-device`. Is it a copy? Then give it a \
             `device` and a certificate of its own in {} first",
            bound.device,
            bound.text(),
            path.display()
        );
    }
    let former = identity::reset(state_dir, &here, same_device)?;
    if let Some(Former { path, records, pictures }) = former {
        let count = |count: Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
        println!(
            "what the former device had not sent is set aside in {}: {} records, {} pictures",
            path.display(),
            count(records),
            count(pictures)
        );
    }
    println!(
        "{} belongs to device {} on this board ({}) from now on",
        state_dir.display(),
        settings.device,
        here.text()
    );
    Ok(ExitCode::SUCCESS)
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 30m, 2h or 1h30m, of a second or more");
    let time: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    let time = Duration::try_from(time).map_err(|_| wrong())?;
    if time.as_secs() == 0 { Err(wrong()) } else { Ok(time) }
}

fn cameras(config: Option<&Path>) -> Result<ExitCode> {
    let configured = match config {
        Some(path) => config::load(path)?.settings.camera,
        None => Vec::new(),
    };
    print!("{}", capture::v4l2::command::page(&configured));
    Ok(ExitCode::SUCCESS)
}
