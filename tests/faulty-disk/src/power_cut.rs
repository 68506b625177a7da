//! The folder as a disk could hold it, had the power gone at a step.

use std::collections::BTreeMap;
use std::path::Path;

use crate::disk::Step;
use crate::random::Random;

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What a disk kept of the writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// A first part, in the order in which it was told; the last write of it is torn.
    Beginning,
    /// Some writes, whichever: later ones without earlier ones.
    Some,
    /// Some sectors, whichever.
    Sectors,
}

impl Keep {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Nothing, Self::Everything, Self::Beginning, Self::Some, Self::Sectors];
}

#[derive(Debug, Clone)]
enum Change {
    Written { at: usize, bytes: Vec<u8> },
    Cut { to: usize },
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Written { at, bytes } => write(content, *at, bytes),
            Self::Cut { to } => content.resize(*to, 0),
        }
    }

    /// Applies those of its sectors that `keeps` says yes to.
    fn tear(&self, content: &mut Vec<u8>, mut keeps: impl FnMut() -> bool) {
        let Self::Written { at, bytes } = self else {
            if keeps() {
                self.apply(content);
            }
            return;
        };
        let mut from = 0;
        while from < bytes.len() {
            // Sectors lie where the disk has them, not where a write begins.
            let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
            if keeps() {
                write(content, at + from, &bytes[from..to]);
            }
            from = to;
        }
    }
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

#[derive(Debug, Default)]
struct Content {
    synced: Vec<u8>,
    since: Vec<Change>,
}

impl Content {
    fn sync(&mut self) {
        self.since.drain(..).for_each(|change| change.apply(&mut self.synced));
    }

    fn after(&self, keep: Keep, random: &mut Random) -> Vec<u8> {
        let mut content = self.synced.clone();
        let beginning = random.below(self.since.len() + 1);
        for (n, change) in self.since.iter().enumerate() {
            match keep {
                Keep::Nothing => {}
                Keep::Everything => change.apply(&mut content),
                Keep::Beginning if n < beginning => change.apply(&mut content),
                Keep::Beginning if n == beginning => {
                    let mut sectors = random.below(16);
                    change.tear(&mut content, || {
                        sectors = sectors.saturating_sub(1);
                        sectors > 0
                    });
                }
                Keep::Beginning => {}
                Keep::Some if random.coin() => change.apply(&mut content),
                Keep::Some => {}
                Keep::Sectors => change.tear(&mut content, || random.coin()),
            }
        }
        content
    }
}

type Names = BTreeMap<String, usize>;

/// Walks along the steps; at each of them the power may go.
#[derive(Debug)]
pub struct PowerCut<'a> {
    steps: &'a [Step],
    next: usize,
    contents: Vec<Content>,
    names: Names,
    synced_names: Names,
    /// The names after each change that is not synced.
    names_since: Vec<Names>,
}

impl<'a> PowerCut<'a> {
    /// Before the first step: an empty folder.
    pub fn new(steps: &'a [Step]) -> Self {
        let (names, synced_names) = (Names::new(), Names::new());
        Self { steps, next: 0, contents: Vec::new(), names, synced_names, names_since: Vec::new() }
    }

    /// Goes on until `count` steps are done. It does not go back.
    pub fn advance_to(&mut self, count: usize) {
        assert!(count >= self.next && count <= self.steps.len(), "{} to {count}", self.next);
        while self.next < count {
            self.take(self.next);
            self.next += 1;
        }
    }

    fn take(&mut self, n: usize) {
        match &self.steps[n] {
            Step::Created(file) => {
                let content = self.new_content();
                self.name(|names| {
                    names.insert(file.clone(), content);
                });
            }
            Step::Written { file, at, bytes } => {
                let change = Change::Written { at: *at, bytes: bytes.clone() };
                self.content(file).since.push(change);
            }
            Step::Cut { file, to } => self.content(file).since.push(Change::Cut { to: *to }),
            Step::Synced(file) => self.content(file).sync(),
            Step::SyncFailed(file) => self.content(file).since.clear(),
            Step::SyncedWhole { file, content } => {
                let of = self.content(file);
                (of.synced, of.since) = (content.clone(), Vec::new());
            }
            Step::NamesSynced => {
                self.synced_names = self.names.clone();
                self.names_since.clear();
            }
            Step::Renamed { from, to, content } => {
                // Never synced under its old name, it is only as good as any other write.
                if !self.names.contains_key(from) {
                    let change = Change::Written { at: 0, bytes: content.clone() };
                    self.content(from).since.push(change);
                }
                self.name(|names| {
                    if let Some(content) = names.remove(from) {
                        names.insert(to.clone(), content);
                    }
                });
            }
            Step::Removed(file) => self.name(|names| {
                names.remove(file);
            }),
        }
    }

    fn new_content(&mut self) -> usize {
        self.contents.push(Content::default());
        self.contents.len() - 1
    }

