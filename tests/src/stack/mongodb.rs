//! MongoDB: a replica set of one member, TLS on, a user with a password.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::{AuthMechanism, ClientOptions, Credential};

use super::HOST;
use super::part::Part;
use super::settings::{MongoSettings, Settings};
use crate::checkout::fetched;
use crate::process::until;

const START_LIMIT: Duration = Duration::from_secs(240);
const ASK_LIMIT: Duration = Duration::from_secs(2);
const REPLICA_SET: &str = "picket";

pub struct MongoDb {
    pub(super) part: Part,
    program: PathBuf,
    args: Vec<String>,
}

impl MongoDb {
    /// Makes its folder and its secrets, unless they are there.
    pub fn prepare(settings: &Settings) -> Result<Self> {
        let dir = settings.dir.join("mongodb");
        fs::create_dir_all(dir.join("data"))?;
        let keyfile = dir.join("keyfile");
        // Members know each other by it; it also turns authorisation on.
        secret(&keyfile)?;
        write_uri(
            &settings.mongodb.uri_file,
            settings,
            "picket",
            &secret(&settings.mongodb.password_file)?,
        )?;
        write_uri(
            &settings.mongodb.admin_uri_file,
            settings,
            "admin",
            &secret(&dir.join("admin.password"))?,
        )?;

        let path = |path: &Path| path.display().to_string();
        let args = [
            ("--dbpath", path(&dir.join("data"))),
            ("--bind_ip", HOST.to_string()),
            ("--port", settings.ports[2].to_string()),
            ("--replSet", REPLICA_SET.to_owned()),
            ("--keyFile", path(&keyfile)),
            ("--tlsMode", "requireTLS".to_owned()),
            ("--tlsCertificateKeyFile", path(&settings.pki_dir().join("server/mongodb.pem"))),
            ("--tlsCAFile", path(&settings.mongodb.ca)),
            ("--wiredTigerCacheSizeGB", "0.25".to_owned()),
            ("--setParameter", "diagnosticDataCollectionEnabled=false".to_owned()),
            // There is no other member to hand over to, so a stop need not wait for one.
            ("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100".to_owned()),
        ];
        let mut args: Vec<_> = args.into_iter().flat_map(|(k, v)| [k.to_owned(), v]).collect();
        // Clients prove who they are by password, over TLS.
        args.push("--tlsAllowConnectionsWithoutCertificates".to_owned());
        args.push("--nounixsocket".to_owned());
        let part = Part::new("MongoDB", dir.join("mongod.log"));
        Ok(Self { part, program: fetched("stack/mongodb/mongod")?, args })
    }

    /// Starts it, and returns when it takes writes; the first time, makes the replica set and the users.
    pub async fn start(&mut self, settings: &Settings) -> Result<()> {
        self.part.start(&self.program, self.args.clone())?;
        let ready = self.ready(settings).await;
        self.part.with_log(ready)
    }

    async fn ready(&mut self, settings: &Settings) -> Result<()> {
        // Until the first user exists, a connection from this machine may make it.
        let direct = client(settings, None, true).await?;
        self.until("MongoDB to answer", &direct, "hello", |_| true).await?;
        let made = settings.dir.join("mongodb/made");
        if !made.exists() {
            let member = doc! { "_id": 0, "host": format!("{HOST}:{}", settings.ports[2]) };
            let config = doc! { "_id": REPLICA_SET, "members": [member] };
            let initiate = doc! { "replSetInitiate": config };
            direct.database("admin").run_command(initiate).await.context("make the replica set")?;
        }
        let primary = |hello: &Document| hello.get_bool("isWritablePrimary").unwrap_or(false);
        self.until("MongoDB to become primary", &direct, "hello", primary).await?;
        if !made.exists() {
            make_users(settings, &direct).await?;
            fs::write(&made, "")?;
        }
        let user = connect(&settings.mongodb).await?;
        self.until("MongoDB to let the user in", &user, "ping", |_| true).await
    }

    async fn until(
        &mut self,
        what: &str,
        client: &Client,
        command: &str,
        good: impl Fn(&Document) -> bool,
    ) -> Result<()> {
        let database = client.database("admin");
        until(what, START_LIMIT, async || {
            self.part.expect_running()?;
            Ok(match database.run_command(doc! { command: 1 }).await {
                Ok(answer) if good(&answer) => Ok(()),
                Ok(answer) => Err(answer.to_string()),
                Err(error) => Err(error.to_string()),
            })
        })
        .await
    }
}

/// A client of the user `picket`.
async fn connect(settings: &MongoSettings) -> Result<Client> {
    let uri = fs::read_to_string(&settings.uri_file)?;
    let mut options = ClientOptions::parse(uri.trim()).await?;
    options.server_selection_timeout = Some(ASK_LIMIT);
    Ok(Client::with_options(options)?)
}

async fn client(settings: &Settings, user: Option<Credential>, direct: bool) -> Result<Client> {
    let mut options = ClientOptions::parse(&settings.mongodb.uri).await?;
    options.server_selection_timeout = Some(ASK_LIMIT);
    options.direct_connection = Some(direct);
    if direct {
        // A member that is not in a set yet belongs to none by that name.
        options.repl_set_name = None;
    }
    options.credential = user;
    Ok(Client::with_options(options)?)
}

async fn make_users(settings: &Settings, direct: &Client) -> Result<()> {
    let password = fs::read_to_string(settings.dir.join("mongodb/admin.password"))?;
    let create = doc! { "createUser": "admin", "pwd": &password, "roles": ["root"] };
    direct.database("admin").run_command(create).await.context("make the user admin")?;

    let admin = Credential::builder()
        .username("admin".to_owned())
        .password(password)
        .source("admin".to_owned())
        .mechanism(AuthMechanism::ScramSha256)
        .build();
    let admin = client(settings, Some(admin), true).await?;
    // dbAdmin, because changing an index's time to live is not part of readWrite.
    let database = &settings.mongodb.database;
    let role = |role: &str| doc! { "role": role, "db": database };
    let create = doc! {
        "createUser": &settings.mongodb.user,
        "pwd": fs::read_to_string(&settings.mongodb.password_file)?,
        "roles": [role("readWrite"), role("dbAdmin")],
    };
    admin.database("admin").run_command(create).await.context("make the user picket")?;
    Ok(())
}

/// The secret in this file, made when it is not there.
fn secret(path: &Path) -> Result<String> {
    if path.exists() {
        return Ok(fs::read_to_string(path)?);
    }
    let mut bytes = [0_u8; 24];
    getrandom::fill(&mut bytes).context("random bytes for a secret")?;
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    write_secret(path, &text)?;
    Ok(text)
}

fn write_uri(path: &Path, settings: &Settings, user: &str, password: &str) -> Result<()> {
    let with_user = format!("mongodb://{user}:{password}@");
    let uri = settings.mongodb.uri.replacen("mongodb://", &with_user, 1) + "&authSource=admin";
    write_secret(path, &uri)
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
