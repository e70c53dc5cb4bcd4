//! What the fuzz targets in `fuzz/` call, one function a target: bytes from outside or from the file go in, and whatever they are,
//! nothing panics, nothing takes more memory than it may, and what can be written again is what was read.

pub use crate::api::fuzz::{bodies, credentials, record, text};
pub use crate::config::fuzz as config;
pub use crate::http::fuzz::{chunked, head};
pub use crate::model::schedule::fuzz as schedule;
pub use crate::source::fuzz_extents as extents;
pub use crate::store::fuzz::{codec, coffer, lists};

/// Takes an input apart.
pub(crate) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next bytes, as many of them as there are.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        first
    }

    /// A number of so many bytes, little endian; missing ones are 0.
    pub fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.number(2) % bound
    }
}
