//! Corpus and seeds through the targets, without the engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use picket_fuzz::TARGETS;
use picket_fuzz::seeds::{in_folder, seeds};

/// Most that one input may take, on a machine that has other work: beyond it, it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs all inputs of a target; the error names the one that it stopped at.
fn replay(name: &'static str) {
    let kept = in_folder(&format!("corpus/{name}"));
    assert!(!kept.is_empty(), "the corpus of {name} is empty");
    for path in kept {
        run(name, &path.display().to_string(), fs::read(&path).unwrap());
    }
    for seed in seeds().into_iter().filter(|seed| seed.target == name) {
        run(name, &format!("the seed {}", seed.name), seed.input);
    }
}

fn run(name: &str, of: &str, input: Vec<u8>) {
    let target = picket_fuzz::target(name).unwrap();
    let (done, ended) = channel();
    let run = thread::spawn(move || {
        target(&input);
        done.send(()).unwrap();
    });
    match ended.recv_timeout(LIMIT) {
        Ok(()) => run.join().unwrap(),
        Err(RecvTimeoutError::Timeout) => panic!("{of}: no end in {LIMIT:?}"),
        Err(RecvTimeoutError::Disconnected) => panic!("{of}: it panicked, see above"),
    }
}

#[test]
fn no_known_message_breaks_the_decoding() {
    replay("wire");
}

#[test]
fn no_known_row_of_the_spool_stops_the_agent() {
    replay("spool-rows");
}

#[test]
fn no_known_damage_to_the_spools_files_stops_the_agent() {
    replay("spool-file");
}

#[test]
fn no_known_carried_file_breaks_its_reader() {
    replay("carried-file");
}

#[test]
fn no_known_config_breaks_its_program() {
    replay("config-edge-agent");
    replay("config-aggregator");
}

#[test]
fn each_corpus_has_a_target() {
    let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    let folders = in_folder("corpus").into_iter();
    let folders: Vec<_> =
        folders.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(folders, names);
}
