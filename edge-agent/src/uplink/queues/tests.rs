//! The queues against a model of the spool: generated commits, sendings, failures, evictions and
//! outages.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Topic, and whose. The weight of a row follows from its number.
type Line = (Topic, String);

/// A spool in memory: the seam is [`Rows`].
#[derive(Default)]
struct Table {
    rows: RefCell<BTreeMap<RowId, Line>>,
    held: RefCell<BTreeSet<RowId>>,
    next_id: Cell<RowId>,
    looked_at: Cell<usize>,
    /// A look ends before this row, once: it could not be read.
    unreadable_once: Cell<Option<RowId>>,
}

fn weight(id: RowId) -> u64 {
    100 + id.unsigned_abs() * 7919 % 900
}

impl Rows for Table {
    fn heads(&self, topic: Topic, ids: Range<RowId>, limit: usize) -> Result<Heads, SpoolError> {
        let rows = self.rows.borrow();
        let of_topic = rows.range(ids).filter(|(_, (of, _))| *of == topic);
        let head = |(id, (_, key)): (&RowId, &Line)| {
            self.looked_at.set(self.looked_at.get() + 1);
            Head { id: *id, key: key.clone(), bytes: weight(*id) }
        };
        let mut heads: Vec<_> = of_topic.take(limit).map(head).collect();
        let met = |id: &RowId| heads.iter().any(|head| head.id == *id);
        let Some(id) = self.unreadable_once.get().filter(met) else {
            let ends = heads.len() < limit;
            return Ok(Heads { heads, ends });
        };
        self.unreadable_once.set(None);
        heads.retain(|head| head.id < id);
        Ok(Heads { heads, ends: false })
    }

    fn take(&self, topic: Topic, id: RowId) -> Result<Option<Spooled>, SpoolError> {
        let rows = self.rows.borrow();
        let Some((_, key)) = rows.get(&id).filter(|_| !self.held.borrow().contains(&id)) else {
            return Ok(None);
        };
        self.held.borrow_mut().insert(id);
        let value = vec![0; weight(id) as usize];
        Ok(Some(Spooled { topic, id, key: key.clone(), headers: Vec::new(), value }))
    }

    fn give_back(&self, id: RowId) {
        self.held.borrow_mut().remove(&id);
    }

    fn next_id(&self) -> RowId {
        self.next_id.get()
    }
}

impl Table {
    fn commit(&self, topic: Topic, key: &str) -> RowId {
        let id = self.next_id.get().max(1);
        self.next_id.set(id + 1);
        self.rows.borrow_mut().insert(id, (topic, key.to_owned()));
        id
    }

    fn delete(&self, id: RowId) {
        assert!(self.rows.borrow_mut().remove(&id).is_some(), "row {id} ended twice");
        self.held.borrow_mut().remove(&id);
    }

    /// Rows of the same camera, topic and lane that should have gone before `id`.
    fn passed_over(&self, queues: &Queues, topic: Topic, key: &str, id: RowId) -> Vec<RowId> {
        let lane = queues.lane_of(key, id);
        let (rows, held) = (self.rows.borrow(), self.held.borrow());
        let before = rows.range(..id).filter(|(_, (of, whose))| *of == topic && whose == key);
        let waits = |id: &&RowId| !held.contains(id) && queues.lane_of(key, **id) == lane;
        before.map(|(id, _)| id).filter(waits).copied().collect()
    }
}

/// The same numbers at each run of a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

const CAMERAS: [&str; 4] = ["gate/a", "gate/b", "gate/c", "gate/d"];

