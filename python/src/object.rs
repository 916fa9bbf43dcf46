//! Objects and buckets as Python sees them.

use std::{collections::BTreeMap, time::SystemTime};

use pyo3::{IntoPyObjectExt as _, prelude::*};
use xdpfs_client::{Bucket, BucketPage, ListPage, Object, Versioning};

use crate::wait::Answer;

/// What a key holds, without its bytes.
#[pyclass(frozen, eq, get_all, module = "xdpfs")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ObjectInfo {
    bucket: String,
    key: String,
    version: u64,
    etag: String,
    size: u64,
    crc32c: u32,
    created: SystemTime,
    content_type: String,
    metadata: BTreeMap<String, String>,
    durable_replicas: u32,
}

#[pymethods]
impl ObjectInfo {
    fn __repr__(&self) -> String {
        let Self { bucket, key, version, etag, size, .. } = self;
        format!("ObjectInfo(bucket={bucket:?}, key={key:?}, size={size}, version={version}, etag={etag:?})")
    }
}

impl From<Object> for ObjectInfo {
    fn from(object: Object) -> Self {
        let Object { bucket, key, version, etag, size, crc32c, created, content_type, user_metadata, .. } =
            object;
        Self {
            bucket,
            key,
            version,
            etag,
            size,
            crc32c,
            created,
            content_type,
            metadata: user_metadata,
            durable_replicas: object.durable_replicas,
        }
    }
}

/// A bucket and its settings.
#[pyclass(frozen, eq, get_all, module = "xdpfs")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BucketInfo {
    name: String,
    chunk_size: u32,
    replicas: u32,
    min_replicas: u32,
    created: SystemTime,
    objects: u64,
    bytes: u64,
    quota_bytes: Option<u64>,
    quota_objects: Option<u64>,
    versioning: &'static str,
}

#[pymethods]
impl BucketInfo {
    fn __repr__(&self) -> String {
        let Self { name, objects, bytes, .. } = self;
        format!("BucketInfo(name={name:?}, objects={objects}, bytes={bytes})")
    }
}

/// What versioning is called.
const VERSIONING: [(&str, Versioning); 3] =
    [("off", Versioning::Off), ("on", Versioning::On), ("suspended", Versioning::Suspended)];

/// Versioning by its name.
pub(crate) fn versioning(name: &str) -> Option<Versioning> {
    VERSIONING.iter().find(|(known, _)| *known == name).map(|(_, versioning)| *versioning)
}

impl From<Bucket> for BucketInfo {
    fn from(bucket: Bucket) -> Self {
        let name_of = |versioning| VERSIONING.iter().find(|(_, known)| *known == versioning);
        Self {
            versioning: name_of(bucket.versioning).map_or("off", |(name, _)| name),
            name: bucket.name,
            chunk_size: bucket.chunk_size,
            replicas: bucket.replicas,
            min_replicas: bucket.min_replicas,
            created: bucket.created,
            objects: bucket.objects,
            bytes: bucket.bytes,
            quota_bytes: bucket.quota_bytes,
            quota_objects: bucket.quota_objects,
        }
    }
}

impl Answer for () {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(py.None())
    }
}

impl Answer for usize {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.into_py_any(py)
    }
}

impl Answer for Object {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        ObjectInfo::from(self).into_py_any(py)
    }
}

impl Answer for Vec<Object> {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.into_iter().map(ObjectInfo::from).collect::<Vec<_>>().into_py_any(py)
    }
}

impl Answer for Bucket {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        BucketInfo::from(self).into_py_any(py)
    }
}

/// Objects, groups, and the next page.
impl Answer for ListPage {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let objects: Vec<_> = self.objects.into_iter().map(ObjectInfo::from).collect();
        (objects, self.prefixes, self.next).into_py_any(py)
    }
}

/// Buckets, and the next page.
impl Answer for BucketPage {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let buckets: Vec<_> = self.buckets.into_iter().map(BucketInfo::from).collect();
        (buckets, self.next).into_py_any(py)
    }
}
