//! A network camera: how it is reached, and what to say when it is not.
//!
//! GStreamer says "Failed to connect. (Generic error)" of a wrong name, a closed port and a
//! certificate that is not accepted alike. A person at the camera needs to know which, so it is looked
//! into after the fact.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gio::prelude::*;
use gstreamer as gst;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{Address, Credentials};
use super::error::CaptureError;
use super::source::{element, finish};

/// How long a connection may take that is made only to find out what is wrong.
const TRY: Duration = Duration::from_secs(3);

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
pub(super) fn receiver(rtsp: &RtspSource) -> Result<(gst::Element, Distrust), CaptureError> {
    let protocols = match rtsp.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let mut builder = element("rtspsrc")?
        .property("location", rtsp.url.without_credentials().into_owned())
        .property("latency", rtsp.latency_ms)
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
    let why = unreachable_why(rtsp.url.host_and_port(if is_tls(rtsp) { 322 } else { 554 })?)?;
    Some(CaptureError::Unreachable { source_name, why })
}

fn is_tls(rtsp: &RtspSource) -> bool {
    rtsp.url.has_scheme(&["rtsps"])
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
fn unreachable_why((host, port): (String, u16)) -> Option<String> {
    let addresses = match (host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Some(format!("the name {host} cannot be resolved: {error}")),
    };
    let mut why = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, TRY) {
            Ok(_) => return None,
            Err(error) => why = Some(format!("no connection to {address}: {error}")),
        }
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_told_by_its_user_and_never_by_its_password() {
        let rtsp: RtspSource = serde_json::from_str(r#"{"url":"rtsp://adam:pw9@h/s"}"#).unwrap();
        let error = gst::glib::Error::new(gst::ResourceError::NotAuthorized, "Unauthorized");
        let said = explain(&rtsp, &error, None).unwrap().to_string();
        assert!(said.contains("adam") && said.contains("wrong") && !said.contains("pw9"), "{said}");
    }

    #[test]
    fn a_name_that_is_not_known_and_a_port_that_is_closed_are_told_apart() {
        let name = unreachable_why(("no-such-host.invalid".to_owned(), 554)).unwrap();
        assert!(name.contains("cannot be resolved"), "{name}");
        let port = unreachable_why(("127.0.0.1".to_owned(), 1)).unwrap();
        assert!(port.contains("127.0.0.1:1") && port.contains("refused"), "{port}");
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_words() {
        let flags = gio::TlsCertificateFlags::EXPIRED | gio::TlsCertificateFlags::BAD_IDENTITY;
        assert_eq!(objections(flags), "it is for another host, it has expired");
    }
}
