//! `weft`: everything a person types.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The command line of Weft.
#[derive(Parser)]
#[command(name = "weft", version = weft_proto::VERSION)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a demo cloud on this machine: a controller, hosts, instances in network namespaces.
    Up(weft_up::UpArguments),
    /// End the demo cloud, and remove what a killed one left.
    Down(weft_up::DownArguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Up(arguments) => weft_up::up(&arguments),
        Command::Down(arguments) => weft_up::down(&arguments),
    }
}
