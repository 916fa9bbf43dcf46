//! Access keys of the cluster in memory: made, told and revoked by the rules of the metadata servers, but never asked
//! for.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::MockClient;
use crate::{
    AccessControl, AccessKeyId, AccessKeyInfo, AccessKeyPage, Grant, NewAccessKey, RevokeOptions, Right,
    Rotation,
    access_key::AccessKey,
    error::{Error, Result},
};

/// How soon the nodes would obey.
const OBEYED_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Keys {
    by_id: BTreeMap<AccessKeyId, AccessKeyInfo>,
    last_number: u32,
    key_epoch: u32,
}

fn makes_keys(key: &AccessKeyInfo) -> bool {
    let all = |grant: &Grant| grant.buckets == "*" && grant.rights.contains(&Right::Admin);
    key.revoked.is_none() && key.grants.iter().any(all)
}

impl Keys {
    fn create(&mut self, grants: Vec<Grant>, label: String) -> Result<NewAccessKey> {
        if grants.is_empty() || grants.iter().any(|grant| grant.rights.is_empty()) {
            return Err(Error::invalid("a key has at least one right"));
        }
        let text = format!("XK{:016}", self.last_number + 1);
        let id: AccessKeyId = text.parse().map_err(|_| Error::invalid("too many keys"))?;
        let info = AccessKeyInfo { id: id.clone(), grants, label, created: SystemTime::now(), revoked: None };
        if self.by_id.is_empty() && !makes_keys(&info) {
            return Err(Error::invalid(
                "the first access key must be able to make others: give it admin on *",
            ));
        }
        let key = AccessKey::new(&text, &format!("SECRET{}", self.last_number + 1));
        let key = key.map_err(|_| Error::invalid("too many keys"))?;
        self.last_number += 1;
        self.by_id.insert(id, info.clone());
        Ok(NewAccessKey { info, key })
    }

    fn revoke(
        &mut self,
        id: &AccessKeyId,
        options: RevokeOptions,
    ) -> Result<(AccessKeyInfo, Option<Rotation>)> {
        let makers = self.by_id.values().filter(|key| makes_keys(key)).count();
        let key = self.by_id.get_mut(id).ok_or_else(|| Error::AccessKeyNotFound { id: id.to_string() })?;
        if makes_keys(key) && makers == 1 && !options.force {
            return Err(Error::LastAdminKey);
        }
        key.revoked.get_or_insert_with(SystemTime::now);
        let key = key.clone();
        Ok((key, options.end_capabilities.then(|| self.rotate())))
    }

    const fn rotate(&mut self) -> Rotation {
        self.key_epoch += 1;
        Rotation { key_epoch: self.key_epoch, obeyed_within: OBEYED_WITHIN }
    }
}

impl AccessControl for MockClient {
    async fn create_access_key(&self, grants: Vec<Grant>, label: String) -> Result<NewAccessKey> {
        self.with_store(|store| store.keys.create(grants, label))
    }

    async fn access_keys(&self, _page: Option<String>) -> Result<AccessKeyPage> {
        let keys = self.with_store(|store| store.keys.by_id.values().cloned().collect());
        Ok(AccessKeyPage { keys, next: None })
    }

    async fn revoke_access_key(
        &self,
        id: &AccessKeyId,
        options: RevokeOptions,
    ) -> Result<(AccessKeyInfo, Option<Rotation>)> {
        self.with_store(|store| store.keys.revoke(id, options))
    }

    async fn rotate_key_epoch(&self) -> Result<Rotation> {
        Ok(self.with_store(|store| store.keys.rotate()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(buckets: &str, right: Right) -> Vec<Grant> {
        vec![Grant { buckets: buckets.into(), rights: vec![right] }]
    }

    #[tokio::test]
    async fn keys_follow_the_rules_of_the_servers() {
        let client = MockClient::new();
        let early = client.create_access_key(on("photos", Right::Read), String::new()).await;
        assert!(matches!(early, Err(Error::InvalidArgument { .. })), "{early:?}");
        let first = client.create_access_key(on("*", Right::Admin), "first".into()).await.unwrap();
        client.create_access_key(on("photos", Right::Read), "reader".into()).await.unwrap();
        let labels: Vec<_> =
            client.access_keys(None).await.unwrap().keys.into_iter().map(|key| key.label).collect();
        assert_eq!(labels, ["first", "reader"]);
        let id = &first.info.id;
        let last = client.revoke_access_key(id, RevokeOptions::default()).await;
        assert!(matches!(last, Err(Error::LastAdminKey)), "{last:?}");
        let options = RevokeOptions { force: true, end_capabilities: true };
        let (info, rotation) = client.revoke_access_key(id, options).await.unwrap();
        assert!(info.revoked.is_some());
        assert_eq!(rotation.map(|rotation| rotation.key_epoch), Some(1));
        assert_eq!(client.rotate_key_epoch().await.unwrap().key_epoch, 2);
    }
}
