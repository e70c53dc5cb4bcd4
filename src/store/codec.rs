//! One chunk in, its stored bytes out, and back: a delta to what the same place held before, or zstd, where either helps, and
//! the raw bytes where neither does.

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use super::format::{Address, CHUNK_SIZE, Encoding};

/// Fastest level with the ratio of slower ones on disk images.
const LEVEL: i32 = 1;
/// Shorter matches than the level has for inputs as large as a chunk: 1.7 % less stored for 5 % more time.
const MIN_MATCH: u32 = 6;
/// Compression must save at least this part of a chunk (1/50), or reading it back is not worth the time.
const LEAST_GAIN: usize = 50;
/// A delta must be smaller than this part of its base, which tells how large the chunk would be without one.
const LARGEST_DELTA: usize = 2;
/// With the level's own table of 2^14 places, most of what base and chunk have in common goes unseen.
const DELTA_HASH_LOG: u32 = 17;
/// What begins with these bytes may be taken for a trained dictionary instead of content (RFC 8878, 5), so it is no base.
const DICTIONARY_MAGIC: [u8; 4] = 0xEC30_A437_u32.to_le_bytes();

/// The chunk that another may be stored as a delta to.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    pub address: Address,
    pub raw: &'a [u8],
    /// Bytes that it takes in the store.
    pub stored: usize,
}

/// Compresses chunks; one for each thread.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    room: Vec<u8>,
}

impl Encoder {
    pub fn new() -> std::io::Result<Encoder> {
        let room = vec![0; zstd_safe::compress_bound(CHUNK_SIZE as usize)];
        let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
        zstd.set_parameter(CParameter::MinMatch(MIN_MATCH))?;
        Ok(Encoder { zstd, room })
    }

    /// The stored form of a chunk.
    pub fn encode(&mut self, raw: &[u8], base: Option<Base>) -> (Encoding, Vec<u8>) {
        if let Some(base) = base
            && let Some(n) = self.delta(raw, base)
        {
            return (Encoding::Delta { base: base.address }, self.room[..n].to_vec());
        }
        match self.zstd.compress_to_buffer(raw, &mut self.room[..]) {
            Ok(n) if n <= worth(raw.len()) => (Encoding::Zstd, self.room[..n].to_vec()),
            _ => (Encoding::Raw, raw.to_vec()),
        }
    }

    /// Length of the delta, in `room`; None if it is not worth it.
    fn delta(&mut self, raw: &[u8], base: Base) -> Option<usize> {
        if base.raw.starts_with(&DICTIONARY_MAGIC) {
            return None;
        }
        // A context of its own for each, because it borrows the base; making one takes microseconds.
        let mut context = CCtx::try_create()?;
        let window = (base.raw.len() + raw.len()).next_power_of_two().ilog2();
        for parameter in [CParameter::CompressionLevel(LEVEL), CParameter::WindowLog(window), CParameter::HashLog(DELTA_HASH_LOG)] {
            context.set_parameter(parameter).ok()?;
        }
        context.ref_prefix(base.raw).ok()?;
        // No room for more, so what is no use ends early.
        let most = (base.stored / LARGEST_DELTA).min(worth(raw.len()));
        context.compress2(&mut self.room[..most], raw).ok()
    }
}

/// Bytes that compression may leave of this many, or it is not worth the time of reading them.
fn worth(raw: usize) -> usize {
    (raw - raw / LEAST_GAIN).saturating_sub(1)
}

/// Gives chunks back; one for each thread.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    pub fn new() -> std::io::Result<Decoder> {
        Ok(Decoder { zstd: zstd::bulk::Decompressor::new()? })
    }

    /// Fills `raw` from stored bytes; an error names what is wrong with them. `base`: the raw bytes of a delta's base.
    pub fn decode(&mut self, encoding: Encoding, stored: &[u8], base: &[u8], raw: &mut [u8]) -> Result<(), String> {
        let n = match encoding {
            Encoding::Raw if stored.len() == raw.len() => {
                raw.copy_from_slice(stored);
                stored.len()
            }
            Encoding::Raw => stored.len(),
            Encoding::Zstd => self.zstd.decompress_to_buffer(stored, raw).map_err(|e| format!("it cannot be decompressed: {e}"))?,
            Encoding::Delta { .. } => apply_delta(stored, base, raw).map_err(|e| format!("it cannot be put together with its base: {e}"))?,
        };
        if n == raw.len() { Ok(()) } else { Err(format!("it has {n} bytes instead of {}", raw.len())) }
    }
}

