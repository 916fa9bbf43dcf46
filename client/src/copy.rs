//! Copies from bucket to bucket: chunks belong to their bucket, so the bytes have to move. Data nodes fetch them from each
//! other; where servers or nodes are too old for that, the bytes go through the client.

use std::sync::Arc;

use tracing::debug;
use xdpfs_proto::meta::v1 as proto;

use crate::{
    CopyOptions, GetOptions, Object, ObjectClient, Precondition, PutOptions, PutResult,
    client::{Client, Shared, request_id},
    control::{Meta, Operation, Reason, Refusal},
    error::{Error, Result},
    name::ObjectName,
};

/// An object's bucket and its key.
type Name<'a> = (&'a str, &'a str);

/// What a copy came to.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyResult {
    /// The copy.
    pub object: Object,
    /// Who moved the bytes.
    pub way: CopyWay,
}

/// Who moved the bytes of a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CopyWay {
    /// This client, which read and wrote them.
    Client,
    /// The data nodes, among themselves.
    Nodes,
    /// Nobody: the copy shares the chunks of its source.
    Shared,
}

impl CopyWay {
    /// Its name in programs' output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Nodes => "nodes",
            Self::Shared => "shared",
        }
    }
}

/// Copies an object to another name, in whichever bucket, the best way that there is.
///
/// # Errors
///
/// Those of [`copy`](ObjectClient::copy), [`copy_across`](ObjectClient::copy_across) and [`copy_bytes`].
pub async fn copy_anywhere<C: ObjectClient>(
    client: &C,
    source: Name<'_>,
    target: Name<'_>,
    options: CopyOptions,
) -> Result<CopyResult> {
    if source.0 == target.0 {
        let object = client.copy(source.0, source.1, target.1, options).await?;
        return Ok(CopyResult { object, way: CopyWay::Shared });
    }
    match client.copy_across(source, target, options.clone()).await {
        Ok(copied) => Ok(CopyResult { object: copied.object, way: CopyWay::Nodes }),
        Err(Error::Unsupported { message, .. }) => {
            debug!(message, "the bytes of a copy go through this client");
            let copied = copy_bytes(client, source, target, options).await?;
            Ok(CopyResult { object: copied.object, way: CopyWay::Client })
        }
        Err(error) => Err(error),
    }
}

/// Reads one version of an object and puts it under another name, in whichever bucket. Memory is bounded by the chunks in
/// flight. Within a bucket [`copy`](ObjectClient::copy) does the same without moving a byte, and from one to another
/// [`copy_across`](ObjectClient::copy_across) without moving it through this client.
///
/// # Errors
///
/// Those of a get and of a put.
pub async fn copy_bytes<C: ObjectClient>(
    client: &C,
    (source_bucket, source_key): Name<'_>,
    (bucket, key): Name<'_>,
    options: CopyOptions,
) -> Result<PutResult> {
    let get = GetOptions {
        precondition: options.source_precondition,
        version: options.source_version,
        ..GetOptions::default()
    };
    let stream = client.get(source_bucket, source_key, get).await?;
    let source = stream.object().clone();
    let (content_type, user_metadata) = match options.metadata {
        Some(metadata) => (metadata.content_type, metadata.user_metadata),
        None => (source.content_type, source.user_metadata),
    };
    let put = PutOptions {
        precondition: options.precondition,
        content_type,
        user_metadata,
        size_hint: Some(source.size),
    };
    let copied = client.put(bucket, key, stream, put).await?;
    if (copied.object.size, copied.object.crc32c) != (source.size, source.crc32c) {
        return Err(Error::Integrity { what: "the copy".into() });
    }
    Ok(copied)
}

