//! How to reach MongoDB.

use std::path::PathBuf;

use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

/// Section `[store]`: the MongoDB replica set that holds everything the centre knows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Members of the replica set as `host:port`; one is enough to find the others.
    pub hosts: Vec<String>,
    /// Name of the replica set; without it, that of the servers named above. A single server must be
    /// a replica set of one, because checkpoints are written in transactions.
    #[serde(default)]
    pub replica_set: Option<String>,
    /// Name of the database.
    #[serde(default = "default_database")]
    pub database: String,
    /// User to log in as; without one no log-in takes place.
    #[serde(default)]
    pub user: Option<String>,
    /// File that holds the user's password and nothing else. Required with `user`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Database that knows the user.
    #[serde(default = "default_auth_database")]
    pub auth_database: String,
    /// PEM file with the certificate authority that signed the servers' certificates. Without it
    /// the public authorities are trusted.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file with a certificate and key to present to the servers.
    #[serde(default)]
    pub certificate_key_file: Option<PathBuf>,
    /// Talk to MongoDB without TLS. For a server on this machine only.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// How long to look for a usable server before a step counts as failed, in seconds.
    #[serde(default = "default_server_selection_s")]
    pub server_selection_s: u32,
}

fn default_database() -> String {
    "picket".to_owned()
}

fn default_auth_database() -> String {
    "admin".to_owned()
}

fn default_server_selection_s() -> u32 {
    5
}

impl Settings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        if self.hosts.is_empty() {
            return Err(Problem::new("hosts", "name at least one server as host:port"));
        }
        for host in &self.hosts {
            if host.contains("://") || host.contains('@') {
                return Err(Problem::new(
                    "hosts",
                    "must be host:port alone; user and password have fields of their own",
                ));
            }
        }
        if self.database.is_empty() || self.database.contains(['/', '\\', '.', ' ', '"', '$']) {
            return Err(Problem::new("database", "is not a name that MongoDB takes"));
        }
        match (&self.user, &self.password_file) {
            (Some(_), None) => Err(Problem::new("password_file", "is needed with `user`")),
            (None, Some(_)) => Err(Problem::new("user", "is needed with `password_file`")),
            _ if self.allow_plaintext && self.ca_file.is_some() => Err(Problem::new(
                "allow_plaintext",
                "contradicts `ca_file`: leave one of the two out",
            )),
            _ if self.server_selection_s == 0 => {
                Err(Problem::new("server_selection_s", "must be 1 or more"))
            }
            _ => Ok(()),
        }
    }
}
