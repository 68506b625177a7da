//! The demo's middle act: the broker is stopped while the camera runs, and started again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use picket_tests::fleet::Agent;
use picket_tests::oracle::open_spool;

use crate::show::{Clock, Next, Show};

const SHOW_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a drain may take before the demo has failed.
const MOST: Duration = Duration::from_secs(120);
/// A spool with no more than this holds what is live.
const LIVE: u64 = 30;

/// What waits in the spool.
#[derive(Debug, Default, Clone, Copy)]
pub struct Waiting {
    pub records: u64,
    pub pictures: u64,
    bytes: u64,
}

impl Waiting {
    fn of(agent: &Agent) -> Result<Self> {
        let totals = "SELECT records, pictures, record_bytes + picture_bytes FROM spool";
        Ok(open_spool(&agent.spool())?.query_row(totals, [], |row| {
            Ok(Self { records: row.get(0)?, pictures: row.get(1)?, bytes: row.get(2)? })
        })?)
    }

    pub fn count(self) -> u64 {
        self.records + self.pictures
    }

    fn describe(self) -> String {
        let Self { records, pictures, bytes } = self;
        let bar = "#".repeat(usize::try_from(self.count() / 40).unwrap_or(usize::MAX).min(40));
        format!("spool: {records} records, {pictures} pictures, {} KiB {bar}", bytes / 1024)
    }
}

/// What happened.
#[derive(Debug)]
pub struct Outage {
    /// From when to when the agent had no broker.
    pub span: (Timestamp, Timestamp),
    /// The most that waited.
    pub peak: Waiting,
    /// From the first record that went to when only what is live was left.
    pub drained_in: Option<Duration>,
}

impl Outage {
    /// Plays it. Who ends the demo meanwhile ends the outage too: what is spooled is sent before the
    /// agent ends.
    pub async fn play(show: &mut Show, lasting: Duration) -> Result<(Self, Next)> {
        show.clock.say(&format!(
            "the broker is stopped for {} s, as if the network were gone; the camera runs on",
            lasting.as_secs()
        ));
        show.fleet.stack.stop_kafka().await?;
        let began = Timestamp::now();
        let mut next = Self::fill(show, lasting).await?;
        show.clock.say("the broker is started again");
        let (clock, agent) = (show.clock, &show.agent);
        tokio::select! {
            started = show.fleet.stack.start_kafka() => started?,
            never = tell(clock, agent) => never?,
        }
        let mut outage = Self {
            span: (began, Timestamp::now()),
            peak: Waiting::of(&show.agent)?,
            drained_in: None,
        };
        if next == Next::GoOn {
            next = outage.drain(show).await?;
        }
        Ok((outage, next))
    }

    async fn fill(show: &mut Show, lasting: Duration) -> Result<Next> {
        let until = Instant::now() + lasting;
        while Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep(SHOW_EVERY) => {}
                () = show.shutdown.asked() => return Ok(Next::End),
            }
            show.expect_running()?;
            show.clock.say(&no_broker(&show.agent)?);
        }
        Ok(Next::GoOn)
    }

    async fn drain(&mut self, show: &mut Show) -> Result<Next> {
        let (limit, mut shown) = (Instant::now() + MOST, Instant::now());
        let mut began = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = show.shutdown.asked() => return Ok(Next::End),
            }
            if show.has_read_everything()? {
                return Ok(Next::End);
            }
            show.expect_running()?;
            let waiting = Waiting::of(&show.agent)?;
            if waiting.count() >= self.peak.count() {
                self.peak = waiting;
            } else if began.is_none() {
                began = Some(Instant::now());
                self.span.1 = Timestamp::now();
                show.clock.say("the agent has the broker again: the spool drains");
            }
            if let Some(began) = began
                && waiting.count() <= LIVE.max(self.peak.count() / 20)
            {
                self.drained_in = Some(began.elapsed() + LOOK_EVERY);
                show.clock.say(&format!("drained     {}", waiting.describe()));
                show.clock.say("the broker has it all; the centre follows within some seconds");
                return Ok(Next::GoOn);
            }
            if shown.elapsed() >= SHOW_EVERY {
                shown = Instant::now();
                let state = if began.is_some() { "drains   " } else { "connecting" };
                show.clock.say(&format!("{state:<11} {}", waiting.describe()));
            }
            if Instant::now() >= limit {
                bail!("the spool does not drain: {}", waiting.describe());
            }
        }
    }
}

/// Shows the spool fill, for as long as it is let.
async fn tell(clock: Clock, agent: &Agent) -> Result<()> {
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        clock.say(&no_broker(agent)?);
    }
}

fn no_broker(agent: &Agent) -> Result<String> {
    Ok(format!("no broker   {}", Waiting::of(agent)?.describe()))
}
