//! Files and directories as they are now, as a power cut would leave them, and the failures that were asked for.
//!
//! Invariant: while there is no power, everything fails. Knows nothing of FUSE.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
};

use super::file::{FileContent, Losses};
use crate::Rng;

/// The directory that is mounted.
pub(super) const ROOT: u64 = 1;

/// When names in directories become durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NameModel {
    /// As on ext4 and XFS: changes of names are kept in their order, and a sync of anything makes all durable that came
    /// before it. A cut leaves any number of the first of the others.
    Journal,
    /// As POSIX allows: only a sync of the directory itself makes its names durable. A cut leaves any of the others, in
    /// their order.
    Directory,
}

/// Why something can't be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    Exists,
    IsDirectory,
    /// The medium fails.
    Medium,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotSupported,
}

/// What is told of a file or a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) node: u64,
    pub(super) len: u64,
    pub(super) mode: u32,
    pub(super) is_directory: bool,
}

/// Everything that is stored.
#[derive(Debug)]
pub(super) struct Medium {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    names: NameModel,
    /// Changes of names that are not durable, oldest first.
    unsynced_names: Vec<NameChange>,
    handles: BTreeMap<u64, Handle>,
    next_handle: u64,
    faults: Faults,
    has_power: bool,
    /// What a cut took that nobody has been told of.
    losses: Losses,
    rng: Rng,
}

#[derive(Debug)]
struct Node {
    mode: u32,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Directory { now: Entries, durable: Entries },
    File(FileContent),
}

type Entries = BTreeMap<OsString, u64>;

/// Names that change at once: in this directory, this name is to stand for this node or for nothing.
#[derive(Debug)]
struct NameChange(Vec<(u64, OsString, Option<u64>)>);

/// A file that somebody has opened.
#[derive(Debug)]
struct Handle {
    node: u64,
    /// Failed syncs that this one has been told of, or that were before it.
    failures: u64,
}

#[derive(Debug, Default)]
struct Faults {
    ignores_fdatasync: bool,
    holds_nothing: bool,
    /// Until one fails.
    writes_left: Option<u64>,
    syncs_left: Option<u64>,
    reads_left: Option<u64>,
    /// Until the power is cut.
    changes_left: Option<u64>,
    /// By how much files may grow.
    bytes_left: Option<u64>,
    has_failed: bool,
}

impl Medium {
    pub(super) fn new(seed: u64, names: NameModel) -> Self {
        let root = Content::Directory { now: Entries::new(), durable: Entries::new() };
        Self {
            nodes: BTreeMap::from([(ROOT, Node { mode: 0o755, content: root })]),
            next_node: ROOT + 1,
            names,
            unsynced_names: Vec::new(),
            handles: BTreeMap::new(),
            next_handle: 1,
            faults: Faults::default(),
            has_power: true,
            losses: Losses::default(),
            rng: Rng::new(seed),
        }
    }

    pub(super) const fn ignore_fdatasync(&mut self) {
        self.faults.ignores_fdatasync = true;
    }

    pub(super) const fn fail_write_after(&mut self, writes: u64) {
        self.faults.writes_left = Some(writes);
        self.faults.has_failed = false;
    }

    pub(super) const fn fail_read_after(&mut self, reads: u64) {
        self.faults.reads_left = Some(reads);
        self.faults.has_failed = false;
    }

    pub(super) const fn fail_sync_after(&mut self, syncs: u64) {
        self.faults.syncs_left = Some(syncs);
        self.faults.has_failed = false;
    }

    pub(super) const fn limit_growth(&mut self, bytes: Option<u64>) {
        self.faults.bytes_left = bytes;
        self.faults.has_failed = false;
    }

    /// By how much files may still grow, if that is limited.
    pub(super) const fn room(&self) -> Option<u64> {
        self.faults.bytes_left
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.faults.has_failed
    }

    pub(super) const fn hold_nothing(&mut self) {
        self.faults.holds_nothing = true;
    }

