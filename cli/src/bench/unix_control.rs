//! The control socket of Open vSwitch's programs, which `ovs-appctl` speaks with: JSON-RPC 1.0 on a Unix socket.

use anyhow::{Context, Result, bail};
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Runs a command; gives what it prints.
pub fn call(socket: &Path, command: &str, arguments: &[&str]) -> Result<String> {
    let context = || format!("{command} at {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(context)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = json!({"id": 0, "method": command, "params": arguments});
    stream.write_all(request.to_string().as_bytes()).with_context(context)?;
    let mut answers = serde_json::Deserializer::from_reader(stream);
    let answer = Value::deserialize(&mut answers).with_context(context)?;
    if let Some(error) = answer["error"].as_str() {
        bail!("{}: {}", context(), error.trim());
    }
    Ok(answer["result"].as_str().unwrap_or_default().to_owned())
}
