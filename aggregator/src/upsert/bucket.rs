//! The bucket of an S3-compatible store: where it is, how to reach it, and who one is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, CredentialProvider, ObjectStore, RetryConfig,
};
use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

use super::error::ImageError;

/// Section `[upsert.s3]`: how to reach the store of `upsert.images_url`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// Address of the store, such as `https://s3.example.net:9000`. Without it that of AWS in `region`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Region of the bucket; stores that have none take any.
    #[serde(default = "default_region")]
    pub region: String,
    /// File with the key, as other tools for S3 have it: `aws_access_key_id = …` and
    /// `aws_secret_access_key = …`, each on a line of its own, and `aws_session_token = …` where there
    /// is one; of several profiles the first. It is read again for each request, so that a new key needs no restart.
    pub credentials_file: PathBuf,
    /// PEM file with the certificate authority that signed the store's certificate. Without it those are
    /// trusted that this machine trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Name the bucket in the host's name (`bucket.s3.example.net`) and not in the path.
    #[serde(default)]
    pub virtual_host: bool,
    /// Talk to the store without TLS, by an `endpoint` that begins with `http://`. For a store on this
    /// machine only: pictures are sent in the clear.
    #[serde(default)]
    pub allow_plaintext: bool,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

/// A connection that takes longer does not come.
const CONNECT: Duration = Duration::from_secs(5);
/// A whole request, with a picture of some megabytes.
const REQUEST: Duration = Duration::from_secs(20);
/// A request that failed is sent again so many times, as a connection that was idle may be gone.
/// Whoever needs it to succeed has a longer breath, and says so in the log.
const AGAIN: usize = 2;

impl S3 {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        if let Some(endpoint) = &self.endpoint {
            let tls = endpoint.strip_prefix("https://");
            let host = tls.or_else(|| endpoint.strip_prefix("http://"));
            let is_address = |host: &str| {
                let host = host.strip_suffix('/').unwrap_or(host);
                !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])
            };
            if !host.is_some_and(is_address) {
                let problem = "must be https://host:port alone: the bucket stands in `images_url`, the \
                               key in `credentials_file`";
                return Err(Problem::new("endpoint", problem));
            }
            if tls.is_none() && !self.allow_plaintext {
                let problem = "must begin with https://; without TLS only by `allow_plaintext`";
                return Err(Problem::new("endpoint", problem));
            }
        }
        if self.region.is_empty() {
            return Err(Problem::new("region", "must be a name, such as us-east-1"));
        }
        if self.allow_plaintext && self.ca_file.is_some() {
            let problem = "contradicts `ca_file`: leave one of the two out";
            return Err(Problem::new("allow_plaintext", problem));
        }
        Ok(())
    }

    /// Where it is, for people.
    pub fn address(&self) -> String {
        let aws = || format!("https://s3.{}.amazonaws.com", self.region);
        self.endpoint.clone().unwrap_or_else(aws)
    }
}

/// A bucket, and what pictures' paths in it begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// Its name.
    pub bucket: String,
    /// May be empty.
    pub prefix: String,
}

