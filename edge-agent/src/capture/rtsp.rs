//! A network camera: how it is reached, and what to say when it is not.
//!
//! GStreamer says "Failed to connect. (Generic error)" of a wrong name, a closed port and a
//! certificate that is not accepted alike. A person at the camera needs to know which, so it is looked
//! into after the fact.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use gio::prelude::*;
use gstreamer as gst;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{Address, Credentials};
use super::error::CaptureError;
use super::source::{element, finish};

/// How long the steps to a camera may take. Together less than it may be silent, from 3 s on: what keeps it from
/// being reached is to be said before it counts as silent, or its thread as stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Until its name is resolved.
    resolve: Duration,
    /// Until it is connected, and for each answer of its.
    connect: Duration,
    /// Of a connection that is made only to find out what is wrong.
    look: Duration,
}

impl Limits {
    /// For a camera that may be silent for so long. GStreamer counts whole seconds.
    pub fn within(silence: Duration) -> Self {
        let connect = Duration::from_secs((silence / 3).as_secs().max(1));
        Self { resolve: silence / 3, connect, look: silence / 4 }
    }
}

/// A network camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RtspSource {
    /// Its address, `rtsp://` or `rtsps://`. A user and password in it are used, and never shown.
    pub url: Address,
    /// User name, if it is not in the address.
    #[serde(default)]
    pub user: Option<String>,
    /// File that holds the password; one line break at its end is not part of it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// How the video travels.
    #[serde(default)]
    pub transport: Transport,
    /// How long packets wait for stragglers, milliseconds.
    #[serde(default = "default_latency_ms")]
    pub latency_ms: u32,
    /// Of an `rtsps://` address: file with the certificates (PEM) that the camera's must be signed by,
    /// or with the camera's own; those that the system trusts if unset.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Of an `rtsps://` address: whether its certificate is checked. Without, anyone on the way can
    /// read the password and replace the pictures.
    #[serde(default = "default_verify_certificate")]
    pub verify_certificate: bool,
}

fn default_latency_ms() -> u32 {
    200
}

fn default_verify_certificate() -> bool {
    true
}

/// How a network camera's video travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Inside the RTSP connection: passes firewalls, and no packet is lost.
    #[default]
    Tcp,
    /// In datagrams of its own.
    Udp,
}

/// What is wrong with the camera's certificate, once it was refused.
pub(super) type Distrust = Arc<Mutex<Option<String>>>;

/// The element that receives, and where it says why it does not trust the camera.
pub(super) fn receiver(
    rtsp: &RtspSource,
    limits: Limits,
) -> Result<(gst::Element, Distrust), CaptureError> {
    // GStreamer would wait for a name server for as long as it takes, and keep the thread that closes
    // it waiting too. What the resolver gives now it gives again.
    if let Some((host, port)) = host_and_port(rtsp) {
        resolve(&host, port, limits.resolve, addresses)
            .map_err(|why| CaptureError::Unreachable { source_name: rtsp.url.to_string(), why })?;
    }
    let protocols = match rtsp.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let mut builder = element("rtspsrc")?
        .property("location", rtsp.url.without_credentials().into_owned())
        .property("latency", rtsp.latency_ms)
        .property("tcp-timeout", u64::try_from(limits.connect.as_micros()).unwrap_or(u64::MAX))
        .property_from_str("protocols", protocols);
    if let Some(Credentials { user, password }) = credentials(rtsp)? {
        builder = builder.property("user-id", user).property("user-pw", password);
    }
    if !rtsp.verify_certificate {
        builder = builder.property("tls-validation-flags", gio::TlsCertificateFlags::empty());
    }
    if let Some(path) = &rtsp.ca_file {
        builder = builder.property("tls-database", trusted(path)?);
    }
    let receiver = finish(builder)?;
    // Sound is not asked for: it would cost bandwidth and be thrown away.
    receiver.connect("select-stream", false, |values| {
        let caps = values.get(2).and_then(|value| value.get::<gst::Caps>().ok());
        let media = caps.as_ref().and_then(|caps| caps.structure(0)?.get::<String>("media").ok());
        Some((media.as_deref() == Some("video")).to_value())
    });
    let distrust = Distrust::default();
    let told = Arc::clone(&distrust);
    // Asked only about a certificate that failed the check.
    receiver.connect("accept-certificate", false, move |values| {
        let flags = values.get(3).and_then(|value| value.get::<gio::TlsCertificateFlags>().ok());
        let why = flags.map_or_else(|| "for an unknown reason".to_owned(), objections);
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        Some(false.to_value())
    });
    Ok((receiver, distrust))
}

