//! The authority on disk, and the certificates that it issues.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::{Description, PkiError, Role, check_name};

/// Ten years: what an authority gets, and the most that any certificate can have.
pub const MAX_DAYS: u32 = 3650;
const DEFAULT_DAYS: u32 = 825;
const DAY: Duration = Duration::from_secs(86_400);
/// Certificates begin in the past: a box whose clock lags must not find them "not yet valid".
const BACKDATED: Duration = DAY;

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// A certificate authority in a folder, open for signing.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    days_left: i64,
}

/// Where the files of one identity lie. Those of a device that made its own key are only
/// `certificate` and `authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub role: Role,
    pub name: String,
    /// The authority's certificate.
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Key and certificate in one file.
    pub bundle: PathBuf,
}

#[derive(Clone, Debug)]
pub struct IssueOptions {
    /// Host names and IP addresses. A role that serves gets its own name when there are none.
    pub sans: Vec<String>,
    pub days: u32,
}

impl Default for IssueOptions {
    fn default() -> Self {
        Self { sans: Vec::new(), days: DEFAULT_DAYS }
    }
}

impl Authority {
    /// Makes a new authority in `dir`, which may exist but must not hold one.
    pub fn init(dir: &Path, days: u32) -> Result<Self, PkiError> {
        check_days(days)?;
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        refuse_existing([&certificate, &key])?;
        make_folder(dir)?;

        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|source| PkiError::MakeAuthorityKey { source })?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "authority");
        params.distinguished_name.push(DnType::CommonName, "Picket");
        // It signs no other authority, so a certificate that it issued can never issue another.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, days);
        let signed =
            params.self_signed(&pair).map_err(|source| PkiError::SignAuthority { source })?;

        write_new(&key, &pair.serialize_pem(), SECRET)?;
        write_certificate(&certificate, &signed)?;
        Self::open(dir)
    }

    /// Opens the authority that [`Authority::init`] made in `dir`.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        for path in [&certificate, &key] {
            if !path.exists() {
                return Err(PkiError::NoAuthority { dir: dir.into(), missing: path.clone() });
            }
        }
        let pair = KeyPair::from_pem(&read(&key)?)
            .map_err(|source| PkiError::Key { path: key.clone(), source })?;
        let description = Description::read(&certificate)?;
        if description.public_key != pair.public_key_raw() {
            return Err(PkiError::KeyMismatch { key, certificate });
        }
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, pair)
            .map_err(|e| PkiError::Certificate { path: certificate, reason: e.to_string() })?;
        Ok(Self { dir: dir.into(), issuer, days_left: description.days_left() })
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Where the files of this identity lie, whether they exist yet or not.
    pub fn identity(&self, role: Role, name: &str) -> Identity {
        let file = |end: &str| self.dir.join(role.as_str()).join(format!("{name}.{end}"));
        Identity {
            role,
            name: name.to_owned(),
            authority: self.certificate(),
            certificate: file("crt"),
            key: file("key"),
            bundle: file("pem"),
        }
    }

    /// Makes a key and a certificate, and writes both.
    pub fn issue(
        &self,
        role: Role,
        name: &str,
        options: &IssueOptions,
    ) -> Result<Identity, PkiError> {
        let params = self.params(role, name, options)?;
        let identity = self.identity(role, name);
        refuse_existing([&identity.certificate, &identity.key, &identity.bundle])?;
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|source| PkiError::MakeKey { role, name: name.to_owned(), source })?;
        let signed = params.signed_by(&pair, &self.issuer).map_err(|source| PkiError::Sign {
            role,
            name: name.to_owned(),
            source,
        })?;

        make_folder(&self.dir.join(role.as_str()))?;
        let key = pair.serialize_pem();
        write_new(&identity.key, &key, SECRET)?;
        write_new(&identity.bundle, &format!("{key}{}", signed.pem()), SECRET)?;
        write_certificate(&identity.certificate, &signed)?;
        Ok(identity)
    }

    /// Signs a device's own request, so that its key never leaves the device. Only the public key is
    /// taken from the request; a request that names another device, another role, or wants to be an
    /// authority is refused rather than corrected, because it shows a mistake or worse.
    pub fn enrol_device(
        &self,
        name: &str,
        request: &Path,
        options: &IssueOptions,
    ) -> Result<Identity, PkiError> {
        let params = self.params(Role::Device, name, options)?;
        let identity = self.identity(Role::Device, name);
        refuse_existing([&identity.certificate])?;
        let mut csr = CertificateSigningRequestParams::from_pem(&read(request)?)
            .map_err(|source| PkiError::Request { path: request.into(), source })?;
        check_request(request, &csr.params, name)?;
        csr.params = params;
        let signed = csr.signed_by(&self.issuer).map_err(|source| PkiError::Sign {
            role: Role::Device,
            name: name.to_owned(),
            source,
        })?;
        make_folder(&self.dir.join(Role::Device.as_str()))?;
        write_certificate(&identity.certificate, &signed)?;
        Ok(identity)
    }

    fn params(
        &self,
        role: Role,
        name: &str,
        options: &IssueOptions,
    ) -> Result<CertificateParams, PkiError> {
        check_name(role.as_str(), name)?;
        check_days(options.days)?;
        if i64::from(options.days) > self.days_left {
            return Err(PkiError::OutlivesAuthority { days: options.days, left: self.days_left });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // From the general to the special: RFC 2253, in which Kafka reads it, turns it round.
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.as_str());
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // What serves also connects: brokers to each other, members of a replica set likewise.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role.serves() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = match (options.sans.is_empty(), role.serves()) {
            (true, true) => vec![parse_san(name)?],
            _ => options.sans.iter().map(|san| parse_san(san)).collect::<Result<_, _>>()?,
        };
        set_validity(&mut params, options.days);
        Ok(params)
    }
}

