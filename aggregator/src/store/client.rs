//! The connection to MongoDB.

use std::path::Path;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::options::{
    ClientOptions, Credential, ReadConcern, ServerAddress, Tls, TlsOptions, WriteConcern,
};
use mongodb::{Client, Database};

use super::error::StoreError;
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
    /// The connection, which is made when it is first used: the server may be away.
    pub fn open(settings: &Settings) -> Result<Self, StoreError> {
        let options = options(settings)?;
        let client = Client::with_options(options).map_err(|e| StoreError::Client(Box::new(e)))?;
        let database = client.database(&settings.database);
        Ok(Self { client, database })
    }

    /// Connects, logs in, and checks that the server answers.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let store = Self::open(settings)?;
        store.check(settings).await?;
        Ok(store)
    }

    /// Checks that the server answers and can do what is asked of it.
    pub async fn check(&self, settings: &Settings) -> Result<(), StoreError> {
        let hosts = settings.hosts.join(", ");
        let hello = self.database.run_command(doc! { "hello": 1 }).await;
        let hello =
            hello.map_err(|e| StoreError::Connect { hosts: hosts.clone(), source: Box::new(e) })?;
        if !hello.contains_key("setName") {
            return Err(StoreError::NoReplicaSet { hosts });
        }
        tracing::info!(hosts = ?settings.hosts, database = settings.database, "MongoDB answers");
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

fn options(settings: &Settings) -> Result<ClientOptions, StoreError> {
    let hosts = settings.hosts.iter().map(|host| {
        ServerAddress::parse(host)
            .map_err(|e| StoreError::Host { host: host.clone(), source: Box::new(e) })
    });
    let mut options = ClientOptions::default();
    options.hosts = hosts.collect::<Result<_, _>>()?;
    options.app_name = Some("picket-aggregator".to_owned());
    options.repl_set_name.clone_from(&settings.replica_set);
    options.server_selection_timeout =
        Some(Duration::from_secs(settings.server_selection_s.into()));
    options.connect_timeout = Some(Duration::from_secs(5));
    options.write_concern = Some(durable());
    options.read_concern = Some(ReadConcern::majority());
    if !settings.allow_plaintext {
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
    Ok(options)
}

fn password(path: &Path) -> Result<String, StoreError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| StoreError::Password { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