impl BucketUrl {
    /// Reads `s3://bucket/prefix`.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        const RIGHT: &str = "must be s3://bucket or s3://bucket/prefix";
        let rest = url.strip_prefix("s3://").ok_or(RIGHT)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(plain) && !name.bytes().all(|b| b == b'.')
        };
        if !is_name(bucket) || !(prefix.is_empty() || prefix.split('/').all(is_name)) {
            return Err(RIGHT);
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// The library that speaks HTTP takes the process's cryptography, and none by itself.
pub fn prepare_tls() {
    // Another library may have done the same: then it is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The store of a bucket. It is not asked for anything yet: it may be away.
pub fn open(url: &BucketUrl, s3: &S3) -> Result<Arc<dyn ObjectStore>, ImageError> {
    prepare_tls();
    let key = KeyFile { path: s3.credentials_file.clone() };
    key.read()?;
    let mut client = ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout(REQUEST)
        .with_allow_http(s3.allow_plaintext)
        .with_default_content_type("image/jpeg");
    if let Some(path) = &s3.ca_file {
        client = client.with_no_system_certificates(true);
        for certificate in certificates(path)? {
            client = client.with_root_certificate(certificate);
        }
    }
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: AGAIN,
        retry_timeout: REQUEST,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&url.bucket)
        .with_region(&s3.region)
        .with_virtual_hosted_style_request(s3.virtual_host)
        .with_credentials(Arc::new(key))
        .with_client_options(client)
        .with_allow_http(s3.allow_plaintext)
        .with_retry(retry);
    if let Some(endpoint) = &s3.endpoint {
        let endpoint = endpoint.trim_end_matches('/');
        builder = builder.with_endpoint(match endpoint.split_once("://") {
            Some((scheme, host)) if s3.virtual_host => format!("{scheme}://{}.{host}", url.bucket),
            _ => endpoint.to_owned(),
        });
    }
    let failed = |source| ImageError::Open { place: format!("the bucket {}", url.bucket), source };
    let store = builder.build().map_err(failed)?;
    if url.prefix.is_empty() {
        return Ok(Arc::new(store));
    }
    Ok(Arc::new(PrefixStore::new(store, url.prefix.as_str())))
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ImageError> {
    let file =
        |source| ImageError::File { field: "upsert.s3.ca_file", path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(file)?;
    let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if found.is_empty() {
        return Err(file(std::io::Error::other("there is no certificate in it (PEM)")));
    }
    Ok(found)
}

/// The key, in a file.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    fn read(&self) -> Result<AwsCredential, ImageError> {
        let failed = |source| ImageError::File {
            field: "upsert.s3.credentials_file",
            path: self.path.clone(),
            source,
        };
        let text = std::fs::read_to_string(&self.path).map_err(failed)?;
        parse_key(&text).map_err(|missing| {
            failed(std::io::Error::other(format!("the line `{missing} = …` is missing")))
        })
    }
}

/// The first profile of the file; or says which line is missing. The text itself is never told.
fn parse_key(text: &str) -> Result<AwsCredential, &'static str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let before = lines.clone().take_while(|line| !line.contains('=')).count();
    let rest = lines.skip(before).take_while(|line| !line.starts_with('['));
    let first: Vec<_> = rest.filter_map(|line| line.split_once('=')).collect();
    let value = |name: &str| {
        let found = first.iter().find(|(key, _)| key.trim() == name);
        found.map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let needed = |name: &'static str| value(name).ok_or(name);
    Ok(AwsCredential {
        key_id: needed("aws_access_key_id")?,
        secret_key: needed("aws_secret_access_key")?,
        token: value("aws_session_token"),
    })
}

impl CredentialProvider for KeyFile {
    type Credential = AwsCredential;

    fn get_credential<'s, 'f>(
        &'s self,
    ) -> BoxFuture<'f, object_store::Result<Arc<Self::Credential>>>
    where
        's: 'f,
        Self: 'f,
    {
        let key = self.read().map(Arc::new);
        let key = key.map_err(|e| object_store::Error::Generic { store: "S3", source: e.into() });
        Box::pin(std::future::ready(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Option<String> {
        let s3: S3 = toml::from_str(&format!("credentials_file = '/k'\n{text}")).unwrap();
        s3.check().err().map(|problem| problem.field)
    }

    #[test]
    fn a_store_without_tls_and_an_address_with_more_than_a_host_are_refused() {
        assert_eq!(problem(""), None);
        assert_eq!(problem("endpoint = 'https://s3.example.net:9000/'"), None);
        assert_eq!(problem("endpoint = 'http://127.0.0.1:8333'\nallow_plaintext = true"), None);
        for (text, field) in [
            ("endpoint = 'http://127.0.0.1:8333'", "endpoint"),
            ("endpoint = 's3.example.net'", "endpoint"),
            ("endpoint = 'https://'", "endpoint"),
            ("endpoint = 'https://id:key@s3.example.net'", "endpoint"),
            ("endpoint = 'https://s3.example.net/bucket'", "endpoint"),
            ("region = ''", "region"),
            ("allow_plaintext = true\nca_file = '/ca.crt'", "allow_plaintext"),
        ] {
            assert_eq!(problem(text).as_deref(), Some(field), "{text}");
        }
    }

    #[test]
    fn a_url_is_a_bucket_and_what_paths_in_it_begin_with() {
        let url = |bucket: &str, prefix: &str| {
            Ok(BucketUrl { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
        };
        assert_eq!(BucketUrl::parse("s3://pictures"), url("pictures", ""));
        assert_eq!(BucketUrl::parse("s3://pictures/"), url("pictures", ""));
        assert_eq!(BucketUrl::parse("s3://pictures/a/b/"), url("pictures", "a/b"));
        for wrong in
            ["pictures", "https://s3.example.net/pictures", "s3://", "s3:///a", "s3://a//b"]
        {
            assert!(BucketUrl::parse(wrong).is_err(), "{wrong}");
        }
        assert!(BucketUrl::parse("s3://pictures/../b").is_err());
    }

    #[test]
    fn a_key_is_read_as_other_tools_write_it_and_an_incomplete_one_is_told_without_its_text() {
        let text = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key=a/b+c=\n";
        let key = parse_key(text).unwrap();
        assert_eq!((key.key_id.as_str(), key.secret_key.as_str()), ("AKIA1", "a/b+c="));
        assert_eq!(key.token, None);
        assert_eq!(parse_key("aws_access_key_id = s3cr").err(), Some("aws_secret_access_key"));
        assert_eq!(parse_key("s3cr").err(), Some("aws_access_key_id"));
    }

    #[test]
    fn of_several_profiles_the_first_alone_counts() {
        let first = "# of = the shop\n[shop]\n\naws_access_key_id = AKIA1\n";
        let other = "[default]\naws_access_key_id = AKIA2\naws_secret_access_key = b\n\
                     aws_session_token = t\n";
        let key = parse_key(&format!("{first}aws_secret_access_key = a\n{other}")).unwrap();
        assert_eq!((key.key_id.as_str(), key.secret_key.as_str()), ("AKIA1", "a"));
        assert_eq!(key.token, None);
        let mixed = parse_key(&format!("{first}{other}"));
        assert_eq!(mixed.err(), Some("aws_secret_access_key"));
    }

    #[test]
    fn a_changed_key_is_taken_up_without_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyFile { path: directory.path().join("key") };
        let read = || {
            let key = futures_util::FutureExt::now_or_never(key.get_credential()).unwrap();
            key.map(|key| key.key_id.clone())
        };
        let missing = read().unwrap_err().to_string();
        assert!(missing.contains("upsert.s3.credentials_file"), "{missing}");
        for id in ["first", "second"] {
            let text = format!("aws_access_key_id = {id}\naws_secret_access_key = s");
            std::fs::write(&key.path, text).unwrap();
            assert_eq!(read().unwrap(), id);
        }
    }
}
