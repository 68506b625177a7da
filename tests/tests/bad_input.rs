//! Bad input to the programs: each refusal names the thing and what would be right.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use picket_pki::{Authority, IssueOptions, MAX_DAYS, Role};
use picket_tests::checkout;
use picket_tests::process::{Process, output_within, program, until};

/// How long anything may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);

/// A folder with what a good agent config needs.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::init(&dir.path().join("pki"), MAX_DAYS).unwrap();
        authority.issue(Role::Device, "gate", &IssueOptions::default()).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn good_config(&self) -> String {
        let cache = std::fs::canonicalize(checkout::cache()).expect("run `make fetch` first");
        let pki = self.path("pki");
        format!(
            r#"device = "gate"
state_dir = "{state}"

[[camera]]
name = "front"
source.file = {{ path = "{cache}/video/carphone_pristine.mp4", pace = "none" }}

[detect]
model = "{cache}/models/yunet.onnx"
runtime_library = "{cache}/runtime/{arch}/libonnxruntime.so"

[uplink]
brokers = ["127.0.0.1:1"]
ca_file = "{pki}/ca.crt"
certificate_file = "{pki}/device/gate.crt"
key_file = "{pki}/device/gate.key"
drain_timeout_ms = 100

[ops]
listen = "127.0.0.1:0"
"#,
            state = self.path("state").display(),
            cache = cache.display(),
            arch = std::env::consts::ARCH,
            pki = pki.display(),
        )
    }

    fn agent(&self, command: &str, config: &str) -> Output {
        let path = self.path("agent.toml");
        std::fs::write(&path, config).unwrap();
        run("picket-edge-agent", &[command, "--config", path.to_str().unwrap()])
    }

    /// Checks that a config is refused with all of these words.
    fn refused(&self, command: &str, config: &str, words: &[&str]) {
        let output = self.agent(command, config);
        let text = text_of(&output);
        assert!(!output.status.success(), "was taken:\n{config}\n{text}");
        assert!(!text.contains("panicked"), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in:\n{text}");
        }
    }
}

