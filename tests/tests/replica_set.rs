//! A real replica set of three: members that go while an agent runs, and a log-in by certificate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::path::Path;

use anyhow::{Result, ensure};
use mongodb::bson::{Document, doc};
use picket_aggregator::remedy::Remedy;
use picket_aggregator::store::{self, Store, StoreError};
use picket_pki::{Authority, IssueOptions, Role};
use picket_service::logging::chain;
use picket_tests::faults::{
    Bench, Chance, LIMIT, end, nothing_is_lost, on_bench_of, short_or_long, ten_a_second,
    wait_for_drained, wait_for_stored,
};
use picket_tests::feed::Feed;
use picket_tests::process::until;
use picket_tests::sameness::is_as_if_nothing_had_happened;
use picket_tests::stack::{Stack, StackOptions};

fn on_three_members(test: impl AsyncFnOnce(&mut Bench) -> Result<()>) {
    on_bench_of(StackOptions { members: 3, ..StackOptions::default() }, test).unwrap();
}

/// The member that takes writes, once it is another than this one.
async fn primary_after(stack: &Stack, before: Option<u16>) -> Result<u16> {
    until("another member to be primary", LIMIT, async || {
        let primary = stack.primary().await?;
        Ok(primary.filter(|port| Some(*port) != before).ok_or_else(|| format!("{primary:?}")))
    })
    .await
}

/// Waits until all members hold what there is: then any one can go.
async fn whole(bench: &Bench) -> Result<()> {
    let members = bench.fleet.stack.settings().mongodb.ports.len();
    until("all members to be whole", LIMIT, async || {
        let whole = bench.fleet.stack.whole_members().await?;
        Ok(if whole == members { Ok(()) } else { Err(format!("{whole} are")) })
    })
    .await
}

#[test]
fn a_primary_that_steps_down_or_is_killed_under_load_loses_nothing_and_doubles_nothing() {
    on_three_members(async |bench| {
        whole(bench).await?;
        let feed = Feed::start(&bench.fleet.stack, "feed", Chance::new()?).await?;
        let agent = bench.fleet.enrol("gate", &ten_a_second("north")?).await?;
        let mut process = agent.start()?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 20).await?;
        for _ in 0..short_or_long(1, 10) {
            let first = primary_after(&bench.fleet.stack, None).await?;
            bench.fleet.stack.step_down(first).await?;
            let second = primary_after(&bench.fleet.stack, Some(first)).await?;
            wait_for_stored(&bench.fleet, &agent, &mut process, 20).await?;

            bench.fleet.stack.kill_member(second)?;
            primary_after(&bench.fleet.stack, Some(second)).await?;
            wait_for_stored(&bench.fleet, &agent, &mut process, 20).await?;
            bench.fleet.stack.start_member(second).await?;
            whole(bench).await?;
        }
        feed.stop().await?;
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        nothing_is_lost(&bench.fleet, &[&agent]).await?;
        bench.fleet.aggregator.expect_running()?;
        let log = bench.fleet.aggregator.log();
        for said in ["MongoDB has no primary now", "MongoDB takes writes again"] {
            ensure!(
                log.contains(said),
                "nobody said {said:?}:\n{}",
                bench.fleet.aggregator.log_tail()
            );
        }
        ensure!(!log.contains("ERROR"), "{log}");
        is_as_if_nothing_had_happened(bench, &["gate", "feed"]).await
    });
}

fn by_certificate(bench: &Bench, pem: &Path) -> store::Settings {
    let mongodb = &bench.fleet.stack.settings().mongodb;
    let hosts: Vec<_> = mongodb.ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
    let text = format!(
        "hosts = [{}]\ndatabase = '{}'\nca_file = '{}'\ncertificate_key_file = '{}'\nx509 = true",
        hosts.join(", "),
        mongodb.database,
        mongodb.ca.display(),
        pem.display()
    );
    let settings: store::Settings = toml::from_str(&text).unwrap();
    settings.check().unwrap();
    settings
}

async fn refused(bench: &Bench, pem: &Path) -> (StoreError, String) {
    let error = Store::connect(&by_certificate(bench, pem)).await.unwrap_err();
    let said = chain(&error).to_string();
    (error, said)
}

#[test]
fn a_certificate_logs_in_to_mongodb_and_a_wrong_one_is_told_by_what_is_wrong() {
    on_three_members(async |bench| {
        whole(bench).await?;
        let settings = bench.fleet.stack.settings();
        let own = settings.aggregator.certificate.with_extension("pem");
        let store = Store::connect(&by_certificate(bench, &own)).await?;
        store.prepare().await?;
        let things = store.database().collection::<Document>("things");
        things.insert_one(doc! { "_id": 1 }).await?;

        let device = bench.fleet.stack.device_certificate("gate-9").await?;
        let (error, said) = refused(bench, &device.certificate.with_extension("pem")).await;
        ensure!(matches!(error, StoreError::LogIn { .. }), "{said}");
        ensure!(said.contains("CN=gate-9,OU=device must be a user in $external"), "{said}");

        let other = tempfile::tempdir()?;
        let authority = Authority::init(other.path(), picket_pki::MAX_DAYS)?;
        let forged = authority.issue(Role::Aggregator, "centre", &IssueOptions::default())?;
        let (error, said) = refused(bench, &forged.certificate.with_extension("pem")).await;
        ensure!(matches!(error, StoreError::Untrusted { .. }), "{said}");
        ensure!(error.remedy() == Remedy::Retry, "a server that goes ends connections too: {said}");

        let (error, said) = refused(bench, &other.path().join("none.pem")).await;
        ensure!(matches!(error, StoreError::File { .. }), "{said}");
        ensure!(said.contains("store.certificate_key_file"), "{said}");
        let (error, said) = refused(bench, &settings.aggregator.certificate).await;
        ensure!(matches!(error, StoreError::Client(_)), "no key in it: {said}");
        Ok(())
    });
}
