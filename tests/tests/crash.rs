//! The agent is killed at random moments, over and over, and what each crash took is told with a bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::time::Instant;

use anyhow::Result;
use futures_util::future::try_join_all;
use picket_tests::faults::{
    Bench, Chance, LIMIT, end, on_bench, short_or_long, wait_for_drained, wait_for_stored,
};
use picket_tests::fleet::{Agent, settled};
use picket_tests::topics;

/// How many boxes are killed beside each other: most of a round is waiting.
const BOXES: u64 = 4;
/// How often, all boxes together.
const SHORT: u64 = 120;
/// In the long form, unless `PICKET_KILLS` says otherwise.
const LONG: u64 = 1000;
/// From well before the first record to well behind many commits and acknowledgements, on any machine.
const LATEST_KILL_MS: u64 = 2500;

/// Small pictures without a face at fifteen a second: what is killed is spool and uplink, not the detector.
const CAMERA: &str = "[[camera]]
name = \"north\"
source.test-pattern = { fps = 15, width_px = 160, height_px = 120 }
sampling.fps = 15.0
motion.gate = false
publish.policy = \"all\"
";

/// How often each box is killed, of so many kills in the short form.
fn rounds_of_each(short: u64) -> u64 {
    let asked = std::env::var("PICKET_KILLS").ok().map(|text| text.parse().unwrap());
    asked.unwrap_or_else(|| short_or_long(short, LONG)).div_ceil(BOXES)
}

/// Records are kept in memory while the link works.
const OFFLINE: &str = "
[spool]
durability = \"offline\"
memory_window_ms = 5000
";

#[test]
fn kill_9_at_any_moment_loses_no_more_than_its_bound_and_doubles_nothing() {
    on_bench(async |bench| kills(bench, "always", CAMERA, SHORT).await).unwrap();
}

#[test]
fn kill_9_of_an_agent_that_keeps_records_in_memory_is_told_with_its_bound() {
    let config = format!("{OFFLINE}{CAMERA}");
    on_bench(async |bench| kills(bench, "offline", &config, SHORT / 3).await).unwrap();
}

/// Kills agents of this config again and again, and asks the books.
async fn kills(bench: &Bench, name: &str, config: &str, short: u64) -> Result<()> {
    let mut chance = Chance::new()?;
    let fleet = &bench.fleet;
    let mut boxes = Vec::new();
    for number in 0..BOXES {
        let agent = fleet.enrol(&format!("{name}-{number}"), config).await?;
        boxes.push((agent, chance.another()));
    }
    let rounds = rounds_of_each(short);
    let began = Instant::now();
    try_join_all(boxes.iter_mut().map(|(agent, chance)| kill_over_and_over(agent, rounds, chance)))
        .await?;
    let lasted = began.elapsed();

    let agents: Vec<_> = boxes.iter().map(|(agent, _)| agent).collect();
    try_join_all(agents.iter().map(|agent| run_until_all_is_sent(bench, agent))).await?;
    let findings = settled(fleet, &agents, LIMIT).await?;
    let (mut all_stored, mut all_crashes) = (0, 0);
    for agent in agents {
        let (mut stored, mut crashes, mut lost) = (0, 0, 0);
        for (epoch, account) in findings.of(agent) {
            let drops = account.drops();
            assert!(drops.keys().all(|reason| reason == "crash"), "{epoch}: {drops:?}");
            stored += account.stored.len();
            crashes += drops.len();
            lost += account.dropped.len();
        }
        let values = topics::values_by_id(fleet, agent)?;
        let resent = values.values().filter(|values| values.len() > 1).count();
        for (id, values) in values {
            assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{id:?} has other bytes");
        }
        println!(
            "{}: {rounds} kills in {lasted:.0?}: {stored} observations stored, {crashes} crashes took \
             at most {lost}, {resent} records were sent again",
            agent.device
        );
        all_stored += stored;
        all_crashes += crashes;
    }
    assert!(all_crashes > 0 && all_stored > 0, "too little happened to show anything");
    assert_eq!(fleet.dead_letters()?, 0);
    Ok(())
}

/// Starts an agent and kills it at a random moment, so many times.
async fn kill_over_and_over(agent: &Agent, rounds: u64, chance: &mut Chance) -> Result<()> {
    for _ in 0..rounds {
        let mut process = agent.start()?;
        tokio::time::sleep(chance.between_ms(0, LATEST_KILL_MS)).await;
        process.expect_running()?;
        process.kill()?;
    }
    Ok(())
}

/// Lets an agent send what it has, and ends it in order.
async fn run_until_all_is_sent(bench: &Bench, agent: &Agent) -> Result<()> {
    let mut process = agent.start()?;
    wait_for_drained(agent, &mut process, LIMIT * 2).await?;
    wait_for_stored(&bench.fleet, agent, &mut process, 30).await?;
    end(&mut process).await
}
