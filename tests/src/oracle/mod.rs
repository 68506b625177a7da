//! The conservation oracle: what became of every `seq`, asked of MongoDB and of the spool's file,
//! not of Picket's own counters.

mod account;
mod tracks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use object_store::ObjectStore;

pub use account::Account;
pub use tracks::wrong_tracks;

use crate::fleet::Agent;

/// One epoch of one camera: `<device>/<camera>/<epoch>-<instance>`.
pub type CameraEpoch = String;

/// Everything the oracle knows.
#[derive(Debug, Default)]
pub struct Findings {
    /// By camera epoch.
    pub accounts: BTreeMap<CameraEpoch, Account>,
    /// What contradicts the promise, in words.
    pub violations: Vec<String>,
    /// Capture to store, milliseconds, sorted.
    pub latencies_ms: Vec<i64>,
}

impl Findings {
    /// A latency percentile in milliseconds.
    pub fn latency_ms(&self, percentile: f64) -> Option<i64> {
        let last = self.latencies_ms.len().checked_sub(1)?;
        self.latencies_ms.get((last as f64 * percentile / 100.0).round() as usize).copied()
    }

    /// The accounts of one device, by camera and epoch.
    pub fn of<'a>(
        &'a self,
        agent: &Agent,
    ) -> impl Iterator<Item = (&'a CameraEpoch, &'a Account)> + use<'a> {
        let prefix = agent.prefix();
        self.accounts.iter().filter(move |(epoch, _)| epoch.starts_with(&prefix))
    }

    fn account(&mut self, epoch: &str) -> &mut Account {
        self.accounts.entry(epoch.to_owned()).or_default()
    }
}

/// Asks MongoDB what it has of these devices, and their spools.
pub async fn ask(
    database: &Database,
    devices: &[&str],
    spools: &[PathBuf],
    pictures: &dyn ObjectStore,
) -> Result<Findings> {
    let mut findings = Findings::default();
    let own = doc! { "device": { "$in": devices } };
    read_log_documents(database, &own, &mut findings).await?;
    read_ledger(database, &own, &mut findings).await?;
    read_pictures(database, &own, pictures, &mut findings).await?;
    for spool in spools {
        read_spool(spool, &mut findings).with_context(|| format!("spool {}", spool.display()))?;
    }
    judge(&mut findings);
    findings.latencies_ms.sort_unstable();
    Ok(findings)
}

async fn read_log_documents(
    database: &Database,
    own: &Document,
    findings: &mut Findings,
) -> Result<()> {
    let mut cursor = database.collection::<Document>("observations").find(own.clone()).await?;
    while let Some(document) = cursor.try_next().await? {
        let id = document.get_str("_id")?.to_owned();
        let (epoch, seq_text) = id.rsplit_once('/').context("an id without /")?;
        let kind = document.get_str("kind")?;
        let run = |name: &str| -> Result<u64> { Ok(document.get_i64(name)? as u64) };
        match kind {
            "observation" => {
                let seq: u64 = seq_text.parse().with_context(|| format!("seq of {id}"))?;
                if let Ok(captured) = document.get_datetime("captured_at") {
                    let stored = document.get_document("ingest")?.get_datetime("stored_at")?;
                    let latency = stored.timestamp_millis() - captured.timestamp_millis();
                    findings.latencies_ms.push(latency);
                }
                let fate = document.get_str("frame")?;
                let (published, withheld) = (fate == "published", fate == "withheld");
                let account = findings.account(epoch);
                account.stored.insert(seq);
                account.last_seq = account.last_seq.max(seq);
                if published {
                    account.pictures_due.insert(seq);
                }
                if withheld {
                    account.pictures_withheld.insert(seq);
                }
            }
            "skip" => findings.account(epoch).skip(run("first")?, run("last")?),
            "gap" => read_gap(&document, epoch, findings)?,
            "epoch" => read_previous_epoch(&document, epoch, findings)?,
            "clock" | "certificate" => {}
            other => findings.violations.push(format!("{id} has the unknown kind {other}")),
        }
    }
    Ok(())
}

fn read_gap(document: &Document, epoch: &str, findings: &mut Findings) -> Result<()> {
    let number = |name: &str| -> Result<u64> { Ok(document.get_i64(name)? as u64) };
    let (first, last, count) = (number("first")?, number("last")?, number("count")?);
    let span = (last + 1).saturating_sub(first);
    let of = document.get_str("of")?;
    if of == "observations" && count != span || of == "frames" && count > span {
        let id = document.get_str("_id")?;
        findings
            .violations
            .push(format!("{id} counts {count} of the {span} from {first} to {last}"));
    }
    let account = findings.account(epoch);
    match of {
        "crops" => {}
        "frames" => {
            account.last_seq = account.last_seq.max(last);
            account.picture_gaps.push((first, last, count));
        }
        _ => account.lose(first, last, document.get_str("reason")?),
    }
    Ok(())
}

