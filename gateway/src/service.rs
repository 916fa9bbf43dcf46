//! `xdpfs.object.v1.ObjectService`: each method says what it wants of the native client.

use tonic::{Request, Response, Status, Streaming};
use xdpfs_client::{
    Client, CopyOptions, DeleteOptions, GetOptions, ListOptions, ObjectClient as _, StatOptions,
    VersionListOptions, copy_anywhere,
};
use xdpfs_proto::object::v1::{self as proto, object_service_server::ObjectService};

use crate::{
    call::{Desk, under_request_id},
    delivery::Delivery,
    inbox::{Inbox, body},
    message::{self, nonempty, nonzero},
    refusal::Refusal,
};

/// Serves callers.
#[derive(Clone, Debug)]
pub(crate) struct Frontend(pub(crate) Desk);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ObjectService for Frontend {
    async fn put_object(
        &self,
        request: Request<Streaming<proto::PutObjectRequest>>,
    ) -> Answer<proto::PutObjectResponse> {
        let (metadata, _, stream) = request.into_parts();
        let inbox = Inbox::new(stream, self.0.idle_max, self.0.metrics().clone());
        self.0.serve("PutObject", &metadata, |client| put(client, inbox)).await
    }

    type GetObjectStream = Delivery;

    async fn get_object(&self, request: Request<proto::GetObjectRequest>) -> Answer<Delivery> {
        let (metadata, _, request) = request.into_parts();
        let mut call = self.0.enter("GetObject", &metadata)?;
        let begun = async {
            let options = GetOptions {
                range: message::byte_range(request.range)?,
                precondition: message::precondition("precondition", request.precondition)?,
                version: nonzero(request.version),
            };
            Ok(call.client.get(&request.bucket, &request.key, options).await?)
        };
        match call.limits.within(begun).await {
            Ok(object) => Ok(Response::new(Delivery::begin(object, call, self.0.idle_max))),
            Err(refusal) => Err(call.refuse(refusal)),
        }
    }

