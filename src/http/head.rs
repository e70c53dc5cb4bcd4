//! The head of a request: where it ends, whether it is beyond doubt, and what it says.
//!
//! Everything here is pure. [`Scan`] looks at each byte once, as it arrives, so that a bad byte is refused at
//! once and not after a time-out. [`parse`] then accepts only what every HTTP/1.1 parser reads in the same way
//! (RFC 9112): a proxy in front of the gate can never disagree with it about where a request ends.
//! [`canonical`] writes the request anew from the parsed parts, with one form of framing.

use super::Peer;
use std::fmt::Write as _;
use std::net::Ipv6Addr;

/// The longest request target; RFC 9112 (section 3) recommends at least 8000 bytes for the request line.
const MAX_TARGET: usize = 8 * 1024;
/// Room in the request line for the method, two blanks and the version.
const MAX_REQUEST_LINE: usize = MAX_TARGET + 64;
/// The longest method name; the longest registered one has 16 letters.
const MAX_METHOD: usize = 32;
/// Empty lines a client may send before a request (RFC 9112, section 2.2).
const MAX_EMPTY_LINES: usize = 4;
/// The header field that carries the peer to the server behind the gate. Clients cannot set it.
pub(super) const PEER_HEADER: &str = "x-cofferd-peer";
/// Methods named in the `Allow` field of a 405.
pub(super) const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A request the gate answers itself, with this status and an explanation for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    pub detail: &'static str,
}

fn refuse<T>(status: u16, detail: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, detail })
}

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Exactly this many bytes; 0 if the request has no body.
    Length(usize),
    /// The chunked coding.
    Chunked,
}

/// A parsed head.
#[derive(Debug)]
pub(super) struct Head {
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The validated host of an absolute target or of the Host field.
    pub host: Option<String>,
    /// End-to-end fields, names in lower case; without Host and Content-Length.
    pub headers: Vec<(String, String)>,
    pub framing: Framing,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The connection ends after the response.
    pub close: bool,
}

/// Finds the end of a head in a growing buffer, refusing forbidden bytes and excess as soon as they are there.
#[derive(Default)]
pub(super) struct Scan {
    /// Bytes already looked at.
    seen: usize,
    /// The request line is complete.
    line_complete: bool,
    empty_lines: usize,
}

impl Scan {
    /// Looks at the bytes that are new in `buffer` and returns the length of the head once it is complete.
    /// Empty lines before the request are removed from the buffer.
    pub fn advance(&mut self, buffer: &mut Vec<u8>, max_head_bytes: usize) -> Result<Option<usize>, Refusal> {
        while !self.line_complete && buffer.starts_with(b"\r\n") {
            buffer.drain(..2);
            self.seen = 0;
            self.empty_lines += 1;
            if self.empty_lines > MAX_EMPTY_LINES {
                return refuse(400, "Too many empty lines before the request.");
            }
        }
        while let Some(&byte) = buffer.get(self.seen) {
            let after_cr = self.seen > 0 && buffer[self.seen - 1] == b'\r';
            match byte {
                b'\n' if !after_cr => return refuse(400, "Lines must end with CR LF; this one ends with a bare LF."),
                _ if after_cr && byte != b'\n' => return refuse(400, "A CR must be followed by LF."),
                b'\n' | b'\r' | b'\t' | 0x20..=0x7e => {}
                0x16 if self.seen == 0 => return refuse(400, "This port speaks plain HTTP, not TLS."),
                _ => return refuse(400, "The request head holds a byte that is not allowed; use ASCII, percent-encoded."),
            }
            self.seen += 1;
            if byte == b'\n' {
                self.line_complete = true;
                if self.seen > max_head_bytes {
                    break;
                }
                if buffer[..self.seen].ends_with(b"\r\n\r\n") {
                    return Ok(Some(self.seen));
                }
            }
            if !self.line_complete && self.seen > MAX_REQUEST_LINE {
                return refuse(414, "The request line is too long.");
            }
        }
        if self.seen > max_head_bytes {
            return refuse(431, "The request header fields are too large.");
        }
        Ok(None)
    }
}

