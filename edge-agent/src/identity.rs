//! Whose state directory this is: bound to the board at the first start, so that a copied card does
//! not publish as the original.
//!
//! A board is known by its serial number; where a program without privileges sees none, by the
//! addresses of its network cards, of which one in common is enough: a card that was added, or one of
//! two that was replaced, does not make another board.
//!
//! On another board the agent captures and keeps what it finds, and publishes nothing: neither does a
//! replaced board lose anything before a person says that it is the same device, nor does a copy
//! speak for the original. The alternative, not to start at all, would lose in the first case what
//! nobody can capture again. `reset-identity` mends either.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use picket_service::durable;
use picket_service::machine::Machine;
use picket_wire::DeviceName;
use serde::{Deserialize, Serialize};

use crate::spool::{self, Former, SpoolError, StateLock};

const FILE: &str = "identity.json";

/// What a state directory is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The device's name then.
    pub device: DeviceName,
    /// The board's serial number, if it shows one.
    pub serial: Option<String>,
    /// Addresses of its network cards: the built in ones, or all where there are none.
    pub addresses: Vec<String>,
    /// Addresses of all cards that are there now, with those on USB: what is compared. A first start
    /// may have seen only a card on USB, since the built in one's driver came later.
    #[serde(skip)]
    present: Vec<String>,
}

/// What became of the look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is this board's.
    Own,
    /// It was nobody's, and is this board's from now on.
    Bound,
    /// It is nobody's, and this board shows nothing that it could be bound to.
    Unbound,
    /// Nothing here can be compared with what it is bound to.
    Untold {
        /// For people.
        bound_to: String,
    },
    /// It is another board's.
    Foreign {
        /// For people: whose, and what to do.
        problem: String,
    },
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct IdentityError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Identity {
    /// This board's.
    pub fn of(machine: &Machine, device: &DeviceName) -> Self {
        let mut addresses = machine.board_addresses();
        addresses.sort();
        let present = machine.addresses();
        Self { device: device.clone(), serial: machine.serial(), addresses, present }
    }

    /// For people.
    pub fn text(&self) -> String {
        match (&self.serial, self.addresses.is_empty()) {
            (Some(serial), _) => format!("serial {serial}"),
            (None, false) => format!("MAC {}", self.addresses.join(", ")),
            (None, true) => "no serial number and no MAC".to_owned(),
        }
    }

    /// Whether this is the board of the bound identity; `None` if nothing can be compared.
    fn is_board_of(&self, bound: &Self) -> Option<bool> {
        if let (Some(one), Some(another)) = (&self.serial, &bound.serial) {
            return Some(one == another);
        }
        let comparable = !self.present.is_empty() && !bound.addresses.is_empty();
        comparable.then(|| self.present.iter().any(|mac| bound.addresses.contains(mac)))
    }

    /// The bound identity with what this board shows beyond it; `None` if that is nothing.
    fn grown(&self, bound: &Self) -> Option<Self> {
        let mut grown = bound.clone();
        grown.serial = grown.serial.or_else(|| self.serial.clone());
        let new = self.addresses.iter().filter(|mac| !bound.addresses.contains(mac));
        grown.addresses.extend(new.cloned());
        grown.addresses.sort();
        (grown != *bound).then_some(grown)
    }

    fn shows_something(&self) -> bool {
        self.serial.is_some() || !self.addresses.is_empty()
    }
}

/// What a state directory is bound to, if it is bound.
pub fn read(state_dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = state_dir.join(FILE);
    let failed = |source| IdentityError { step: "read", path: path.clone(), source };
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(e.into())),
    }
}

/// Looks whose it is, without changing anything.
pub fn look(state_dir: &Path, here: &Identity) -> Result<Verdict, IdentityError> {
    let Some(bound) = read(state_dir)? else {
        // A machine that shows nothing now may show something at the next start.
        return Ok(if here.shows_something() { Verdict::Bound } else { Verdict::Unbound });
    };
    Ok(match here.is_board_of(&bound) {
        Some(true) => Verdict::Own,
        None if !bound.shows_something() => Verdict::Unbound,
        None => Verdict::Untold { bound_to: bound.text() },
        Some(false) => Verdict::Foreign {
            problem: format!(
                "{} belongs to device {} on another board ({}; this one has {}): nothing is \
                 published. Was the board replaced? Then `picket-edge-agent reset-identity \
                 --same-device`. Is this a copy of that device's disk? Then give it a name and a \
                 certificate of its own, stop the service, and `picket-edge-agent reset-identity`",
                state_dir.display(),
                bound.device,
                bound.text(),
                here.text(),
            ),
        },
    })
}

/// Looks whose it is; nobody's becomes this board's. Only for whoever holds the directory's lock.
pub fn claim(state_dir: &Path, here: &Identity) -> Result<Verdict, IdentityError> {
    let verdict = look(state_dir, here)?;
    let to_keep = match verdict {
        Verdict::Bound => Some(here.clone()),
        // A card that was added: the board must be known by it when the one before is gone.
        Verdict::Own => read(state_dir)?.and_then(|bound| here.grown(&bound)),
        Verdict::Unbound | Verdict::Untold { .. } | Verdict::Foreign { .. } => None,
    };
    if let Some(to_keep) = to_keep {
        bind(state_dir, &to_keep)?;
    }
    Ok(verdict)
}

