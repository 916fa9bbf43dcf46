//! Who is served what: callers are told apart by their access keys, and held against the table of rights.
//!
//! Invariant: whoever proves nothing costs a hash and at most one look at whether this server still leads. What is said
//! to a wrong key does not tell whether there is such a key. Rights are looked at again behind every wait: a capability
//! is never given for a key that is revoked by then.

use std::{net::SocketAddr, time::Instant};

use http::HeaderMap;
use subtle::ConstantTimeEq as _;
use tonic::{Request, Response, Status};
use xdpfs_proto::state::v1::{self as pb, caller};

use super::{
    Gateway, Refusal,
    gateway::Call,
    rights::{Asks, Method, Need, Place},
};
use crate::{
    audit::Act,
    config::RootKey,
    credential::{Credential, KeyId, SecretHash},
    state_machine::{AccessKey, Reason, Right, State},
};

const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// What a caller has shown.
#[derive(Clone, Debug)]
pub(super) enum Presented {
    Key {
        id: KeyId,
        secret_hash: SecretHash,
    },
    /// Something that is no key.
    Malformed,
    Nothing,
}

/// Who a caller is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Caller {
    /// The cluster is open: nobody has to say.
    Anonymous,
    Key(KeyId),
    /// A server that joins, by the name of its certificate. It asks for the cluster's own commands, as no caller can.
    Member(String),
    Root,
}

/// What a call needs, and what its caller has to show for it.
#[derive(Debug)]
pub(super) struct Access {
    presented: Presented,
    peer: Option<SocketAddr>,
    need: Need,
    place: Result<Place, Refusal>,
}

impl Presented {
    pub(super) fn from(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(HEADER).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return Self::Nothing,
            (Some(value), None) => value,
            (Some(_), Some(_)) => return Self::Malformed,
        };
        let credential = value.to_str().ok().and_then(|text| text.strip_prefix(SCHEME));
        match credential.and_then(|text| text.parse::<Credential>().ok()) {
            Some(credential) => {
                Self::Key { id: credential.id().clone(), secret_hash: credential.secret_hash() }
            }
            None => Self::Malformed,
        }
    }
}

impl Caller {
    /// How it is named in the audit log.
    fn label(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Key(id) => id.as_str(),
            Self::Member(name) => name,
            Self::Root => "root",
        }
    }

    pub(super) fn record(&self) -> pb::Caller {
        let kind = match self {
            Self::Anonymous => Some(caller::Kind::Anonymous(true)),
            Self::Key(id) => Some(caller::Kind::KeyId(id.to_string())),
            Self::Member(_) => None,
            Self::Root => Some(caller::Kind::Root(true)),
        };
        pb::Caller { kind }
    }

    /// Whether it may do this with the bucket of this name.
    pub(super) fn may(&self, state: &State, right: Right, bucket: &str) -> bool {
        match self {
            Self::Anonymous | Self::Root => true,
            Self::Member(_) => false,
            Self::Key(id) => state.access_keys().live(id).is_some_and(|key| key.allows(right, bucket)),
        }
    }
}

impl Access {
    pub(super) fn of<T: Asks>(request: &Request<T>) -> Self {
        Self {
            // Metadata of gRPC are the headers of its request.
            presented: Presented::from(request.metadata().as_ref()),
            peer: request.remote_addr(),
            need: request.get_ref().need(),
            place: request.get_ref().place(),
        }
    }

    /// Whether the caller may have what it asks for, by this state and this server's root key.
    fn check(&self, state: &State, root_key: Option<&RootKey>) -> Result<Caller, Refusal> {
        let caller = identify(&self.presented, state, root_key)?;
        let Caller::Key(id) = &caller else { return Ok(caller) };
        let key = state.access_keys().live(id).ok_or_else(invalid)?;
        let place = self.place.as_ref().map_err(Clone::clone)?;
        check_rights(key, self.need, place, state)?;
        Ok(caller)
    }
}

