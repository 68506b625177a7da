//! How to connect to a stack, as a value, as TOML and as shell variables.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use picket_pki::{Authority, Identity, Role};
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use super::{GUESTS_NAME, HOST, PORTS, StackOptions};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub dir: PathBuf,
    /// Kafka's, its controller's, MongoDB's, Kafka's for virtual machines, Kafka's behind a proxy, the
    /// proxy's, Kafka's for clients with a password; those of further brokers, and of further members
    /// of MongoDB's replica set.
    pub ports: Vec<u16>,
    pub kafka: KafkaSettings,
    pub mongodb: MongoSettings,
    pub admin: Credentials,
    pub aggregator: Credentials,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KafkaSettings {
    /// The brokers, separated by commas.
    pub bootstrap: String,
    /// The same broker for a virtual machine on this host, by the name [`GUESTS_NAME`], which the
    /// machine must know as its host's address.
    pub bootstrap_for_guests: String,
    /// The same broker by way of a proxy, while one runs there.
    pub proxy: String,
    /// The same broker for clients that log in with a password, and may show a certificate.
    pub passwords: String,
    pub topic_prefix: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MongoSettings {
    /// Of each member of the replica set, the first one first.
    pub ports: Vec<u16>,
    /// Without the password.
    pub uri: String,
    pub database: String,
    pub user: String,
    pub password_file: PathBuf,
    /// Holds the URI with user and password, for tools that take nothing else.
    pub uri_file: PathBuf,
    /// The same for the user who may do everything.
    pub admin_uri_file: PathBuf,
    pub ca: PathBuf,
}

/// What a client shows and trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub name: String,
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl From<Identity> for Credentials {
    fn from(identity: Identity) -> Self {
        Self {
            name: identity.name,
            ca: identity.authority,
            certificate: identity.certificate,
            key: identity.key,
        }
    }
}

impl Settings {
    pub(super) fn new(
        dir: &Path,
        options: &StackOptions,
        authority: &Authority,
        ports: Vec<u16>,
    ) -> Result<Self> {
        let &[kafka, _, mongodb, guests, _, proxy, passwords, ref further @ ..] = ports.as_slice()
        else {
            anyhow::bail!(
                "a stack has {PORTS} ports, and {} has {}: an older stack was made in it; use a new folder",
                dir.display(),
                ports.len()
            )
        };
        let folder = dir.join("mongodb");
        let ca = authority.certificate();
        let brokers = usize::from(options.brokers.max(1)) - 1;
        anyhow::ensure!(brokers <= further.len(), "the ports are those of another kind of stack");
        let (further, members) = further.split_at(brokers);
        let members = [&[mongodb], members].concat();
        let addresses = |ports: &[u16]| {
            ports.iter().map(|port| format!("{HOST}:{port}")).collect::<Vec<_>>().join(",")
        };
        Ok(Self {
            dir: dir.to_owned(),
            kafka: KafkaSettings {
                bootstrap: addresses(&[&[kafka], further].concat()),
                bootstrap_for_guests: format!("{GUESTS_NAME}:{guests}"),
                proxy: format!("{HOST}:{proxy}"),
                passwords: format!("{HOST}:{passwords}"),
                topic_prefix: options.topic_prefix.clone(),
            },
            mongodb: MongoSettings {
                uri: mongodb_uri(&addresses(&members), &ca),
                ports: members,
                database: options.database.clone(),
                user: "picket".to_owned(),
                password_file: folder.join("picket.password"),
                uri_file: folder.join("picket.uri"),
                admin_uri_file: folder.join("admin.uri"),
                ca,
            },
            admin: authority.identity(Role::Admin, "admin").into(),
            aggregator: authority.identity(Role::Aggregator, "centre").into(),
            ports,
        })
    }

    /// What a stack wrote in `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("settings.toml");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no stack was started in {}", dir.display()))?;
        toml::from_str(&text).with_context(|| format!("settings {}", path.display()))
    }

    pub(super) fn write(&self) -> Result<()> {
        fs::write(self.dir.join("settings.toml"), toml::to_string(self)?)?;
        fs::write(self.dir.join("settings.env"), self.to_env()?)?;
        for who in [&self.admin, &self.aggregator] {
            self.write_client_files(who)?;
        }
        Ok(())
    }

    /// Where the brokers listen, the first one first.
    pub fn broker_ports(&self) -> Vec<u16> {
        let is_broker = |port: &&u16| !self.mongodb.ports.contains(port);
        let further = self.ports.iter().skip(PORTS).filter(is_broker);
        self.ports.first().into_iter().chain(further).copied().collect()
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// librdkafka's settings for this identity; without one, for a client that shows no certificate.
    pub fn kafka_client(&self, who: Option<&Credentials>) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in self.client_properties(who) {
            config.set(key, value);
        }
        config
    }

    fn client_properties(&self, who: Option<&Credentials>) -> Vec<(&'static str, String)> {
        let mut properties = vec![
            ("bootstrap.servers", self.kafka.bootstrap.clone()),
            ("security.protocol", "ssl".to_owned()),
            ("ssl.ca.location", self.admin.ca.display().to_string()),
        ];
        if let Some(who) = who {
            properties.push(("ssl.certificate.location", who.certificate.display().to_string()));
            properties.push(("ssl.key.location", who.key.display().to_string()));
        }
        properties
    }

    /// For other people's tools: `kcat -F FILE`, and Kafka's own `--command-config FILE`.
    pub(super) fn write_client_files(&self, who: &Credentials) -> Result<()> {
        let folder = self.dir.join("kafka/clients");
        fs::create_dir_all(&folder)?;
        let mut kcat = String::new();
        for (key, value) in self.client_properties(Some(who)) {
            writeln!(kcat, "{key}={value}")?;
        }
        fs::write(folder.join(format!("{}.kcat", who.name)), kcat)?;
        let java = format!(
            "security.protocol=SSL\nssl.keystore.type=PEM\nssl.keystore.location={}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={}\n",
            who.certificate.with_extension("pem").display(),
            who.ca.display(),
        );
        fs::write(folder.join(format!("{}.properties", who.name)), java)?;
        Ok(())
    }

    /// The same for a shell: `. settings.env`.
    fn to_env(&self) -> Result<String> {
        let MongoSettings { uri, database, user, password_file, uri_file, .. } = &self.mongodb;
        let pairs = [
            ("PICKET_STACK_DIR", self.dir.display().to_string()),
            ("PICKET_KAFKA_BOOTSTRAP", self.kafka.bootstrap.clone()),
            ("PICKET_TOPIC_PREFIX", self.kafka.topic_prefix.clone()),
            ("PICKET_CA", self.admin.ca.display().to_string()),
            ("PICKET_ADMIN_CERTIFICATE", self.admin.certificate.display().to_string()),
            ("PICKET_ADMIN_KEY", self.admin.key.display().to_string()),
            ("PICKET_AGGREGATOR_CERTIFICATE", self.aggregator.certificate.display().to_string()),
            ("PICKET_AGGREGATOR_KEY", self.aggregator.key.display().to_string()),
            ("PICKET_MONGODB_URI", uri.clone()),
            ("PICKET_MONGODB_DATABASE", database.clone()),
            ("PICKET_MONGODB_USER", user.clone()),
            ("PICKET_MONGODB_PASSWORD_FILE", password_file.display().to_string()),
            ("PICKET_MONGODB_URI_FILE", uri_file.display().to_string()),
        ];
        let mut text = String::new();
        for (name, value) in pairs {
            writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''"))?;
        }
        Ok(text)
    }
}

/// The address with everything but who one is.
fn mongodb_uri(address: &str, ca: &Path) -> String {
    let ca = percent_encoded(&ca.display().to_string());
    format!("mongodb://{address}/?replicaSet=picket&tls=true&tlsCAFile={ca}")
}

/// As a value in a URI's query; a folder's name may hold anything.
fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_' | b'~');
    text.bytes().fold(String::new(), |mut out, b| {
        if plain(b) {
            out.push(char::from(b));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}
