//! Compiles the `.proto` files with a pure-Rust compiler, so that nobody needs `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 9] = [
    "xdpfs/access/v1/access.proto",
    "xdpfs/admin/v1/admin.proto",
    "xdpfs/backup/v1/backup.proto",
    "xdpfs/members/v1/members.proto",
    "xdpfs/meta/v1/meta.proto",
    "xdpfs/node/v1/node.proto",
    "xdpfs/object/v1/object.proto",
    "xdpfs/raft/v1/raft.proto",
    "xdpfs/state/v1/state.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=xdpfs");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".xdpfs.backup.v1")
        .bytes(".xdpfs.object.v1")
        .bytes(".xdpfs.raft.v1")
        .bytes(".xdpfs.state.v1")
        .btree_map(".")
        // It holds a secret; what is shown of it is written by hand.
        .skip_debug([".xdpfs.access.v1.CreateAccessKeyResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}