/// The target of a request whose head cannot be read, as well as that can be told: it decides on nothing but the form of the refusal.
pub(super) fn target_in(bytes: &[u8]) -> String {
    let line = bytes[..bytes.len().min(MAX_REQUEST_LINE)].split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    line.split(|byte| *byte == b' ').nth(1).map(|target| String::from_utf8_lossy(target).into_owned()).unwrap_or_default()
}

/// Reads a complete head, as found by [`Scan`].
pub(super) fn parse(bytes: &[u8], max_headers: usize, max_body_bytes: usize) -> Result<Head, Refusal> {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap_or(bytes.len());
    let http_1_0 = check_request_line(&bytes[..line_end])?;
    let mut fields = vec![httparse::EMPTY_HEADER; max_headers];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return refuse(431, "Too many request header fields."),
        _ => return refuse(400, "The request head is malformed."),
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return refuse(400, "The request line is malformed.");
    };
    let fields = Fields(parsed.headers);
    let (authority, target) = split_target(method, target)?;
    let host = host(&fields, authority, http_1_0)?;
    for name in ["authorization", "content-type", "x-auth-token"] {
        fields.one(name)?;
    }
    let framing = framing(&fields, http_1_0, max_body_bytes)?;
    let expects_continue = match fields.one("expect")? {
        Some(value) if value.eq_ignore_ascii_case("100-continue") => !http_1_0 && framing != Framing::Length(0),
        Some(_) => return refuse(417, "Only the expectation 100-continue is supported."),
        None => false,
    };
    Ok(Head {
        method: method.to_owned(),
        target,
        host,
        headers: fields.end_to_end(),
        framing,
        expects_continue,
        close: http_1_0 || fields.connection_close(),
    })
}

/// Checks method, blanks and version; tells whether the version is 1.0.
fn check_request_line(line: &[u8]) -> Result<bool, Refusal> {
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return refuse(400, "The request line must be a method, a target and a version, with one blank between them.");
    };
    if method.is_empty() || method.len() > MAX_METHOD || target.is_empty() {
        return refuse(400, "The request line is malformed.");
    }
    if target.len() > MAX_TARGET {
        return refuse(414, "The request target is too long.");
    }
    let http_1_0 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return refuse(505, "Only HTTP/1.1 and HTTP/1.0 are supported.");
        }
        _ => return refuse(400, "The request line does not end with an HTTP version."),
    };
    match method {
        b"TRACE" => refuse(405, "TRACE is not allowed."),
        b"CONNECT" => refuse(501, "CONNECT is not implemented: this is not a proxy."),
        _ => Ok(http_1_0),
    }
}

/// Splits an absolute target (RFC 9112, section 3.2.2) into authority and the rest; others have no authority.
fn split_target<'a>(method: &str, target: &'a str) -> Result<(Option<&'a str>, String), Refusal> {
    if target.contains('#') {
        return refuse(400, "A request target has no fragment.");
    }
    if target.starts_with('/') {
        return Ok((None, target.to_owned()));
    }
    if target == "*" && method == "OPTIONS" {
        return refuse(501, "OPTIONS for the whole server is not implemented; ask for a path.");
    }
    let scheme_end = target.find("://").map(|at| (&target[..at], &target[at + 3..]));
    match scheme_end {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let slash = if path.starts_with('/') { "" } else { "/" };
            Ok((Some(authority), format!("{slash}{path}")))
        }
        _ => refuse(400, "The request target must be a path that begins with a slash."),
    }
}

