//! The store itself: one bucket behind the trait.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result,
    UpdateVersion, coalesce_ranges, path::Path,
};
use xdpfs_client::{Batch, ByteRange, Client, Object, ObjectClient, Precondition, StatOptions};

use crate::{
    attributes,
    error::{Condition, generic, translate},
    listing,
    payload::PayloadReader,
    upload::Upload,
};

/// How many deletes of one stream are under way at once.
const DELETES_IN_FLIGHT_MAX: usize = 16;
/// How often ranges are read anew because the object changes under them.
const STARTS_MAX: u32 = 8;

/// A bucket as an [`ObjectStore`]. Clones are cheap and share the client.
///
/// It has to be used inside a tokio runtime, as its client does.
#[derive(Clone)]
pub struct XdpfsStore<C = Client> {
    pub(crate) client: C,
    pub(crate) bucket: Arc<str>,
    has_versions: bool,
}

impl<C: ObjectClient> XdpfsStore<C> {
    /// The bucket of this name, which has to be there.
    pub fn new(client: C, bucket: impl Into<Arc<str>>) -> Self {
        Self { client, bucket: bucket.into(), has_versions: false }
    }

    /// The same, which says the versions of objects. Meant for a bucket that keeps them: only there a version can still be
    /// got once the object has been replaced, as users of the trait expect.
    #[must_use]
    pub fn with_versions(self) -> Self {
        Self { has_versions: true, ..self }
    }

    /// What it speaks through.
    pub const fn client(&self) -> &C {
        &self.client
    }

    pub(crate) fn meta(&self, location: Path, object: &Object) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: DateTime::<Utc>::from(object.created),
            size: object.size,
            e_tag: Some(object.etag.clone()),
            version: self.version_of(object),
        }
    }

    fn version_of(&self, object: &Object) -> Option<String> {
        self.has_versions.then(|| object.version.to_string())
    }

    fn put_result(&self, object: &Object) -> PutResult {
        PutResult {
            e_tag: Some(object.etag.clone()),
            version: self.version_of(object),
            extensions: Default::default(),
        }
    }

    /// What a put asks for that is to replace exactly what its caller knows.
    async fn known(&self, location: &Path, known: UpdateVersion) -> Result<Precondition> {
        let changed = |why: String| Error::Precondition { path: location.to_string(), source: why.into() };
        if let Some(etag) = known.e_tag {
            return Precondition::if_match(&etag).map_err(|error| changed(error.to_string()));
        }
        let version = known.version.ok_or_else(|| generic("neither etag nor version says what to update"))?;
        let stat = self.client.stat(&self.bucket, location.as_ref(), None).await;
        let object = stat.map_err(|error| must_be_there(error, location))?;
        if object.version.to_string() != version {
            return Err(changed(format!("the key holds version {}", object.version)));
        }
        Ok(Precondition::IfMatch(object.etag))
    }

    async fn head_opts(&self, location: &Path, options: &GetOptions, ask: Ask) -> Result<GetResult> {
        let stat = StatOptions { precondition: ask.precondition, version: ask.version };
        let object = self.client.stat_with(&self.bucket, location.as_ref(), stat).await;
        let object = object.map_err(|error| translate(error, location.as_ref(), ask.condition))?;
        let meta = self.meta(location.clone(), &object);
        options.check_preconditions(&meta)?;
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::empty().boxed()),
            range: 0..meta.size,
            meta,
            attributes: attributes::from_words(object.content_type, object.user_metadata),
            extensions: Default::default(),
        })
    }

    /// One range of the version that has this etag, or of whichever is there.
    async fn range(&self, location: &Path, range: Range<u64>, etag: Option<String>) -> Result<Bytes> {
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range))).with_if_match(etag);
        self.get_opts(location, options).await?.bytes().await
    }
}

/// What can be asked of the servers, of all that a caller wants.
struct Ask {
    version: Option<u64>,
    precondition: Option<Precondition>,
    /// What it means if that fails.
    condition: Condition,
}