    pub(super) const fn cut_after(&mut self, changes: u64) {
        self.faults.changes_left = Some(changes);
    }

    /// Everything fails from here on, and what was not synced is gone or torn.
    pub(super) fn cut(&mut self) -> Losses {
        if self.has_power {
            self.lose_power();
        }
        std::mem::take(&mut self.losses)
    }

    fn lose_power(&mut self) {
        self.has_power = false;
        self.cut_names();
        let found = self.reachable();
        self.nodes.retain(|node, _| found.contains(node));
        for node in self.nodes.values_mut() {
            match &mut node.content {
                Content::Directory { now, durable } => now.clone_from(durable),
                Content::File(file) => self.losses += file.cut(&mut self.rng),
            }
        }
    }

    pub(super) fn power_on(&mut self) {
        self.has_power = true;
        self.faults.changes_left = None;
        self.handles.clear();
    }

    pub(super) fn look_up(&self, directory: u64, name: &OsStr) -> Result<Attributes, Refusal> {
        let node = *self.entries(directory)?.get(name).ok_or(Refusal::NotFound)?;
        self.attributes(node)
    }

    pub(super) fn attributes(&self, node: u64) -> Result<Attributes, Refusal> {
        let found = self.node(node)?;
        let (len, is_directory) = match &found.content {
            Content::Directory { .. } => (0, true),
            Content::File(file) => (file.len(), false),
        };
        Ok(Attributes { node, len, mode: found.mode, is_directory })
    }

    pub(super) fn list(&self, directory: u64) -> Result<Vec<(OsString, Attributes)>, Refusal> {
        let entries = self.entries(directory)?.iter();
        entries.map(|(name, node)| Ok((name.clone(), self.attributes(*node)?))).collect()
    }

    pub(super) fn make_directory(
        &mut self,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> Result<Attributes, Refusal> {
        let content = Content::Directory { now: Entries::new(), durable: Entries::new() };
        self.make(parent, name, Node { mode, content })
    }

    pub(super) fn make_file(&mut self, parent: u64, name: &OsStr, mode: u32) -> Result<Attributes, Refusal> {
        self.make(parent, name, Node { mode, content: Content::File(FileContent::default()) })
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Refusal> {
        let attributes = self.look_up(parent, name)?;
        if attributes.is_directory && !self.entries(attributes.node)?.is_empty() {
            return Err(Refusal::NotEmpty);
        }
        self.change_names(vec![(parent, name.to_owned(), None)])
    }

    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Refusal> {
        let moved = self.look_up(from.0, from.1)?.node;
        self.entries(to.0)?;
        self.change_names(vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(moved))])
    }

    pub(super) fn set_mode(&mut self, node: u64, mode: u32) -> Result<(), Refusal> {
        self.node_mut(node)?.mode = mode & 0o7777;
        Ok(())
    }

    pub(super) fn open(&mut self, node: u64) -> Result<u64, Refusal> {
        let failures = match &self.node(node)?.content {
            Content::Directory { .. } => 0,
            Content::File(file) => file.failures(),
        };
        let handle = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(handle, Handle { node, failures });
        Ok(handle)
    }

    pub(super) fn close(&mut self, handle: u64) {
        let Some(closed) = self.handles.remove(&handle) else { return };
        let is_open = self.handles.values().any(|other| other.node == closed.node);
        if self.has_power && !is_open && !self.reachable().contains(&closed.node) {
            let gone = self.nodes.remove(&closed.node);
            if let Some(Node { content: Content::File(file), .. }) = gone {
                self.give_back(file.space());
            }
        }
    }

    pub(super) fn read(&mut self, node: u64, offset: u64, len: u64) -> Result<&[u8], Refusal> {
        if is_due(&mut self.faults.reads_left) {
            self.faults.has_failed = true;
            return Err(Refusal::Medium);
        }
        match &self.node(node)?.content {
            Content::Directory { .. } => Err(Refusal::IsDirectory),
            Content::File(file) => Ok(file.read(offset, len)),
        }
    }