    async fn head_object(
        &self,
        request: Request<proto::HeadObjectRequest>,
    ) -> Answer<proto::HeadObjectResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let options = StatOptions {
                precondition: message::precondition("precondition", request.precondition)?,
                version: nonzero(request.version),
            };
            let object = client.stat_with(&request.bucket, &request.key, options).await?;
            Ok(proto::HeadObjectResponse { object: Some(message::object(object)) })
        };
        self.0.serve("HeadObject", &metadata, work).await
    }

    async fn list_objects(
        &self,
        request: Request<proto::ListObjectsRequest>,
    ) -> Answer<proto::ListObjectsResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let options = ListOptions {
                prefix: request.prefix,
                delimiter: request.delimiter,
                start_after: request.start_after,
                page_size: nonzero(request.page_size),
                page: nonempty(request.page_token),
                consistent: request.consistent,
            };
            let page = client.list(&request.bucket, options).await?;
            Ok(proto::ListObjectsResponse {
                objects: page.objects.into_iter().map(message::object).collect(),
                prefixes: page.prefixes,
                next_page_token: page.next.unwrap_or_default(),
                as_of: page.as_of,
            })
        };
        self.0.serve("ListObjects", &metadata, work).await
    }

    async fn list_object_versions(
        &self,
        request: Request<proto::ListObjectVersionsRequest>,
    ) -> Answer<proto::ListObjectVersionsResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let options = VersionListOptions {
                prefix: request.prefix,
                delimiter: request.delimiter,
                page_size: nonzero(request.page_size),
                page: nonempty(request.page_token),
                consistent: request.consistent,
            };
            let page = client.list_versions(&request.bucket, options).await?;
            Ok(proto::ListObjectVersionsResponse {
                versions: page.versions.into_iter().map(message::version).collect(),
                prefixes: page.prefixes,
                next_page_token: page.next.unwrap_or_default(),
                as_of: page.as_of,
            })
        };
        self.0.serve("ListObjectVersions", &metadata, work).await
    }

    async fn delete_object(
        &self,
        request: Request<proto::DeleteObjectRequest>,
    ) -> Answer<proto::DeleteObjectResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let client = under_request_id(&client, &request.request_id)?;
            let options = DeleteOptions {
                precondition: message::precondition("precondition", request.precondition)?,
                version: nonzero(request.version),
            };
            let deleted = client.delete_with(&request.bucket, &request.key, options).await?;
            Ok(proto::DeleteObjectResponse {
                object: Some(message::object(deleted.object)),
                delete_marker: deleted.delete_marker.unwrap_or_default(),
                was_delete_marker: deleted.was_delete_marker,
            })
        };
        self.0.serve("DeleteObject", &metadata, work).await
    }

    async fn copy_object(
        &self,
        request: Request<proto::CopyObjectRequest>,
    ) -> Answer<proto::CopyObjectResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let client = under_request_id(&client, &request.request_id)?;
            let options = CopyOptions {
                source_precondition: message::precondition(
                    "source_precondition",
                    request.source_precondition,
                )?,
                precondition: message::precondition("precondition", request.precondition)?,
                metadata: request.metadata.map(message::metadata),
                source_version: nonzero(request.source_version),
            };
            let source = (request.source_bucket.as_str(), request.source_key.as_str());
            let target = (request.bucket.as_str(), request.key.as_str());
            let copied = copy_anywhere(&client, source, target, options).await?;
            Ok(proto::CopyObjectResponse { object: Some(message::object(copied.object)) })
        };
        self.0.serve("CopyObject", &metadata, work).await
    }

    async fn commit_batch(
        &self,
        request: Request<Streaming<proto::CommitBatchRequest>>,
    ) -> Answer<proto::CommitBatchResponse> {
        let (metadata, _, stream) = request.into_parts();
        let inbox = Inbox::new(stream, self.0.idle_max, self.0.metrics().clone());
        self.0.serve("CommitBatch", &metadata, |client| commit_batch(client, inbox)).await
    }

    async fn create_bucket(
        &self,
        request: Request<proto::CreateBucketRequest>,
    ) -> Answer<proto::CreateBucketResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let client = under_request_id(&client, &request.request_id)?;
            let made = client.create_bucket(&request.bucket, message::bucket_options(&request)?).await?;
            Ok(proto::CreateBucketResponse { bucket: Some(message::bucket(made)) })
        };
        self.0.serve("CreateBucket", &metadata, work).await
    }

    async fn head_bucket(
        &self,
        request: Request<proto::HeadBucketRequest>,
    ) -> Answer<proto::HeadBucketResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let bucket = client.bucket(&request.bucket).await?;
            Ok(proto::HeadBucketResponse { bucket: Some(message::bucket(bucket)) })
        };
        self.0.serve("HeadBucket", &metadata, work).await
    }

    async fn list_buckets(
        &self,
        request: Request<proto::ListBucketsRequest>,
    ) -> Answer<proto::ListBucketsResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            let page = client.buckets(nonempty(request.page_token)).await?;
            Ok(proto::ListBucketsResponse {
                buckets: page.buckets.into_iter().map(message::bucket).collect(),
                next_page_token: page.next.unwrap_or_default(),
            })
        };
        self.0.serve("ListBuckets", &metadata, work).await
    }

    async fn delete_bucket(
        &self,
        request: Request<proto::DeleteBucketRequest>,
    ) -> Answer<proto::DeleteBucketResponse> {
        let (metadata, _, request) = request.into_parts();
        let work = async move |client: Client| {
            under_request_id(&client, &request.request_id)?.delete_bucket(&request.bucket).await?;
            Ok(proto::DeleteBucketResponse {})
        };
        self.0.serve("DeleteBucket", &metadata, work).await
    }
}

/// Dropped, as when its caller goes away, it gives the put up.
async fn put(
    client: Client,
    mut inbox: Inbox<proto::PutObjectRequest>,
) -> Result<proto::PutObjectResponse, Refusal> {
    let proto::PutObjectHeader { bucket, key, precondition, metadata, size_hint, request_id } =
        inbox.header().await?;
    let client = under_request_id(&client, &request_id)?;
    let options = message::put_options(precondition, metadata, size_hint)?;
    let (sender, input) = body();
    let put = tokio::select! {
        put = client.put(&bucket, &key, input, options) => put?,
        never = inbox.hand_on(vec![sender]) => match never {},
    };
    Ok(proto::PutObjectResponse {
        object: Some(message::object(put.object)),
        chunks_in_debt: put.chunks_in_debt,
    })
}

async fn commit_batch(
    client: Client,
    mut inbox: Inbox<proto::CommitBatchRequest>,
) -> Result<proto::CommitBatchResponse, Refusal> {
    let header = inbox.header().await?;
    let client = under_request_id(&client, &header.request_id)?;
    let (batch, bodies) = message::batch(header)?;
    let results = tokio::select! {
        results = client.commit(batch) => results?,
        never = inbox.hand_on(bodies) => match never {},
    };
    Ok(proto::CommitBatchResponse { results: results.into_iter().map(message::batch_result).collect() })
}