struct World {
    table: Table,
    queues: Queues,
    sent: Vec<(Topic, String, RowId)>,
    away: BTreeSet<usize>,
    dice: Dice,
    ended: usize,
    now: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let (mut dice, table) = (Dice(seed), Table::default());
        table.next_id.set(1);
        for _ in 0..dice.roll(2000) {
            let topic = Topic::OF_CAMERAS[dice.roll(2)];
            // Skewed, so that one camera is behind the backlog of others.
            table.commit(topic, CAMERAS[dice.roll(4).min(dice.roll(4))]);
        }
        let queues = Queues::new(4, table.next_id());
        let (sent, away) = (Vec::new(), BTreeSet::new());
        Self { table, queues, sent, away, dice, ended: 0, now: Instant::now() }
    }

    fn has_room<'a>(away: &'a BTreeSet<usize>) -> impl Fn(Queue, &str) -> bool + 'a {
        |_, key| !away.iter().any(|camera| CAMERAS[*camera] == key)
    }

    /// Takes up to `most`; whether nothing was left that could go.
    fn send(&mut self, most: usize) -> bool {
        for _ in 0..most {
            self.queues.begin_turn();
            let has_room = Self::has_room(&self.away);
            let Some((lane, row)) = self.queues.next(&self.table, &has_room, self.now) else {
                if self.queues.is_searching(&has_room, self.now) {
                    continue;
                }
                return true;
            };
            assert!(has_room(Queue { lane, topic: row.topic }, &row.key), "{} is away", row.key);
            assert_eq!(lane, self.queues.lane_of(&row.key, row.id));
            let passed = self.table.passed_over(&self.queues, row.topic, &row.key, row.id);
            assert!(passed.is_empty(), "{passed:?} were passed over by {}", row.id);
            if lane == Lane::Backlog {
                let of = Topic::Observations;
                let passed = self.table.passed_over(&self.queues, of, &row.key, row.id);
                assert!(
                    passed.is_empty(),
                    "observations {passed:?} wait behind picture {}",
                    row.id
                );
            }
            self.sent.push((row.topic, row.key, row.id));
        }
        false
    }

    fn report(&mut self, is_delivered: bool) {
        if self.sent.is_empty() {
            return;
        }
        let (topic, key, id) = self.sent.swap_remove(self.dice.roll(self.sent.len()));
        match is_delivered {
            true => {
                self.table.delete(id);
                self.ended += 1;
            }
            false => self.queues.again(&self.table, topic, &key, id),
        }
    }

    fn evict(&mut self) {
        let held = self.table.held.borrow().clone();
        let ids: Vec<_> = self.table.rows.borrow().keys().copied().collect();
        let free: Vec<_> = ids.into_iter().filter(|id| !held.contains(id)).collect();
        if let Some(id) = free.get(self.dice.roll(free.len().max(1))) {
            self.table.delete(*id);
            self.ended += 1;
        }
    }

    fn outage(&mut self) {
        // Some fail before the link is known to be up again, some after.
        for _ in 0..self.dice.roll(self.sent.len() + 1) {
            self.report(false);
        }
        self.queues.restart(&self.table);
    }

    fn step(&mut self) {
        match self.dice.roll(40) {
            0..=11 => {
                let (topic, camera) = (Topic::OF_CAMERAS[self.dice.roll(2)], self.dice.roll(4));
                (0..=self.dice.roll(8)).for_each(|_| {
                    self.table.commit(topic, CAMERAS[camera]);
                });
                self.queues.more_committed();
            }
            12..=25 => {
                let most = 1 + self.dice.roll(20);
                self.send(most);
            }
            26..=33 => (0..self.dice.roll(12)).for_each(|_| self.report(true)),
            34 => self.report(false),
            35 => self.evict(),
            36 => self.outage(),
            37 => {
                self.away.insert(self.dice.roll(4));
            }
            _ => {
                let camera = self.dice.roll(4);
                if self.away.remove(&camera) && self.dice.roll(2) == 0 {
                    self.queues.restart_camera(CAMERAS[camera], &self.table);
                }
            }
        }
    }
}

#[test]
fn every_row_goes_once_and_in_order_per_camera_and_lane_whatever_happens() {
    let seeds =
        if std::env::var("PICKET_FAULTS").is_ok_and(|form| form == "long") { 2000 } else { 50 };
    for seed in 0..seeds {
        let mut world = World::new(seed);
        (0..400).for_each(|_| world.step());
        world.away.clear();
        while !world.send(usize::MAX) {}
        while !world.sent.is_empty() {
            world.report(true);
        }
        let left = world.table.rows.borrow().len();
        assert_eq!(left, 0, "seed {seed}: {left} rows were forgotten");
        assert_eq!(world.ended as RowId, world.table.next_id() - 1, "seed {seed}");
    }
}

/// Rows of the backlog in the order in which they go, each delivered at once.
fn drained(
    table: &Table,
    queues: &mut Queues,
    has_room: impl Fn(Queue, &str) -> bool,
) -> Vec<String> {
    let (mut keys, now) = (Vec::new(), Instant::now());
    loop {
        queues.begin_turn();
        match queues.next(table, &has_room, now) {
            Some((_, row)) => {
                table.delete(row.id);
                keys.push(row.key);
            }
            None if queues.is_searching(&has_room, now) => {}
            None => return keys,
        }
    }
}

#[test]
fn a_camera_behind_the_huge_backlog_of_another_goes_beside_it() {
    let table = Table::default();
    (0..20_000).for_each(|_| _ = table.commit(Topic::Observations, CAMERAS[0]));
    (0..200).for_each(|_| _ = table.commit(Topic::Observations, CAMERAS[1]));
    let mut queues = Queues::new(4, table.next_id());
    let keys = drained(&table, &mut queues, |_, _| true);
    assert_eq!(keys.len(), 20_200);
    let last = keys.iter().rposition(|key| key == CAMERAS[1]).unwrap();
    // It is found some turns late, one look at the table each; from then on it has half of all.
    assert!(last < 1000, "its last row went as number {last}");
}

