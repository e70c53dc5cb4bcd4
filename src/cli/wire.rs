//! One HTTP/1.1 request over a connected stream: as much of a client as the commands need to talk to their own daemon.

use std::io::{self, Read, Write};

use serde_json::Value;

/// The most a reply may have; the daemon's pages are far smaller.
const MAX_REPLY: u64 = 256 << 20;
/// A refusal by the gate has a handful of fields, the API's replies about ten.
const MAX_HEADERS: usize = 64;

/// A reply whose body is JSON, or empty.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Reply {
    pub fn header(&self, lowercase_name: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == lowercase_name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request and reads the reply to its end. `host` is what the daemon's links will name.
pub fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    token: Option<&str>,
    method: &str,
    target: &str,
    body: Option<&Value>,
) -> io::Result<Reply> {
    let body = body.map(Value::to_string);
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: application/json\r\n");
    if let Some(token) = token {
        request += &format!("Authorization: Token {token}\r\n");
    }
    if let Some(body) = &body {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    } else {
        request += "Content-Length: 0\r\n\r\n";
    }
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.take(MAX_REPLY).read_to_end(&mut reply)?;
    parse(&reply)
}

fn parse(bytes: &[u8]) -> io::Result<Reply> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(bytes).map_err(|e| broken(&e.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Err(broken("it ended within its head")),
    };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
        .collect();
    let mut reply = Reply { status: head.code.unwrap_or(0), headers, body: Value::Null };
    let body = whole_body(&reply, &bytes[length..])?;
    if !body.is_empty() {
        reply.body = serde_json::from_slice(body).map_err(|e| broken(&format!("status {}, no JSON: {e}", reply.status)))?;
    }
    Ok(reply)
}

/// A body that is cut short must not pass for a whole one.
fn whole_body<'a>(reply: &Reply, rest: &'a [u8]) -> io::Result<&'a [u8]> {
    match reply.header("content-length").map(str::parse) {
        Some(Ok(length)) => rest.get(..length).ok_or_else(|| broken("it was cut off")),
        Some(Err(_)) => Err(broken("it has no valid length")),
        None if rest.is_empty() => Ok(rest),
        None => Err(broken("it has no length")),
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the daemon's reply cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_replies_are_read() {
        let reply = parse(b"HTTP/1.1 201 Created\r\nX-Result-Count: 7\r\nContent-Length: 7\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!((reply.status, reply.header("x-result-count")), (201, Some("7")));
        assert_eq!(reply.body["a"], 1);
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().body, Value::Null);
    }

    #[test]
    fn broken_replies_are_errors() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\":1}"[..],
            b"HTTP/1.1 200 OK\r\n\r\n{\"a\":1}",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n<p>",
            b"HTTP/1.1 200 OK\r\nConte",
            b"",
            b"\x00\x01",
        ] {
            assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
