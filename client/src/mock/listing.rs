//! Pages of keys, grouped by a delimiter. What a bucket held before a change is not remembered: a consistent listing fails
//! after any.

use std::ops::Bound::{Excluded, Included, Unbounded};

use super::store::StoredBucket;
use crate::{
    ListOptions, ListPage,
    error::{Error, Result},
};

const LINES_MAX: usize = 1000;

/// Where a page begins, as its token says.
enum Start<'a> {
    AfterGroup(&'a str),
    AfterKey(&'a str),
}

pub(super) fn page(bucket: &StoredBucket, options: &ListOptions) -> Result<ListPage> {
    let (objects, as_of) = (&bucket.objects, bucket.changes);
    let start = match options.page.as_deref() {
        Some(token) => {
            let (start, moment) = parse_token(token)
                .ok_or_else(|| Error::invalid("the page token is not one of this cluster"))?;
            if options.consistent && moment != as_of {
                return Err(Error::ListingExpired { bucket: bucket.name().to_owned() });
            }
            start
        }
        None => Start::AfterKey(&options.start_after),
    };
    let lines_max =
        options.page_size.filter(|size| *size > 0).map_or(LINES_MAX, |size| LINES_MAX.min(size as usize));
    let (Start::AfterGroup(after) | Start::AfterKey(after)) = start;
    let from =
        if options.prefix.as_str() > after { Included(options.prefix.as_str()) } else { Excluded(after) };
    let keys = objects.range::<str, _>((from, Unbounded));
    let mut keys = keys.take_while(|(key, _)| key.starts_with(&options.prefix)).peekable();
    if let Start::AfterGroup(group) = start {
        while keys.next_if(|(key, _)| key.starts_with(group)).is_some() {}
    }
    let mut page = ListPage { as_of, ..ListPage::default() };
    let mut last = None;
    while page.objects.len() + page.prefixes.len() < lines_max {
        let Some((key, stored)) = keys.next() else { return Ok(page) };
        match group(key, options) {
            Some(group) => {
                while keys.next_if(|(key, _)| key.starts_with(group)).is_some() {}
                page.prefixes.push(group.to_owned());
                last = Some(format!("{as_of}g{group}"));
            }
            None => {
                page.objects.push(stored.object.clone());
                last = Some(format!("{as_of}k{key}"));
            }
        }
    }
    page.next = last.filter(|_| keys.peek().is_some());
    Ok(page)
}

fn parse_token(token: &str) -> Option<(Start<'_>, u64)> {
    let (moment, start) = token.split_at(token.find(|c: char| !c.is_ascii_digit())?);
    let start = match start.strip_prefix('g') {
        Some(group) => Start::AfterGroup(group),
        None => Start::AfterKey(start.strip_prefix('k')?),
    };
    Some((start, moment.parse().ok()?))
}

/// The group that the key belongs to.
fn group<'a>(key: &'a str, options: &ListOptions) -> Option<&'a str> {
    if options.delimiter.is_empty() {
        return None;
    }
    let at = options.prefix.len() + key[options.prefix.len()..].find(&options.delimiter)?;
    Some(&key[..at + options.delimiter.len()])
}
