//! Certificates and passwords that are renewed, expire or are wrong, on the real broker: said in
//! words, taken up without a restart, and the books hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is a failed test"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use picket_pki::{Authority, IssueOptions, Role};
use picket_tests::faults::{
    Bench, LIMIT, end, nothing_is_lost, on_bench, short_or_long, stored, ten_a_second,
    wait_for_drained, wait_for_log, wait_for_spooled, wait_for_stored,
};
use picket_tests::fleet::Agent;
use picket_tests::process::until;
use picket_tests::proxy::Fault;
use picket_tests::stack::PLAIN_USER;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};

const TAKEN_UP: &str = "have changed, and are taken up";
const NOT_TAKEN_UP: &str = "cannot be taken up";

/// What an agent shows and trusts, in a folder of its own behind a link.
struct Identity {
    dir: PathBuf,
    pki: PathBuf,
    device: String,
    versions: u32,
}

impl Identity {
    /// Gives an agent that does not run yet a copy of its files.
    fn of(bench: &Bench, agent: &Agent) -> Self {
        let dir = agent.config.with_file_name("identity");
        fs::create_dir(&dir).unwrap();
        let pki = bench.fleet.stack.settings().pki_dir();
        let mut identity = Self { dir, pki, device: agent.device.clone(), versions: 0 };
        identity.turn_link(|_| ());
        let mut text = fs::read_to_string(&agent.config).unwrap();
        for (field, name) in [("ca", "ca"), ("certificate", "crt"), ("key", "key")] {
            let line = text.lines().find(|line| line.starts_with(&format!("{field}_file = ")));
            let new = format!("{field}_file = {:?}", identity.file(name));
            text = text.replace(line.unwrap(), &new);
        }
        fs::write(&agent.config, text).unwrap();
        identity
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join("current").join(name)
    }

    /// Has the authority make another key and certificate.
    fn issue(&self) {
        let authority = Authority::open(&self.pki).unwrap();
        let former = authority.identity(Role::Device, &self.device);
        for path in [former.certificate, former.key, former.bundle] {
            fs::remove_file(path).unwrap();
        }
        authority.issue(Role::Device, &self.device, &IssueOptions::default()).unwrap();
    }

    fn issued(&self, end: &str) -> PathBuf {
        self.pki.join(format!("device/{}.{end}", self.device))
    }

    /// Turns the link to a folder with the authority's files, changed as asked.
    fn turn_link(&mut self, change: impl FnOnce(&Path)) {
        self.versions += 1;
        let folder = self.dir.join(self.versions.to_string());
        fs::create_dir(&folder).unwrap();
        fs::copy(self.pki.join("ca.crt"), folder.join("ca")).unwrap();
        for end in ["crt", "key"] {
            fs::copy(self.issued(end), folder.join(end)).unwrap();
        }
        change(&folder);
        let link = self.dir.join("new");
        symlink(&folder, &link).unwrap();
        fs::rename(&link, self.dir.join("current")).unwrap();
    }
}

/// A certificate of this device that expired long ago, and its key.
fn write_expired(pki: &Path, device: &str, folder: &Path) {
    let read = |name| fs::read_to_string(pki.join(name)).unwrap();
    let authority = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), authority).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationalUnitName, "device");
    params.distinguished_name.push(DnType::CommonName, device);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, &issuer).unwrap();
    fs::write(folder.join("crt"), signed.pem()).unwrap();
    fs::write(folder.join("key"), key.serialize_pem()).unwrap();
}

