//! Access keys and what they may do, for those who run a cluster.

use std::{
    fmt,
    future::Future,
    str::FromStr,
    time::{Duration, SystemTime},
};

use xdpfs_proto::access::v1 as proto;

use crate::{
    access_key::AccessKey,
    client::{Client, next_page, request_id},
    control::{Access, Operation},
    error::{Error, Result},
};

/// Something that a key may do with a bucket.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Right {
    /// Read objects, and what is known of them.
    Read,
    /// Put and delete objects.
    Write,
    /// List keys, and see the bucket among others.
    List,
    /// Make and remove the bucket; on all buckets, make keys and end capabilities too.
    Admin,
}

impl Right {
    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Admin => "admin",
        }
    }

    const fn to_proto(self) -> proto::Right {
        match self {
            Self::Read => proto::Right::Read,
            Self::Write => proto::Right::Write,
            Self::List => proto::Right::List,
            Self::Admin => proto::Right::Admin,
        }
    }

    const fn parse(right: proto::Right) -> Option<Self> {
        match right {
            proto::Right::Unspecified => None,
            proto::Right::Read => Some(Self::Read),
            proto::Right::Write => Some(Self::Write),
            proto::Right::List => Some(Self::List),
            proto::Right::Admin => Some(Self::Admin),
        }
    }
}

/// Rights on some buckets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// A bucket's name, the beginning of names with `*` behind it, or `*` for all buckets.
    pub buckets: String,
    /// What may be done with them.
    pub rights: Vec<Right>,
}

/// The id of an access key.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct AccessKeyId(String);

/// A text that is no id of an access key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected the id of an access key: XK and 16 letters or digits, without the secret")]
pub struct ParseAccessKeyIdError;

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AccessKeyId {
    type Err = ParseAccessKeyIdError;

    fn from_str(text: &str) -> Result<Self, ParseAccessKeyIdError> {
        let is_id = text.len() == 18
            && text.starts_with("XK")
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_id { Ok(Self(text.to_owned())) } else { Err(ParseAccessKeyIdError) }
    }
}

/// What everybody who runs the cluster may know of an access key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessKeyInfo {
    /// Its id.
    pub id: AccessKeyId,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// Its maker's words about it.
    pub label: String,
    /// When it was made.
    pub created: SystemTime,
    /// When it was revoked, if it was.
    pub revoked: Option<SystemTime>,
}

/// A key that was just made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewAccessKey {
    /// What may be known of it.
    pub info: AccessKeyInfo,
    /// The key with its secret, which nobody can find out again.
    pub key: AccessKey,
}

/// Some keys, in the order of their ids.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessKeyPage {
    /// The keys.
    pub keys: Vec<AccessKeyInfo>,
    /// Where the next page starts; `None` after the last one.
    pub next: Option<String>,
}

/// How to revoke a key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RevokeOptions {
    /// Also end the capabilities that it was given, and with them those of everybody: who may gets new ones.
    pub end_capabilities: bool,
    /// Even if no other key can make keys.
    pub force: bool,
}

/// A key epoch that has begun and ended those before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotation {
    /// Its number.
    pub key_epoch: u32,
    /// Data nodes that are alive refuse capabilities of earlier epochs after this long at most.
    pub obeyed_within: Duration,
}

/// What it takes to decide who may do what. All of it needs a key with the right admin on all buckets.
pub trait AccessControl: Clone + Send + Sync + 'static {
    /// Makes a key. The first one closes the cluster for everybody without a key, so it must be able to make others.
    fn create_access_key(
        &self,
        grants: Vec<Grant>,
        label: String,
    ) -> impl Future<Output = Result<NewAccessKey>> + Send;

    /// Keys in the order of their ids, from the page that `next` of the page before names.
    fn access_keys(&self, page: Option<String>) -> impl Future<Output = Result<AccessKeyPage>> + Send;

    /// Revokes a key; for capabilities that were ended too, says how soon that is obeyed.
    fn revoke_access_key(
        &self,
        id: &AccessKeyId,
        options: RevokeOptions,
    ) -> impl Future<Output = Result<(AccessKeyInfo, Option<Rotation>)>> + Send;

    /// Ends all capabilities that were given out before.
    fn rotate_key_epoch(&self) -> impl Future<Output = Result<Rotation>> + Send;
}

impl AccessControl for Client {
    async fn create_access_key(&self, grants: Vec<Grant>, label: String) -> Result<NewAccessKey> {
        let grant = |grant: Grant| proto::Grant {
            buckets: grant.buckets,
            rights: grant.rights.into_iter().map(|right| right.to_proto().into()).collect(),
        };
        let grants = grants.into_iter().map(grant).collect();
        let request = proto::CreateAccessKeyRequest { request_id: request_id(), grants, label };
        let operation = Operation::CreateAccessKey;
        let send = |mut access: Access, request| async move { access.create_access_key(request).await };
        let reply = self.shared().control.call(operation, request, send).await;
        let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
        let bad = |what| Error::BadReply { operation: operation.label(), what };
        let info = AccessKeyInfo::parse(reply.access_key, operation)?;
        let key = AccessKey::new(&info.id.0, &reply.secret).map_err(|_| bad("the secret is malformed"))?;
        Ok(NewAccessKey { info, key })
    }

