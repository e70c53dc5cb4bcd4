//! Memory whose first byte lies on a 4 KiB boundary, as `O_DIRECT` demands (open(2)), made without unsafe code.

use std::ops::{Deref, DerefMut};

/// Offset, length and address of direct I/O are multiples of this; no device in use has larger logical blocks.
pub const ALIGNMENT: usize = 4096;

/// A fixed number of bytes, aligned.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes. The memory is not touched until it is written to.
    pub fn new(len: usize) -> Buffer {
        let memory = vec![0; len + ALIGNMENT];
        // The vector never grows, so its bytes stay where they are.
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// True if direct I/O may be done with this memory.
pub fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGNMENT) == 0 && bytes.len().is_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_as_long_as_asked() {
        for len in [1, 4096, 5000, 1 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            buffer[len - 1] = 7;
            assert_eq!(buffer[len - 1], 7);
        }
    }
}
