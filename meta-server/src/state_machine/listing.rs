//! Keys of a bucket in byte order, grouped by a delimiter.
//!
//! Invariant: the work is proportional to what is listed. A group is skipped by seeking behind it, never by walking
//! over its keys.

use std::{
    ops::Bound::{self, Excluded, Included, Unbounded},
    sync::Arc,
};

use xdpfs_wire::BucketId;

use super::{Bucket, Object, State};

/// Where a listing begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Start {
    /// With the first key behind this one.
    AfterKey(String),
    /// Behind every key that begins with this.
    AfterPrefix(String),
    /// Of a listing of versions: with those of this key that are older than this one.
    BelowVersion(String, u64),
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
#[derive(Clone, Debug)]
pub enum ListingEntry<'a> {
    /// All keys that begin with this.
    Group(&'a str),
    /// A key by itself, what it holds, and the fewest durable replicas that any chunk of that has.
    Object(&'a str, &'a Object, u32),
}

/// Some lines of a listing.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// The lines, in the order of their names.
    pub entries: Vec<ListingEntry<'a>>,
    /// Where the next page begins; none after the last one.
    pub next: Option<Start>,
}

impl ListingEntry<'_> {
    /// Where the listing goes on behind this line.
    #[must_use]
    pub fn next_start(&self) -> Start {
        match self {
            Self::Group(prefix) => Start::AfterPrefix((*prefix).to_owned()),
            Self::Object(key, ..) => Start::AfterKey((*key).to_owned()),
        }
    }
}

/// What a step of a listing has come to.
enum Step<'a> {
    /// The key held something.
    Found(&'a str, &'a Object, u32),
    /// It held nothing.
    Nothing(&'a str),
}

impl<'a> Step<'a> {
    const fn key(&self) -> &'a str {
        match self {
            Self::Found(key, ..) | Self::Nothing(key) => key,
        }
    }
}

impl State {
    /// Whether it is known what the bucket held after the entry `at`.
    #[must_use]
    pub fn remembers(&self, bucket: BucketId, at: u64) -> bool {
        self.history.reaches(bucket, at)
    }

    /// At most `len_max` lines of a listing of the bucket as it was after the entry `at`, which must be
    /// [remembered](Self::remembers). There may be fewer although more follow: no more than a bounded number of keys is
    /// looked at.
    #[must_use]
    pub fn page<'a>(&'a self, bucket: &Bucket, listing: Listing<'_>, at: u64, len_max: usize) -> Page<'a> {
        const LOOKED_AT_MAX: usize = 10_000;
        let mut page = Page { entries: Vec::new(), next: None };
        let mut from = first_key(listing);
        for _ in 0..LOOKED_AT_MAX.max(len_max + 1) {
            let step = from.take().and_then(|from| self.step(bucket, from, at));
            let within = step.and_then(|step| Some((step.key().strip_prefix(listing.prefix)?, step)));
            let Some((rest, step)) = within else {
                page.next = None;
                return page;
            };
            let Step::Found(key, object, durable_replicas) = step else {
                page.next = Some(Start::AfterKey(step.key().to_owned()));
                from = Some(Excluded(step.key().to_owned()));
                continue;
            };
            if page.entries.len() == len_max {
                page.next = page.entries.last().map(ListingEntry::next_start);
                return page;
            }
            let group = group_len(rest, listing.delimiter).map(|len| &key[..listing.prefix.len() + len]);
            let entry = match group {
                Some(group) => {
                    from = successor(group).map(Included);
                    ListingEntry::Group(group)
                }
                None => {
                    from = Some(Excluded(key.to_owned()));
                    ListingEntry::Object(key, object, durable_replicas)
                }
            };
            page.next = Some(entry.next_start());
            page.entries.push(entry);
        }
        page
    }

    /// The first key that holds something now, or is known to have held something of late.
    fn step(&self, bucket: &Bucket, from: Bound<String>, at: u64) -> Option<Step<'_>> {
        let from = shared(from);
        let noted = self.history.first_noted(bucket.id, &from, at);
        let held = self.first_object(bucket.id, from);
        match (held, noted) {
            (held, Some((key, Some(past)))) if held.is_none_or(|(other, _)| **key <= *other) => Some(
                past.map_or(Step::Nothing(key), |past| Step::Found(key, &past.object, past.durable_replicas)),
            ),
            (held, Some((key, None))) if held.is_none_or(|(other, _)| **key < *other) => {
                Some(Step::Nothing(key))
            }
            (held, _) => {
                held.map(|(key, object)| Step::Found(key, object, object.durable_replicas(bucket.replicas)))
            }
        }
    }

    pub(super) fn first_object(&self, bucket: BucketId, from: Bound<Arc<str>>) -> Option<(&str, &Object)> {
        let from = match from {
            Included(key) => Included((bucket, key)),
            Excluded(key) => Excluded((bucket, key)),
            Unbounded => Included((bucket, Arc::from(""))),
        };
        let ((found, key), object) = self.objects.range((from, Unbounded)).next()?;
        (*found == bucket).then_some((&**key, object))
    }
}

