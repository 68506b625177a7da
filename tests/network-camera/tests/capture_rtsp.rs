//! The agent's capture from network cameras: a real RTSP server that is killed, started again, frozen,
//! made to send a corrupt stream, asks for a login, and speaks TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../edge-agent/tests/common/camera.rs"]
mod camera;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use camera::{Sequence, settings, start};
use picket_edge_agent::capture::Frame;
use picket_wire::status::CameraState;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A server that ends with the test.
struct Server {
    process: Child,
    /// Where it listens: host and port.
    address: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_picket-network-camera"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("at ").unwrap().to_owned();
        Self { process, address }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{what}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Ends it, without a word to whoever watches. Where it listened.
    fn kill(mut self) -> String {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.address.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The camera `cam`, with more said of how it is reached.
fn rtsp(address: &str, more: Value) -> Value {
    let mut rtsp = json!({ "url": format!("rtsp://{address}/live"), "latency_ms": 50 });
    rtsp.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "name": "cam", "source": { "rtsp": rtsp } })
}

/// One whose silence shows within three seconds.
fn impatient(mut description: Value) -> Value {
    description["watch"] = json!({ "stall_after_s": 3, "stuck_after_s": 10 });
    description
}

fn problem_of(description: Value) -> String {
    let camera = start(description);
    camera.wait_until("failed", |view| view.state == CameraState::Failed);
    camera.handle.account.view().problem.unwrap()
}

/// Whether a frame shows the server's picture: the brightest of its colour bars on the left, the
/// darkest on the right.
fn shows_the_bars(frame: &Frame) -> bool {
    let luma = frame.planes.y();
    let near = |column: usize, expected: u8| {
        let mut rows = (20..140).step_by(8);
        rows.all(|row| luma.data[row * luma.stride + column].abs_diff(expected) < 12)
    };
    near(20, 236) && near(300, 41)
}

fn password_file(folder: &Path, password: &str) -> Value {
    let path = folder.join("password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    json!({ "user": "adam", "password_file": path })
}

#[test]
fn video_comes_over_tcp_and_over_udp() {
    let server = Server::start(&[]);
    for transport in ["tcp", "udp"] {
        let camera = start(rtsp(&server.address, json!({ "transport": transport })));
        let mut taken = Sequence::new();
        taken.take_until_seen(transport, &camera, |view, frame| {
            view.captured >= 30 && frame.is_some_and(shows_the_bars)
        });
        let view = camera.handle.account.view();
        assert_eq!((view.size_px, view.reopened), (Some((320, 240)), 0), "{transport}");
        taken.finish(camera);
    }
}

#[test]
fn a_password_from_a_file_opens_the_camera_and_a_wrong_one_is_said_as_such() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["basic", "digest"] {
        let server = Server::start(&["--auth", method, "--user", "adam", "--password", "s3cret"]);
        let camera = start(rtsp(&server.address, password_file(folder.path(), "s3cret")));
        let mut taken = Sequence::new();
        taken.take_until(method, &camera, |view| view.captured >= 5);
        taken.finish(camera);
        let wrong = problem_of(rtsp(&server.address, password_file(folder.path(), "guess9")));
        assert!(wrong.contains("401") && wrong.contains("\"adam\""), "{method}: {wrong}");
        assert!(wrong.contains(&server.address), "{method}: {wrong}");
        assert!(!wrong.contains("guess9"), "{method}: {wrong}");
        let none = problem_of(rtsp(&server.address, json!({})));
        assert!(none.contains("password_file"), "{method}: {none}");
    }
}

#[test]
fn a_path_that_the_camera_does_not_have_is_said_as_such() {
    let server = Server::start(&[]);
    let mut description = rtsp(&server.address, json!({}));
    description["source"]["rtsp"]["url"] = json!(format!("rtsp://{}/no", server.address));
    let problem = problem_of(description);
    assert!(problem.contains("404") && problem.contains("/no"), "{problem}");
}

#[test]
fn a_camera_that_is_killed_and_started_again_is_opened_again() {
    // An address of their own, so that nothing else can be given the port meanwhile.
    for (transport, host) in [("tcp", "127.0.0.2"), ("udp", "127.0.0.3")] {
        let server = Server::start(&["--host", host]);
        let description = rtsp(&server.address, json!({ "transport": transport }));
        let camera = start(impatient(description));
        let mut taken = Sequence::new();
        taken.take_until("running", &camera, |view| view.captured >= 10);
        let address = server.kill();
        taken.take_until("refused", &camera, |view| {
            view.problem.as_deref().is_some_and(|problem| problem.contains("refused"))
        });
        let before = camera.handle.account.view();
        assert_eq!(before.state, CameraState::Failed, "{transport}");
        let port = address.rsplit_once(':').unwrap().1;
        let server = Server::start(&["--host", host, "--port", port]);
        assert_eq!(server.address, address);
        taken.take_until("running again", &camera, |view| {
            view.state == CameraState::Running && view.captured > before.captured + 10
        });
        taken.finish(camera);
    }
}

