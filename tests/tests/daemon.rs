//! The agent as a service: reload, pause, readiness, identity. Real processes, no broker: all of it
//! must work without one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use picket_pki::{Authority, IssueOptions, MAX_DAYS, Role};
use picket_tests::checkout;
use picket_tests::fleet::{address, get};
use picket_tests::oracle::open_spool;
use picket_tests::process::{Process, output_within, program, until};

const LIMIT: Duration = Duration::from_secs(180);

/// A box: its config, its state, and the machine that it believes to be.
struct Box {
    dir: tempfile::TempDir,
    env: Vec<(&'static str, PathBuf)>,
}

impl Box {
    fn new(cameras: &str, broker: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::init(&dir.path().join("pki"), MAX_DAYS).unwrap();
        for name in ["gate", "gate-2"] {
            authority.issue(Role::Device, name, &IssueOptions::default()).unwrap();
        }
        let cache = std::fs::canonicalize(checkout::cache()).expect("run `make fetch` first");
        let config = format!(
            r#"device = "gate"
state_dir = "{state}"
ready_timeout_s = 1
{cameras}
[detect]
model = "{cache}/models/yunet.onnx"
runtime_library = "{cache}/runtime/{arch}/libonnxruntime.so"
input_width_px = 160
[uplink]
brokers = ["{broker}"]
ca_file = "{pki}/ca.crt"
certificate_file = "{pki}/device/gate.crt"
key_file = "{pki}/device/gate.key"
drain_timeout_ms = 100
[ops]
listen = "127.0.0.1:0"
"#,
            state = dir.path().join("state").display(),
            cache = cache.display(),
            arch = std::env::consts::ARCH,
            pki = dir.path().join("pki").display(),
        );
        std::fs::write(dir.path().join("agent.toml"), config).unwrap();
        std::fs::create_dir(dir.path().join("agent.conf.d")).unwrap();
        let machine = dir.path().join("machine");
        let this = Self { env: vec![("PICKET_MACHINE_ROOT", machine)], dir };
        this.board("dc:a6:32:00:00:01");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts the card into a board with this address.
    fn board(&self, mac: &str) {
        let card = self.path("machine/sys/class/net/eth0");
        std::fs::create_dir_all(card.join("device")).unwrap();
        std::fs::write(card.join("address"), mac).unwrap();
        std::fs::write(card.join("addr_assign_type"), "0\n").unwrap();
    }

    fn drop_in(&self, text: &str) {
        std::fs::write(self.path("agent.conf.d/10-site.toml"), text).unwrap();
    }

    fn start(&self) -> Process {
        let config = self.path("agent.toml");
        let args = ["run", "--config", config.to_str().unwrap()];
        let env: Vec<_> = self.env.iter().map(|(name, value)| (*name, value.as_path())).collect();
        Process::start_with("picket-edge-agent", &args, &env, &self.path("agent.log")).unwrap()
    }

    fn order(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("picket-edge-agent").unwrap());
        command.args(args).arg("--config").arg(self.path("agent.toml"));
        command.envs(self.env.iter().cloned());
        output_within(&mut command, LIMIT).unwrap()
    }

    fn ordered(&self, args: &[&str]) -> String {
        let output = self.order(args);
        assert!(output.status.success(), "{args:?}: {}", text_of(&output));
        text_of(&output)
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.order(args);
        assert!(!output.status.success(), "{args:?}: {}", text_of(&output));
        text_of(&output)
    }

    /// What the spool has of a camera: epoch, first, last, kind, and a gap's reason.
    fn rows(&self, camera: &str) -> Vec<Row> {
        rows(&self.path("state/spool.sqlite"), camera).unwrap_or_default()
    }

