//! The client: one operation of the Rust client for each method.

#![expect(clippy::too_many_arguments, reason = "Python hands them over one by one, by their places")]

use std::{
    collections::{BTreeMap, HashMap},
    io::Cursor,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use pyo3::{IntoPyObjectExt as _, exceptions::PyValueError, prelude::*, types::PyBytes};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
};
use xdpfs_client::{
    BucketOptions, ByteRange, Client, ClientConfig, ClientOptions, CopyOptions, DeleteOptions, Error,
    GetOptions, GetStream, ListOptions, ObjectClient as _, Precondition, PutOptions, StatOptions,
    copy_anywhere,
};

use crate::{
    data::Data,
    failure::{Failure, bad_options},
    object::versioning,
    process::Process,
    reader::NativeReader,
    wait::{Answer, Waiting},
    writer::NativeWriter,
};

/// What is got in one go; larger objects are read into memory that is made for them.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// A client of one cluster, which connects when it is first used, and again in a process that was forked.
#[pyclass(frozen, module = "xdpfs._native")]
pub(crate) struct NativeClient {
    config: ClientConfig,
    waiting: Waiting,
    /// Locked under the interpreter's lock only, and never across a wait or a call of Python.
    connected: Mutex<Option<Connected>>,
}

struct Connected {
    process: &'static Process,
    client: Client,
}

/// What a put says about its object.
type Words = (Option<String>, Option<BTreeMap<String, String>>);

impl NativeClient {
    fn connected(&self, py: Python<'_>) -> PyResult<(&'static Process, Client)> {
        let process = Process::this(py)?;
        // Exceptions are made of modules of Python, where another thread may run that waits for this lock.
        let connected = self.connect(process).map_err(|error| Failure::Client(error).into_python(py));
        connected.map(|client| (process, client))
    }

    fn connect(&self, process: &'static Process) -> Result<Client, Error> {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = connected.as_ref().filter(|known| known.process.is_this()) {
            return Ok(known.client.clone());
        }
        let _runtime = process.runtime.enter();
        let client = Client::connect(self.config.clone())?;
        // A parent's sockets and tasks are not for this process to end.
        std::mem::forget(connected.replace(Connected { process, client: client.clone() }));
        Ok(client)
    }

    fn run<T: Answer, F>(&self, py: Python<'_>, work: impl FnOnce(Client) -> F) -> PyResult<Py<PyAny>>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let (process, client) = self.connected(py)?;
        self.waiting.wait(py, process, work(client))
    }
}

#[pymethods]
impl NativeClient {
    #[new]
    #[pyo3(signature = (options, *, awaits, from_environment = true, chunks_in_flight = None, buffered_bytes = None))]
    fn new(
        py: Python<'_>,
        options: HashMap<String, String>,
        awaits: bool,
        from_environment: bool,
        chunks_in_flight: Option<usize>,
        buffered_bytes: Option<u32>,
    ) -> PyResult<Self> {
        let bad = |error| bad_options(py, &error);
        let mut said =
            if from_environment { ClientOptions::from_env().map_err(bad)? } else { ClientOptions::default() };
        for (name, value) in &options {
            said.set(name, value).map_err(bad)?;
        }
        // A key that is given counts before one that the environment has a file with, and the other way round.
        if options.contains_key("access_key_file") && !options.contains_key("access_key") {
            said.access_key = None;
        }
        let mut config = said.config().map_err(bad)?;
        if let Some(count) = chunks_in_flight {
            let none = || PyValueError::new_err("chunks_in_flight is at least 1");
            config.chunks_in_flight_max = NonZeroUsize::new(count).ok_or_else(none)?;
        }
        config.buffered_bytes_max = buffered_bytes.unwrap_or(config.buffered_bytes_max);
        let waiting = if awaits { Waiting::Await } else { Waiting::Block };
        Ok(Self { config, waiting, connected: Mutex::new(None) })
    }

    /// Where the metadata servers are.
    #[getter]
    fn endpoint(&self) -> String {
        self.config.endpoints.to_string()
    }

    #[pyo3(signature = (bucket, key, data, words, if_match, if_none_match))]
    fn put(
        &self,
        py: Python<'_>,
        bucket: String,
        key: String,
        data: Data,
        words: Words,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = put_options(words, if_match, if_none_match)?;
        self.run(py, |client| async move { Ok(put(&client, &bucket, &key, data, options).await?) })
    }

    #[pyo3(signature = (bucket, key, path, words, if_match, if_none_match))]
    fn put_file(
        &self,
        py: Python<'_>,
        bucket: String,
        key: String,
        path: PathBuf,
        words: Words,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = put_options(words, if_match, if_none_match)?;
        self.run(py, |client| async move {
            let at = |error| Failure::File(error, path.clone());
            let file = File::open(&path).await.map_err(at)?;
            let size_hint = Some(file.metadata().await.map_err(at)?.len());
            let options = PutOptions { size_hint, ..options };
            Ok(client.put(&bucket, &key, file, options).await?.object)
        })
    }

