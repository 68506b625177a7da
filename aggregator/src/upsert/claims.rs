//! Who has which picture in hand, in this process: whoever writes it and then its document, or whoever
//! removes it because it has none. Never both: a batch that is read again writes pictures that a crash
//! had left without documents, and those may be about to be removed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The pictures in hand, by path. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was removed, or will not be.
    removed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many write it.
    writing: HashMap<String, usize>,
    removing: BTreeSet<String>,
}

/// These are being written, until it is dropped.
#[derive(Debug)]
pub struct Writing {
    claims: Claims,
    paths: Vec<String>,
}

/// These are being removed, until it is dropped.
#[derive(Debug)]
pub struct Removing {
    claims: Claims,
    /// Which.
    pub paths: BTreeSet<String>,
}

impl Claims {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes these for writing, once none of them is being removed.
    pub async fn write(&self, paths: Vec<String>) -> Writing {
        loop {
            let removed = self.0.removed.notified();
            tokio::pin!(removed);
            removed.as_mut().enable();
            {
                let mut state = self.state();
                if !paths.iter().any(|path| state.removing.contains(path)) {
                    for path in &paths {
                        *state.writing.entry(path.clone()).or_default() += 1;
                    }
                    return Writing { claims: self.clone(), paths };
                }
            }
            removed.await;
        }
    }

    /// Takes for removal those that nobody writes.
    pub fn remove(&self, paths: impl IntoIterator<Item = String>) -> Removing {
        let mut state = self.state();
        let free = paths.into_iter().filter(|path| !state.writing.contains_key(path));
        let paths: BTreeSet<_> = free.collect();
        state.removing.extend(paths.iter().cloned());
        Removing { claims: self.clone(), paths }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.claims.state();
        for path in &self.paths {
            if let Some(count) = state.writing.get_mut(path) {
                *count -= 1;
                if *count == 0 {
                    state.writing.remove(path);
                }
            }
        }
    }
}

impl Drop for Removing {
    fn drop(&mut self) {
        self.claims.state().removing.retain(|path| !self.paths.contains(path));
        self.claims.0.removed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn paths(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_written_is_not_removed_before_all_who_write_it_are_done() {
        let claims = Claims::default();
        let first = claims.write(paths(&["a", "b"])).await;
        let second = claims.write(paths(&["b"])).await;
        assert!(claims.remove(paths(&["b", "c"])).paths.contains("c"));
        drop(first);
        assert!(claims.remove(paths(&["b"])).paths.is_empty());
        drop(second);
        assert_eq!(claims.remove(paths(&["b"])).paths, ["b".to_owned()].into());
    }

    #[tokio::test]
    async fn what_is_removed_is_written_only_afterwards() {
        let claims = Claims::default();
        let removing = claims.remove(paths(&["a"]));
        let mut writing = Box::pin(claims.write(paths(&["a"])));
        assert!((&mut writing).now_or_never().is_none());
        assert!(claims.write(paths(&["b"])).now_or_never().is_some());
        drop(removing);
        writing.await;
    }
}