/// The same bound as maps of keys take it.
pub(super) fn shared(from: Bound<String>) -> Bound<Arc<str>> {
    match from {
        Included(key) => Included(Arc::from(key)),
        Excluded(key) => Excluded(Arc::from(key)),
        Unbounded => Included(Arc::from("")),
    }
}

/// The later one of the prefix and the asked-for start.
pub(super) fn first_key(listing: Listing<'_>) -> Option<Bound<String>> {
    let start = match listing.start {
        None => Included(String::new()),
        Some(Start::AfterKey(key)) => Excluded(key.clone()),
        Some(Start::BelowVersion(key, _)) => Included(key.clone()),
        Some(Start::AfterPrefix(prefix)) => Included(successor(prefix)?),
    };
    match &start {
        Included(key) | Excluded(key) if key.as_str() >= listing.prefix => Some(start),
        _ => Some(Included(listing.prefix.to_owned())),
    }
}

pub(super) fn group_len(rest: &str, delimiter: &str) -> Option<usize> {
    if delimiter.is_empty() {
        return None;
    }
    rest.find(delimiter).map(|at| at + delimiter.len())
}

/// The least text above every text that begins with `prefix`. None if there is none.
pub(super) fn successor(prefix: &str) -> Option<String> {
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
                kept: false,
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
        texts(&state.page(&bucket(), listing, state.index(), usize::MAX >> 1))
    }

    fn texts(page: &Page<'_>) -> Vec<String> {
        let text = |entry: &ListingEntry<'_>| match entry {
            ListingEntry::Group(group) => format!("{group}*"),
            ListingEntry::Object(key, ..) => (*key).to_owned(),
        };
        page.entries.iter().map(text).collect()
    }

    fn bucket() -> Bucket {
        Bucket::from_record(xdpfs_proto::state::v1::Bucket { id: 2, ..Default::default() }).unwrap()
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

    fn committed(state: &mut State, index: u64, keys: &[(&str, bool)]) {
        let object = state.objects.values().next().unwrap().clone();
        state.history.begin(index, 0);
        for (key, is_there) in keys {
            let name = (BucketId(2), Arc::from(*key));
            let held = match is_there {
                true => state.objects.insert(name.clone(), Object { version: index, ..object.clone() }),
                false => state.objects.remove(&name),
            };
            state.history.note(0, &name, &bucket(), held.as_ref());
        }
    }

    #[test]
    fn listing_goes_on_with_the_picture_that_it_began_with() {
        let mut state = state(&["a", "b", "d/1", "d/2", "f"]);
        committed(&mut state, 5, &[("b", true)]);
        committed(&mut state, 6, &[("a", false), ("c", true), ("d/1", false), ("d/2", false), ("f", true)]);
        committed(&mut state, 7, &[("a", true), ("c", false), ("e/1", true)]);
        let check = |at, expect: &[&str]| {
            let listing = Listing { prefix: "", delimiter: "/", start: None };
            assert_eq!(texts(&state.page(&bucket(), listing, at, 100)), expect, "after {at}");
            let (mut joined, mut start) = (Vec::new(), None);
            loop {
                let page = state.page(&bucket(), Listing { start: start.as_ref(), ..listing }, at, 1);
                joined.extend(texts(&page));
                start = page.next;
                if start.is_none() {
                    break;
                }
            }
            assert_eq!(joined, expect, "after {at}, line by line");
        };
        check(4, &["a", "b", "d/*", "f"]);
        check(5, &["a", "b", "d/*", "f"]);
        check(6, &["b", "c", "f"]);
        check(7, &["a", "b", "e/*", "f"]);
        let listing = Listing { prefix: "b", delimiter: "", start: None };
        let version = |at| match &state.page(&bucket(), listing, at, 1).entries[..] {
            [ListingEntry::Object("b", object, _)] => object.version,
            entries => panic!("{entries:?}"),
        };
        assert_eq!([4, 5, 7].map(version), [1, 5, 5]);
    }

    #[test]
    fn page_ends_early_rather_than_look_at_too_many_keys() {
        let mut state = state(&["z"]);
        let keys: Vec<String> = (0..25_000).map(|at| format!("k{at:05}")).collect();
        let made: Vec<_> = keys.iter().map(|key| (key.as_str(), true)).collect();
        committed(&mut state, 5, &made);
        let (mut listed, mut pages, mut start) = (Vec::new(), 0, None);
        loop {
            let listing = Listing { prefix: "", delimiter: "", start: start.as_ref() };
            let page = state.page(&bucket(), listing, 4, 1000);
            listed.extend(texts(&page));
            pages += 1;
            start = page.next;
            if start.is_none() {
                break;
            }
        }
        assert_eq!((listed, pages), (vec!["z".to_owned()], 3));
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
                let listing = Listing { prefix: &prefix, delimiter, start: start.as_ref() };
                let lines = state.page(&bucket(), listing, state.index(), page);
                prop_assert!(lines.entries.len() <= page);
                listed.extend(texts(&lines));
                match lines.next {
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
