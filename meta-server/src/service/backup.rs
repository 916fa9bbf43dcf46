//! Backups: `xdpfs.backup.v1.BackupService`.
//!
//! Invariant: one at a time, since each holds the whole state once more; a reader that does not read loses its turn.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use xdpfs_proto::backup::v1::{
    BackupHeader, BackupRecord, CreateBackupRequest, backup_service_server::BackupService,
};

use super::{Gateway, Refusal, gateway::Call};
use crate::{
    backup::{self, FORMAT},
    state_machine::Reason,
};

/// Records that wait for the reader.
const RECORDS_WAITING_MAX: usize = 4;
/// How long a reader may take for one record.
const RECORD_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct BackupFrontend(pub(super) Arc<Gateway>);

#[tonic::async_trait]
impl BackupService for BackupFrontend {
    type CreateBackupStream = ReceiverStream<Result<BackupRecord, Status>>;

    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        self.0.serve(request, |call| create_backup(&self.0, call)).await
    }
}

async fn create_backup(
    gateway: &Arc<Gateway>,
    call: Call<CreateBackupRequest>,
) -> Result<ReceiverStream<Result<BackupRecord, Status>>, Refusal> {
    let busy = |_| Refusal::new(Reason::Overloaded, "another backup is being made: wait until it is done");
    let turn = Arc::clone(gateway.backups()).try_acquire_owned().map_err(busy)?;
    gateway.admit(call.deadline, &call.access).await?;
    let create_time_ms = gateway.now_ms();
    let interrupted = || Refusal::new(Reason::Overloaded, "the server had to give the backup up: try again");
    let image = gateway.consensus().backup().await.ok_or_else(interrupted)?;
    let header = BackupHeader {
        format: FORMAT,
        cluster_id: image.cluster_id,
        applied_index: image.index,
        create_time_ms,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        buckets: image.buckets,
        objects: image.objects,
        object_bytes: image.object_bytes,
    };
    tracing::info!(objects = header.objects, applied_index = header.applied_index, "a backup is being sent");
    let (sender, receiver) = mpsc::channel(RECORDS_WAITING_MAX);
    tokio::spawn(send(turn, sender, backup::records(header, image.pieces)));
    Ok(ReceiverStream::new(receiver))
}

async fn send(
    turn: OwnedSemaphorePermit,
    sender: mpsc::Sender<Result<BackupRecord, Status>>,
    records: impl Iterator<Item = BackupRecord> + Send,
) {
    for record in records {
        if let Err(error) = sender.send_timeout(Ok(record), RECORD_TIMEOUT).await {
            tracing::info!(%error, "a backup was given up");
            break;
        }
    }
    drop(turn);
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reader_that_does_not_read_loses_its_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let turn = Arc::clone(&turns).try_acquire_owned().unwrap();
        let (sender, receiver) = mpsc::channel(RECORDS_WAITING_MAX);
        let endless = std::iter::repeat_with(BackupRecord::default);
        let sending = tokio::spawn(send(turn, sender, endless));
        tokio::time::sleep(RECORD_TIMEOUT / 2).await;
        assert!(turns.try_acquire().is_err(), "it may yet read");
        tokio::time::timeout(RECORD_TIMEOUT, sending).await.expect("it is given up").unwrap();
        assert!(turns.try_acquire().is_ok());
        drop(receiver);
    }

    #[tokio::test]
    async fn reader_that_goes_away_gives_its_turn_back() {
        let turns = Arc::new(Semaphore::new(1));
        let turn = Arc::clone(&turns).try_acquire_owned().unwrap();
        let (sender, receiver) = mpsc::channel(RECORDS_WAITING_MAX);
        drop(receiver);
        send(turn, sender, std::iter::repeat_with(BackupRecord::default)).await;
        assert!(turns.try_acquire().is_ok());
    }
}
