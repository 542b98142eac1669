//! Compiles the `.proto` files with `protox`, so that no `protoc` is needed.

use prost::Message as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "weft/v1/flow.proto",
        "weft/v1/switch.proto",
        "weft/v1/bus.proto",
        "weft/v1/cloud.proto",
        "weft/v1/fault.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("weft.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    let commit = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(|| "unknown commit".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo:rustc-env=WEFT_COMMIT={commit}");
    println!("cargo:rerun-if-changed=../.git/HEAD");
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