/// Why a directory was not bound anew.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// An agent runs, or the former device's spool cannot be set aside.
    #[error("the former device's spool stays where it is: stop the service first")]
    Former(#[source] SpoolError),
    /// The file cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Makes it this board's whatever it was, and gives what the former device left. Until it is done no
/// agent can start in it: one would begin in the former device's name, or keep its spool. That of the
/// same device may run and go on.
pub fn reset(
    state_dir: &Path,
    here: &Identity,
    same_device: bool,
) -> Result<Option<Former>, ResetError> {
    let lock = match StateLock::take(state_dir) {
        Ok(lock) => Some(lock),
        Err(SpoolError::InUse { .. }) if same_device => None,
        Err(error) => return Err(ResetError::Former(error)),
    };
    let former = match &lock {
        Some(lock) if !same_device => {
            spool::set_aside_former(state_dir, lock).map_err(ResetError::Former)?
        }
        _ => None,
    };
    bind(state_dir, here)?;
    Ok(former)
}

/// Makes it this board's, durably.
fn bind(state_dir: &Path, here: &Identity) -> Result<(), IdentityError> {
    let path = state_dir.join(FILE);
    let content = serde_json::to_vec_pretty(here).map_err(io::Error::from);
    content.and_then(|content| durable::replace(&path, &content)).map_err(|source| IdentityError {
        step: "write",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(serial: Option<&str>, addresses: &[&str]) -> Identity {
        let addresses: Vec<String> = addresses.iter().map(|mac| (*mac).to_owned()).collect();
        Identity {
            device: "gate".parse().unwrap(),
            serial: serial.map(str::to_owned),
            present: addresses.clone(),
            addresses,
        }
    }

    #[test]
    fn a_board_that_was_first_seen_with_a_card_on_usb_only_stays_itself() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(claim(dir.path(), &board(None, &["usb"])).unwrap(), Verdict::Bound);
        let mut with_both = board(None, &["eth"]);
        with_both.present.push("usb".to_owned());
        assert_eq!(claim(dir.path(), &with_both).unwrap(), Verdict::Own);
        assert_eq!(claim(dir.path(), &board(None, &["eth"])).unwrap(), Verdict::Own, "it grew");
    }

    #[test]
    fn a_bound_directory_on_a_board_that_shows_nothing_is_not_taken_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), &board(None, &["aa"])).unwrap();
        let verdict = claim(dir.path(), &board(None, &[])).unwrap();
        assert_eq!(verdict, Verdict::Untold { bound_to: "MAC aa".to_owned() });
    }

    #[test]
    fn a_board_is_known_by_its_serial_and_else_by_one_address_in_common() {
        let original = board(Some("77"), &["aa", "bb"]);
        for (here, is_it) in [
            (board(Some("77"), &["cc"]), Some(true)),
            (board(Some("78"), &["aa"]), Some(false)),
            (board(None, &["bb", "cc"]), Some(true)),
            (board(None, &["cc"]), Some(false)),
            (board(None, &[]), None),
        ] {
            assert_eq!(here.is_board_of(&original), is_it, "{here:?}");
        }
    }

    #[test]
    fn the_first_board_is_bound_and_another_is_told_so_until_it_is_bound_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (original, copy) = (board(None, &["aa"]), board(None, &["bb"]));
        assert_eq!(claim(dir.path(), &board(None, &[])).unwrap(), Verdict::Unbound);
        assert_eq!(read(dir.path()).unwrap(), None, "a board that shows nothing is not bound");
        assert_eq!(claim(dir.path(), &original).unwrap(), Verdict::Bound);
        assert_eq!(claim(dir.path(), &original).unwrap(), Verdict::Own);
        let Verdict::Foreign { problem } = claim(dir.path(), &copy).unwrap() else { panic!() };
        assert!(problem.contains("device gate") && problem.contains("reset-identity"), "{problem}");
        assert_eq!(claim(dir.path(), &original).unwrap(), Verdict::Own, "a copy binds nothing");
        reset(dir.path(), &copy, false).unwrap();
        assert_eq!(claim(dir.path(), &copy).unwrap(), Verdict::Own);
    }

    #[test]
    fn a_directory_that_an_agent_is_in_is_bound_anew_only_for_the_same_device() {
        let dir = tempfile::tempdir().unwrap();
        let (original, other) = (board(None, &["aa"]), board(None, &["bb"]));
        claim(dir.path(), &original).unwrap();
        // Before it has made its spool.
        let agent = StateLock::take(dir.path()).unwrap();
        assert!(matches!(
            reset(dir.path(), &other, false),
            Err(ResetError::Former(SpoolError::InUse { .. }))
        ));
        assert_eq!(claim(dir.path(), &original).unwrap(), Verdict::Own);
        assert_eq!(reset(dir.path(), &other, true).unwrap(), None);
        assert_eq!(claim(dir.path(), &other).unwrap(), Verdict::Own);
        drop(agent);
        reset(dir.path(), &original, false).unwrap();
        assert_eq!(claim(dir.path(), &original).unwrap(), Verdict::Own);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_new_board() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"device\"").unwrap();
        assert!(claim(dir.path(), &board(None, &["aa"])).is_err());
    }
}
