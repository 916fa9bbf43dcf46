//! What both kinds of cluster are asked.

use object_store::{ObjectStore, ObjectStoreExt as _, integration, path::Path};
use xdpfs_client::ObjectClient;
use xdpfs_object_store::XdpfsStore;

/// Everything that comes with `object_store` and that a store can be asked. `last_modified` and versions are theirs to look
/// at, so it is run with a bucket that keeps versions, too.
pub(crate) async fn all<C: ObjectClient>(store: &XdpfsStore<C>) {
    integration::put_get_delete_list(store).await;
    integration::list_with_offset_exclusivity(store).await;
    integration::get_opts(store).await;
    integration::put_get_attributes(store).await;
    integration::list_uses_directories_correctly(store).await;
    integration::list_with_delimiter(store).await;
    integration::list_paginated(store, store).await;
    integration::rename_and_copy(store).await;
    integration::copy_if_not_exists(store).await;
    integration::copy_rename_nonexistent_object(store).await;
    clear(store).await;
    integration::stream_get(store).await;
    integration::multipart_race_condition(store, true).await;
    integration::multipart_out_of_order(store).await;
    let missing = integration::get_nonexistent_object(store, None).await.unwrap_err();
    assert!(matches!(missing, object_store::Error::NotFound { .. }), "{missing}");
    let supports_update = true;
    integration::put_opts(store, supports_update).await;
    clear(store).await;
}

/// What lies in the store goes.
pub(crate) async fn clear(store: &dyn ObjectStore) {
    let list = store.list_with_delimiter(None).await.unwrap();
    assert!(list.common_prefixes.iter().all(|prefix| prefix != &Path::ROOT));
    let mut listed = store.list(None);
    while let Some(object) = futures::StreamExt::next(&mut listed).await {
        store.delete(&object.unwrap().location).await.unwrap();
    }
}