    pub(super) fn write(&mut self, node: u64, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.count_change();
        let end = offset + data.len() as u64;
        let growth = end.saturating_sub(self.file(node)?.space());
        if is_due(&mut self.faults.writes_left) {
            self.faults.has_failed = true;
            return Err(Refusal::Medium);
        }
        self.grow(growth)?;
        self.file(node)?.write(offset, data);
        Ok(())
    }

    pub(super) fn set_len(&mut self, node: u64, len: u64) -> Result<(), Refusal> {
        self.count_change();
        let space = self.file(node)?.space();
        self.grow(len.saturating_sub(space))?;
        self.give_back(space.saturating_sub(len));
        self.file(node)?.set_len(len);
        Ok(())
    }

    /// Takes space for a file up to there, and leaves its length.
    pub(super) fn hold(&mut self, node: u64, end: u64) -> Result<(), Refusal> {
        if self.faults.holds_nothing {
            return Err(Refusal::NotSupported);
        }
        let growth = end.saturating_sub(self.file(node)?.space());
        self.grow(growth)?;
        self.file(node)?.hold(end);
        Ok(())
    }

    /// Makes a file durable, if nothing was planned against it.
    pub(super) fn sync_file(&mut self, handle: u64, is_fdatasync: bool) -> Result<(), Refusal> {
        self.count_change();
        let node = self.handles.get(&handle).ok_or(Refusal::Medium)?.node;
        let fails = is_due(&mut self.faults.syncs_left);
        let is_ignored = is_fdatasync && self.faults.ignores_fdatasync;
        let file = self.file(node)?;
        if fails {
            file.fail_sync();
        } else if !is_ignored {
            file.sync();
        }
        let failures = file.failures();
        self.faults.has_failed |= fails;
        if !fails && !is_ignored && self.names == NameModel::Journal {
            self.keep_names(|_| true);
        }
        let told =
            self.handles.get_mut(&handle).map(|handle| std::mem::replace(&mut handle.failures, failures));
        if told == Some(failures) { Ok(()) } else { Err(Refusal::Medium) }
    }

    /// Makes names durable.
    pub(super) fn sync_directory(&mut self, directory: u64) -> Result<(), Refusal> {
        self.count_change();
        self.entries(directory)?;
        let is_whole = self.names == NameModel::Journal;
        self.keep_names(|change| is_whole || change.0.iter().any(|(changed, ..)| *changed == directory));
        Ok(())
    }