    /// One put for each key and what it is to hold, so many at a time. The first failure ends it; what was put stays.
    fn put_many(
        &self,
        py: Python<'_>,
        bucket: String,
        items: Vec<(String, Data)>,
        parallel: usize,
    ) -> PyResult<Py<PyAny>> {
        self.run(py, |client| async move {
            let puts = items.into_iter().map(|(key, data)| {
                let (client, bucket) = (&client, &bucket);
                async move { put(client, bucket, &key, data, PutOptions::default()).await }
            });
            Ok(stream::iter(puts).buffered(parallel.max(1)).try_collect::<Vec<_>>().await?)
        })
    }

    #[pyo3(signature = (bucket, key, words, if_match, if_none_match))]
    fn writer(
        &self,
        py: Python<'_>,
        bucket: &str,
        key: &str,
        words: Words,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<NativeWriter> {
        let options = put_options(words, if_match, if_none_match)?;
        let (process, client) = self.connected(py)?;
        let _runtime = process.runtime.enter();
        Ok(NativeWriter::new(client.writer(bucket, key, options), process, self.waiting))
    }

    /// The bytes of a small object, or a reader of a large one.
    #[pyo3(signature = (bucket, key, range, version, if_match, if_none_match))]
    fn get(
        &self,
        py: Python<'_>,
        bucket: String,
        key: String,
        range: Option<&str>,
        version: Option<u64>,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = get_options(range, version, if_match, if_none_match)?;
        let (process, waiting) = (Process::this(py)?, self.waiting);
        self.run(py, |client| async move {
            let stream = client.get(&bucket, &key, options).await?;
            if stream.len() > SMALL_BYTES_MAX {
                return Ok(Got::Large(NativeReader::new(stream, process, waiting)));
            }
            Ok(Got::Small(stream.into_bytes().await?))
        })
    }

    #[pyo3(signature = (bucket, key, range, version, if_match, if_none_match))]
    fn open(
        &self,
        py: Python<'_>,
        bucket: String,
        key: String,
        range: Option<&str>,
        version: Option<u64>,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = get_options(range, version, if_match, if_none_match)?;
        let (process, waiting) = (Process::this(py)?, self.waiting);
        self.run(py, |client| async move {
            Ok(NativeReader::new(client.get(&bucket, &key, options).await?, process, waiting))
        })
    }

    /// Into a file, which is there as a whole or not at all.
    #[pyo3(signature = (bucket, key, path, range, version, if_match, if_none_match))]
    fn get_file(
        &self,
        py: Python<'_>,
        bucket: String,
        key: String,
        path: PathBuf,
        range: Option<&str>,
        version: Option<u64>,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = get_options(range, version, if_match, if_none_match)?;
        self.run(py, |client| async move {
            let mut stream = client.get(&bucket, &key, options).await?;
            save(&mut stream, &Draft::of(&path).0, &path).await?;
            Ok(stream.object().clone())
        })
    }

    /// The bytes of each key, so many objects at a time, in the order of the keys. The first failure ends it.
    fn get_many(
        &self,
        py: Python<'_>,
        bucket: String,
        keys: Vec<String>,
        parallel: usize,
    ) -> PyResult<Py<PyAny>> {
        self.run(py, |client| async move {
            let gets = keys.into_iter().map(|key| {
                let (client, bucket) = (&client, &bucket);
                async move { client.get(bucket, &key, GetOptions::default()).await?.into_bytes().await }
            });
            Ok(stream::iter(gets).buffered(parallel.max(1)).try_collect::<Vec<_>>().await?)
        })
    }

    #[pyo3(signature = (bucket, key, version, if_match, if_none_match))]
    fn stat(
        &self,
        py: Python<'_>,
        bucket: String,
        key: String,
        version: Option<u64>,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let precondition = precondition(if_match, if_none_match)?;
        let options = StatOptions { precondition, version };
        self.run(py, |client| async move { Ok(client.stat_with(&bucket, &key, options).await?) })
    }

    #[pyo3(signature = (bucket, key, version, if_match))]
    fn delete(
        &self,
        py: Python<'_>,
        bucket: String,
        key: String,
        version: Option<u64>,
        if_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = DeleteOptions { precondition: precondition(if_match, None)?, version };
        self.run(py, |client| async move { Ok(client.delete_with(&bucket, &key, options).await?.object) })
    }

    #[pyo3(signature = (source, target, version, source_if_match, if_match, if_none_match))]
    fn copy(
        &self,
        py: Python<'_>,
        source: (String, String),
        target: (String, String),
        version: Option<u64>,
        source_if_match: Option<String>,
        if_match: Option<String>,
        if_none_match: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = CopyOptions {
            source_precondition: precondition(source_if_match, None)?,
            precondition: precondition(if_match, if_none_match)?,
            metadata: None,
            source_version: version,
        };
        self.run(py, |client| async move {
            let (source, target) =
                ((source.0.as_str(), source.1.as_str()), (target.0.as_str(), target.1.as_str()));
            Ok(copy_anywhere(&client, source, target, options).await?.object)
        })
    }

    #[pyo3(signature = (bucket, prefix, delimiter, start_after, page_size, page))]
    fn list(
        &self,
        py: Python<'_>,
        bucket: String,
        prefix: String,
        delimiter: String,
        start_after: String,
        page_size: Option<u32>,
        page: Option<String>,
    ) -> PyResult<Py<PyAny>> {
        let options = ListOptions { prefix, delimiter, start_after, page_size, page, consistent: false };
        self.run(py, |client| async move { Ok(client.list(&bucket, options).await?) })
    }

    #[pyo3(signature = (bucket, chunk_size, replicas, min_replicas, quota_bytes, quota_objects, versioning_of))]
    fn create_bucket(
        &self,
        py: Python<'_>,
        bucket: String,
        chunk_size: Option<u32>,
        replicas: Option<u32>,
        min_replicas: Option<u32>,
        quota_bytes: Option<u64>,
        quota_objects: Option<u64>,
        versioning_of: &str,
    ) -> PyResult<Py<PyAny>> {
        let unknown = || PyValueError::new_err("versioning is \"off\", \"on\" or \"suspended\"");
        let versioning = versioning(versioning_of).ok_or_else(unknown)?;
        let options =
            BucketOptions { chunk_size, replicas, min_replicas, quota_bytes, quota_objects, versioning };
        self.run(py, |client| async move { Ok(client.create_bucket(&bucket, options).await?) })
    }

    fn bucket(&self, py: Python<'_>, bucket: String) -> PyResult<Py<PyAny>> {
        self.run(py, |client| async move { Ok(client.bucket(&bucket).await?) })
    }

    fn buckets(&self, py: Python<'_>, page: Option<String>) -> PyResult<Py<PyAny>> {
        self.run(py, |client| async move { Ok(client.buckets(page).await?) })
    }

    fn delete_bucket(&self, py: Python<'_>, bucket: String) -> PyResult<Py<PyAny>> {
        self.run(py, |client| async move { Ok(client.delete_bucket(&bucket).await?) })
    }

    /// Waits until puts that were given up are cleaned away. The client can be used again.
    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.run(py, |client| async move {
            client.close().await;
            Ok(())
        })
    }
}

