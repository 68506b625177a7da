//! Up or down, and why, in words. Pure: time comes in.

use std::time::{Duration, Instant};

use picket_wire::{Topic, TopicNames};
use rdkafka::types::RDKafkaErrorCode as Code;

use picket_wire::observation::Reason;

const FIRST_HOLD: Duration = Duration::from_millis(500);
const LAST_HOLD: Duration = Duration::from_secs(30);
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// What a failed delivery asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same again.
    Retry,
    /// Nothing on this topic goes until a person has acted; tried again with back-off.
    Problem(String),
    /// This message will never be taken.
    Refused(Reason),
}

/// What to do about a delivery that failed with `code`.
pub fn judge(code: Code, topic: Topic, names: &TopicNames) -> Verdict {
    let name = names.name(topic);
    match code {
        Code::MessageSizeTooLarge => Verdict::Refused(Reason::TOO_LARGE.into()),
        Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::PolicyViolation
        | Code::InvalidTimestamp => Verdict::Refused(Reason::REFUSED_BY_BROKER.into()),
        Code::TopicAuthorizationFailed => Verdict::Problem(format!(
            "the broker does not let this device write to the topic {name}: give its principal the \
             right (picket-aggregator topics create sets the rights of devices)"
        )),
        Code::ClusterAuthorizationFailed => Verdict::Problem(
            "the broker does not let this device produce: its principal lacks the right to write \
             to Picket's topics"
                .to_owned(),
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            Verdict::Problem(format!(
                "the topic {name} does not exist on the broker: make it with picket-aggregator \
                 topics create, or correct uplink.topic_prefix"
            ))
        }
        _ => Verdict::Retry,
    }
}

/// What librdkafka says, with what it means put before it. It knows no passwords to tell.
pub fn explain(said: &str) -> String {
    const MEANINGS: [(&[&str], &str); 12] = [
        (
            &["SASL authentication error", "Authentication failed during"],
            "the broker does not accept the user name or the password: see uplink.sasl",
        ),
        (
            &["mechanism handshake failed"],
            "the broker does not know the mechanism in uplink.sasl.mechanism",
        ),
        (
            &["alert certificate expired", "certificate expired"],
            "the broker says that this device's certificate has expired",
        ),
        (&["certificate has expired"], "the broker's certificate has expired"),
        (
            &["hostname mismatch", "IP address mismatch", "verify failed: broker certificate name"],
            "the broker's certificate is for another host name than the one in uplink.brokers",
        ),
        (
            &["certificate verify failed", "self-signed certificate", "self signed certificate"],
            "the broker's certificate does not verify: the CA in uplink.ca_file did not sign it, or \
             it is for another host name than the one in uplink.brokers",
        ),
        (
            &["unknown ca", "bad certificate", "alert certificate unknown"],
            "the broker does not accept this device's certificate: another CA signed it",
        ),
        (
            &["certificate required", "handshake failure"],
            "the broker demands a client certificate: set uplink.certificate_file and key_file",
        ),
        (
            &["Connection refused"],
            "the broker refuses the connection: is it running, and is the port right?",
        ),
        (&["Failed to resolve"], "the broker's name cannot be resolved"),
        (
            &["ApiVersionRequest failed", "incorrect security.protocol", "wrong version number"],
            "what answers does not speak the expected protocol: TLS against plaintext?",
        ),
        (&["timed out", "timeout"], "the broker does not answer in time"),
    ];
    let matches = |(texts, _): &&(&[&str], &str)| texts.iter().any(|text| said.contains(text));
    match MEANINGS.iter().find(matches) {
        Some((_, meaning)) => format!("{meaning} ({said})"),
        None => said.to_owned(),
    }
}

/// State of the link.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nothing was acknowledged yet, and nothing has gone wrong.
    Connecting,
    Up,
    Down {
        problem: String,
        since: Instant,
        reminded: Instant,
        /// Since when pictures alone are acknowledged.
        pictures_since: Option<Instant>,
    },
}

/// What was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// A record or a heartbeat; or a picture, and no record is on its way.
    Record,
    /// A picture, while records are on their way. They have another producer, and that may still
    /// pause before it connects: what is live would wait for it.
    PictureFirst,
}

