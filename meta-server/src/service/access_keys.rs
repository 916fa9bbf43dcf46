//! Access keys and key epochs: `xdpfs.access.v1.AccessService`.
//!
//! Invariant: a secret is made here, goes into one answer, and is then forgotten; the log gets its hash.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};
use xdpfs_proto::{
    access::v1::{access_service_server::AccessService, *},
    state::v1::{self as pb, command, outcome},
};

use super::{
    Gateway, Refusal,
    gateway::{Call, RequestId, duration_ms, new_key, no_randomness, reused_request_id},
    listing::page_len,
    page_token,
};
use crate::{
    credential::{Credential, KeyId},
    state_machine::{
        AccessKey as StoredKey, BucketPattern, GRANTS_PER_KEY_MAX, LABEL_BYTES_MAX, Reason,
        Right as StoredRight, RightSet, Start,
    },
};

/// What page tokens of the list of keys are made for.
const LISTING: &[&str] = &["accessKeys"];
/// A key has 64 grants at most, so a page stays well below the largest reply.
const RIGHTS_PER_GRANT_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct AccessFrontend(pub(super) Arc<Gateway>);

macro_rules! methods {
    ($($name:ident: $request:ident => $response:ident,)*) => {
        #[tonic::async_trait]
        impl AccessService for AccessFrontend {
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.0.serve(request, |call| self.0.$name(call)).await
            })*
        }
    };
}

methods! {
    create_access_key: CreateAccessKeyRequest => CreateAccessKeyResponse,
    list_access_keys: ListAccessKeysRequest => ListAccessKeysResponse,
    revoke_access_key: RevokeAccessKeyRequest => RevokeAccessKeyResponse,
    rotate_key_epoch: RotateKeyEpochRequest => RotateKeyEpochResponse,
}

impl Gateway {
    async fn create_access_key(
        &self,
        call: Call<CreateAccessKeyRequest>,
    ) -> Result<CreateAccessKeyResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let (grants, label) = parse_key(call.message)?;
        let credential = Credential::generate().map_err(no_randomness)?;
        let create = command::Kind::CreateAccessKey(pb::CreateAccessKey {
            key_id: credential.id().to_string(),
            secret_sha256: Bytes::copy_from_slice(credential.secret_hash().as_bytes()),
            grants,
            label,
        });
        let made = self.propose_for(&call.access, call.deadline, request_id, create).await?;
        let outcome::Kind::AccessKey(made) = made else { return Err(reused_request_id()) };
        let made = stored(&made)?;
        if made.id != *credential.id() {
            // An earlier attempt took effect, and its answer was lost with the secret.
            let words = format!(
                "the request has made access key {} before, whose secret is lost: revoke it",
                made.id
            );
            return Err(Refusal::new(Reason::SecretLost, words));
        }
        tracing::info!(key = %made.id, "an access key was made");
        Ok(CreateAccessKeyResponse {
            access_key: Some(to_proto(&made)),
            secret: credential.secret().to_owned(),
        })
    }

    async fn list_access_keys(
        &self,
        call: Call<ListAccessKeysRequest>,
    ) -> Result<ListAccessKeysResponse, Refusal> {
        let page_len = page_len(call.message.page_size);
        let place = page_token::decode(LISTING, &call.message.page_token)?;
        let after = match place.map(|place| place.start) {
            Some(Start::AfterKey(id) | Start::AfterPrefix(id) | Start::BelowVersion(id, _)) => id,
            None => String::new(),
        };
        self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let mut rest = state.access_keys().after(&after);
        let keys: Vec<_> = rest.by_ref().take(page_len).collect();
        let next = keys.last().filter(|_| rest.next().is_some());
        let next_page_token =
            next.map(|last| page_token::encode(LISTING, &Start::AfterKey(last.id.to_string()).into()));
        Ok(ListAccessKeysResponse {
            access_keys: keys.into_iter().map(to_proto).collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        })
    }

    async fn revoke_access_key(
        &self,
        call: Call<RevokeAccessKeyRequest>,
    ) -> Result<RevokeAccessKeyResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let id = parse_name(&call.message.name)?;
        let epoch_secret = if call.message.end_capabilities { new_key()? } else { Bytes::new() };
        let revoke = pb::RevokeAccessKey { key_id: id.to_string(), force: call.message.force, epoch_secret };
        let revoke = command::Kind::RevokeAccessKey(revoke);
        let revoked = self.propose_for(&call.access, call.deadline, request_id, revoke).await?;
        let outcome::Kind::Revoked(pb::Revoked { access_key: Some(key), key_epoch }) = revoked else {
            return Err(reused_request_id());
        };
        tracing::info!(key = %id, key_epoch, "an access key was revoked");
        Ok(RevokeAccessKeyResponse {
            access_key: Some(to_proto(&stored(&key)?)),
            key_epoch,
            obeyed_within_ms: if key_epoch == 0 { 0 } else { self.obeyed_within_ms() },
        })
    }

    async fn rotate_key_epoch(
        &self,
        call: Call<RotateKeyEpochRequest>,
    ) -> Result<RotateKeyEpochResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let rotate = command::Kind::RotateKeyEpoch(pb::RotateKeyEpoch { secret: new_key()? });
        let rotated = self.propose_for(&call.access, call.deadline, request_id, rotate).await?;
        let outcome::Kind::Rotated(pb::Rotated { key_epoch }) = rotated else {
            return Err(reused_request_id());
        };
        tracing::info!(key_epoch, "all capabilities were ended");
        Ok(RotateKeyEpochResponse { key_epoch, obeyed_within_ms: self.obeyed_within_ms() })
    }

    /// How long it takes until the last one that lives has heard of a new key epoch.
    fn obeyed_within_ms(&self) -> u64 {
        let times = &self.config().times;
        duration_ms(times.heartbeat_interval.max(times.edge_poll_interval))
    }
}