/// An epoch record says how many numbers its predecessor had given out: each of them must be known.
fn read_previous_epoch(document: &Document, epoch: &str, findings: &mut Findings) -> Result<()> {
    let Some(previous) = document.get("previous").and_then(|previous| previous.as_document())
    else {
        return Ok(());
    };
    let (camera, _) = epoch.rsplit_once('/').context("an epoch without a camera")?;
    let reserved = previous.get_i64("reserved")? as u64;
    let account = findings.account(&format!("{camera}/{}", previous.get_str("epoch")?));
    account.last_seq = account.last_seq.max(reserved);
    account.ended_at = Some((previous.get_i64("last_committed")? as u64, reserved));
    Ok(())
}

/// How many observations the centre says that it stored: a document cannot be there twice, but can be
/// counted twice.
async fn read_ledger(database: &Database, own: &Document, findings: &mut Findings) -> Result<()> {
    let mut cursor = database.collection::<Document>("ledger").find(own.clone()).await?;
    while let Some(document) = cursor.try_next().await? {
        let stored = document.get_document("accounts")?.get_i64("stored")?;
        findings.account(document.get_str("_id")?).counted_stored = stored as u64;
    }
    Ok(())
}

async fn read_pictures(
    database: &Database,
    own: &Document,
    pictures: &dyn ObjectStore,
    findings: &mut Findings,
) -> Result<()> {
    let frames = database.collection::<Document>("frames");
    let documents: Vec<_> = frames.find(own.clone()).await?.try_collect().await?;
    // Afterwards: a picture is there before its document.
    let listed: Vec<_> = pictures.list(None).try_collect().await?;
    let sizes: BTreeMap<_, _> =
        listed.into_iter().map(|picture| (picture.location.to_string(), picture.size)).collect();
    for document in documents {
        let id = document.get_str("observation")?;
        let bytes = sizes.get(document.get_str("path")?).copied().unwrap_or_default();
        if bytes as i64 != document.get_i64("bytes")? {
            findings.violations.push(format!("{id}: its picture has {bytes} bytes in the store"));
        }
        let (epoch, seq) = id.rsplit_once('/').context("an id without /")?;
        let seq: u64 = seq.parse()?;
        let account = findings.account(epoch);
        match document.get_str("kind")? {
            "crop" => _ = account.crops_stored.insert(seq),
            _ => _ = account.pictures_stored.insert(seq),
        }
    }
    Ok(())
}

fn judge(findings: &mut Findings) {
    let mut violations = Vec::new();
    for (epoch, account) in &findings.accounts {
        let missing = account.missing();
        if !missing.is_empty() {
            violations.push(format!("{epoch}: nobody knows of seq {missing:?}"));
        }
        let missing = account.missing_pictures();
        if !missing.is_empty() {
            violations.push(format!("{epoch}: nobody knows of the pictures of seq {missing:?}"));
        }
        let unwanted = account.unwanted_pictures();
        if !unwanted.is_empty() {
            violations.push(format!("{epoch}: the withheld pictures of seq {unwanted:?} came"));
        }
        let crops = account.crops_of_nothing();
        if !crops.is_empty() {
            violations.push(format!("{epoch}: there are crops of seq {crops:?}, not looked at"));
        }
        let (counted, stored) = (account.counted_stored, account.stored.len() as u64);
        if counted != stored {
            violations.push(format!("{epoch}: {stored} are stored, and {counted} counted"));
        }
        let twice = account.settled_twice();
        if !twice.is_empty() {
            violations.push(format!("{epoch}: seq {twice:?} are settled twice"));
        }
        violations.extend(account.wrong_crashes().iter().map(|said| format!("{epoch}: {said}")));
    }
    findings.violations.extend(violations);
}

/// Opens a spool's file for reading, whether its agent runs or not.
pub fn open_spool(path: &Path) -> Result<rusqlite::Connection> {
    let flags =
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    rusqlite::Connection::open_with_flags(path, flags)
        .with_context(|| format!("open {}", path.display()))
}

