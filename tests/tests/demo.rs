//! The demo says whether it worked.

#![allow(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::process::{Command, Output};
use std::time::Duration;

use picket_tests::checkout;
use picket_tests::process::{output_within, program};

/// The stack's start, the demo and its end, on a machine that has other work.
const LIMIT: Duration = Duration::from_secs(900);

fn demo(cache: &std::path::Path, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program("picket-demo").unwrap());
    command.envs(settings.iter().copied()).env("PICKET_CACHE", cache);
    output_within(&mut command, LIMIT).unwrap()
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A cache of its own, so that a demo that somebody watches is not disturbed; what was fetched is
/// taken from the real one.
fn cache() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for fetched in ["models", "runtime", "video", "stack"] {
        let real = std::fs::canonicalize(checkout::cache().join(fetched)).unwrap();
        std::os::unix::fs::symlink(real, dir.path().join(fetched)).unwrap();
    }
    dir
}

/// What the table of cameras has in a column, by camera.
fn column<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let words = |line: &'a str| line.split_whitespace().collect::<Vec<_>>();
    let mut lines = text.lines().map(words).skip_while(|line| line.first() != Some(&"camera"));
    let heads = lines.next().unwrap();
    let at = heads.iter().position(|head| *head == name).unwrap();
    let rows = lines.take_while(|line| line.len() == heads.len());
    rows.map(|line| line[at]).collect()
}

#[test]
fn the_demo_shows_an_outage_and_the_books_and_ends_well() {
    let cache = cache();
    let output = demo(cache.path(), &[("DURATION_S", "8"), ("OUTAGE_S", "4")]);
    let text = text_of(&output);
    assert!(output.status.success(), "{text}");
    let rows = [
        "live page: http://127.0.0.1:",
        "no broker   spool: ",
        "drained     spool: ",
        "frames sampled",
        "latency",
        "kept in the spool",
        "drain rate",
        "tracks as without it       yes",
        "doubled",
        "books balanced               yes",
    ];
    for row in rows {
        assert!(text.contains(row), "{row} is not in:\n{text}");
    }
    assert_eq!(column(&text, "doubled"), ["0"], "{text}");
}

#[test]
fn a_demo_in_which_nothing_flows_ends_badly_and_says_why() {
    let cache = cache();
    let videos = tempfile::tempdir().unwrap();
    std::fs::write(videos.path().join("notes.mp4"), "these are not pictures\n".repeat(99)).unwrap();
    let output =
        demo(cache.path(), &[("VIDEO", videos.path().to_str().unwrap()), ("OUTAGE_S", "0")]);
    let text = text_of(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("notes.mp4"), "{text}");
}
