//! Pages of keys, grouped by a delimiter. What a bucket held before a change is not remembered: a consistent listing fails
//! after any.

use std::ops::Bound::{Excluded, Included, Unbounded};

use super::store::StoredBucket;
use crate::{
    ListOptions, ListPage, ObjectVersion, VersionListOptions, VersionPage,
    error::{Error, Result},
};

const LINES_MAX: usize = 1000;

/// Where a page begins, as its token says.
enum Start<'a> {
    AfterGroup(&'a str),
    AfterKey(&'a str),
}

pub(super) fn page(bucket: &StoredBucket, options: &ListOptions) -> Result<ListPage> {
    let (objects, as_of) = (&bucket.shelf.objects, bucket.changes);
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

/// The same of versions. A token says how many lines were given.
pub(super) fn version_page(bucket: &StoredBucket, options: &VersionListOptions) -> Result<VersionPage> {
    let as_of = bucket.changes;
    let bad_token = || Error::invalid("the page token is not one of this cluster");
    let lines = version_lines(bucket, options);
    let mut given = 0;
    if let Some(token) = options.page.as_deref() {
        let (moment, before) = token.split_once('v').ok_or_else(bad_token)?;
        let moment: u64 = moment.parse().map_err(|_| bad_token())?;
        if options.consistent && moment != as_of {
            return Err(Error::ListingExpired { bucket: bucket.name().to_owned() });
        }
        let before: usize = before.parse().map_err(|_| bad_token())?;
        given = before.min(lines.len());
    }
    let mut page = VersionPage { as_of, ..VersionPage::default() };
    let lines_max =
        options.page_size.filter(|size| *size > 0).map_or(LINES_MAX, |size| LINES_MAX.min(size as usize));
    page.next = (given + lines_max < lines.len()).then(|| format!("{as_of}v{}", given + lines_max));
    for line in lines.into_iter().skip(given).take(lines_max) {
        match line {
            VersionLine::Group(group) => page.prefixes.push(group),
            VersionLine::Version(version) => page.versions.push(*version),
        }
    }
    Ok(page)
}

enum VersionLine {
    Group(String),
    Version(Box<ObjectVersion>),
}

fn version_lines(bucket: &StoredBucket, options: &VersionListOptions) -> Vec<VersionLine> {
    let mut lines = Vec::new();
    let mut last_group = None;
    for key in bucket.shelf.keys().filter(|key| key.starts_with(&options.prefix)) {
        let rest = &key[options.prefix.len()..];
        let at = rest.find(&options.delimiter).filter(|_| !options.delimiter.is_empty());
        let Some(at) = at else {
            lines.extend(bucket.shelf.versions(key).map(Box::new).map(VersionLine::Version));
            continue;
        };
        let group = &key[..options.prefix.len() + at + options.delimiter.len()];
        if last_group.replace(group) != Some(group) {
            lines.push(VersionLine::Group(group.to_owned()));
        }
    }
    lines
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
