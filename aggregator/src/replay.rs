//! `picket-aggregator replay`: is what is stored what the tracker makes of the records?

use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Error, Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use picket_aggregator::config::Settings;
use picket_aggregator::consume::replay::{EpochReport, Range, Replay, ReplayError};
use picket_aggregator::store::Store;
use picket_wire::{CameraKey, DeviceName};

/// What is stored differs from what the tracker makes.
const DIFFERS: u8 = 1;
/// It was not done, or nothing could be compared.
pub const NOT_DONE: u8 = 2;
const UNWRITTEN: &str = "cannot write the report";

#[derive(Args)]
pub struct Options {
    /// Only cameras of this device.
    #[arg(long)]
    device: Option<DeviceName>,
    /// Only this camera: DEVICE/CAMERA.
    #[arg(long)]
    camera: Option<CameraKey>,
    /// Compares what was captured since then, such as 2026-01-02T03:04:05Z. Each epoch is tracked from its
    /// beginning all the same.
    #[arg(long)]
    from: Option<Timestamp>,
    /// Compares what was captured before then.
    #[arg(long)]
    to: Option<Timestamp>,
    /// Where the observations are taken from; what they are compared with stands in MongoDB.
    #[arg(long, value_enum, default_value_t = Source::Mongodb)]
    source: Source,
    /// One JSON object a line, one for each epoch. What comes of it all is told on stderr.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The stored observations.
    Mongodb,
    /// The log of the observations topic, as far as the brokers still have it.
    Kafka,
}

/// Replays, and tells what comes of it.
pub async fn run(settings: Settings, options: Options) -> Result<ExitCode> {
    if let (Some(from), Some(to)) = (options.from, options.to)
        && from >= to
    {
        bail!("--from {from} is not before --to {to}");
    }
    let store = Store::connect(&settings.store).await?;
    let replay = Replay::new(store, settings.track.clone(), settings.upsert.retention())?;
    let device = options.device.as_ref().map(DeviceName::as_str);
    let mut all = Sum::default();
    for key in replay.cameras(device, options.camera.as_ref()).await? {
        if let Err(error) = camera(&replay, &settings, &options, &key, &mut all).await {
            if !is_of_one_camera(&error) {
                return Err(error);
            }
            all.failed += 1;
            writeln!(stderr(), "picket-aggregator: {error:#}; the other cameras are replayed")?;
        }
    }
    // JSON is for programs.
    let said = match options.json {
        true => writeln!(stderr(), "{}", all.line()),
        false => writeln!(stdout(), "{}", all.line()),
    };
    said.context(UNWRITTEN)?;
    Ok(all.code())
}

/// The epochs of one camera.
async fn camera(
    replay: &Replay,
    settings: &Settings,
    options: &Options,
    key: &CameraKey,
    all: &mut Sum,
) -> Result<()> {
    let range = Range { from: options.from, to: options.to };
    let epochs = replay.epochs(key, range).await?;
    let mut log = match options.source {
        Source::Kafka if !epochs.is_empty() => {
            let log = replay.log(&settings.consume, key, &epochs).await;
            Some(log.with_context(|| format!("{key} was not replayed"))?)
        }
        _ => None,
    };
    for epoch in epochs {
        let report = replay.epoch(key, epoch, range, log.as_mut()).await;
        let report = report.with_context(|| format!("{key}/{epoch} was not replayed"))?;
        if let Some(log) = &mut log {
            log.is_done_with(epoch);
        }
        all.add(&report);
        print(&report, options.json).context(UNWRITTEN)?;
    }
    Ok(())
}

fn is_of_one_camera(error: &Error) -> bool {
    error.downcast_ref::<ReplayError>().is_some_and(ReplayError::is_of_one_camera)
}

#[derive(Default)]
struct Sum {
    epochs: u64,
    compared: u64,
    observations: u64,
    tracks: u64,
    differing: u64,
    in_part: u64,
    /// Cameras that were not replayed, or not to their end.
    failed: u64,
}

impl Sum {
    fn add(&mut self, report: &EpochReport) {
        self.epochs += 1;
        self.compared += u64::from(report.has_compared());
        self.observations += report.observations_compared;
        self.tracks += report.tracks;
        self.differing += report.differing;
        self.in_part += u64::from(report.incomparable_stretches > 0);
    }

