//! `doctor`: how everything is, on one page.

use std::time::Duration;

use anyhow::Result;
use picket_service::logging::chain;
use picket_service::machine::Machine;
use picket_service::ops::{self, Holder};

use crate::capture::{self, Clock, SystemClock};
use crate::config::{Settings, Sources};
use crate::identity::{self, Identity, Verdict};
use crate::spool::KeyError;
use crate::{detect, metrics, spool, uplink};

/// How long the broker may take to answer.
const PROBE: Duration = Duration::from_secs(10);

/// Prints the page. Gives whether the agent could work.
pub fn print(settings: &Settings) -> Result<bool> {
    let mut page = Page { healthy: true };
    page.line("device", &settings.device.to_string());
    identity(&mut page, settings);
    cameras(&mut page, settings)?;
    decoders(&mut page)?;
    model(&mut page, settings);
    spool_state(&mut page, settings);
    broker(&mut page, settings);
    endpoint(&mut page, settings);
    clock(&mut page);
    Ok(page.healthy)
}

struct Page {
    healthy: bool,
}

impl Page {
    fn line(&self, what: &str, text: &str) {
        println!("{what:<12} {text}");
    }

    fn problem(&mut self, what: &str, text: &str) {
        self.healthy = false;
        println!("{what:<12} PROBLEM: {text}");
    }
}

fn identity(page: &mut Page, settings: &Settings) {
    let here = Identity::of(&Machine::this(), &settings.device);
    match identity::look(&settings.state_dir, &here) {
        Err(error) => page.problem("board", &chain(&error)),
        Ok(Verdict::Foreign { problem }) => page.problem("board", &problem),
        Ok(Verdict::Own) => page.line("board", &format!("{}, its own", here.text())),
        Ok(Verdict::Bound) => page.line("board", &format!("{}, not bound yet", here.text())),
        Ok(Verdict::Unbound) => {
            page.line("board", &format!("{}: a copy could not be told", here.text()));
        }
        Ok(Verdict::Untold { bound_to }) => {
            page.problem("board", &format!("{}, and bound to one with {bound_to}", here.text()));
        }
    }
}

fn cameras(page: &mut Page, settings: &Settings) -> Result<()> {
    match settings.sources() {
        Err(problem) => page.problem(&problem.field, &problem.problem),
        Ok(Sources { cameras, left_out }) => {
            // No reason not to start: the cameras capture without it.
            left_out.iter().for_each(|folder| page.line("folder", &format!("WARNING: {folder}")));
            for camera in cameras {
                page.line(
                    "camera",
                    &format!("{}: {}", camera.name, capture::source::name(&camera.source)),
                );
            }
        }
    }
    for device in capture::v4l2::survey::list(&[]) {
        match device {
            Ok(device) => page.line("V4L2", &format!("{} {}", device.path.display(), device.name)),
            Err(error) => page.line("V4L2", &chain(&error)),
        }
    }
    Ok(())
}

fn decoders(page: &mut Page) -> Result<()> {
    for report in capture::decoders()? {
        let chosen = if report.chosen { ", the one used" } else { "" };
        let text = format!("{} {}: {}{chosen}", report.codec, report.element, report.probe);
        page.line("decoder", &text);
    }
    Ok(())
}

fn model(page: &mut Page, settings: &Settings) {
    match detect::Detector::load(&settings.detect) {
        Err(error) => page.problem("model", &chain(&error)),
        Ok(detector) => {
            let identity = detector.identity();
            let path = settings.detect.model.display();
            let text = format!("{} sha256 {} ({path})", identity.model_name, identity.model_sha256);
            page.line("model", &text);
            let library = settings.detect.runtime_library.display();
            page.line("runtime", &format!("ONNX Runtime {} ({library})", identity.runtime_version));
            provider(page, identity);
            for problem in blur_problems(settings, identity) {
                page.problem("model", &problem);
            }
        }
    }
    providers(page, settings);
}

/// Also of the videos of folders.
fn blur_problems(settings: &Settings, identity: &detect::DetectorIdentity) -> Vec<String> {
    // Without any source it is a problem of the cameras' lines.
    let sources = settings.sources().ok();
    let cameras = sources.iter().flat_map(Sources::settings);
    let checks = cameras.map(|camera| identity.check_blur(&camera.name, &camera.privacy));
    checks.filter_map(Result::err).map(|error| error.to_string()).collect()
}

fn provider(page: &mut Page, identity: &detect::DetectorIdentity) {
    let text = match &identity.fallback {
        None => format!("{} computes the model", identity.provider),
        // No reason not to start: the processor is slower, and finds the same.
        Some(why) => format!("WARNING: {} computes the model: {why}", identity.provider),
    };
    page.line("provider", &text);
}

