use axum::{
    body::{Body, Bytes, to_bytes},
    http::{
        Request, StatusCode,
        header::{
            AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST,
            RETRY_AFTER, WWW_AUTHENTICATE,
        },
    },
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tower::ServiceExt as _;
use xdpfs_client::{
    AccessKey, BucketOptions, Error, PutOptions, Result,
    failing::{FailingClient, Fault, Method as Call, Plan},
    mock::MockClient,
};

use super::*;

/// What a page may ask for.
const DATA: [&str; 6] = [
    "/api/v1/status",
    "/api/v1/history",
    "/api/v1/buckets",
    "/api/v1/objects?bucket=data",
    "/api/v1/object?bucket=data&key=a",
    "/api/v1/download?bucket=data&key=a",
];
const ALL_CALLS: [Call; 6] =
    [Call::Bucket, Call::Buckets, Call::ClusterStatus, Call::Get, Call::List, Call::Stat];

/// A cluster that knows one key, if it is closed, and another one that may only see its state.
#[derive(Clone)]
struct Door {
    cluster: MockClient,
    is_open: bool,
}

impl Entrance for Door {
    type Client = FailingClient<MockClient>;

    fn connect(&self, key: Option<AccessKey>) -> Result<Self::Client> {
        let id = key.as_ref().map_or("", AccessKey::id);
        let refusal = |call| match (id, call) {
            _ if self.is_open => None,
            ("XKGOOD", _) | ("XKLESS", Call::ClusterStatus | Call::Buckets) => None,
            ("XKLESS", _) => Some(Error::PermissionDenied { message: "not yours".into() }),
            _ => Some(Error::Unauthenticated { message: "who are you".into() }),
        };
        let mut plan = Plan::default();
        for call in ALL_CALLS {
            for number in 1..=20 {
                if let Some(error) = refusal(call) {
                    plan = plan.on(call, number, Fault::Refuse(error));
                }
            }
        }
        Ok(FailingClient::new(self.cluster.clone(), plan))
    }
}

/// A page before a cluster with a bucket `data` that holds `keys`, each with its name as its bytes.
async fn page(is_open: bool, keys: &[&str]) -> Router {
    let cluster = MockClient::new();
    cluster.create_bucket("data", BucketOptions::default()).await.unwrap();
    for key in keys {
        let bytes = Bytes::copy_from_slice(key.as_bytes());
        cluster.put_bytes("data", key, bytes, PutOptions::default()).await.unwrap();
    }
    router(Desk::new(Door { cluster, is_open }, Names::These(["meta-1".to_owned()].into())))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn ask(page: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header(HOST, "127.0.0.1:8080");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    page.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn get(page: &Router, path: &str) -> Response {
    ask(page, "GET", path, &[(AUTHORIZATION.as_str(), &basic("XKGOOD", "S"))]).await
}

async fn bytes(response: Response) -> Bytes {
    to_bytes(response.into_body(), 1 << 20).await.unwrap()
}

async fn record(response: Response) -> Value {
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    serde_json::from_slice(&bytes(response).await).unwrap()
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn closed_cluster_asks_for_a_key_and_an_open_one_does_not() {
    let (closed, open) = (page(false, &["a"]).await, page(true, &["a"]).await);
    for path in DATA.iter().chain(&["/"]) {
        let response = ask(&closed, "GET", path, &[]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        assert_eq!(get(&closed, path).await.status(), StatusCode::OK, "{path}");
        assert_eq!(ask(&open, "GET", path, &[]).await.status(), StatusCode::OK, "{path}");
    }
    for path in ["/style.css", "/app.js", "/icon.svg"] {
        assert_eq!(ask(&closed, "GET", path, &[]).await.status(), StatusCode::OK, "{path} tells nothing");
    }
}

#[tokio::test]
async fn wrong_keys_are_401_and_good_ones_without_the_right_403() {
    let closed = page(false, &["a"]).await;
    for key in [basic("XKBAD", "S"), "Bearer XKGOOD.S".into(), "Basic ?".into(), basic("XKGOOD", "")] {
        for path in DATA {
            let response = ask(&closed, "GET", path, &[("authorization", &key)]).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{key} {path}");
            assert_eq!(record(response).await["error"]["kind"], "unauthenticated", "{key} {path}");
        }
    }
    let less = [("authorization", &*basic("XKLESS", "S"))];
    assert_eq!(ask(&closed, "GET", "/api/v1/status", &less).await.status(), StatusCode::OK);
    for path in &DATA[3..] {
        let response = ask(&closed, "GET", path, &less).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(!response.headers().contains_key(WWW_AUTHENTICATE), "{path}: asking again would not help");
        assert_eq!(record(response).await["error"]["kind"], "permission_denied", "{path}");
    }
}

#[tokio::test]
async fn every_answer_says_what_a_browser_must_keep_to() {
    let page = page(true, &["a"]).await;
    let paths =
        DATA.iter().copied().chain(["/", "/app.js", "/nothing", "/api/v1/object?bucket=data&key=none"]);
    for path in paths {
        let response = ask(&page, "GET", path, &[]).await;
        let headers = response.headers();
        for (name, part) in [
            ("content-security-policy", "default-src 'none'"),
            ("content-security-policy", "frame-ancestors 'none'"),
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert!(headers[name].to_str().unwrap().contains(part), "{path}: {name}");
        }
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
    }
}

#[tokio::test]
async fn page_only_reads() {
    let page = page(true, &["a"]).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
        for path in DATA.iter().chain(&["/", "/nothing"]) {
            let response = ask(&page, method, path, &[]).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        }
    }
    for path in DATA {
        let response = ask(&page, "HEAD", path, &[]).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(bytes(response).await.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn what_another_site_causes_is_refused_but_for_the_page_itself() {
    let page = page(true, &["a"]).await;
    for path in DATA {
        for site in ["cross-site", "same-site"] {
            let response = ask(&page, "GET", path, &[("sec-fetch-site", site)]).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{site} {path}");
        }
        let response = ask(&page, "GET", path, &[("sec-fetch-site", "same-origin")]).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        for host in ["evil.example:8080", "127.0.0.1.evil.example"] {
            let response = ask(&page, "GET", path, &[("host", host)]).await;
            assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
        }
        assert_eq!(ask(&page, "GET", path, &[("host", "meta-1:8080")]).await.status(), StatusCode::OK);
    }
    assert_eq!(ask(&page, "GET", "/", &[("sec-fetch-site", "cross-site")]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn hostile_names_are_listed_and_downloaded_as_they_are() {
    let names = [
        "../../etc/passwd",
        "<script>alert(1)</script>",
        "\"quoted\"; filename=\"x.exe\"",
        "a b&c=d#e?f%2F",
        "dir//double",
        "ü/🐋",
        "\u{202e}gpj.exe",
        "C:\\windows\\x",
    ];
    let page = page(true, &names).await;
    let mut listed = Vec::new();
    let mut next = String::new();
    loop {
        // A delimiter that no name has: all keys, two at a time.
        let path = format!("/api/v1/objects?bucket=data&delimiter=%01&limit=2&page={}", encode(&next));
        let answer = record(get(&page, &path).await).await;
        let objects = answer["objects"].as_array().unwrap();
        assert!(objects.len() <= 2);
        listed.extend(objects.iter().map(|object| object["key"].as_str().unwrap().to_owned()));
        match answer["next"].as_str() {
            Some(page) => next = page.to_owned(),
            None => break,
        }
    }
    let mut sorted = names.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(listed, sorted);
    for name in names {
        let response = get(&page, &format!("/api/v1/download?bucket=data&key={}", encode(name))).await;
        assert_eq!(response.status(), StatusCode::OK, "{name:?}");
        let headers = response.headers().clone();
        assert_eq!(headers[CONTENT_TYPE], "application/octet-stream", "{name:?}");
        assert!(headers["content-security-policy"].to_str().unwrap().contains("sandbox"), "{name:?}");
        let disposition = headers[CONTENT_DISPOSITION].to_str().unwrap();
        assert!(disposition.starts_with("attachment; filename=\""), "{disposition}");
        assert!(!disposition.contains(['<', '/', '\\']), "{disposition}");
        assert_eq!(headers[CONTENT_LENGTH], name.len().to_string().as_str(), "{name:?}");
        assert_eq!(bytes(response).await, name.as_bytes());
    }
    for (key, status) in [("a%0Ab", 400), ("%ff", 400), ("none", 404), ("", 400)] {
        let response = get(&page, &format!("/api/v1/download?bucket=data&key={key}")).await;
        assert_eq!(response.status(), status, "{key}");
    }
    assert_eq!(get(&page, "/api/v1/objects?bucket=../data").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(get(&page, "/api/v1/objects?bucket=none").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn keys_are_grouped_by_slashes() {
    let page = page(true, &["a/1", "a/2", "b", "c/d/e"]).await;
    let answer = record(get(&page, "/api/v1/objects?bucket=data").await).await;
    assert_eq!(answer["prefixes"], serde_json::json!(["a/", "c/"]));
    assert_eq!(answer["objects"][0]["key"], "b");
    let answer = record(get(&page, "/api/v1/objects?bucket=data&prefix=c%2F").await).await;
    assert_eq!(answer["prefixes"], serde_json::json!(["c/d/"]));
    let buckets = record(get(&page, "/api/v1/buckets").await).await;
    assert_eq!(buckets["buckets"][0]["bucket"], "data");
    assert_eq!(buckets["next"], Value::Null);
}

#[tokio::test]
async fn part_of_an_object_is_given_if_it_is_still_the_same() {
    let page = page(true, &["0123456789"]).await;
    let path = "/api/v1/download?bucket=data&key=0123456789";
    let whole = get(&page, path).await;
    let etag = whole.headers()[ETAG].to_str().unwrap().to_owned();
    let check = async |headers: &[(&str, &str)], status: u16, range: Option<&str>, expect: &[u8]| {
        let response = ask(&page, "GET", path, headers).await;
        assert_eq!(response.status(), status, "{headers:?}");
        let said = response.headers().get(CONTENT_RANGE).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(said.as_deref(), range, "{headers:?}");
        if status < 300 {
            assert_eq!(bytes(response).await, expect, "{headers:?}");
        }
    };
    check(&[("range", "bytes=2-4")], 206, Some("bytes 2-4/10"), b"234").await;
    check(&[("range", "bytes=-3")], 206, Some("bytes 7-9/10"), b"789").await;
    check(&[("range", "bytes=10-")], 416, None, b"").await;
    check(&[("range", "bytes=0-1,4-5")], 200, None, b"0123456789").await;
    check(&[("range", "bytes=2-4"), ("if-range", &etag)], 206, Some("bytes 2-4/10"), b"234").await;
    check(&[("range", "bytes=2-4"), ("if-range", "\"another\"")], 200, None, b"0123456789").await;
}

#[tokio::test]
async fn downloads_are_few_at_a_time_and_a_place_is_free_once_its_stream_is_gone() {
    let page = page(true, &["a"]).await;
    let path = "/api/v1/download?bucket=data&key=a";
    let mut held = Vec::new();
    for _ in 0..DOWNLOADS_MAX {
        let response = get(&page, path).await;
        assert_eq!(response.status(), StatusCode::OK);
        held.push(response);
    }
    let busy = get(&page, path).await;
    assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(busy.headers().contains_key(RETRY_AFTER));
    assert_eq!(get(&page, "/api/v1/status").await.status(), StatusCode::OK, "others are not delayed");
    held.pop();
    assert_eq!(get(&page, path).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn download_that_fails_in_the_middle_does_not_look_whole() {
    struct Cut(MockClient);
    impl Entrance for Cut {
        type Client = FailingClient<MockClient>;
        fn connect(&self, _: Option<AccessKey>) -> Result<Self::Client> {
            let error = Error::ChangedWhileReading;
            let plan = Plan::default().on(Call::Get, 1, Fault::Cut { after: 3, error });
            Ok(FailingClient::new(self.0.clone(), plan))
        }
    }
    let cluster = MockClient::new();
    cluster.create_bucket("data", BucketOptions::default()).await.unwrap();
    cluster.put_bytes("data", "a", "0123456789".into(), PutOptions::default()).await.unwrap();
    let page = router(Desk::new(Cut(cluster), Names::OfCertificate));
    let response = get(&page, "/api/v1/download?bucket=data&key=a").await;
    assert_eq!(response.headers()[CONTENT_LENGTH], "10");
    assert!(to_bytes(response.into_body(), 100).await.is_err());
}

#[tokio::test]
async fn strangers_put_out_nobody_who_is_known() {
    let desk = Desk::new(Door { cluster: MockClient::new(), is_open: false }, Names::OfCertificate);
    let key = |id: &str| Some(format!("{id}.S").parse::<AccessKey>().unwrap());
    let status = async |id: &str| {
        let mut visit = desk.visitors.enter(key(id)).await.unwrap();
        visit.ask(|client| async move { client.cluster_status().await }).await
    };
    status("XKGOOD").await.unwrap();
    for number in 0..100 {
        assert!(status(&format!("XKBAD{number}")).await.is_err());
    }
    // While all strangers' turns are taken, who is known is served.
    let mut turns = Vec::new();
    for number in 0..8 {
        turns.push(desk.visitors.enter(key(&format!("XKNEW{number}"))).await.unwrap());
    }
    status("XKGOOD").await.unwrap();
    assert!(desk.visitors.enter(key("XKNEW9")).await.is_err(), "one too many");
}
