//! Pages of keys.

use xdpfs_proto::meta::v1 as proto;

use super::{
    Gateway, Refusal,
    buckets::bucket_not_found,
    gateway::Call,
    name::{self, KEY_BYTES_MAX},
    objects, page_token,
};
use crate::state_machine::{Listing, ListingEntry, Start};

/// The longest page, and the usual one.
const PAGE_LEN_MAX: usize = 1000;

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
        let start = match page_token::decode(described, &request.page_token)? {
            Some(start) => Some(start),
            None if request.start_after.is_empty() => None,
            None => Some(Start::AfterKey(request.start_after)),
        };
        self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let bucket = state.bucket(&bucket_name).ok_or_else(bucket_not_found)?;
        let listing =
            Listing { prefix: &request.prefix, delimiter: &request.delimiter, start: start.as_ref() };
        let mut rest = state.list(bucket.id, listing);
        let page: Vec<_> = rest.by_ref().take(page_len(request.page_size)).collect();
        let next = page.last().filter(|_| rest.next().is_some()).map(ListingEntry::next_start);
        let mut response = proto::ListObjectsResponse {
            next_page_token: next.map(|start| page_token::encode(described, &start)).unwrap_or_default(),
            ..Default::default()
        };
        for entry in page {
            match entry {
                ListingEntry::Group(prefix) => response.prefixes.push(prefix.to_owned()),
                ListingEntry::Object(key, object) => {
                    response.objects.push(objects::to_proto(bucket, key, object))
                }
            }
        }
        Ok(response)
    }
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
