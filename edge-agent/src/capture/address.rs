//! An address that may hold a secret.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A URI whose user, password, query and fragment are never shown: neither by `Display` nor by
/// `Debug`, nor when it is written as JSON or TOML. Whoever needs them asks by name.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

/// User and password as they stand in an address, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password, empty if none.
    pub password: String,
}

impl Address {
    /// An address from text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// All of it, secrets included: only for the element that connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the scheme is one of these.
    pub fn has_scheme(&self, schemes: &[&str]) -> bool {
        let scheme = self.0.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        scheme.is_some_and(|scheme| schemes.contains(&scheme.as_str()))
    }

    /// The path of a `file://` address.
    pub fn file_path(&self) -> Option<std::path::PathBuf> {
        let path = self.0.strip_prefix("file://")?;
        Some(decode_percent(path).into_owned().into())
    }

    /// Scheme, user and password, and the rest from the host on.
    fn parts(&self) -> Option<(&str, Option<&str>, &str)> {
        let (scheme, rest) = self.0.split_once("://")?;
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        match rest[..authority_end].rfind('@') {
            Some(at) => Some((scheme, Some(&rest[..at]), &rest[at + 1..])),
            None => Some((scheme, None, rest)),
        }
    }

    /// Whether a user and password seem to stand in it with signs that end the host: what is meant to
    /// be a password is then taken for a path.
    pub fn has_raw_credentials(&self) -> bool {
        let port = |authority: &str| authority.rsplit_once(':').map(|(_, port)| port.to_owned());
        match self.parts() {
            Some((_, None, rest)) if rest.contains('@') => {
                let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
                port(authority).is_some_and(|port| port.is_empty() || port.parse::<u16>().is_err())
            }
            _ => false,
        }
    }

    /// The address without user and password; the query stays, since the server needs it.
    pub fn without_credentials(&self) -> Cow<'_, str> {
        match self.parts() {
            Some((scheme, Some(_), rest)) => Cow::Owned(format!("{scheme}://{rest}")),
            _ => Cow::Borrowed(&self.0),
        }
    }

    /// User and password, if the address has them.
    pub fn credentials(&self) -> Option<Credentials> {
        let (_, user_info, _) = self.parts()?;
        let (user, password) = user_info?.split_once(':').unwrap_or((user_info?, ""));
        Some(Credentials {
            user: decode_percent(user).into_owned(),
            password: decode_percent(password).into_owned(),
        })
    }

    /// The host and the port, or the scheme's usual one.
    pub fn host_and_port(&self, usual: u16) -> Option<(String, u16)> {
        let (_, _, rest) = self.parts()?;
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, usual),
        };
        Some((host.trim_matches(['[', ']']).to_owned(), port))
    }

    /// `text` with everything removed that this address must not show. For messages of libraries,
    /// which like to quote the address they were given.
    pub fn scrub(&self, text: &str) -> String {
        let mut clean = text.replace(&self.0, &self.to_string());
        clean = clean.replace(self.without_credentials().as_ref(), &self.to_string());
        if let Some((_, user_info, rest)) = self.parts() {
            let query = rest.split_once('?').map_or("", |(_, query)| query);
            let query = query.split(['&', '#']);
            for secret in user_info.into_iter().chain(query).filter(|secret| !secret.is_empty()) {
                clean = clean.replace(secret, "***");
            }
        }
        let password = self.credentials().map(|c| c.password).filter(|p| !p.is_empty());
        password.map_or(clean.clone(), |password| clean.replace(&password, "***"))
    }
}

/// `%41` -> `A`; what is no such code stays as it is.
fn decode_percent(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, user_info, rest)) = self.parts() else {
            return f.write_str("(not an address)");
        };
        // Where a password may have been taken for a port and a path, only what follows it is shown.
        if let (None, Some((before, host))) = (user_info, rest.rsplit_once('@'))
            && before.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':'))
        {
            let host = &host[..host.find(['?', '#']).unwrap_or(host.len())];
            return write!(f, "{scheme}://***@{host}");
        }
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let user = if user_info.is_some() { "***@" } else { "" };
        let more = if end < rest.len() { "?***" } else { "" };
        write!(f, "{scheme}://{user}{}{more}", &rest[..end])
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "uri" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address::new("rtsp://ad%40min:s3cr%3At@10.0.0.5:554/live?token=abc#x")
    }

    #[test]
    fn an_address_never_shows_its_secrets() {
        let shown = [
            format!("{}", address()),
            format!("{:?}", address()),
            serde_json::to_string(&address()).unwrap(),
            address()
                .scrub("Could not open rtsp://ad%40min:s3cr%3At@10.0.0.5:554/live?token=abc#x"),
            address().scrub("login of s3cr:t failed, query token=abc"),
        ];
        for text in shown {
            for secret in ["s3cr", "ad%40min", "abc"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
        assert_eq!(address().to_string(), "rtsp://***@10.0.0.5:554/live?***");
    }

    #[test]
    fn a_password_with_signs_that_end_the_host_is_not_shown_and_is_noticed() {
        for password in ["pa/ss", "pa?ss", "pa#ss", "/pass", "12/ss"] {
            let address = Address::new(format!("rtsp://admin:{password}@10.0.0.5/live?a=b"));
            assert_eq!(address.to_string(), "rtsp://***@10.0.0.5/live");
            assert_eq!(address.has_raw_credentials(), !password.starts_with("12"), "{password}");
        }
        for fine in ["rtsp://u:p@h/live", "rtsp://h:554/a@b", "rtsp://h/a@b", "rtsp://[::1]/a"] {
            assert!(!Address::new(fine).has_raw_credentials(), "{fine}");
        }
    }

    #[test]
    fn credentials_are_taken_out_of_the_address_and_decoded() {
        let credentials = address().credentials().unwrap();
        assert_eq!((&*credentials.user, &*credentials.password), ("ad@min", "s3cr:t"));
        assert_eq!(address().without_credentials(), "rtsp://10.0.0.5:554/live?token=abc#x");
        assert!(Address::new("rtsp://host/a@b").credentials().is_none());
    }

    #[test]
    fn host_and_port_are_taken_out_of_the_address() {
        let of = |text: &str| Address::new(text).host_and_port(554);
        assert_eq!(address().host_and_port(1), Some(("10.0.0.5".to_owned(), 554)));
        assert_eq!(of("rtsp://cam/live"), Some(("cam".to_owned(), 554)));
        assert_eq!(of("rtsp://u:p@[fe80::1]:8554"), Some(("fe80::1".to_owned(), 8554)));
        assert_eq!(of("rtsp://[fe80::1]/a"), Some(("fe80::1".to_owned(), 554)));
        assert_eq!(of("rtsp://cam:port/a"), None);
    }

    #[test]
    fn a_file_address_gives_its_path() {
        let path = Address::new("file:///tmp/a%20b.mp4").file_path().unwrap();
        assert_eq!(path, std::path::Path::new("/tmp/a b.mp4"));
    }
}