fn objections(flags: gio::TlsCertificateFlags) -> String {
    let words = [
        (gio::TlsCertificateFlags::UNKNOWN_CA, "it is signed by nobody who is trusted"),
        (gio::TlsCertificateFlags::BAD_IDENTITY, "it is for another host"),
        (gio::TlsCertificateFlags::NOT_ACTIVATED, "it is not valid yet"),
        (gio::TlsCertificateFlags::EXPIRED, "it has expired"),
        (gio::TlsCertificateFlags::REVOKED, "it was revoked"),
        (gio::TlsCertificateFlags::INSECURE, "its algorithm is not secure"),
    ];
    let said = words.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, words)| *words);
    let said: Vec<_> = said.collect();
    if said.is_empty() { "it is not valid".to_owned() } else { said.join(", ") }
}

fn trusted(path: &Path) -> Result<gio::TlsFileDatabase, CaptureError> {
    let failed =
        |source| CaptureError::File { field: "source.rtsp.ca_file", path: path.to_owned(), source };
    // GIO takes whole paths only, and names no reason for a file that it cannot read.
    let path = path.canonicalize().map_err(failed)?;
    std::fs::File::open(&path).map_err(failed)?;
    gio::TlsFileDatabase::new(&path)
        .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

fn credentials(rtsp: &RtspSource) -> Result<Option<Credentials>, CaptureError> {
    let from_url = rtsp.url.credentials();
    let password = match &rtsp.password_file {
        Some(path) => Some(read_password(path)?),
        None => None,
    };
    let user = rtsp.user.clone().or_else(|| from_url.as_ref().map(|c| c.user.clone()));
    Ok(user.map(|user| Credentials {
        user,
        password: password.or_else(|| from_url.map(|c| c.password)).unwrap_or_default(),
    }))
}

fn read_password(path: &Path) -> Result<String, CaptureError> {
    let text = std::fs::read_to_string(path).map_err(|source| CaptureError::File {
        field: "source.rtsp.password_file",
        path: path.to_owned(),
        source,
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// What an error of the receiver means, where more can be said than GStreamer does.
pub(super) fn explain(
    rtsp: &RtspSource,
    error: &gst::glib::Error,
    distrust: Option<&Distrust>,
    limits: Limits,
) -> Option<CaptureError> {
    let source_name = rtsp.url.to_string();
    if error.matches(gst::ResourceError::NotAuthorized) {
        let login = login(rtsp);
        return Some(CaptureError::LoginRefused { source_name, login });
    }
    if error.matches(gst::ResourceError::NotFound) {
        return Some(CaptureError::NoSuchStream { source_name });
    }
    let distrusted =
        distrust.and_then(|told| told.lock().unwrap_or_else(PoisonError::into_inner).take());
    if let Some(why) = distrusted {
        return Some(CaptureError::Distrusted { source_name, why });
    }
    let opening = [gst::ResourceError::OpenReadWrite, gst::ResourceError::OpenRead];
    if !opening.iter().any(|kind| error.matches(*kind)) {
        return None;
    }
    let why = unreachable_why(host_and_port(rtsp)?, limits.look)?;
    Some(CaptureError::Unreachable { source_name, why })
}

fn host_and_port(rtsp: &RtspSource) -> Option<(String, u16)> {
    rtsp.url.host_and_port(if rtsp.url.has_scheme(&["rtsps"]) { 322 } else { 554 })
}

/// Which login was tried, without its secret.
fn login(rtsp: &RtspSource) -> String {
    let user = rtsp.user.clone().or_else(|| rtsp.url.credentials().map(|c| c.user));
    match user {
        Some(user) => format!("the user {user:?} or its password is wrong"),
        None => "it wants a user and a password, and none is configured (source.rtsp.user and \
                 source.rtsp.password_file)"
            .to_owned(),
    }
}

/// What keeps a connection from being made; `None` if it can be made.
fn unreachable_why((host, port): (String, u16), limit: Duration) -> Option<String> {
    let deadline = Instant::now() + limit;
    let found = match resolve(&host, port, limit, addresses) {
        Ok(found) => found,
        Err(why) => return Some(why),
    };
    let mut why = None;
    for address in found {
        // One that is refused at once costs nothing; one that gets no answer costs all that is left.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(_) => return None,
            Err(error) => why = Some(format!("no connection to {address}: {error}")),
        }
    }
    why
}

/// What resolves a name: tests have one that does not answer.
type Resolver = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Iterator::collect)
}

/// Resolves a name on a thread of its own, since nothing ends a resolver early: the C library gives
/// up on a name server that does not answer after half a minute or so, and the thread with it.
fn resolve(
    host: &str,
    port: u16,
    limit: Duration,
    resolver: Resolver,
) -> Result<Vec<SocketAddr>, String> {
    let (tell, answer) = bounded(1);
    let name = host.to_owned();
    let started = std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
        // Nobody listens any more after the limit.
        let _ = tell.send(resolver(&name, port));
    });
    let failed = |error| format!("the name {host} cannot be resolved: {error}");
    started.map_err(failed)?;
    match answer.recv_timeout(limit) {
        Ok(found) => found.map_err(failed),
        Err(_) => Err(format!(
            "the name {host} cannot be resolved within {} s: no name server answers",
            limit.as_secs_f32()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        resolve: Duration::from_secs(1),
        connect: Duration::from_secs(1),
        look: Duration::from_secs(1),
    };

    #[test]
    fn what_keeps_a_camera_from_being_reached_is_said_before_it_counts_as_silent() {
        for seconds in 3..=3600 {
            let silence = Duration::from_secs(seconds);
            let Limits { resolve, connect, look } = Limits::within(silence);
            assert!(resolve + connect + look < silence, "{seconds}");
        }
    }

    #[test]
    fn a_name_server_that_does_not_answer_is_not_waited_for() {
        let limit = Duration::from_millis(1500);
        let hangs: Resolver = |_, _| {
            let _ = crossbeam_channel::never::<()>().recv();
            Ok(Vec::new())
        };
        let why = resolve("door.lan", 554, limit, hangs).unwrap_err();
        assert!(why.contains("door.lan cannot be resolved within 1.5 s"), "{why}");
        let found = resolve("127.0.0.1", 554, limit, addresses).unwrap();
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 554))]);
    }

    #[test]
    fn a_refused_login_is_told_by_its_user_and_never_by_its_password() {
        let rtsp: RtspSource = serde_json::from_str(r#"{"url":"rtsp://adam:pw9@h/s"}"#).unwrap();
        let error = gst::glib::Error::new(gst::ResourceError::NotAuthorized, "Unauthorized");
        let said = explain(&rtsp, &error, None, LIMITS).unwrap().to_string();
        assert!(said.contains("adam") && said.contains("wrong") && !said.contains("pw9"), "{said}");
    }

    #[test]
    fn a_name_that_is_not_known_and_a_port_that_is_closed_are_told_apart() {
        let limit = Duration::from_secs(30);
        let name = unreachable_why(("no-such-host.invalid".to_owned(), 554), limit).unwrap();
        assert!(name.contains("cannot be resolved"), "{name}");
        let port = unreachable_why(("127.0.0.1".to_owned(), 1), limit).unwrap();
        assert!(port.contains("127.0.0.1:1") && port.contains("refused"), "{port}");
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_words() {
        let flags = gio::TlsCertificateFlags::EXPIRED | gio::TlsCertificateFlags::BAD_IDENTITY;
        assert_eq!(objections(flags), "it is for another host, it has expired");
    }
}
