//! A TCP proxy that stands between an agent and Kafka, and that fails on cue.
//!
//! A client of Kafka connects to the address that the broker tells it, so a proxy is passed by unless
//! the broker advertises the proxy's address: the stack gives it a listener of its own.
//!
//! What a fault did to a connection stays: one that was frozen, or lost bytes, never comes back to life
//! when the fault ends, as with a modem that lost its state. The client has to notice by itself. Whoever
//! connects after the end gets a connection that works.

mod connection;
mod link;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use connection::Connection;
pub use link::Fault;
use link::{Cue, Link};

/// Little, so that what a slow link has not carried yet waits at its sender and not in here.
const BUFFER_BYTES: u32 = 8 * 1024;
const BACKLOG: u32 = 64;

/// What passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were let in.
    pub connections: u64,
    /// Bytes from clients to the broker.
    pub sent_bytes: u64,
    /// Bytes from the broker that were handed to clients.
    pub returned_bytes: u64,
    /// Bytes from the broker that [`Fault::DropResponses`] kept from clients.
    pub dropped_bytes: u64,
}

/// The proxy; its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cues: watch::Sender<Cue>,
    link: Arc<Link>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens at `address` for connections to `upstream`, and passes all.
    pub fn start(address: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let (cues, seen) = watch::channel(Cue::default());
        let link = Arc::new(Link::default());
        let door = Door { address, upstream, link: Arc::clone(&link), cues: seen };
        let task = tokio::spawn(door.keep(listener));
        Ok(Self { address, cues, link, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the link is like this.
    pub fn set(&self, fault: Fault) {
        self.cues.send_modify(|cue| cue.fault = fault);
    }

    /// Breaks each connection there is, with RST to both sides; new ones are as the fault has it.
    pub fn cut(&self) {
        self.cues.send_modify(|cue| cue.cuts += 1);
    }

    /// The link comes and goes `times` times: up and down each for one of these times, the next by turns.
    pub async fn flap(&self, times: usize, lasting: &[Duration]) {
        let mut lasting = lasting.iter().cycle();
        for _ in 0..times {
            for fault in [Fault::Refuse, Fault::None] {
                self.set(fault);
                tokio::time::sleep(*lasting.next().unwrap_or(&Duration::ZERO)).await;
            }
        }
    }

    /// What passed so far.
    pub fn traffic(&self) -> Traffic {
        self.link.traffic()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listening = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening().with_context(|| format!("the proxy cannot listen at {address}"))
}

/// Lets connections in, or does not.
struct Door {
    address: SocketAddr,
    upstream: SocketAddr,
    link: Arc<Link>,
    cues: watch::Receiver<Cue>,
}

impl Door {
    async fn keep(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            // A port that nobody listens at is what refuses.
            if self.cues.borrow_and_update().fault == Fault::Refuse {
                listener = None;
            } else if listener.is_none() {
                listener = listen(self.address).ok();
            }
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.cues.changed() => if changed.is_err() { return },
                client = accepted => if let Ok((client, _)) = client {
                    self.let_in(client);
                },
            }
        }
    }

    fn let_in(&self, client: TcpStream) {
        self.link.let_in();
        let connection = Connection::new(self.upstream, Arc::clone(&self.link), self.cues.clone());
        tokio::spawn(connection.run(client));
    }
}

#[cfg(test)]
mod tests;