fn identify(presented: &Presented, state: &State, root_key: Option<&RootKey>) -> Result<Caller, Refusal> {
    if root_key.is_none() && !state.access_keys().is_closed() {
        return Ok(Caller::Anonymous);
    }
    let (id, secret_hash) = match presented {
        Presented::Key { id, secret_hash } => (id, secret_hash),
        Presented::Malformed => return Err(invalid()),
        Presented::Nothing => {
            let missing = "this cluster serves nobody without an access key";
            return Err(Refusal::new(Reason::AccessKeyMissing, missing));
        }
    };
    let (caller, kept) = match (root_key.filter(|root| root.id == *id), state.access_keys().live(id)) {
        (Some(root), _) => (Some(Caller::Root), root.secret_hash),
        (None, Some(key)) => (Some(Caller::Key(id.clone())), key.secret_hash),
        // Compared all the same, so that an id that exists does not take longer than one that doesn't.
        (None, None) => (None, SecretHash::NONE),
    };
    let is_right: bool = kept.ct_eq(secret_hash).into();
    caller.filter(|_| is_right).ok_or_else(invalid)
}

fn invalid() -> Refusal {
    let words = "the access key is unknown or revoked, or its secret is wrong";
    Refusal::new(Reason::AccessKeyInvalid, words)
}

fn check_rights(key: &AccessKey, need: Need, place: &Place, state: &State) -> Result<(), Refusal> {
    match (need, place) {
        (Need::Key, _) => Ok(()),
        (Need::AdminOfAll, _) if key.allows_everywhere(Right::Admin) => Ok(()),
        (Need::AdminOfAll, _) => Err(Refusal::denied(&key.id, Right::Admin.label(), "*")),
        (Need::Right(right), Place::Bucket(bucket)) if key.allows(right, bucket) => Ok(()),
        (Need::Right(right), Place::Bucket(bucket)) => Err(Refusal::denied(&key.id, right.label(), bucket)),
        (Need::ReadAndWrite, Place::Copy(source, target)) => {
            let source = Place::Bucket(source.clone());
            check_rights(key, Need::Right(Right::Read), &source, state)?;
            check_rights(key, Need::Right(Right::Write), target, state)
        }
        (Need::ReadAndWrite, place) => [Right::Read, Right::Write]
            .into_iter()
            .try_for_each(|right| check_rights(key, Need::Right(right), place, state)),
        (Need::AnyRight, Place::Bucket(bucket)) if key.allows_something(bucket) => Ok(()),
        (Need::AnyRight, Place::Bucket(bucket)) => {
            Err(Refusal::denied(&key.id, "read, write, list or admin", bucket))
        }
        (Need::Right(right), Place::Upload(upload_id)) if key.allows_somewhere(right) => {
            let upload = state.upload(*upload_id).and_then(|upload| state.bucket_by_id(upload.bucket));
            match upload {
                // Which uploads there are is nobody's business who may not write there.
                Some(bucket) if !key.allows(right, &bucket.name) => Err(upload_not_found()),
                // One that has ended may be asked about again by whoever ended it: apply has the answer.
                Some(_) | None => Ok(()),
            }
        }
        (Need::Right(right), Place::Upload(_)) => {
            Err(Refusal::denied(&key.id, right.label(), "the upload's bucket"))
        }
        (Need::Right(right), Place::Cluster) if key.allows_everywhere(right) => Ok(()),
        (Need::Right(right), Place::Cluster) => Err(Refusal::denied(&key.id, right.label(), "*")),
        // Only both rights together are asked for there.
        (Need::Right(right), Place::Copy(bucket, _)) => Err(Refusal::denied(&key.id, right.label(), bucket)),
        (Need::AnyRight, Place::Cluster | Place::Copy(..) | Place::Upload(_)) => {
            Err(Refusal::denied(&key.id, "read, write, list or admin", "*"))
        }
    }
}

pub(super) fn upload_not_found() -> Refusal {
    let words = "no open upload of this number: it was committed, aborted or has expired";
    Refusal::new(Reason::UploadNotFound, words)
}

impl Gateway {
    /// Lets a caller in, has done what it asks for, and notes how that ended if it is an administrative act.
    pub(super) async fn serve<T: Asks, R, W: Future<Output = Result<R, Refusal>>>(
        &self,
        request: Request<T>,
        work: impl FnOnce(Call<T>) -> W,
    ) -> Result<Response<R>, Status> {
        let call = self.accept(request);
        let entered = self.enter(&call).await;
        self.serve_entered(entered, call, work).await
    }

    /// The same for a caller of whom is known whether it may come in.
    pub(super) async fn serve_entered<T: Asks, R, W: Future<Output = Result<R, Refusal>>>(
        &self,
        entered: Result<Caller, Refusal>,
        call: Call<T>,
        work: impl FnOnce(Call<T>) -> W,
    ) -> Result<Response<R>, Status> {
        let acting = self.acting(&call);
        let (entered, answer) = match entered {
            Ok(caller) => (Some(caller), work(call).await),
            Err(refusal) => (None, Err(refusal)),
        };
        self.note(acting, entered.as_ref(), &answer);
        Ok(Response::new(answer?))
    }