    /// The file's content; one that nobody saw being made is made now.
    fn content(&mut self, file: &str) -> &mut Content {
        let content = match self.names.get(file) {
            Some(content) => *content,
            None => {
                let content = self.new_content();
                self.name(|names| {
                    names.insert(file.to_owned(), content);
                });
                content
            }
        };
        &mut self.contents[content]
    }

    fn name(&mut self, change: impl FnOnce(&mut Names)) {
        change(&mut self.names);
        self.names_since.push(self.names.clone());
    }

    /// Makes the folder, which must be empty, as the disk could hold it after the steps so far.
    pub fn write_to(&self, folder: &Path, keep: Keep, random: &mut Random) {
        // A file system journals its names: a first part of the changes is kept.
        let kept = match keep {
            Keep::Nothing => 0,
            Keep::Everything => self.names_since.len(),
            _ => random.below(self.names_since.len() + 1),
        };
        let names = match kept {
            0 => &self.synced_names,
            kept => &self.names_since[kept - 1],
        };
        for (name, content) in names {
            let content = self.contents[*content].after(keep, random);
            if let Some(own) = folder.join(name).parent() {
                std::fs::create_dir_all(own).expect("the folder can be written");
            }
            std::fs::write(folder.join(name), content).expect("the folder can be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(file: &str, at: usize, byte: u8, count: usize) -> Step {
        Step::Written { file: file.to_owned(), at, bytes: vec![byte; count] }
    }

    fn after(steps: &[Step], keep: Keep, seed: u64) -> BTreeMap<String, Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let mut cut = PowerCut::new(steps);
        cut.advance_to(steps.len());
        cut.write_to(dir.path(), keep, &mut Random::new(seed));
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .collect()
    }

    #[test]
    fn what_was_synced_is_kept_whatever_the_disk_does_with_the_rest() {
        let steps = [
            Step::Created("a".into()),
            written("a", 0, 1, 1000),
            Step::Synced("a".into()),
            Step::NamesSynced,
            written("a", 1024, 2, 4096),
        ];
        for (keep, seed) in Keep::ALL.into_iter().flat_map(|keep| (0..20).map(move |n| (keep, n))) {
            let files = after(&steps, keep, seed);
            assert_eq!(files["a"][..1000], [1; 1000], "{keep:?} {seed}");
        }
        assert_eq!(after(&steps, Keep::Nothing, 0)["a"].len(), 1000);
        assert_eq!(after(&steps, Keep::Everything, 0)["a"][1024..], [2; 4096]);
    }

    #[test]
    fn a_write_that_was_not_synced_is_torn_at_sectors() {
        let steps = [Step::Created("a".into()), Step::NamesSynced, written("a", 100, 7, 5000)];
        let torn = after(&steps, Keep::Sectors, 3).remove("a").unwrap();
        let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        assert!(torn[512..].chunks(512).all(whole));
        assert!(torn.contains(&0) && torn.contains(&7));
    }

    #[test]
    fn what_a_failed_sync_was_to_keep_is_not_kept_by_a_later_one() {
        let steps = [
            Step::Created("a".into()),
            Step::NamesSynced,
            written("a", 0, 1, 512),
            Step::SyncFailed("a".into()),
            written("a", 512, 2, 512),
            Step::Synced("a".into()),
        ];
        let kept = after(&steps, Keep::Everything, 0).remove("a").unwrap();
        assert_eq!(kept, [[0; 512], [2; 512]].concat());
    }

    #[test]
    fn a_file_whose_name_was_not_synced_may_be_gone_and_a_removed_one_back() {
        let steps = [
            Step::Created("old".into()),
            Step::NamesSynced,
            Step::Created("new".into()),
            Step::Synced("new".into()),
            Step::Removed("old".into()),
        ];
        let names = |keep, seed| after(&steps, keep, seed).into_keys().collect::<Vec<_>>();
        assert_eq!(names(Keep::Nothing, 0), ["old"]);
        assert_eq!(names(Keep::Everything, 0), ["new"]);
        let seen: std::collections::BTreeSet<_> = (0..20).map(|n| names(Keep::Some, n)).collect();
        assert!(seen.contains(&vec!["new".to_owned(), "old".to_owned()]), "{seen:?}");
    }

    #[test]
    fn a_file_that_is_renamed_before_it_was_synced_may_be_empty() {
        let renamed = |content: &[u8]| Step::Renamed {
            from: "a.new".into(),
            to: "a".into(),
            content: content.to_vec(),
        };
        let unsynced = [renamed(b"1"), Step::NamesSynced];
        assert_eq!(after(&unsynced, Keep::Nothing, 0)["a"], b"");
        let synced = Step::SyncedWhole { file: "a.new".into(), content: b"1".to_vec() };
        let steps = [synced, renamed(b"1"), Step::NamesSynced];
        assert_eq!(after(&steps, Keep::Nothing, 0)["a"], b"1");
    }
}
