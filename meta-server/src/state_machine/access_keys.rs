//! Access keys: who may do what with which buckets.
//!
//! Invariant: no secret gets here, only hashes. What a key may do is fixed when it is made; the one thing that can happen
//! to it later is that it is revoked. Once the cluster is closed it stays so: nobody is served without a key.

use std::collections::BTreeMap;

use bytes::Bytes;
use xdpfs_proto::state::v1::{self as pb, caller, command, outcome};

use super::{
    State,
    reject::{Reason, Reject, UPLOAD_NOT_FOUND},
};
use crate::credential::{KeyId, SecretHash};

/// Keys that are remembered, revoked ones too. The oldest of these make room.
pub const ACCESS_KEYS_MAX: usize = 4096;
/// Grants of one key.
pub const GRANTS_PER_KEY_MAX: usize = 64;
/// Bytes of a label.
pub const LABEL_BYTES_MAX: usize = 128;
/// No bucket has a longer name.
const PATTERN_BYTES_MAX: usize = 64;

/// Something that a key may do with a bucket.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Right {
    /// Read objects, and what is known of them.
    Read,
    /// Put and delete objects.
    Write,
    /// List keys, and see the bucket among others.
    List,
    /// Make and remove the bucket; on all buckets, make keys and end capabilities too.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::List, Self::Admin];

    /// Its name in messages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::List => 4,
            Self::Admin => 8,
        }
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RightSet(u32);

impl RightSet {
    /// The rights with these bits; none if there are none, or others.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        let all: Self = Right::ALL.into_iter().collect();
        (bits != 0 && bits & !all.0 == 0).then_some(Self(bits))
    }

    /// As the log holds it.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether `right` is among them.
    #[must_use]
    pub const fn contains(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// All of them, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contains(*right))
    }
}

impl FromIterator<Right> for RightSet {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |bits, right| bits | right.bit()))
    }
}

/// Which buckets a grant is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BucketPattern {
    /// Every bucket there is, and will be.
    All,
    /// The bucket of this name.
    Exact(String),
    /// Buckets whose names begin so.
    Prefix(String),
}

impl BucketPattern {
    /// A name, the beginning of names with `*` behind it, or `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = |name: &str| {
            let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
            (1..PATTERN_BYTES_MAX).contains(&name.len()) && name.bytes().all(good)
        };
        match text.strip_suffix('*') {
            Some("") => Some(Self::All),
            Some(prefix) => is_name(prefix).then(|| Self::Prefix(prefix.to_owned())),
            None => is_name(text).then(|| Self::Exact(text.to_owned())),
        }
    }

    /// Whether the bucket of this name is one of them.
    #[must_use]
    pub fn matches(&self, bucket: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(name) => bucket == name,
            Self::Prefix(prefix) => bucket.starts_with(prefix.as_str()),
        }
    }
}

impl std::fmt::Display for BucketPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// Rights on some buckets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// Which buckets.
    pub buckets: BucketPattern,
    /// What may be done with them.
    pub rights: RightSet,
}

impl Grant {
    fn parse(record: &pb::Grant) -> Option<Self> {
        let (buckets, rights) = (BucketPattern::parse(&record.buckets)?, RightSet::from_bits(record.rights)?);
        Some(Self { buckets, rights })
    }

    fn record(&self) -> pb::Grant {
        pb::Grant { buckets: self.buckets.to_string(), rights: self.rights.bits() }
    }
}

/// One key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessKey {
    /// Its public name.
    pub id: KeyId,
    /// What its secret is compared with.
    pub secret_hash: SecretHash,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// Its maker's words about it.
    pub label: String,
    /// On the cluster's clock.
    pub create_time_ms: u64,
    /// On the cluster's clock; none: it is good.
    pub revoke_time_ms: Option<u64>,
}

impl AccessKey {
    /// Whether it may do this with the bucket of this name.
    #[must_use]
    pub fn allows(&self, right: Right, bucket: &str) -> bool {
        self.grants.iter().any(|grant| grant.rights.contains(right) && grant.buckets.matches(bucket))
    }

