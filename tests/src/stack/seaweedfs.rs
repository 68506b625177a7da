//! SeaweedFS: an S3-compatible object store, for the tests that need one. TLS on, with a certificate of
//! the stack's authority; users with a key each.
//!
//! ```text
//! <dir>/data/, weed.log       what it stores, what it says
//! <dir>/identities.json       its users
//! <dir>/admin.key, picket.key their keys, as `upsert.s3.credentials_file` wants them
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as ObjectPath;
use object_store::{Certificate, ClientOptions, Error, ObjectStoreExt, RetryConfig};
use picket_pki::{Authority, IssueOptions, Role};
use serde_json::json;

use super::HOST;
use super::mongodb::{secret, write_secret};
use super::part::Part;
use super::ports::{self, Lease};
use crate::checkout::fetched;
use crate::process::until;

const START_LIMIT: Duration = Duration::from_secs(240);
/// The bucket that the user `picket` may read, write and list.
pub const BUCKET: &str = "pictures";

/// A SeaweedFS with a bucket.
pub struct SeaweedFs {
    part: Part,
    dir: PathBuf,
    ca: PathBuf,
    program: PathBuf,
    args: Vec<String>,
    leases: Vec<Lease>,
}

impl SeaweedFs {
    /// Starts one in `dir` with a certificate of the authority in `pki`, and returns when it takes what
    /// it is given.
    pub async fn start(dir: &Path, pki: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("data"))?;
        let authority = Authority::open(pki)?;
        let sans = vec![HOST.to_string(), "localhost".to_owned()];
        let options = IssueOptions { sans, ..IssueOptions::default() };
        let identity = authority.issue(Role::Server, "seaweedfs", &options)?;
        // Master, volume, filer and S3, each for HTTP and for gRPC.
        let leases = ports::lease(8, None)?;
        let ports: Vec<_> = leases.iter().map(|lease| lease.port().to_string()).collect();
        let path = |path: &Path| path.display().to_string();
        let mut args: Vec<_> = ["-logtostderr=true", "server", "-filer", "-s3", "-webdav=false"]
            .map(str::to_owned)
            .to_vec();
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        ];
        args.extend(names.iter().zip(&ports).map(|(name, port)| format!("-{name}={port}")));
        let settings = [
            ("dir", path(&dir.join("data"))),
            ("ip", HOST.to_string()),
            ("ip.bind", HOST.to_string()),
            ("master.telemetry", "false".to_owned()),
            ("master.electionTimeout", "1s".to_owned()),
            ("master.volumeSizeLimitMB", "64".to_owned()),
            ("volume.max", "20".to_owned()),
            // A disk that is nearly full is no matter of these tests.
            ("volume.minFreeSpace", "10MiB".to_owned()),
            ("volume.preStopSeconds", "0".to_owned()),
            ("s3.port.iceberg", "0".to_owned()),
            ("s3.port.lance", "0".to_owned()),
            ("s3.config", path(&dir.join("identities.json"))),
            ("s3.cert.file", path(&identity.certificate)),
            ("s3.key.file", path(&identity.key)),
        ];
        args.extend(settings.into_iter().map(|(name, value)| format!("-{name}={value}")));
        let mut weed = Self {
            part: Part::new("SeaweedFS", dir.join("weed.log")),
            dir: dir.to_owned(),
            ca: authority.certificate(),
            program: fetched("stack/seaweedfs/weed")?,
            args,
            leases,
        };
        weed.write_users()?;
        weed.start_again().await?;
        Ok(weed)
    }

    fn write_users(&self) -> Result<()> {
        let mut identities = Vec::new();
        for (name, actions) in [
            ("admin", vec!["Admin".to_owned(), "Read".into(), "Write".into(), "List".into()]),
            ("all-buckets", ["Read", "Write", "List"].map(str::to_owned).to_vec()),
            ("picket", ["Read", "Write", "List"].map(|a| format!("{a}:{BUCKET}")).to_vec()),
        ] {
            let secret = secret(&self.dir.join(format!("{name}.secret")))?;
            let key = format!("aws_access_key_id = {name}\naws_secret_access_key = {secret}\n");
            write_secret(&self.credentials(name), &key)?;
            identities.push(json!({
                "name": name,
                "credentials": [{ "accessKey": name, "secretKey": secret }],
                "actions": actions,
            }));
        }
        let users = json!({ "identities": identities }).to_string();
        write_secret(&self.dir.join("identities.json"), &users)
    }

    /// The file with a user's key: that of `admin`, who may do everything, also make buckets; of
    /// `all-buckets`; or of `picket`, who has the tests' bucket alone.
    pub fn credentials(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{user}.key"))
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        let port = self.leases.get(6).map(Lease::port).unwrap_or_default();
        format!("https://{HOST}:{port}")
    }

    /// The aggregator's settings that have pictures go to its bucket, with this key.
    pub fn upsert_settings(&self, credentials: &Path) -> String {
        format!(
            "[upsert]\nimages_url = \"s3://{BUCKET}/images\"\n[upsert.s3]\nendpoint = \"{}\"\n\
             credentials_file = {credentials:?}\nca_file = {:?}\n",
            self.endpoint(),
            self.ca
        )
    }

    /// The bucket as its admin sees it.
    pub fn bucket(&self) -> Result<Arc<AmazonS3>> {
        picket_aggregator::upsert::prepare_tls();
        let key = fs::read_to_string(self.dir.join("admin.secret"))?;
        let ca = Certificate::from_pem(&fs::read(&self.ca)?)?;
        let client = ClientOptions::new()
            .with_no_system_certificates(true)
            .with_root_certificate(ca)
            .with_timeout(Duration::from_secs(10));
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store = AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id("admin")
            .with_secret_access_key(key)
            .with_client_options(client)
            .with_retry(retry);
        Ok(Arc::new(store.build()?))
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.part.kill()
    }

    /// Starts it where it was, and returns when its bucket takes what it is given.
    pub async fn start_again(&mut self) -> Result<()> {
        if !self.part.is_stopped() {
            return self.part.expect_running();
        }
        self.part.start(&self.program, self.args.clone())?;
        let ready = self.ready().await;
        self.part.with_log(ready)
    }

    async fn ready(&mut self) -> Result<()> {
        let bucket = self.bucket()?;
        // What an admin writes makes the bucket too.
        let path = ObjectPath::from("ready");
        until("SeaweedFS to take what it is given", START_LIMIT, async || {
            self.part.expect_running()?;
            let asked: Result<(), Error> = async {
                bucket.put(&path, "ready".into()).await?;
                bucket.get(&path).await?.bytes().await?;
                bucket.delete(&path).await
            }
            .await;
            Ok(asked.map_err(|error| error.to_string()))
        })
        .await
        .context("the bucket of the tests")
    }
}
