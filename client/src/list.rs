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
}

/// All objects whose keys start with `prefix`, page by page as the stream is read.
pub fn objects<C: ObjectClient>(
    client: &C,
    bucket: &str,
    prefix: &str,
) -> impl Stream<Item = Result<Object>> + Send + use<C> {
    let first = ListOptions { prefix: prefix.to_owned(), ..ListOptions::default() };
    let start = (client.clone(), bucket.to_owned(), Some(first));
    stream::try_unfold(start, |(client, bucket, options)| async move {
        let Some(options) = options else { return Ok(None) };
        let page = client.list(&bucket, options.clone()).await?;
        let rest = page.next.map(|next| ListOptions { page: Some(next), ..options });
        Ok(Some((stream::iter(page.objects).map(Ok), (client, bucket, rest))))
    })
    .try_flatten()
}