    /// Waits until the spool has of a camera what is looked for.
    async fn until(
        &self,
        agent: &mut Process,
        camera: &str,
        what: &str,
        has: impl Fn(&[Row]) -> bool,
    ) {
        until(&format!("{camera}: {what}"), LIMIT, async || {
            agent.expect_running()?;
            let rows = self.rows(camera);
            Ok(if has(&rows) { Ok(()) } else { Err(format!("{:?}", rows.last())) })
        })
        .await
        .unwrap();
    }
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    epoch: String,
    first: u64,
    last: u64,
    kind: String,
    reason: Option<String>,
}

fn rows(spool: &Path, camera: &str) -> anyhow::Result<Vec<Row>> {
    let spool = open_spool(spool)?;
    let mut rows = spool.prepare(
        "SELECT epoch, first, last, kind, value ->> 'reason' FROM records WHERE key LIKE '%/' || ?1 ORDER BY id",
    )?;
    let rows = rows.query_map([camera], |row| {
        let (epoch, first, last) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Row { epoch, first, last, kind: row.get(3)?, reason: row.get(4)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn frames(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.kind == "observation" || row.kind == "skip").count()
}

/// The `seq` of an epoch follow each other from 1 without a hole, whatever accounts for them.
fn assert_unbroken(rows: &[Row], epoch: &str) {
    let mut next = 1;
    for row in rows.iter().filter(|row| row.epoch == epoch && row.first > 0 && row.kind != "clock")
    {
        assert_eq!(row.first, next, "{row:?} in {rows:?}");
        next = row.last + 1;
    }
    assert!(next > 1, "nothing in {epoch}");
}

fn epochs(rows: &[Row]) -> Vec<String> {
    let mut epochs: Vec<_> = rows.iter().map(|row| row.epoch.clone()).collect();
    epochs.dedup();
    epochs
}

fn camera(name: &str, more: &str) -> String {
    format!(
        "[[camera]]\nname = \"{name}\"\nsource.test-pattern = {{ width_px = 160, height_px = 120, fps = 5 }}\n{more}\n"
    )
}

const NOBODY: &str = "127.0.0.1:1";

#[tokio::test]
async fn a_camera_can_be_paused_whatever_is_wrong_with_the_config_on_disk() {
    let a_box = Box::new(&camera("stays", ""), NOBODY);
    let mut agent = a_box.start();
    a_box.until(&mut agent, "stays", "frames", |rows| frames(rows) > 2).await;
    for wrong in ["[[camera\n", "time_zone = \"${no-such-variable}\"\n"] {
        a_box.drop_in(wrong);
        assert!(a_box.ordered(&["pause", "stays"]).contains("is paused until"));
        assert!(a_box.ordered(&["resume", "stays"]).contains("captures again"));
        let refused = a_box.refused(&["reload"]);
        assert!(refused.contains("10-site.toml:1"), "the agent says what is wrong: {refused}");
    }
}

#[tokio::test]
async fn a_camera_captures_while_another_program_has_the_endpoints_port() {
    let a_box = Box::new(&camera("stays", ""), NOBODY);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = other.local_addr().unwrap().to_string();
    a_box.drop_in(&format!("ops.listen = \"{listen}\"\n"));
    let mut agent = a_box.start();
    a_box.until(&mut agent, "stays", "frames", |rows| frames(rows) > 2).await;
    let told = format!("cannot listen on {listen}");
    assert!(agent.log().contains(&told), "{}", agent.log());
    let checked = a_box.ordered(&["check-config"]);
    assert!(checked.contains("WARNING") && checked.contains(&told), "{checked}");
    drop(other);
    let endpoint = address(&mut agent, "operations endpoint at ").await.unwrap();
    assert!(endpoint.contains(&listen), "{endpoint}");
    assert!(get(&endpoint, "/metrics").await.unwrap().contains("picket_agent_"));
    let checked = a_box.ordered(&["check-config"]);
    assert!(!checked.contains("WARNING"), "it is the agent's own: {checked}");
    let page = a_box.refused(&["doctor"]);
    assert!(page.contains(&format!("an agent answers at http://{listen}")), "{page}");
}

#[tokio::test]
async fn a_camera_captures_while_a_folder_is_not_there_and_a_reload_takes_it_in() {
    let a_box = Box::new(&camera("stays", ""), NOBODY);
    let videos = a_box.path("recordings");
    a_box.drop_in(&format!("[[folder]]\npath = {videos:?}\n"));
    let mut agent = a_box.start();
    a_box.until(&mut agent, "stays", "frames", |rows| frames(rows) > 2).await;
    assert!(agent.log().contains(&format!("cannot list {}", videos.display())), "{}", agent.log());
    std::fs::create_dir(&videos).unwrap();
    std::fs::copy(checkout::clip().unwrap(), videos.join("yesterday.mp4")).unwrap();
    assert!(a_box.ordered(&["reload"]).contains("added yesterday"));
    a_box.until(&mut agent, "yesterday", "frames", |rows| frames(rows) > 2).await;
    // The disk is pulled: what goes on goes on.
    std::fs::remove_dir_all(&videos).unwrap();
    let done = a_box.ordered(&["reload"]);
    assert!(done.contains("no camera changed") && done.contains("left out"), "{done}");
    assert_eq!(epochs(&a_box.rows("stays")).len(), 1);
}

#[tokio::test]
async fn cameras_come_go_and_change_while_the_others_run_on() {
    let a_box =
        Box::new(&(camera("stays", "") + &camera("changes", "") + &camera("goes", "")), NOBODY);
    let mut agent = a_box.start();
    for name in ["stays", "changes", "goes"] {
        a_box.until(&mut agent, name, "frames", |rows| frames(rows) > 2).await;
    }
    // `goes` is emptied by a list of its own: drop-ins cannot take a camera away, so the main file is
    // written anew, and the drop-in adds one and changes one.
    let config = std::fs::read_to_string(a_box.path("agent.toml")).unwrap();
    std::fs::write(a_box.path("agent.toml"), config.replace(&camera("goes", ""), "")).unwrap();
    a_box.drop_in(&(camera("comes", "") + "[[camera]]\nname = \"changes\"\nsampling.every = 2\n"));
    let done = a_box.ordered(&["reload"]);
    for word in ["added comes", "removed goes", "changed changes"] {
        assert!(done.contains(word), "{done}");
    }
    a_box.until(&mut agent, "comes", "frames", |rows| frames(rows) > 2).await;
    let before = frames(&a_box.rows("changes"));
    a_box.until(&mut agent, "changes", "more frames", |rows| frames(rows) > before + 2).await;
    let gone = frames(&a_box.rows("goes"));
    let stayed = frames(&a_box.rows("stays"));
    a_box.until(&mut agent, "stays", "more frames", |rows| frames(rows) > stayed + 2).await;
    assert_eq!(frames(&a_box.rows("goes")), gone, "a camera that was taken out goes on");
    assert_eq!(agent.log().matches("camera stays: frames flow").count(), 1, "it was disturbed");
    assert_eq!(agent.log().matches("camera changes: frames flow").count(), 2);
    assert!(agent.terminate(LIMIT).await.unwrap().success());
    for name in ["stays", "changes", "goes", "comes"] {
        let rows = a_box.rows(name);
        assert_eq!(epochs(&rows).len(), 1, "{name}: {rows:?}");
        assert_eq!(rows[0].kind, "epoch", "{name}");
        assert_unbroken(&rows, &rows[0].epoch);
    }
    let stat = a_box.ordered(&["spool", "stat"]);
    assert!(!stat.contains("DOES NOT BALANCE") && stat.contains("goes"), "{stat}");
}

#[tokio::test]
async fn a_bad_config_is_refused_with_its_reason_and_the_old_one_stays() {
    let a_box = Box::new(&camera("north", ""), NOBODY);
    let mut agent = a_box.start();
    a_box.until(&mut agent, "north", "frames", |rows| frames(rows) > 0).await;
    a_box.drop_in("[[camera]]\nname = \"north\"\nsampling.evry = 2\n");
    let why = a_box.refused(&["reload"]);
    assert!(why.contains("10-site.toml:3: ") && why.contains("evry"), "{why}");
    a_box.drop_in("spool.max_bytes = 99999999\n[uplink]\nbrokers = [\"other:1\"]\n");
    let why = a_box.refused(&["reload"]);
    assert!(why.contains("needs a restart: spool.max_bytes, uplink.brokers"), "{why}");
    // The same by signal, as `systemctl reload` sends it.
    let told = agent.log().matches("the new config is refused").count();
    agent.signal("HUP").unwrap();
    until("the refusal in the log", LIMIT, async || {
        agent.expect_running()?;
        let now = agent.log().matches("the new config is refused").count();
        Ok(if now > told { Ok(()) } else { Err(format!("{now} refusals")) })
    })
    .await
    .unwrap();
    let ops = address(&mut agent, "operations endpoint at ").await.unwrap();
    let metrics = get(&ops, "/metrics").await.unwrap();
    assert!(metrics.contains("picket_agent_config_refused 1"), "{metrics}");
    let before = frames(&a_box.rows("north"));
    a_box.until(&mut agent, "north", "more frames", |rows| frames(rows) > before + 2).await;
    a_box.drop_in("");
    a_box.ordered(&["reload"]);
    let metrics = get(&ops, "/metrics").await.unwrap();
    assert!(metrics.contains("picket_agent_config_refused 0"), "{metrics}");
    assert!(agent.terminate(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn a_paused_camera_tells_one_gap_and_stays_paused_over_a_restart() {
    let a_box = Box::new(&(camera("north", "") + &camera("south", "")), NOBODY);
    let mut agent = a_box.start();
    a_box.until(&mut agent, "north", "frames", |rows| frames(rows) > 2).await;
    let paused =
        |rows: &[Row]| rows.iter().filter(|row| row.reason.as_deref() == Some("paused")).count();
    assert!(a_box.refused(&["pause", "nowhere"]).contains("there are north, south"));
    a_box.ordered(&["pause", "north"]);
    a_box.until(&mut agent, "north", "the gap", |rows| paused(rows) == 1).await;
    let before = frames(&a_box.rows("north"));
    let other = frames(&a_box.rows("south"));
    a_box.until(&mut agent, "south", "more frames", |rows| frames(rows) > other + 5).await;
    assert_eq!(frames(&a_box.rows("north")), before, "a paused camera captures");
    agent.kill().unwrap();

    let mut agent = a_box.start();
    a_box.until(&mut agent, "north", "the gap of the new epoch", |rows| paused(rows) == 2).await;
    let rows = a_box.rows("north");
    let last = rows.last().unwrap();
    assert_eq!((last.first, last.last, epochs(&rows).len()), (1, 1, 2), "{rows:?}");
    a_box.ordered(&["resume", "north"]);
    a_box.until(&mut agent, "north", "frames again", |rows| frames(rows) > before + 2).await;
    assert!(agent.terminate(LIMIT).await.unwrap().success());
    let rows = a_box.rows("north");
    epochs(&rows).iter().for_each(|epoch| assert_unbroken(&rows, epoch));
    let stat = a_box.ordered(&["spool", "stat"]);
    assert!(!stat.contains("DOES NOT BALANCE"), "{stat}");
}

#[tokio::test]
async fn a_look_beside_the_running_agent_tells_what_it_sees_and_leaves_a_picture() {
    let clip =
        std::fs::canonicalize(checkout::cache()).unwrap().join("video/carphone_pristine.mp4");
    let north = format!(
        "[[camera]]\nname = \"north\"\nsource.file = {{ path = {clip:?}, repeat = true }}\n"
    );
    let gone = "[[camera]]\nname = \"gone\"\nsource.v4l2.device = \"/dev/video-none\"\n";
    let a_box = Box::new(&(north + &camera("south", "") + gone), NOBODY);
    let why = a_box.refused(&["look", "north"]);
    assert!(why.contains("systemctl start picket-edge-agent"), "{why}");

    let mut agent = a_box.start();
    a_box.until(&mut agent, "north", "frames", |rows| frames(rows) > 0).await;
    let out = a_box.path("seen.jpg");
    let look =
        |camera: &'static str| ["look", camera, "--seconds", "1", "--out", out.to_str().unwrap()];
    let said = a_box.ordered(&look("north"));
    for part in ["176x144", "face 0.", "looked at", "avdec_h264", "brightness", "sharpness"] {
        assert!(said.contains(part), "{part} not in\n{said}");
    }
    let jpeg = std::fs::read(&out).unwrap();
    assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.ends_with(&[0xff, 0xd9]), "no JPEG");
    assert!(a_box.refused(&look("north")).contains("--overwrite"), "it is there");
    std::fs::remove_file(&out).unwrap();

    assert!(a_box.refused(&look("nowhere")).contains("there are gone, north, south"));
    assert!(a_box.refused(&look("gone")).contains("camera gone has failed: "));
    a_box.ordered(&["pause", "south"]);
    let paused = |rows: &[Row]| rows.iter().any(|row| row.reason.as_deref() == Some("paused"));
    a_box.until(&mut agent, "south", "the gap", paused).await;
    assert!(a_box.refused(&look("south")).contains("camera south is paused"));

    // Of two at a time one is refused, and one that is killed makes room.
    let mut first = Command::new(program("picket-edge-agent").unwrap())
        .args(["look", "north", "--seconds", "600", "--out"])
        .arg(a_box.path("first.jpg"))
        .arg("--config")
        .arg(a_box.path("agent.toml"))
        .spawn()
        .unwrap();
    until("the first is heard", LIMIT, async || {
        agent.expect_running()?;
        let heard = agent.log().contains("for_s: 600");
        Ok(if heard { Ok(()) } else { Err("not yet".to_owned()) })
    })
    .await
    .unwrap();
    // Requests are taken in turn: so the first looks.
    assert!(a_box.refused(&look("north")).contains("one at a time"));
    first.kill().unwrap();
    first.wait().unwrap();
    until("there is room again", LIMIT, async || {
        let output = a_box.order(&look("north"));
        Ok(if output.status.success() { Ok(()) } else { Err(text_of(&output)) })
    })
    .await
    .unwrap();
    assert!(agent.terminate(LIMIT).await.unwrap().success());
    let stat = a_box.ordered(&["spool", "stat"]);
    assert!(!stat.contains("DOES NOT BALANCE"), "{stat}");
}

/// Two hours before and after now, in a zone that is so many hours ahead of UTC.
fn window_around_now(ahead: i64) -> String {
    let at = |hours: i64| {
        let time = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        time.strftime("%H:%M").to_string()
    };
    format!("schedule = [{{ from = \"{}\", to = \"{}\" }}]", at(ahead - 2), at(ahead + 2))
}

#[tokio::test]
async fn a_camera_keeps_its_schedule_in_the_sites_time_and_a_reload_changes_it_in_place() {
    // Fourteen hours ahead of UTC, the whole year.
    let site = window_around_now(14);
    let cameras = camera("by-site", &site) + &camera("by-utc", &window_around_now(0));
    let zone = "time_zone = \"Pacific/Kiritimati\"\n";
    let a_box = Box::new(&(zone.to_owned() + &cameras), NOBODY);
    let mut agent = a_box.start();
    let off =
        |rows: &[Row]| rows.iter().filter(|row| row.reason.as_deref() == Some("schedule")).count();
    a_box.until(&mut agent, "by-site", "frames", |rows| frames(rows) > 5).await;
    a_box.until(&mut agent, "by-utc", "the gap", |rows| off(rows) == 1).await;
    assert_eq!((off(&a_box.rows("by-site")), frames(&a_box.rows("by-utc"))), (0, 0));

    a_box.drop_in(&format!("[[camera]]\nname = \"by-utc\"\n{site}\n"));
    let done = a_box.ordered(&["reload"]);
    assert!(done.contains("changed by-utc"), "{done}");
    a_box.until(&mut agent, "by-utc", "frames", |rows| frames(rows) > 2).await;
    a_box.drop_in("");
    a_box.ordered(&["reload"]);
    a_box.until(&mut agent, "by-utc", "the second gap", |rows| off(rows) == 2).await;
    assert!(agent.terminate(LIMIT).await.unwrap().success());
    for name in ["by-site", "by-utc"] {
        let rows = a_box.rows(name);
        assert_eq!(epochs(&rows).len(), 1, "{name}: {rows:?}");
        assert_unbroken(&rows, &rows[0].epoch);
    }
    let stat = a_box.ordered(&["spool", "stat"]);
    assert!(!stat.contains("DOES NOT BALANCE"), "{stat}");
}

#[tokio::test]
async fn a_service_without_a_camera_is_ready_at_its_limit_and_says_so() {
    let nothing = "[[camera]]\nname = \"north\"\nsource.v4l2.device = \"/dev/video-none\"\n";
    let mut a_box = Box::new(nothing, NOBODY);
    let path = a_box.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    a_box.env.push(("NOTIFY_SOCKET", path));
    let mut agent = a_box.start();
    let told = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 4096];
        loop {
            let bytes = manager.recv(&mut buffer).expect("no READY=1 came");
            let text = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            if text.contains("READY=1") {
                return text;
            }
        }
    });
    let told = told.await.unwrap();
    assert!(told.contains("STATUS=0 of 1 cameras run"), "{told}");
    assert!(agent.log().contains("no camera runs yet"), "{}", agent.log());
    assert!(agent.terminate(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn a_copied_card_captures_but_publishes_nothing_until_a_person_says_whose_it_is() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    broker.set_nonblocking(true).unwrap();
    let a_box = Box::new(&camera("north", ""), &broker.local_addr().unwrap().to_string());
    let mut agent = a_box.start();
    let connected = async |agent: &mut Process| {
        until("a connection to the broker", LIMIT, async || {
            agent.expect_running()?;
            Ok(broker.accept().map(drop).map_err(|error| error.to_string()))
        })
        .await
        .unwrap();
    };
    connected(&mut agent).await;
    a_box.until(&mut agent, "north", "frames", |rows| frames(rows) > 0).await;
    agent.kill().unwrap();
    while broker.accept().is_ok() {}
    // The next agent's endpoint is looked up in its own log.
    std::fs::remove_file(a_box.path("agent.log")).unwrap();

    a_box.board("dc:a6:32:00:00:99");
    let mut agent = a_box.start();
    let before = frames(&a_box.rows("north"));
    a_box.until(&mut agent, "north", "frames on the copy", |rows| frames(rows) > before + 5).await;
    assert!(broker.accept().is_err(), "the copy speaks to the broker");
    assert!(agent.log().contains("belongs to device gate on another board"), "{}", agent.log());
    let ops = address(&mut agent, "operations endpoint at ").await.unwrap();
    let health = get(&ops, "/healthz").await.unwrap();
    assert!(health.contains("503") && health.contains("reset-identity"), "{health}");

    a_box.ordered(&["reset-identity", "--same-device"]);
    connected(&mut agent).await;
    let refusal = a_box.refused(&["reset-identity"]);
    assert!(refusal.contains("device gate already has this name"), "{refusal}");
    let config = std::fs::read_to_string(a_box.path("agent.toml")).unwrap();
    let config = config.replace("device = \"gate\"", "device = \"gate-2\"");
    let config = config.replace("/device/gate.", "/device/gate-2.");
    std::fs::write(a_box.path("agent.toml"), config).unwrap();
    let refusal = a_box.refused(&["reset-identity"]);
    assert!(refusal.contains("another agent"), "while it runs: {refusal}");
    assert!(agent.terminate(LIMIT).await.unwrap().success());
    assert!(frames(&a_box.rows("north")) > before, "what was kept is still there");

    a_box.board("dc:a6:32:00:00:77");
    assert!(a_box.path("state/spool.sqlite").exists());
    let done = a_box.ordered(&["reset-identity"]);
    assert!(done.contains("set aside"), "{done}");
    assert!(!a_box.path("state/spool.sqlite").exists());
    let mut agent = a_box.start();
    a_box.until(&mut agent, "north", "frames of the new device", |rows| frames(rows) > 0).await;
    connected(&mut agent).await;
    assert!(agent.terminate(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn a_drill_needs_a_running_agent_whose_link_is_up() {
    let a_box = Box::new(&camera("north", ""), NOBODY);
    let said = a_box.refused(&["drill", "--offline", "5s"]);
    assert!(said.contains("no agent runs"), "{said}");
    let mut agent = a_box.start();
    a_box.until(&mut agent, "north", "frames", |rows| frames(rows) > 0).await;
    let said = a_box.refused(&["drill", "--offline", "5s"]);
    assert!(said.contains("the link is down already"), "{said}");
    let said = a_box.refused(&["drill", "--offline", "2h"]);
    assert!(said.contains("must be 1 to 3600"), "{said}");
    assert!(agent.terminate(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn the_books_in_the_metrics_of_a_running_agent_add_up_at_every_moment() {
    let a_box = Box::new(&camera("north", "sampling.fps = 5.0\n"), NOBODY);
    let mut agent = a_box.start();
    let ops = address(&mut agent, "operations endpoint at ").await.unwrap();
    let place = |metrics: &str, place: &str| -> Option<u64> {
        let name = format!("picket_agent_books_frames{{camera=\"north\",place=\"{place}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name))?.parse().ok()
    };
    let mut captured = std::collections::BTreeSet::new();
    until("books of three moments", LIMIT, async || {
        agent.expect_running()?;
        let metrics = get(&ops, "/metrics").await?;
        let Some(now) = place(&metrics, "captured") else { return Ok(Err("none yet".to_owned())) };
        let parts = ["in-memory", "spooled", "acknowledged", "dropped"];
        let parts: Vec<_> = parts.iter().map(|of| place(&metrics, of).unwrap()).collect();
        assert_eq!(now, parts.iter().sum::<u64>(), "{parts:?}");
        captured.insert(now);
        Ok(if captured.len() > 2 { Ok(()) } else { Err(format!("{captured:?}")) })
    })
    .await
    .unwrap();
    assert!(agent.terminate(LIMIT).await.unwrap().success());
}