/// Reads the spool's file as any SQLite tool would; the layout is documented in the agent's `spool`.
fn read_spool(path: &Path, findings: &mut Findings) -> Result<()> {
    let spool = open_spool(path)?;
    let waiting = "SELECT key, epoch, first, last, kind,
            CASE WHEN batch_key IS NULL THEN value ->> 'of' END,
            CASE WHEN batch_key IS NULL THEN value ->> 'count' END
        FROM records WHERE batch_key IS NOT NULL OR json_valid(value)
        UNION ALL SELECT key, epoch, first, last, kind, NULL, NULL FROM pictures";
    let mut rows = spool.prepare(waiting)?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (key, epoch): (String, String) = (row.get(0)?, row.get(1)?);
        let (first, last): (u64, u64) = (row.get(2)?, row.get(3)?);
        let (kind, of): (String, Option<String>) = (row.get(4)?, row.get(5)?);
        let account = findings.account(&format!("{key}/{epoch}"));
        match (kind.as_str(), of.as_deref()) {
            ("frame", _) => account.pictures_spooled.extend(first..=last),
            ("crop", _) | ("gap", Some("crops")) => {}
            ("gap", Some("frames")) => {
                account.picture_gaps.push((first, last, row.get(6)?));
            }
            ("observation" | "skip" | "gap", _) => {
                account.spooled.extend(first..=last);
                account.last_seq = account.last_seq.max(last);
            }
            _ => {}
        }
    }
    let mut accounts = spool.prepare("SELECT key, epoch, last_committed FROM accounts")?;
    let mut accounts = accounts.query([])?;
    while let Some(row) = accounts.next()? {
        let (key, epoch): (String, String) = (row.get(0)?, row.get(1)?);
        let account = findings.account(&format!("{key}/{epoch}"));
        account.last_seq = account.last_seq.max(row.get(2)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::account::MOST_BY_A_CRASH;
    use super::*;

    fn whole() -> Findings {
        let account = Account {
            last_seq: 5,
            stored: [1, 2].into(),
            counted_stored: 2,
            skipped: [3].into(),
            dropped: [(4, "crash".to_owned())].into(),
            crash_gaps: vec![(4, 4)],
            ended_at: Some((3, 4)),
            spooled: [5].into(),
            pictures_due: [1, 2].into(),
            pictures_stored: [1].into(),
            picture_gaps: vec![(1, 2, 1)],
            ..Account::default()
        };
        Findings {
            accounts: [("gate/front/1-00000000".to_owned(), account)].into(),
            ..Findings::default()
        }
    }

    fn violations(change: impl FnOnce(&mut Account)) -> usize {
        let mut findings = whole();
        if let Some(account) = findings.accounts.values_mut().next() {
            change(account);
        }
        judge(&mut findings);
        findings.violations.len()
    }

    #[test]
    fn whole_books_have_no_violation() {
        assert_eq!(violations(|_| {}), 0);
    }

    #[test]
    fn any_one_loss_is_seen() {
        assert_eq!(violations(|a| a.stored.retain(|seq| *seq != 2)), 2, "nowhere, and counted");
        assert_eq!(violations(|a| a.skipped.clear()), 1);
        assert_eq!(violations(|a| a.dropped.clear()), 1);
        assert_eq!(violations(|a| a.spooled.clear()), 1);
        assert_eq!(violations(|a| a.last_seq = 6), 1);
        assert_eq!(violations(|a| a.pictures_stored.clear()), 1);
        assert_eq!(violations(|a| a.picture_gaps.clear()), 1);
    }

    #[test]
    fn a_crash_may_take_the_picture_of_what_was_sent_before_it_was_kept_and_no_other() {
        let lost = |committed| {
            move |a: &mut Account| {
                a.ended_at = Some((committed, 4));
                a.stored.insert(4);
                (a.counted_stored, a.pictures_due) = (3, [1, 2, 4].into());
                a.dropped.clear();
                a.crash_gaps.clear();
            }
        };
        assert_eq!(violations(lost(3)), 0);
        assert_eq!(violations(lost(4)), 1, "4 was committed");
    }

    #[test]
    fn an_observation_that_is_counted_twice_or_never_is_seen() {
        assert_eq!(violations(|a| a.counted_stored = 3), 1);
        assert_eq!(violations(|a| a.counted_stored = 1), 1);
    }

    #[test]
    fn a_picture_that_was_to_be_withheld_is_seen() {
        assert_eq!(violations(|a| a.pictures_withheld.extend([1])), 1);
    }

    #[test]
    fn a_crop_of_a_frame_that_nobody_looked_at_is_seen() {
        assert_eq!(violations(|a| a.crops_stored.extend([1, 4, 5])), 0);
        assert_eq!(violations(|a| a.crops_stored.extend([3])), 1, "it was skipped");
        assert_eq!(violations(|a| a.crops_stored.extend([6])), 1, "nobody knows of it");
    }

    #[test]
    fn a_seq_in_two_places_is_seen() {
        assert_eq!(violations(|a| a.skipped.extend([1])), 1);
        assert_eq!(violations(|a| a.dropped.extend([(3, "spool-full".to_owned())])), 1);
        assert_eq!(violations(|a| a.skip(3, 3)), 1);
        assert_eq!(violations(|a| a.lose(4, 4, "paused")), 1);
    }

    #[test]
    fn a_crash_that_took_what_was_committed_or_never_reserved_is_seen() {
        assert_eq!(violations(|a| a.ended_at = Some((4, 4))), 1, "4 was committed");
        assert_eq!(violations(|a| a.ended_at = Some((3, 3))), 1, "4 was never reserved");
        assert_eq!(violations(|a| a.ended_at = None), 1, "no later epoch tells of it");
        let many = 4 + MOST_BY_A_CRASH;
        assert_eq!(violations(|a| a.ended_at = Some((3, many))), 1, "{many} is beyond the bound");
    }
}