    fn line(&self) -> String {
        let Self { epochs, observations, tracks, differing, in_part, .. } = self;
        let said = match self.differing {
            _ if self.compared == 0 => "nothing could be compared".to_owned(),
            0 => "all that was compared is equal".to_owned(),
            _ => format!("{differing} differ"),
        };
        let failed = match self.failed {
            0 => String::new(),
            n => format!("; {n} cameras were not replayed to their end"),
        };
        format!(
            "{epochs} epochs, {in_part} of them in part or not at all: {observations} observations and \
             {tracks} tracks compared, {said}{failed}"
        )
    }

    fn code(&self) -> ExitCode {
        match self.differing {
            _ if self.compared == 0 || self.failed > 0 => ExitCode::from(NOT_DONE),
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(DIFFERS),
        }
    }
}

fn print(report: &EpochReport, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        return writeln!(out);
    }
    let verdict = match report.differing {
        _ if !report.has_compared() => "not compared".to_owned(),
        0 => "equal".to_owned(),
        n => format!("{n} differ"),
    };
    write!(
        out,
        "{} {}: {verdict}; {} observations tracked, {} of them and {} tracks compared",
        report.camera,
        report.epoch,
        report.observations,
        report.observations_compared,
        report.tracks
    )?;
    for (count, what) in [
        (report.going_on, "tracks go on and are compared by their beginning"),
        (report.late, "late"),
        (report.provisional, "provisional"),
        (report.tracks_not_compared, "tracks not compared"),
    ] {
        if count > 0 {
            write!(out, ", {count} {what}")?;
        }
    }
    writeln!(out)?;
    for part in &report.incomparable {
        match part.to_seq {
            0 => writeln!(out, "  cannot be compared: {}", part.reason)?,
            to => {
                writeln!(out, "  cannot be compared, {} to {to}: {}", part.from_seq, part.reason)?
            }
        }
    }
    for difference in &report.differences {
        writeln!(
            out,
            "  {} {}: {} is {}, replayed {}",
            difference.of, difference.id, difference.field, difference.stored, difference.replayed
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(reports: &[(u64, u64)]) -> Sum {
        let mut sum = Sum::default();
        for (tracks, differing) in reports {
            let (tracks, differing) = (*tracks, *differing);
            sum.add(&EpochReport { tracks, differing, ..EpochReport::default() });
        }
        sum
    }

    #[test]
    fn the_exit_code_tells_equal_from_different_from_nothing_compared() {
        for (reports, code) in [
            (&[(3, 0), (0, 0)][..], ExitCode::SUCCESS),
            (&[(3, 0), (4, 1)], ExitCode::from(DIFFERS)),
            (&[(0, 0)], ExitCode::from(NOT_DONE)),
            (&[], ExitCode::from(NOT_DONE)),
        ] {
            assert_eq!(format!("{:?}", sum(reports).code()), format!("{code:?}"), "{reports:?}");
        }
    }

    #[test]
    fn a_camera_that_was_not_replayed_is_counted_and_makes_all_of_it_not_done() {
        for reports in [&[(3, 0)][..], &[(3, 1)], &[]] {
            let sum = Sum { failed: 2, ..sum(reports) };
            let not_done = ExitCode::from(NOT_DONE);
            assert_eq!(format!("{:?}", sum.code()), format!("{not_done:?}"), "{reports:?}");
            assert!(sum.line().ends_with("; 2 cameras were not replayed to their end"));
        }
    }

    #[test]
    fn what_is_of_one_camera_does_not_end_the_others() {
        let of_one = || ReplayError::NoLog { camera: "gate/north".parse().unwrap() };
        let wrapped = Err::<(), _>(of_one()).context("gate/north was not replayed").unwrap_err();
        assert!(is_of_one_camera(&wrapped) && is_of_one_camera(&of_one().into()));
        let of_all = Error::from(ReplayError::Slow { what: "a ledger" });
        assert!(
            !is_of_one_camera(&of_all) && !is_of_one_camera(&io::Error::other("a pipe").into())
        );
    }
}
