//! Generated sequences of all that can happen to a spool, against the ledger as its model.
//!
//! A seed gives the same sequence on every machine, but not the same moment of the writer's thread: a
//! seed that fails once in a while is a real failure, and belongs into `model.seeds`.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use picket_edge_agent::spool::{Outcome, Settings, Spooled};
use picket_faulty_disk::{Call, Failure, Fault, FaultyDisk, File, Keep, PowerCut, Random};
use picket_wire::Topic;
use picket_wire::observation::Reason;
use tempfile::TempDir;

use crate::agent::{TestClock, cameras};
use crate::ledger::Ledger;
use crate::player::Player;
use crate::{encrypted, long, scratch};

const SEEDS: &str = include_str!("model.seeds");
const ACTIONS: usize = 80;

/// What can happen.
#[derive(Debug, Clone, Copy)]
enum Action {
    Capture {
        camera: usize,
        picture: Option<usize>,
    },
    Skip {
        camera: usize,
        count: u64,
    },
    Flush,
    Lease(Topic),
    Acknowledge,
    Refuse,
    GiveBack,
    /// The process is killed; the kernel keeps what it was given.
    Kill,
    /// The power goes.
    PowerCut(Keep),
    Restart,
    FillDisk,
    FreeDisk,
    FailSync,
    JumpClock {
        hours: i64,
    },
}

impl Action {
    fn draw(random: &mut Random) -> Self {
        let camera = random.below(2);
        let topic = if random.coin() { Topic::Observations } else { Topic::Frames };
        match random.below(40) {
            0..=9 => Self::Capture { camera, picture: picture(random) },
            10..=12 => Self::Skip { camera, count: 1 + random.below(30) as u64 },
            13..=17 => Self::Flush,
            18..=21 => Self::Lease(topic),
            22..=25 => Self::Acknowledge,
            26 => Self::Refuse,
            27..=28 => Self::GiveBack,
            29 => Self::Kill,
            30..=31 => Self::PowerCut(Keep::ALL[random.below(Keep::ALL.len())]),
            32 => Self::Restart,
            33 => Self::FillDisk,
            34..=36 => Self::FreeDisk,
            37 => Self::FailSync,
            _ => Self::JumpClock { hours: random.below(49) as i64 - 24 },
        }
    }
}

/// Mostly small ones; some that fill the spool soon.
fn picture(random: &mut Random) -> Option<usize> {
    match random.below(8) {
        0..=2 => None,
        3..=5 => Some(1 + random.below(20_000)),
        6 => Some(random.below(200_000)),
        _ => Some(600_000 + random.below(300_000)),
    }
}

/// Of every second seed the spool is encrypted.
fn settings(seed: u64) -> Settings {
    let settings = Settings {
        max_bytes: 16 * 1024 * 1024,
        checkpoint_bytes: 256 * 1024,
        commit_bytes: 100_000,
        max_pending_bytes: 300_000,
        ..Settings::default()
    };
    if seed % 2 == 1 { encrypted(settings) } else { settings }
}

/// A spool under test, from one crash to the next.
struct Subject {
    dir: TempDir,
    settings: Settings,
    clock: Arc<TestClock>,
    player: Player,
    held: Vec<Spooled>,
    full: bool,
}

impl Subject {
    fn start(
        dir: TempDir,
        settings: Settings,
        clock: Arc<TestClock>,
        ledger: Ledger,
        context: &str,
    ) -> Self {
        let disk = FaultyDisk::under(dir.path());
        disk.record();
        let promised = ledger.promised(usize::MAX);
        let player = Player::start(dir.path(), &settings, clock.clone(), disk, ledger);
        promised.judge(&player.agent, context);
        Self { dir, settings, clock, player, held: Vec::new(), full: false }
    }

