//! The chunked transfer coding (RFC 9112, section 7.1), decoded strictly and within limits.
//!
//! Pure: the decoder is fed whatever bytes have arrived and says how many it used. Extensions and trailers are
//! checked for forbidden bytes and dropped.

use super::head::Refusal;

/// The longest line with a chunk size and its extensions, or with one trailer field.
const MAX_LINE: usize = 4 * 1024;

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
        if after_cr || !matches!(byte, b'\r' | b'\t' | 0x20..=0x7e) || self.line.len() >= MAX_LINE {
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
    let rest = line[digits..].trim_ascii_start();
    if digits == 0 || !(rest.is_empty() && line.len() == digits || rest.starts_with(b";")) {
        return Err(malformed());
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| malformed())?;
    usize::from_str_radix(text, 16).map_err(|_| Refusal { status: 413, detail: "The request body is too large." })
}

/// Whether a trailer line is a field: a name without blanks, then a colon.
fn is_field(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    name.len() < line.len() && !name.is_empty() && !name.iter().any(u8::is_ascii_whitespace)
}
