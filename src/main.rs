//! cofferd: a backup service for the virtual machines and disk volumes of one host.

mod api;
mod app;
mod catalog;
mod cli;
mod clock;
mod config;
mod daemon;
mod db;
mod durable;
mod engine;
mod http;
mod logging;
mod memory;
mod model;
mod salvage;
mod source;
mod store;
mod timer;

fn main() -> std::process::ExitCode {
    memory::bound_heaps();
    cli::main()
}