/// Has the data nodes copy an object to another bucket, and waits until they have. Dropping the future gives it up.
pub(crate) async fn copy_across(
    client: &Client,
    source: Name<'_>,
    target: Name<'_>,
    options: CopyOptions,
) -> Result<PutResult> {
    options.check()?;
    let shared = client.shared();
    let begin = proto::BeginCopyRequest {
        request_id: request_id(),
        source: ObjectName::new(source.0, source.1)?.resource,
        destination: ObjectName::new(target.0, target.1)?.resource,
        source_precondition: Precondition::to_proto(options.source_precondition.as_ref()),
        precondition: Precondition::to_proto(shared.early(options.precondition.as_ref())),
    };
    let send = |mut meta: Meta, request| async move { meta.begin_copy(request).await };
    let begun = match shared.control.call(Operation::BeginCopy, begin, send).await {
        Ok(begun) => begun,
        Err(refusal) if refusal.is(&Reason::BucketNotFound) => {
            // It may be either one.
            client.bucket(source.0).await?;
            return Err(refusal.about(Operation::BeginCopy, target.0, target.1));
        }
        Err(refusal) => return Err(explain(refusal, Operation::BeginCopy, source, target)),
    };
    let mut upload = OpenUpload { shared: Arc::clone(shared), id: begun.upload_id, is_settled: false };
    let go_on = proto::ContinueCopyRequest {
        request_id: shared.change_id(),
        upload_id: begun.upload_id,
        source: begun.source,
        precondition: Precondition::to_proto(options.precondition.as_ref()),
        metadata: options.metadata.map(|metadata| metadata.to_proto()),
    };
    loop {
        let send = |mut meta: Meta, request| async move { meta.continue_copy(request).await };
        let answer = shared.control.call(Operation::ContinueCopy, go_on.clone(), send).await;
        let answer = answer.map_err(|refusal| explain(refusal, Operation::ContinueCopy, source, target))?;
        if answer.object.is_none() {
            debug!(copied_bytes = answer.copied_bytes, size = begun.size, "a copy is under way");
            continue;
        }
        // Of a copy that is repeated, an earlier attempt may be what has come to its end.
        upload.is_settled = !shared.is_named();
        let object = Object::parse(answer.object, Operation::ContinueCopy.label())?;
        object.check_name(target.0, target.1)?;
        return Ok(PutResult { object, chunks_in_debt: answer.chunks_in_debt });
    }
}

fn explain(refusal: Refusal, operation: Operation, source: Name<'_>, target: Name<'_>) -> Error {
    // Only the source can be missing.
    let (bucket, key) = if refusal.is(&Reason::ObjectNotFound) { source } else { target };
    match refusal.about(operation, bucket, key) {
        // Some of the servers are not yet of a release that knows of such copies.
        Error::Refused { operation, reason, message } if reason == "FEATURE_LEVEL_TOO_LOW" => {
            Error::Unsupported { operation, message }
        }
        error => error,
    }
}

