//! Pages of keys, all of which show the bucket as it was for the first one, as long as this server remembers.

use xdpfs_proto::meta::v1 as proto;

use super::{
    Gateway, Refusal,
    buckets::bucket_not_found,
    gateway::Call,
    name::{self, KEY_BYTES_MAX},
    objects,
    page_token::{self, Moment, Place},
};
use crate::state_machine::{Bucket, Listing, ListingEntry, Reason, Start, State, VersionEntry};

/// The longest page, and the usual one.
const PAGE_LEN_MAX: usize = 1000;

/// What page tokens of listings of versions are made for, besides the listing.
const VERSIONS: &str = "versions";

/// How long a page is that a request asks for.
pub(super) fn page_len(asked: u32) -> usize {
    match asked as usize {
        0 => PAGE_LEN_MAX,
        asked => asked.min(PAGE_LEN_MAX),
    }
}

impl Gateway {
    pub(super) async fn list_objects(
        &self,
        call: Call<proto::ListObjectsRequest>,
    ) -> Result<proto::ListObjectsResponse, Refusal> {
        let request = call.message;
        let bucket_name = name::parse_bucket("parent", &request.parent)?;
        check_len("prefix", &request.prefix)?;
        check_len("delimiter", &request.delimiter)?;
        check_len("start_after", &request.start_after)?;
        let described: &[&str] = &[&bucket_name, &request.prefix, &request.delimiter];
        let place = page_token::decode(described, &request.page_token)?;
        self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let bucket = state.bucket(&bucket_name).ok_or_else(bucket_not_found)?;
        let Beginning { start, at } = begin(&state, bucket, place, request.consistent)?;
        let start_after = Some(request.start_after).filter(|key| !key.is_empty());
        let start = start.or(start_after.map(Start::AfterKey));
        let listing =
            Listing { prefix: &request.prefix, delimiter: &request.delimiter, start: start.as_ref() };
        let page = state.page(bucket, listing, at, page_len(request.page_size));
        let moment = Some(Moment { index: at, bucket: bucket.id });
        let next = page.next.map(|start| page_token::encode(described, &Place { start, moment }));
        let mut response = proto::ListObjectsResponse {
            next_page_token: next.unwrap_or_default(),
            as_of: at,
            ..Default::default()
        };
        for entry in page.entries {
            match entry {
                ListingEntry::Group(prefix) => response.prefixes.push(prefix.to_owned()),
                ListingEntry::Object(key, object, durable_replicas) => {
                    let object = objects::to_proto(&bucket.name, key, object, durable_replicas);
                    response.objects.push(object);
                }
            }
        }
        Ok(response)
    }

    pub(super) async fn list_object_versions(
        &self,
        call: Call<proto::ListObjectVersionsRequest>,
    ) -> Result<proto::ListObjectVersionsResponse, Refusal> {
        let request = call.message;
        let bucket_name = name::parse_bucket("parent", &request.parent)?;
        check_len("prefix", &request.prefix)?;
        check_len("delimiter", &request.delimiter)?;
        let described: &[&str] = &[VERSIONS, &bucket_name, &request.prefix, &request.delimiter];
        let place = page_token::decode(described, &request.page_token)?;
        self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let bucket = state.bucket(&bucket_name).ok_or_else(bucket_not_found)?;
        let Beginning { start, at } = begin(&state, bucket, place, request.consistent)?;
        let listing =
            Listing { prefix: &request.prefix, delimiter: &request.delimiter, start: start.as_ref() };
        let page = state.version_page(bucket, listing, at, page_len(request.page_size));
        let moment = Some(Moment { index: at, bucket: bucket.id });
        let next = page.next.map(|start| page_token::encode(described, &Place { start, moment }));
        let mut response = proto::ListObjectVersionsResponse {
            next_page_token: next.unwrap_or_default(),
            as_of: at,
            ..Default::default()
        };
        for entry in page.entries {
            match entry {
                VersionEntry::Group(prefix) => response.prefixes.push(prefix.to_owned()),
                VersionEntry::DeleteMarker { key, marker, latest } => {
                    let object = Some(objects::marker_to_proto(&bucket.name, key, marker));
                    response.versions.push(proto::ObjectVersion { object, latest, delete_marker: true });
                }
                VersionEntry::Object { key, object, durable_replicas, latest } => {
                    let object = Some(objects::to_proto(&bucket.name, key, object, durable_replicas));
                    response.versions.push(proto::ObjectVersion { object, latest, delete_marker: false });
                }
            }
        }
        Ok(response)
    }
}

/// What a page shows, and where it begins.
struct Beginning {
    start: Option<Start>,
    at: u64,
}

/// Goes on with the moment of the page before, if it is remembered.
fn begin(
    state: &State,
    bucket: &Bucket,
    place: Option<Place>,
    consistent: bool,
) -> Result<Beginning, Refusal> {
    let is_known = |moment: &Moment| moment.bucket == bucket.id && state.remembers(bucket.id, moment.index);
    let Some(Place { start, moment }) = place else {
        return Ok(Beginning { start: None, at: state.index() });
    };
    let at = match moment.filter(is_known) {
        Some(moment) => moment.index,
        None if consistent => return Err(listing_expired()),
        None => state.index(),
    };
    Ok(Beginning { start: Some(start), at })
}

fn listing_expired() -> Refusal {
    let words =
        "the bucket has changed too much, or the listing takes too long, to go on with it: list again";
    Refusal::new(Reason::ListingExpired, words)
}

fn check_len(field: &'static str, text: &str) -> Result<(), Refusal> {
    if text.len() > KEY_BYTES_MAX {
        return Err(Refusal::invalid(field, "it is longer than any key"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded() {
        for (asked, expect) in [(0, 1000), (1, 1), (1000, 1000), (u32::MAX, 1000)] {
            assert_eq!(page_len(asked), expect, "{asked}");
        }
    }
}
