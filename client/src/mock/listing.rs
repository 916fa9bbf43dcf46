//! Pages of keys, grouped by a delimiter.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use super::store::StoredObject;
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

pub(super) fn page(objects: &BTreeMap<String, StoredObject>, options: &ListOptions) -> Result<ListPage> {
    let start = match options.page.as_deref() {
        Some(token) => {
            parse_token(token).ok_or_else(|| Error::invalid("the page token is not one of this cluster"))?
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
    let mut page = ListPage::default();
    let mut last = None;
    while page.objects.len() + page.prefixes.len() < lines_max {
        let Some((key, stored)) = keys.next() else { return Ok(page) };
        match group(key, options) {
            Some(group) => {
                while keys.next_if(|(key, _)| key.starts_with(group)).is_some() {}
                page.prefixes.push(group.to_owned());
                last = Some(format!("g{group}"));
            }
            None => {
                page.objects.push(stored.object.clone());
                last = Some(format!("k{key}"));
            }
        }
    }
    page.next = last.filter(|_| keys.peek().is_some());
    Ok(page)
}

fn parse_token(token: &str) -> Option<Start<'_>> {
    match token.strip_prefix('g') {
        Some(group) => Some(Start::AfterGroup(group)),
        None => token.strip_prefix('k').map(Start::AfterKey),
    }
}

/// The group that the key belongs to.
fn group<'a>(key: &'a str, options: &ListOptions) -> Option<&'a str> {
    if options.delimiter.is_empty() {
        return None;
    }
    let at = options.prefix.len() + key[options.prefix.len()..].find(&options.delimiter)?;
    Some(&key[..at + options.delimiter.len()])
}
