//! Records that go another way than the camera box's own link, and an outage on purpose: real agent,
//! real Kafka, real aggregator, real MongoDB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use picket_tests::faults::{
    end, on_bench, short_or_long, spooled, stored, ten_a_second, wait_for_spooled,
};
use picket_tests::fleet::{self, Agent, Fleet, settled};
use picket_tests::process::{output_within, program, until};

const LIMIT: Duration = Duration::from_secs(180);
/// Where no broker is.
const NOBODY: &str = "127.0.0.1:1";

async fn wait_for_stored(fleet: &Fleet, agent: &Agent, least: u64) {
    until(&format!("{least} stored observations"), LIMIT, async || {
        let stored = stored(fleet, agent).await?;
        Ok(if stored >= least { Ok(()) } else { Err(format!("{stored}")) })
    })
    .await
    .unwrap();
}

fn command(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program("picket-edge-agent").unwrap());
    command.args(args).arg("--config").arg(config);
    command
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ordered(config: &Path, args: &[&str]) -> String {
    let output = output_within(&mut command(config, args), LIMIT).unwrap();
    assert!(output.status.success(), "{args:?}: {}", text_of(&output));
    text_of(&output)
}

fn refused(config: &Path, args: &[&str]) -> String {
    let output = output_within(&mut command(config, args), LIMIT).unwrap();
    assert!(!output.status.success(), "{args:?}: {}", text_of(&output));
    text_of(&output)
}

/// The number that stands before a word.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().and_then(|text| text.split_whitespace().last());
    before.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no number of {word} in {text}"))
}

/// Lets the agent's config name these brokers; gives those that it named.
fn broker(agent: &Agent, brokers: &str) -> String {
    let text = std::fs::read_to_string(&agent.config).unwrap();
    let (_, rest) = text.split_once("brokers = [\"").unwrap();
    let named = rest.split_once('"').unwrap().0.to_owned();
    let line = |of: &str| format!("brokers = [\"{of}\"]");
    std::fs::write(&agent.config, text.replace(&line(&named), &line(brokers))).unwrap();
    named
}

/// The config of a machine without a camera, with a certificate of its own.
async fn carrier(fleet: &Fleet, dir: &Path) -> PathBuf {
    let credentials = fleet.stack.device_certificate("carrier").await.unwrap();
    let kafka = &fleet.stack.settings().kafka;
    let text = format!(
        "device = \"carrier\"\n[uplink]\nbrokers = [\"{}\"]\ntopic_prefix = \"{}\"\n\
         ca_file = {:?}\ncertificate_file = {:?}\nkey_file = {:?}\n",
        kafka.bootstrap,
        kafka.topic_prefix,
        credentials.ca,
        credentials.certificate,
        credentials.key
    );
    let config = dir.join("carrier.toml");
    std::fs::write(&config, text).unwrap();
    config
}

#[test]
fn what_was_carried_by_hand_is_stored_once_also_when_the_box_sends_it_too() {
    on_bench(async |bench| {
        let dir = tempfile::tempdir().unwrap();
        let fleet = &bench.fleet;
        let agent = fleet.enrol("carried", &ten_a_second("front").unwrap()).await.unwrap();
        let carrier = carrier(fleet, dir.path()).await;
        let real = broker(&agent, NOBODY);
        let mut process = agent.start().unwrap();
        let least = short_or_long(60, 1200);
        wait_for_spooled(&agent, &mut process, least).await.unwrap();

        let file = dir.path().join("gate.picket");
        let file_text = file.to_str().unwrap();
        let exported = ordered(&agent.config, &["spool", "export", file_text]);
        let count = number_before(&exported, " records");
        assert!(count > least, "{exported}");
        assert!(ordered(&agent.config, &["spool", "verify"]).contains("is whole"));
        let listed = ordered(&agent.config, &["spool", "list", "--kind", "observation"]);
        assert!(listed.contains("carried/front") && listed.lines().count() == 1, "{listed}");

        // A copy that broke off is refused whole.
        let torn = dir.path().join("torn.picket");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&torn, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let said = refused(&carrier, &["spool", "import", torn.to_str().unwrap()]);
        assert!(said.contains("is torn") && said.contains("whole records"), "{said}");
        assert_eq!(stored(fleet, &agent).await?, 0, "nothing of it was sent");

        let imported = ordered(&carrier, &["spool", "import", file_text]);
        assert!(imported.contains(&format!("the broker has {count} records")), "{imported}");
        wait_for_stored(fleet, &agent, least).await;
        settled(fleet, &[&agent], LIMIT).await.unwrap();
        let of_file = stored(fleet, &agent).await?;
        // Run again, as after it was broken off.
        ordered(&carrier, &["spool", "import", file_text]);
        settled(fleet, &[&agent], LIMIT).await.unwrap();
        assert_eq!(stored(fleet, &agent).await?, of_file, "the second import added some");

        // The box's own link comes back.
        end(&mut process).await?;
        assert!(spooled(&agent).unwrap() >= least, "an export deletes nothing");
        broker(&agent, &real);
        let mut process = agent.start().unwrap();
        wait_for_stored(fleet, &agent, of_file + least).await;
        end(&mut process).await?;
        let findings = settled(fleet, &[&agent], LIMIT).await.unwrap();
        assert_eq!(findings.of(&agent).count(), 2, "two starts, two epochs");
        let mut seen = 0;
        for (epoch, account) in findings.of(&agent) {
            assert!(account.dropped.is_empty(), "{epoch}: {:?}", account.drops());
            assert!(account.spooled.is_empty(), "{epoch}: a drained agent leaves nothing behind");
            seen += account.stored.len() as u64;
        }
        assert_eq!(stored(fleet, &agent).await?, seen, "an observation is stored twice");
        assert_eq!(fleet.dead_letters().unwrap(), 0, "no record came with other bytes");
        Ok(())
    })
    .unwrap();
}

