//! Message bodies: the memory they lie in, and the chunked transfer coding (RFC 9112, section 7.1), decoded strictly
//! and within limits.
//!
//! Pure: the decoder is fed whatever bytes have arrived and says how many it used. Extensions and trailers are
//! checked for forbidden bytes and dropped.

use super::head::Refusal;

/// The longest line with a chunk size and its extensions, or with one trailer field.
const MAX_LINE: usize = 4 * 1024;

/// Digits of a chunk size: as many as the largest number of 64 bits has.
const MAX_DIGITS: usize = 16;

/// A body longer than this lies in a mapping of its own.
pub(super) const LARGE: usize = 128 * 1024;
/// glibc maps an allocation of this size by itself, whatever its adaptive threshold is by now (mallopt(3), M_MMAP_THRESHOLD).
const ALWAYS_MAPPED: usize = 33 * 1024 * 1024;

/// An empty buffer for this many bytes. The pages of a large one go back to the system as soon as it is dropped; in the
/// heaps of some hundred short-lived threads they would stay. Untouched pages cost nothing.
pub(super) fn buffer(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if length <= LARGE || bytes.try_reserve_exact(length.max(ALWAYS_MAPPED)).is_err() {
        bytes.reserve_exact(length);
    }
    bytes
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a line that begins with a chunk size.
    Size,
    /// In the data of a chunk, with this many bytes to come.
    Data(usize),
    /// In the CR LF after the data of a chunk.
    DataEnd,
    /// In the lines after the last chunk.
    Trailer,
    Done,
}

/// Decodes one chunked body.
pub(super) struct Chunked {
    state: State,
    /// The line read so far, without its LF.
    line: Vec<u8>,
    /// Bytes of data that may still come.
    room: usize,
    /// Bytes of framing (sizes, extensions, line ends, trailers) that may still come.
    overhead: usize,
}

impl Chunked {
    /// A decoder for a body of at most this many bytes. The framing may take as many bytes again, and a few more.
    pub fn new(max_body_bytes: usize) -> Chunked {
        Chunked { state: State::Size, line: Vec::new(), room: max_body_bytes, overhead: max_body_bytes + 4 * MAX_LINE }
    }

    /// Whether the whole body has been read.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes bytes of `input` into `out` and returns how many were used: all of them, unless the body ended.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        let mut used = 0;
        while used < input.len() && !self.done() {
            if let State::Data(left) = self.state {
                let take = left.min(input.len() - used);
                out.extend_from_slice(&input[used..used + take]);
                used += take;
                self.state = if take == left { State::DataEnd } else { State::Data(left - take) };
            } else {
                self.framing_byte(input[used])?;
                used += 1;
            }
        }
        Ok(used)
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), Refusal> {
        let Some(overhead) = self.overhead.checked_sub(1) else {
            return Err(Refusal { status: 413, detail: "The request body has more framing than data." });
        };
        self.overhead = overhead;
        if byte == b'\n' {
            return match self.line.pop() {
                Some(b'\r') => self.line_end(),
                _ => Err(malformed()),
            };
        }
        let after_cr = self.line.last() == Some(&b'\r');
        let allowed = match self.state {
            State::DataEnd => byte == b'\r',
            _ => matches!(byte, b'\r' | b'\t' | 0x20..=0x7e),
        };
        if after_cr || !allowed || self.line.len() >= MAX_LINE {
            return Err(malformed());
        }
        self.line.push(byte);
        Ok(())
    }

    fn line_end(&mut self) -> Result<(), Refusal> {
        let line = std::mem::take(&mut self.line);
        self.state = match self.state {
            State::Size => match chunk_size(&line)? {
                0 => State::Trailer,
                size => {
                    let Some(room) = self.room.checked_sub(size) else {
                        return Err(Refusal { status: 413, detail: "The request body is too large." });
                    };
                    self.room = room;
                    State::Data(size)
                }
            },
            State::DataEnd if line.is_empty() => State::Size,
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer if is_field(&line) => State::Trailer,
            _ => return Err(malformed()),
        };
        Ok(())
    }
}

fn malformed() -> Refusal {
    Refusal { status: 400, detail: "The chunked request body is malformed." }
}