    fn take(mut self, action: Action, random: &mut Random, context: &str) -> Self {
        match action {
            Action::Capture { camera, picture } => {
                self.player.capture(&cameras()[camera], picture);
            }
            Action::Skip { camera, count } => {
                self.player.skip(&cameras()[camera], count);
            }
            // A full disk does not let it come back.
            Action::Flush if self.full => {}
            Action::Flush => self.player.flush(),
            Action::Lease(topic) => {
                let rows = self.player.take(topic);
                self.held.extend(rows);
            }
            Action::Acknowledge => self.settle(&Outcome::Acknowledged, random),
            Action::Refuse => {
                self.settle(&Outcome::Refused(Reason::REFUSED_BY_BROKER.into()), random)
            }
            Action::GiveBack => {
                let rows = self.some_held(random);
                self.player.give_back(&rows);
            }
            Action::Kill => return self.crash(Keep::Everything, random, context),
            Action::PowerCut(keep) => return self.crash(keep, random, context),
            Action::Restart => return self.restart(context),
            Action::FillDisk => {
                self.player.disk.fail(Fault::every(Call::Write, File::Any, Failure::Full));
                self.full = true;
            }
            Action::FreeDisk => {
                self.player.disk.mend();
                self.full = false;
            }
            Action::FailSync if self.full => {}
            Action::FailSync => {
                let fault = Fault::every(Call::Sync, File::Any, Failure::Io);
                self.player.disk.fail(Fault { times: Some(1), ..fault });
            }
            Action::JumpClock { hours } => {
                self.clock.jump(hours * 3_600_000_000);
                if self.settings.encryption.is_some() {
                    // Time for another key, and to look which ones are needless.
                    self.clock.pass(3_600_000_000);
                }
            }
        }
        for (camera, books) in self.player.agent.spool.ledger().all() {
            assert!(books.balanced(), "{context}: {camera}: {books:?}");
        }
        self
    }

    fn some_held(&mut self, random: &mut Random) -> Vec<Spooled> {
        let count = random.below(self.held.len() + 1);
        self.held.drain(..count).collect()
    }

    fn settle(&mut self, outcome: &Outcome, random: &mut Random) {
        let rows = self.some_held(random);
        self.player.settle(&rows, outcome);
    }

    fn crash(self, keep: Keep, random: &mut Random, context: &str) -> Self {
        let Self { dir, settings, clock, player, .. } = self;
        let (steps, mut ledger) = (player.disk.steps(), player.ledger.clone());
        ledger.crashed();
        let again = scratch();
        let mut cut = PowerCut::new(&steps);
        cut.advance_to(steps.len());
        cut.write_to(again.path(), keep, random);
        // The old one only has to end; what it still does in its folder counts no more.
        player.disk.mend();
        player.finish();
        drop(dir);
        Self::start(again, settings, clock, ledger, context)
    }

    fn restart(self, context: &str) -> Self {
        let Self { dir, settings, clock, player, .. } = self;
        player.disk.mend();
        let (disk, ledger) = player.finish();
        drop(disk);
        Self::start(dir, settings, clock, ledger, context)
    }
}

fn play(seed: u64) {
    let mut random = Random::new(seed);
    let (clock, ledger) = (TestClock::set(), Ledger::default());
    let context = format!("seed {seed}");
    let mut subject = Subject::start(scratch(), settings(seed), clock, ledger, &context);
    for n in 0..ACTIONS {
        let action = Action::draw(&mut random);
        let context = format!("seed {seed}, action {n}: {action:?}");
        subject = subject.take(action, &mut random, &context);
    }
    subject.restart(&format!("seed {seed}, at the end"));
}

/// The seeds that once failed.
fn kept_seeds() -> Vec<u64> {
    let lines = SEEDS.lines().map(|line| line.split('#').next().unwrap().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect()
}

#[test]
fn whatever_happens_to_a_spool_it_keeps_what_it_promised() {
    let fixed = kept_seeds().into_iter().chain(0..if long() { 500 } else { 16 });
    // The long form also plays what nobody has played before.
    let first = RandomState::new().hash_one("model");
    let drawn = (0..if long() { 500 } else { 0 }).map(|n| first.wrapping_add(n));
    for seed in fixed.chain(drawn) {
        // The seed of a failure that is no assertion of ours must be seen too.
        eprintln!("model: seed {seed}");
        play(seed);
    }
}