    /// Lets a call in, before any other work is done for it. This server may not yet have heard of a key, or that keys are
    /// needed: only a leader that is up to date says that a key is not good.
    pub(super) async fn enter<T>(&self, call: &Call<T>) -> Result<Caller, Refusal> {
        let checked = self.check(&self.state(), &call.access);
        let is_in_doubt = match &checked {
            Ok(caller) => *caller == Caller::Anonymous,
            Err(refusal) => refusal.reason() == Reason::AccessKeyInvalid,
        };
        if !is_in_doubt || !matches!(call.access.presented, Presented::Key { .. }) {
            return checked;
        }
        let busy = |_| Refusal::new(Reason::Overloaded, "too many access keys are being looked for");
        let _turn = self.strangers().try_acquire().map_err(busy)?;
        self.read_barrier(call.deadline).await?;
        self.check(&self.state(), &call.access)
    }

    /// Waits until the state includes everything that was committed when the call was made, and looks then whether the
    /// caller may have what it asks for. Gives the term in which this server leads.
    pub(super) async fn admit(&self, deadline: Instant, access: &Access) -> Result<u64, Refusal> {
        let term = self.read_barrier(deadline).await?;
        self.check(&self.state(), access)?;
        Ok(term)
    }

    /// Whether the caller may have what it asks for, as the state is now.
    pub(super) fn check(&self, state: &State, access: &Access) -> Result<Caller, Refusal> {
        access.check(state, self.live().root_key().as_deref())
    }

    /// What is to be noted of the call, if it asks for an administrative act.
    fn acting<T: Asks>(&self, call: &Call<T>) -> Option<Acting> {
        let (subject, request_id) = call.message.act()?;
        // The request may be 16 MiB, and this outlives it.
        let short = |text: &str| text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
        let actor = identify(&call.access.presented, &self.state(), self.live().root_key().as_deref());
        Some(Acting {
            method: T::METHOD,
            actor: actor.ok(),
            subject: short(&subject),
            request_id: short(request_id),
            peer: call.access.peer,
        })
    }

    /// Notes how an administrative act ended. Who sends the caller elsewhere has done nothing.
    fn note<T>(&self, acting: Option<Acting>, entered: Option<&Caller>, answer: &Result<T, Refusal>) {
        let Some(Acting { method, actor, subject, request_id, peer }) = acting else { return };
        let outcome = match answer {
            Ok(_) => "done",
            Err(refusal) if matches!(refusal.reason(), Reason::NotLeader | Reason::NoLeader) => return,
            Err(refusal) => refusal.reason().as_str(),
        };
        // A key that this server had to ask others about was not known at first.
        let actor = entered.or(actor.as_ref()).map(Caller::label);
        let (subject, request_id) = (&subject, &request_id);
        self.audit().note(&Act { name: method.label(), actor, subject, request_id, peer, outcome });
    }
}

/// An administrative act that is under way.
#[derive(Debug)]
pub(super) struct Acting {
    method: Method,
    /// Who asks for it, as far as that is known before it is let in or refused.
    actor: Option<Caller>,
    subject: String,
    request_id: String,
    peer: Option<SocketAddr>,
}

