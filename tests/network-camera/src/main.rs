//! A network camera: a real RTSP server with a made picture, for tests that kill it, stop it, and
//! spoil what it sends.
//!
//! It says `at HOST:PORT` on its output once it listens. What is written to its input is done:
//! `corrupt` spoils every packet of video from then on, `clean` ends that.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, ValueEnum};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_rtsp::RTSPAuthMethod;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{RTSPAuth, RTSPMediaFactory, RTSPServer, RTSPToken};

/// The stream, at the path `/live`.
const STREAM: &str = "( videotestsrc is-live=true pattern=smpte \
     ! video/x-raw,format=I420,width=320,height=240,framerate=20/1 \
     ! openh264enc gop-size=20 ! h264parse name=last \
     ! rtph264pay name=pay0 config-interval=-1 )";
/// Who may watch.
const ROLE: &str = "viewer";

#[derive(Parser)]
struct Args {
    /// Address to listen at.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; a free one if 0.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// How a user proves who they are; nobody is asked if unset.
    #[arg(long, requires_all = ["user", "password"])]
    auth: Option<Auth>,
    /// The one user.
    #[arg(long)]
    user: Option<String>,
    /// Their password.
    #[arg(long)]
    password: Option<String>,
    /// Certificate of the server, PEM: then it speaks TLS only.
    #[arg(long, requires_all = ["key", "auth"])]
    certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long)]
    key: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Auth {
    Basic,
    Digest,
}

fn main() -> Result<()> {
    let args = Args::parse();
    gst::init()?;
    let server = RTSPServer::new();
    server.set_address(&args.host);
    server.set_service(&args.port.to_string());
    let stream = RTSPMediaFactory::new();
    stream.set_launch(STREAM);
    stream.set_shared(true);
    let spoilt = Arc::new(AtomicBool::new(false));
    spoil_on_demand(&stream, Arc::clone(&spoilt));
    server.mount_points().context("no mount points")?.add_factory("/live", stream.clone());
    if let Some(method) = args.auth {
        server.set_auth(Some(&guard(&args, method, &stream)?));
    }
    let _attached = server.attach(None).context("cannot listen")?;
    println!("at {}:{}", args.host, server.bound_port());
    std::thread::spawn(move || obey(&spoilt));
    glib::MainLoop::new(None, false).run();
    Ok(())
}

fn guard(args: &Args, method: Auth, stream: &RTSPMediaFactory) -> Result<RTSPAuth> {
    let auth = RTSPAuth::new();
    let (user, password) = (args.user.as_deref(), args.password.as_deref());
    let (user, password) = user.zip(password).ok_or_else(|| anyhow!("--user and --password"))?;
    let token = RTSPToken::builder().field("media.factory.role", ROLE).build();
    match method {
        Auth::Basic => auth.add_basic(&RTSPAuth::make_basic(user, password), &token),
        Auth::Digest => {
            auth.set_supported_methods(RTSPAuthMethod::Digest);
            auth.add_digest(user, password, &token);
        }
    }
    let allowed = gst::Structure::builder(ROLE)
        .field("media.factory.access", true)
        .field("media.factory.construct", true)
        .build();
    stream.add_role_from_structure(&allowed);
    if let (Some(certificate), Some(key)) = (&args.certificate, &args.key) {
        let certificate = gio::TlsCertificate::from_files(certificate, key)?;
        auth.set_tls_certificate(Some(&certificate));
    }
    Ok(auth)
}

fn spoil_on_demand(stream: &RTSPMediaFactory, spoilt: Arc<AtomicBool>) {
    stream.connect_media_configure(move |_, media| {
        let last = media.element().downcast::<gst::Bin>().ok().and_then(|bin| bin.by_name("last"));
        let Some(pad) = last.and_then(|last| last.static_pad("src")) else {
            return;
        };
        let spoilt = Arc::clone(&spoilt);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if spoilt.load(Ordering::Relaxed)
                && let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
            {
                spoil(buffer.make_mut());
            }
            gst::PadProbeReturn::Ok
        });
    });
}

/// Every seventh byte becomes another; the start of each frame stays, so that it is sent.
fn spoil(buffer: &mut gst::BufferRef) {
    if let Ok(mut map) = buffer.map_writable() {
        for (n, byte) in map.iter_mut().enumerate().skip(8).step_by(7) {
            *byte = byte.wrapping_mul(31).wrapping_add((n % 251) as u8);
        }
    }
}

fn obey(spoilt: &AtomicBool) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.trim() {
            "corrupt" => spoilt.store(true, Ordering::Relaxed),
            "clean" => spoilt.store(false, Ordering::Relaxed),
            other => eprintln!("{other:?}: must be corrupt or clean"),
        }
    }
    // Whoever started it is gone.
    std::process::exit(0);
}
