//! `meta backup`: all metadata in one file.
//!
//! Invariant: nothing stands under the file's name before all of it is written, checked and on the disk.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use tempfile::NamedTempFile;
use xdpfs_client::Client;
use xdpfs_meta_server::backup::Writer;
use xdpfs_proto::backup::v1::BackupHeader;

use super::{BackupRecord, contents};
use crate::{
    arguments::Common,
    console::Console,
    failure::{Exit, Failure},
    with_client,
};

/// Write all metadata into a file, as one consistent picture, while the cluster goes on.
///
/// The objects' bytes stay where they are, on the data nodes: the file says what there is and where. A file of that name
/// is replaced once the new one is whole. Only its owner can read it: names of objects are in it, and who may do what; but
/// no secrets of access keys or capabilities.
#[derive(Debug, Args)]
pub(super) struct BackupArguments {
    /// The file to write.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Makes a backup.
pub(super) async fn run(
    arguments: &BackupArguments,
    common: &Common,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let file = &arguments.file;
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let failed = |error: &io::Error| Failure::local(format_args!("write {}", file.display()), error);
    if file.is_dir() {
        return Err(Failure::refused(format!("{} is a directory: name a file in it", file.display())));
    }
    // Readable by its owner only.
    let draft = tempfile::Builder::new().prefix(".xdpfs-backup-").tempfile_in(directory);
    let draft = draft.map_err(|error| failed(&error))?;
    let header = with_client(common, async |client| write(client, &draft).await).await?;
    draft.as_file().sync_all().map_err(|error| failed(&error))?;
    draft.persist(file).map_err(|error| failed(&error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| failed(&error))?;
    console.confirm(&BackupRecord::from(&header), || {
        let contents = contents(header.buckets, header.objects, header.object_bytes);
        format!("wrote {}: {contents}", file.display())
    })?;
    Ok(Exit::Done)
}

async fn write(client: &Client, draft: &NamedTempFile) -> Result<BackupHeader, Failure> {
    let bad = |error| Failure::caused("make a backup", &error);
    let mut records = client.create_backup().await?;
    let mut writer = Writer::new(BufWriter::new(draft)).map_err(bad)?;
    while let Some(record) = records.next().await? {
        writer.write(&record).map_err(bad)?;
    }
    let (header, mut file) = writer.finish().map_err(bad)?;
    file.flush().map_err(|error| Failure::local("write the backup", &error))?;
    Ok(header)
}
