//! Names of devices and cameras.
//!
//! One rule for both, checked where a name enters (config, certificate, message), so that no later
//! code has to ask whether a name is safe in an id, a topic key, a file path or a page.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name, in bytes (names are ASCII).
pub const MAX_NAME_BYTES: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name {name:?} is not valid: 1 to {MAX_NAME_BYTES} of a-z, 0-9, '.', '_' and '-', \
     beginning with a letter or digit"
)]
pub struct NameError {
    name: String,
}

fn check(name: &str) -> Result<(), NameError> {
    let tail = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let mut bytes = name.bytes();
    let head_ok = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if head_ok && name.len() <= MAX_NAME_BYTES && bytes.all(tail) {
        Ok(())
    } else {
        // A refused name comes from outside and may be megabytes long: an error quotes its head.
        Err(NameError { name: name.chars().take(80).collect() })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(
            #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))] String,
        );

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A device: one box, one certificate.
    DeviceName
);
name_type!(
    /// A camera of a device. Unique within the device only.
    CameraName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_allowed_characters_is_taken() {
        for name in ["a", "0", "cam-1", "gate.north_2", &"a".repeat(63)] {
            assert_eq!(name.parse::<CameraName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn anything_else_is_refused_and_the_error_quotes_it() {
        for name in ["", "-a", ".a", "A", "a/b", "a b", "ä", "a#1", &"a".repeat(64)] {
            let error = name.parse::<DeviceName>().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
