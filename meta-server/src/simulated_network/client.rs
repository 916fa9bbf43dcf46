//! A client: empty objects that come and go, by the generated client, with each request repeated under its id until its
//! outcome is known.
//!
//! Invariant: what it records of an operation is what a caller could conclude from the answers, and no more.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use uuid::Uuid;
use xdpfs_proto::meta::v1::{
    BeginPutRequest, CommitPutRequest, CreateBucketRequest, DeleteObjectRequest, HeadObjectRequest,
    Precondition, meta_service_client::MetaServiceClient, precondition,
};
use xdpfs_testbed::history::{Operation, Outcome, Value};
use xdpfs_trust::Dialer;

use super::{
    histories::Histories,
    machine,
    server::{IDS, endpoint},
    trace,
};
use crate::state_machine::Reason;

const BUCKET: &str = "buckets/simulated";
/// Where an object's metadata says which put wrote it.
const VALUE: &str = "value";
/// Others take their place then, so that no history becomes too long to be judged.
const KEYS_FOR: Duration = Duration::from_secs(2);
const KEYS: u64 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long a request is repeated before it is given up.
const PATIENCE: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(40);

type Meta = MetaServiceClient<Channel>;

pub(super) struct Client {
    name: String,
    random: fastrand::Rng,
    histories: Histories,
    /// Whether it goes on.
    goes_on: Rc<Cell<bool>>,
    channels: BTreeMap<String, Meta>,
    /// Whom it asks next.
    endpoint: String,
    /// It asks no one else, whatever it is told.
    is_faithful: bool,
}

