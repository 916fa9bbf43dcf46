//! Listing keys, by pages or all of them.

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};

use crate::{Object, ObjectClient, error::Result};

/// Which keys to list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ListOptions {
    /// Only keys that start with this.
    pub prefix: String,
    /// Keys that agree up to this text behind the prefix become one group; empty: no groups.
    pub delimiter: String,
    /// Only keys behind this one.
    pub start_after: String,
    /// The most keys and groups of a page; `None`: 1000, which is also the most.
    pub page_size: Option<u32>,
    /// The page to give: `next` of the page before.
    pub page: Option<String>,
    /// Fail, with [`Error::ListingExpired`](crate::Error::ListingExpired), where the cluster no longer remembers the bucket as it
    /// was for the first page. Otherwise the listing goes on with the bucket as it is, and `as_of` says so.
    pub consistent: bool,
}

/// Some keys, in byte order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ListPage {
    /// The objects.
    pub objects: Vec<Object>,
    /// Groups: each is a prefix up to and with the delimiter.
    pub prefixes: Vec<String>,
    /// The page that follows; `None` after the last one.
    pub next: Option<String>,
    /// The moment that the page shows; all pages of one picture have the same.
    pub as_of: u64,
}

/// All objects whose keys start with `prefix`, page by page as the stream is read. They are those of one moment, unless the
/// bucket changes so much, or the stream is read so slowly, that the cluster forgets that moment: then the rest are those of
/// a later one. [`objects_at_once`] fails instead.
pub fn objects<C: ObjectClient>(
    client: &C,
    bucket: &str,
    prefix: &str,
) -> impl Stream<Item = Result<Object>> + Send + use<C> {
    pages(client, bucket, ListOptions { prefix: prefix.to_owned(), ..ListOptions::default() })
}

/// All objects whose keys start with `prefix`, as they were at one moment, page by page as the stream is read.
///
/// # Errors
///
/// The stream ends with [`Error::ListingExpired`](crate::Error::ListingExpired) if the cluster forgets that moment.
pub fn objects_at_once<C: ObjectClient>(
    client: &C,
    bucket: &str,
    prefix: &str,
) -> impl Stream<Item = Result<Object>> + Send + use<C> {
    let consistent = true;
    pages(client, bucket, ListOptions { prefix: prefix.to_owned(), consistent, ..ListOptions::default() })
}

fn pages<C: ObjectClient>(
    client: &C,
    bucket: &str,
    first: ListOptions,
) -> impl Stream<Item = Result<Object>> + Send + use<C> {
    let start = (client.clone(), bucket.to_owned(), Some(first));
    stream::try_unfold(start, |(client, bucket, options)| async move {
        let Some(options) = options else { return Ok(None) };
        let page = client.list(&bucket, options.clone()).await?;
        let rest = page.next.map(|next| ListOptions { page: Some(next), ..options });
        Ok(Some((stream::iter(page.objects).map(Ok), (client, bucket, rest))))
    })
    .try_flatten()
}