fn check_request(path: &Path, asked: &CertificateParams, name: &str) -> Result<(), PkiError> {
    if matches!(asked.is_ca, IsCa::Ca(_)) {
        return Err(PkiError::RequestAuthority { path: path.into() });
    }
    let wanted = [
        (DnType::OrganizationalUnitName, "OU", Role::Device.as_str()),
        (DnType::CommonName, "CN", name),
    ];
    for (kind, field, wanted) in wanted {
        let found = asked.distinguished_name.get(&kind).map(text_of).unwrap_or_default();
        if found != wanted {
            let (path, wanted) = (path.into(), wanted.to_owned());
            return Err(PkiError::RequestSubject { path, field, found, wanted });
        }
    }
    Ok(())
}

/// A value in an encoding that Picket never writes has no text and so matches no role.
fn text_of(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        _ => String::new(),
    }
}

fn parse_san(text: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let refused = || PkiError::San { san: text.to_owned() };
    let host_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(host_byte) {
        return Err(refused());
    }
    Ok(SanType::DnsName(text.try_into().map_err(|_| refused())?))
}

fn check_days(days: u32) -> Result<(), PkiError> {
    if (1..=MAX_DAYS).contains(&days) {
        Ok(())
    } else {
        Err(PkiError::Days { days, max: MAX_DAYS })
    }
}

fn set_validity(params: &mut CertificateParams, days: u32) {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970.saturating_sub(BACKDATED);
    params.not_after = epoch + since_1970 + DAY * days;
}

fn refuse_existing<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), PkiError> {
    match paths.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(PkiError::Exists { path: path.clone() }),
        None => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(path).map_err(|source| PkiError::Write { path: path.into(), source })
}

fn write_certificate(path: &Path, certificate: &Certificate) -> Result<(), PkiError> {
    write_new(path, &certificate.pem(), PUBLIC)
}

/// The mode is set when the file is made, so that a key is at no moment open to others; and the file
/// must be new, so that two commands at once cannot both believe that they issued it.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(
        |source| match source.kind() {
            io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.into() },
            _ => PkiError::Write { path: path.into(), source },
        },
    )?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|source| PkiError::Write { path: path.into(), source })
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.into(), source })
}
