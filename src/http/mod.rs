//! Bytes <-> requests: what stands between a socket and the code that knows what a request means.
//!
//! [`gate`] owns the listeners and every byte a client sends or receives; it bounds connections, time and
//! memory, and refuses whatever two HTTP parsers could read in two ways. [`head`] and [`body`] are its pure
//! halves: the request head and the chunked coding. [`server`] runs tiny_http on a private socket behind the
//! gate, turns its requests into [`Request`] and gives them to the one [`Handler`].
//!
//! A request handler therefore sees only whole, well-formed HTTP/1.1 requests whose body is already in memory.

mod body;
#[cfg(fuzzing)]
pub mod fuzz;
mod gate;
mod head;
mod server;

pub use gate::{HttpServer, Limits, Listener};

/// Who sent a request, as the kernel tells it and not as the client claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client, by its address (an IPv4 client of an IPv6 listener is shown as IPv4).
    Tcp(std::net::IpAddr),
    /// A client of a Unix socket, by the user id it had when it connected (`SO_PEERCRED`).
    Unix { uid: Option<u32> },
}

impl Peer {
    /// Root of this host, or the daemon's own user, which is as much over cofferd.
    pub fn is_administrator(self) -> bool {
        matches!(self, Peer::Unix { uid: Some(uid) } if uid == 0 || uid == rustix::process::getuid().as_raw())
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix { uid: Some(uid) } => write!(f, "the Unix socket, user id {uid}"),
            Peer::Unix { uid: None } => f.write_str("the Unix socket"),
        }
    }
}

/// One complete request.
#[derive(Debug)]
pub struct Request {
    /// The method as sent, case-sensitive (RFC 9110, section 9.1).
    pub method: String,
    /// The path, still percent-encoded; begins with `/`.
    pub path: String,
    /// The query without its `?`, still percent-encoded; empty if there is none.
    pub query: String,
    /// Header fields in the order sent, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body, with the chunked coding already removed.
    pub body: Vec<u8>,
    /// Who sent it.
    pub peer: Peer,
}

impl Request {
    /// The value of the first header field of this name, which must be given in lower case.
    pub fn header(&self, lowercase_name: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == lowercase_name).map(|(_, value)| value.as_str())
    }

    /// The host (and port) the client used to reach this server; safe to put into links.
    /// `localhost` for an HTTP/1.0 client that named none.
    pub fn host(&self) -> &str {
        self.header("host").unwrap_or("localhost")
    }
}

/// One complete response. The gate adds length, date and connection fields.
#[derive(Debug)]
pub struct Response {
    /// A final status code, 200 to 599.
    pub status: u16,
    /// Header fields; values must be visible ASCII, or the client gets a 500 instead.
    pub headers: Vec<(String, String)>,
    /// The body; not sent to a HEAD request nor with 204 and 304.
    pub body: Vec<u8>,
}

impl Response {
    /// A response with a JSON body.
    pub fn json<T: serde::Serialize + ?Sized>(status: u16, value: &T) -> Response {
        Response {
            status,
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            // Serializing into memory fails only for maps whose keys are no strings; there are none.
            body: serde_json::to_vec(value).unwrap_or_default(),
        }
    }

    /// A response without a body.
    pub fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The same response with one more header field.
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What a request means: the application behind the gate. Called from several threads at once.
/// A panic in it becomes a logged 500 response and ends nothing else.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request) -> Response;

    /// Puts into a body what is wrong with a request for this path, or with what could be none; one that came no further than here.
    fn refuse(&self, path: &str, status: u16, detail: &str) -> Response;
}
