//! What the machine itself can do with the same bytes.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{bail, ensure};

/// How many replicas a put makes, so how often a reference must move the bytes.
pub(super) const REPLICAS: usize = 3;

/// Copies the file to as many new files as there are replicas, and makes each durable.
pub(super) fn copy_durably(source: &Path, dir: &Path) -> anyhow::Result<()> {
    for replica in 0..REPLICAS {
        let target = dir.join(format!("replica-{replica}"));
        let mut copy = File::create(&target)?;
        io::copy(&mut File::open(source)?, &mut copy)?;
        copy.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// Copies every file of `source` as above, one after another: draft, fsync, rename.
pub(super) fn copy_tree_durably(source: &Path, dir: &Path) -> anyhow::Result<()> {
    for replica in 0..REPLICAS {
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            let name = format!("{}-{replica}", entry.file_name().to_string_lossy());
            let draft = dir.join(format!("{name}.draft"));
            let mut copy = File::create(&draft)?;
            copy.write_all(&fs::read(entry.path())?)?;
            copy.sync_all()?;
            fs::rename(&draft, dir.join(name))?;
        }
    }
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// Copies every file of `source` to `dir`, without making it durable: a get does not either.
pub(super) fn copy_tree(source: &Path, dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        fs::copy(entry.path(), dir.join(entry.file_name()))?;
    }
    Ok(())
}

/// Sends the file `times` times over one TCP connection on loopback, to a reader that throws it away.
pub(super) fn over_tcp(source: &Path, times: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = thread::spawn(move || -> io::Result<u64> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 256 << 10];
        let mut received = 0;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(received),
                n => received += n as u64,
            }
        }
    });
    let mut stream = TcpStream::connect(address)?;
    let mut sent = 0;
    for _ in 0..times {
        sent += io::copy(&mut File::open(source)?, &mut stream)?;
    }
    drop(stream);
    let Ok(received) = reader.join() else { bail!("the reader is gone") };
    ensure!(received? == sent, "bytes were lost on loopback");
    Ok(())
}

/// `cat` of the file into a pipe that is read to its end.
pub(super) fn cat(source: &Path) -> anyhow::Result<()> {
    let mut child = Command::new("cat").arg(source).stdout(Stdio::piped()).spawn()?;
    if let Some(mut pipe) = child.stdout.take() {
        io::copy(&mut pipe, &mut io::sink())?;
    }
    ensure!(child.wait()?.success(), "cat failed");
    Ok(())
}
