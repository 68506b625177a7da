//! Ports that stay ours while the service behind them is down.
//!
//! Not port 0: a service that is stopped and started again must come back where it was, and meanwhile
//! the kernel may give a port of its dynamic range (32768 and up) to any outgoing connection, even to
//! the very client that is trying to reconnect. So ports are taken below that range, and a locked file
//! per port keeps other stacks away for as long as the lease lives.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::HOST;

const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port that no other stack takes while this lives.
pub struct Lease {
    port: u16,
    _lock: File,
}

impl Lease {
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Leases `wanted` if given, else any `count` free ports.
pub fn lease(count: usize, wanted: Option<Vec<u16>>) -> Result<Vec<Lease>> {
    let folder = lock_folder()?;
    if let Some(wanted) = wanted {
        let one = |port| {
            try_lease(&folder, port).with_context(|| {
                format!("port {port}, which this stack had before, is taken; a new folder gets new ports")
            })
        };
        return wanted.into_iter().map(one).collect();
    }
    // Starts at a place of its own, so that stacks that start together seldom meet.
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    let candidates = (0..COUNT).map(|step| FIRST + (start + step * 7) % COUNT);
    let leases: Vec<_> =
        candidates.filter_map(|port| try_lease(&folder, port)).take(count).collect();
    if leases.len() < count {
        bail!("fewer than {count} free ports between {FIRST} and {}", FIRST + COUNT);
    }
    Ok(leases)
}

fn lock_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join("picket-ports");
    if !folder.exists() {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // Stacks of other users lock here too.
        fs::set_permissions(&folder, Permissions::from_mode(0o1777))?;
    }
    Ok(folder)
}

fn try_lease(folder: &std::path::Path, port: u16) -> Option<Lease> {
    // A file of another user cannot be opened, and is then not ours to lock: next port.
    let lock = File::create(folder.join(port.to_string())).ok()?;
    lock.try_lock().ok()?;
    TcpListener::bind((HOST, port)).ok()?;
    Some(Lease { port, _lock: lock })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leases_never_share_a_port_and_an_ended_lease_frees_it() {
        let first = lease(3, None).unwrap();
        let second = lease(3, None).unwrap();
        let ports = |leases: &[Lease]| leases.iter().map(Lease::port).collect::<Vec<_>>();
        let held = ports(&first);
        assert!(held.iter().all(|port| !ports(&second).contains(port)));
        assert!(lease(3, Some(held.clone())).is_err());
        drop(first);
        assert_eq!(ports(&lease(3, Some(held.clone())).unwrap()), held);
    }

    #[test]
    fn a_port_that_another_program_uses_is_not_leased() {
        let port = lease(1, None).unwrap()[0].port();
        let _other = TcpListener::bind((HOST, port)).unwrap();
        assert!(lease(1, Some(vec![port])).is_err());
    }
}
