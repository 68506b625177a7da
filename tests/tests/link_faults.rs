//! What a bad link does to an agent, on a proxy before the real broker: nothing is lost, and nothing is
//! doubled.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::time::Instant;

use jiff::Timestamp;
use picket_tests::drain::Latency;
use picket_tests::faults::{
    Bench, Chance, LIMIT, end, nothing_is_lost, on_bench, pictures_spooled, short_or_long,
    ten_a_second, ten_a_second_without_pictures, wait_for_drained, wait_for_log, wait_for_spooled,
    wait_for_stored,
};
use picket_tests::fleet::{Agent, settled};
use picket_tests::process::{Process, until};
use picket_tests::proxy::Fault;
use picket_tests::topics;
use picket_wire::Topic;

/// An agent behind the proxy whose records arrive.
async fn running(bench: &Bench, device: &str, cameras: &str) -> (Agent, Process) {
    let agent = bench.fleet.enrol_behind_proxy(device, cameras).await.unwrap();
    agent.configure("uplink", "stall_ms = 3000").unwrap();
    let mut process = agent.start().unwrap();
    wait_for_stored(&bench.fleet, &agent, &mut process, 10).await.unwrap();
    (agent, process)
}

/// After a fault: all that waited is sent, what is new arrives, and the books hold.
async fn recovers(bench: &Bench, agent: &Agent, process: &mut Process) {
    wait_for_drained(agent, process, LIMIT).await.unwrap();
    wait_for_stored(&bench.fleet, agent, process, 20).await.unwrap();
    end(process).await.unwrap();
    nothing_is_lost(&bench.fleet, &[agent]).await.unwrap();
}

