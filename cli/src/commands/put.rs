//! `put`: files, trees of files and standard input become objects.

mod sources;
mod whole_file;

use clap::Args;
use futures::StreamExt as _;
use tokio::io::AsyncRead;
use xdpfs_client::{Error, ObjectClient, PutOptions, PutResult};

use self::{
    sources::{Content, Found},
    whole_file::WholeFile,
};
use crate::{
    address::Address,
    arguments::{Conditions, Parallel, parse_pair, user_metadata},
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
    progress::Progress,
    record::PutRecord,
    units::{count, human_bytes},
};

/// Put files, trees of files or standard input.
#[derive(Debug, Args)]
#[command(after_help = "\
DST may be a bucket, BUCKET/PREFIX/ (both keep the file's name) or BUCKET/KEY.
A directory's files are put below DST by their paths in the directory; if there are several
sources, each directory keeps its own name.

Examples:
  xdpfs-cli put cat.jpg photos                     photos/cat.jpg
  xdpfs-cli put cat.jpg photos/2026/tom.jpg        photos/2026/tom.jpg
  xdpfs-cli put *.jpg photos/2026/                 photos/2026/cat.jpg, ...
  xdpfs-cli put -r ./album photos/album/           photos/album/1.jpg, ...
  xdpfs-cli put -r ./a ./b photos/                 photos/a/1.jpg, photos/b/1.jpg, ...
  pg_dump db | xdpfs-cli put - backups/db.sql
  xdpfs-cli put lock jobs/lock --if-none-match '*' only if it is not there")]
pub(crate) struct PutArguments {
    /// Files to put; - is standard input.
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<std::path::PathBuf>,
    /// Where to put them.
    #[arg(value_name = "DST")]
    target: Address,
    /// Put the files of directories, and of the directories in them.
    #[arg(short, long)]
    recursive: bool,
    /// The objects' media type, such as text/plain.
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// Words about the objects, as they are to be shown by stat; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) conditions: Conditions,
    #[command(flatten)]
    parallel: Parallel,
}

/// An object that was put, and from where.
struct Put {
    result: PutResult,
    source: String,
}

/// Puts everything that is asked for.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &PutArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let sources = sources::plan(&arguments.sources, &arguments.target, arguments.recursive)?;
    let progress = console.start_progress(false);
    let jobs = sources::find(sources).map(|found| put(found, arguments, client, &progress));
    let mut batch = Batch::default();
    batch.run(arguments.parallel, jobs, console, confirm).await?;
    if batch.is_empty() {
        return Err(Failure::not_found("there is no file to put"));
    }
    Ok(batch.finish(console))
}

async fn put<C: ObjectClient>(
    found: Result<Found, Failure>,
    arguments: &PutArguments,
    client: &C,
    progress: &Progress,
) -> Result<Put, Failure> {
    let Found { content, key } = found?;
    let address = arguments.target.with_key(key);
    let options = PutOptions {
        precondition: arguments.conditions.precondition(),
        content_type: arguments.content_type.clone(),
        user_metadata: user_metadata(&arguments.metadata),
        size_hint: content.size(),
    };
    progress.expect(content.size());
    let source = content.name();
    let put = match content {
        Content::File { path, .. } => {
            let file = WholeFile::open(&path).await;
            let file = file.map_err(|error| Failure::local(format_args!("open {source}"), &error))?;
            send(file, &address, options, client, progress).await
        }
        Content::Stdin => send(tokio::io::stdin(), &address, options, client, progress).await,
    };
    match put {
        Ok(result) => Ok(Put { result, source }),
        Err(Error::Input(error)) => {
            Err(Failure::local(format_args!("read {source}"), &error).about(&address))
        }
        Err(error) => Err(Failure::from(error).about(&address)),
    }
}

async fn send<C: ObjectClient>(
    input: impl AsyncRead + Send + Unpin,
    address: &Address,
    options: PutOptions,
    client: &C,
    progress: &Progress,
) -> Result<PutResult, Error> {
    client.put(&address.bucket, &address.key, progress.reader(input), options).await
}

fn confirm(console: &mut Console, put: Put) -> Result<(), Failure> {
    let object = &put.result.object;
    console.confirm(&PutRecord::new(&put.result, &put.source), || {
        let replicas = count(object.durable_replicas.into(), "replica");
        format!("put {}/{} ({}, {replicas})", object.bucket, object.key, human_bytes(object.size))
    })?;
    if put.result.chunks_in_debt > 0 {
        let chunks = count(put.result.chunks_in_debt.into(), "chunk");
        console.note(&format!(
            "{}/{}: {chunks} with fewer replicas than the bucket asks for, until the cluster repairs them",
            object.bucket, object.key
        ));
    }
    Ok(())
}
