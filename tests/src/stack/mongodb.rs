//! MongoDB: a replica set of one member, or of more where a test asks for them; TLS on, a user with a
//! password, and one with a certificate.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress};

use super::HOST;
use super::part::Part;
use super::settings::{MongoSettings, Settings};
use crate::checkout::fetched;
use crate::process::until;

const START_LIMIT: Duration = Duration::from_secs(240);
const ASK_LIMIT: Duration = Duration::from_secs(2);
const REPLICA_SET: &str = "picket";

/// One member of the replica set.
pub struct Member {
    pub(super) part: Part,
    pub(super) port: u16,
    program: PathBuf,
    args: Vec<String>,
}

/// Makes the members' folders and the secrets, unless they are there. The first one is the one that a
/// stack has anyway.
pub fn prepare_all(settings: &Settings) -> Result<Vec<Member>> {
    let dir = settings.dir.join("mongodb");
    fs::create_dir_all(&dir)?;
    // Members know each other by it; it also turns authorisation on.
    secret(&dir.join("keyfile"))?;
    let password = secret(&settings.mongodb.password_file)?;
    write_uri(&settings.mongodb.uri_file, settings, "picket", &password)?;
    let password = secret(&dir.join("admin.password"))?;
    write_uri(&settings.mongodb.admin_uri_file, settings, "admin", &password)?;
    let members = settings.mongodb.ports.iter().zip(1..);
    members.map(|(port, number)| Member::prepare(settings, *port, number)).collect()
}

/// Starts those that do not run, and returns when the set takes writes; the first time, makes the
/// replica set and the users.
pub async fn start_all(members: &mut [Member], settings: &Settings) -> Result<()> {
    for member in members.iter_mut().filter(|member| member.part.is_stopped()) {
        member.part.start(&member.program, member.args.clone())?;
    }
    let ready = ready(members, settings).await;
    match members.first() {
        Some(first) => first.part.with_log(ready),
        None => ready,
    }
}

async fn ready(members: &mut [Member], settings: &Settings) -> Result<()> {
    for member in members.iter_mut() {
        member.answers(settings).await?;
    }
    let Some(first) = members.first_mut() else { return Ok(()) };
    let made = settings.dir.join("mongodb/made");
    // Until the first user exists, a connection from this machine may make it.
    let direct = client(settings, None, Some(first.port)).await?;
    if !made.exists() {
        let member = |(id, port): (i32, &u16)| doc! { "_id": id, "host": format!("{HOST}:{port}") };
        let all: Vec<Document> = (0..).zip(&settings.mongodb.ports).map(member).collect();
        // Half of the default: what a test is about is that there is an election, not its length.
        let election = doc! { "electionTimeoutMillis": 5000 };
        let config = doc! { "_id": REPLICA_SET, "members": all, "settings": election };
        let initiate = doc! { "replSetInitiate": config };
        direct.database("admin").run_command(initiate).await.context("make the replica set")?;
        // Whichever that is: a slow machine may have held the first election up.
        let primary = until("a member to become primary", START_LIMIT, async || {
            Ok(primary(settings).await?.ok_or_else(|| "none is".to_owned()))
        });
        let direct = client(settings, None, Some(primary.await?)).await?;
        make_users(settings, &direct).await?;
        fs::write(&made, "")?;
    }
    // Whichever takes writes.
    let user = connect(&settings.mongodb).await?;
    first.until("MongoDB to let the user in", &user, "ping", |_| true).await
}

impl Member {
    fn prepare(settings: &Settings, port: u16, number: u16) -> Result<Self> {
        let dir = settings.dir.join("mongodb");
        let (data, log) = match number {
            1 => (dir.join("data"), dir.join("mongod.log")),
            n => (dir.join(format!("data-{n}")), dir.join(format!("mongod-{n}.log"))),
        };
        fs::create_dir_all(&data)?;
        let path = |path: &Path| path.display().to_string();
        let args = [
            ("--dbpath", path(&data)),
            ("--bind_ip", HOST.to_string()),
            ("--port", port.to_string()),
            ("--replSet", REPLICA_SET.to_owned()),
            ("--keyFile", path(&dir.join("keyfile"))),
            ("--tlsMode", "requireTLS".to_owned()),
            ("--tlsCertificateKeyFile", path(&settings.pki_dir().join("server/mongodb.pem"))),
            ("--tlsCAFile", path(&settings.mongodb.ca)),
            ("--wiredTigerCacheSizeGB", "0.25".to_owned()),
            ("--setParameter", "diagnosticDataCollectionEnabled=false".to_owned()),
            // A stop need not wait for another member.
            ("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100".to_owned()),
        ];
        let mut args: Vec<_> = args.into_iter().flat_map(|(k, v)| [k.to_owned(), v]).collect();
        // Clients prove who they are by password or by certificate, over TLS.
        args.push("--tlsAllowConnectionsWithoutCertificates".to_owned());
        args.push("--nounixsocket".to_owned());
        let part = Part::new("MongoDB", log);
        Ok(Self { part, port, program: fetched("stack/mongodb/mongod")?, args })
    }

