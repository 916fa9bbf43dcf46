//! Three metadata servers in one process that counts what it allocates: `counted_cluster DIRECTORY`.
//!
//! It prints the servers' addresses for clients, with commas between them, and then, for every line that it reads, how often
//! it has allocated since its start. It ends with its input.
#![expect(clippy::print_stdout, reason = "a tool")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env, io,
    net::TcpListener,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Context as _;
use xdpfs_meta_server::{Config, Listeners, Member, Server};

const SERVERS: u64 = 3;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it came, and only counted besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `realloc`, and what it got came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the contract of `dealloc`, and what it got came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = env::args().nth(1).context("usage: counted_cluster DIRECTORY")?;
    let bind = || TcpListener::bind("127.0.0.1:0");
    let mut listeners = Vec::new();
    for _ in 0..SERVERS {
        listeners.push(Listeners { client: bind()?, peer: bind()? });
    }
    let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
    let member = |(id, listeners): (u64, &Listeners)| {
        let (peer_address, client_address) = (address(&listeners.peer)?, address(&listeners.client)?);
        Ok::<_, io::Error>(Member { id, peer_address, client_address })
    };
    let members: Vec<Member> = (1..).zip(&listeners).map(member).collect::<Result<_, _>>()?;
    let mut servers = Vec::new();
    for (member, listeners) in members.iter().zip(listeners) {
        let data_dir = Path::new(&directory).join(member.id.to_string());
        let config = Config { bootstrap: true, ..Config::new(member.id, members.clone(), data_dir) };
        servers.push(Server::start_on(config, listeners).await?);
    }
    for server in &servers {
        server.ready().await;
    }
    let endpoints: Vec<_> = members.iter().map(|member| member.client_address.as_str()).collect();
    println!("{}", endpoints.join(","));
    let asked = tokio::task::spawn_blocking(|| {
        for line in io::stdin().lines() {
            line?;
            println!("{}", ALLOCATIONS.load(Ordering::Relaxed));
        }
        Ok::<_, io::Error>(())
    });
    asked.await??;
    for server in servers {
        server.shutdown().await;
    }
    Ok(())
}
