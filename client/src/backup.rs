//! Backups of the metadata, for those who run a cluster.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Streaming;
use xdpfs_proto::backup::v1::{BackupRecord, CreateBackupRequest};

use crate::{
    client::{Client, request_id},
    control::{Backups, Operation, describe},
    error::{Error, Result},
};

/// The records of a backup as the leader sends them. Whether they are whole is for whoever keeps them to find out.
#[derive(Debug)]
pub struct BackupStream {
    records: Streaming<BackupRecord>,
    record_timeout: Duration,
    started: Instant,
}

impl Client {
    /// Asks for a backup of all metadata. It takes the right admin on all buckets.
    ///
    /// # Errors
    ///
    /// Nobody leads, another backup is being made, or the key may not.
    pub async fn create_backup(&self) -> Result<BackupStream> {
        let request = CreateBackupRequest { request_id: request_id() };
        let operation = Operation::CreateBackup;
        let send = |mut backups: Backups, request| async move { backups.create_backup(request).await };
        let control = &self.shared().control;
        let records = control.call(operation, request, send).await;
        Ok(BackupStream {
            records: records.map_err(|refusal| refusal.about(operation, "", ""))?,
            record_timeout: control.attempt_timeout(),
            started: Instant::now(),
        })
    }
}

impl BackupStream {
    /// The next record; `None` behind the last one.
    ///
    /// # Errors
    ///
    /// The server has gone, or says nothing for as long as one attempt of any request may take.
    pub async fn next(&mut self) -> Result<Option<BackupRecord>> {
        let broken = |why: String| Error::Unavailable {
            operation: Operation::CreateBackup.label(),
            attempts: 1,
            waited: self.started.elapsed(),
            why,
        };
        match tokio::time::timeout(self.record_timeout, self.records.message()).await {
            Ok(record) => record.map_err(|status| broken(describe(&status))),
            Err(_) => Err(broken("the next part did not come in time".to_owned())),
        }
    }
}
