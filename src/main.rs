//! cofferd: a backup service for the virtual machines and disk volumes of one host.

mod db;
mod engine;
mod http;
mod model;
mod source;
mod store;

fn main() {}
