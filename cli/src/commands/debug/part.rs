//! What a bundle is made of, and how each part is got: bounded in bytes and in time.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    time::timeout,
};

/// Bytes of one part.
const PART_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a log's end.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// A file in a bundle.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// What this program prints when it is run with `words`. What it has to complain of comes behind.
///
/// # Errors
/// Why there is nothing, in words.
pub(super) async fn command(
    words: &[String],
    environment: &[(&str, OsString)],
    patience: Duration,
) -> Result<Vec<u8>, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program can't be found: {error}"))?;
    let mut command = Command::new(program);
    command.args(words).envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("this program can't be run: {error}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let answered = async {
        let (mut printed, mut complaints) = (Vec::new(), Vec::new());
        // Both at once: a full pipe would hold the program up.
        let (read, complained) = tokio::join!(read_all(out, &mut printed), read_all(err, &mut complaints));
        read.and(complained).map_err(|error| format!("its output can't be read: {error}"))?;
        let status = child.wait().await.map_err(|error| format!("it can't be waited for: {error}"))?;
        Ok::<_, String>((status, printed, complaints))
    };
    let answered = timeout(patience, answered).await;
    let (status, mut printed, complaints) =
        answered.map_err(|_| format!("it took longer than {} s", patience.as_secs()))??;
    if printed.is_empty() && !status.success() {
        return Err(String::from_utf8_lossy(&complaints).trim().to_owned());
    }
    printed.extend(complaints);
    Ok(printed)
}

async fn read_all(pipe: Option<impl tokio::io::AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    (&mut pipe).take(PART_BYTES_MAX).read_to_end(into).await?;
    // The rest is of no use, but has to go somewhere.
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await.map(|_| ())
}

/// The metrics of the server whose HTTP listener is at `address`.
///
/// # Errors
/// Why there are none, in words.
pub(super) async fn metrics(address: &str, patience: Duration) -> Result<Vec<u8>, String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(PART_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(patience, asked).await.map_err(|_| "no answer in time".to_owned())?;
    body(answer.map_err(|error| error.to_string())?)
}

fn body(mut answer: Vec<u8>) -> Result<Vec<u8>, String> {
    let status = answer.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if !answer.starts_with(b"HTTP/1.") || status != b"200" {
        return Err("it has no metrics: give the address of --http-listen".to_owned());
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    Ok(answer.split_off(end.unwrap_or(answer.len())))
}

/// The last lines of a log.
///
/// # Errors
/// Why it can't be read, in words.
pub(super) fn end_of(log: &Path) -> Result<Vec<u8>, String> {
    read_end(log, LOG_BYTES_MAX).map_err(|error| error.to_string())
}

fn read_end(log: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(bytes_max).read_to_end(&mut end)?;
    if start > 0 {
        // The first line is not whole.
        let line = end.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        end.drain(..line);
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn of_a_long_log_the_last_whole_lines_are_taken() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        log.write_all(b"first line\nsecond line\nthird\n").unwrap();
        let check = |bytes_max, expect: &str| {
            assert_eq!(read_end(log.path(), bytes_max).unwrap(), expect.as_bytes());
        };
        check(1000, "first line\nsecond line\nthird\n");
        check(20, "second line\nthird\n");
        check(17, "third\n");
        assert!(end_of(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn only_a_good_answer_has_a_body() {
        let check = |answer: &str, expect: Option<&str>| {
            let body = body(answer.as_bytes().to_vec()).ok();
            assert_eq!(body.as_deref(), expect.map(str::as_bytes), "{answer:?}");
        };
        check("HTTP/1.1 200 OK\r\nx: y\r\n\r\na 1\n", Some("a 1\n"));
        check("HTTP/1.1 404 Not Found\r\n\r\n", None);
        check("SSH-2.0-x 200 \r\n\r\n", None);
        check("", None);
    }

    #[tokio::test]
    async fn server_that_says_nothing_is_waited_for_only_so_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let error = metrics(&address, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error, "no answer in time");
    }
}