/// The link, with its back-off.
#[derive(Debug)]
pub struct Link {
    state: State,
    last_said: Option<String>,
    last_acked: Instant,
    hold_until: Option<Instant>,
    hold: Duration,
    stall: Duration,
}

/// What is to be told of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It works again (or for the first time: no outage).
    Up {
        /// How long it was down.
        outage: Option<Duration>,
    },
    /// It does not work any more.
    Down,
    /// It still does not.
    StillDown,
}

impl Link {
    /// A link of which nothing is known.
    pub fn new(stall: Duration, now: Instant) -> Self {
        Self {
            state: State::Connecting,
            last_said: None,
            last_acked: now,
            hold_until: None,
            hold: FIRST_HOLD,
            stall,
        }
    }

    /// Something was acknowledged. After an outage the link is up once records get through.
    pub fn acked(&mut self, what: Acked, now: Instant) -> Option<Change> {
        self.last_acked = now;
        self.last_said = None;
        self.hold_until = None;
        self.hold = FIRST_HOLD;
        if what == Acked::PictureFirst
            && let State::Down { pictures_since, .. } = &mut self.state
        {
            pictures_since.get_or_insert(now);
            return None;
        }
        self.works(now)
    }

    fn works(&mut self, now: Instant) -> Option<Change> {
        let before = std::mem::replace(&mut self.state, State::Up);
        match before {
            State::Up => None,
            State::Connecting => Some(Change::Up { outage: None }),
            State::Down { since, .. } => Some(Change::Up { outage: Some(now - since) }),
        }
    }

    /// The producer complains; that alone does not mean that the link is down.
    pub fn said(&mut self, text: &str) {
        self.last_said = Some(explain(text));
    }

    /// The producers are others from now on: what was said of the former ones, and the wait that
    /// their failures asked for, say nothing of these.
    pub fn begin_anew(&mut self) {
        (self.last_said, self.hold_until, self.hold) = (None, None, FIRST_HOLD);
    }

    /// The link is down, and why.
    pub fn broke(&mut self, problem: String, now: Instant) -> Option<Change> {
        match &mut self.state {
            State::Down { problem: known, pictures_since, .. } => {
                (*known, *pictures_since) = (problem, None);
                None
            }
            _ => {
                let (since, reminded, pictures_since) = (now, now, None);
                self.state = State::Down { problem, since, reminded, pictures_since };
                Some(Change::Down)
            }
        }
    }

    /// No broker can be reached.
    pub fn all_brokers_down(&mut self, now: Instant) -> Option<Change> {
        let problem = self.last_said.clone();
        self.broke(problem.unwrap_or_else(|| "no broker can be reached".to_owned()), now)
    }

    /// Something failed: waits before the next attempt, longer each time.
    pub fn hold(&mut self, now: Instant) {
        if self.hold_until.is_none_or(|until| until <= now) {
            self.hold_until = Some(now + self.hold);
            self.hold = (self.hold * 2).min(LAST_HOLD);
        }
    }

    /// Time passes; `oldest` is the age of the oldest thing on its way. Where pictures get through and
    /// records do not, even after the pause between two attempts to connect, it is not the link.
    pub fn tick(&mut self, oldest: Option<Duration>, now: Instant) -> Option<Change> {
        let silent = now.saturating_duration_since(self.last_acked).min(oldest.unwrap_or_default());
        if !self.is_down() && silent >= self.stall {
            let problem = self.last_said.clone().unwrap_or_else(|| {
                format!("nothing was acknowledged for {} ms", silent.as_millis())
            });
            return self.broke(problem, now);
        }
        if let State::Down { pictures_since: Some(since), .. } = &self.state
            && now.saturating_duration_since(*since) >= self.stall * 3 / 2
        {
            return self.works(now);
        }
        if let State::Down { reminded, .. } = &mut self.state
            && now.saturating_duration_since(*reminded) >= REMIND_EVERY
        {
            *reminded = now;
            return Some(Change::StillDown);
        }
        None
    }

    /// Whether something may be sent now. While down, one thing at a time tries the way.
    pub fn may_send(&self, window_is_empty: bool, now: Instant) -> bool {
        let held = self.hold_until.is_some_and(|until| now < until);
        !held && (!self.is_down() || window_is_empty)
    }