    fn make(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<Attributes, Refusal> {
        if self.entries(parent)?.contains_key(name) {
            return Err(Refusal::Exists);
        }
        let number = self.next_node;
        self.next_node += 1;
        self.nodes.insert(number, Node { mode: node.mode & 0o7777, ..node });
        self.change_names(vec![(parent, name.to_owned(), Some(number))])?;
        self.attributes(number)
    }

    fn change_names(&mut self, changes: Vec<(u64, OsString, Option<u64>)>) -> Result<(), Refusal> {
        self.count_change();
        for (directory, name, node) in &changes {
            let Content::Directory { now, .. } = &mut self.node_mut(*directory)?.content else {
                return Err(Refusal::NotADirectory);
            };
            set(now, name, *node);
        }
        self.unsynced_names.push(NameChange(changes));
        Ok(())
    }

    /// Makes those changes of names durable that are chosen; the others wait.
    fn keep_names(&mut self, mut is_kept: impl FnMut(&NameChange) -> bool) {
        let (kept, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced_names).into_iter().partition(|change| is_kept(change));
        self.unsynced_names = waiting;
        for (directory, name, node) in kept.into_iter().flat_map(|change| change.0) {
            if let Some(Node { content: Content::Directory { durable, .. }, .. }) =
                self.nodes.get_mut(&directory)
            {
                set(durable, &name, node);
            }
        }
    }

    fn cut_names(&mut self) {
        let mut rng = Rng::new(self.rng.next_u64());
        let mut in_order = rng.below(self.unsynced_names.len() as u64 + 1);
        let names = self.names;
        self.keep_names(|_| match names {
            NameModel::Directory => rng.chance(50.0),
            NameModel::Journal => {
                let is_kept = in_order > 0;
                in_order = in_order.saturating_sub(1);
                is_kept
            }
        });
        self.unsynced_names.clear();
    }

    /// What would be found after a cut, and what is found now while there is power.
    fn reachable(&self) -> BTreeSet<u64> {
        let mut found = BTreeSet::from([ROOT]);
        let mut waiting = vec![ROOT];
        while let Some(directory) = waiting.pop() {
            let Some(Node { content: Content::Directory { now, durable }, .. }) = self.nodes.get(&directory)
            else {
                continue;
            };
            let unsynced = self.unsynced_names.iter().flat_map(|change| &change.0);
            let named = unsynced.filter(|(changed, ..)| *changed == directory).filter_map(|(.., node)| *node);
            let now = now.values().copied().filter(|_| self.has_power);
            waiting
                .extend(durable.values().copied().chain(now).chain(named).filter(|node| found.insert(*node)));
        }
        found
    }

    /// A change is about to be made, or made durable. It may be the one that there is no power for.
    fn count_change(&mut self) {
        if is_due(&mut self.faults.changes_left) && self.has_power {
            self.lose_power();
        }
    }

    const fn give_back(&mut self, bytes: u64) {
        if let Some(left) = &mut self.faults.bytes_left {
            *left += bytes;
        }
    }

    /// Takes space for a file that grows.
    const fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        let Some(left) = self.faults.bytes_left else { return Ok(()) };
        let Some(left) = left.checked_sub(bytes) else {
            self.faults.has_failed = true;
            return Err(Refusal::NoSpace);
        };
        self.faults.bytes_left = Some(left);
        Ok(())
    }

    fn entries(&self, directory: u64) -> Result<&Entries, Refusal> {
        match &self.node(directory)?.content {
            Content::Directory { now, .. } => Ok(now),
            Content::File(_) => Err(Refusal::NotADirectory),
        }
    }

    fn file(&mut self, node: u64) -> Result<&mut FileContent, Refusal> {
        match &mut self.node_mut(node)?.content {
            Content::Directory { .. } => Err(Refusal::IsDirectory),
            Content::File(file) => Ok(file),
        }
    }

    fn node(&self, node: u64) -> Result<&Node, Refusal> {
        if !self.has_power {
            return Err(Refusal::Medium);
        }
        self.nodes.get(&node).ok_or(Refusal::NotFound)
    }

    fn node_mut(&mut self, node: u64) -> Result<&mut Node, Refusal> {
        if !self.has_power {
            return Err(Refusal::Medium);
        }
        self.nodes.get_mut(&node).ok_or(Refusal::NotFound)
    }
}

/// Counts down to a failure that happens once.
const fn is_due(left: &mut Option<u64>) -> bool {
    match *left {
        None => false,
        Some(0) => {
            *left = None;
            true
        }
        Some(count) => {
            *left = Some(count - 1);
            false
        }
    }
}