#[test]
fn a_camera_that_takes_nothing_holds_up_no_other_however_much_of_it_waits() {
    let table = Table::default();
    (0..20_000).for_each(|_| _ = table.commit(Topic::Observations, CAMERAS[0]));
    (0..200).for_each(|_| _ = table.commit(Topic::Observations, CAMERAS[1]));
    let mut queues = Queues::new(4, table.next_id());
    let keys = drained(&table, &mut queues, |_, key| key != CAMERAS[0]);
    assert_eq!(keys, vec![CAMERAS[1]; 200]);
    // What it captures now is live, and goes also when the first takes part again.
    (0..5).for_each(|_| _ = table.commit(Topic::Observations, CAMERAS[1]));
    queues.more_committed();
    let next = queues.next(&table, |_, _| true, Instant::now()).unwrap();
    assert_eq!((next.0, &*next.1.key), (Lane::Live, CAMERAS[1]));
}

#[test]
fn cameras_that_keep_pace_share_one_pass_over_the_table() {
    let table = Table::default();
    (0..20_000).for_each(|i| _ = table.commit(Topic::Observations, CAMERAS[i % 4]));
    let mut queues = Queues::new(4, table.next_id());
    assert_eq!(drained(&table, &mut queues, |_, _| true).len(), 20_000);
    let looked_at = table.looked_at.get();
    assert!(looked_at < 50_000, "{looked_at} rows were looked at");
}

#[test]
fn the_backlog_has_its_share_of_the_bytes_while_live_waits_and_records_go_before_pictures() {
    let table = Table::default();
    for _ in 0..4000 {
        table.commit(Topic::Frames, CAMERAS[0]);
        table.commit(Topic::Observations, CAMERAS[0]);
    }
    let mut queues = Queues::new(4, table.next_id());
    let (mut bytes, mut topics) = ([0_u64; 2], Vec::new());
    for _ in 0..8000 {
        (0..2).for_each(|_| _ = table.commit(Topic::Frames, CAMERAS[1]));
        queues.more_committed();
        queues.begin_turn();
        let (lane, row) = queues.next(&table, |_, _| true, Instant::now()).unwrap();
        bytes[usize::from(lane == Lane::Backlog)] += row.bytes();
        if lane == Lane::Backlog {
            topics.push(row.topic);
        }
        table.delete(row.id);
    }
    let [live, backlog] = bytes;
    assert!((2..=3).contains(&(live / backlog)), "{live} of live, {backlog} of the backlog");
    assert!(topics.iter().all(|topic| *topic == Topic::Observations), "pictures went before");
}

#[test]
fn while_observations_of_a_backlog_keep_to_a_pace_no_picture_captured_behind_them_goes() {
    let table = Table::default();
    for _ in 0..2000 {
        table.commit(Topic::Observations, CAMERAS[0]);
        table.commit(Topic::Frames, CAMERAS[0]);
    }
    let mut queues = Queues::new(4, table.next_id());
    let (mut observed, mut pictured) = (0, 0);
    for turn in 0..4000 {
        queues.begin_turn();
        let in_time = |queue: Queue, _: &str| queue.topic == Topic::Frames || turn % 2 == 0;
        while let Some((_, row)) = queues.next(&table, in_time, Instant::now()) {
            let is_picture = row.topic == Topic::Frames;
            *(if is_picture { &mut pictured } else { &mut observed }) += 1;
            assert!(pictured <= observed, "picture {pictured} went after {observed} observations");
            table.delete(row.id);
            if !is_picture {
                break;
            }
        }
    }
    assert_eq!((observed, pictured), (2000, 2000));
}

#[test]
fn a_look_that_is_cut_short_is_not_the_end_of_its_queue() {
    let table = Table::default();
    for _ in 0..20 {
        table.commit(Topic::Observations, CAMERAS[0]);
    }
    for live_from in [0, 100] {
        table.held.borrow_mut().clear();
        table.unreadable_once.set(Some(8));
        let mut queues = Queues::new(4, live_from);
        let mut sent = Vec::new();
        for _ in 0..5 {
            queues.begin_turn();
            while let Some((_, row)) = queues.next(&table, |_, _| true, Instant::now()) {
                sent.push(row.id);
            }
        }
        assert_eq!(sent, (1..=20).collect::<Vec<_>>(), "live from {live_from}");
    }
}