    /// Whether it may do anything with the bucket of this name.
    #[must_use]
    pub fn allows_something(&self, bucket: &str) -> bool {
        self.grants.iter().any(|grant| grant.buckets.matches(bucket))
    }

    /// Whether it may do this with all buckets.
    #[must_use]
    pub fn allows_everywhere(&self, right: Right) -> bool {
        self.grants.iter().any(|grant| grant.rights.contains(right) && grant.buckets == BucketPattern::All)
    }

    /// Whether there may be a bucket that it may do this with.
    #[must_use]
    pub fn allows_somewhere(&self, right: Right) -> bool {
        self.grants.iter().any(|grant| grant.rights.contains(right))
    }

    fn makes_keys(&self) -> bool {
        self.revoke_time_ms.is_none() && self.allows_everywhere(Right::Admin)
    }

    pub(super) fn record(&self) -> pb::AccessKey {
        pb::AccessKey {
            id: self.id.as_str().to_owned(),
            secret_sha256: Bytes::copy_from_slice(self.secret_hash.as_bytes()),
            grants: self.grants.iter().map(Grant::record).collect(),
            label: self.label.clone(),
            create_time_ms: self.create_time_ms,
            revoke_time_ms: self.revoke_time_ms.unwrap_or_default(),
        }
    }

    /// What the record says, if it can be.
    #[must_use]
    pub fn from_record(record: &pb::AccessKey) -> Option<Self> {
        let grants: Vec<_> = record.grants.iter().map(Grant::parse).collect::<Option<_>>()?;
        let is_bounded = (1..=GRANTS_PER_KEY_MAX).contains(&grants.len())
            && record.label.len() <= LABEL_BYTES_MAX
            && !record.label.chars().any(char::is_control);
        is_bounded.then_some(())?;
        Some(Self {
            id: record.id.parse().ok()?,
            secret_hash: SecretHash::from_bytes(&record.secret_sha256)?,
            grants,
            label: record.label.clone(),
            create_time_ms: record.create_time_ms,
            revoke_time_ms: Some(record.revoke_time_ms).filter(|time_ms| *time_ms != 0),
        })
    }
}

/// All keys by their ids, and whether one is needed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessKeys {
    by_id: BTreeMap<KeyId, AccessKey>,
    closed: bool,
}

impl AccessKeys {
    /// Whether nobody is served without a key.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// The key of this id, unless it is revoked.
    #[must_use]
    pub fn live(&self, id: &KeyId) -> Option<&AccessKey> {
        self.by_id.get(id).filter(|key| key.revoke_time_ms.is_none())
    }

