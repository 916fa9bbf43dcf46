//! Keys of a bucket in byte order, grouped by a delimiter.
//!
//! Invariant: the work is proportional to what is listed. A group is skipped by seeking behind it, never by walking
//! over its keys.

use std::{
    ops::Bound::{self, Excluded, Included, Unbounded},
    sync::Arc,
};

use xdpfs_wire::BucketId;

use super::{Object, State};

/// Where a listing begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Start {
    /// With the first key behind this one.
    AfterKey(String),
    /// Behind every key that begins with this.
    AfterPrefix(String),
}

/// What to list.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// Only keys that begin with this.
    pub prefix: &'a str,
    /// Groups end with this. Empty: no groups.
    pub delimiter: &'a str,
    /// Where to begin; none is the first key.
    pub start: Option<&'a Start>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq)]
pub enum ListingEntry<'a> {
    /// All keys that begin with this.
    Group(&'a str),
    /// A key by itself.
    Object(&'a str, &'a Object),
}

impl ListingEntry<'_> {
    /// Where the listing goes on behind this line.
    #[must_use]
    pub fn next_start(&self) -> Start {
        match self {
            Self::Group(prefix) => Start::AfterPrefix((*prefix).to_owned()),
            Self::Object(key, _) => Start::AfterKey((*key).to_owned()),
        }
    }
}

impl State {
    /// The lines of a listing, made one at a time.
    pub fn list<'a>(
        &'a self,
        bucket: BucketId,
        listing: Listing<'a>,
    ) -> impl Iterator<Item = ListingEntry<'a>> + 'a {
        let mut next = first_key(listing);
        std::iter::from_fn(move || {
            let (key, object) = self.first_object(bucket, next.take()?)?;
            let rest = key.strip_prefix(listing.prefix)?;
            let group = group_len(rest, listing.delimiter).map(|len| &key[..listing.prefix.len() + len]);
            Some(match group {
                Some(group) => {
                    next = successor(group).map(Included);
                    ListingEntry::Group(group)
                }
                None => {
                    next = Some(Excluded(key.to_owned()));
                    ListingEntry::Object(key, object)
                }
            })
        })
    }

    fn first_object(&self, bucket: BucketId, from: Bound<String>) -> Option<(&str, &Object)> {
        let from = match from {
            Included(key) => Included((bucket, Arc::from(key))),
            Excluded(key) => Excluded((bucket, Arc::from(key))),
            Unbounded => Included((bucket, Arc::from(""))),
        };
        let ((found, key), object) = self.objects.range((from, Unbounded)).next()?;
        (*found == bucket).then_some((&**key, object))
    }
}

/// The later one of the prefix and the asked-for start.
fn first_key(listing: Listing<'_>) -> Option<Bound<String>> {
    let start = match listing.start {
        None => Included(String::new()),
        Some(Start::AfterKey(key)) => Excluded(key.clone()),
        Some(Start::AfterPrefix(prefix)) => Included(successor(prefix)?),
    };
    match &start {
        Included(key) | Excluded(key) if key.as_str() >= listing.prefix => Some(start),
        _ => Some(Included(listing.prefix.to_owned())),
    }
}

fn group_len(rest: &str, delimiter: &str) -> Option<usize> {
    if delimiter.is_empty() {
        return None;
    }
    rest.find(delimiter).map(|at| at + delimiter.len())
}

