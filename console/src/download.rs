//! An object as a file: how it is named, which part of it, and its bytes.
//!
//! Invariant: it is saved and never shown, whatever it says that it is; and a download that could not be finished is
//! cut off, never ended.

use std::{io, ops::Range};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
            CONTENT_TYPE, ETAG, IF_RANGE, RANGE,
        },
    },
    response::{IntoResponse as _, Response},
};
use futures::TryStreamExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::OwnedSemaphorePermit;
use xdpfs_client::{ByteRange, GetStream, Object};

/// What RFC 8187 lets stand as it is.
const UNENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Nothing is run, should it be shown after all.
const POLICY: &str = "default-src 'none'; sandbox; frame-ancestors 'none'";

/// The part that is asked for. What is not one range of bytes is as if nothing had been said (RFC 9110 §14.2).
pub(crate) fn range(headers: &HeaderMap) -> Option<ByteRange> {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok()?.strip_prefix("bytes=")?.trim().parse().ok()
}

/// The version that a part is wanted of, if it is still there; without quotes.
pub(crate) fn only_if(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(IF_RANGE)?.to_str().unwrap_or_default();
    Some(value.trim_matches('"').to_owned())
}

/// The object without its bytes.
pub(crate) fn head(object: &Object) -> Response {
    describe(object, 0..object.size, false, Body::empty())
}

/// The bytes, for as long as somebody takes them.
pub(crate) fn body(stream: GetStream, is_part: bool, place: OwnedSemaphorePermit) -> Response {
    let (object, range) = (stream.object().clone(), stream.range());
    // The place is free once the stream is gone.
    let blocks = stream.map_err(io::Error::from).inspect_ok(move |_| {
        let _ = &place;
    });
    describe(&object, range, is_part, Body::from_stream(blocks))
}

fn describe(object: &Object, range: Range<u64>, is_part: bool, body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    let texts = [(CONTENT_DISPOSITION, disposition(&object.key)), (ETAG, format!("\"{}\"", object.etag))];
    for (name, text) in texts {
        // What can't be written into a header is left out; a file without a name gets the browser's.
        headers.extend(HeaderValue::from_str(&text).ok().map(|value| (name, value)));
    }
    if is_part && range.start < range.end {
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, object.size);
        headers.extend(HeaderValue::from_str(&text).ok().map(|value| (CONTENT_RANGE, value)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// The last part of the key as the name of a file: plainly for browsers that know no better, and encoded (RFC 6266).
fn disposition(key: &str) -> String {
    let name = key.rsplit('/').find(|part| !part.is_empty() && *part != "." && *part != "..");
    let name = name.unwrap_or("object");
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
    let plainly: String = name.chars().map(plain).collect();
    let encoded = utf8_percent_encode(name, UNENCODED);
    format!("attachment; filename=\"{plainly}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_has_the_name_of_the_last_part_and_nothing_that_could_be_a_path_or_a_header() {
        let check = |key: &str, plainly: &str, encoded: &str| {
            let expect = format!("attachment; filename=\"{plainly}\"; filename*=UTF-8''{encoded}");
            assert_eq!(disposition(key), expect, "{key:?}");
        };
        check("a/b/cat.jpg", "cat.jpg", "cat.jpg");
        check("a/b/", "b", "b");
        check("../..", "object", "object");
        check("a\"; filename=\"x.exe", "a___filename__x.exe", "a%22%3B%20filename%3D%22x.exe");
        check("ü'", "__", "%C3%BC%27");
        check("back\\slash", "back_slash", "back%5Cslash");
        check("a\r\nset-cookie: b", "a__set-cookie__b", "a%0D%0Aset-cookie%3A%20b");
    }

    #[test]
    fn only_one_plain_range_is_a_part() {
        let check = |text: &str, expect| {
            let headers = HeaderMap::from_iter([(RANGE, text.parse().unwrap())]);
            assert_eq!(range(&headers), expect, "{text}");
        };
        check("bytes=0-9", Some(ByteRange::Inclusive { first: 0, last: 9 }));
        check("bytes=5-", Some(ByteRange::From(5)));
        check("bytes=-5", Some(ByteRange::Suffix(5)));
        check("bytes=0-1,3-4", None);
        check("lines=0-1", None);
        check("bytes=9-0", None);
        assert_eq!(range(&HeaderMap::new()), None);
    }
}
