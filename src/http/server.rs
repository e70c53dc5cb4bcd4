//! tiny_http behind the gate: it parses canonical requests from a private socket and hands them to the workers,
//! which call the [`Handler`].
//!
//! The gate keeps one open connection a worker, so no request ever waits inside tiny_http. Each new connection
//! is proved by a round trip before the next one is opened: tiny_http 0.12 counts one of its threads as free until it
//! wakes, and would queue a second connection behind the first for ever.
//!
//! The private socket has no name. It is bound in a directory of mode 0700 that is gone again before the first
//! request, and is reached through a descriptor of this process only. Nothing is left behind by a crash.

use super::body::buffer;
use super::head::{PEER_HEADER, Refusal};
use super::{Handler, Peer, Request, Response};
use log::{debug, error, warn};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, DirBuilder};
use std::io::{self, Cursor, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a request may wait for a free worker before it is answered 503.
const WORKER_WAIT: Duration = Duration::from_secs(30);
/// How long the proof of a new connection may take.
const PROOF_WAIT: Duration = Duration::from_secs(2);
/// The largest response head tiny_http is expected to send.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;
/// The most fields in a response head.
const MAX_RESPONSE_FIELDS: usize = 64;
/// The request that proves a connection. The peer it names cannot come from a client.
const PROOF: &[u8] = b"GET / HTTP/1.1\r\nx-cofferd-peer: proof\r\ncontent-length: 0\r\n\r\n";
/// Fields that belong to the gate or to tiny_http; the handler's are ignored.
const NOT_FROM_HANDLER: [&str; 7] = ["connection", "content-length", "date", "server", "trailer", "transfer-encoding", "upgrade"];

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The workers and the connections to them.
pub(super) struct Backend {
    handler: Arc<dyn Handler>,
    workers: usize,
    engine: Mutex<Engine>,
    pool: Mutex<Pool>,
    returned: Condvar,
}

struct Pool {
    free: Vec<UnixStream>,
    /// Connections that exist, free or in use.
    open: usize,
}

impl Backend {
    /// Starts tiny_http, the workers, and one proved connection to each.
    ///
    /// # Errors
    /// No directory is writable for the private socket, or no thread or descriptor is left.
    pub fn start(workers: usize, handler: Arc<dyn Handler>) -> io::Result<Backend> {
        let workers = workers.max(1);
        let engine = Engine::start(workers, &handler)?;
        let free = (0..workers).map(|_| engine.connect()).collect::<io::Result<Vec<_>>>()?;
        Ok(Backend {
            handler,
            workers,
            engine: Mutex::new(engine),
            pool: Mutex::new(Pool { free, open: workers }),
            returned: Condvar::new(),
        })
    }

    /// The handler's words for a request that it does not get.
    pub fn refuse(&self, path: &str, refusal: Refusal) -> Response {
        self.handler.refuse(path, refusal.status, refusal.detail)
    }

    /// Sends one canonical request, in two parts, and returns the whole response as the client gets it,
    /// with `Connection: close` if `close` is set.
    pub fn exchange(&self, request: [&[u8]; 2], head_only: bool, close: bool) -> Result<Vec<u8>, Refusal> {
        let mut connection = self.take()?;
        match round_trip(&mut connection, request, head_only, close) {
            Ok(answer) => {
                lock(&self.pool).free.push(connection);
                self.returned.notify_one();
                Ok(answer)
            }
            Err(error) => {
                error!("the connection to a worker broke and is replaced: {error}");
                self.forget_one();
                Err(Refusal { status: 500, detail: "The server could not process this request." })
            }
        }
    }

    /// Stops the workers. One that does not finish before the deadline is left to the end of the process.
    pub fn stop(&self, deadline: Instant) {
        lock(&self.engine).stop(deadline);
        lock(&self.pool).free.clear();
    }

    fn take(&self) -> Result<UnixStream, Refusal> {
        let deadline = Instant::now() + WORKER_WAIT;
        let mut pool = lock(&self.pool);
        loop {
            if let Some(connection) = pool.free.pop() {
                return Ok(connection);
            }
            if pool.open < self.workers {
                pool.open += 1;
                drop(pool);
                return self.open().map_err(|error| {
                    error!("cannot reach the workers: {error}");
                    self.forget_one();
                    busy()
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(busy());
            }
            pool = self.returned.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn forget_one(&self) {
        lock(&self.pool).open -= 1;
        self.returned.notify_one();
    }

    /// Opens a connection; if tiny_http does not answer, starts it anew first.
    fn open(&self) -> io::Result<UnixStream> {
        let mut engine = lock(&self.engine);
        engine.connect().or_else(|error| {
            warn!("tiny_http does not accept connections and is started anew: {error}");
            let fresh = Engine::start(self.workers, &self.handler)?;
            std::mem::replace(&mut *engine, fresh).stop(Instant::now());
            engine.connect()
        })
    }
}

fn busy() -> Refusal {
    Refusal { status: 503, detail: "The server is too busy; try again later." }
}

/// One tiny_http server, its private socket and its workers.
struct Engine {
    /// Refers to the socket's file, which has no name any more.
    socket_file: OwnedFd,
    server: Option<Arc<tiny_http::Server>>,
    closing: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Engine {
    fn start(workers: usize, handler: &Arc<dyn Handler>) -> io::Result<Engine> {
        let (listener, socket_file) = private_listener()?;
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let mut engine = Engine {
            socket_file,
            server: Some(Arc::new(server)),
            closing: Arc::new(AtomicBool::new(false)),
            workers: Vec::new(),
        };
        for _ in 0..workers {
            if let Err(error) = engine.spawn_worker(handler) {
                engine.stop(Instant::now());
                return Err(error);
            }
        }
        Ok(engine)
    }

    fn spawn_worker(&mut self, handler: &Arc<dyn Handler>) -> io::Result<()> {
        let Some(server) = self.server.clone() else { return Ok(()) };
        let (closing, handler) = (self.closing.clone(), handler.clone());
        let worker = thread::Builder::new().name("http-worker".to_owned());
        self.workers.push(worker.spawn(move || work(&server, &closing, &*handler))?);
        Ok(())
    }

    /// A connection that a thread of tiny_http is known to serve.
    fn connect(&self) -> io::Result<UnixStream> {
        let mut connection = self.connect_unproved()?;
        connection.set_read_timeout(Some(PROOF_WAIT))?;
        round_trip(&mut connection, [PROOF, b""], false, false)?;
        connection.set_read_timeout(None)?;
        Ok(connection)
    }

    fn connect_unproved(&self) -> io::Result<UnixStream> {
        UnixStream::connect(format!("/proc/self/fd/{}", self.socket_file.as_raw_fd()))
            .map_err(|error| io::Error::new(error.kind(), format!("the private socket is not reachable through /proc: {error}")))
    }

    fn stop(&mut self, deadline: Instant) {
        let Some(server) = self.server.take() else { return };
        self.closing.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(|_| server.unblock());
        for worker in self.workers.drain(..) {
            while !worker.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            if worker.is_finished() {
                let _ = worker.join();
            }
        }
        drop(server);
        // Dropping the server asks its accept thread to end; it looks at that after one more connection.
        let _ = self.connect_unproved();
    }
}

/// A listening Unix socket without a name, and a descriptor of its file to connect through.
fn private_listener() -> io::Result<(UnixListener, OwnedFd)> {
    let runtime = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().filter_map(std::env::var_os);
    let bases = runtime.map(PathBuf::from).filter(|path| path.is_absolute()).chain([std::env::temp_dir()]);
    let mut last_error = io::Error::from(io::ErrorKind::NotFound);
    for base in bases {
        let directory = base.join(format!(".cofferd-{}", uuid::Uuid::new_v4().simple()));
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => {
                // Through a descriptor, because the name of a socket may have 107 bytes only (unix(7)).
                let listener = fs::File::open(&directory)
                    .and_then(|opened| bind_and_unlink(Path::new(&format!("/proc/self/fd/{}/s", opened.as_raw_fd()))));
                fs::remove_dir(&directory)?;
                return listener;
            }
            Err(error) => last_error = error,
        }
    }
    let advice = "cannot make a private socket; set TMPDIR to a directory the daemon may write to";
    Err(io::Error::new(last_error.kind(), format!("{advice}: {last_error}")))
}

fn bind_and_unlink(path: &Path) -> io::Result<(UnixListener, OwnedFd)> {
    let listener = UnixListener::bind(path)?;
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    fs::remove_file(path)?;
    Ok((listener, file?))
}

/// Sends a request and reads the whole response; returns it in the form for the client.
fn round_trip(connection: &mut UnixStream, request: [&[u8]; 2], head_only: bool, close: bool) -> io::Result<Vec<u8>> {
    for part in request {
        connection.write_all(part)?;
    }
    let mut raw = Vec::with_capacity(2048);
    let head_end = loop {
        if let Some(at) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if raw.len() > MAX_RESPONSE_HEAD {
            return Err(io::Error::other("the response head has no end"));
        }
        read_some(connection, &mut raw, 4096)?;
    };
    let (head, body_length) = rewrite_head(&raw[..head_end], head_only, close)?;
    let mut answer = buffer(head.len() + body_length);
    answer.extend_from_slice(&head);
    answer.extend_from_slice(&raw[head_end..]);
    let arrived = raw.len() - head_end;
    if arrived > body_length {
        return Err(io::Error::other("the response is longer than it says"));
    }
    let rest = (body_length - arrived) as u64;
    if Read::by_ref(connection).take(rest).read_to_end(&mut answer)? as u64 != rest {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

fn read_some(connection: &mut UnixStream, buffer: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let length = buffer.len();
    buffer.resize(length + most, 0);
    let got = loop {
        match connection.read(&mut buffer[length..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result,
        }
    };
    buffer.truncate(length + *got.as_ref().unwrap_or(&0));
    if got? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// The response head for the client, and how many bytes of body follow it.
fn rewrite_head(head: &[u8], head_only: bool, close: bool) -> io::Result<(Vec<u8>, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_RESPONSE_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    parsed.parse(head).map_err(io::Error::other)?;
    let status = parsed.code.unwrap_or_default();
    let mut out = Vec::with_capacity(head.len() + 64);
    write!(out, "HTTP/1.1 {status} {}\r\n", parsed.reason.unwrap_or_default())?;
    let mut length = 0;
    for field in parsed.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            length =
                std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
            if matches!(status, 204 | 304) {
                continue; // RFC 9110, section 8.6
            }
        }
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
    let no_body = head_only || matches!(status, 204 | 304);
    Ok((out, if no_body { 0 } else { length }))
}

/// The life of a worker thread.
fn work(server: &tiny_http::Server, closing: &AtomicBool, handler: &dyn Handler) {
    loop {
        match server.recv() {
            Ok(request) => {
                if catch_unwind(AssertUnwindSafe(|| serve(request, handler))).is_err() {
                    error!("answering a request failed unexpectedly; the worker goes on");
                }
            }
            Err(_) if closing.load(Ordering::SeqCst) => return,
            Err(error) => warn!("tiny_http reports: {error}"),
        }
    }
}

fn serve(mut incoming: tiny_http::Request, handler: &dyn Handler) {
    let path = incoming.url().to_owned();
    let response = match read_request(&mut incoming) {
        Ok(Some(request)) => call(request, handler),
        Ok(None) => Response::empty(204),
        Err(error) => {
            error!("a request could not be read from the gate: {error}");
            internal_error(handler, &path)
        }
    };
    let response = to_tiny_http(response).or_else(|problem| {
        error!("a response was replaced by a 500: {problem}");
        to_tiny_http(internal_error(handler, &path))
    });
    match response.map(|response| incoming.respond(response)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a response was not delivered to the gate: {error}"),
        Err(problem) => error!("a response was not sent: {problem}"),
    }
}

/// The request in our form; `None` for the proof of a new connection.
fn read_request(incoming: &mut tiny_http::Request) -> io::Result<Option<Request>> {
    let length = incoming.body_length().unwrap_or_default();
    let mut body = buffer(length);
    incoming.as_reader().take(length as u64).read_to_end(&mut body)?;
    if body.len() != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut peer = None;
    let mut headers = Vec::with_capacity(incoming.headers().len());
    for field in incoming.headers() {
        let (name, value) = (field.field.as_str().as_str(), field.value.as_str());
        match name {
            PEER_HEADER if value == "proof" => return Ok(None),
            PEER_HEADER => peer = parse_peer(value),
            _ => headers.push((name.to_ascii_lowercase(), value.to_owned())),
        }
    }
    let peer = peer.ok_or(io::ErrorKind::InvalidData)?;
    let (path, query) = incoming.url().split_once('?').unwrap_or((incoming.url(), ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    Ok(Some(Request { method: incoming.method().as_str().to_owned(), path, query, headers, body, peer }))
}

fn parse_peer(value: &str) -> Option<Peer> {
    match value.split_once(' ') {
        Some(("tcp", address)) => address.parse().ok().map(Peer::Tcp),
        Some(("unix", uid)) => uid.parse().ok().map(|uid| Peer::Unix { uid: Some(uid) }),
        _ => (value == "unix").then_some(Peer::Unix { uid: None }),
    }
}

fn call(request: Request, handler: &dyn Handler) -> Response {
    let (what, path) = (format!("{} {}", request.method, request.path), request.path.clone());
    catch_unwind(AssertUnwindSafe(|| handler.handle(request))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        error!("answering {what} panicked: {text}");
        internal_error(handler, &path)
    })
}

fn internal_error(handler: &dyn Handler, path: &str) -> Response {
    handler.refuse(path, 500, "Internal server error; the log of the server says more.")
}

type TinyResponse = tiny_http::Response<Cursor<Vec<u8>>>;

/// The response in tiny_http's form, with a known length. Fields that would break the head are an error.
fn to_tiny_http(response: Response) -> Result<TinyResponse, String> {
    if !(200..=599).contains(&response.status) {
        return Err(format!("status {} is not a final one", response.status));
    }
    let mut fields = vec![field("Server", "cofferd")?];
    for (name, value) in &response.headers {
        if !NOT_FROM_HANDLER.iter().any(|fixed| name.eq_ignore_ascii_case(fixed)) {
            fields.push(field(name, value)?);
        }
    }
    let length = response.body.len();
    let made = tiny_http::Response::new(response.status.into(), fields, Cursor::new(response.body), Some(length), None);
    Ok(made.with_chunked_threshold(usize::MAX))
}

/// tiny_http itself would accept a line end in a value, and so another header field.
fn field(name: &str, value: &str) -> Result<tiny_http::Header, String> {
    let name_valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    let value_valid = value.bytes().all(|b| matches!(b, b'\t' | 0x20..=0x7e));
    let made = tiny_http::Header::from_bytes(name.as_bytes(), value.as_bytes());
    match made {
        Ok(header) if name_valid && value_valid => Ok(header),
        _ => Err(format!("the header field {name:?}: {value:?} cannot be sent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Answers by the path of the request.
    struct Echo;

    impl Handler for Echo {
        fn handle(&self, request: Request) -> Response {
            match request.path.as_str() {
                "/panic" => panic!("as asked"),
                "/split" => Response::empty(200).with_header("X", "a\r\nB: c"),
                "/name" => Response::empty(200).with_header("a b", "c"),
                "/status" => Response::empty(100),
                "/own" => Response::empty(200).with_header("Content-Length", "77").with_header("Connection", "upgrade"),
                "/nothing" => Response { status: 204, headers: Vec::new(), body: b"dropped".to_vec() },
                "/big" => Response { status: 200, headers: Vec::new(), body: vec![b'x'; 3_000_000] },
                _ => Response { status: 200, headers: Vec::new(), body: format!("{request:?}").into_bytes() },
            }
        }

        fn refuse(&self, _: &str, status: u16, detail: &str) -> Response {
            Response::json(status, detail)
        }
    }

    fn backend() -> Backend {
        Backend::start(2, Arc::new(Echo)).unwrap()
    }

    fn ask(backend: &Backend, method: &str, path: &str) -> String {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: h\r\nx-cofferd-peer: unix 7\r\ncontent-length: 4\r\n\r\nbody");
        match backend.exchange([request.as_bytes(), b""], method == "HEAD", false) {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(refusal) => format!("refused {}", refusal.status),
        }
    }

    #[test]
    fn a_request_arrives_whole() {
        let answer = ask(&backend(), "PUT", "/a%20?b=c?d");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nServer: cofferd\r\n"));
        for part in
            ["\"PUT\"", "path: \"/a%20\"", "query: \"b=c?d\"", "(\"host\", \"h\")", "body: [98, 111, 100, 121]", "uid: Some(7)"]
        {
            assert!(answer.contains(part), "{part} in {answer}");
        }
        assert!(!answer.contains(PEER_HEADER));
    }

    #[test]
    fn responses_end_where_they_say() {
        let backend = backend();
        for (method, path, length, body) in
            [("HEAD", "/big", "3000000", 0), ("GET", "/big", "3000000", 3_000_000), ("GET", "/own", "0", 0)]
        {
            let answer = ask(&backend, method, path);
            let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("Content-Length: {length}")), "{path}: {head}");
            assert_eq!(rest.len(), body, "{path}");
        }
        let nothing = ask(&backend, "GET", "/nothing");
        assert!(nothing.starts_with("HTTP/1.1 204 ") && nothing.ends_with("\r\n\r\n") && !nothing.contains("Content-Length"));
    }

    #[test]
    fn a_broken_handler_is_a_500_and_the_workers_live_on() {
        let backend = backend();
        for path in ["/panic", "/split", "/name", "/status"].repeat(4) {
            let answer = ask(&backend, "GET", path);
            assert!(answer.starts_with("HTTP/1.1 500 ") && !answer.contains("\r\nB: c"), "{path}: {answer}");
            assert!(ask(&backend, "GET", "/").starts_with("HTTP/1.1 200 "));
        }
    }

    #[test]
    fn broken_connections_are_replaced() {
        let backend = backend();
        for connection in &lock(&backend.pool).free {
            connection.shutdown(std::net::Shutdown::Both).unwrap();
        }
        for expected in ["refused 500", "refused 500", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK"] {
            assert!(ask(&backend, "GET", "/").starts_with(expected));
        }
    }

    #[test]
    fn a_dead_tiny_http_is_started_anew() {
        let backend = backend();
        lock(&backend.engine).stop(Instant::now() + Duration::from_secs(5));
        *lock(&backend.pool) = Pool { free: Vec::new(), open: 0 };
        // Its accept thread may still be about to end.
        let end = Instant::now() + Duration::from_secs(10);
        while !ask(&backend, "GET", "/").starts_with("HTTP/1.1 200 ") {
            assert!(Instant::now() < end, "it must come back");
        }
    }

    #[test]
    fn the_private_socket_has_no_name() {
        let (listener, file) = private_listener().unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!address.as_pathname().unwrap().parent().unwrap().exists());
        assert_eq!(fs::File::from(file).metadata().unwrap().nlink(), 0);
    }
}
