//! One chunk in, its stored bytes out, and back: zstd where it helps, the raw bytes where it does not.

use super::format::{CHUNK_SIZE, Encoding};

/// Fastest level with the ratio of slower ones on disk images.
const LEVEL: i32 = 1;
/// Compression must save at least this part of a chunk (1/50), or reading it back is not worth the time.
const LEAST_GAIN: usize = 50;

/// Compresses chunks; one for each thread.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    room: Vec<u8>,
}

impl Encoder {
    pub fn new() -> std::io::Result<Encoder> {
        let room = vec![0; zstd::zstd_safe::compress_bound(CHUNK_SIZE as usize)];
        Ok(Encoder { zstd: zstd::bulk::Compressor::new(LEVEL)?, room })
    }

    /// Appends the stored form of a chunk to `out`.
    pub fn append(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Encoding {
        match self.zstd.compress_to_buffer(raw, &mut self.room[..]) {
            Ok(n) if n < raw.len() - raw.len() / LEAST_GAIN => {
                out.extend_from_slice(&self.room[..n]);
                Encoding::Zstd
            }
            _ => {
                out.extend_from_slice(raw);
                Encoding::Raw
            }
        }
    }
}

/// Gives chunks back; one for each thread.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    pub fn new() -> std::io::Result<Decoder> {
        Ok(Decoder { zstd: zstd::bulk::Decompressor::new()? })
    }

    /// Fills `raw` from stored bytes; an error names what is wrong with them.
    pub fn decode(&mut self, encoding: Encoding, stored: &[u8], raw: &mut [u8]) -> Result<(), String> {
        let n = match encoding {
            Encoding::Raw if stored.len() == raw.len() => {
                raw.copy_from_slice(stored);
                stored.len()
            }
            Encoding::Raw => stored.len(),
            Encoding::Zstd => self.zstd.decompress_to_buffer(stored, raw).map_err(|e| format!("it cannot be decompressed: {e}"))?,
        };
        if n == raw.len() { Ok(()) } else { Err(format!("it has {n} bytes instead of {}", raw.len())) }
    }
}

/// True if all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole blocks are folded without a branch for each byte, so that the compiler can use vectors.
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The chunks of a span of a volume, in order; the last one of a volume may be short.
pub fn chunks(span: &[u8]) -> std::slice::Chunks<'_, u8> {
    span.chunks(CHUNK_SIZE as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn chunks_come_back_and_the_encoding_fits_them() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        for (raw, expected) in [
            (b"text ".repeat(10_000), Encoding::Zstd),
            (noise(256 << 10), Encoding::Raw),
            (vec![1], Encoding::Raw),
            ([noise(100_000), vec![3; 100]].concat(), Encoding::Raw),
        ] {
            let mut out = b"before".to_vec();
            assert_eq!(encoder.append(&raw, &mut out), expected);
            assert_eq!(&out[..6], b"before");
            let mut back = vec![0; raw.len()];
            decoder.decode(expected, &out[6..], &mut back).unwrap();
            assert_eq!(back, raw);
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_other_bytes_never_a_panic() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        let mut stored = Vec::new();
        encoder.append(&b"text ".repeat(1_000), &mut stored);
        let mut raw = vec![0; 5_000];
        for bit in 0..stored.len() * 8 {
            stored[bit / 8] ^= 1 << (bit % 8);
            let _ = decoder.decode(Encoding::Zstd, &stored, &mut raw);
            stored[bit / 8] ^= 1 << (bit % 8);
        }
        decoder.decode(Encoding::Zstd, &stored, &mut raw).unwrap();
        assert!(decoder.decode(Encoding::Zstd, &stored, &mut raw[..4_999]).is_err());
        assert!(decoder.decode(Encoding::Raw, &stored, &mut raw).is_err());
    }

    #[test]
    fn zero_is_zero_everywhere() {
        let mut bytes = vec![0; 10_000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 4095, 4096, 9_999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
            bytes[at] = 0;
        }
    }
}
