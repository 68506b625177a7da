//! The agent is killed at random moments, over and over, and what each crash took is told with a bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::time::{Duration, Instant};

use anyhow::Result;
use picket_tests::faults::{
    Bench, Chance, LIMIT, end, on_bench, short_or_long, wait_for_drained, wait_for_stored,
};
use picket_tests::fleet::settled;
use picket_tests::topics;

/// In the short form: rounds begin for so long.
const SHORT: Duration = Duration::from_secs(15);
/// Fewer show nothing.
const LEAST_ROUNDS: u64 = 10;
/// In the long form, unless `PICKET_KILLS` says otherwise.
const LONG: u64 = 200;
/// From well before the first record to well behind many commits and acknowledgements, on any machine.
const LATEST_KILL_MS: u64 = 2500;

/// Small pictures without a face at thirty a second: what is killed is spool and uplink, not the detector.
const CAMERA: &str = "[[camera]]
name = \"north\"
source.test-pattern = { fps = 30, width_px = 160, height_px = 120 }
sampling.fps = 30.0
motion.gate = false
publish.policy = \"all\"
";

/// Whether another round is due.
fn goes_on(rounds: u64, began: Instant) -> bool {
    let asked = std::env::var("PICKET_KILLS").ok().map(|text| text.parse().unwrap());
    match asked.or_else(|| short_or_long(None, Some(LONG))) {
        Some(wanted) => rounds < wanted,
        None => rounds < LEAST_ROUNDS || began.elapsed() < SHORT,
    }
}

/// Records are kept in memory while the link works.
const OFFLINE: &str = "
[spool]
durability = \"offline\"
memory_window_ms = 5000
";

#[test]
fn kill_9_at_any_moment_loses_no_more_than_its_bound_and_doubles_nothing() {
    on_bench(async |bench| kills(bench, "always", CAMERA).await).unwrap();
}

#[test]
fn kill_9_of_an_agent_that_keeps_records_in_memory_is_told_with_its_bound() {
    let config = format!("{OFFLINE}{CAMERA}");
    on_bench(async |bench| kills(bench, "offline", &config).await).unwrap();
}

/// Kills an agent of this config again and again, and asks the books.
async fn kills(bench: &Bench, device: &str, config: &str) -> Result<()> {
    let mut chance = Chance::new()?;
    let fleet = &bench.fleet;
    let agent = fleet.enrol(device, config).await?;
    let began = Instant::now();
    let mut rounds = 0;
    while goes_on(rounds, began) {
        let mut process = agent.start()?;
        tokio::time::sleep(chance.between_ms(0, LATEST_KILL_MS)).await;
        process.expect_running()?;
        process.kill()?;
        rounds += 1;
    }
    let lasted = began.elapsed();

    let mut process = agent.start()?;
    wait_for_drained(&agent, &mut process, LIMIT * 2).await?;
    wait_for_stored(fleet, &agent, &mut process, 30).await?;
    end(&mut process).await?;
    let findings = settled(fleet, &[&agent], LIMIT).await?;
    let (mut stored, mut crashes, mut lost) = (0, 0, 0);
    for (epoch, account) in findings.of(&agent) {
        let drops = account.drops();
        assert!(drops.keys().all(|reason| reason == "crash"), "{epoch}: {drops:?}");
        stored += account.stored.len();
        crashes += drops.len();
        lost += account.dropped.len();
    }
    let values = topics::values_by_id(fleet, &agent)?;
    let resent = values.values().filter(|values| values.len() > 1).count();
    for (id, values) in values {
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{id:?} has other bytes");
    }
    println!(
        "{rounds} kills in {lasted:.0?}: {stored} observations stored, {crashes} crashes took at most \
         {lost}, {resent} records were sent again"
    );
    assert!(
        rounds >= LEAST_ROUNDS && crashes > 0 && stored > 0,
        "too little happened to show anything"
    );
    assert_eq!(fleet.dead_letters()?, 0);
    Ok(())
}