impl Ask {
    /// The servers know one condition, on one etag; all others are looked at here, against the version that is read.
    fn new(location: &Path, options: &GetOptions) -> Result<Self> {
        let version = options.version.as_deref().map(str::parse::<u64>).transpose();
        let version = version.map_err(|error| Error::NotFound {
            path: location.to_string(),
            source: format!("there can be no such version: {error}").into(),
        })?;
        let one =
            |etags: &Option<String>| etags.as_deref().and_then(|etag| Precondition::if_match(etag).ok());
        let (precondition, condition) = match (one(&options.if_match), one(&options.if_none_match)) {
            (Some(same), _) => (Some(same), Condition::Same),
            (None, Some(Precondition::IfMatch(other))) => {
                (Some(Precondition::IfNoneMatch(other)), Condition::Other)
            }
            (None, _) => (None, Condition::Same),
        };
        Ok(Self { version, precondition, condition })
    }
}

#[async_trait]
impl<C: ObjectClient> ObjectStore for XdpfsStore<C> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let PutOptions { mode, tags: _, attributes, extensions: _ } = opts;
        let (content_type, user_metadata) = attributes::to_words(&attributes)?;
        let (precondition, condition) = match mode {
            PutMode::Create => (Some(Precondition::IfNoneMatchAny), Condition::New),
            PutMode::Overwrite => (None, Condition::Same),
            PutMode::Update(version) => (Some(self.known(location, version).await?), Condition::Same),
        };
        let size_hint = Some(payload.content_length() as u64);
        let options = xdpfs_client::PutOptions { precondition, content_type, user_metadata, size_hint };
        let input = PayloadReader::new(payload);
        let put = self.client.put(&self.bucket, location.as_ref(), input, options).await;
        let put = put.map_err(|error| translate(error, location.as_ref(), condition))?;
        Ok(self.put_result(&put.object))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let PutMultipartOptions { tags: _, attributes, extensions: _ } = opts;
        let (content_type, user_metadata) = attributes::to_words(&attributes)?;
        let options = xdpfs_client::PutOptions { content_type, user_metadata, ..Default::default() };
        let (store, location) = (self.clone(), location.clone());
        Ok(Box::new(Upload::start(|input| async move {
            let put = store.client.put(&store.bucket, location.as_ref(), input, options).await;
            let put = put.map_err(|error| translate(error, location.as_ref(), Condition::Same))?;
            Ok(store.put_result(&put.object))
        })))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let options = GetOptions {
            if_match: options.if_match.map(without_quotes),
            if_none_match: options.if_none_match.map(without_quotes),
            ..options
        };
        let ask = Ask::new(location, &options)?;
        if options.head {
            return self.head_opts(location, &options, ask).await;
        }
        let range = options.range.as_ref().map(byte_range).transpose()?;
        let condition = ask.condition;
        let get = xdpfs_client::GetOptions { range, precondition: ask.precondition, version: ask.version };
        let stream = self.client.get(&self.bucket, location.as_ref(), get).await;
        let stream = stream.map_err(|error| translate(error, location.as_ref(), condition))?;
        let (object, range) = (stream.object().clone(), stream.range());
        let meta = self.meta(location.clone(), &object);
        options.check_preconditions(&meta)?;
        let path = location.to_string();
        let bytes = stream.map_err(move |error| translate(error, path.as_str(), Condition::Same));
        Ok(GetResult {
            payload: GetResultPayload::Stream(bytes.boxed()),
            meta,
            range,
            attributes: attributes::from_words(object.content_type, object.user_metadata),
            extensions: Default::default(),
        })
    }

    /// All of one version: an object that is replaced in between is read anew.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        for range in ranges {
            // Ranges that are put together hide what is wrong with one of them.
            GetRange::Bounded(range.clone()).is_valid().map_err(generic)?;
        }
        match ranges {
            [] => return Ok(vec![]),
            [range] => return Ok(vec![self.range(location, range.clone(), None).await?]),
            _ => {}
        }
        let mut starts = 0;
        loop {
            starts += 1;
            let ObjectMeta { size, e_tag, .. } = self.head(location).await?;
            // Together with one before it, its absence would not be seen.
            if let Some(behind) = ranges.iter().find(|range| range.start >= size) {
                return Err(generic(format!("the range {behind:?} begins behind the end at {size}")));
            }
            let fetch = |range| self.range(location, range, e_tag.clone());
            match coalesce_ranges(ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await {
                Err(Error::Precondition { .. }) if starts < STARTS_MAX => {}
                read => return read,
            }
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let deleted = store.client.delete(&store.bucket, location.as_ref(), None).await;
                deleted.map_err(|error| translate(error, location.as_ref(), Condition::Same))?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(DELETES_IN_FLIGHT_MAX).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listing::all(self, prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        listing::all(self, prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        listing::directory(self, prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let CopyOptions { mode, extensions: _ } = options;
        let (precondition, condition) = match mode {
            CopyMode::Create => (Some(Precondition::IfNoneMatchAny), Condition::New),
            CopyMode::Overwrite => (None, Condition::Same),
        };
        let options = xdpfs_client::CopyOptions { precondition, ..Default::default() };
        let copied = self.client.copy(&self.bucket, from.as_ref(), to.as_ref(), options).await;
        // Only the target has a condition, and only the source can be missing.
        let path = if condition == Condition::New { to } else { from };
        copied.map(drop).map_err(|error| translate(error, path.as_ref(), condition))
    }

    /// One step: nobody ever sees both names, or neither.
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let RenameOptions { target_mode, extensions: _ } = options;
        let (precondition, condition) = match target_mode {
            RenameTargetMode::Create => (Some(Precondition::IfNoneMatchAny), Condition::New),
            RenameTargetMode::Overwrite => (None, Condition::Same),
        };
        if from == to {
            self.head(from).await?;
            let refused = precondition.map(|_| Error::AlreadyExists {
                path: to.to_string(),
                source: "it is renamed to itself".into(),
            });
            return refused.map_or(Ok(()), Err);
        }
        let copy = xdpfs_client::CopyOptions { precondition, ..Default::default() };
        let batch =
            Batch::new(&*self.bucket).copy(from.as_ref(), to.as_ref(), copy).delete(from.as_ref(), None);
        let renamed = self.client.commit(batch).await;
        let path = if condition == Condition::New { to } else { from };
        renamed.map(drop).map_err(|error| translate(error, path.as_ref(), condition))
    }
}

impl<C> fmt::Display for XdpfsStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xdpfs://{}", self.bucket)
    }
}

impl<C> fmt::Debug for XdpfsStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpfsStore")
            .field("bucket", &self.bucket)
            .field("has_versions", &self.has_versions)
            .finish_non_exhaustive()
    }
}

/// Of an update, a key that holds nothing is one that has changed.
fn must_be_there(error: xdpfs_client::Error, location: &Path) -> Error {
    match translate(error, location.as_ref(), Condition::Same) {
        Error::NotFound { path, source } => Error::Precondition { path, source },
        other => other,
    }
}

fn byte_range(range: &GetRange) -> Result<ByteRange> {
    range.is_valid().map_err(generic)?;
    Ok(match *range {
        GetRange::Bounded(Range { start, end }) => ByteRange::Inclusive { first: start, last: end - 1 },
        GetRange::Offset(start) => ByteRange::From(start),
        GetRange::Suffix(length) => ByteRange::Suffix(length),
    })
}

/// Etags here have no quotes; those that are given may, as HTTP has them.
fn without_quotes(etags: String) -> String {
    let bare = |etag: &str| {
        let etag = etag.trim();
        etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(etag).to_owned()
    };
    etags.split(',').map(bare).collect::<Vec<_>>().join(",")
}