fn run(name: &str, args: &[&str]) -> Output {
    output_within(Command::new(program(name).unwrap()).args(args), LIMIT).unwrap()
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_good_config_is_taken() {
    let bench = Bench::new();
    let output = bench.agent("check-config", &bench.good_config());
    assert!(output.status.success(), "{}", text_of(&output));
}

#[test]
fn an_unknown_key_is_refused_with_the_right_one() {
    let bench = Bench::new();
    let config = bench.good_config().replace("brokers =", "brokres =");
    bench.refused("check-config", &config, &["agent.toml:", "brokres", "did you mean `brokers`"]);
}

#[test]
fn a_wrong_type_is_refused_with_file_line_and_field() {
    let bench = Bench::new();
    let config = bench.good_config().replace("[\"127.0.0.1:1\"]", "7");
    bench.refused("check-config", &config, &["agent.toml:", "uplink.brokers", "invalid type"]);
}

#[test]
fn a_bad_device_name_is_refused_with_the_rule() {
    let bench = Bench::new();
    let config = bench.good_config().replace("\"gate\"", "\"Gate 1\"");
    bench.refused("check-config", &config, &["device", "Gate 1", "a-z, 0-9"]);
}

#[test]
fn a_missing_video_is_refused_with_its_path() {
    let bench = Bench::new();
    let config = bench.good_config().replace("carphone_pristine.mp4", "nowhere.mp4");
    bench.refused("check-config", &config, &["front", "nowhere.mp4", "source.file.path"]);
}

#[test]
fn a_folder_with_nothing_in_it_is_a_warning_that_names_it_beside_a_camera_and_alone_refused() {
    let bench = Bench::new();
    let (good, gone) = (bench.good_config(), bench.path("recordings"));
    let with_folder = format!("{good}\n[[folder]]\npath = {gone:?}\n");
    let output = bench.agent("check-config", &with_folder);
    let text = text_of(&output);
    assert!(output.status.success(), "{text}");
    let gone = gone.to_str().unwrap();
    let told = |text: &str| text.lines().any(|l| l.contains("WARNING") && l.contains(gone));
    assert!(told(&text), "{text}");
    let text = text_of(&bench.agent("doctor", &with_folder));
    assert!(told(&text), "{text}");
    let camera = good.lines().skip_while(|line| !line.starts_with("[[")).take(3);
    let alone = with_folder.replace(&camera.collect::<Vec<_>>().join("\n"), "");
    bench.refused("check-config", &alone, &["folder", gone, "nothing else"]);
}

#[test]
fn a_missing_model_is_refused_with_its_path() {
    let bench = Bench::new();
    let config = bench.good_config().replace("yunet.onnx", "nowhere.onnx");
    bench.refused("check-config", &config, &["detect", "model", "nowhere.onnx"]);
}

#[test]
fn a_model_with_another_hash_is_refused_with_both() {
    let bench = Bench::new();
    let wrong = "ab".repeat(32);
    let config =
        bench.good_config().replace("[detect]", &format!("[detect]\nmodel_sha256 = \"{wrong}\""));
    bench.refused("check-config", &config, &["detect", "yunet.onnx", &wrong]);
}

#[test]
fn plaintext_is_refused_unless_a_flag_says_so() {
    let bench = Bench::new();
    let config = bench.good_config();
    let without: String = config
        .lines()
        .filter(|line| !line.contains("_file ="))
        .fold(String::new(), |text, line| text + line + "\n");
    bench.refused("check-config", &without, &["uplink", "allow_plaintext"]);
    let allowed = without.replace("[uplink]", "[uplink]\nallow_plaintext = true");
    let output = bench.agent("check-config", &allowed);
    assert!(output.status.success(), "{}", text_of(&output));
}

#[tokio::test]
async fn a_file_that_is_no_video_is_told_by_name_and_makes_the_run_fail() {
    let bench = Bench::new();
    let file = bench.path("notes.mp4");
    std::fs::write(&file, "these are not pictures\n".repeat(1000)).unwrap();
    let (log, status) = run_until_told(&bench, &file, "ERROR").await;
    assert!(!status.success(), "{log}");
}

#[tokio::test]
async fn a_truncated_video_gives_what_it_has_and_is_told_by_name() {
    let bench = Bench::new();
    // With its index at the head, so that the half of it that is there can be played.
    let whole = bench.path("whole.mp4");
    let remux = Command::new("gst-launch-1.0")
        .args(["-q", "filesrc", &format!("location={}", checkout::clip().unwrap().display())])
        .args(["!", "qtdemux", "!", "h264parse", "!", "mp4mux", "faststart=true"])
        .args(["!", "filesink", &format!("location={}", whole.display())])
        .status();
    assert!(remux.unwrap().success());
    let whole = std::fs::read(whole).unwrap();
    let file = bench.path("cut.mp4");
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    run_until_told(&bench, &file, "breaks off").await;
    let spool = rusqlite::Connection::open(bench.path("state/spool.sqlite")).unwrap();
    let sql = "SELECT count(*) FROM records WHERE kind = 'observation'";
    let seen: u64 = spool.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!((10..110).contains(&seen), "{seen} of the 120 frames of the whole clip");
}

/// Runs the agent until a line of its log names the file and holds `word`. No broker takes what was seen, so the agent keeps it
/// and waits until it is told to end.
async fn run_until_told(bench: &Bench, file: &Path, word: &str) -> (String, ExitStatus) {
    let path = bench.path("agent.toml");
    std::fs::write(&path, with_video(&bench.good_config(), file)).unwrap();
    let args = ["run", "--config", path.to_str().unwrap()];
    let mut agent = Process::start("picket-edge-agent", &args, &bench.path("agent.log")).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    until("a word on the file", LIMIT, async || {
        let log = agent.log();
        let told = log.lines().any(|line| line.contains(name) && line.contains(word));
        Ok(if told { Ok(()) } else { Err(log) })
    })
    .await
    .unwrap();
    let status = agent.terminate(LIMIT).await.unwrap();
    let log = agent.log();
    assert!(!log.contains("panicked"), "{log}");
    (log, status)
}

fn with_video(config: &str, file: &Path) -> String {
    let line = format!("source.file = {{ path = {file:?}, pace = \"none\" }}");
    let replaced = config.lines().map(|l| if l.starts_with("source.file") { &line } else { l });
    replaced.collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn doctor_says_on_one_page_what_is_wrong() {
    let bench = Bench::new();
    let output = bench.agent("doctor", &bench.good_config());
    let text = text_of(&output);
    for word in ["camera", "decoder", "model", "runtime", "spool", "broker", "certificate", "clock"]
    {
        assert!(text.to_lowercase().contains(word), "{word} is not in:\n{text}");
    }
    assert!(!output.status.success(), "the broker cannot be reached:\n{text}");
}

/// An aggregator's config, as `check-config` sees it.
fn check_aggregator(bench: &Bench, change: impl FnOnce(String) -> String) -> Output {
    let path = bench.path("aggregator.toml");
    let config = format!(
        "[consume]\nbrokers = [\"127.0.0.1:1\"]\nallow_plaintext = true\n\
         [store]\nhosts = [\"127.0.0.1:1\"]\nallow_plaintext = true\n\
         [upsert]\nimages_directory = {:?}\n[web]\nlisten = \"127.0.0.1:8080\"\n",
        bench.path("images"),
    );
    std::fs::write(&path, change(config)).unwrap();
    run("picket-aggregator", &["check-config", "--config", path.to_str().unwrap()])
}

#[test]
fn the_aggregator_takes_a_good_config_and_names_what_is_wrong_in_a_bad_one() {
    let bench = Bench::new();
    let good = check_aggregator(&bench, |config| config);
    assert!(good.status.success(), "{}", text_of(&good));
    for (from, to, words) in [
        ("brokers", "brokres", ["aggregator.toml:2", "did you mean `brokers`"]),
        ("\"127.0.0.1:8080\"", "8080", ["aggregator.toml:10", "web.listen"]),
        ("127.0.0.1:8080", "0.0.0.0:8080", ["aggregator.toml", "web.listen"]),
    ] {
        let bad = check_aggregator(&bench, |config| config.replace(from, to));
        let text = text_of(&bad);
        assert!(!bad.status.success(), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in:\n{text}");
        }
    }
}