#[test]
fn a_certificate_renewed_under_load_leaves_no_gap_and_nothing_is_lost_or_doubled() {
    on_bench(async |bench| {
        let agent = bench.fleet.enrol("renewed", &ten_a_second("north")?).await?;
        // A machine that is busy is no gap.
        agent.configure("uplink", "stall_ms = 30000")?;
        let mut identity = Identity::of(bench, &agent);
        let mut process = agent.start()?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 10).await?;
        let rounds = short_or_long(2, 20);
        for round in 1..=rounds {
            identity.issue();
            // Half of it: the certificate is there, and its key is not.
            fs::copy(identity.issued("crt"), identity.file("crt"))?;
            wait_for_log(&mut process, NOT_TAKEN_UP, round).await?;
            wait_for_stored(&bench.fleet, &agent, &mut process, 5).await?;
            if round % 2 == 0 {
                fs::copy(identity.issued("key"), identity.file("key"))?;
            } else {
                identity.turn_link(|_| ());
            }
            wait_for_log(&mut process, TAKEN_UP, round).await?;
            wait_for_stored(&bench.fleet, &agent, &mut process, 10).await?;
        }
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        let log = process.log();
        assert!(log.contains("uplink.key_file is not the key"), "{log}");
        assert!(!log.contains("the link is down"), "{log}");
        nothing_is_lost(&bench.fleet, &[&agent]).await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_expired_certificate_is_said_and_a_renewed_one_opens_the_link_without_a_restart() {
    on_bench(async |bench| {
        let agent = bench.fleet.enrol("expired", &ten_a_second("north")?).await?;
        let mut identity = Identity::of(bench, &agent);
        let (pki, device) = (identity.pki.clone(), identity.device.clone());
        identity.turn_link(|folder| write_expired(&pki, &device, folder));
        let mut process = agent.start()?;
        wait_for_log(&mut process, "the certificate expired on", 1).await?;
        wait_for_log(&mut process, "the link is down", 1).await?;
        wait_for_spooled(&agent, &mut process, short_or_long(30, 3000)).await?;
        assert_eq!(stored(&bench.fleet, &agent).await?, 0, "the broker let it in");
        identity.turn_link(|_| ());
        wait_for_log(&mut process, "the link is up again", 1).await?;
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        nothing_is_lost(&bench.fleet, &[&agent]).await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_wrong_ca_is_said_and_what_waits_is_sent_once_the_right_one_is_there() {
    on_bench(async |bench| {
        let agent = bench.fleet.enrol("misled", &ten_a_second("north")?).await?;
        agent.configure("uplink", "stall_ms = 3000")?;
        let mut identity = Identity::of(bench, &agent);
        let other = agent.config.with_file_name("other");
        Authority::init(&other, 3650)?;
        let mislead = |folder: &Path| {
            fs::copy(other.join("ca.crt"), folder.join("ca")).unwrap();
        };
        identity.turn_link(mislead);
        let mut process = agent.start()?;
        wait_for_log(&mut process, "the CA in uplink.ca_file did not sign it", 1).await?;
        wait_for_spooled(&agent, &mut process, short_or_long(30, 3000)).await?;
        identity.turn_link(|_| ());
        wait_for_log(&mut process, "the link is up again", 1).await?;
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        // While the link works a wrong one is not taken up in the first place.
        let taken_up = process.log().matches(TAKEN_UP).count();
        identity.turn_link(mislead);
        wait_for_log(&mut process, NOT_TAKEN_UP, 1).await?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 10).await?;
        assert_eq!(process.log().matches(TAKEN_UP).count(), taken_up, "{}", process.log());
        end(&mut process).await?;
        nothing_is_lost(&bench.fleet, &[&agent]).await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn files_that_were_refused_are_not_taken_up_while_the_link_is_down_for_a_moment() {
    on_bench(async |bench| {
        let agent = bench.fleet.enrol_behind_proxy("unmoved", &ten_a_second("north")?).await?;
        agent.configure("uplink", "stall_ms = 3000")?;
        let mut identity = Identity::of(bench, &agent);
        let other = agent.config.with_file_name("other");
        Authority::init(&other, 3650)?;
        let mut process = agent.start()?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 10).await?;
        identity.turn_link(|folder| {
            fs::copy(other.join("ca.crt"), folder.join("ca")).unwrap();
        });
        wait_for_log(&mut process, NOT_TAKEN_UP, 1).await?;
        bench.proxy.set(Fault::Freeze);
        wait_for_log(&mut process, "the link is down", 1).await?;
        // Tried again meanwhile, and refused for another reason.
        wait_for_log(&mut process, NOT_TAKEN_UP, 2).await?;
        bench.proxy.set(Fault::None);
        wait_for_log(&mut process, "the link is up again", 1).await?;
        wait_for_drained(&agent, &mut process, LIMIT).await?;
        assert!(!process.log().contains(TAKEN_UP), "{}", process.log());
        identity.turn_link(|_| ());
        wait_for_log(&mut process, "nothing is wrong with the uplink's files any more", 1).await?;
        end(&mut process).await?;
        nothing_is_lost(&bench.fleet, &[&agent]).await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_password_logs_in_by_plain_and_by_scram_and_a_wrong_one_is_said_until_it_is_right() {
    on_bench(async |bench| {
        let broker = bench.fleet.stack.settings().kafka.clone();
        let (plain_user, plain_password) = PLAIN_USER;
        const SCRAM_PASSWORD: &str = "scram-Pa55word";
        bench.fleet.stack.set_password("device-scram", SCRAM_PASSWORD)?;
        let cases = [
            ("PLAIN", plain_user, plain_password),
            ("SCRAM-SHA-512", "device-scram", SCRAM_PASSWORD),
        ];
        for (mechanism, user, password) in cases {
            let device = user.trim_start_matches("device-");
            let agent = bench.fleet.enrol(device, &ten_a_second("north")?).await?;
            let file = agent.config.with_file_name("password");
            fs::write(&file, "not-the-Pa55word\n")?;
            let text = fs::read_to_string(&agent.config)?;
            let own = |line: &&str| !line.starts_with("certificate_file") && !line.starts_with("key_file");
            let text: Vec<_> = text.lines().filter(own).collect();
            let text = text.join("\n").replace(&broker.bootstrap, &broker.passwords);
            fs::write(&agent.config, text)?;
            agent.configure(
                "uplink",
                &format!(
                    "sasl = {{ mechanism = {mechanism:?}, username = {user:?}, password_file = {file:?} }}"
                ),
            )?;
            let mut process = agent.start()?;
            wait_for_log(&mut process, "does not accept the user name or the password", 1).await?;
            wait_for_spooled(&agent, &mut process, 20).await?;
            fs::write(&file, format!("{password}\n"))?;
            wait_for_log(&mut process, "the link is up again", 1).await?;
            wait_for_drained(&agent, &mut process, LIMIT).await?;
            end(&mut process).await?;
            let log = process.log();
            assert!(!log.contains("Pa55word"), "a password is in the log: {log}");
            nothing_is_lost(&bench.fleet, &[&agent]).await?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_centre_takes_up_a_renewed_certificate_and_a_changed_password_and_loses_nothing() {
    on_bench(async |bench| {
        let agent = bench.fleet.enrol("witness", &ten_a_second("north")?).await?;
        let mut process = agent.start()?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 10).await?;

        let settings = bench.fleet.stack.settings().clone();
        let authority = Authority::open(&settings.pki_dir())?;
        let own = authority.identity(Role::Aggregator, &settings.aggregator.name);
        for path in [&own.certificate, &own.key, &own.bundle] {
            fs::remove_file(path)?;
        }
        centre_says(bench, NOT_TAKEN_UP, 1).await;
        wait_for_stored(&bench.fleet, &agent, &mut process, 5).await?;
        authority.issue(Role::Aggregator, &settings.aggregator.name, &IssueOptions::default())?;
        centre_says(bench, "the group is joined anew", 1).await;
        wait_for_stored(&bench.fleet, &agent, &mut process, 20).await?;

        // And with a password, which becomes another one.
        let user = Role::Aggregator.principal(&settings.aggregator.name);
        bench.fleet.stack.set_password(&user, "first-Pa55word")?;
        let file = bench.fleet.aggregator_config().with_file_name("aggregator.password");
        fs::write(&file, "first-Pa55word\n")?;
        let text = fs::read_to_string(bench.fleet.aggregator_config())?;
        let text = text.replace(&settings.kafka.bootstrap, &settings.kafka.passwords);
        let sasl = format!(
            "[consume]\nsasl = {{ mechanism = \"SCRAM-SHA-512\", username = {user:?}, \
             password_file = {file:?} }}\n"
        );
        let text = text.replacen("[consume]\n", &sasl, 1);
        fs::write(bench.fleet.aggregator_config(), text)?;
        let status = bench.fleet.aggregator.terminate(LIMIT).await?;
        assert!(status.success(), "{}", bench.fleet.aggregator.log_tail());
        bench.fleet.restart_aggregator().await?;
        wait_for_stored(&bench.fleet, &agent, &mut process, 20).await?;
        bench.fleet.stack.set_password(&user, "second-Pa55word")?;
        fs::write(&file, "second-Pa55word\n")?;
        centre_says(bench, "the group is joined anew", 1).await;
        wait_for_stored(&bench.fleet, &agent, &mut process, 20).await?;
        assert!(!bench.fleet.aggregator.log().contains("Pa55word"));

        wait_for_drained(&agent, &mut process, LIMIT).await?;
        end(&mut process).await?;
        nothing_is_lost(&bench.fleet, &[&agent]).await?;
        Ok(())
    })
    .unwrap();
}

async fn centre_says(bench: &mut Bench, words: &str, times: usize) {
    until(&format!("{words:?} in the centre's log"), LIMIT, async || {
        bench.fleet.aggregator.expect_running()?;
        let said = bench.fleet.aggregator.log().matches(words).count();
        Ok(if said >= times { Ok(()) } else { Err(bench.fleet.aggregator.log_tail()) })
    })
    .await
    .unwrap();
}