/// The least text above every text that begins with `prefix`. None if there is none.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Stepping a range of characters jumps over the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(keys: &[&str]) -> State {
        let mut state = State::default();
        for key in keys {
            let object = Object {
                version: 1,
                size: 0,
                crc32c: 0,
                create_time_ms: 0,
                content_type: String::new(),
                user_metadata: Default::default(),
                chunks: Box::default(),
            };
            state.objects.insert((BucketId(2), Arc::from(*key)), object.clone());
            state.objects.insert((BucketId(1), Arc::from("other")), object.clone());
            state.objects.insert((BucketId(3), Arc::from("other")), object);
        }
        state
    }

    fn lines(state: &State, prefix: &str, delimiter: &str, start: Option<&Start>) -> Vec<String> {
        let listing = Listing { prefix, delimiter, start };
        state
            .list(BucketId(2), listing)
            .map(|entry| match entry {
                ListingEntry::Group(group) => format!("{group}*"),
                ListingEntry::Object(key, _) => key.to_owned(),
            })
            .collect()
    }

    #[test]
    fn groups_end_at_the_first_delimiter_behind_the_prefix() {
        let state = state(&["a", "a/1", "a/2", "a/b/3", "a0", "b/1", "c"]);
        let check = |prefix, delimiter, expect: &[&str]| {
            assert_eq!(lines(&state, prefix, delimiter, None), expect, "{prefix:?} {delimiter:?}");
        };
        check("", "/", &["a", "a/*", "a0", "b/*", "c"]);
        check("a", "/", &["a", "a/*", "a0"]);
        check("a/", "/", &["a/1", "a/2", "a/b/*"]);
        check("a/", "", &["a/1", "a/2", "a/b/3"]);
        check("x", "/", &[]);
        check("", "", &["a", "a/1", "a/2", "a/b/3", "a0", "b/1", "c"]);
    }

    #[test]
    fn listing_begins_behind_its_start() {
        let state = state(&["a/1", "a/2", "b", "c/1"]);
        let check = |prefix, start: Start, expect: &[&str]| {
            assert_eq!(lines(&state, prefix, "/", Some(&start)), expect, "{prefix:?} {start:?}");
        };
        check("", Start::AfterKey("a/1".into()), &["a/*", "b", "c/*"]);
        check("", Start::AfterPrefix("a/".into()), &["b", "c/*"]);
        check("b", Start::AfterKey("a".into()), &["b"]);
        check("", Start::AfterKey("zzz".into()), &[]);
        check("", Start::AfterPrefix(char::MAX.to_string()), &[]);
    }

    fn reference(keys: &[String], prefix: &str, delimiter: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            let rest = &key[prefix.len()..];
            let line = match rest.split_once(delimiter).filter(|_| !delimiter.is_empty()) {
                Some((group, _)) => format!("{prefix}{group}{delimiter}*"),
                None => key.clone(),
            };
            if lines.last() != Some(&line) {
                lines.push(line);
            }
        }
        lines
    }

    proptest! {
        #[test]
        fn pages_join_to_what_a_scan_finds(
            keys in prop::collection::btree_set("[ab/\u{d7ff}\u{e000}\u{10ffff}]{1,6}", 0..40),
            prefix in "[ab/]{0,2}",
            delimiter in prop::sample::select(vec!["", "/", "a/", "\u{10ffff}"]),
            page in 1usize..4,
        ) {
            let keys: Vec<String> = keys.into_iter().collect();
            let state = state(&keys.iter().map(String::as_str).collect::<Vec<_>>());
            let mut listed = Vec::new();
            let mut start: Option<Start> = None;
            loop {
                let lines = lines(&state, &prefix, delimiter, start.as_ref());
                let listing = Listing { prefix: &prefix, delimiter, start: start.as_ref() };
                let last = state.list(BucketId(2), listing).take(page).last().map(|entry| entry.next_start());
                listed.extend(lines.into_iter().take(page));
                match last {
                    Some(next) => start = Some(next),
                    None => break,
                }
            }
            prop_assert_eq!(listed, reference(&keys, &prefix, delimiter));
        }

        #[test]
        fn successor_is_above_the_prefix_and_all_that_begin_with_it(prefix: String, tail: String, other: String) {
            if let Some(next) = successor(&prefix) {
                let longer = [prefix.as_str(), &tail].concat();
                prop_assert!(longer < next);
                prop_assert!(other < next || !other.starts_with(&prefix));
            }
        }
    }
}