/// The books of `/metrics`: by camera and place, and by camera the sum of the reasons.
fn books_of(metrics: &str) -> (BTreeMap<(String, String), f64>, BTreeMap<String, f64>) {
    let (mut places, mut dropped) = (BTreeMap::new(), BTreeMap::new());
    for line in metrics.lines() {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let value = || line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        if line.starts_with("picket_agent_books_frames{") {
            places.insert((label("camera").unwrap(), label("place").unwrap()), value());
        } else if line.starts_with("picket_agent_books_dropped_frames{") {
            *dropped.entry(label("camera").unwrap()).or_default() += value();
        }
    }
    (places, dropped)
}

/// The metrics of the running agent add up; gives how many frames are acknowledged.
async fn metrics_add_up(ops: &str) -> f64 {
    let metrics = fleet::get(ops, "/metrics").await.unwrap();
    let (places, reasons) = books_of(&metrics);
    let of = |place: &str| places[&("front".to_owned(), place.to_owned())];
    let parts = ["in-memory", "spooled", "acknowledged", "dropped"].map(of);
    assert_eq!(of("captured"), parts.iter().sum::<f64>(), "{places:?}");
    assert_eq!(of("dropped"), reasons.get("front").copied().unwrap_or(0.0), "{reasons:?}");
    of("acknowledged")
}

#[test]
fn a_drill_cuts_the_link_restores_it_and_tells_that_nothing_was_lost() {
    on_bench(async |bench| {
        let fleet = &bench.fleet;
        let agent = fleet.enrol("drilled", &ten_a_second("front").unwrap()).await.unwrap();
        let mut process = agent.start().unwrap();
        let ops = fleet::address(&mut process, "operations endpoint at ").await.unwrap();
        wait_for_stored(fleet, &agent, 20).await;

        let offline_s: u64 = short_or_long(6, 120);
        let said = ordered(&agent.config, &["drill", "--offline", &format!("{offline_s}s")]);
        for part in
            ["lost        nothing", "drained     in ", "live after  ", "books       balance"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        // Ten frames a second, on a machine that may be behind.
        assert!(number_before(&said, " records and pictures") >= offline_s * 2, "{said}");
        assert!(metrics_add_up(&ops).await > 0.0);

        // One that is killed lets the link go at once, and not when its hour is over.
        let mut drill = command(&agent.config, &["drill", "--offline", "1h"]).spawn().unwrap();
        let cut = |log: &str| log.matches("the link is cut").count();
        until("the second cut", LIMIT, async || {
            process.expect_running()?;
            Ok(if cut(&process.log()) == 2 { Ok(()) } else { Err("not yet".to_owned()) })
        })
        .await
        .unwrap();
        let second = refused(&agent.config, &["drill", "--offline", "1s"]);
        assert!(second.contains("a drill runs already"), "{second}");
        drill.kill().unwrap();
        drill.wait().unwrap();
        let before = stored(fleet, &agent).await?;
        wait_for_stored(fleet, &agent, before + 40).await;
        metrics_add_up(&ops).await;

        end(&mut process).await?;
        let findings = settled(fleet, &[&agent], LIMIT).await.unwrap();
        let (_, account) = findings.of(&agent).next().unwrap();
        assert!(account.dropped.is_empty(), "{:?}", account.drops());
        assert!(account.spooled.is_empty(), "a drained agent leaves nothing behind");
        assert_eq!(stored(fleet, &agent).await?, account.stored.len() as u64, "stored twice");
        assert_eq!(fleet.dead_letters().unwrap(), 0);
        Ok(())
    })
    .unwrap();
}