fn set(entries: &mut Entries, name: &OsStr, node: Option<u64>) {
    match node {
        Some(node) => entries.insert(name.to_owned(), node),
        None => entries.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn medium(seed: u64, names: NameModel) -> Medium {
        Medium::new(seed, names)
    }

    fn file(medium: &mut Medium, name: &str) -> (u64, u64) {
        let node = medium.make_file(ROOT, name.as_ref(), 0o600).expect("it is new").node;
        (node, medium.open(node).expect("it is there"))
    }

    fn has(medium: &Medium, name: &str) -> bool {
        medium.look_up(ROOT, name.as_ref()).is_ok()
    }

    fn cut(medium: &mut Medium) {
        let _losses = medium.cut();
        medium.power_on();
    }

    #[test]
    fn nothing_works_without_power() {
        let mut medium = medium(1, NameModel::Journal);
        let (node, handle) = file(&mut medium, "a");
        medium.sync_directory(ROOT).expect("there is power");
        let _losses = medium.cut();
        assert_eq!(medium.write(node, 0, b"x"), Err(Refusal::Medium));
        assert_eq!(medium.sync_file(handle, false), Err(Refusal::Medium));
        assert_eq!(medium.read(node, 0, 1), Err(Refusal::Medium));
        assert!(!has(&medium, "a"));
        medium.power_on();
        assert!(has(&medium, "a"));
    }

    #[test]
    fn journal_makes_earlier_names_durable_with_any_sync_and_keeps_their_order() {
        let (mut first_only, mut second_only) = (0, 0);
        for seed in 0..100 {
            let mut medium = medium(seed, NameModel::Journal);
            let (_, handle) = file(&mut medium, "a");
            medium.sync_file(handle, true).expect("nothing fails");
            file(&mut medium, "b");
            medium.rename((ROOT, "a".as_ref()), (ROOT, "c".as_ref())).expect("it is there");
            cut(&mut medium);
            assert!(has(&medium, "a") != has(&medium, "c"), "a rename happens or it does not");
            first_only += u32::from(has(&medium, "b") && has(&medium, "a"));
            second_only += u32::from(!has(&medium, "b") && has(&medium, "c"));
        }
        assert!(first_only > 10, "{first_only}");
        assert_eq!(second_only, 0);
    }

    #[test]
    fn names_are_only_durable_with_their_directory_where_posix_says_no_more() {
        let (mut lost, mut second_only) = (0, 0);
        for seed in 0..100 {
            let mut medium = medium(seed, NameModel::Directory);
            let (_, handle) = file(&mut medium, "a");
            medium.sync_file(handle, false).expect("nothing fails");
            file(&mut medium, "b");
            cut(&mut medium);
            lost += u32::from(!has(&medium, "a"));
            second_only += u32::from(!has(&medium, "a") && has(&medium, "b"));
        }
        assert!(lost > 10 && second_only > 5, "{lost} {second_only}");
        let mut medium = medium(1, NameModel::Directory);
        file(&mut medium, "a");
        medium.sync_directory(ROOT).expect("nothing fails");
        cut(&mut medium);
        assert!(has(&medium, "a"));
    }

    #[test]
    fn failed_sync_is_told_once_to_every_open_file_and_the_next_one_succeeds() {
        let mut medium = medium(1, NameModel::Journal);
        let (node, first) = file(&mut medium, "a");
        let second = medium.open(node).expect("it is there");
        medium.write(node, 0, b"data").expect("nothing fails");
        medium.fail_sync_after(0);
        assert_eq!(medium.sync_file(first, false), Err(Refusal::Medium));
        assert!(medium.has_failed());
        assert_eq!(medium.sync_file(first, false), Ok(()));
        assert_eq!(medium.sync_file(second, true), Err(Refusal::Medium));
        assert_eq!(medium.sync_file(second, true), Ok(()));
        let later = medium.open(node).expect("it is there");
        assert_eq!(medium.sync_file(later, true), Ok(()));
        cut(&mut medium);
        assert_eq!(medium.attributes(node).expect("it is there").len, 0, "what was not written stays lost");
    }

    #[test]
    fn ignored_fdatasync_makes_nothing_durable() {
        let mut lost = 0;
        for seed in 0..100 {
            let mut medium = medium(seed, NameModel::Journal);
            let (node, handle) = file(&mut medium, "a");
            medium.sync_file(handle, false).expect("nothing fails");
            medium.ignore_fdatasync();
            medium.write(node, 0, b"data").expect("nothing fails");
            medium.sync_file(handle, true).expect("it lies");
            cut(&mut medium);
            lost += u32::from(medium.attributes(node).expect("it is there").len == 0);
        }
        assert!(lost > 20, "{lost}");
    }

    #[test]
    fn writes_fail_when_they_were_to_and_when_space_is_gone() {
        let mut medium = medium(1, NameModel::Journal);
        let (node, _) = file(&mut medium, "a");
        medium.fail_write_after(1);
        assert_eq!(medium.write(node, 0, b"1234"), Ok(()));
        assert_eq!(medium.write(node, 4, b"5678"), Err(Refusal::Medium));
        assert_eq!(medium.write(node, 4, b"5678"), Ok(()));
        medium.limit_growth(Some(4));
        assert_eq!(medium.write(node, 6, b"789a"), Ok(()));
        assert_eq!(medium.write(node, 8, b"9abcd"), Err(Refusal::NoSpace), "two of the four bytes are left");
        assert_eq!(medium.write(node, 8, b"9abc"), Ok(()));
        assert_eq!(medium.write(node, 0, b"....."), Ok(()), "nothing grows");
        medium.limit_growth(Some(10));
        assert_eq!(medium.hold(node, 22), Ok(()));
        assert_eq!(medium.attributes(node).expect("it is there").len, 12);
        assert_eq!(medium.write(node, 12, b"defghijklm"), Ok(()), "it has its space");
        assert_eq!(medium.hold(node, 23), Err(Refusal::NoSpace));
        assert_eq!(medium.set_len(node, 20), Ok(()));
        assert_eq!(medium.hold(node, 23), Err(Refusal::NoSpace), "two bytes were given back");
        assert_eq!(medium.hold(node, 22), Ok(()));
        medium.limit_growth(None);
        assert_eq!(medium.set_len(node, 100), Ok(()));
    }

    #[test]
    fn power_is_cut_at_the_change_that_was_chosen() {
        let mut unsynced = 0;
        for changes in 0..4 {
            let mut medium = medium(1, NameModel::Journal);
            let (node, handle) = file(&mut medium, "a");
            medium.sync_file(handle, false).expect("nothing fails");
            medium.cut_after(changes);
            for change in 0..4 {
                let done = match change % 2 {
                    0 => medium.write(node, change, b"x"),
                    _ => medium.sync_file(handle, true),
                };
                assert_eq!(done.is_ok(), change < changes);
            }
            let losses = medium.cut();
            unsynced += losses.unsynced;
            assert_eq!(losses.unsynced, changes % 2);
            medium.power_on();
            assert!(medium.attributes(node).expect("it is there").len >= changes / 2);
        }
        assert_eq!(unsynced, 2);
    }

    #[test]
    fn read_fails_when_it_was_to_and_not_again() {
        let mut medium = medium(1, NameModel::Journal);
        let (node, _) = file(&mut medium, "a");
        medium.write(node, 0, b"data").expect("nothing fails");
        medium.fail_read_after(1);
        assert_eq!(medium.read(node, 0, 4), Ok(&b"data"[..]));
        assert!(!medium.has_failed());
        assert_eq!(medium.read(node, 0, 4), Err(Refusal::Medium));
        assert!(medium.has_failed());
        assert_eq!(medium.read(node, 0, 4), Ok(&b"data"[..]));
    }

    #[test]
    fn removed_file_can_be_used_until_it_is_closed() {
        let mut medium = medium(1, NameModel::Journal);
        let (node, handle) = file(&mut medium, "a");
        medium.sync_directory(ROOT).expect("nothing fails");
        medium.remove(ROOT, "a".as_ref()).expect("it is there");
        medium.write(node, 0, b"x").expect("it is open");
        medium.sync_directory(ROOT).expect("nothing fails");
        medium.close(handle);
        assert_eq!(medium.write(node, 0, b"x"), Err(Refusal::NotFound));
    }
}
