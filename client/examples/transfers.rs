//! Puts objects of one size and gets them again: `transfers ENDPOINTS BUCKET SIZE COUNT PARALLEL` prints how many seconds the
//! puts took, and how many the gets. What the Python package is measured against (`cargo xtask bench sdk`).
#![expect(clippy::print_stdout, reason = "a tool")]

use std::{env, error::Error, time::Instant};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use xdpfs_client::{Client, ClientConfig, GetOptions, ObjectClient as _, PutOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [endpoints, bucket, size, count, parallel] = &args[..] else {
        return Err("usage: transfers ENDPOINTS BUCKET SIZE COUNT PARALLEL".into());
    };
    let (size, count, parallel): (usize, usize, usize) = (size.parse()?, count.parse()?, parallel.parse()?);
    let client = Client::connect(ClientConfig::new(endpoints.parse()?))?;
    let data: Vec<u8> = (0..size as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let data = Bytes::from(data);
    // Connections and capabilities, before the clock counts.
    client.put_bytes(bucket, "rust/warm-up", data.clone(), PutOptions::default()).await?;

    let began = Instant::now();
    let puts = (0..count).map(|number| {
        let (client, data) = (&client, data.clone());
        async move { client.put_bytes(bucket, &format!("rust/{number}"), data, PutOptions::default()).await }
    });
    stream::iter(puts).buffered(parallel).try_for_each(|_| async { Ok(()) }).await?;
    let put = began.elapsed();

    let began = Instant::now();
    let gets = (0..count).map(|number| {
        let client = &client;
        async move {
            let got = client.get(bucket, &format!("rust/{number}"), GetOptions::default()).await?;
            got.into_bytes().await
        }
    });
    let mut got = stream::iter(gets).buffered(parallel);
    while let Some(bytes) = got.try_next().await? {
        if bytes.len() != size {
            return Err("an object has another length".into());
        }
    }
    println!("{:.6} {:.6}", put.as_secs_f64(), began.elapsed().as_secs_f64());
    client.close().await;
    Ok(())
}
