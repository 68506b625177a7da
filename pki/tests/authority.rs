//! What the authority promises, judged by OpenSSL where it can be.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic here is a failed test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use picket_pki::{Authority, Description, IssueOptions, PkiError, Role};
use tempfile::TempDir;

fn authority() -> (TempDir, Authority) {
    let dir = TempDir::new().unwrap();
    let authority = Authority::init(dir.path(), 3650).unwrap();
    (dir, authority)
}

fn openssl(args: &[&str]) -> Output {
    Command::new("openssl").args(args).output().expect("openssl must be installed (make deps)")
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn request(dir: &TempDir, subject: &str) -> std::path::PathBuf {
    let file = dir.path().join("request.csr");
    let key = dir.path().join("request.key");
    let made = openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        path(&key),
        "-out",
        path(&file),
        "-subj",
        subject,
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    file
}

#[test]
fn every_role_gets_a_certificate_that_openssl_verifies() {
    let (dir, authority) = authority();
    let ca = dir.path().join("ca.crt");
    for role in Role::ALL {
        let identity = authority.issue(role, "one", &IssueOptions::default()).unwrap();
        let purposes: &[&str] =
            if role.serves() { &["sslclient", "sslserver"] } else { &["sslclient"] };
        for purpose in purposes {
            let verified = openssl(&[
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                path(&ca),
                path(&identity.certificate),
            ]);
            assert!(verified.status.success(), "{role}: {verified:?}");
        }
    }
}

#[test]
fn a_device_cannot_pose_as_a_server() {
    let (dir, authority) = authority();
    let device = authority.issue(Role::Device, "gate-7", &IssueOptions::default()).unwrap();
    let ca = dir.path().join("ca.crt");
    let verified = openssl(&[
        "verify",
        "-purpose",
        "sslserver",
        "-CAfile",
        path(&ca),
        path(&device.certificate),
    ]);
    assert!(!verified.status.success());
}

#[test]
fn another_authority_does_not_verify() {
    let (_dir, mine) = authority();
    let (other, _) = authority();
    let device = mine.issue(Role::Device, "gate-7", &IssueOptions::default()).unwrap();
    let ca = other.path().join("ca.crt");
    let verified = openssl(&["verify", "-CAfile", path(&ca), path(&device.certificate)]);
    assert!(!verified.status.success());
}

#[test]
fn the_subject_is_name_and_role_in_the_order_that_kafka_reads() {
    let (_dir, authority) = authority();
    let device = authority.issue(Role::Device, "gate-7", &IssueOptions::default()).unwrap();
    let printed = openssl(&[
        "x509",
        "-noout",
        "-subject",
        "-nameopt",
        "RFC2253",
        "-in",
        path(&device.certificate),
    ]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim(), "subject=CN=gate-7,OU=device");
    let description = Description::read(&device.certificate).unwrap();
    assert_eq!(description.subject, "CN=gate-7,OU=device");
    assert_eq!(description.role, Some(Role::Device));
    assert!((824..=825).contains(&description.days_left()), "whole days, rounded down");
}

#[test]
fn host_names_and_addresses_stand_in_the_certificate_and_a_server_without_any_gets_its_name() {
    let (_dir, authority) = authority();
    let sans = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let options = IssueOptions { sans: sans.clone(), ..Default::default() };
    let broker = authority.issue(Role::Broker, "kafka", &options).unwrap();
    assert_eq!(Description::read(&broker.certificate).unwrap().sans, sans);
    let server = authority.issue(Role::Server, "mongo", &IssueOptions::default()).unwrap();
    assert_eq!(Description::read(&server.certificate).unwrap().sans, ["mongo"]);
    let bad = IssueOptions { sans: vec!["a host".to_owned()], ..Default::default() };
    assert!(matches!(authority.issue(Role::Server, "x", &bad), Err(PkiError::San { .. })));
}

#[test]
fn keys_are_closed_to_others_and_the_bundle_holds_both() {
    let (dir, authority) = authority();
    let device = authority.issue(Role::Device, "gate-7", &IssueOptions::default()).unwrap();
    for secret in [&dir.path().join("ca.key"), &device.key, &device.bundle] {
        assert_eq!(fs::metadata(secret).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let bundle = fs::read_to_string(&device.bundle).unwrap();
    assert!(bundle.contains("BEGIN PRIVATE KEY") && bundle.contains("BEGIN CERTIFICATE"));
    assert_eq!(
        Description::read(&device.bundle).unwrap(),
        Description::read(&device.certificate).unwrap()
    );
}

#[test]
fn nothing_is_overwritten() {
    let (dir, authority) = authority();
    let before = fs::read(dir.path().join("ca.key")).unwrap();
    assert!(matches!(Authority::init(dir.path(), 10), Err(PkiError::Exists { .. })));
    assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), before);

    let device = authority.issue(Role::Device, "gate-7", &IssueOptions::default()).unwrap();
    let before = fs::read(&device.key).unwrap();
    let again = authority.issue(Role::Device, "gate-7", &IssueOptions::default());
    assert!(matches!(again, Err(PkiError::Exists { .. })));
    assert_eq!(fs::read(&device.key).unwrap(), before);
}

#[test]
fn a_device_that_makes_its_own_key_is_enrolled_and_no_key_is_written() {
    let (dir, authority) = authority();
    let file = request(&dir, "/OU=device/CN=gate-7");
    let device = authority.enrol_device("gate-7", &file, &IssueOptions::default()).unwrap();
    assert!(!device.key.exists() && !device.bundle.exists());
    let ca = dir.path().join("ca.crt");
    let verified = openssl(&["verify", "-CAfile", path(&ca), path(&device.certificate)]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn enrolment_refuses_another_role_another_name_and_a_forged_request() {
    let (dir, authority) = authority();
    let default = IssueOptions::default();
    for subject in
        ["/OU=admin/CN=gate-7", "/OU=broker/CN=gate-7", "/CN=gate-7", "/OU=device/CN=gate-8"]
    {
        let refused = authority.enrol_device("gate-7", &request(&dir, subject), &default);
        assert!(matches!(refused, Err(PkiError::RequestSubject { .. })), "{subject}");
    }
    let file = dir.path().join("broken.csr");
    fs::write(&file, "not a request").unwrap();
    let refused = authority.enrol_device("gate-7", &file, &default);
    assert!(matches!(refused, Err(PkiError::Request { .. })));
    assert!(!authority.identity(Role::Device, "gate-7").certificate.exists());
}

#[test]
fn an_identity_cannot_outlive_its_authority() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::init(dir.path(), 100).unwrap();
    let refused = authority.issue(Role::Device, "gate-7", &IssueOptions::default());
    assert!(matches!(refused, Err(PkiError::OutlivesAuthority { .. })));
}

#[test]
fn a_folder_without_an_authority_and_a_foreign_key_are_named() {
    let empty = TempDir::new().unwrap();
    assert!(matches!(Authority::open(empty.path()), Err(PkiError::NoAuthority { .. })));
    let (one, _) = authority();
    let (two, _) = authority();
    fs::copy(two.path().join("ca.key"), one.path().join("ca.key")).unwrap();
    assert!(matches!(Authority::open(one.path()), Err(PkiError::KeyMismatch { .. })));
}