    /// Keys in the order of their ids, behind `after`.
    pub fn after<'a>(&'a self, after: &'a str) -> impl Iterator<Item = &'a AccessKey> {
        self.by_id.values().filter(move |key| key.id.as_str() > after)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = pb::AccessKey> + '_ {
        self.by_id.values().map(AccessKey::record)
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether it was not there before.
    pub(super) fn load(&mut self, key: AccessKey) -> bool {
        self.by_id.len() < ACCESS_KEYS_MAX && self.by_id.insert(key.id.clone(), key).is_none()
    }

    /// Forgets the key that was revoked first, if there is no room for another one.
    fn make_room(&mut self) -> Result<(), Reject> {
        if self.by_id.len() < ACCESS_KEYS_MAX {
            return Ok(());
        }
        let revoked = self.by_id.values().filter_map(|key| Some((key.revoke_time_ms?, key.id.clone()))).min();
        let (_, id) = revoked.ok_or(TOO_MANY_KEYS)?;
        self.by_id.remove(&id);
        Ok(())
    }
}

const TOO_MANY_KEYS: Reject =
    Reject::new(Reason::Overloaded, "the cluster has as many access keys as it can have");
const KEY_NOT_FOUND: Reject = Reject::new(Reason::AccessKeyNotFound, "no access key of this id");
const KEY_INVALID: Reject =
    Reject::new(Reason::AccessKeyInvalid, "the access key was revoked before this took effect");
const KEY_MISSING: Reject = Reject::new(Reason::AccessKeyMissing, "this cluster serves nobody without a key");
const DENIED: Reject = Reject::new(Reason::AccessDenied, "the access key lacks the right to do this");

/// What a command is about.
enum Place<'a> {
    Bucket(&'a str),
    Everywhere,
    /// Of an upload that is open.
    Upload(&'a str),
}

impl State {
    /// The access keys.
    #[must_use]
    pub const fn access_keys(&self) -> &AccessKeys {
        &self.access_keys
    }

    /// Whether whoever asked for it may. The leader has looked before; here it is decided, since a key may have been
    /// revoked, or the cluster closed, in between.
    pub(super) fn check_caller(&self, command: &pb::Command) -> Result<(), Reject> {
        // The cluster's own commands, and those that were written before there were keys, have no caller.
        let (Some(caller), Some(kind)) = (&command.caller, &command.kind) else { return Ok(()) };
        let key = match &caller.kind {
            Some(caller::Kind::Root(_)) => return Ok(()),
            Some(caller::Kind::Anonymous(_)) if self.access_keys.is_closed() => return Err(KEY_MISSING),
            Some(caller::Kind::Anonymous(_)) => return Ok(()),
            Some(caller::Kind::KeyId(id)) => {
                let id = id.parse().map_err(|_| KEY_INVALID)?;
                self.access_keys.live(&id).ok_or(KEY_INVALID)?
            }
            None => return Err(KEY_INVALID),
        };
        // What nodes copy from another bucket is read there.
        if source_bucket(kind).is_some_and(|source| !key.allows(Right::Read, source)) {
            return Err(DENIED);
        }
        let Some((rights, place)) = self.rights_for(kind) else { return Ok(()) };
        let allows_all = |bucket: &str| rights.iter().all(|right| key.allows(*right, bucket));
        match place {
            Place::Bucket(bucket) if allows_all(bucket) => Ok(()),
            Place::Everywhere if rights.iter().all(|right| key.allows_everywhere(*right)) => Ok(()),
            Place::Upload(bucket) if allows_all(bucket) => Ok(()),
            Place::Bucket(_) | Place::Everywhere => Err(DENIED),
            // Which uploads there are is nobody's business who may not write there.
            Place::Upload(_) => Err(UPLOAD_NOT_FOUND),
        }
    }

    /// What a caller needs for a command; none if the command finds nothing to do, or if no caller can ask for it.
    fn rights_for<'a>(&'a self, kind: &'a command::Kind) -> Option<(&'static [Right], Place<'a>)> {
        use command::Kind;
        let of_upload = |upload_id: u64| {
            let bucket = self.bucket_by_id(self.upload(upload_id)?.bucket)?;
            Some((&[Right::Write] as &[Right], Place::Upload(&bucket.name)))
        };
        match kind {
            Kind::CreateBucket(create) => Some((&[Right::Admin], Place::Bucket(&create.name))),
            Kind::DeleteBucket(delete) => Some((&[Right::Admin], Place::Bucket(&delete.name))),
            Kind::UpdateBucket(update) => Some((&[Right::Admin], Place::Bucket(&update.name))),
            Kind::BeginPut(begin) => Some((&[Right::Write], Place::Bucket(&begin.bucket))),
            Kind::ExtendPut(extend) => of_upload(extend.upload_id),
            Kind::CommitPut(commit) => of_upload(commit.upload_id),
            Kind::AbortPut(abort) => of_upload(abort.upload_id),
            Kind::Batch(batch) => {
                let copies = |operation: &pb::BatchOperation| {
                    matches!(operation.kind, Some(pb::batch_operation::Kind::Copy(_)))
                };
                // A copy reads its source.
                let rights: &[Right] = if batch.operations.iter().any(copies) {
                    &[Right::Read, Right::Write]
                } else {
                    &[Right::Write]
                };
                Some((rights, Place::Bucket(&batch.bucket)))
            }
            Kind::DeleteObject(delete) => Some((&[Right::Write], Place::Bucket(&delete.bucket))),
            Kind::CreateAccessKey(_)
            | Kind::RevokeAccessKey(_)
            | Kind::RotateKeyEpoch(_)
            | Kind::LabelNode(_)
            | Kind::DrainNode(_)
            | Kind::RemoveNode(_)
            | Kind::PauseRebalance(_)
            | Kind::ReserveMember(_)
            | Kind::AddMember(_)
            | Kind::PromoteMember(_)
            | Kind::RemoveMember(_)
            | Kind::ReplaceMember(_)
            | Kind::UpdateMember(_) => Some((&[Right::Admin], Place::Everywhere)),
            Kind::RegisterNode(_)
            | Kind::FenceNode(_)
            | Kind::ReplaceReplicas(_)
            | Kind::CollectReplicas(_)
            | Kind::ExpireUploads(_)
            | Kind::ForgetChunks(_)
            | Kind::AddKeyEpoch(_)
            | Kind::InitCluster(_)
            | Kind::RaiseFeatureLevel(_)
            | Kind::SeedMembers(_)
            | Kind::CloseAccess(_) => None,
        }
    }

    /// The first key closes the cluster, so it must be one that can make others.
    pub(super) fn create_access_key(
        &mut self,
        create: &pb::CreateAccessKey,
    ) -> Result<outcome::Kind, Reject> {
        let record = pb::AccessKey {
            id: create.key_id.clone(),
            secret_sha256: create.secret_sha256.clone(),
            grants: create.grants.clone(),
            label: create.label.clone(),
            create_time_ms: self.time_ms,
            revoke_time_ms: 0,
        };
        let key = AccessKey::from_record(&record)
            .ok_or(Reject::new(Reason::InvalidArgument, "the access key makes no sense"))?;
        if self.access_keys.by_id.contains_key(&key.id) {
            return Err(Reject::new(Reason::InvalidArgument, "there is an access key of this id"));
        }
        if !self.access_keys.closed && !key.makes_keys() {
            let rule = "the first access key must be able to make others: give it admin on *";
            return Err(Reject::new(Reason::InvalidArgument, rule));
        }
        self.access_keys.make_room()?;
        self.access_keys.closed = true;
        let record = key.record();
        self.access_keys.by_id.insert(key.id.clone(), key);
        Ok(outcome::Kind::AccessKey(record))
    }

    /// Revoking a key once more changes nothing, but ends capabilities if that is asked for.
    pub(super) fn revoke_access_key(
        &mut self,
        revoke: &pb::RevokeAccessKey,
    ) -> Result<outcome::Kind, Reject> {
        let id: KeyId = revoke.key_id.parse().map_err(|_| KEY_NOT_FOUND)?;
        let key = self.access_keys.by_id.get(&id).ok_or(KEY_NOT_FOUND)?;
        let others_make_keys =
            self.access_keys.by_id.values().any(|other| other.id != id && other.makes_keys());
        if key.makes_keys() && !others_make_keys && !revoke.force {
            let rule = "no other access key can make keys: make one first";
            return Err(Reject::new(Reason::LastAdminKey, rule));
        }
        let key_epoch =
            if revoke.epoch_secret.is_empty() { 0 } else { self.end_epochs(&revoke.epoch_secret)? };
        let time_ms = self.time_ms;
        let key = self.access_keys.by_id.get_mut(&id).ok_or(KEY_NOT_FOUND)?;
        // A time of zero would mean that it is good.
        key.revoke_time_ms.get_or_insert(time_ms.max(1));
        let access_key = Some(key.record());
        Ok(outcome::Kind::Revoked(pb::Revoked { access_key, key_epoch }))
    }
}

/// The bucket that the command's chunks are copied from, if it is another one.
fn source_bucket(kind: &command::Kind) -> Option<&str> {
    let source = match kind {
        command::Kind::BeginPut(begin) => Some(begin.source_bucket.as_str()),
        command::Kind::CommitPut(commit) => Some(commit.source_bucket.as_str()),
        _ => None,
    };
    source.filter(|source| !source.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Credential;

    fn id(number: u32) -> String {
        let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".as_bytes();
        let digit = |at: u32| char::from(digits[(number >> (5 * at) & 31) as usize]);
        "XK".chars().chain((0..16).map(|at| if at < 6 { digit(at) } else { 'A' })).collect()
    }

    fn create(number: u32, grants: &[(&str, u32)]) -> command::Kind {
        let grants =
            grants.iter().map(|(buckets, rights)| pb::Grant { buckets: (*buckets).into(), rights: *rights });
        command::Kind::CreateAccessKey(pb::CreateAccessKey {
            key_id: id(number),
            secret_sha256: Bytes::from(vec![number as u8; 32]),
            grants: grants.collect(),
            label: "label".into(),
        })
    }

    fn revoke(number: u32, force: bool) -> command::Kind {
        let revoke = pb::RevokeAccessKey { key_id: id(number), force, epoch_secret: Bytes::new() };
        command::Kind::RevokeAccessKey(revoke)
    }

    fn apply(state: &mut State, time_ms: u64, kind: command::Kind) -> Option<Reason> {
        apply_as(state, time_ms, None, kind)
    }

    fn apply_as(
        state: &mut State,
        time_ms: u64,
        caller: Option<caller::Kind>,
        kind: command::Kind,
    ) -> Option<Reason> {
        let caller = caller.map(|kind| pb::Caller { kind: Some(kind) });
        let command = pb::Command { time_ms, caller, kind: Some(kind), ..Default::default() };
        match state.apply(1, &command).kind.unwrap() {
            outcome::Kind::Rejected(rejected) => Reason::parse(&rejected.reason),
            _ => None,
        }
    }

    #[test]
    fn patterns_are_names_beginnings_or_everything() {
        let check = |text: &str, matching: &[&str], others: &[&str]| {
            let pattern = BucketPattern::parse(text).unwrap();
            assert_eq!(pattern.to_string(), text);
            assert!(matching.iter().all(|bucket| pattern.matches(bucket)), "{text}");
            assert!(!others.iter().any(|bucket| pattern.matches(bucket)), "{text}");
        };
        check("*", &["a", "logs-1"], &[]);
        check("logs", &["logs"], &["log", "logs-1", "xlogs"]);
        check("logs-*", &["logs-", "logs-1"], &["logs", "log", "x-logs-1"]);
        let too_long = "a".repeat(PATTERN_BYTES_MAX);
        for bad in ["", "**", "*a", "a*b", "A", "a b", "a/b", "a*\n", "ü*", &too_long] {
            assert_eq!(BucketPattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn sets_of_rights_hold_what_they_were_made_of() {
        for bits in 1..16 {
            let set = RightSet::from_bits(bits).unwrap();
            assert_eq!(set.iter().collect::<RightSet>(), set);
            assert_eq!(set.iter().count() as u32, bits.count_ones());
        }
        assert_eq!((RightSet::from_bits(0), RightSet::from_bits(16)), (None, None));
    }

    #[test]
    fn first_key_closes_the_cluster_and_can_make_others() {
        let mut state = State::default();
        for grants in [&[("*", 7)][..], &[("a*", 8)], &[]] {
            assert_eq!(apply(&mut state, 1, create(1, grants)), Some(Reason::InvalidArgument), "{grants:?}");
            assert!(!state.access_keys().is_closed());
        }
        assert_eq!(apply(&mut state, 1, create(1, &[("*", 8)])), None);
        assert!(state.access_keys().is_closed());
        assert_eq!(apply(&mut state, 1, create(2, &[("abc", 1)])), None);
        assert_eq!(apply(&mut state, 1, create(2, &[("abc", 1)])), Some(Reason::InvalidArgument), "same id");
    }

    #[test]
    fn last_key_that_makes_keys_is_kept_unless_forced() {
        let mut state = State::default();
        for number in [1, 2] {
            assert_eq!(apply(&mut state, 1, create(number, &[("*", 8)])), None);
        }
        assert_eq!(apply(&mut state, 1, create(3, &[("*", 7)])), None);
        assert_eq!(apply(&mut state, 5, revoke(1, false)), None);
        assert_eq!(apply(&mut state, 6, revoke(2, false)), Some(Reason::LastAdminKey));
        assert_eq!(apply(&mut state, 6, revoke(3, false)), None, "it makes no keys");
        assert_eq!(apply(&mut state, 7, revoke(1, false)), None, "revoked already");
        assert_eq!(apply(&mut state, 7, revoke(9, false)), Some(Reason::AccessKeyNotFound));
        assert_eq!(apply(&mut state, 8, revoke(2, true)), None);
        assert!(state.access_keys().is_closed(), "it never opens again");
        let times: Vec<_> = state.access_keys().after("").map(|key| key.revoke_time_ms).collect();
        assert_eq!(times, [Some(5), Some(8), Some(6)]);
        assert!(state.access_keys().live(&id(1).parse().unwrap()).is_none());
    }

    #[test]
    fn rights_are_checked_where_a_command_is_applied() {
        let mut state = State::default();
        apply(&mut state, 1, create(1, &[("*", 8)]));
        apply(&mut state, 1, create(2, &[("abc", 8), ("def", 7)]));
        let key = |number| Some(caller::Kind::KeyId(id(number)));
        let bucket = |name: &str| {
            let create = pb::CreateBucket {
                name: name.into(),
                chunk_size: 8,
                replicas: 1,
                min_replicas: 1,
                ..Default::default()
            };
            command::Kind::CreateBucket(create)
        };
        let mut check = |caller, kind, expect| assert_eq!(apply_as(&mut state, 2, caller, kind), expect);
        let denied = Some(Reason::AccessDenied);
        check(Some(caller::Kind::Anonymous(true)), bucket("abc"), Some(Reason::AccessKeyMissing));
        check(key(3), bucket("abc"), Some(Reason::AccessKeyInvalid));
        check(Some(caller::Kind::KeyId("nonsense".into())), bucket("abc"), Some(Reason::AccessKeyInvalid));
        check(key(2), bucket("abc"), None);
        check(key(2), bucket("def"), denied);
        check(key(1), bucket("def"), None);
        check(Some(caller::Kind::Root(true)), bucket("ghi"), None);
        let begin = |bucket: &str| {
            let lease_ms = 1000;
            command::Kind::BeginPut(pb::BeginPut {
                bucket: bucket.into(),
                key: "k".into(),
                lease_ms,
                ..Default::default()
            })
        };
        check(key(2), begin("abc"), denied);
        check(key(1), begin("abc"), denied);
        check(key(2), begin("def"), None);
        let abort = || command::Kind::AbortPut(pb::AbortPut { upload_id: 1 });
        check(key(1), abort(), Some(Reason::UploadNotFound));
        check(key(2), abort(), None);
        // What nodes have copied was read where it came from.
        let begin_copy = |source_bucket: &str| {
            let (bucket, key, source_bucket) = ("def".into(), "k".into(), source_bucket.into());
            let begin = pb::BeginPut { bucket, key, source_bucket, lease_ms: 1000, ..Default::default() };
            command::Kind::BeginPut(begin)
        };
        check(key(2), begin_copy("abc"), denied);
        check(key(2), begin_copy("def"), None);
        let copied = |source_bucket: &str| {
            let source_bucket = source_bucket.into();
            command::Kind::CommitPut(pb::CommitPut { upload_id: 2, source_bucket, ..Default::default() })
        };
        check(key(2), copied("abc"), denied);
        check(key(2), copied("ghi"), denied);
        check(key(1), copied("def"), denied);
        check(key(2), copied("def"), None);
        check(key(2), create(4, &[("abc", 1)]), denied);
        check(
            key(2),
            command::Kind::RotateKeyEpoch(pb::RotateKeyEpoch { secret: vec![1; 16].into() }),
            denied,
        );
        check(key(2), revoke(2, false), denied);
        check(key(1), revoke(2, false), None);
        check(key(2), begin("def"), Some(Reason::AccessKeyInvalid));
    }

    #[test]
    fn refusal_for_want_of_rights_is_not_remembered_for_the_request() {
        let mut state = State::default();
        apply(&mut state, 1, create(1, &[("*", 8)]));
        let bucket = pb::CreateBucket {
            name: "abc".into(),
            chunk_size: 8,
            replicas: 1,
            min_replicas: 1,
            ..Default::default()
        };
        let mut command = pb::Command {
            time_ms: 2,
            request_id: vec![7; 16].into(),
            caller: Some(pb::Caller { kind: Some(caller::Kind::Anonymous(true)) }),
            kind: Some(command::Kind::CreateBucket(bucket)),
            ..Default::default()
        };
        assert!(matches!(state.apply(1, &command).kind, Some(outcome::Kind::Rejected(_))));
        command.caller = Some(pb::Caller { kind: Some(caller::Kind::KeyId(id(1))) });
        assert!(matches!(state.apply(2, &command).kind, Some(outcome::Kind::Bucket(_))));
    }

    #[test]
    fn keys_are_bounded_and_the_first_revoked_one_makes_room() {
        let mut state = State::default();
        for number in 1..=ACCESS_KEYS_MAX as u32 {
            assert_eq!(apply(&mut state, 1, create(number, &[("*", 8)])), None);
        }
        assert_eq!(apply(&mut state, 1, create(9999, &[("*", 8)])), Some(Reason::Overloaded));
        apply(&mut state, 5, revoke(70, false));
        apply(&mut state, 4, revoke(80, false));
        apply(&mut state, 6, revoke(60, false));
        assert_eq!(apply(&mut state, 7, create(9999, &[("*", 8)])), None);
        let ids: Vec<_> = state.access_keys().after("").map(|key| key.id.as_str().to_owned()).collect();
        assert_eq!(ids.len(), ACCESS_KEYS_MAX);
        // The cluster's clock does not run back, so 70 and 80 have one time, and the smaller id goes.
        assert!(!ids.contains(&id(70).min(id(80))) && ids.contains(&id(70).max(id(80))));
    }

    #[test]
    fn records_that_no_server_writes_are_refused() {
        let mut state = State::default();
        apply(&mut state, 1, create(1, &[("*", 8)]));
        let good = state.access_keys().records().next().unwrap();
        assert!(AccessKey::from_record(&good).is_some());
        let damages: [fn(&mut pb::AccessKey); 7] = [
            |key| key.id.clear(),
            |key| key.secret_sha256 = Bytes::from_static(b"short"),
            |key| key.grants.clear(),
            |key| key.grants[0].rights = 16,
            |key| key.grants[0].buckets = "a b".into(),
            |key| key.grants = vec![key.grants[0].clone(); GRANTS_PER_KEY_MAX + 1],
            |key| key.label = "\n".into(),
        ];
        for (at, damage) in damages.into_iter().enumerate() {
            let mut bad = good.clone();
            damage(&mut bad);
            assert_eq!(AccessKey::from_record(&bad), None, "damage {at}");
        }
    }

    #[test]
    fn generated_ids_are_accepted() {
        let credential = Credential::generate().unwrap();
        let create = pb::CreateAccessKey {
            key_id: credential.id().to_string(),
            secret_sha256: Bytes::copy_from_slice(credential.secret_hash().as_bytes()),
            grants: vec![pb::Grant { buckets: "*".into(), rights: 8 }],
            label: String::new(),
        };
        let mut state = State::default();
        assert_eq!(apply(&mut state, 1, command::Kind::CreateAccessKey(create)), None);
        assert_eq!(state.access_keys().live(credential.id()).unwrap().secret_hash, credential.secret_hash());
    }
}
