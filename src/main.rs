//! cofferd: a backup service for the virtual machines and disk volumes of one host.

mod db;
mod http;
mod model;

fn main() {}
