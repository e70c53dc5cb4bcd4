//! cofferd: a backup service for the virtual machines and disk volumes of one host.

mod http;
mod model;

fn main() {}