/// What a get came to.
enum Got {
    Large(NativeReader),
    Small(Bytes),
}

impl Answer for Got {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Large(reader) => reader.into_python(py),
            Self::Small(bytes) => Ok(PyBytes::new(py, &bytes).into_any().unbind()),
        }
    }
}

impl Answer for Vec<Bytes> {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let all: Vec<_> = self.iter().map(|bytes| PyBytes::new(py, bytes)).collect();
        all.into_py_any(py)
    }
}

async fn put(
    client: &Client,
    bucket: &str,
    key: &str,
    data: Data,
    options: PutOptions,
) -> Result<xdpfs_client::Object, Error> {
    let options = PutOptions { size_hint: Some(data.as_ref().len() as u64), ..options };
    Ok(client.put(bucket, key, Cursor::new(data), options).await?.object)
}

async fn save(stream: &mut GetStream, draft: &Path, path: &Path) -> Result<(), Failure> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Failure::File(error, path)
    };
    // In this thread: what was given up meanwhile is not made later by another one.
    let mut file = File::from_std(std::fs::File::create(draft).map_err(at(draft))?);
    while let Some(bytes) = stream.try_next().await? {
        file.write_all(&bytes).await.map_err(at(draft))?;
    }
    file.flush().await.map_err(at(draft))?;
    fs::rename(draft, path).await.map_err(at(path))
}

/// What is written beside a file, so that it can take its place in one step. One that has not is removed.
struct Draft(PathBuf);

impl Draft {
    /// Of this call alone: others may be after the same file.
    fn of(path: &Path) -> Self {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".xdpfs-{}-{number}", std::process::id()));
        Self(path.with_file_name(name))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Mostly it has taken its place; that it can't be removed is no news beside the failure.
        let _left = std::fs::remove_file(&self.0);
    }
}

fn put_options(
    (content_type, metadata): Words,
    if_match: Option<String>,
    if_none_match: Option<String>,
) -> PyResult<PutOptions> {
    Ok(PutOptions {
        precondition: precondition(if_match, if_none_match)?,
        content_type: content_type.unwrap_or_default(),
        user_metadata: metadata.unwrap_or_default(),
        size_hint: None,
    })
}

fn get_options(
    range: Option<&str>,
    version: Option<u64>,
    if_match: Option<String>,
    if_none_match: Option<String>,
) -> PyResult<GetOptions> {
    let range = range.map(str::parse::<ByteRange>).transpose();
    let range = range.map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(GetOptions { range, precondition: precondition(if_match, if_none_match)?, version })
}

fn precondition(if_match: Option<String>, if_none_match: Option<String>) -> PyResult<Option<Precondition>> {
    let parsed = match (if_match, if_none_match) {
        (Some(_), Some(_)) => {
            return Err(PyValueError::new_err("if_match and if_none_match exclude each other"));
        }
        (Some(etag), None) => Precondition::if_match(&etag).map(Some),
        (None, Some(etag)) => Precondition::if_none_match(&etag).map(Some),
        (None, None) => Ok(None),
    };
    parsed.map_err(|error| PyValueError::new_err(error.to_string()))
}