/// The host the client means: that of an absolute target goes before the Host field (RFC 9112, section 3.2.2).
fn host(fields: &Fields<'_, '_>, authority: Option<&str>, http_1_0: bool) -> Result<Option<String>, Refusal> {
    let field = fields.one("host")?;
    if field.is_none() && !http_1_0 {
        return refuse(400, "An HTTP/1.1 request needs a Host header field.");
    }
    if ![field, authority].into_iter().flatten().all(valid_host) {
        return refuse(400, "The host is not a host name or address with an optional port.");
    }
    Ok(authority.or(field).map(str::to_owned))
}

/// Whether the text is a host name, an IPv4 address or an IPv6 address in brackets, with an optional port.
fn valid_host(text: &str) -> bool {
    let (name, port) = match text.rfind(':') {
        Some(at) if !text.ends_with(']') => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    };
    let port_valid = port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    let name_valid = match name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => {
            let byte_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            !name.is_empty() && name.len() <= 255 && name.bytes().all(byte_valid)
        }
    };
    port_valid && name_valid
}

/// How the body is delimited. Two statements about it, or one that is not plain, are refused (RFC 9112, section 6.3).
fn framing(fields: &Fields<'_, '_>, http_1_0: bool, max_body_bytes: usize) -> Result<Framing, Refusal> {
    match (fields.one("transfer-encoding")?, fields.one("content-length")?) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => refuse(400, "Content-Length and Transfer-Encoding must not be used together."),
        (Some(_), None) if http_1_0 => refuse(400, "HTTP/1.0 has no Transfer-Encoding."),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (Some(_), None) => refuse(501, "The only transfer coding supported is chunked."),
        (None, Some(digits)) => {
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return refuse(400, "Content-Length must be a number.");
            }
            match digits.parse() {
                Ok(length) if length <= max_body_bytes => Ok(Framing::Length(length)),
                _ => refuse(413, "The request body is too large."),
            }
        }
    }
}

/// The header fields of one request.
struct Fields<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'b str> {
        // The scan has let only ASCII through; the replacement character is nowhere a valid value.
        let text = |field: &httparse::Header<'b>| std::str::from_utf8(field.value).unwrap_or("\u{fffd}");
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(text)
    }

    /// The value of a field that may be there once at most.
    fn one(&self, name: &str) -> Result<Option<&'b str>, Refusal> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (first, None) => Ok(first),
            _ => refuse(400, "A header field that may be sent once only was sent twice."),
        }
    }

    fn connection_close(&self) -> bool {
        self.all("connection").flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("close"))
    }

    /// What the application may see: everything but the fields of this connection and of the framing.
    fn end_to_end(&self) -> Vec<(String, String)> {
        const DROPPED: [&str; 12] = [
            "connection",
            "content-length",
            "expect",
            "host",
            "http2-settings",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            PEER_HEADER,
        ];
        let lower =
            self.0.iter().map(|field| (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).into_owned()));
        lower.filter(|(name, _)| !DROPPED.contains(&name.as_str())).collect()
    }
}

