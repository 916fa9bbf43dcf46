//! Stores from text: the environment, a URL, a table of options.

use object_store::{ObjectStore, path::Path};
use url::Url;
use xdpfs_client::{Client, ClientOptions, OptionsError};

use crate::{XdpfsStore, error::generic};

/// The schemes of URLs.
const SCHEMES: [&str; 2] = ["xdpfs", "xdp"];

/// Makes a store of a bucket of a cluster.
///
/// ```
/// use xdpfs_object_store::XdpfsStoreBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = XdpfsStoreBuilder::new().with_bucket("lake").with_option("endpoint", "127.0.0.1:7001")?;
/// // Nothing is sent before the first request.
/// assert_eq!(builder.build()?.to_string(), "xdpfs://lake");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct XdpfsStoreBuilder {
    client: ClientOptions,
    bucket: Option<String>,
    has_versions: bool,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The client can't be had.
    #[error("there is no client")]
    Client(#[from] xdpfs_client::Error),
    /// No bucket is named.
    #[error("no bucket is named")]
    NoBucket,
    /// What is said about the client makes no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A URL is of another kind.
    #[error("{0} is not xdpfs://BUCKET/PATH")]
    Url(String),
}

impl XdpfsStoreBuilder {
    /// One that has been told nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that has been told what the environment says, in the variables of the command line tool.
    ///
    /// # Errors
    /// One of them makes no sense.
    pub fn from_env() -> Result<Self, BuildError> {
        Ok(Self { client: ClientOptions::from_env()?, ..Self::default() })
    }

    /// The bucket.
    #[must_use]
    pub fn with_bucket(self, bucket: impl Into<String>) -> Self {
        Self { bucket: Some(bucket.into()), ..self }
    }

    /// The bucket of `xdpfs://BUCKET/`, with or without a path.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn with_url(self, url: &Url) -> Result<Self, BuildError> {
        let bucket = SCHEMES.contains(&url.scheme()).then(|| url.host_str()).flatten();
        let bucket = bucket.filter(|bucket| !bucket.is_empty());
        // Whoever puts a port or a user there expects something that does not happen.
        let is_bare = url.port().is_none() && url.username().is_empty() && url.password().is_none();
        match bucket.filter(|_| is_bare) {
            Some(bucket) => Ok(self.with_bucket(bucket)),
            None => Err(BuildError::Url(shown(url))),
        }
    }

    /// One option by its name: `bucket`, `versions` (`true` or `false`), or one of [`ClientOptions::set`].
    ///
    /// # Errors
    /// There is no such option, or it has no such value.
    pub fn with_option(mut self, name: &str, value: &str) -> Result<Self, BuildError> {
        match name {
            "bucket" => self.bucket = Some(value.to_owned()),
            "versions" => {
                let bad = |_error| {
                    let value = value.to_owned();
                    OptionsError::BadValue { name: "versions", value, expected: "true or false" }
                };
                self.has_versions = value.parse().map_err(bad)?;
            }
            name => self.client.set(name, value)?,
        }
        Ok(self)
    }

    /// The store. Nothing is sent yet.
    ///
    /// # Errors
    /// Something is missing or makes no sense.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<XdpfsStore, BuildError> {
        let bucket = self.bucket.ok_or(BuildError::NoBucket)?;
        let store = XdpfsStore::new(Client::connect(self.client.config()?)?, bucket);
        Ok(if self.has_versions { store.with_versions() } else { store })
    }
}

/// The store and the path that a URL names, as `object_store::parse_url` does it for others; the environment says which
/// cluster.
///
/// # Errors
/// It is no such URL, or the environment does not say enough.
///
/// # Panics
/// Outside a tokio runtime.
pub fn parse_url(url: &Url) -> object_store::Result<(Box<dyn ObjectStore>, Path)> {
    parse_url_opts(url, std::iter::empty::<(&str, &str)>())
}

/// The same, with options that count before the environment.
///
/// # Errors
/// As before, or an option makes no sense.
///
/// # Panics
/// Outside a tokio runtime.
pub fn parse_url_opts<I, K, V>(url: &Url, options: I) -> object_store::Result<(Box<dyn ObjectStore>, Path)>
where
    I: IntoIterator<Item = (K, V)>,
    K: AsRef<str>,
    V: AsRef<str>,
{
    let builder = XdpfsStoreBuilder::from_env().and_then(|builder| builder.with_url(url)).map_err(generic)?;
    let builder = options.into_iter().try_fold(builder, |builder, (name, value)| {
        builder.with_option(name.as_ref(), value.as_ref()).map_err(generic)
    })?;
    let store = builder.build().map_err(generic)?;
    Ok((Box::new(store), Path::from_url_path(url.path())?))
}

/// Without what may be a secret.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_names_the_bucket() {
        let check = |text: &str, bucket: Option<&str>| {
            let built = XdpfsStoreBuilder::new().with_url(&text.parse().unwrap());
            assert_eq!(built.ok().and_then(|builder| builder.bucket).as_deref(), bucket, "{text}");
        };
        check("xdpfs://lake/tables/a", Some("lake"));
        check("xdp://a.b-c", Some("a.b-c"));
        check("s3://lake/", None);
        check("xdpfs://user:secret@lake/", None);
        check("xdpfs://lake:80/", None);
        check("xdpfs:///lake", None);
    }

    #[tokio::test]
    async fn options_count_and_the_rest_of_the_url_is_the_path() {
        let url = "xdpfs://lake/tables/a%20b".parse().unwrap();
        let (store, path) = parse_url_opts(&url, [("endpoint", "127.0.0.1:7001")]).unwrap();
        assert_eq!((store.to_string().as_str(), path.as_ref()), ("xdpfs://lake", "tables/a b"));
        assert!(parse_url_opts(&url, [("endpoint", "127.0.0.1:7001"), ("endpiont", "x")]).is_err());
        assert!(parse_url_opts(&url, [("endpoint", "nowhere")]).is_err());
    }
}
