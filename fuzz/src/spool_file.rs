//! Files of the spool in which bytes are not what was written: a worn card, a torn page.
//!
//! An input is a choice of how the spool ended (one byte), and changes: which file (one byte), where
//! (three bytes), how many bytes follow (one byte), and these. None following cuts the file off there.

use std::sync::OnceLock;

use picket_edge_agent::spool::SpoolError;

use crate::spool_state::{Agent, Files, lay_out, look_at, made, scratch};

/// Looks at such a spool, and lets an agent start on it: it may be set aside, never stand in the way.
pub fn target(input: &[u8]) {
    static MADE: OnceLock<[Files; 2]> = OnceLock::new();
    let Some((end, changes)) = input.split_first() else { return };
    let mut files = MADE.get_or_init(made)[usize::from(end % 2)].clone();
    change(&mut files, changes);
    let dir = scratch();
    lay_out(&files, dir.path());
    look_at(dir.path());
    let agent = match Agent::open(dir.path()) {
        Ok(agent) => agent,
        // A database that says it is something else is left alone.
        Err(
            SpoolError::NotASpool { .. }
            | SpoolError::NewerFormat { .. }
            | SpoolError::UnreleasedFormat { .. },
        ) => return,
        Err(error) => panic!("no start: {error:?}"),
    };
    agent.salvage(dir.path());
    agent.read();
    look_at(dir.path());
    agent.finish();
}

fn change(files: &mut Files, mut changes: &[u8]) {
    while let [file, high, middle, low, count, rest @ ..] = changes {
        let (bytes, left) = rest.split_at(usize::from(*count).min(rest.len()));
        changes = left;
        let Some(file) = files.values_mut().nth(usize::from(*file)) else { continue };
        let at = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        if bytes.is_empty() {
            file.truncate(at);
        }
        for (to, from) in file.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
}