/// The head as the server behind the gate reads it: HTTP/1.1, one Content-Length, the peer in its own field.
pub(super) fn canonical(head: &Head, peer: Peer, body_length: usize) -> Vec<u8> {
    let mut text = format!("{} {} HTTP/1.1\r\n", head.method, head.target);
    // Writing to a String cannot fail.
    if let Some(host) = &head.host {
        let _ = write!(text, "host: {host}\r\n");
    }
    for (name, value) in &head.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let _ = match peer {
        Peer::Tcp(address) => write!(text, "{PEER_HEADER}: tcp {address}\r\n"),
        Peer::Unix { uid: Some(uid) } => write!(text, "{PEER_HEADER}: unix {uid}\r\n"),
        Peer::Unix { uid: None } => write!(text, "{PEER_HEADER}: unix\r\n"),
    };
    let _ = write!(text, "content-length: {body_length}\r\n\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const MAX_HEAD: usize = 32 * 1024;

    /// Scans and parses as the gate does, with `step` bytes arriving at a time.
    fn read(input: &[u8], step: usize) -> Result<Option<(Head, Vec<u8>)>, u16> {
        let (mut scan, mut buffer, mut fed) = (Scan::default(), Vec::new(), 0);
        for piece in input.chunks(step) {
            buffer.extend_from_slice(piece);
            fed += piece.len();
            if let Some(length) = scan.advance(&mut buffer, MAX_HEAD).map_err(|refusal| refusal.status)? {
                let head = parse(&buffer[..length], 100, 1000).map_err(|refusal| refusal.status)?;
                return Ok(Some((head, input[fed - (buffer.len() - length)..].to_vec())));
            }
        }
        Ok(None)
    }

    fn head(input: &str) -> Head {
        read(input.as_bytes(), usize::MAX).unwrap().unwrap().0
    }

    /// The status of the refusal, which must not depend on how the bytes arrive; 0 if more is waited for.
    fn status(input: impl AsRef<[u8]>) -> u16 {
        let status_at = |step| match read(input.as_ref(), step) {
            Ok(None) => 0,
            Ok(Some(_)) => 200,
            Err(status) => status,
        };
        let whole = status_at(usize::MAX);
        assert_eq!(status_at(1), whole, "{:?}", String::from_utf8_lossy(input.as_ref()));
        whole
    }

    fn with_fields(fields: &str) -> u16 {
        status(format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
    }

    #[test]
    fn reads_a_plain_request() {
        let text = "POST /a%20b?c=d HTTP/1.1\r\nHost: coffer:8776\r\nAccept:  x \r\nX-Y: \r\nContent-Length: 3\r\n\r\nabcGET";
        let (head, rest) = read(text.as_bytes(), 7).unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.target.as_str()), ("POST", "/a%20b?c=d"));
        assert_eq!(head.host.as_deref(), Some("coffer:8776"));
        assert_eq!(head.headers, vec![("accept".to_owned(), "x".to_owned()), ("x-y".to_owned(), String::new())]);
        assert_eq!((head.framing, head.close, head.expects_continue), (Framing::Length(3), false, false));
        assert_eq!(rest, b"abcGET");
    }

    #[test]
    fn request_line() {
        for (line, expected) in [
            ("GET / HTTP/1.1", 200),
            ("purge /a HTTP/1.1", 200),
            ("\r\n\r\nGET / HTTP/1.1", 200),
            ("GET  / HTTP/1.1", 400),
            ("GET /  HTTP/1.1", 400),
            (" GET / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("GET / HTTP/1.1 x", 400),
            ("GET\t/ HTTP/1.1", 400),
            ("GET /a\tb HTTP/1.1", 400),
            ("GET /", 400),
            ("GET", 400),
            ("G@T / HTTP/1.1", 400),
            ("GET / http/1.1", 400),
            ("GET / HTTP/1.10", 400),
            ("GET / HTTP/1", 400),
            ("GET / XTTP/1.1", 400),
            ("GET / HTTP/0.9", 505),
            ("GET / HTTP/1.2", 505),
            ("GET / HTTP/2.0", 505),
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/3.0", 505),
            ("TRACE / HTTP/1.1", 405),
            ("CONNECT a:1 HTTP/1.1", 501),
            ("OPTIONS * HTTP/1.1", 501),
            ("GET * HTTP/1.1", 400),
            ("GET a HTTP/1.1", 400),
            ("GET a:80 HTTP/1.1", 400),
            ("GET ftp://a/ HTTP/1.1", 400),
            ("GET http:// HTTP/1.1", 400),
            ("GET http:///a HTTP/1.1", 400),
            ("GET http://u:p@a/ HTTP/1.1", 400),
            ("GET /a#b HTTP/1.1", 400),
            ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1", 400),
        ] {
            assert_eq!(status(format!("{line}\r\nHost: a\r\n\r\n")), expected, "{line:?}");
        }
    }

    #[test]
    fn forbidden_bytes_are_refused_at_once() {
        for bad in [0u8, 1, 8, 0x0b, 0x0c, 0x1b, 0x7f, 0x80, 0xc3, 0xff] {
            for place in ["GE{}T / HTTP/1.1", "GET /{}", "GET / HTTP/1.1\r\nX{}: a", "GET / HTTP/1.1\r\nX: a{}b"] {
                let (before, after) = place.split_once("{}").unwrap();
                // The head is not complete: nothing is waited for.
                let input = [before.as_bytes(), &[bad], after.as_bytes()].concat();
                assert_eq!(status(input), 400, "{bad:#x} in {place}");
            }
        }
        for input in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nHost: a\n", "GET / HTTP/1.1\rHost", "\n", "\r\r", "\x16\x03\x01"] {
            assert_eq!(status(input), 400, "{input:?}");
        }
    }

    #[test]
    fn sizes() {
        let target = |length: usize| status(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length - 1)));
        assert_eq!((target(MAX_TARGET), target(MAX_TARGET + 1), target(MAX_TARGET * 2)), (200, 414, 414));
        assert_eq!(status("A".repeat(MAX_REQUEST_LINE + 1)), 414);
        let field = |length: usize| with_fields(&format!("X: {}", "a".repeat(length)));
        assert_eq!((field(30_000), field(MAX_HEAD)), (200, 431));
        assert_eq!(status(format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD))), 431);
        let many = |count: usize| with_fields(&["X: a"; 200][..count - 1].join("\r\n"));
        assert_eq!((many(100), many(101)), (200, 431));
    }

    #[test]
    fn host() {
        for valid in ["a", "a.example", "127.0.0.1:1", "[::1]", "[::1]:65535", "a_b-c"] {
            assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: {valid}\r\n\r\n")), 200, "{valid}");
        }
        for wrong in ["", "a b", "a:", "a:b", "a:65536", "a:1:2", "a/b", "u@a", "[::g]", "[::1", "::1", "<a>", "a,b", "a%41"] {
            assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: {wrong}\r\n\r\n")), 400, "{wrong}");
            assert_eq!(status(format!("GET / HTTP/1.0\r\nHost: {wrong}\r\n\r\n")), 400, "{wrong}");
        }
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), 400);
        let old = head("GET / HTTP/1.0\r\n\r\n");
        assert_eq!((old.host, old.close), (None, true));
    }

    #[test]
    fn an_absolute_target_overrules_the_host_field() {
        let head = head("GET HTTP://b:1?x=/ HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.host.as_deref(), head.target.as_str()), (Some("b:1"), "/?x=/"));
    }

    #[test]
    fn framing_that_can_be_read_in_two_ways_is_refused() {
        for (fields, expected) in [
            ("Content-Length: 0", 200),
            ("Content-Length: 0000000000000000000000005", 200),
            ("Content-Length: 1000", 200),
            ("Content-Length: 1001", 413),
            ("Content-Length: 40000000000", 413),
            ("Content-Length: 18446744073709551616", 413),
            ("Content-Length: 99999999999999999999999999", 413),
            ("Content-Length: +5", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: 5 5", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: 0x5", 400),
            ("Content-Length: abc", 400),
            ("Content-Length: 5;", 400),
            ("Content-Length:", 400),
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\ncontent-length: 6", 400),
            ("Transfer-Encoding: chunked", 200),
            ("Transfer-Encoding: CHUNKED", 200),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: identity", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: identity", 501),
            ("Transfer-Encoding: xchunked", 501),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding: chunked, chunked", 501),
            ("Transfer-Encoding: \"chunked\"", 501),
            ("Transfer-Encoding:", 501),
            ("Transfer-Encoding : chunked", 400),
            ("Content-Length : 5", 400),
            ("X: a\r\n Transfer-Encoding: chunked", 400),
            ("X: a\r\n\tb", 400),
            (" X: a", 400),
            ("X", 400),
            (": a", 400),
            ("Expect: 100-Continue", 200),
            ("Expect: 200-ok", 417),
            ("Expect: 100-continue\r\nExpect: 100-continue", 400),
            ("Authorization: Token a\r\nAuthorization: Token b", 400),
            ("X-Auth-Token: a\r\nX-Auth-Token: b", 400),
        ] {
            assert_eq!(with_fields(fields), expected, "{fields:?}");
        }
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn expect_and_close() {
        let head_with = |fields: &str| head(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        assert!(head_with("Expect: 100-continue\r\nContent-Length: 5").expects_continue);
        assert!(head_with("Expect: 100-continue\r\nTransfer-Encoding: chunked").expects_continue);
        assert!(!head_with("Expect: 100-continue").expects_continue);
        assert!(head_with("Connection: x, Close").close);
        assert!(head_with("Connection: x\r\nConnection: close").close);
        assert!(!head_with("Connection: closed").close);
    }

    #[test]
    fn the_canonical_request_has_one_framing_and_the_true_peer() {
        let head = head(concat!(
            "POST /a?b HTTP/1.1\r\nHost: a\r\nX-Cofferd-Peer: unix 0\r\nX: y\r\nTE: trailers\r\n",
            "Connection: keep-alive, upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\nTrailer: z\r\n\r\n"
        ));
        let text = |peer| String::from_utf8(canonical(&head, peer, 4)).unwrap();
        let expected = "POST /a?b HTTP/1.1\r\nhost: a\r\nx: y\r\nx-cofferd-peer: tcp 10.0.0.1\r\ncontent-length: 4\r\n\r\n";
        assert_eq!(text(Peer::Tcp(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))), expected);
        assert!(text(Peer::Unix { uid: Some(7) }).contains("\r\nx-cofferd-peer: unix 7\r\n"));
    }

    /// Mutations of requests: how the bytes arrive does not matter, nothing panics, and what is accepted is read in
    /// the same way again from its canonical form.
    #[test]
    fn mutated_requests() {
        const SEEDS: [&str; 3] = [
            "GET /a?b=c HTTP/1.1\r\nHost: a:1\r\nX: y\r\nConnection: close\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n",
            "PUT http://a/b HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nAuthorization: Token a\r\n\r\n",
        ];
        const PIECES: [&[u8]; 16] = [
            b"\r",
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b":",
            b"\0",
            b"\x80",
            b"0",
            b",",
            b"1.0",
            b"chunked",
            b"Content-Length: 3\r\n",
            b"//",
            b"%",
            b"Host",
        ];
        let mut random = 1u64;
        let mut below = |limit: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % limit
        };
        let mut accepted = 0;
        for _ in 0..30_000 {
            let mut bytes = SEEDS[below(SEEDS.len())].as_bytes().to_vec();
            for _ in 0..1 + below(3) {
                let at = below(bytes.len());
                let end = (at + below(6)).min(bytes.len());
                bytes.splice(at..end, PIECES[below(PIECES.len())].iter().copied());
            }
            if status(&bytes) != 200 {
                continue;
            }
            accepted += 1;
            let (head, _) = read(&bytes, usize::MAX).unwrap().unwrap();
            let again = canonical(&head, Peer::Unix { uid: None }, 0);
            let expected = (&head.method, &head.target, &head.headers, Framing::Length(0), false);
            match read(&again, usize::MAX) {
                Ok(Some((second, rest))) => {
                    let got = (&second.method, &second.target, &second.headers, second.framing, second.close);
                    assert_eq!((got, &second.host, rest.len()), (expected, &head.host, 0));
                }
                // Only an HTTP/1.0 request may lack a host, and then its canonical form lacks it too.
                other => assert!(head.host.is_none() && head.close && matches!(other, Err(400))),
            }
        }
        assert!(accepted > 1000, "{accepted}");
    }
}
