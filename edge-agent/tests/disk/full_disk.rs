//! A real file system that another process fills to the last byte, and one that is mounted read-only.
//!
//! Both need a mount of the test's own: each test runs itself again in a mount namespace, as root or
//! in a user namespace. A machine that allows neither fails the test and says so.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use picket_edge_agent::spool::{self, Settings, SpoolError};
use picket_faulty_disk::FaultyDisk;
use picket_wire::Topic;

use crate::LIMIT;
use crate::agent::{Agent, TestClock, cameras};
use crate::ledger::Ledger;
use crate::player::Player;

/// Names the folder of the file system, in the process within the namespace.
const MOUNT: &str = "PICKET_TEST_MOUNT";

fn settings() -> Settings {
    Settings {
        checkpoint_bytes: 256 * 1024,
        max_bytes: 16 * 1024 * 1024,
        commit_bytes: 256 * 1024,
        max_pending_bytes: 1024 * 1024,
        ..Settings::default()
    }
}

/// Runs `test` of this program on a file system of its own of so many MiB.
fn on_own_file_system(test: &str, mib: u32) {
    let dir = tempfile::tempdir().unwrap();
    // Root needs no user namespace, and some machines forbid those.
    let namespace = if std::fs::metadata("/proc/self").unwrap().uid() == 0 { "-m" } else { "-rm" };
    let script = format!(
        "mount -t tmpfs -o size={mib}m picket-test \"${MOUNT}\" || exit 77; exec \"$0\" --exact {test} --nocapture"
    );
    let output = Command::new("unshare")
        .args([namespace, "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(MOUNT, dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("unshare of util-linux is missing");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{}, in a mount namespace (`unshare {namespace}`; the machine must allow one):\n{said}",
        output.status
    );
}

fn own_mount() -> Option<std::path::PathBuf> {
    std::env::var_os(MOUNT).map(Into::into)
}

/// Another process takes all that is left, to the last byte.
fn fill(folder: &Path) {
    let script = "cat /dev/zero > \"$0\"/ballast 2>/dev/null; \
                  while printf 0 >> \"$0\"/ballast 2>/dev/null; do :; done";
    let filled = Command::new("sh").args(["-c", script]).arg(folder).status().unwrap();
    assert!(!filled.success() || free_bytes(folder) == 0, "{} is not full", folder.display());
    assert_eq!(free_bytes(folder), 0);
}

fn free_bytes(folder: &Path) -> u64 {
    let stat = rustix::fs::statvfs(folder).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn a_file_system_that_another_process_fills_and_frees_costs_only_what_memory_cannot_hold() {
    let Some(mount) = own_mount() else {
        let name = "full_disk::a_file_system_that_another_process_fills_and_frees_costs_only_what_memory_cannot_hold";
        return on_own_file_system(name, 24);
    };
    let state = mount.join("state");
    std::fs::create_dir(&state).unwrap();
    let disk = FaultyDisk::under(&state);
    let mut player = Player::start(&state, &settings(), TestClock::set(), disk, Ledger::default());
    player.work(10, 20_000, true);
    fill(&mount);
    let [north, _] = cameras();
    let until = std::time::Instant::now() + LIMIT;
    // What is free within the database's own file is used up first.
    while !matches!(player.agent.spool.reserve(&north, 1), Err(SpoolError::Failing { .. })) {
        assert!(std::time::Instant::now() < until, "the full disk was never met");
        let _ = player.capture(&north, Some(100_000));
    }
    let rows = player.take(Topic::Observations);
    assert!(!rows.is_empty(), "what is kept can be sent meanwhile");
    player.give_back(&rows);
    while player.agent.numbers_left(&north) > 0 {
        assert!(player.capture(&north, Some(400_000)));
    }
    std::fs::remove_file(mount.join("ballast")).unwrap();
    player.flush();
    let books = player.agent.spool.ledger().books(&north).unwrap();
    assert_eq!(books.in_memory, 0, "{books:?}");
    let (disk, ledger) = player.finish();
    drop(disk);
    let agent = Agent::start(&state, &settings(), TestClock::set());
    ledger.promised(usize::MAX).judge(&agent, "freed");
}

#[test]
fn a_spool_on_a_file_system_that_is_mounted_read_only_does_not_start_and_loses_nothing() {
    let Some(mount) = own_mount() else {
        let name = "full_disk::a_spool_on_a_file_system_that_is_mounted_read_only_does_not_start_and_loses_nothing";
        return on_own_file_system(name, 64);
    };
    let state = mount.join("state");
    std::fs::create_dir(&state).unwrap();
    let disk = FaultyDisk::under(&state);
    let mut player = Player::start(&state, &settings(), TestClock::set(), disk, Ledger::default());
    player.work(10, 20_000, true);
    let (disk, ledger) = player.finish();
    drop(disk);
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        let status = Command::new("mount").args(["-o", &options]).arg(&mount).status().unwrap();
        assert!(status.success(), "mount -o {options}");
    };
    remount("ro");
    assert!(OpenOptions::new().append(true).open(state.join("epoch")).is_err());
    let error = Agent::try_start(&state, &settings(), TestClock::set()).err().unwrap();
    assert_eq!(error.advice(), spool::Advice::Stop, "{error}");
    let said = picket_service::logging::chain(&error);
    assert!(said.contains("state") && said.contains("Read-only"), "{said}");
    remount("rw");
    let agent = Agent::start(&state, &settings(), TestClock::set());
    ledger.promised(usize::MAX).judge(&agent, "writable again");
    assert_eq!(spool::stat(&state).unwrap().set_aside, 0);
}
