//! A box whose spool is encrypted goes through an outage: what is stolen with its disk shows nothing, what
//! was kept arrives, and the keys go with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use picket_tests::faults::{
    LIMIT, end, on_bench, short_or_long, wait_for_drained, wait_for_log, wait_for_spooled,
    wait_for_stored,
};
use picket_tests::fleet::{Agent, settled};
use picket_tests::proxy::Fault;

const CAMERA: &str = "[[camera]]
name = \"north\"
source.test-pattern = { fps = 10, width_px = 160, height_px = 120 }
sampling.fps = 10.0
motion.gate = false
publish.policy = \"all\"
";

/// What a picture begins with, and what stands in each observation.
const SECRETS: [&[u8]; 2] = [b"\xff\xd8\xff\xe0\0\x10JFIF", b"\"detections\":"];

/// How often the bytes stand in the files below a folder.
fn count(folder: &Path, bytes: &[u8]) -> usize {
    let of = |entry: fs::DirEntry| match entry.path() {
        path if path.is_dir() => count(&path, bytes),
        // The control socket is none.
        path if !path.is_file() => 0,
        path => fs::read(path).unwrap().windows(bytes.len()).filter(|at| *at == bytes).count(),
    };
    fs::read_dir(folder).unwrap().map(|entry| of(entry.unwrap())).sum()
}

fn keys(agent: &Agent) -> usize {
    fs::read_dir(agent.state().join("spool.keys")).unwrap().count()
}

#[test]
fn an_outage_on_an_encrypted_box_loses_nothing_and_leaves_no_picture_and_then_no_key_on_its_disk() {
    on_bench(async |bench| {
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("spool-key");
        fs::write(&key, "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=")?;
        fs::set_permissions(&key, Permissions::from_mode(0o600))?;
        let encrypted = format!("{CAMERA}\n[spool.encryption]\nkey_file = {key:?}\n");
        let mut boxes = Vec::new();
        for (device, cameras) in [("sealed", encrypted.as_str()), ("open", CAMERA)] {
            let agent = bench.fleet.enrol_behind_proxy(device, cameras).await?;
            agent.configure("uplink", "stall_ms = 3000")?;
            let mut process = agent.start()?;
            wait_for_stored(&bench.fleet, &agent, &mut process, 10).await?;
            boxes.push((agent, process));
        }

        bench.proxy.set(Fault::Refuse);
        for (agent, process) in &mut boxes {
            wait_for_log(process, "the link is down", 1).await?;
            wait_for_spooled(agent, process, short_or_long(40, 3000)).await?;
            // As they lie when the disk is pulled out of the running box.
            process.kill()?;
        }
        for secret in SECRETS {
            let [sealed, open] = [0, 1].map(|at: usize| count(&boxes[at].0.state(), secret));
            assert_eq!(sealed, 0, "{}", secret.escape_ascii());
            assert!(open >= 40, "they would be found: {open} of {}", secret.escape_ascii());
        }
        assert_eq!(keys(&boxes[0].0), 1, "one hour of one run");

        for (agent, process) in &mut boxes {
            *process = agent.start()?;
        }
        bench.proxy.set(Fault::None);
        for (agent, process) in &mut boxes {
            wait_for_drained(agent, process, LIMIT).await?;
            wait_for_stored(&bench.fleet, agent, process, 20).await?;
            end(process).await?;
        }
        let (agent, _) = &boxes[0];
        let findings = settled(&bench.fleet, &[agent, &boxes[1].0], LIMIT).await?;
        let mut stored = 0;
        for (epoch, account) in findings.of(agent) {
            let drops = account.drops();
            assert!(drops.keys().all(|reason| reason == "crash"), "{epoch}: {drops:?}");
            assert!(account.spooled.is_empty(), "{epoch}: {:?} are left", account.spooled);
            stored += account.stored.len();
        }
        assert!(stored >= 60, "{stored}");
        assert_eq!(bench.fleet.dead_letters()?, 0, "the centre could read each");
        assert_eq!(keys(agent), 0);
        println!("{stored} observations stored");
        Ok(())
    })
    .unwrap();
}
