//! A small client of a WebDAV server, which keeps its connections.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Mutex,
};

use crate::Result;

#[derive(Clone)]
pub(crate) struct Web {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<BufReader<TcpStream>>>>,
}

impl Web {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Arc::default() }
    }

    pub(crate) async fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let head = format!(
            "PUT /{key} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            bytes.len()
        );
        let mut connection = self.connection().await?;
        connection.get_mut().write_all(head.as_bytes()).await?;
        connection.get_mut().write_all(bytes).await?;
        let (status, length) = read_head(&mut connection).await?;
        let mut rest = vec![0; length];
        connection.read_exact(&mut rest).await?;
        if !(200..300).contains(&status) {
            return Err(format!("PUT: status {status}").into());
        }
        self.idle.lock().await.push(connection);
        Ok(())
    }

    pub(crate) async fn get(&self, key: &str, buffer: &mut [u8]) -> Result<usize> {
        let head = format!("GET /{key} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        let mut connection = self.connection().await?;
        connection.get_mut().write_all(head.as_bytes()).await?;
        let (status, length) = read_head(&mut connection).await?;
        if status != 200 {
            return Err(format!("GET: status {status}").into());
        }
        let mut left = length;
        while left > 0 {
            let room = left.min(buffer.len());
            match connection.read(&mut buffer[..room]).await? {
                0 => return Err("the connection has ended".into()),
                read => left -= read,
            }
        }
        self.idle.lock().await.push(connection);
        Ok(length)
    }

    async fn connection(&self) -> Result<BufReader<TcpStream>> {
        if let Some(idle) = self.idle.lock().await.pop() {
            return Ok(idle);
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(BufReader::with_capacity(256 << 10, stream))
    }
}

/// Status and length of what follows.
async fn read_head(connection: &mut BufReader<TcpStream>) -> Result<(u16, usize)> {
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let mut length = 0;
    loop {
        line.clear();
        connection.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else { return Ok((status, length)) };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
}
