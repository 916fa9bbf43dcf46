//! What is answered to which request. `docs/console.md` describes it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header::ALLOW},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::sync::Semaphore;
use xdpfs_client::{
    BucketPage, ClusterStatus, ErrorKind, GetOptions, ListOptions, ObjectClient as _, Precondition,
    record::{BucketRecord, ObjectRecord, StatusRecord, milliseconds},
};

use crate::{
    DOWNLOADS_MAX, Entrance, Names,
    answer::{Trouble, guard, json},
    credential, download, gate,
    history::KEPT,
    page,
    query::Query,
    record::{BucketsRecord, HistoryRecord, ObjectsRecord},
    sampler::Sampler,
    visitors::{Visit, Visitors},
};

/// What data is asked for below.
const API: &str = "/api/";
/// Objects and groups of a page, unless the request says; and at most.
const PAGE_SIZE: u64 = 200;
const PAGE_SIZE_MAX: u64 = 1000;

type Answer = Result<Response, Trouble>;

/// What all requests share.
pub(crate) struct Desk<E: Entrance> {
    visitors: Visitors<E>,
    sampler: Arc<Sampler<E::Client>>,
    downloads: Arc<Semaphore>,
    names: Names,
}

impl<E: Entrance> Desk<E> {
    pub(crate) fn new(entrance: E, names: Names) -> Arc<Self> {
        Arc::new(Self {
            visitors: Visitors::new(entrance),
            sampler: Sampler::new(),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            names,
        })
    }

    /// Looks at the cluster for the charts, for as long as it is polled.
    pub(crate) fn sampling(&self) -> impl Future<Output = ()> + Send + use<E> {
        Arc::clone(&self.sampler).run()
    }

    async fn visit(&self, headers: &HeaderMap) -> Result<Visit<'_, E>, Trouble> {
        Ok(self.visitors.enter(credential::presented(headers)?).await?)
    }

    /// The cluster's state, which anybody may know whom it serves.
    async fn status(&self, headers: &HeaderMap) -> Result<ClusterStatus, Trouble> {
        let mut visit = self.visit(headers).await?;
        let status = visit.ask(|client| async move { client.cluster_status().await }).await?;
        self.sampler.visited(visit.client());
        Ok(status)
    }
}

/// All routes.
pub(crate) fn router<E: Entrance>(desk: Arc<Desk<E>>) -> Router {
    let mut router = Router::new()
        .route("/", get(index))
        .route("/api/v1/status", get(status))
        .route("/api/v1/history", get(history))
        .route("/api/v1/buckets", get(buckets))
        .route("/api/v1/objects", get(objects))
        .route("/api/v1/object", get(object))
        .route("/api/v1/download", get(download));
    for file in page::FILES {
        router = router.route(file.path, get(async || file.response()));
    }
    router
        .layer(middleware::from_fn_with_state(Arc::clone(&desk), admit))
        .layer(middleware::map_response(guard))
        .with_state(desk)
}

/// Before anything else is looked at.
async fn admit<E: Entrance>(State(desk): State<Arc<Desk<E>>>, request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allow = [(ALLOW, HeaderValue::from_static("GET, HEAD"))];
        return (StatusCode::METHOD_NOT_ALLOWED, allow).into_response();
    }
    let headers = request.headers();
    let is_data = request.uri().path().starts_with(API);
    let checked = gate::check_name(headers, &desk.names);
    // The page itself may be linked to: it holds nothing, and can't be framed.
    let checked = checked.and_then(|()| if is_data { gate::check_site(headers) } else { Ok(()) });
    match checked {
        Ok(()) => next.run(request).await,
        Err(unheard) => Trouble::from(unheard).into_response(),
    }
}

/// The page. Its visitor is asked for his key here, where every browser knows how to ask.
async fn index<E: Entrance>(State(desk): State<Arc<Desk<E>>>, headers: HeaderMap) -> Answer {
    let mut visit = desk.visit(&headers).await?;
    match visit.ask(|client| async move { client.cluster_status().await }).await {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) => {
            Err(error.into())
        }
        // The page says what is wrong with the cluster, and when it is back.
        Ok(_) | Err(_) => Ok(page::INDEX.response()),
    }
}