fn apply_delta(stored: &[u8], base: &[u8], raw: &mut [u8]) -> Result<usize, &'static str> {
    let mut context = DCtx::try_create().ok_or("out of memory")?;
    context.ref_prefix(base).and_then(|_| context.decompress(raw, stored)).map_err(zstd_safe::get_error_name)
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

    const BASE: Address = Address::ZERO;
    const DELTA: Encoding = Encoding::Delta { base: BASE };

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
            (noise(CHUNK_SIZE as usize), Encoding::Raw),
            (vec![1], Encoding::Raw),
            ([noise(100_000), vec![3; 100]].concat(), Encoding::Raw),
        ] {
            let (encoding, out) = encoder.encode(&raw, None);
            assert_eq!(encoding, expected);
            let mut back = vec![0; raw.len()];
            decoder.decode(expected, &out, &[], &mut back).unwrap();
            assert_eq!(back, raw);
        }
    }

    #[test]
    fn a_chunk_that_changed_little_costs_little_and_one_that_changed_wholly_is_no_delta() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        let before = noise(CHUNK_SIZE as usize);
        let mut after = before.clone();
        after[30_000..34_096].fill(7);
        after[40_000..40_512].copy_from_slice(&before[..512]);
        let base = || Some(Base { address: BASE, raw: &before, stored: before.len() });
        let (encoding, out) = encoder.encode(&after, base());
        assert_eq!(encoding, DELTA);
        assert!(out.len() < 1_000, "{}", out.len());
        let mut back = vec![0; after.len()];
        decoder.decode(DELTA, &out, &before, &mut back).unwrap();
        assert_eq!(back, after);
        // With another base it is an error or other bytes.
        after.fill(0);
        assert!(decoder.decode(DELTA, &out, &after, &mut back).is_err() || back != before);
        assert!(decoder.decode(DELTA, &out, &[], &mut back).is_err());
        // Its length may differ from its base's.
        let short = before[..10_001].to_vec(); // a copy: zstd takes no input out of its own prefix
        let (encoding, out) = encoder.encode(&short, base());
        assert_eq!(encoding, DELTA);
        decoder.decode(DELTA, &out, &before, &mut back[..10_001]).unwrap();
        assert_eq!(back[..10_001], before[..10_001]);
        for (raw, expected) in [(b"text ".repeat(10_000), DELTA), (noise(40_000)[10_000..].to_vec(), DELTA)] {
            assert_eq!(encoder.encode(&raw, base()).0, expected);
        }
        let other: Vec<u8> = before.iter().map(|byte| byte ^ 0x55).collect();
        assert_eq!(encoder.encode(&other, base()).0, Encoding::Raw);
        // A short one is compared with its own length too.
        assert_eq!(encoder.encode(&other[..100], base()).0, Encoding::Raw);
        assert_eq!(encoder.encode(&before, Some(Base { address: BASE, raw: &before, stored: 10 })).0, Encoding::Raw);
    }

    #[test]
    fn what_looks_like_a_dictionary_is_no_base() {
        let before = [&DICTIONARY_MAGIC[..], &noise(100_000)].concat();
        let base = Some(Base { address: BASE, raw: &before, stored: before.len() });
        assert_eq!(Encoder::new().unwrap().encode(&before, base).0, Encoding::Raw);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_other_bytes_never_a_panic() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        let (_, mut stored) = encoder.encode(&b"text ".repeat(1_000), None);
        let mut raw = vec![0; 5_000];
        for bit in 0..stored.len() * 8 {
            stored[bit / 8] ^= 1 << (bit % 8);
            let _ = decoder.decode(Encoding::Zstd, &stored, &[], &mut raw);
            stored[bit / 8] ^= 1 << (bit % 8);
        }
        decoder.decode(Encoding::Zstd, &stored, &[], &mut raw).unwrap();
        assert!(decoder.decode(Encoding::Zstd, &stored, &[], &mut raw[..4_999]).is_err());
        assert!(decoder.decode(Encoding::Raw, &stored, &[], &mut raw).is_err());
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