/// A copy that has begun: given up when it is dropped, unless it came to its end.
struct OpenUpload {
    shared: Arc<Shared>,
    id: u64,
    is_settled: bool,
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        if self.is_settled || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (shared, upload_id) = (Arc::clone(&self.shared), self.id);
        self.shared.cleanups.spawn(async move {
            let request = proto::AbortPutRequest { request_id: request_id(), upload_id };
            let send = |mut meta: Meta, request| async move { meta.abort_put(request).await };
            match shared.control.call(Operation::AbortPut, request, send).await {
                Ok(_) => debug!(upload = upload_id, "copy aborted"),
                // The lease ends it all the same.
                Err(refusal) => debug!(upload = upload_id, ?refusal, "copy not aborted"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::{
        ErrorKind,
        fake::{Answer, BUCKET, FakeCluster, content, refuse},
    };

    const SOURCE: Name<'_> = (BUCKET, "source");
    const TARGET: Name<'_> = ("other", "target");

    /// A cluster with an object, and servers that look so often at a copy before it is there; none are too old for that.
    async fn cluster(looks: Option<u32>) -> (FakeCluster, Client, Vec<u8>) {
        let (cluster, bytes) = (FakeCluster::start(3), content(100_000));
        let client = cluster.client();
        client.put(SOURCE.0, SOURCE.1, bytes.as_slice(), PutOptions::default()).await.unwrap();
        cluster.with(|state| (state.copy_looks, state.asked) = (looks, 0));
        (cluster, client, bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_copy_and_the_client_moves_no_byte() {
        let (cluster, client, _) = cluster(Some(3)).await;
        let copied = copy_anywhere(&client, SOURCE, TARGET, CopyOptions::default()).await.unwrap();
        assert_eq!((copied.way, copied.object.size), (CopyWay::Nodes, 100_000));
        assert_eq!(cluster.with(|state| state.asked), 0);
        let requests = cluster.meta.requests();
        let ids = requests.iter().filter(|(operation, _)| *operation == Operation::ContinueCopy);
        let ids: std::collections::BTreeSet<_> = ids.map(|(_, request)| request.clone()).collect();
        assert_eq!((cluster.meta.count(Operation::ContinueCopy), ids.len()), (4, 1), "all under one id");
        assert_eq!(cluster.meta.count(Operation::AbortPut), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn where_servers_are_too_old_the_bytes_go_through_the_client() {
        let (cluster, client, bytes) = cluster(None).await;
        let across = client.copy_across(SOURCE, TARGET, CopyOptions::default()).await;
        assert!(matches!(across, Err(Error::Unsupported { .. })), "{across:?}");
        for reason in [None, Some("COPY_UNSUPPORTED"), Some("FEATURE_LEVEL_TOO_LOW")] {
            let refused = reason.map(|reason| Answer::Fail(refuse(Code::FailedPrecondition, reason)));
            cluster.meta.answer(refused);
            // The cluster in memory has one bucket, which does not matter to the client.
            let copied = copy_anywhere(&client, SOURCE, TARGET, CopyOptions::default()).await.unwrap();
            assert_eq!(copied.way, CopyWay::Client, "{reason:?}");
            let read = client.get(TARGET.0, TARGET.1, GetOptions::default()).await.unwrap();
            assert!(read.into_bytes().await.unwrap() == bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn copy_that_fails_or_is_dropped_is_given_up() {
        let (cluster, client, _) = cluster(Some(u32::MAX)).await;
        let gone = cluster.with(|state| state.copy_looks.take());
        assert_eq!(gone, Some(u32::MAX));
        cluster.with(|state| state.copy_looks = Some(1_000_000));
        let copy = client.copy_across(SOURCE, TARGET, CopyOptions::default());
        let goes_on = async {
            while cluster.meta.count(Operation::ContinueCopy) < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            copied = copy => panic!("it was not to be there yet: {copied:?}"),
            () = goes_on => {}
        }
        client.close().await;
        assert_eq!(cluster.meta.count(Operation::AbortPut), 1);

        cluster.with(|state| state.copy_looks = Some(1));
        let begun = Answer::Fail(refuse(Code::NotFound, "OBJECT_NOT_FOUND"));
        cluster.meta.answer([begun]);
        let missing = client.copy_across(SOURCE, TARGET, CopyOptions::default()).await.unwrap_err();
        let named = matches!(&missing, Error::ObjectNotFound { bucket, key } if (bucket.as_str(), key.as_str()) == SOURCE);
        assert!(named, "{missing:?}");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn source_that_is_gone_is_said_to_have_changed() {
        let (cluster, client, bytes) = cluster(Some(2)).await;
        let copy = client.copy_across(SOURCE, TARGET, CopyOptions::default());
        cluster.with(|state| {
            state.on_request(|operation, state| {
                if operation == Operation::ContinueCopy {
                    state.objects.clear();
                }
            });
        });
        assert!(matches!(copy.await, Err(Error::ChangedWhileReading)), "of {} bytes", bytes.len());
        client.close().await;
        assert_eq!(cluster.meta.count(Operation::AbortPut), 1);
    }
}
