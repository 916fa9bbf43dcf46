//! Gets one small object again and again, and asks for its metadata as often: `small_gets ENDPOINTS BUCKET COUNT` prints
//! the median and the 99th percentile of a get and the median of asking, in microseconds.
#![expect(clippy::print_stdout, reason = "a tool")]

use std::{env, error::Error, time::Instant};

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use xdpfs_client::{Client, ClientConfig, GetOptions, ObjectClient as _, PutOptions};

const KEY: &str = "small";
const LEN: usize = 1024;
/// Before the clock counts: connections, capabilities, the first round trips.
const WARM_UP: usize = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [endpoints, bucket, count] = &args[..] else {
        return Err("usage: small_gets ENDPOINTS BUCKET COUNT".into());
    };
    let count: usize = count.parse()?;
    let client = Client::connect(ClientConfig::new(endpoints.parse()?))?;
    client.put_bytes(bucket, KEY, Bytes::from(vec![7; LEN]), PutOptions::default()).await?;
    let (mut gets, mut stats) = (Vec::new(), Vec::new());
    for _ in 0..WARM_UP + count {
        let began = Instant::now();
        let mut got = Vec::with_capacity(LEN);
        client.get(bucket, KEY, GetOptions::default()).await?.read_to_end(&mut got).await?;
        gets.push(began.elapsed().as_secs_f64() * 1e6);
        if got.len() != LEN {
            return Err("the object has another length".into());
        }
        let began = Instant::now();
        client.stat(bucket, KEY, None).await?;
        stats.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let (gets, stats) = (sorted(gets.split_off(WARM_UP)), sorted(stats.split_off(WARM_UP)));
    println!("{:.1} {:.1} {:.1}", gets[count / 2], gets[count * 99 / 100], stats[count / 2]);
    client.close().await;
    Ok(())
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