/// The size at the start of a chunk line: hexadecimal digits only, then nothing or an extension.
fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = line[digits..].trim_ascii_start().starts_with(b";");
    if digits == 0 || (line.len() > digits && !extension) {
        return Err(malformed());
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| malformed())?;
    let size = usize::from_str_radix(text, 16).map_err(|_| Refusal { status: 413, detail: "The request body is too large." })?;
    // Zeros in front do not change the number, but there are parsers that count digits.
    if digits > MAX_DIGITS { Err(malformed()) } else { Ok(size) }
}

/// Whether a trailer line is a field: a name without blanks, then a colon.
fn is_field(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    name.len() < line.len() && !name.is_empty() && !name.iter().any(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `step` bytes at a time; the body and what follows it, or the status of the refusal; 0 if it has no end.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize), u16> {
        let (mut decoder, mut out, mut used) = (Chunked::new(100), Vec::new(), 0);
        for piece in input.chunks(step) {
            let taken = decoder.feed(piece, &mut out).map_err(|refusal| refusal.status)?;
            used += taken;
            if decoder.done() {
                return Ok((out, used));
            }
            assert_eq!(taken, piece.len(), "a body that is not done uses all its input");
        }
        Err(0)
    }

    fn outcome(input: impl AsRef<[u8]>) -> Result<(Vec<u8>, usize), u16> {
        let whole = decode(input.as_ref(), usize::MAX);
        for step in [1, 2, 3] {
            assert_eq!(decode(input.as_ref(), step), whole, "the pieces must not matter");
        }
        whole
    }

    #[test]
    fn buffers_have_room() {
        for length in [0, 1, LARGE, LARGE + 1, ALWAYS_MAPPED + 1] {
            assert!(buffer(length).capacity() >= length);
        }
    }

    #[test]
    fn decodes() {
        for (input, body) in [
            ("0\r\n\r\n", ""),
            ("3\r\nabc\r\n0\r\n\r\n", "abc"),
            ("1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", "\r\n"),
            ("00A;x=y\r\n0123456789\r\na ;q=\"z\"\r\n0123456789\r\n000\r\n\r\n", "01234567890123456789"),
            ("1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n", "a"),
        ] {
            assert_eq!(outcome(input), Ok((body.as_bytes().to_vec(), input.len())), "{input:?}");
            assert_eq!(outcome(format!("{input}GET /")), Ok((body.as_bytes().to_vec(), input.len())), "{input:?}");
            assert_eq!(outcome(&input[..input.len() - 1]), Err(0), "{input:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_plain() {
        for input in [
            "\r\n",
            "+5\r\n",
            "-1\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\n",
            "5 5\r\n",
            "g\r\n",
            ";a\r\n",
            "3\nabc",
            "3\r\nabcd",
            "3\r\nabc\n",
            "3\r\nabc\r\r\n",
            "3\rx",
            "5;\0\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\n: a\r\n\r\n",
            "0\r\nX : a\r\n\r\n",
            "0\r\n a: b\r\n\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(outcome(input), Err(400), "{input:?}");
        }
        assert_eq!(outcome(b"1;\xff\r\n"), Err(400));
    }

    #[test]
    fn limits() {
        let body = |length: usize| outcome(format!("{length:x}\r\n{}\r\n0\r\n\r\n", "a".repeat(length)));
        assert_eq!(body(100).map(|(body, _)| body.len()), Ok(100));
        assert_eq!(body(101), Err(413));
        assert_eq!(outcome("5\r\nabcde\r\n60\r\n"), Err(413), "the sum counts");
        assert_eq!(outcome("fffffffffffffffff\r\n"), Err(413));
        assert_eq!(outcome(format!("{:016x}\r\nabcde\r\n0\r\n\r\n", 5)).map(|(body, _)| body), Ok(b"abcde".to_vec()));
        assert_eq!(outcome(format!("{:017x}\r\nabcde\r\n0\r\n\r\n", 5)), Err(400), "some parsers read no more than 16 digits");
        assert_eq!(outcome("ffffffffffffffff\r\n"), Err(413));
        assert_eq!(outcome("0".repeat(MAX_LINE + 10)), Err(400));
        assert_eq!(outcome(format!("1;{}", "x".repeat(MAX_LINE))), Err(400));
        let trailers = format!("X: {}\r\n", "y".repeat(1000)).repeat(20);
        assert_eq!(outcome(format!("0\r\n{trailers}")), Err(413));
    }
}
