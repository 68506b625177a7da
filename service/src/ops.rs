//! The local operations endpoint: `/metrics` and `/healthz`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::config::Problem;
use crate::metrics::Render;

/// `[ops]`: the local endpoint for `/metrics` and `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OpsSettings {
    /// Address to listen on; must be a loopback one, since nothing here asks who is calling. Should
    /// another program have it, the agent works without, and tries again every 10 seconds.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

impl Default for OpsSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

impl OpsSettings {
    /// Refuses an address that others could reach.
    pub fn check(&self) -> Result<(), Problem> {
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        let problem = format!(
            "{} can be reached by others and this endpoint has no sign-in; use 127.0.0.1:{} or [::1]:{}",
            self.listen,
            self.listen.port(),
            self.listen.port(),
        );
        Err(Problem::new("ops.listen", problem))
    }
}

/// The field of [`OpsSettings`] that says where.
pub const OPS: &str = "ops.listen";
/// How often an address that could not be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long whoever has the port may take to say who it is.
const ASK: Duration = Duration::from_secs(2);
/// How much of its answer is read: the names of the metrics stand at its beginning too.
const ANSWER_BYTES: u64 = 64 * 1024;

/// Who has the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// A program that answers with the metrics that were looked for.
    Own,
    /// Another program; or the address cannot be used at all. For people.
    Another(String),
}

/// Looks who has the address. `metrics` is what the names of this program's own metrics begin with.
pub fn holder(listen: SocketAddr, metrics: &str) -> Holder {
    match std::net::TcpListener::bind(listen) {
        Ok(_) => Holder::Nobody,
        Err(error) if error.kind() == ErrorKind::AddrInUse && has_metrics(listen, metrics) => {
            Holder::Own
        }
        Err(error) => Holder::Another(problem(Endpoint { field: OPS, listen }, &error)),
    }
}

fn has_metrics(listen: SocketAddr, metrics: &str) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = std::net::TcpStream::connect_timeout(&listen, ASK)?;
        stream.set_read_timeout(Some(ASK))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| String::from_utf8_lossy(&answer).contains(metrics))
}

fn problem(endpoint: Endpoint, error: &io::Error) -> String {
    let Endpoint { field, listen } = endpoint;
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            "; `ss -ltnp` shows which program has the port: give that or this one another"
        }
        _ => "",
    };
    format!("{field}: cannot listen on {listen}: {error}{hint}")
}

/// Where the endpoint is, and the field of the config that says so.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    /// Such as `ops.listen`.
    pub field: &'static str,
    /// Address.
    pub listen: SocketAddr,
}

/// Says what is wrong, or nothing when all is well.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves the endpoint until the program ends. That the address is taken is no reason for the program
/// not to do its work: it is said once, and tried again.
pub async fn serve(endpoint: Endpoint, render: Render, health: Health) -> io::Result<()> {
    let listener = bind(endpoint, AGAIN).await;
    tracing::info!("operations endpoint at http://{}/", listener.local_addr()?);
    let router = Router::new().route("/metrics", get(async move || render())).route(
        "/healthz",
        get(async move || match health() {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem + "\n"),
        }),
    );
    axum::serve(listener, router).await
}

async fn bind(endpoint: Endpoint, again: Duration) -> TcpListener {
    let mut told = None;
    loop {
        let error = match TcpListener::bind(endpoint.listen).await {
            Ok(listener) => return listener,
            Err(error) => error,
        };
        if told.replace(error.kind()) != Some(error.kind()) {
            let problem = problem(endpoint, &error);
            tracing::warn!("no /metrics and no /healthz until it can be opened: {problem}");
        }
        tokio::time::sleep(again).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> (std::net::TcpListener, SocketAddr) {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        (holder, address)
    }

    #[tokio::test]
    async fn a_port_that_another_program_has_is_waited_for() {
        let (other, address) = taken();
        let binding = bind(Endpoint { field: OPS, listen: address }, Duration::from_millis(1));
        tokio::pin!(binding);
        tokio::select! {
            biased;
            _ = &mut binding => panic!("two listen on {address}"),
            () = tokio::task::yield_now() => {}
        }
        drop(other);
        assert_eq!(binding.await.local_addr().unwrap(), address);
    }

    #[test]
    fn who_has_the_port_is_told_by_its_metrics() {
        let (other, address) = taken();
        let answers = ["own_turns_total 1\n", "another_total 1\n"];
        let server = std::thread::spawn(move || {
            for page in answers {
                let (mut stream, _) = other.accept().unwrap();
                let mut question = [0; 256];
                assert!(stream.read(&mut question).unwrap() > 0);
                write!(stream, "HTTP/1.0 200 OK\r\n\r\n{page}").unwrap();
            }
            other
        });
        assert_eq!(holder(address, "own_"), Holder::Own);
        let Holder::Another(problem) = holder(address, "own_") else { panic!("it is another's") };
        assert!(
            problem.contains(&address.to_string()) && problem.contains("ss -ltnp"),
            "{problem}"
        );
        drop(server.join().unwrap());
        assert_eq!(holder(address, "own_"), Holder::Nobody);
    }
}