fn stored(record: &pb::AccessKey) -> Result<StoredKey, Refusal> {
    StoredKey::from_record(record).ok_or_else(|| Refusal::new(Reason::Internal, "the state gave half a key"))
}

fn parse_name(name: &str) -> Result<KeyId, Refusal> {
    let id = name.strip_prefix("accessKeys/").and_then(|id| id.parse().ok());
    id.ok_or_else(|| {
        Refusal::invalid_name("name", "expected accessKeys/{key}, where the key's id begins with XK")
    })
}

fn parse_key(request: CreateAccessKeyRequest) -> Result<(Vec<pb::Grant>, String), Refusal> {
    if !(1..=GRANTS_PER_KEY_MAX).contains(&request.grants.len()) {
        return Err(Refusal::invalid("grants", format!("a key has 1 to {GRANTS_PER_KEY_MAX} grants")));
    }
    if request.label.len() > LABEL_BYTES_MAX || request.label.chars().any(char::is_control) {
        let rule = format!("a label has at most {LABEL_BYTES_MAX} bytes and no control characters");
        return Err(Refusal::invalid("label", rule));
    }
    let grants = request.grants.iter().map(parse_grant).collect::<Result<_, _>>()?;
    Ok((grants, request.label))
}

fn parse_grant(grant: &Grant) -> Result<pb::Grant, Refusal> {
    let pattern = BucketPattern::parse(&grant.buckets);
    let pattern = pattern.ok_or_else(|| {
        let rule = "write a bucket's name, the beginning of names with * behind it, or *";
        Refusal::invalid("grants.buckets", rule)
    })?;
    if !(1..=RIGHTS_PER_GRANT_MAX).contains(&grant.rights.len()) {
        return Err(Refusal::invalid("grants.rights", "a grant has read, write, list or admin"));
    }
    let right = |number: &i32| match Right::try_from(*number) {
        Ok(Right::Read) => Ok(StoredRight::Read),
        Ok(Right::Write) => Ok(StoredRight::Write),
        Ok(Right::List) => Ok(StoredRight::List),
        Ok(Right::Admin) => Ok(StoredRight::Admin),
        Ok(Right::Unspecified) | Err(_) => Err(Refusal::invalid("grants.rights", "there is no such right")),
    };
    let rights: RightSet = grant.rights.iter().map(right).collect::<Result<_, _>>()?;
    Ok(pb::Grant { buckets: pattern.to_string(), rights: rights.bits() })
}

fn to_proto(key: &StoredKey) -> AccessKey {
    let right = |right| match right {
        StoredRight::Read => Right::Read,
        StoredRight::Write => Right::Write,
        StoredRight::List => Right::List,
        StoredRight::Admin => Right::Admin,
    };
    let grant = |grant: &crate::state_machine::Grant| Grant {
        buckets: grant.buckets.to_string(),
        rights: grant.rights.iter().map(|stored| right(stored).into()).collect(),
    };
    AccessKey {
        name: format!("accessKeys/{}", key.id),
        grants: key.grants.iter().map(grant).collect(),
        label: key.label.clone(),
        create_time_ms: key.create_time_ms,
        revoke_time_ms: key.revoke_time_ms.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(buckets: &str, rights: &[i32], label: &str) -> Option<Vec<(String, u32)>> {
        let grants = vec![Grant { buckets: buckets.into(), rights: rights.to_vec() }];
        let request = CreateAccessKeyRequest { request_id: String::new(), grants, label: label.into() };
        let (grants, _) = parse_key(request).ok()?;
        Some(grants.into_iter().map(|grant| (grant.buckets, grant.rights)).collect())
    }

    #[test]
    fn grants_and_labels_are_checked() {
        assert_eq!(parse("photos", &[1, 3], "a label"), Some(vec![("photos".into(), 5)]));
        assert_eq!(parse("*", &[4, 4], ""), Some(vec![("*".into(), 8)]));
        assert!(parse("photos", &[1], &"l".repeat(LABEL_BYTES_MAX)).is_some());
        for (buckets, rights, label) in [
            ("", &[1][..], ""),
            ("a*b", &[1], ""),
            ("photos", &[], ""),
            ("photos", &[0], ""),
            ("photos", &[5], ""),
            ("photos", &[1; 17], ""),
            ("photos", &[1], "two\nlines"),
            ("photos", &[1], &"l".repeat(LABEL_BYTES_MAX + 1)),
        ] {
            assert_eq!(parse(buckets, rights, label), None, "{buckets} {rights:?}");
        }
        assert!(parse_key(CreateAccessKeyRequest::default()).is_err(), "a key without any right");
    }

    #[test]
    fn names_of_keys_hold_their_id() {
        let id = format!("XK{}", "A".repeat(16));
        assert_eq!(parse_name(&format!("accessKeys/{id}")).unwrap().as_str(), id);
        for bad in ["", &id, "accessKeys/", "accessKeys/x", &format!("buckets/{id}")] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
