use std::io::ErrorKind;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::*;

const LIMIT: Duration = Duration::from_secs(120);
/// So long nothing must come; when it comes late, the test is only less strict.
const SILENCE: Duration = Duration::from_millis(300);

/// A proxy before a server that answers each byte with the same.
async fn proxy() -> Proxy {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = TcpListener::bind(any).await.unwrap();
    let upstream = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = server.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = client.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    Proxy::start(any, upstream).unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// Says something, and gives what comes back.
async fn ask(client: &mut TcpStream, words: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(words).await?;
    let mut answer = vec![0; words.len()];
    timeout(LIMIT, client.read_exact(&mut answer)).await.expect("no answer in time")?;
    Ok(answer)
}

async fn is_silent(client: &mut TcpStream) -> bool {
    timeout(SILENCE, client.read_u8()).await.is_err()
}

#[tokio::test]
async fn what_is_said_passes_both_ways_and_is_counted() {
    let proxy = proxy().await;
    let mut client = connect(&proxy).await;
    assert_eq!(ask(&mut client, b"hello").await.unwrap(), b"hello");
    let passed = Traffic { connections: 1, sent_bytes: 5, returned_bytes: 5, dropped_bytes: 0 };
    assert_eq!(proxy.traffic(), passed);
}

#[tokio::test]
async fn a_cut_resets_what_there_is_and_lets_new_ones_in() {
    let proxy = proxy().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"hello").await.unwrap();
    proxy.cut();
    let error = timeout(LIMIT, client.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(ask(&mut connect(&proxy).await, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn refused_means_that_nobody_listens_until_it_ends() {
    let proxy = proxy().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"hello").await.unwrap();
    proxy.set(Fault::Refuse);
    let error = timeout(LIMIT, client.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    until(async || {
        let refused = TcpStream::connect(proxy.address()).await;
        refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
    proxy.set(Fault::None);
    until(async || TcpStream::connect(proxy.address()).await.is_ok()).await;
}

async fn until(holds: impl AsyncFn() -> bool) {
    let look = async || Ok(if holds().await { Ok(()) } else { Err("not yet".to_owned()) });
    crate::process::until("what the proxy is told", LIMIT, look).await.unwrap();
}

#[tokio::test]
async fn a_frozen_connection_is_silent_for_good_and_one_made_later_is_not() {
    let proxy = proxy().await;
    let mut before = connect(&proxy).await;
    ask(&mut before, b"hello").await.unwrap();
    proxy.set(Fault::Freeze);
    let mut during = connect(&proxy).await;
    for client in [&mut before, &mut during] {
        client.write_all(b"anybody?").await.unwrap();
        assert!(is_silent(client).await);
    }
    let passed = proxy.traffic();
    assert_eq!((passed.sent_bytes, passed.returned_bytes), (5, 5));
    proxy.set(Fault::None);
    assert!(is_silent(&mut before).await && is_silent(&mut during).await);
    assert_eq!(ask(&mut connect(&proxy).await, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_slow_link_takes_as_long_as_its_bits_need_however_many_connections_share_it() {
    let proxy = proxy().await;
    proxy.set(Fault::Slow { bits_per_s: 80_000 });
    let began = Instant::now();
    let (mut one, mut other) = (connect(&proxy).await, connect(&proxy).await);
    let words = [7; 5000];
    let (a, b) = tokio::join!(ask(&mut one, &words), ask(&mut other, &words));
    assert_eq!((a.unwrap().len(), b.unwrap().len()), (5000, 5000));
    // 10 000 bytes each way, and the ways are apart: one second, and what the last chunk needs back.
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_delay_is_added_each_way_and_order_is_kept() {
    let proxy = proxy().await;
    let delay = Duration::from_millis(120);
    proxy.set(Fault::Delay(delay));
    let mut client = connect(&proxy).await;
    let began = Instant::now();
    let words: Vec<u8> = (0..200).collect();
    assert_eq!(ask(&mut client, &words).await.unwrap(), words);
    assert!(began.elapsed() >= delay * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn dropped_answers_are_counted_and_never_come_later() {
    let proxy = proxy().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"hello").await.unwrap();
    proxy.set(Fault::DropResponses);
    client.write_all(b"written").await.unwrap();
    until(async || proxy.traffic().dropped_bytes == 7).await;
    proxy.set(Fault::None);
    client.write_all(b"more").await.unwrap();
    until(async || proxy.traffic().dropped_bytes == 11).await;
    assert!(is_silent(&mut client).await);
    assert_eq!(proxy.traffic().sent_bytes, 16, "what was asked arrived");
    assert_eq!(ask(&mut connect(&proxy).await, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_flapping_link_ends_passing() {
    let proxy = proxy().await;
    proxy.flap(3, &[Duration::from_millis(10), Duration::from_millis(5)]).await;
    until(async || TcpStream::connect(proxy.address()).await.is_ok()).await;
}
