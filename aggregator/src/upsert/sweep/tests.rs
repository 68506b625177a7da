use std::fs;
use std::sync::Mutex;

use super::*;

const WEEK: Retention = Retention { observations_days: 1, frames_days: 7, tracks_days: 1 };
const HOUR: Duration = Duration::from_secs(3600);

/// Documents of these ids; none where MongoDB is away.
#[derive(Default)]
struct Recorded(Mutex<Option<BTreeSet<String>>>);

impl Documents for &Recorded {
    async fn of(&self, ids: &[String]) -> Result<BTreeSet<String>, StoreError> {
        let known = self.0.lock().unwrap();
        let known = known.as_ref().ok_or(StoreError::NoReplicaSet { hosts: "away".into() })?;
        Ok(ids.iter().filter(|id| known.contains(*id)).cloned().collect())
    }

    async fn database_id(&self) -> Result<String, StoreError> {
        Ok("5f1e".to_owned())
    }

    async fn some_paths(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

struct Bench {
    directory: tempfile::TempDir,
    images: Images,
    recorded: Recorded,
}

impl Bench {
    fn new(recorded: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::in_directory(directory.path()).unwrap();
        fs::write(directory.path().join(owner::FILE), "5f1e\n").unwrap();
        let recorded = recorded.iter().map(|id| (*id).to_owned()).collect();
        Self { directory, images, recorded: Recorded(Mutex::new(Some(recorded))) }
    }

    fn put(&self, path: &str, age: Duration) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    fn has(&self, path: &str) -> bool {
        self.directory.path().join(path).exists()
    }

    fn sweeper(&self) -> Sweeper<&Recorded> {
        Sweeper::new(self.images.clone(), &self.recorded, WEEK)
    }
}

async fn round(sweeper: &mut Sweeper<&Recorded>) -> Removed {
    loop {
        if let Turn::Done(removed) = sweeper.turn().await.unwrap() {
            return removed;
        }
    }
}

#[tokio::test]
async fn what_no_document_points_at_goes_once_it_is_old_and_nothing_else_does() {
    let bench = Bench::new(&["gate/north/3-0a1b2c3d/7", "gate/north/3-0a1b2c3d/7#2"]);
    let here = |file: &str| format!("gate/north/3-0a1b2c3d/{file}");
    let kept = [
        (here("7.jpg"), 30 * DAY),
        (here("7-2.jpg"), 3 * HOUR),
        (here("8.jpg"), HOUR),
        (here("8-02.jpg"), 30 * DAY),
        (here("notes.txt"), 30 * DAY),
        ("gate/holiday.jpg".to_owned(), 30 * DAY),
    ];
    let orphans = [(here("9.jpg"), 3 * HOUR), (here("9-2.jpg"), 3 * HOUR)];
    let expired = (here("1.jpg"), 7 * DAY);
    for (path, age) in kept.iter().chain(&orphans).chain([&expired]) {
        bench.put(path, *age);
    }
    let removed = round(&mut bench.sweeper()).await;
    assert_eq!(removed, Removed { expired: 1, orphans: 2, leftovers: 0 });
    for (path, _) in &kept {
        assert!(bench.has(path), "{path}");
    }
    for (path, _) in orphans.iter().chain([&expired]) {
        assert!(!bench.has(path), "{path}");
    }
}

#[tokio::test]
async fn what_is_written_again_after_a_crash_is_not_removed_before_it_has_its_document() {
    let path = "gate/north/3-0a1b2c3d/7.jpg";
    let bench = Bench::new(&[]);
    bench.put(path, 30 * DAY);
    let writing = bench.images.claim(vec![path.to_owned()]).await;
    let mut sweeper = bench.sweeper();
    assert_eq!(round(&mut sweeper).await, Removed::default());
    drop(writing);
    assert_eq!(round(&mut sweeper).await.expired, 1);
    // Nor does the removal keep the next one from writing it.
    bench.images.claim(vec![path.to_owned()]).await;
}

#[tokio::test]
async fn while_mongodb_is_away_nothing_goes_and_afterwards_the_rest_has_its_turn() {
    let bench = Bench::new(&[]);
    for seq in 0..=PAGE {
        bench.put(&format!("gate/north/3-0a1b2c3d/{}.jpg", seq + 1), 3 * HOUR);
    }
    let known = bench.recorded.0.lock().unwrap().take();
    let mut sweeper = bench.sweeper();
    assert!(matches!(sweeper.turn().await, Err(SweepError::Documents(_))));
    assert!((0..=PAGE).all(|n| bench.has(&format!("gate/north/3-0a1b2c3d/{}.jpg", n + 1))));
    *bench.recorded.0.lock().unwrap() = known;
    assert_eq!(round(&mut sweeper).await.orphans, 1, "the round goes on behind the first page");
    assert_eq!(round(&mut sweeper).await.orphans, PAGE as u64);
    round(&mut sweeper).await;
    assert!(!bench.has("gate"), "and their directories");
}

#[tokio::test]
async fn a_round_is_done_in_pages() {
    let bench = Bench::new(&[]);
    for seq in 0..=PAGE {
        bench.put(&format!("gate/north/3-0a1b2c3d/{}.jpg", seq + 1), 3 * HOUR);
    }
    let mut sweeper = bench.sweeper();
    assert_eq!(sweeper.turn().await.unwrap(), Turn::More);
    let done = sweeper.turn().await.unwrap();
    let orphans = PAGE as u64 + 1;
    assert_eq!(done, Turn::Done(Removed { orphans, ..Removed::default() }));
}
#[tokio::test]
async fn pictures_of_another_database_stay() {
    let bench = Bench::new(&[]);
    bench.put("gate/north/3-0a1b2c3d/7.jpg", 30 * DAY);
    fs::write(bench.directory.path().join(owner::FILE), "0dd5\n").unwrap();
    let refused = bench.sweeper().turn().await;
    assert!(matches!(refused, Err(SweepError::Elsewhere { .. })), "{refused:?}");
    assert!(bench.has("gate/north/3-0a1b2c3d/7.jpg"));
}

#[tokio::test]
async fn what_cannot_be_listed_does_not_keep_the_rest() {
    let bench = Bench::new(&[]);
    bench.put("gate/north/3-0a1b2c3d/7.jpg", 3 * HOUR);
    bench.put("hall/north/3-0a1b2c3d/7.jpg", 3 * HOUR);
    // A loop of links cannot be listed, not by root either; what is no device's is not asked for.
    for loops in ["door/north", "lost+found"].map(|path| bench.directory.path().join(path)) {
        fs::create_dir_all(&loops).unwrap();
        std::os::unix::fs::symlink(".", loops.join("again")).unwrap();
    }
    bench.images.check().await.unwrap();
    let mut sweeper = bench.sweeper();
    let (mut failed, mut done) = (0, None);
    for _ in 0..4 {
        match sweeper.turn().await {
            Ok(Turn::Done(removed)) => {
                done = Some(removed.orphans);
                break;
            }
            Ok(Turn::More) => {}
            Err(error) => {
                assert!(matches!(error, SweepError::Images(_)), "{error:?}");
                failed += 1;
            }
        }
    }
    assert_eq!((failed, done), (1, Some(2)));
}
