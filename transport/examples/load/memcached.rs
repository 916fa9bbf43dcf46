//! A small client of memcached, over TCP with a connection for each request that is outstanding, and over UDP.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::times::Times;
use crate::Result;

const WARM_UP: Duration = Duration::from_millis(300);
/// A datagram that has not come by then is lost, and a miss.
const PATIENCE: Duration = Duration::from_millis(200);
/// Before each datagram of memcached: request, number, datagrams in all, zero; each of two bytes, big-endian.
const FRAME: usize = 8;

struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(64 << 10, stream)))
    }

    async fn set(&mut self, length: usize) -> Result<()> {
        let mut words = format!("set k 0 0 {length}\r\n").into_bytes();
        words.resize(words.len() + length, b'x');
        words.extend(b"\r\n");
        self.0.write_all(&words).await?;
        let mut said = String::new();
        self.0.read_line(&mut said).await?;
        if said.trim() == "STORED" { Ok(()) } else { Err(said.into()) }
    }

    async fn get(&mut self, value: &mut Vec<u8>) -> Result<()> {
        self.0.write_all(b"get k\r\n").await?;
        let mut head = String::new();
        self.0.read_line(&mut head).await?;
        let length: usize = head.trim().rsplit(' ').next().unwrap_or_default().parse()?;
        value.resize(length + 2, 0);
        self.0.read_exact(value).await?;
        head.clear();
        self.0.read_line(&mut head).await?;
        if head.trim() == "END" { Ok(()) } else { Err(head.into()) }
    }
}

pub(crate) async fn gets(
    address: SocketAddr,
    length: usize,
    outstanding: u32,
    time: Duration,
) -> Result<String> {
    Connection::open(address).await?.set(length).await?;
    measure(outstanding, time, move |from, until| async move {
        let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
        let (mut times, mut value) = (Times::default(), Vec::new());
        while Instant::now() < until {
            let began = Instant::now();
            connection.get(&mut value).await.map_err(|error| error.to_string())?;
            if began >= from {
                times.note(began.elapsed());
            }
        }
        Ok(times)
    })
    .await
}

pub(crate) async fn gets_by_udp(
    address: SocketAddr,
    length: usize,
    outstanding: u32,
    time: Duration,
) -> Result<String> {
    Connection::open(address).await?.set(length).await?;
    measure(outstanding, time, move |from, until| async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await.map_err(|error| error.to_string())?;
        socket.connect(address).await.map_err(|error| error.to_string())?;
        let (mut times, mut buffer, mut number) = (Times::default(), vec![0; 2048], 0_u16);
        while Instant::now() < until {
            let began = Instant::now();
            number = number.wrapping_add(1);
            let [high, low] = number.to_be_bytes();
            let request = [&[high, low, 0, 0, 0, 1, 0, 0][..], b"get k\r\n"].concat();
            socket.send(&request).await.map_err(|error| error.to_string())?;
            let mut missing = None;
            while missing != Some(0) {
                let Ok(received) = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await else {
                    break;
                };
                let received = received.map_err(|error| error.to_string())?;
                if received < FRAME || buffer[..2] != [high, low] {
                    continue;
                }
                let all = u16::from_be_bytes([buffer[4], buffer[5]]);
                missing = Some(missing.unwrap_or(all) - 1);
            }
            if began >= from && missing == Some(0) {
                times.note(began.elapsed());
            }
        }
        Ok(times)
    })
    .await
}

/// So many askers at once.
async fn measure<F>(outstanding: u32, time: Duration, ask: impl Fn(Instant, Instant) -> F) -> Result<String>
where
    F: Future<Output = std::result::Result<Times, String>> + Send + 'static,
{
    let from = Instant::now() + WARM_UP;
    let mut askers = JoinSet::new();
    for _ in 0..outstanding {
        askers.spawn(ask(from, from + time));
    }
    let mut all = Times::default();
    while let Some(times) = askers.join_next().await {
        all.append(times??);
    }
    Ok(all.summary(time))
}
