//! A call on its way: let in or turned away, with its caller's own key, until its deadline or the end of the process.
//!
//! Invariant: whoever is turned away costs next to nothing; whoever is let in has the place until all of its answer is
//! given or nobody wants it any more.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status, metadata::MetadataMap};
use uuid::Uuid;
use xdpfs_client::{AccessKey, Client};

use crate::{
    deadline::Deadline,
    metrics::{CallMetrics, Meter},
    reason::Reason,
    refusal::Refusal,
};

const AUTHORIZATION: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// What all calls share.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    /// Shows no key.
    client: Client,
    room: Arc<Semaphore>,
    calls_max: usize,
    metrics: Arc<CallMetrics>,
    /// How long one end may keep the other waiting in the middle of a stream.
    pub(crate) idle_max: Duration,
    /// Whoever is still here then is sent away.
    end: CancellationToken,
}

/// A call that was let in.
#[derive(Debug)]
pub(crate) struct Call {
    /// Speaks for the caller.
    pub(crate) client: Client,
    pub(crate) limits: Limits,
    pub(crate) meter: Meter,
    has_key: bool,
    _place: OwnedSemaphorePermit,
}

/// What ends a call, whatever it does.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    deadline: Deadline,
    end: CancellationToken,
}

impl Desk {
    pub(crate) fn new(client: Client, calls_max: usize, idle_max: Duration, end: CancellationToken) -> Self {
        let calls_max = calls_max.min(Semaphore::MAX_PERMITS);
        Self {
            client,
            room: Arc::new(Semaphore::new(calls_max)),
            calls_max,
            metrics: Arc::default(),
            idle_max,
            end,
        }
    }

    pub(crate) const fn metrics(&self) -> &Arc<CallMetrics> {
        &self.metrics
    }

    pub(crate) const fn calls_max(&self) -> usize {
        self.calls_max
    }

    /// Lets a call in, does what it asks for, and gives its answer.
    pub(crate) async fn serve<T, W>(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        work: impl FnOnce(Client) -> W,
    ) -> Result<Response<T>, Status>
    where
        W: Future<Output = Result<T, Refusal>>,
    {
        let mut call = self.enter(method, metadata)?;
        let worked = call.limits.within(work(call.client.clone())).await;
        match worked {
            Ok(answer) => {
                call.meter.ends(Code::Ok);
                Ok(Response::new(answer))
            }
            Err(refusal) => Err(call.refuse(refusal)),
        }
    }

    /// Lets a call in.
    pub(crate) fn enter(&self, method: &'static str, metadata: &MetadataMap) -> Result<Call, Status> {
        let mut meter = self.metrics.begin(method);
        let entered = self.admit(metadata);
        let (place, key) = entered.map_err(|refusal| refuse(&mut meter, refusal))?;
        let has_key = key.is_some();
        let limits = Limits { deadline: Deadline::of(metadata), end: self.end.clone() };
        Ok(Call { client: self.client.on_behalf_of(key), limits, meter, has_key, _place: place })
    }

    fn admit(&self, metadata: &MetadataMap) -> Result<(OwnedSemaphorePermit, Option<AccessKey>), Refusal> {
        let full = |_| Refusal::new(Reason::Overloaded, "as many calls are under way as there may be");
        let place = Arc::clone(&self.room).try_acquire_owned().map_err(full)?;
        Ok((place, presented(metadata)?))
    }
}

impl Call {
    /// The refusal as the caller hears it.
    pub(crate) fn refuse(&mut self, refusal: Refusal) -> Status {
        let refusal = if self.has_key { refusal } else { refusal.of_nobody() };
        refuse(&mut self.meter, refusal)
    }
}

impl Limits {
    /// What comes of it, unless there is no time left for it.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        tokio::select! {
            worked = work => worked,
            refusal = self.exceeded() => Err(refusal),
        }
    }

    async fn exceeded(&self) -> Refusal {
        tokio::select! {
            () = self.deadline.passed() => Refusal::new(
                Reason::DeadlineExceeded,
                "the call has not ended by its deadline; a change may have happened",
            ),
            () = self.end.cancelled() => Refusal::new(Reason::ShuttingDown, "the gateway stops"),
        }
    }
}

