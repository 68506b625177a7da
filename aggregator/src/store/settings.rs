//! How to reach MongoDB.

use std::path::PathBuf;

use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

/// Section `[store]`: the MongoDB replica set that holds everything the centre knows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Members of the replica set as `host:port`; one is enough to find the others, as long as it runs.
    /// Either this or `srv_host`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Name under which DNS lists the members, as in `mongodb+srv://NAME/`: its SRV record
    /// `_mongodb._tcp.NAME` is asked at the start and from time to time, its TXT record may name the
    /// replica set. Members must have names of the same domain.
    #[serde(default)]
    pub srv_host: Option<String>,
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
    /// PEM file with a certificate and its key to present to the servers.
    #[serde(default)]
    pub certificate_key_file: Option<PathBuf>,
    /// Log in by the certificate of `certificate_key_file` instead of a password (MONGODB-X509). The
    /// servers must know a user of the certificate's subject, such as `CN=centre,OU=aggregator`, in
    /// the database `$external`.
    #[serde(default)]
    pub x509: bool,
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
        match (&self.srv_host, self.hosts.is_empty()) {
            (None, true) => {
                return Err(Problem::new(
                    "hosts",
                    "name at least one server as host:port, or the fleet of them by `srv_host`",
                ));
            }
            (Some(_), false) => {
                return Err(Problem::new(
                    "srv_host",
                    "contradicts `hosts`: leave one of the two out",
                ));
            }
            (Some(name), true) if name.is_empty() || name.contains([':', '/', '@', '?', ',']) => {
                return Err(Problem::new(
                    "srv_host",
                    "must be a name alone, without mongodb+srv:// and without a port",
                ));
            }
            _ => {}
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
        if self.x509 {
            self.check_x509()?;
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

    fn check_x509(&self) -> Result<(), Problem> {
        if self.certificate_key_file.is_none() {
            return Err(Problem::new("certificate_key_file", "is needed with `x509`"));
        }
        for (field, is_set) in [
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
            ("allow_plaintext", self.allow_plaintext),
        ] {
            if is_set {
                let problem = "contradicts `x509`, which logs in by certificate: leave it out";
                return Err(Problem::new(field, problem));
            }
        }
        Ok(())
    }

    /// Where the servers are, for people.
    pub fn address(&self) -> String {
        match &self.srv_host {
            Some(name) => format!("mongodb+srv://{name}"),
            None => self.hosts.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Option<String> {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.check().err().map(|problem| problem.field)
    }

    #[test]
    fn servers_are_named_one_by_one_or_by_one_name_for_all() {
        assert_eq!(problem("hosts = ['a:27017']"), None);
        assert_eq!(problem("srv_host = 'cluster.example.net'"), None);
        for (text, field) in [
            ("", "hosts"),
            ("hosts = ['a:1']\nsrv_host = 'b.example.net'", "srv_host"),
            ("srv_host = 'mongodb+srv://b.example.net'", "srv_host"),
            ("srv_host = 'b.example.net:27017'", "srv_host"),
            ("srv_host = ''", "srv_host"),
            ("hosts = ['mongodb://a:1']", "hosts"),
        ] {
            assert_eq!(problem(text).as_deref(), Some(field), "{text}");
        }
    }

    #[test]
    fn a_log_in_is_by_password_or_by_certificate_and_has_what_it_needs() {
        let by_certificate = "hosts = ['a:1']\nx509 = true\ncertificate_key_file = '/c.pem'";
        assert_eq!(problem(by_certificate), None);
        for (more, field) in [
            ("user = 'u'\npassword_file = '/p'", "user"),
            ("password_file = '/p'", "password_file"),
            ("allow_plaintext = true", "allow_plaintext"),
        ] {
            let both = format!("{by_certificate}\n{more}");
            assert_eq!(problem(&both).as_deref(), Some(field), "{more}");
        }
        let without = "hosts = ['a:1']\nx509 = true";
        assert_eq!(problem(without).as_deref(), Some("certificate_key_file"));
        assert_eq!(problem("hosts = ['a:1']\nuser = 'u'").as_deref(), Some("password_file"));
    }
}