#[test]
fn a_flapping_link_loses_nothing_and_is_not_stormed() {
    on_bench(async |bench| {
        let mut chance = Chance::new()?;
        let camera = ten_a_second_without_pictures("north")?;
        let (agent, mut process) = running(bench, "flapping", &camera).await;
        let flaps = short_or_long(10, 300);
        let lasting: Vec<_> = (0..flaps * 2).map(|_| chance.between_ms(20, 1200)).collect();
        let (before, began) = (bench.proxy.traffic(), Instant::now());
        bench.proxy.flap(flaps, &lasting).await;
        let (passed, lasted) = (bench.proxy.traffic(), began.elapsed());
        let attempts = passed.connections - before.connections;
        println!("{attempts} connections in {lasted:?} and {flaps} flaps");
        // Two producers, each with one connection to learn of the broker and one to the broker, and at
        // most four attempts in a second.
        assert!(attempts as f64 <= 16.0 * lasted.as_secs_f64(), "{attempts} in {lasted:?}");
        recovers(bench, &agent, &mut process).await;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_half_open_link_is_noticed_and_what_was_under_way_is_not_lost() {
    on_bench(async |bench| {
        let (agent, mut process) = running(bench, "half-open", &ten_a_second("north")?).await;
        bench.proxy.set(Fault::Freeze);
        wait_for_log(&mut process, "the link is down", 1).await?;
        wait_for_spooled(&agent, &mut process, short_or_long(60, 3000)).await?;
        bench.proxy.set(Fault::None);
        wait_for_log(&mut process, "the link is up again", 1).await?;
        recovers(bench, &agent, &mut process).await;
        Ok(())
    })
    .unwrap();
}

#[test]
fn on_a_link_of_64_kbit_a_second_observations_stay_live_while_pictures_wait() {
    on_bench(async |bench| {
        let camera = ten_a_second("north")?.replace("sampling.fps = 10.0", "sampling.fps = 3.0");
        let (agent, mut process) =
            running(bench, "slow", &(camera + "publish.policy = \"all\"\n")).await;
        bench.proxy.set(Fault::Slow { bits_per_s: 64_000 });
        let since = Timestamp::now();
        wait_for_stored(&bench.fleet, &agent, &mut process, short_or_long(60, 1800)).await?;
        let waiting = pictures_spooled(&agent)?;
        let captured = since..Timestamp::now();
        let latency = Latency::ask(&bench.fleet.database, &agent.device, captured).await?;
        let at = |percent: usize| latency.ms(percent).unwrap();
        println!("p50 {} ms, p99 {} ms, {waiting} pictures wait", at(50), at(99));
        assert!(waiting > 20, "the link was to be too slow for pictures: {waiting} wait");
        // Behind the pictures they would be as late as the link has been slow; a machine that has
        // other work makes a few of them later than the link does.
        let late = short_or_long(12_000, 5000);
        assert!(at(50) < 5000 && at(99) < late, "p50 {} ms, p99 {} ms", at(50), at(99));
        bench.proxy.set(Fault::None);
        recovers(bench, &agent, &mut process).await;
        Ok(())
    })
    .unwrap();
}

/// Waits until the broker has answered and the answers were dropped.
async fn wait_for_lost_answers(bench: &Bench) {
    let before = bench.proxy.traffic();
    until("answers to be lost", LIMIT, async || {
        let lost = bench.proxy.traffic().dropped_bytes - before.dropped_bytes;
        Ok(if lost > 100 { Ok(()) } else { Err(format!("{lost} bytes")) })
    })
    .await
    .unwrap();
}

#[test]
fn acknowledgements_lost_after_the_write_double_nothing_while_the_agent_lives() {
    on_bench(async |bench| {
        let camera = ten_a_second_without_pictures("north")?;
        let (agent, mut process) = running(bench, "answers-lost", &camera).await;
        for _ in 0..short_or_long(3, 50) {
            bench.proxy.set(Fault::DropResponses);
            wait_for_lost_answers(bench).await;
            bench.proxy.set(Fault::None);
            bench.proxy.cut();
            wait_for_stored(&bench.fleet, &agent, &mut process, 10).await?;
        }
        recovers(bench, &agent, &mut process).await;
        topics::each_once(&bench.fleet, &agent)
    })
    .unwrap();
}

#[test]
fn what_the_broker_wrote_before_its_answer_was_lost_and_the_agent_was_killed_is_stored_once() {
    on_bench(async |bench| {
        let camera = ten_a_second_without_pictures("north")?;
        let (agent, mut process) = running(bench, "killed", &camera).await;
        for _ in 0..short_or_long(3, 50) {
            bench.proxy.set(Fault::DropResponses);
            wait_for_lost_answers(bench).await;
            process.kill()?;
            bench.proxy.set(Fault::None);
            process = agent.start()?;
            wait_for_stored(&bench.fleet, &agent, &mut process, 5).await?;
        }
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        let findings = settled(&bench.fleet, &[&agent], LIMIT).await?;
        for (epoch, account) in findings.of(&agent) {
            assert!(account.drops().keys().all(|reason| reason == "crash"), "{epoch}");
        }
        let log = topics::values_by_id(&bench.fleet, &agent)?;
        let resent = log.values().filter(|values| values.len() > 1).count();
        assert!(resent > 0, "no record is on the topic twice: the fault was not there");
        for (id, values) in log {
            assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{id:?} has other bytes");
        }
        assert_eq!(bench.fleet.dead_letters()?, 0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn pictures_that_the_broker_never_takes_are_counted_and_hold_up_nothing() {
    on_bench(async |bench| {
        let setting = "max.message.bytes";
        let before =
            topics::set(bench.fleet.stack.settings(), Topic::Frames, setting, "3000").await?;
        let camera = ten_a_second("north")? + "publish.policy = \"all\"\n";
        let (agent, mut process) = running(bench, "too-large", &camera).await;
        wait_for_log(&mut process, "the broker will never take this record", 20).await?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 50).await?;
        topics::set(bench.fleet.stack.settings(), Topic::Frames, setting, &before).await?;
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 20).await?;
        end(&mut process).await?;
        let findings = settled(&bench.fleet, &[&agent], LIMIT).await?;
        let (mut refused, mut arrived) = (0, 0);
        for (epoch, account) in findings.of(&agent) {
            assert!(account.dropped.is_empty(), "{epoch}: {:?}", account.drops());
            assert!(account.spooled.is_empty(), "{epoch}: {:?} are left", account.spooled);
            assert!(account.pictures_spooled.is_empty(), "{epoch}: pictures are left");
            refused += account.picture_gaps.iter().map(|(_, _, count)| count).sum::<u64>();
            arrived += account.pictures_stored.len();
        }
        println!("{refused} pictures refused, {arrived} arrived");
        assert!(refused >= 20 && arrived > 0, "{refused} refused, {arrived} arrived");
        assert_eq!(bench.fleet.dead_letters()?, 0);
        Ok(())
    })
    .unwrap();
}