/// Bytes that are kept of a text of the request.
const TEXT_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use xdpfs_proto::state::v1::command::Kind;

    use super::*;

    struct Fixture {
        state: State,
        keys: Vec<Credential>,
    }

    /// A closed cluster with a bucket `photos` and an upload in it, and one key for each list of grants.
    fn fixture(grants: &[&[(&str, u32)]]) -> Fixture {
        let mut fixture = Fixture { state: State::default(), keys: vec![] };
        fixture.add(&[("*", 8)]);
        let bucket = pb::CreateBucket {
            name: "photos".into(),
            chunk_size: 65_536,
            replicas: 1,
            min_replicas: 1,
            ..Default::default()
        };
        fixture.apply(Kind::CreateBucket(bucket));
        let begin =
            pb::BeginPut { bucket: "photos".into(), key: "k".into(), lease_ms: 1000, ..Default::default() };
        fixture.apply(Kind::BeginPut(begin));
        fixture.keys.clear();
        grants.iter().for_each(|grants| fixture.add(grants));
        fixture
    }

    impl Fixture {
        fn apply(&mut self, kind: Kind) {
            let outcome =
                self.state.apply(1, &pb::Command { time_ms: 5, kind: Some(kind), ..Default::default() });
            assert!(!matches!(outcome.kind, Some(pb::outcome::Kind::Rejected(_))), "{outcome:?}");
        }

        fn add(&mut self, grants: &[(&str, u32)]) {
            let key = Credential::generate().unwrap();
            let grant =
                |(buckets, rights): &(&str, u32)| pb::Grant { buckets: (*buckets).into(), rights: *rights };
            self.apply(Kind::CreateAccessKey(pb::CreateAccessKey {
                key_id: key.id().to_string(),
                secret_sha256: Bytes::copy_from_slice(key.secret_hash().as_bytes()),
                grants: grants.iter().map(grant).collect(),
                label: String::new(),
            }));
            self.keys.push(key);
        }

        fn check(&self, text: Option<&str>, method: Method, place: Place) -> Result<Caller, Reason> {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(HEADER, text.parse().unwrap());
            }
            let access = Access {
                presented: Presented::from(&headers),
                peer: None,
                need: method.need(),
                place: Ok(place),
            };
            access.check(&self.state, None).map_err(|refusal| refusal.reason())
        }
    }

    fn bearer(key: &Credential) -> String {
        format!("Bearer {}", key.to_text())
    }

    #[test]
    fn key_proves_who_calls() {
        let fixture = fixture(&[&[("photos", 1)], &[("other", 1)]]);
        let key = &fixture.keys[0];
        let check = |text: Option<&str>| fixture.check(text, Method::GetClusterStatus, Place::Cluster);
        assert_eq!(check(Some(&bearer(key))), Ok(Caller::Key(key.id().clone())));
        assert_eq!(check(None), Err(Reason::AccessKeyMissing));
        let mixed = format!("Bearer {}.{}", key.id(), fixture.keys[1].secret());
        let unknown = bearer(&Credential::generate().unwrap());
        let long = format!("Bearer {}", "A".repeat(100_000));
        for wrong in [
            &mixed,
            &unknown,
            &long,
            &key.to_text(),
            &bearer(key).to_lowercase(),
            "",
            "Bearer ",
            "Basic eDp5",
        ] {
            assert_eq!(check(Some(wrong)), Err(Reason::AccessKeyInvalid));
        }
    }

    #[test]
    fn two_keys_at_once_are_none() {
        let fixture = fixture(&[&[("photos", 1)]]);
        let mut headers = HeaderMap::new();
        headers.append(HEADER, bearer(&fixture.keys[0]).parse().unwrap());
        assert!(matches!(Presented::from(&headers), Presented::Key { .. }));
        headers.append(HEADER, bearer(&fixture.keys[0]).parse().unwrap());
        assert!(matches!(Presented::from(&headers), Presented::Malformed));
    }

    #[test]
    fn words_do_not_tell_whether_there_is_such_a_key() {
        let fixture = fixture(&[&[("photos", 1)]]);
        let key = &fixture.keys[0];
        let other = Credential::generate().unwrap();
        let refusal = |id: &KeyId, hash: SecretHash| {
            let presented = Presented::Key { id: id.clone(), secret_hash: hash };
            identify(&presented, &fixture.state, None).unwrap_err()
        };
        assert_eq!(refusal(key.id(), other.secret_hash()), refusal(other.id(), other.secret_hash()));
        assert_eq!(refusal(other.id(), SecretHash::NONE), invalid(), "what stands for no key is no key");
    }

    #[test]
    fn root_key_may_everything_and_closes_the_cluster() {
        let root = Credential::generate().unwrap();
        let root_key = RootKey::from(&root);
        let state = State::default();
        let check = |presented: Presented, root_key: Option<&RootKey>| {
            let place = Ok(Place::Cluster);
            let access = Access { presented, peer: None, need: Method::CreateAccessKey.need(), place };
            access.check(&state, root_key).map_err(|refusal| refusal.reason())
        };
        let key =
            |secret: &Credential| Presented::Key { id: root.id().clone(), secret_hash: secret.secret_hash() };
        assert_eq!(check(Presented::Nothing, None), Ok(Caller::Anonymous));
        assert_eq!(check(Presented::Nothing, Some(&root_key)), Err(Reason::AccessKeyMissing));
        assert_eq!(check(key(&root), Some(&root_key)), Ok(Caller::Root));
        let other = Credential::generate().unwrap();
        assert_eq!(check(key(&other), Some(&root_key)), Err(Reason::AccessKeyInvalid));
    }

    /// For each right alone, on the bucket: what it is good for, and that this is all.
    #[test]
    fn each_right_is_good_for_exactly_its_methods() {
        use Method::*;
        let rows: [(u32, &[Method]); 4] = [
            (1, &[GetObject, HeadObject]),
            (2, &[AbortPut, BeginPut, CommitBatch, CommitPut, DeleteObject, ExtendPut]),
            (4, &[ListObjects]),
            (8, &[CreateBucket, DeleteBucket, UpdateBucket]),
        ];
        let always = [GetBucket, GetClusterStatus, ListBuckets];
        let methods = [
            AbortPut,
            BeginPut,
            CommitBatch,
            CommitPut,
            CopyObject,
            CreateAccessKey,
            CreateBucket,
            DeleteBucket,
            DeleteObject,
            ExtendPut,
            GetBucket,
            GetClusterStatus,
            GetObject,
            HeadObject,
            ListAccessKeys,
            ListBuckets,
            ListObjects,
            RevokeAccessKey,
            RotateKeyEpoch,
            UpdateBucket,
        ];
        let admin_of_all = [CreateAccessKey, ListAccessKeys, RevokeAccessKey, RotateKeyEpoch];
        for (bits, good_for) in rows {
            for pattern in ["photos", "ph*", "*"] {
                let fixture = fixture(&[&[(pattern, bits)]]);
                let text = bearer(&fixture.keys[0]);
                for method in methods {
                    let place = match method {
                        AbortPut | CommitPut | ExtendPut => Place::Upload(1),
                        GetClusterStatus | ListBuckets => Place::Cluster,
                        method if admin_of_all.contains(&method) => Place::Cluster,
                        _ => Place::Bucket("photos".into()),
                    };
                    let expect = always.contains(&method)
                        || good_for.contains(&method)
                        || bits == 8 && pattern == "*" && admin_of_all.contains(&method);
                    let checked = fixture.check(Some(&text), method, place);
                    assert_eq!(checked.is_ok(), expect, "{bits} on {pattern}: {method:?}");
                    if !expect {
                        assert_eq!(checked, Err(Reason::AccessDenied), "{bits} on {pattern}: {method:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn copy_takes_the_rights_to_read_and_to_write() {
        for (bits, expect) in [(1, false), (2, false), (12, false), (3, true), (15, true)] {
            let fixture = fixture(&[&[("photos", bits)]]);
            let place = Place::Bucket("photos".into());
            let checked = fixture.check(Some(&bearer(&fixture.keys[0])), Method::CopyObject, place);
            assert_eq!(checked.is_ok(), expect, "{bits}: {checked:?}");
        }
        let apart = fixture(&[&[("photos", 1), ("ph*", 2)]]);
        let place = Place::Bucket("photos".into());
        assert!(apart.check(Some(&bearer(&apart.keys[0])), Method::CopyObject, place).is_ok());
    }

    #[test]
    fn right_on_another_bucket_is_none_on_this_one() {
        let fixture = fixture(&[&[("other", 15), ("photos-*", 15)]]);
        let check = |method, place| fixture.check(Some(&bearer(&fixture.keys[0])), method, place).err();
        let photos = || Place::Bucket("photos".into());
        for method in [
            Method::BeginPut,
            Method::CreateBucket,
            Method::DeleteObject,
            Method::GetBucket,
            Method::GetObject,
            Method::ListObjects,
        ] {
            assert_eq!(check(method, photos()), Some(Reason::AccessDenied), "{method:?}");
        }
        assert_eq!(check(Method::CommitPut, Place::Upload(1)), Some(Reason::UploadNotFound));
        assert_eq!(check(Method::CommitPut, Place::Upload(2)), None, "apply says what became of it");
    }

    #[test]
    fn key_comes_before_a_name_that_makes_no_sense() {
        let fixture = fixture(&[&[("photos", 1)]]);
        let place = || Err(Refusal::invalid_name("name", "no name"));
        let check = |presented| {
            let access = Access { presented, peer: None, need: Method::GetObject.need(), place: place() };
            access.check(&fixture.state, None).map_err(|refusal| refusal.reason())
        };
        assert_eq!(check(Presented::Nothing), Err(Reason::AccessKeyMissing));
        let key = &fixture.keys[0];
        let presented = Presented::Key { id: key.id().clone(), secret_hash: key.secret_hash() };
        assert_eq!(check(presented), Err(Reason::InvalidName));
    }
}
