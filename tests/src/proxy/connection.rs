//! One connection through the proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::link::{Cue, Fault, Link, Way};

/// Small, so that a slow link is shared in small turns.
const CHUNK_BYTES: usize = 1400;
/// How many chunks may be on a delayed way.
const ON_THE_WAY: usize = 4096;

/// Bytes, and when they arrive.
type Chunk = (Instant, Vec<u8>);

pub struct Connection {
    upstream: SocketAddr,
    link: Arc<Link>,
    cues: watch::Receiver<Cue>,
}

impl Connection {
    pub fn new(upstream: SocketAddr, link: Arc<Link>, cues: watch::Receiver<Cue>) -> Self {
        Self { upstream, link, cues }
    }

    pub async fn run(self, mut client: TcpStream) {
        let mut cues = self.cues.clone();
        let cuts = cues.borrow().cuts;
        let mut for_cut = self.cues.clone();
        // Both end with an error when the proxy is gone.
        let cut = async {
            let pulled = |cue: &Cue| cue.fault == Fault::Refuse || cue.cuts != cuts;
            for_cut.wait_for(pulled).await.is_ok()
        };
        let frozen = async { cues.wait_for(|cue| cue.fault == Fault::Freeze).await.is_ok() };
        tokio::pin!(cut, frozen);

        let mut broker = tokio::select! {
            _ = &mut cut => return reset(&client),
            broker = TcpStream::connect(self.upstream) => match broker {
                Ok(broker) => broker,
                // The broker is away: the client hears of it as from the broker's own port.
                Err(_) => return reset(&client),
            },
        };
        // Without it small answers wait for more; a failure only makes them late.
        let _ = (client.set_nodelay(true), broker.set_nodelay(true));
        let is_cut = {
            let (from_client, to_client) = client.split();
            let (from_broker, to_broker) = broker.split();
            tokio::select! {
                biased;
                _ = &mut cut => true,
                is_frozen = frozen => {
                    // What is silent once stays silent, until somebody pulls the plug.
                    if is_frozen {
                        cut.await;
                    }
                    true
                }
                () = self.carry(Way::Up, from_client, to_broker) => false,
                () = self.carry(Way::Down, from_broker, to_client) => false,
            }
        };
        if is_cut {
            reset(&client);
            reset(&broker);
        }
    }

    /// Carries bytes one way until a side closes or fails: then so does the other.
    async fn carry(&self, way: Way, from: ReadHalf<'_>, to: WriteHalf<'_>) {
        let (sender, receiver) = mpsc::channel(ON_THE_WAY);
        tokio::join!(self.take(way, from, sender), self.give(way, to, receiver));
    }

    async fn take(&self, way: Way, mut from: ReadHalf<'_>, chunks: mpsc::Sender<Chunk>) {
        let mut buffer = vec![0; CHUNK_BYTES];
        // TLS does not go on behind bytes that are missing, so what lost some loses the rest too.
        let mut lost_some = false;
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else {
                return;
            };
            let fault = self.cues.borrow().fault;
            lost_some |= way == Way::Down && fault == Fault::DropResponses;
            if lost_some {
                self.link.dropped(length);
                continue;
            }
            let now = Instant::now();
            let arrives = match fault {
                Fault::Slow { bits_per_s } => {
                    // Waiting here, before more is read, is what the sender feels.
                    sleep_until(self.link.passed_at(way, length, bits_per_s)).await;
                    now
                }
                Fault::Delay(delay) => now + delay,
                _ => now,
            };
            if chunks.send((arrives, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    }

    async fn give(&self, way: Way, mut to: WriteHalf<'_>, mut chunks: mpsc::Receiver<Chunk>) {
        while let Some((arrives, bytes)) = chunks.recv().await {
            sleep_until(arrives).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            self.link.carried(way, bytes.len());
        }
    }
}

/// Makes the end of a connection an RST. Where that fails it ends with FIN, which is an end too.
fn reset(connection: &TcpStream) {
    let _ = connection.set_zero_linger();
}