#[test]
fn a_camera_that_freezes_is_called_failed_and_opened_again_when_it_thaws() {
    let server = Server::start(&[]);
    let camera = start(impatient(rtsp(&server.address, json!({}))));
    let mut taken = Sequence::new();
    taken.take_until("running", &camera, |view| view.captured >= 10);
    server.signal(Signal::STOP);
    taken.take_until("failed", &camera, |view| view.state == CameraState::Failed);
    let before = camera.handle.account.view();
    assert!(before.problem.as_ref().unwrap().contains("no frame for 3 s"), "{before:?}");
    // It accepts connections all the while, and answers none.
    taken.take_until("opened in vain", &camera, |view| view.reopened > before.reopened + 1);
    let before = camera.handle.account.view();
    server.signal(Signal::CONT);
    taken.take_until("running again", &camera, |view| {
        view.state == CameraState::Running && view.captured > before.captured + 10
    });
    taken.finish(camera);
}

#[test]
fn after_a_corrupt_stream_the_picture_is_right_again_from_the_same_decoder() {
    let mut server = Server::start(&[]);
    let mut description = impatient(rtsp(&server.address, json!({})));
    description["decoder_retry_s"] = json!([1]);
    let camera = start(description);
    let mut taken = Sequence::new();
    taken.take_until_seen("right", &camera, |_, frame| frame.is_some_and(shows_the_bars));
    let before = camera.handle.account.view();
    server.tell("corrupt");
    // Decoders differ in what they make of it: wrong pictures, or none and a camera that has failed.
    let mut wrong = 0;
    taken.take_until_seen("corrupt", &camera, |view, frame| {
        wrong += usize::from(frame.is_some_and(|frame| !shows_the_bars(frame)));
        wrong >= 20 || view.reopened >= before.reopened + 2
    });
    server.tell("clean");
    let mut right = 0;
    taken.take_until_seen("right again", &camera, |view, frame| {
        let well = view.state == CameraState::Running && view.degraded.is_none();
        right += usize::from(well && frame.is_some_and(shows_the_bars));
        right >= 20
    });
    assert_eq!(camera.handle.account.view().decoder, before.decoder);
    taken.finish(camera);
}

/// A server that speaks TLS, and the file with its certificate.
fn tls_server(folder: &Path) -> (Server, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("c.pem"), path("k.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut args = vec!["--auth", "basic", "--user", "adam", "--password", "s3cret"];
    args.extend(["--certificate", &certificate, "--key", &key]);
    (Server::start(&args), certificate)
}

/// The camera behind it.
fn rtsps(server: &Server, folder: &Path, more: Value) -> Value {
    let mut description = rtsp(&server.address, password_file(folder, "s3cret"));
    let rtsp = description["source"]["rtsp"].as_object_mut().unwrap();
    rtsp.insert("url".to_owned(), json!(format!("rtsps://{}/live", server.address)));
    rtsp.extend(more.as_object().unwrap().clone());
    description
}

#[test]
fn video_comes_over_tls_from_a_camera_that_is_trusted_or_is_not_to_be_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (server, certificate) = tls_server(folder.path());
    for trusts in [json!({ "ca_file": certificate }), json!({ "verify_certificate": false })] {
        let description = rtsps(&server, folder.path(), trusts.clone());
        settings(description.clone()).check().unwrap();
        let camera = start(description);
        let mut taken = Sequence::new();
        taken.take_until(&trusts.to_string(), &camera, |view| view.captured >= 5);
        taken.finish(camera);
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_refused_and_said_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = tls_server(folder.path());
    let unknown = problem_of(rtsps(&server, folder.path(), json!({})));
    assert!(unknown.contains("refused because it is signed by nobody who is trusted"), "{unknown}");
    // Another's certificate vouches for nobody else.
    let others = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let path = folder.path().join("other.pem");
    std::fs::write(&path, others.cert.pem()).unwrap();
    let other = problem_of(rtsps(&server, folder.path(), json!({ "ca_file": path })));
    assert!(other.contains("certificate was refused"), "{other}");
}

#[test]
fn a_certificate_file_for_a_camera_without_tls_is_refused_by_its_field() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let description = rtsp("127.0.0.1:1", json!({ "ca_file": file.path() }));
    let refused = settings(description).check().unwrap_err().to_string();
    assert!(refused.contains("ca_file") && refused.contains("rtsps://"), "{refused}");
}
