use std::fs;

use tonic::{Request, Status};
use xdpfs_meta_server::{RestoreError, backup, restore};
use xdpfs_proto::{
    backup::v1::{
        BackupRecord, CreateBackupRequest, backup_record::Kind, backup_service_client::BackupServiceClient,
    },
    meta::v1::{HeadObjectRequest, ListObjectsRequest, ListObjectsResponse},
};

use crate::harness::{Cluster, Meta, Writer, reason, register_nodes, request_id};

async fn records(cluster: &Cluster, id: u64) -> Result<Vec<BackupRecord>, Status> {
    let mut service = BackupServiceClient::new(cluster.channel(id));
    let request = Request::new(CreateBackupRequest { request_id: request_id() });
    let mut stream = service.create_backup(request).await?.into_inner();
    let mut records = Vec::new();
    while let Some(record) = stream.message().await? {
        records.push(record);
    }
    Ok(records)
}

fn file(records: &[BackupRecord]) -> Vec<u8> {
    let mut writer = backup::Writer::new(Vec::new()).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    writer.finish().unwrap().1
}

async fn list(cluster: &Cluster, bucket: &str) -> ListObjectsResponse {
    let request = ListObjectsRequest { parent: format!("buckets/{bucket}"), ..Default::default() };
    cluster.call(request, async |mut meta: Meta, request| meta.list_objects(request).await).await.unwrap()
}

#[tokio::test]
async fn cluster_goes_on_from_a_backup() {
    let mut cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    for key in ["a", "b", "c"] {
        writer.put(key, 100_000, None).await.unwrap();
    }
    let before = list(&cluster, "photos").await.objects;
    let leader = cluster.leader().await;
    let file = file(&records(&cluster, leader).await.unwrap());
    // What comes after the backup is lost, and must not be given out again.
    let lost = writer.put("later", 100_000, None).await.unwrap().object.unwrap();
    for id in cluster.ids() {
        cluster.stop(id).await;
        fs::remove_dir_all(cluster.data_dir(id)).unwrap();
    }

    let (header, state) = backup::read(&file[..]).unwrap();
    assert_eq!(header.objects, 3);
    for id in cluster.ids() {
        restore(&cluster.config(id), &header, state.clone()).unwrap();
        let error = restore(&cluster.config(id), &header, state.clone()).unwrap_err();
        assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
        cluster.restart(id).await;
    }
    cluster.ready().await;

    assert_eq!(list(&cluster, "photos").await.objects, before);
    let status = cluster.status_of(1).await;
    assert_eq!(status.cluster_id, header.cluster_id);
    assert_eq!(status.data_nodes.len(), 3);
    // Nodes are what they were, under new registrations.
    let mut restored = nodes.clone();
    for (node, old) in restored.iter_mut().zip(&nodes) {
        node.register_again(&cluster).await;
        assert_eq!(node.id(), old.id());
        assert!(node.registered.node_epoch > old.registered.node_epoch);
    }
    let writer = Writer { cluster: &cluster, nodes: &restored, bucket: "photos" };
    let put = writer.put("new", 100_000, None).await.unwrap().object.unwrap();
    assert!(put.version > lost.version, "{} {}", put.version, lost.version);
    let head = HeadObjectRequest { name: writer.name("later"), ..Default::default() };
    let gone = cluster.call(head, async |mut meta: Meta, request| meta.head_object(request).await).await;
    assert_eq!(reason(&gone.unwrap_err()), "OBJECT_NOT_FOUND");
}

#[tokio::test]
async fn only_the_leader_makes_backups_and_a_broken_one_is_refused() {
    let cluster = Cluster::start().await;
    let refused = records(&cluster, cluster.follower().await).await.unwrap_err();
    assert_eq!(reason(&refused), "NOT_LEADER");
    let leader = cluster.leader().await;
    let mut whole = records(&cluster, leader).await.unwrap();
    assert!(matches!(whole.first().unwrap().kind, Some(Kind::Header(_))));
    assert!(matches!(whole.pop().unwrap().kind, Some(Kind::End(_))));
    let mut writer = backup::Writer::new(Vec::new()).unwrap();
    whole.iter().for_each(|record| writer.write(record).unwrap());
    assert!(writer.finish().is_err(), "the end is missing");
}
