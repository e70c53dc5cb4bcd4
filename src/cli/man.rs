//! `cofferd man`: the manual pages, made from the same definitions as `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};

use super::{Cli, CliError, Context, print};

/// Print the manual page, or write the pages of all commands into a directory
#[derive(Args)]
pub struct Man {
    /// Where to write one page for each command; else the main page is printed
    directory: Option<PathBuf>,
}

pub fn run(args: &Man, _: &Context) -> Result<(), CliError> {
    match &args.directory {
        Some(directory) => write(directory).map_err(|e| CliError::failed(format!("{}: {e}", directory.display()))),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(CliError::Output)?;
            print(&String::from_utf8_lossy(&page))
        }
    }
}

/// Writes `cofferd.1` and one page for each command, as `cofferd-user-add.1`.
pub fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}
