//! Compiles the `.proto` files with `protox`, so that no `protoc` is needed.

use prost::Message as _;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "weft/v1/flow.proto",
        "weft/v1/switch.proto",
        "weft/v1/bus.proto",
        "weft/v1/cloud.proto",
        "weft/v1/fault.proto",
        "weft/v1/membership.proto",
        "weft/v1/path.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("weft.bin"), descriptors.encode_to_vec())?;
    // The objects of the cloud print themselves as JSON, for programs: keys are the fields' names. Not so the
    // switch's messages: the command line has a form of its own for them.
    let mut builder = tonic_prost_build::configure().field_attribute(".weft.v1.Host.ports", "#[serde(skip)]");
    let cloud = descriptors.file.iter().filter(|file| file.name() == "weft/v1/cloud.proto");
    let names = cloud.flat_map(|file| &file.message_type).map(|message| message.name());
    for name in names.filter(|name| !name.ends_with("Request") && !name.ends_with("Reply")) {
        builder = builder.type_attribute(format!(".weft.v1.{name}"), "#[derive(serde::Serialize)]");
    }
    builder.compile_fds(descriptors)?;
    // Only a release names its commit: a build for development would otherwise begin anew with every commit.
    if std::env::var("PROFILE")? == "release" {
        let commit = git(&["describe", "--always", "--dirty", "--abbrev=12"]);
        println!("cargo:rustc-env=WEFT_BUILD={}", commit.unwrap_or_else(|| "unknown commit".into()));
        // It grows with every commit and checkout. A file that does not exist must not be named: cargo would
        // build everything anew each time. That is why it is asked for: in a linked worktree .git is no folder.
        if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
            println!("cargo:rerun-if-changed={log}");
        }
    } else {
        println!("cargo:rustc-env=WEFT_BUILD=dev");
    }
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}

/// What git says; `None` without git or outside a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