async fn status<E: Entrance>(State(desk): State<Arc<Desk<E>>>, headers: HeaderMap) -> Answer {
    Ok(json(&StatusRecord::from(&desk.status(&headers).await?)))
}

async fn history<E: Entrance>(State(desk): State<Arc<Desk<E>>>, uri: Uri, headers: HeaderMap) -> Answer {
    let after = Query::parse(uri.query())?.number("after")?.unwrap_or(0);
    desk.status(&headers).await?;
    Ok(json(&HistoryRecord { kept_ms: milliseconds(KEPT), samples: desk.sampler.after(after) }))
}

async fn buckets<E: Entrance>(State(desk): State<Arc<Desk<E>>>, uri: Uri, headers: HeaderMap) -> Answer {
    let page = Query::parse(uri.query())?.text("page").map(str::to_owned);
    let mut visit = desk.visit(&headers).await?;
    let BucketPage { buckets, next } = visit.ask(|client| async move { client.buckets(page).await }).await?;
    let buckets = buckets.iter().map(BucketRecord::from).collect();
    Ok(json(&BucketsRecord { buckets, next: next.as_deref() }))
}

async fn objects<E: Entrance>(State(desk): State<Arc<Desk<E>>>, uri: Uri, headers: HeaderMap) -> Answer {
    let query = Query::parse(uri.query())?;
    let bucket = query.needed("bucket")?.to_owned();
    let text = |name, default: &str| query.text(name).unwrap_or(default).to_owned();
    let limit = query.number("limit")?.unwrap_or(PAGE_SIZE).clamp(1, PAGE_SIZE_MAX);
    let options = ListOptions {
        prefix: text("prefix", ""),
        delimiter: text("delimiter", "/"),
        start_after: String::new(),
        page_size: u32::try_from(limit).ok(),
        page: query.text("page").map(str::to_owned),
        consistent: false,
    };
    let mut visit = desk.visit(&headers).await?;
    let page = visit.ask(|client| async move { client.list(&bucket, options).await }).await?;
    let objects = page.objects.iter().map(ObjectRecord::from).collect();
    Ok(json(&ObjectsRecord { objects, prefixes: &page.prefixes, next: page.next.as_deref() }))
}

async fn object<E: Entrance>(State(desk): State<Arc<Desk<E>>>, uri: Uri, headers: HeaderMap) -> Answer {
    let (bucket, key) = place(&uri)?;
    let mut visit = desk.visit(&headers).await?;
    let object = visit.ask(|client| async move { client.stat(&bucket, &key, None).await }).await?;
    Ok(json(&ObjectRecord::from(&object)))
}

async fn download<E: Entrance>(
    State(desk): State<Arc<Desk<E>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    let (bucket, key) = place(&uri)?;
    let mut visit = desk.visit(&headers).await?;
    let wanted = download::only_if(&headers);
    let mut options = GetOptions { range: download::range(&headers), ..GetOptions::default() };
    if method == Method::HEAD || options.range.is_some() && wanted.is_some() {
        let name = (bucket.clone(), key.clone());
        let object = visit.ask(|client| async move { client.stat(&name.0, &name.1, None).await }).await?;
        if method == Method::HEAD {
            return Ok(download::head(&object));
        }
        if wanted.as_ref() == Some(&object.etag) {
            options.precondition = Some(Precondition::IfMatch(object.etag));
        } else {
            options.range = None;
        }
    }
    let place = Arc::clone(&desk.downloads).try_acquire_owned();
    let place =
        place.map_err(|_| Trouble::busy("too many downloads are under way: try again in a moment"))?;
    let is_part = options.range.is_some();
    let stream = visit.ask(|client| async move { client.get(&bucket, &key, options).await }).await?;
    Ok(download::body(stream, is_part, place))
}

/// The bucket and the key that a request is about.
fn place(uri: &Uri) -> Result<(String, String), Trouble> {
    let query = Query::parse(uri.query())?;
    Ok((query.needed("bucket")?.to_owned(), query.needed("key")?.to_owned()))
}

#[cfg(test)]
mod tests;
