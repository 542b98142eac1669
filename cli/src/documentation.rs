//! What the program says about itself: completion for shells, manual pages.

use crate::failure::{Failure, system};
use crate::{Arguments, output};
use clap::CommandFactory as _;
use std::path::PathBuf;

/// Arguments of `weft completion`.
#[derive(clap::Args)]
pub struct CompletionArguments {
    /// The shell.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Arguments of `weft man`.
#[derive(clap::Args)]
pub struct ManArguments {
    /// The directory to write them to; it is made if it does not exist.
    directory: PathBuf,
}

/// Prints the completion script of a shell.
pub fn completion(arguments: &CompletionArguments) -> Result<(), Failure> {
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "weft", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}

/// Writes a page for every command: `weft.1`, `weft-flows.1`, `weft-flows-add.1`, …
pub fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Arguments::command(), directory)).map_err(
        |error| {
            system(
                "man",
                format!("cannot write manual pages to {}: {error}", directory.display()),
                "Name a directory that you may write to.",
            )
            .into()
        },
    )
}
