//! Keys as paths, page by page.
//!
//! Invariant: a key that no path can be is said, and never left out or shown as another one. Markers of directories, which
//! other programs leave, are no objects here.

use async_trait::async_trait;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    Error, ListResult, ObjectMeta, Result,
    list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore},
    path::{DELIMITER, Path},
};
use xdpfs_client::{ListOptions, ListPage, Object, ObjectClient};

use crate::{
    XdpfsStore,
    error::{Condition, generic, translate},
};

/// All objects below `prefix`, those behind `offset` if there is one.
pub(crate) fn all<C: ObjectClient>(
    store: &XdpfsStore<C>,
    prefix: Option<&Path>,
    offset: Option<&Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let start_after = offset.map(ToString::to_string).unwrap_or_default();
    let options = ListOptions { prefix: directory_prefix(prefix), start_after, ..ListOptions::default() };
    let (store, this) = (store.clone(), store.clone());
    pages(store, options)
        .map_ok(move |page| {
            let this = this.clone();
            stream::iter(page.objects.into_iter().filter_map(move |object| meta(&this, &object).transpose()))
        })
        .try_flatten()
        .boxed()
}

/// What lies directly below `prefix`.
pub(crate) async fn directory<C: ObjectClient>(
    store: &XdpfsStore<C>,
    prefix: Option<&Path>,
) -> Result<ListResult> {
    let delimiter = DELIMITER.to_owned();
    let options = ListOptions { prefix: directory_prefix(prefix), delimiter, ..ListOptions::default() };
    let mut all = ListResult { common_prefixes: vec![], objects: vec![], extensions: Default::default() };
    let mut pages = Box::pin(pages(store.clone(), options));
    while let Some(page) = pages.try_next().await? {
        let ListResult { common_prefixes, objects, .. } = result(store, page)?;
        all.common_prefixes.extend(common_prefixes);
        all.objects.extend(objects);
    }
    Ok(all)
}

#[async_trait]
impl<C: ObjectClient> PaginatedListStore for XdpfsStore<C> {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        opts: PaginatedListOptions,
    ) -> Result<PaginatedListResult> {
        let PaginatedListOptions { offset, delimiter, max_keys, page_token, extensions: _ } = opts;
        let options = ListOptions {
            prefix: prefix.unwrap_or_default().to_owned(),
            delimiter: delimiter.unwrap_or_default().into_owned(),
            start_after: offset.unwrap_or_default(),
            page_size: max_keys.map(|most| u32::try_from(most).unwrap_or(u32::MAX).clamp(1, PAGE_MAX)),
            page: page_token,
            consistent: false,
        };
        let mut page = ask(self, options).await?;
        let page_token = page.next.take();
        Ok(PaginatedListResult { result: result(self, page)?, page_token })
    }
}

/// The most keys of a page.
const PAGE_MAX: u32 = 1000;

fn pages<C: ObjectClient>(
    store: XdpfsStore<C>,
    first: ListOptions,
) -> impl Stream<Item = Result<ListPage>> + Send {
    stream::try_unfold((store, Some(first)), |(store, options)| async move {
        let Some(options) = options else { return Ok(None) };
        let mut page = ask(&store, options.clone()).await?;
        let rest = page.next.take().map(|next| ListOptions { page: Some(next), ..options });
        Ok(Some((page, (store, rest))))
    })
}

async fn ask<C: ObjectClient>(store: &XdpfsStore<C>, options: ListOptions) -> Result<ListPage> {
    let prefix = options.prefix.clone();
    let page = store.client.list(&store.bucket, options).await;
    page.map_err(|error| translate(error, prefix, Condition::Same))
}

fn result<C: ObjectClient>(store: &XdpfsStore<C>, page: ListPage) -> Result<ListResult> {
    let objects = page.objects.iter().filter_map(|object| meta(store, object).transpose());
    let common_prefixes = page.prefixes.iter().map(|prefix| {
        match prefix.strip_suffix(DELIMITER) {
            // As a path it would be the root.
            Some("") => Err(no_path(prefix)),
            Some(whole) => path(whole),
            None => path(prefix),
        }
    });
    Ok(ListResult {
        objects: objects.collect::<Result<_>>()?,
        common_prefixes: common_prefixes.collect::<Result<_>>()?,
        extensions: Default::default(),
    })
}

/// The object; nothing if it marks a directory.
fn meta<C: ObjectClient>(store: &XdpfsStore<C>, object: &Object) -> Result<Option<ObjectMeta>> {
    if object.size == 0 && object.key.ends_with(DELIMITER) {
        return Ok(None);
    }
    Ok(Some(store.meta(path(&object.key)?, object)))
}

/// The path whose text is the key.
fn path(key: &str) -> Result<Path> {
    let path = Path::parse(key)?;
    if path.as_ref() != key {
        return Err(no_path(key));
    }
    Ok(path)
}

fn no_path(key: &str) -> Error {
    generic(format!("no path names the key {key:?}"))
}

fn directory_prefix(prefix: Option<&Path>) -> String {
    match prefix.map(AsRef::<str>::as_ref) {
        None | Some("") => String::new(),
        Some(path) => format!("{path}{DELIMITER}"),
    }
}
