use std::os::unix::fs::PermissionsExt;

use super::*;

fn ask_in_a_thread(
    state_dir: &Path,
    request: Request,
) -> tokio::task::JoinHandle<Result<Done, ControlError>> {
    let state_dir = state_dir.to_owned();
    tokio::task::spawn_blocking(move || ask(&state_dir, &request, Duration::from_secs(10)))
}

#[tokio::test]
async fn a_command_reaches_the_agent_and_its_answer_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    // What an agent left behind that was killed.
    drop(std::os::unix::net::UnixListener::bind(socket(dir.path())).unwrap());
    let (control, mut inbox) = Control::open(dir.path()).unwrap();
    let mode = std::fs::metadata(socket(dir.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let camera: CameraName = "north".parse().unwrap();
    let request = Request::Pause { camera, for_s: Some(60) };
    let asked = ask_in_a_thread(dir.path(), request.clone());
    let call = inbox.recv().await.unwrap();
    assert_eq!(call.request, request);
    call.answer(Ok(Done { done: "paused".to_owned() }));
    assert_eq!(asked.await.unwrap().unwrap().done, "paused");

    let asked = ask_in_a_thread(dir.path(), Request::Reload);
    inbox.recv().await.unwrap().answer::<Done>(Err("the config is bad".to_owned()));
    assert_eq!(asked.await.unwrap().unwrap_err().to_string(), "the config is bad");
    drop(control);
    assert!(!socket(dir.path()).exists());
}

#[tokio::test]
async fn an_agent_that_does_not_run_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let error = ask_in_a_thread(dir.path(), Request::Reload).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("systemctl start picket-edge-agent"), "{error}");
}

#[tokio::test]
async fn a_command_of_another_version_is_refused_and_not_a_hang() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let (_control, _inbox) = Control::open(dir.path()).unwrap();
    let path = socket(dir.path());
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(b"{\"command\":\"fly\"}\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.contains("does not know the command") && answer.contains("fly"), "{answer}");
}

#[tokio::test]
async fn an_agent_that_ends_answers_those_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (_control, mut inbox) = Control::open(dir.path()).unwrap();
    let asked = ask_in_a_thread(dir.path(), Request::Reload);
    drop(inbox.recv().await.unwrap());
    assert_eq!(asked.await.unwrap().unwrap_err().to_string(), "the agent is ending");
}

#[tokio::test]
async fn whoever_hangs_up_is_waited_for_no_longer() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let (_control, mut inbox) = Control::open(dir.path()).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(socket(dir.path())).unwrap();
    stream.write_all(b"{\"command\":\"look\",\"camera\":\"north\",\"for_s\":10}\n").unwrap();
    let mut call = inbox.recv().await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), call.gone()).await;
    assert!(early.is_err(), "nobody has gone yet");
    drop(stream);
    tokio::time::timeout(Duration::from_secs(10), call.gone())
        .await
        .expect("it is still waited for");
}