/// What the runtime could compute with, and what is known of it.
fn providers(page: &mut Page, settings: &Settings) {
    // One that cannot be loaded is a problem of the model's line.
    let Ok(runtime) = detect::Runtime::load("detect", &settings.detect.runtime_library) else {
        return;
    };
    let there = detect::Provider::in_runtime(&runtime);
    for provider in detect::Provider::ALL {
        let there = if there.contains(&provider) { "in the runtime" } else { "not in the runtime" };
        let tested = if provider.is_tested() { "tested" } else { "untested" };
        page.line("provider", &format!("{provider}: {there}, {tested}"));
    }
}

fn spool_state(page: &mut Page, settings: &Settings) {
    encryption(page, settings);
    if !settings.state_dir.join("spool.sqlite").exists() {
        let text = format!("none yet in {}: made at the first start", settings.state_dir.display());
        return page.line("spool", &text);
    }
    match spool::stat(&settings.state_dir) {
        Err(error) => page.problem("spool", &chain(&error)),
        Ok(stat) => {
            let (records, pictures) = (stat.totals.records, stat.totals.pictures);
            let text = format!(
                "{records} records and {pictures} pictures wait; {} of at most {} bytes on disk",
                stat.file_bytes, settings.spool.max_bytes
            );
            page.line("spool", &text);
            for (camera, account) in stat.accounts.iter().filter(|(_, a)| !a.books.balanced()) {
                page.problem(
                    "spool",
                    &format!("the books of {camera} do not balance: {:?}", account.books),
                );
            }
        }
    }
}

/// Where the keys are, and whether they open what waits.
fn encryption(page: &mut Page, settings: &Settings) {
    match spool::encryption_in_words(&settings.state_dir, settings.spool.encryption.as_ref()) {
        Ok(text) => page.line("encryption", &text),
        // A person's shell has none of the service's credentials.
        Err(error @ KeyError::NoCredentials { .. }) => {
            page.line("encryption", &format!("WARNING: {error}"));
        }
        Err(error) => page.problem("encryption", &chain(&error)),
    }
}

fn broker(page: &mut Page, settings: &Settings) {
    match uplink::probe(&settings.uplink, &settings.device, PROBE) {
        Err(error) => page.problem("broker", &chain(&error)),
        Ok(report) => {
            let how = if report.tls { "over TLS" } else { "in PLAINTEXT" };
            page.line("broker", &format!("{} answers {how}", report.brokers.join(", ")));
            for (topic, found) in report.topics {
                match found {
                    Ok(partitions) => {
                        page.line("topic", &format!("{topic}: {partitions} partitions"))
                    }
                    Err(problem) => page.problem("topic", &format!("{topic}: {problem}")),
                }
            }
        }
    }
    match uplink::days_left(&settings.uplink) {
        Some(days) => page.line("certificate", &format!("{days} days left")),
        None => page.line("certificate", "none"),
    }
    // No reason not to start: what is captured is kept until there is a new one.
    if let Some(problem) = uplink::dates_problem(&settings.uplink) {
        page.line("certificate", &format!("WARNING: {problem}"));
    }
}

/// No reason not to start: the cameras capture without it.
fn endpoint(page: &mut Page, settings: &Settings) {
    let listen = settings.ops.listen;
    let text = match ops::holder(listen, metrics::PREFIX) {
        Holder::Nobody => format!("{listen}, which is free: no agent runs"),
        Holder::Own => format!("an agent answers at http://{listen}/"),
        Holder::Another(problem) => format!("WARNING: {problem}"),
    };
    page.line("endpoint", &text);
}

fn clock(page: &mut Page) {
    let (wall, state) = SystemClock::start().wall();
    let wall = wall.map_or("never set".to_owned(), |wall| wall.to_string());
    page.line("clock", &format!("{wall}, {}", state.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_that_the_model_cannot_do_is_a_problem_of_a_folder_as_of_a_camera() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("clip.mp4"), "").unwrap();
        let config = format!(
            "device = \"gate\"\n[uplink]\nbrokers = [\"h:1\"]\nallow_plaintext = true\n\
             [[camera]]\nname = \"north\"\nsource.test-pattern = {{}}\nprivacy.blur = {{}}\n\
             [[folder]]\npath = {:?}\nprivacy.blur = {{}}\n",
            dir.path()
        );
        let settings: Settings = toml::from_str(&config).unwrap();
        let cars = detect::DetectorIdentity {
            model_name: "cars".to_owned(),
            model_sha256: String::new(),
            runtime_version: String::new(),
            labels: vec!["car".to_owned()],
            provider: detect::Provider::Cpu,
            fallback: None,
        };
        let problems = blur_problems(&settings, &cars);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("camera north") && problems[1].contains("camera clip"));
    }
}