fn refuse(meter: &mut Meter, refusal: Refusal) -> Status {
    let reason = refusal.reason();
    meter.ends(reason.code());
    // The words may name an object.
    tracing::debug!(reason = reason.label(), message = %refusal, "refused");
    if matches!(reason, Reason::Integrity | Reason::Internal) {
        tracing::warn!(method = meter.method(), reason = reason.label(), "a call has failed");
    }
    refusal.into()
}

/// The access key that the caller shows, if any.
fn presented(metadata: &MetadataMap) -> Result<Option<AccessKey>, Refusal> {
    let mut values = metadata.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(malformed()),
    };
    let text = value.to_str().ok().and_then(|text| text.strip_prefix(SCHEME));
    text.and_then(|text| text.parse().ok()).map(Some).ok_or_else(malformed)
}

fn malformed() -> Refusal {
    Refusal::new(Reason::AccessKeyInvalid, "authorization is not `Bearer ID.SECRET`")
}

/// A request id of the caller's making; none if it is empty.
pub(crate) fn under_request_id(client: &Client, request_id: &str) -> Result<Client, Refusal> {
    if request_id.is_empty() {
        return Ok(client.clone());
    }
    let id = Uuid::parse_str(request_id).ok().filter(|id| !id.is_nil());
    let id =
        id.ok_or_else(|| Refusal::invalid("request_id", "a request id is a UUID of the caller's making"))?;
    Ok(client.under_request_id(id))
}

#[cfg(test)]
mod tests {
    use xdpfs_client::ClientConfig;

    use super::*;

    fn desk(calls_max: usize) -> Desk {
        let config = ClientConfig::new("127.0.0.1:1".parse().unwrap());
        Desk::new(
            Client::connect(config).unwrap(),
            calls_max,
            Duration::from_secs(1),
            CancellationToken::new(),
        )
    }

    fn shown(values: &[&'static str]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append(AUTHORIZATION, value.parse().unwrap());
        }
        metadata
    }

    #[test]
    fn key_is_what_follows_bearer_and_what_is_no_key_is_not_taken_for_nobody() {
        let key = presented(&shown(&["Bearer XKA.SECRET"])).unwrap().unwrap();
        assert_eq!(key.to_text(), "XKA.SECRET");
        assert!(presented(&shown(&[])).unwrap().is_none());
        for bad in [&["Basic eDp5"][..], &["bearer XKA.SECRET"], &["Bearer XKA"], &["Bearer XKA.S"; 2]] {
            assert_eq!(presented(&shown(bad)).unwrap_err().reason(), Reason::AccessKeyInvalid, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn call_beyond_the_limit_is_turned_away_until_another_ends() {
        let desk = desk(1);
        let first = desk.enter("HeadObject", &MetadataMap::new()).unwrap();
        let status = desk.enter("HeadObject", &MetadataMap::new()).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        drop(first);
        desk.enter("HeadObject", &MetadataMap::new()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn call_ends_by_its_deadline_and_with_the_process() {
        let desk = desk(8);
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "1S".parse().unwrap());
        let late = desk.serve("HeadObject", &metadata, |_| std::future::pending::<Result<(), _>>()).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        let empty = MetadataMap::new();
        let stopped = desk.serve("HeadObject", &empty, |_| std::future::pending::<Result<(), _>>());
        let (stopped, ()) = tokio::join!(stopped, async { desk.end.cancel() });
        assert_eq!(stopped.unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn request_ids_are_uuids_of_somebody() {
        let client = desk(1).client;
        under_request_id(&client, "").unwrap();
        under_request_id(&client, "67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap();
        for bad in ["x", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(under_request_id(&client, bad).unwrap_err().reason(), Reason::InvalidArgument);
        }
    }
}
