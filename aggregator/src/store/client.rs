//! The connection to MongoDB.

use std::path::Path;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{
    AuthMechanism, ClientOptions, Credential, ReadConcern, ServerAddress, Tls, TlsOptions,
    WriteConcern,
};
use mongodb::{Client, Database};
use x509_parser::pem::Pem;

use super::error::StoreError;
use super::primary;
use super::settings::Settings;

/// The centre's database. Cheap to clone: all clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) client: Client,
    pub(super) database: Database,
}

/// What every write waits for: a majority, and their journals. Less could be rolled back after the
/// offset had advanced.
pub(super) fn durable() -> WriteConcern {
    let mut concern = WriteConcern::majority();
    concern.journal = Some(true);
    concern
}

impl Store {
    /// The connection, which is made when it is first used: the servers may be away. Where DNS names
    /// them it must answer.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        let options = options(settings).await?;
        let client = Client::with_options(options).map_err(|e| StoreError::Client(Box::new(e)))?;
        let database = client.database(&settings.database);
        Ok(Self { client, database })
    }

    /// Connects, logs in, and checks that the server answers.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let store = Self::open(settings).await?;
        store.check(settings).await?;
        Ok(store)
    }

    /// Checks that the server answers and can do what is asked of it.
    pub async fn check(&self, settings: &Settings) -> Result<(), StoreError> {
        let hosts = settings.address();
        let hello = self.database.run_command(doc! { "hello": 1 }).await;
        let hello = hello.map_err(|e| contact(settings, e))?;
        if !hello.contains_key("setName") {
            return Err(StoreError::NoReplicaSet { hosts });
        }
        tracing::info!(hosts, database = settings.database, "MongoDB answers");
        Ok(())
    }

    /// The database, for reading.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Whether the server answers now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let reply = self.database.run_command(doc! { "ping": 1 }).await;
        reply.map(drop).map_err(|e| StoreError::Read { collection: "ping", source: Box::new(e) })
    }
}

/// Where the servers are, and what DNS says of them.
async fn addresses(settings: &Settings) -> Result<ClientOptions, StoreError> {
    if let Some(name) = &settings.srv_host {
        let parsed = ClientOptions::parse(format!("mongodb+srv://{name}/")).await;
        return parsed.map_err(|e| StoreError::Srv { name: name.clone(), source: Box::new(e) });
    }
    let hosts = settings.hosts.iter().map(|host| {
        ServerAddress::parse(host)
            .map_err(|e| StoreError::Host { host: host.clone(), source: Box::new(e) })
    });
    let mut options = ClientOptions::default();
    options.hosts = hosts.collect::<Result<_, _>>()?;
    Ok(options)
}

/// A first contact that failed.
fn contact(settings: &Settings, source: Error) -> StoreError {
    let (hosts, source) = (settings.address(), Box::new(source));
    // A server that does not trust a certificate ends the connection, at best with an alert.
    const ENDED: [&str; 4] =
        ["close_notify", "received fatal alert", "Connection reset", "Broken pipe"];
    let said = source.to_string();
    if let Some(file) = &settings.certificate_key_file
        && ENDED.iter().any(|words| said.contains(words))
    {
        return StoreError::Untrusted { hosts, file: file.clone(), source };
    }
    if !matches!(&*source.kind, ErrorKind::Authentication { .. }) {
        return StoreError::Connect { hosts, source };
    }
    let who = match (&settings.certificate_key_file, &settings.user) {
        (Some(file), _) if settings.x509 => {
            let subject = subject(file).unwrap_or_else(|| "its subject".to_owned());
            format!("the certificate in {}: {subject} must be a user in $external", file.display())
        }
        (_, Some(user)) => {
            format!("the user {user} of the database {}", settings.auth_database)
        }
        _ => "nobody".to_owned(),
    };
    StoreError::LogIn { hosts, who, source }
}

/// The subject of a PEM file's certificate, as MongoDB names it (RFC 2253: the last part first).
fn subject(file: &Path) -> Option<String> {
    let bytes = std::fs::read(file).ok()?;
    let mut pems = Pem::iter_from_buffer(&bytes).filter_map(Result::ok);
    let pem = pems.find(|pem| pem.label == "CERTIFICATE")?;
    let certificate = pem.parse_x509().ok()?;
    let parts = certificate.subject().to_string();
    let parts: Vec<_> = parts.split(", ").collect();
    Some(parts.into_iter().rev().collect::<Vec<_>>().join(","))
}

/// That the files are there: the driver does not name the one that is not.
fn check_files(settings: &Settings) -> Result<(), StoreError> {
    let files = [
        ("store.ca_file", &settings.ca_file),
        ("store.certificate_key_file", &settings.certificate_key_file),
    ];
    for (field, path) in files.into_iter().filter_map(|(field, path)| Some((field, path.as_ref()?)))
    {
        std::fs::File::open(path).map_err(|source| StoreError::File {
            field,
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

async fn options(settings: &Settings) -> Result<ClientOptions, StoreError> {
    let mut options = addresses(settings).await?;
    options.app_name = Some("picket-aggregator".to_owned());
    if settings.replica_set.is_some() {
        options.repl_set_name.clone_from(&settings.replica_set);
    }
    options.server_selection_timeout =
        Some(Duration::from_secs(settings.server_selection_s.into()));
    options.sdam_event_handler = Some(primary::watch());
    options.connect_timeout = Some(Duration::from_secs(5));
    options.write_concern = Some(durable());
    options.read_concern = Some(ReadConcern::majority());
    options.tls = Some(Tls::Disabled);
    if !settings.allow_plaintext {
        check_files(settings)?;
        let mut tls = TlsOptions::default();
        tls.ca_file_path.clone_from(&settings.ca_file);
        tls.cert_key_file_path.clone_from(&settings.certificate_key_file);
        options.tls = Some(Tls::Enabled(tls));
    }
    if let (Some(user), Some(path)) = (&settings.user, &settings.password_file) {
        let mut credential = Credential::default();
        credential.username = Some(user.clone());
        credential.password = Some(password(path)?);
        credential.source = Some(settings.auth_database.clone());
        options.credential = Some(credential);
    }
    if settings.x509 {
        let mut credential = Credential::default();
        credential.mechanism = Some(AuthMechanism::MongoDbX509);
        credential.source = Some("$external".to_owned());
        options.credential = Some(credential);
    }
    Ok(options)
}

fn password(path: &Path) -> Result<String, StoreError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| StoreError::Password { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
