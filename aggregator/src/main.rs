//! `picket-aggregator`: the centre of a fleet.

mod dead_letter;
mod replay;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use picket_aggregator::consume::{Connection, topics};
use picket_aggregator::{config, mot, track, wiring};
use picket_service::config::shown;
use picket_service::logging;
use picket_wire::topic::DEFAULT_PARTITIONS;

#[derive(Parser)]
#[command(name = "picket-aggregator", version, about = "Consumes, tracks, stores, shows.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Consumes and shows until it is told to end.
    Run(ConfigFile),
    /// Looks at published frames once more, by a classifier, until it is told to end.
    Classify(ConfigFile),
    /// Says whether the config can work, and what is wrong with it.
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
        /// Prints each setting with the file that has the last word on it, without secrets.
        #[arg(long)]
        show: bool,
    },
    /// Topics in the Kafka cluster.
    Topics {
        #[command(subcommand)]
        command: TopicsCommand,
    },
    /// Messages that nobody could read: list, look, put back, drop.
    DeadLetter {
        #[command(flatten)]
        config: ConfigFile,
        #[command(subcommand)]
        command: dead_letter::Command,
    },
    /// Tracks again what was tracked, and says whether the result equals what is stored. Writes nothing.
    /// Ends with 0 if all that was compared is equal, with 1 if something differs, with 2 if it could not
    /// be done.
    Replay {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        options: replay::Options,
    },
    /// Runs the tracker over recorded detections.
    Track {
        /// How they are recorded.
        #[arg(long)]
        format: Format,
        /// A sequence of the MOTChallenge: a folder with `seqinfo.ini` and `det/det.txt`.
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// The file to write: a line for each detection that has a track, also one that is seen only once.
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// A config file whose `[track]` is used instead of the default.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// MOTChallenge.
    Mot,
}

#[derive(Subcommand)]
enum TopicsCommand {
    /// Makes the topics that are missing, and says where those that are there differ.
    Create {
        #[command(flatten)]
        config: ConfigFile,
        /// PEM file of a certificate that may make topics, instead of the aggregator's own, which
        /// may not.
        #[arg(long, requires = "key_file")]
        certificate_file: Option<PathBuf>,
        /// PEM file of its key.
        #[arg(long, requires = "certificate_file")]
        key_file: Option<PathBuf>,
        /// Partitions of each topic. They cannot be changed later.
        #[arg(long, default_value_t = DEFAULT_PARTITIONS)]
        partitions: u32,
        /// Copies of each record; no more than there are brokers.
        #[arg(long, default_value_t = 3)]
        replicas: u16,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The config file; `<its name>.conf.d/*.toml` beside it is laid over it.
    #[arg(long = "config", global = true, default_value = "/etc/picket/aggregator.toml")]
    path: PathBuf,
}

fn main() -> ExitCode {
    match command(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("picket-aggregator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(ConfigFile { path }) => {
            let loaded = config::load(&path)?;
            logging::init(&loaded.settings.log);
            tokio::runtime::Runtime::new()?.block_on(wiring::run(loaded.settings))?;
        }
        Command::Classify(ConfigFile { path }) => {
            let loaded = config::load(&path)?;
            logging::init(&loaded.settings.log);
            tokio::runtime::Runtime::new()?.block_on(wiring::run_classify(loaded.settings))?;
        }
        Command::CheckConfig { config: ConfigFile { path }, show } => {
            let loaded = config::load(&path)?;
            if show {
                print!("{}", shown(&loaded.fields));
            }
            println!("{} is valid", path.display());
        }
        Command::Topics { command } => return create_topics(command),
        Command::DeadLetter { config: ConfigFile { path }, command } => {
            let settings = config::load(&path)?.settings;
            let runtime = tokio::runtime::Runtime::new()?;
            return runtime.block_on(dead_letter::run(settings, command));
        }
        Command::Replay { config: ConfigFile { path }, options } => {
            let runtime = tokio::runtime::Runtime::new()?;
            let replayed = config::load(&path)
                .map_err(anyhow::Error::from)
                .and_then(|loaded| runtime.block_on(replay::run(loaded.settings, options)));
            return Ok(replayed.unwrap_or_else(|error| {
                eprintln!("picket-aggregator: {error:#}");
                ExitCode::from(replay::NOT_DONE)
            }));
        }
        Command::Track { format: Format::Mot, input, output, config } => {
            let settings = match config {
                Some(path) => config::load_track(&path)?,
                None => track::Settings::default(),
            };
            let mot::Done { frames, detections, boxes, tracks } =
                mot::run(&input, &output, settings)?;
            eprintln!("{frames} frames, {detections} detections: {boxes} boxes, {tracks} tracks");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create_topics(command: TopicsCommand) -> Result<ExitCode> {
    let TopicsCommand::Create { config, certificate_file, key_file, partitions, replicas } =
        command;
    let settings = config::load(&config.path)?.settings.consume;
    let own = settings.connection();
    let connection = Connection {
        certificate_file: certificate_file.or(own.certificate_file),
        key_file: key_file.or(own.key_file),
        ..own
    };
    let options = topics::Options { topics: settings.topics(), partitions, replicas };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(topics::create(&connection, &options))?;
    print!("{report}");
    Ok(if report.is_as_designed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