    async fn access_keys(&self, page: Option<String>) -> Result<AccessKeyPage> {
        let request = proto::ListAccessKeysRequest { page_size: 0, page_token: page.unwrap_or_default() };
        let operation = Operation::ListAccessKeys;
        let send = |mut access: Access, request| async move { access.list_access_keys(request).await };
        let reply = self.shared().control.call(operation, request, send).await;
        let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
        let keys = reply.access_keys.into_iter().map(|key| AccessKeyInfo::parse(Some(key), operation));
        Ok(AccessKeyPage { keys: keys.collect::<Result<_>>()?, next: next_page(reply.next_page_token) })
    }

    async fn revoke_access_key(
        &self,
        id: &AccessKeyId,
        options: RevokeOptions,
    ) -> Result<(AccessKeyInfo, Option<Rotation>)> {
        let request = proto::RevokeAccessKeyRequest {
            request_id: request_id(),
            name: format!("accessKeys/{id}"),
            end_capabilities: options.end_capabilities,
            force: options.force,
        };
        let operation = Operation::RevokeAccessKey;
        let send = |mut access: Access, request| async move { access.revoke_access_key(request).await };
        let reply = self.shared().control.call(operation, request, send).await;
        let reply = reply.map_err(|refusal| refusal.about(operation, "", &id.0))?;
        let rotation = Rotation {
            key_epoch: reply.key_epoch,
            obeyed_within: Duration::from_millis(reply.obeyed_within_ms),
        };
        let rotation = Some(rotation).filter(|rotation| rotation.key_epoch != 0);
        Ok((AccessKeyInfo::parse(reply.access_key, operation)?, rotation))
    }

    async fn rotate_key_epoch(&self) -> Result<Rotation> {
        let request = proto::RotateKeyEpochRequest { request_id: request_id() };
        let operation = Operation::RotateKeyEpoch;
        let send = |mut access: Access, request| async move { access.rotate_key_epoch(request).await };
        let reply = self.shared().control.call(operation, request, send).await;
        let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
        let obeyed_within = Duration::from_millis(reply.obeyed_within_ms);
        Ok(Rotation { key_epoch: reply.key_epoch, obeyed_within })
    }
}

impl AccessKeyInfo {
    fn parse(key: Option<proto::AccessKey>, operation: Operation) -> Result<Self> {
        let bad = |what| Error::BadReply { operation: operation.label(), what };
        let key = key.ok_or(bad("the access key is missing"))?;
        let id = key.name.strip_prefix("accessKeys/").and_then(|id| id.parse().ok());
        let grant = |grant: proto::Grant| {
            let rights = grant.rights.iter().map(|right| Right::parse(proto::Right::try_from(*right).ok()?));
            Some(Grant { buckets: grant.buckets, rights: rights.collect::<Option<_>>()? })
        };
        let grants = key.grants.into_iter().map(grant).collect::<Option<_>>();
        let time = |time_ms| SystemTime::UNIX_EPOCH + Duration::from_millis(time_ms);
        Ok(Self {
            id: id.ok_or(bad("the access key has no good name"))?,
            grants: grants.ok_or(bad("the access key has a right that this client doesn't know"))?,
            label: key.label,
            created: time(key.create_time_ms),
            revoked: Some(key.revoke_time_ms).filter(|time_ms| *time_ms != 0).map(time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> proto::AccessKey {
        proto::AccessKey {
            name: format!("accessKeys/XK{}", "A".repeat(16)),
            grants: vec![proto::Grant { buckets: "photos".into(), rights: vec![1, 3] }],
            label: "label".into(),
            create_time_ms: 1000,
            revoke_time_ms: 0,
        }
    }

    #[test]
    fn key_is_taken_from_a_reply_that_makes_sense() {
        let parse = |key| AccessKeyInfo::parse(key, Operation::ListAccessKeys);
        let info = parse(Some(key())).unwrap();
        assert_eq!(info.grants, [Grant { buckets: "photos".into(), rights: vec![Right::Read, Right::List] }]);
        assert_eq!((info.id.to_string().len(), info.revoked), (18, None));
        let revoked = parse(Some(proto::AccessKey { revoke_time_ms: 2000, ..key() })).unwrap().revoked;
        assert_eq!(revoked, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2)));
        let unknown = vec![proto::Grant { buckets: "photos".into(), rights: vec![99] }];
        let bad = [
            None,
            Some(proto::AccessKey { name: "accessKeys/x".into(), ..key() }),
            Some(proto::AccessKey { name: String::new(), ..key() }),
            Some(proto::AccessKey { grants: unknown, ..key() }),
        ];
        for bad in bad {
            assert!(matches!(parse(bad), Err(Error::BadReply { .. })));
        }
    }

    #[test]
    fn id_is_not_taken_for_a_credential() {
        let id = format!("XK{}", "A".repeat(16));
        assert_eq!(id.parse::<AccessKeyId>().unwrap().to_string(), id);
        for bad in
            ["", "XK", &format!("{id}.SECRET"), &id.replace('A', "."), &format!("YK{}", "A".repeat(16))]
        {
            assert!(bad.parse::<AccessKeyId>().is_err(), "{bad}");
        }
    }
}
