//! `cofferd completions`: what makes the Tab key work.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CliError, Context, print};

/// Print a completion script for a shell
#[derive(Args)]
pub struct Completions {
    /// The shell it is for
    shell: Shell,
}

pub fn run(args: &Completions, _: &Context) -> Result<(), CliError> {
    print(&script(args.shell))
}

/// The completion script of one shell.
pub fn script(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cofferd", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