    /// Starts it, and returns when it answers.
    pub async fn start(&mut self, settings: &Settings) -> Result<()> {
        self.part.start(&self.program, self.args.clone())?;
        let answers = self.answers(settings).await;
        self.part.with_log(answers)
    }

    async fn answers(&mut self, settings: &Settings) -> Result<()> {
        let direct = client(settings, None, Some(self.port)).await?;
        self.until("MongoDB to answer", &direct, "hello", |_| true).await
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

/// The port of the member that takes writes, as the admin sees it, if there is one now.
pub async fn primary(settings: &Settings) -> Result<Option<u16>> {
    for port in &settings.mongodb.ports {
        let direct = client(settings, None, Some(*port)).await?;
        let hello = direct.database("admin").run_command(doc! { "hello": 1 }).await;
        if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
            return Ok(Some(*port));
        }
    }
    Ok(None)
}

/// How many members hold what there is, the one that takes writes among them: one of them can follow it.
pub async fn whole_members(settings: &Settings) -> Result<usize> {
    const PRIMARY_OR_SECONDARY: [i32; 2] = [1, 2];
    let Some(port) = primary(settings).await? else { return Ok(0) };
    let admin = client(settings, Some(admin(settings)?), Some(port)).await?;
    let status = admin.database("admin").run_command(doc! { "replSetGetStatus": 1 }).await?;
    let is_whole = |member: &Bson| {
        let state = member.as_document().and_then(|member| member.get_i32("state").ok());
        state.is_some_and(|state| PRIMARY_OR_SECONDARY.contains(&state))
    };
    Ok(status.get_array("members")?.iter().filter(|member| is_whole(member)).count())
}

/// Has the primary hand over in order; another member is elected.
pub async fn step_down(settings: &Settings, port: u16) -> Result<()> {
    let admin = client(settings, Some(admin(settings)?), Some(port)).await?;
    let step_down = doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 50 };
    admin.database("admin").run_command(step_down).await.context("step down")?;
    Ok(())
}

/// A client of the user `picket`.
async fn connect(settings: &MongoSettings) -> Result<Client> {
    let uri = fs::read_to_string(&settings.uri_file)?;
    let mut options = ClientOptions::parse(uri.trim()).await?;
    options.server_selection_timeout = Some(ASK_LIMIT);
    Ok(Client::with_options(options)?)
}

/// A client of one member alone, or else of the set.
async fn client(
    settings: &Settings,
    user: Option<Credential>,
    member: Option<u16>,
) -> Result<Client> {
    let mut options = ClientOptions::parse(&settings.mongodb.uri).await?;
    options.server_selection_timeout = Some(ASK_LIMIT);
    if let Some(port) = member {
        options.hosts = vec![ServerAddress::Tcp { host: HOST.to_string(), port: Some(port) }];
        options.direct_connection = Some(true);
        // A member that is not in a set yet belongs to none by that name.
        options.repl_set_name = None;
    }
    options.credential = user;
    Ok(Client::with_options(options)?)
}

fn admin(settings: &Settings) -> Result<Credential> {
    let password = fs::read_to_string(settings.dir.join("mongodb/admin.password"))?;
    Ok(Credential::builder()
        .username("admin".to_owned())
        .password(password)
        .source("admin".to_owned())
        .mechanism(AuthMechanism::ScramSha256)
        .build())
}

async fn make_users(settings: &Settings, direct: &Client) -> Result<()> {
    let password = fs::read_to_string(settings.dir.join("mongodb/admin.password"))?;
    let create = doc! { "createUser": "admin", "pwd": &password, "roles": ["root"] };
    direct.database("admin").run_command(create).await.context("make the user admin")?;

    let admin = client(settings, Some(admin(settings)?), settings.mongodb.ports.first().copied());
    let admin = admin.await?;
    // dbAdmin, because changing an index's time to live is not part of readWrite.
    let database = &settings.mongodb.database;
    let role = |role: &str| doc! { "role": role, "db": database };
    let roles = [role("readWrite"), role("dbAdmin")];
    let create = doc! {
        "createUser": &settings.mongodb.user,
        "pwd": fs::read_to_string(&settings.mongodb.password_file)?,
        "roles": &roles,
    };
    admin.database("admin").run_command(create).await.context("make the user picket")?;
    // The same by certificate: the aggregator's subject, its last part first.
    let subject = format!("CN={},OU=aggregator", settings.aggregator.name);
    let create = doc! { "createUser": subject, "roles": &roles };
    let made = admin.database("$external").run_command(create).await;
    made.context("make the user of the aggregator's certificate")?;
    Ok(())
}

/// The secret in this file, made when it is not there.
pub(super) fn secret(path: &Path) -> Result<String> {
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

pub(super) fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