    /// Whether it is known to be down.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    /// Whether it is known to be up.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// What is wrong.
    pub fn problem(&self) -> Option<&str> {
        match &self.state {
            State::Down { problem, .. } => Some(problem),
            State::Connecting => Some(self.last_said.as_deref().unwrap_or("connecting")),
            State::Up => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(10);

    #[test]
    fn silence_with_something_on_its_way_is_an_outage_and_silence_alone_is_not() {
        let start = Instant::now();
        let mut link = Link::new(STALL, start);
        assert_eq!(link.acked(Acked::Record, start), Some(Change::Up { outage: None }));
        let later = start + Duration::from_secs(100);
        assert_eq!(link.tick(None, later), None);
        assert_eq!(link.tick(Some(Duration::from_secs(2)), later), None);
        assert_eq!(link.tick(Some(STALL), later), Some(Change::Down));
        assert!(!link.may_send(false, later) && link.may_send(true, later));
        let back = later + Duration::from_secs(5);
        let outage = Some(Duration::from_secs(5));
        assert_eq!(link.acked(Acked::Record, back), Some(Change::Up { outage }));
    }

    #[test]
    fn after_an_outage_the_link_is_up_once_records_get_through() {
        let start = Instant::now();
        let down = || {
            let mut link = Link::new(STALL, start);
            assert_eq!(link.broke("gone".to_owned(), start), Some(Change::Down));
            assert_eq!(link.acked(Acked::PictureFirst, start), None);
            link
        };
        let up_after = |seconds| Some(Change::Up { outage: Some(Duration::from_secs(seconds)) });
        let later = start + Duration::from_secs(3);
        assert_eq!(down().acked(Acked::Record, later), up_after(3));
        // Records whose partition is away do not hold up pictures, nor other cameras.
        let (oldest, limit) = (Some(Duration::from_secs(60)), start + STALL * 3 / 2);
        assert_eq!(down().tick(oldest, later), None);
        assert_eq!(down().tick(oldest, limit), up_after(15));
        let mut broken_again = down();
        broken_again.broke("gone again".to_owned(), later);
        assert_eq!(broken_again.tick(oldest, limit), None);
    }

    #[test]
    fn a_slow_link_that_moves_is_not_down() {
        let start = Instant::now();
        let mut link = Link::new(STALL, start);
        let later = start + Duration::from_secs(60);
        link.acked(Acked::Record, later - Duration::from_secs(1));
        assert_eq!(link.tick(Some(Duration::from_secs(55)), later), None);
    }

    #[test]
    fn a_problem_names_the_topic_and_what_to_do() {
        let names = TopicNames::new("site");
        let Verdict::Problem(text) = judge(Code::UnknownTopic, Topic::Frames, &names) else {
            panic!("not a problem")
        };
        assert!(text.contains("site.frames") && text.contains("topics create"), "{text}");
        assert_eq!(judge(Code::NotEnoughReplicas, Topic::Frames, &names), Verdict::Retry);
    }

    #[test]
    fn causes_are_told_apart_in_words() {
        let cases = [
            ("Connect to ipv4#127.0.0.1:1 failed: Connection refused", "is it running"),
            (
                "SSL handshake failed: error:0A000086:certificate verify failed:",
                "uplink.ca_file did not sign",
            ),
            ("SSL handshake failed: ... sslv3 alert certificate expired", "this device's"),
            (
                "SASL authentication error: Authentication failed: Invalid username or password",
                "user name or the password",
            ),
            ("Failed to resolve 'nowhere:9093': Name or service not known", "resolved"),
        ];
        for (said, meaning) in cases {
            assert!(explain(said).contains(meaning), "{said}");
        }
    }

    #[test]
    fn failures_wait_longer_each_time_and_a_success_forgets_them() {
        let now = Instant::now();
        let mut link = Link::new(STALL, now);
        link.hold(now);
        link.hold(now);
        assert!(!link.may_send(true, now + Duration::from_millis(499)));
        let second = now + FIRST_HOLD;
        assert!(link.may_send(true, second));
        link.hold(second);
        assert!(!link.may_send(true, second + FIRST_HOLD));
        link.acked(Acked::Record, second);
        assert!(link.may_send(true, second));
    }
}
