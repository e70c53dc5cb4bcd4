//! cofferd: a backup service for the virtual machines and disk volumes of one host.
//!
//! The library is the program without its first line, so that tests can be linked with it; [`main`] is all there is for others.

#[forbid(unsafe_code)]
mod api;
#[forbid(unsafe_code)]
mod app;
#[forbid(unsafe_code)]
mod catalog;
#[forbid(unsafe_code)]
mod cli;
#[forbid(unsafe_code)]
mod clock;
#[forbid(unsafe_code)]
mod config;
#[forbid(unsafe_code)]
mod daemon;
#[forbid(unsafe_code)]
mod db;
#[forbid(unsafe_code)]
mod durable;
#[forbid(unsafe_code)]
mod engine;
#[cfg(fuzzing)]
#[forbid(unsafe_code)]
pub mod fuzz;
#[forbid(unsafe_code)]
mod http;
#[forbid(unsafe_code)]
mod logging;
mod memory;
#[forbid(unsafe_code)]
mod model;
#[forbid(unsafe_code)]
mod objects;
#[forbid(unsafe_code)]
mod salvage;
#[forbid(unsafe_code)]
mod source;
#[forbid(unsafe_code)]
mod store;
#[forbid(unsafe_code)]
mod timer;

/// The program: what its command line says, to the end.
pub fn main() -> std::process::ExitCode {
    memory::bound_heaps();
    cli::main()
}
