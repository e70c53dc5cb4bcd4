//! Jobs: create, restore and delete backups. This room holds the path that data takes, and later the queue around it.

pub mod emit;
mod error;
pub mod ingest;

pub use error::EngineError;

#[cfg(test)]
mod path_tests;
