//! Fuzz targets: heads and bodies of requests.

use super::Peer;
use super::body::Chunked;
use super::head::{Framing, Head, Refusal, Scan, canonical, parse};
use crate::fuzz::Input;

const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
const MAX_BODY: usize = 1 << 20;

/// Scans and parses as the gate does, with so many bytes arriving at a time. The head and how many bytes it took, or None: it has no end.
fn read(bytes: &[u8], step: usize) -> Result<Option<(Head, usize)>, Refusal> {
    let (mut scan, mut buffer, mut fed) = (Scan::default(), Vec::new(), 0);
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        fed += piece.len();
        if let Some(length) = scan.advance(&mut buffer, MAX_HEAD)? {
            let head = parse(&buffer[..length], MAX_HEADERS, MAX_BODY)?;
            return Ok(Some((head, fed - (buffer.len() - length))));
        }
    }
    Ok(None)
}

/// A head says the same however it arrives, and what the server behind the gate is given has one meaning, which is that.
pub fn head(data: &[u8]) {
    let mut input = Input(data);
    let step = 1 + input.below(64) as usize;
    let whole = read(input.0, usize::MAX);
    let slow = read(input.0, step);
    assert_eq!(format!("{whole:?}"), format!("{slow:?}"), "steps of {step}");
    let Ok(Some((head, used))) = whole else { return };
    let body_length = match head.framing {
        Framing::Length(length) => length,
        Framing::Chunked => 7,
    };
    // Another parser reads the same line and ends in the same place.
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut other = httparse::Request::new(&mut fields);
    assert_eq!(other.parse(&input.0[..used]), Ok(httparse::Status::Complete(used)));
    assert_eq!(other.method, Some(&*head.method));
    assert!(other.path.is_some_and(|path| path == head.target || path.ends_with(head.target.trim_start_matches('/'))));

    let peer = Peer::Unix { uid: Some(7) };
    let written = canonical(&head, peer, body_length);
    let (again, length) = match read(&written, usize::MAX) {
        Ok(Some(again)) => again,
        // An absolute target and many fields may leave no room for what the gate adds; HTTP/1.0 may name no host.
        Err(refusal) => return assert!(matches!(refusal.status, 414 | 431) || head.host.is_none(), "{refusal:?}"),
        Ok(None) => panic!("the canonical head has no end"),
    };
    assert_eq!(length, written.len());
    assert_eq!((&again.method, &again.target, &again.host), (&head.method, &head.target, &head.host));
    assert_eq!((again.framing, again.close, again.expects_continue), (Framing::Length(body_length), false, false));
    assert_eq!(again.headers, head.headers, "a field of the gate's own came through");
}

/// A chunked body is the same however it arrives, and the same to another decoder.
pub fn chunked(data: &[u8]) {
    let mut input = Input(data);
    let step = 1 + input.below(32) as usize;
    let limit = input.number(3) as usize;
    let decode = |step: usize| {
        let (mut chunked, mut out, mut used) = (Chunked::new(limit), Vec::new(), 0);
        for piece in input.0.chunks(step) {
            used += chunked.feed(piece, &mut out)?;
            if chunked.done() {
                break;
            }
        }
        Ok::<_, Refusal>((out, used, chunked.done()))
    };
    let whole = decode(usize::MAX);
    assert_eq!(whole, decode(step), "steps of {step}");
    let Ok((out, used, done)) = whole else { return };
    assert!(out.len() <= limit && used <= input.0.len());
    let (mut rest, mut expected) = (&input.0[..used], Vec::new());
    while let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(rest) {
        let end = (at + size as usize).min(rest.len());
        expected.extend_from_slice(&rest[at..end]);
        if size == 0 {
            break;
        }
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    assert!(!done || out == expected, "{} bytes, another decoder finds {}", out.len(), expected.len());
}