impl Client {
    pub(super) fn new(number: u64, seed: u64, histories: Histories, goes_on: Rc<Cell<bool>>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ number << 40);
        let endpoint = endpoint(IDS[random.usize(..IDS.len())]);
        let (name, channels) = (format!("client-{number}"), BTreeMap::new());
        Self { name, random, histories, goes_on, channels, endpoint, is_faithful: false }
    }

    /// It asks this server only.
    pub(super) fn of_one(mut self, id: u64) -> Self {
        (self.endpoint, self.is_faithful) = (endpoint(id), true);
        self
    }

    /// Works until it is told to go home.
    pub(super) async fn run(mut self) -> turmoil::Result {
        self.create_bucket().await;
        while self.goes_on.get() {
            self.operate().await;
            sleep(Duration::from_millis(self.random.u64(0..20))).await;
        }
        Ok(())
    }

    /// Reads from its one server as often as it can, until it is told to go home.
    pub(super) async fn only_read(mut self) -> turmoil::Result {
        while self.goes_on.get() {
            let key = self.key();
            self.attempt(&key, Operation::Get).await;
            sleep(Duration::from_millis(self.random.u64(..20))).await;
        }
        Ok(())
    }

    /// Puts objects with so many bytes of metadata under keys that no history is about.
    pub(super) async fn fill(mut self, objects: u64, bytes: usize) -> turmoil::Result {
        self.create_bucket().await;
        for number in 0..objects {
            let value = self.value();
            let padding = "x".repeat(bytes);
            let put = self.put(&format!("padding/{}/{number}", self.name), value, None, padding).await;
            put.map_err(|_| "a put does not end")?;
        }
        Ok(())
    }

    async fn create_bucket(&mut self) {
        let request_id = self.request_id();
        let request = CreateBucketRequest { request_id, name: BUCKET.into(), ..Default::default() };
        loop {
            match self.ask(&request, async |mut meta: Meta, request| meta.create_bucket(request).await).await
            {
                Ok(_) | Err(Ended::Refused(Reason::BucketExists)) => return,
                Err(Ended::Refused(reason)) => panic!("no bucket: {reason:?}"),
                Err(Ended::Open) => {}
            }
        }
    }

    fn key(&mut self) -> String {
        let epoch = machine::elapsed().as_millis() / KEYS_FOR.as_millis();
        format!("{epoch}/{}", self.random.u64(..KEYS))
    }

    fn value(&mut self) -> Value {
        self.random.u64(..)
    }

    fn request_id(&mut self) -> String {
        Uuid::from_u128(self.random.u128(1..)).to_string()
    }

    async fn operate(&mut self) {
        let key = self.key();
        let operation = match self.random.u64(..8) {
            0 => Operation::Delete,
            1 | 2 => Operation::Create(self.value()),
            3 | 4 => Operation::Put(self.value()),
            _ => Operation::Get,
        };
        self.attempt(&key, operation).await;
    }

    async fn attempt(&mut self, key: &str, operation: Operation) {
        let called_ns = machine::stamp_ns();
        let outcome = match operation {
            Operation::Create(value) => {
                let nothing = Precondition { kind: Some(precondition::Kind::IfNoneMatchAny(true)) };
                self.put(key, value, Some(nothing), String::new()).await
            }
            Operation::Put(value) => self.put(key, value, None, String::new()).await,
            Operation::Delete => self.delete(key).await,
            Operation::Get => self.get(key).await,
            Operation::Replace { .. } => Ok(Outcome::Unknown),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // It has changed nothing, and says nothing.
            Err(NothingHappened) => {
                return trace::note(&self.name, &format!("{key} {operation:?} is given up"));
            }
        };
        trace::note(&self.name, &format!("{key} {operation:?} {outcome:?}"));
        self.histories.record(key, called_ns, operation, outcome);
    }

    async fn put(
        &mut self,
        key: &str,
        value: Value,
        precondition: Option<Precondition>,
        padding: String,
    ) -> Result<Outcome, NothingHappened> {
        let begin = BeginPutRequest {
            request_id: self.request_id(),
            name: name(key),
            precondition: precondition.clone(),
            ..Default::default()
        };
        let begun = self.ask(&begin, async |mut meta: Meta, request| meta.begin_put(request).await).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(Ended::Refused(Reason::PreconditionFailed)) => return Ok(Outcome::Refused),
            Err(Ended::Refused(reason)) => panic!("{key} can't be put: {reason:?}"),
            Err(Ended::Open) => return Err(NothingHappened),
        };
        let metadata = [(VALUE, value.to_string()), ("padding", padding)];
        let metadata = metadata.into_iter().filter(|(_, text)| !text.is_empty());
        let commit = CommitPutRequest {
            request_id: self.request_id(),
            upload_id: begun.upload_id,
            precondition,
            user_metadata: metadata.map(|(name, text)| (name.to_owned(), text)).collect(),
            ..Default::default()
        };
        let committed =
            self.ask(&commit, async |mut meta: Meta, request| meta.commit_put(request).await).await;
        match committed {
            Ok(_) => Ok(Outcome::Done),
            Err(Ended::Refused(Reason::PreconditionFailed)) => Ok(Outcome::Refused),
            Err(Ended::Refused(reason)) => panic!("{key} can't be committed: {reason:?}"),
            Err(Ended::Open) => Ok(Outcome::Unknown),
        }
    }

    async fn delete(&mut self, key: &str) -> Result<Outcome, NothingHappened> {
        let (request_id, name) = (self.request_id(), name(key));
        let delete = DeleteObjectRequest { request_id, name, ..Default::default() };
        match self.ask(&delete, async |mut meta: Meta, request| meta.delete_object(request).await).await {
            Ok(_) => Ok(Outcome::Done),
            Err(Ended::Refused(Reason::ObjectNotFound)) => Ok(Outcome::Refused),
            Err(Ended::Refused(reason)) => panic!("{key} can't be deleted: {reason:?}"),
            Err(Ended::Open) => Ok(Outcome::Unknown),
        }
    }

    async fn get(&mut self, key: &str) -> Result<Outcome, NothingHappened> {
        let head = HeadObjectRequest { name: name(key), ..Default::default() };
        let found = self.ask(&head, async |mut meta: Meta, request| meta.head_object(request).await).await;
        match found {
            Ok(found) => {
                let object = found.object.expect("what is found is said");
                let value = object.user_metadata[VALUE].parse().expect("a put wrote it");
                Ok(Outcome::Found(Some(value)))
            }
            Err(Ended::Refused(Reason::ObjectNotFound)) => Ok(Outcome::Found(None)),
            // Before there is a bucket there is no object.
            Err(Ended::Refused(Reason::BucketNotFound)) => Ok(Outcome::Found(None)),
            Err(Ended::Refused(reason)) => panic!("{key} can't be read: {reason:?}"),
            Err(Ended::Open) => Err(NothingHappened),
        }
    }

    /// Repeats a request, wherever the leader is said to be, until its outcome is known or it takes too long.
    async fn ask<Q: Clone, A>(
        &mut self,
        request: &Q,
        call: impl AsyncFn(Meta, tonic::Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Ended> {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            let answer = match self.connect().await {
                Ok(meta) => {
                    let mut request = tonic::Request::new(request.clone());
                    request.set_timeout(ATTEMPT_TIMEOUT);
                    let late = |_| Err(Status::deadline_exceeded("no answer"));
                    timeout(ATTEMPT_TIMEOUT, call(meta, request)).await.unwrap_or_else(late)
                }
                Err(error) => Err(Status::unavailable(error.to_string())),
            };
            let status = match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let info = status.get_details_error_info();
            let reason = info.as_ref().and_then(|info| Reason::parse(&info.reason));
            let hint = info.and_then(|info| info.metadata.get("leaderEndpoint").cloned());
            match reason {
                // A word of the server; the connection is good.
                Some(
                    Reason::NotLeader
                    | Reason::NoLeader
                    | Reason::OutcomeUnknown
                    | Reason::Overloaded
                    | Reason::DeadlineExceeded,
                ) => {}
                Some(reason) => return Err(Ended::Refused(reason)),
                None => drop(self.channels.remove(&self.endpoint)),
            }
            if !self.is_faithful {
                let another = || endpoint(IDS[self.random.usize(..IDS.len())]);
                self.endpoint = hint.clone().unwrap_or_else(another);
            }
            if hint.is_none() || self.is_faithful {
                sleep(PAUSE).await;
            }
        }
        Err(Ended::Open)
    }

    async fn connect(&mut self) -> Result<Meta, tonic::transport::Error> {
        if let Some(meta) = self.channels.get(&self.endpoint) {
            return Ok(meta.clone());
        }
        let dialer = Dialer::new(None, CONNECT_TIMEOUT).simulated();
        let endpoint = Endpoint::from_shared(dialer.uri(&self.endpoint))?;
        let meta = Meta::new(endpoint.connect_with_connector(dialer).await?);
        self.channels.insert(self.endpoint.clone(), meta.clone());
        Ok(meta)
    }
}

/// An operation was given up before it could change anything.
struct NothingHappened;

/// How a request ended that was not done.
enum Ended {
    /// It may have been done, or may yet be.
    Open,
    /// For this reason it was not.
    Refused(Reason),
}

fn name(key: &str) -> String {
    format!("{BUCKET}/objects/{key}")
}
