//! Copies from bucket to bucket: chunks belong to their bucket, so the bytes go through the client.

use crate::{
    CopyOptions, GetOptions, ObjectClient, PutOptions, PutResult,
    error::{Error, Result},
};

/// Reads one version of an object and puts it under another name, in whichever bucket. Memory is bounded by the chunks in
/// flight. Within a bucket [`copy`](ObjectClient::copy) does the same without moving a byte.
///
/// # Errors
///
/// Those of a get and of a put.
pub async fn copy_bytes<C: ObjectClient>(
    client: &C,
    (source_bucket, source_key): (&str, &str),
    (bucket, key): (&str, &str),
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
