//! The files with which the centre shows who it is, as others renew them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use picket_service::certificate::Validity;
use picket_service::logging::chain;
use picket_service::renewed::{self, Digest, Look, Unreadable, Watch};
use picket_wire::Topic;
use picket_wire::TopicNames;
use rdkafka::admin::AdminClient;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::types::RDKafkaErrorCode;
use x509_parser::time::ASN1Time;

use super::kafka::{self, ClientError, ClientLog};
use super::settings::{Connection, Settings};
use crate::metrics as names;

/// How often it is asked whether it is time to look at the files.
const TICK: Duration = Duration::from_secs(1);
/// How long a broker may take to let the centre in with new files.
const TRIAL: Duration = Duration::from_secs(10);
/// Before files that no broker took are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(15);

/// Watches the files of the connection.
pub struct Renewal {
    connection: Arc<Connection>,
    topics: TopicNames,
    watch: Watch,
    turned_away: Option<(Digest, Instant)>,
    problem: Option<String>,
    /// Of the certificate in use.
    validity: Option<Validity>,
}

impl Renewal {
    /// The files as they are now are those in use.
    pub fn new(settings: &Settings) -> Result<Self, Unreadable> {
        let connection = Arc::new(settings.connection());
        let watch = Watch::new(digest(&connection)?, Instant::now());
        let (topics, validity) = (settings.topics(), validity(&connection));
        Ok(Self { connection, topics, watch, turned_away: None, problem: None, validity })
    }

    /// Returns when the files have changed, and a broker lets the centre in with them. Files that are
    /// no good are said once, and those in use stay in use.
    pub async fn changed(&mut self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let now = Instant::now();
            self.show_days_left();
            let problem = match self.watch.look(now, || digest(&self.connection)) {
                Look::Nothing => continue,
                Look::Back => None,
                Look::Unreadable(error) => Some(chain(&error)),
                Look::Changed(seen) => {
                    let soon = |at: Instant| now.saturating_duration_since(at) < TRY_AGAIN;
                    if self.turned_away.is_some_and(|(of, at)| of == seen && soon(at)) {
                        continue;
                    }
                    match self.try_out(seen).await {
                        Ok(true) => return self.take_up(seen),
                        // They were changed again meanwhile.
                        Ok(false) => continue,
                        Err(problem) => {
                            self.turned_away = Some((seen, Instant::now()));
                            Some(problem)
                        }
                    }
                }
            };
            self.say(problem);
        }
    }

    fn take_up(&mut self, seen: Digest) {
        self.watch.uses(seen);
        self.turned_away = None;
        self.say(None);
        self.validity = validity(&self.connection);
        counter!(names::RENEWALS).increment(1);
        tracing::warn!(
            "the files of the section consume have changed: the group is joined anew with them"
        );
    }

    /// Whether a broker lets the centre in with the files as they are now, and why not.
    async fn try_out(&self, seen: Digest) -> Result<bool, String> {
        let (connection, topic) = (self.connection.clone(), self.topics.name(Topic::Observations));
        // Ends with this future: whoever does not wait any more does not keep a thread either.
        let over = Arc::new(AtomicBool::new(false));
        let _end = EndOnDrop(over.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let made = kafka::client(&connection, "picket-renewal")
                .and_then(|config| Ok(config.create_with_context(ClientLog)?));
            let client: AdminClient<ClientLog> =
                made.map_err(|error: ClientError| chain(&error))?;
            if digest(&connection).ok() != Some(seen) {
                return Ok(false);
            }
            let until = Instant::now() + TRIAL;
            let is_over = || Instant::now() >= until || over.load(Ordering::Relaxed);
            loop {
                match client.inner().fetch_metadata(Some(&topic), TICK) {
                    Ok(answer) if !has_no_right(&answer, &topic) => return Ok(true),
                    Ok(_) => {
                        return Err(format!("they have no right on the topic {topic}"));
                    }
                    Err(error) if is_over() => {
                        let why = "no broker lets this aggregator in with them";
                        return Err(format!("{why}: {error}; the lines before this one say more"));
                    }
                    Err(_) => {}
                }
            }
        });
        asked.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// They pass also while nobody renews it.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    fn show_days_left(&self) {
        if let Some(validity) = &self.validity {
            let days = validity.days_left(ASN1Time::now());
            gauge!(names::CERTIFICATE_DAYS_LEFT).set(days as f64);
        }
    }

    fn say(&mut self, problem: Option<String>) {
        if problem == self.problem {
            return;
        }
        gauge!(names::FILES_REFUSED).set(if problem.is_some() { 1.0 } else { 0.0 });
        match &problem {
            Some(problem) => tracing::warn!(
                "the files of the section consume have changed and cannot be taken up, the former \
                 ones stay in use: {problem}"
            ),
            None => {
                tracing::warn!("nothing is wrong with the files of the section consume any more")
            }
        }
        self.problem = problem;
    }
}

struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn digest(connection: &Connection) -> Result<Digest, Unreadable> {
    renewed::digest(connection.files(), |_, _, _| Ok(()))
}

fn has_no_right(answer: &Metadata, topic: &str) -> bool {
    let found = answer.topics().iter().find(|found| found.name() == topic);
    let error = found.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
    error == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

/// Of the certificate on disk.
fn validity(connection: &Connection) -> Option<Validity> {
    let path = connection.certificate_file.as_ref()?;
    Validity::of_pem(&renewed::read("consume.certificate_file", path).ok()?)
}
