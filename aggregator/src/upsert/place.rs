//! Where pictures are kept, for people, and what to do when that place refuses.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use object_store::client::{HttpError, HttpErrorKind};
use picket_service::logging::chain;

use super::bucket::{BucketUrl, S3};

/// Where pictures are kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// Below a directory.
    Directory(PathBuf),
    /// In a bucket.
    Bucket {
        /// Which.
        url: BucketUrl,
        /// Where its store is.
        address: String,
        /// Where the key is.
        credentials_file: PathBuf,
    },
}

impl Place {
    /// A bucket as configured.
    pub fn bucket(url: &BucketUrl, s3: &S3) -> Self {
        let (address, credentials_file) = (s3.address(), s3.credentials_file.clone());
        Self::Bucket { url: url.clone(), address, credentials_file }
    }

    /// The field that names it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Directory(_) => "upsert.images_directory",
            Self::Bucket { .. } => "upsert.images_url",
        }
    }

    /// What to do about a refusal of the store, where that is known.
    pub fn advice(&self, error: &object_store::Error) -> Option<String> {
        let Self::Bucket { url: BucketUrl { bucket, .. }, address, credentials_file } = self else {
            return None;
        };
        let file = credentials_file.display();
        let said = chain(error);
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if says(&["<Code>NoSuchBucket<"]) {
            return Some(format!(
                "there is no bucket {bucket} at {address}: make it, or correct upsert.images_url"
            ));
        }
        if says(&["<Code>InvalidAccessKeyId<", "<Code>SignatureDoesNotMatch<"])
            || says(&["<Code>ExpiredToken<", "<Code>InvalidToken<"])
        {
            return Some(format!(
                "{address} does not take the key in {file}: correct upsert.s3.credentials_file"
            ));
        }
        if says(&["<Code>RequestTimeTooSkewed<"]) {
            return Some(format!("the clocks of this machine and of {address} differ: set them"));
        }
        if says(&["<Code>AuthorizationHeaderMalformed<", "<Code>PermanentRedirect<"])
            || says(&["incorrectly configured region"])
        {
            return Some(format!(
                "the bucket {bucket} has another region: correct upsert.s3.region"
            ));
        }
        if says(&["invalid peer certificate"]) {
            return Some(format!(
                "the certificate of {address} is not trusted: upsert.s3.ca_file must hold the \
                 authority that signed it"
            ));
        }
        // Of a listing the library does not tell what kind of refusal it is.
        if says(&["403 Forbidden", "401 Unauthorized", "<Code>AccessDenied<"]) {
            return Some(format!(
                "the key in {file} lacks a right to the bucket {bucket}: docs/running.md has those \
                 that it needs"
            ));
        }
        is_unreachable(error)
            .then(|| format!("{address} does not answer: start it, or correct upsert.s3.endpoint"))
    }
}

/// Whether nobody has answered at all.
fn is_unreachable(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return matches!(http.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout);
        }
        cause = error.source();
    }
    false
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket { url: BucketUrl { bucket, prefix }, address, .. } => {
                write!(f, "s3://{bucket}/{prefix} at {address}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(code: &str) -> String {
        let s3: S3 = toml::from_str("credentials_file = '/etc/key'").unwrap();
        let place = Place::bucket(&BucketUrl::parse("s3://pictures/a").unwrap(), &s3);
        let source = format!("<Error><Code>{code}</Code></Error>").into();
        let error = object_store::Error::PermissionDenied { path: "x".to_owned(), source };
        place.advice(&error).unwrap()
    }

    #[test]
    fn each_refusal_is_told_by_the_field_that_is_wrong() {
        for (code, field) in [
            ("NoSuchBucket", "upsert.images_url"),
            ("InvalidAccessKeyId", "upsert.s3.credentials_file"),
            ("SignatureDoesNotMatch", "/etc/key"),
            ("AuthorizationHeaderMalformed", "upsert.s3.region"),
            ("RequestTimeTooSkewed", "clocks"),
            ("AccessDenied", "lacks a right"),
        ] {
            let advice = advice(code);
            assert!(advice.contains(field), "{code}: {advice}");
        }
    }

    #[test]
    fn of_a_directory_the_system_s_own_words_are_enough() {
        let full = object_store::Error::Generic { store: "x", source: "no space left".into() };
        assert_eq!(Place::Directory("/images".into()).advice(&full), None);
    }
}
