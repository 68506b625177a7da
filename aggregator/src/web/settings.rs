//! `[web]`: where the pages are served.

use std::net::SocketAddr;

use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[web]`: the pages, the API and the metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on; must be a loopback one, since the pages show pictures of people and do
    /// not ask who is looking.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}

impl Settings {
    /// Refuses an address that others could reach.
    pub fn check(&self) -> Result<(), Problem> {
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        let port = self.listen.port();
        let problem = format!(
            "{} can be reached by others, and the pages have neither TLS nor sign-in yet: anyone \
             could watch the cameras; use 127.0.0.1:{port} or [::1]:{port}, and reach it through an \
             SSH tunnel or a proxy that has both",
            self.listen
        );
        Err(Problem::new("web.listen", problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: &str) -> Settings {
        Settings { listen: listen.parse().unwrap() }
    }

    #[test]
    fn a_loopback_address_is_taken() {
        for listen in ["127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080"] {
            assert_eq!(settings(listen).check(), Ok(()), "{listen}");
        }
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn an_address_that_others_can_reach_is_refused_and_the_error_says_why() {
        for listen in ["0.0.0.0:8080", "192.168.1.4:8080", "[::]:8080", "[2001:db8::1]:8080"] {
            let problem = settings(listen).check().unwrap_err();
            assert_eq!(problem.field, "web.listen");
            assert!(problem.problem.contains("sign-in"), "{}", problem.problem);
            assert!(problem.problem.contains("127.0.0.1:8080"), "{}", problem.problem);
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(toml::from_str::<Settings>("lisen = '127.0.0.1:1'").is_err());
    }
}
