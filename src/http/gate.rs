//! The gate: owns the listeners and every client connection, and lets only whole, unambiguous requests through.
//!
//! One thread accepts; each connection has a thread of its own with a small stack and one request in flight at
//! a time. Connections, request heads, bodies, and the time for each of them are bounded by [`Limits`]. When all
//! connections are taken, a newcomer replaces the one that has waited longest for its client; if every one is
//! at work, it is answered 503. Requests that pass go to the [`server`](super::server) as canonical HTTP/1.1,
//! and its response is sent to the client under one deadline.

use super::body::{Chunked, LARGE, buffer};
use super::head::{self, ALLOWED_METHODS, Framing, Head, Refusal, Scan};
use super::server::{Backend, lock};
use super::{Handler, Peer, Response};
use log::{debug, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, Socket};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Descriptors kept for the rest of the daemon: store, images, workers.
const RESERVED_DESCRIPTORS: u64 = 48;
/// Stack of a connection's thread.
const STACK_BYTES: usize = 256 * 1024;
/// Bytes read from, or written to, a client in one call.
const READ_BYTES: usize = 8 * 1024;
const WRITE_BYTES: usize = 64 * 1024;
/// Connections the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;
/// Connections accepted from one listener before the others are looked at.
const ACCEPT_BATCH: usize = 32;
/// A client that has been sending one request for this long may be replaced when all connections are taken.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// How long a newcomer waits for the connection it replaces to end. Its thread only has to wake up.
const EVICTION_WAIT: Duration = Duration::from_millis(100);
/// How long, and for how many bytes, a refused client is listened to so that it can read why.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// Clients turned away that are held for a moment for the same reason.
const LINGERING_MOST: usize = 4;
/// Pause after an accept error such as EMFILE, if no connection could be given up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// All large request bodies in memory together may take this many times the largest one.
const BODY_BUDGET_FACTOR: usize = 8;
/// The part of each body that does not count for that, so that large bodies cannot keep small ones out.
const UNCOUNTED_BODY: usize = 16 * 1024;

/// A listening socket, bound by the caller or inherited from systemd.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok((stream.into(), Peer::Tcp(address.ip().to_canonical())))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                let uid = rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.uid.as_raw());
                Ok((OwnedFd::from(stream).into(), Peer::Unix { uid }))
            }
        }
    }

    fn prepare(&self) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => {
                // Accepted sockets inherit it. Without it, each response waits for the client's delayed ACK.
                SockRef::from(listener).set_tcp_nodelay(true)?;
                listener.set_nonblocking(true)?;
            }
            Listener::Unix(listener) => listener.set_nonblocking(true)?,
        }
        rustix::net::listen(self, BACKLOG)?;
        Ok(())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open client connections; lowered if the descriptor limit does not allow as many.
    pub max_connections: usize,
    /// From the first byte of a request head to its end.
    pub head_timeout: Duration,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// A connection without a request is closed after this time.
    pub idle_timeout: Duration,
    /// For the client to take a whole response.
    pub write_timeout: Duration,
    /// Request line and header fields together.
    pub max_head_bytes: usize,
    pub max_headers: usize,
    /// After decoding.
    pub max_body_bytes: usize,
    /// Requests processed at a time.
    pub workers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 512,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            max_head_bytes: 32 * 1024,
            max_headers: 100,
            max_body_bytes: 1024 * 1024,
            workers: 4,
        }
    }
}

/// The running HTTP server.
pub struct HttpServer {
    shared: Arc<Shared>,
    wake: UnixStream,
    acceptor: JoinHandle<()>,
}

impl HttpServer {
    /// Raises the soft descriptor limit to the hard one, then starts to serve the listeners.
    ///
    /// # Errors
    /// A listener is unusable, or the private socket or a thread cannot be made.
    pub fn start(listeners: Vec<Listener>, limits: Limits, handler: Arc<dyn Handler>) -> io::Result<HttpServer> {
        let max_connections = affordable_connections(limits.max_connections);
        for listener in &listeners {
            listener.prepare()?;
        }
        let shared = Arc::new(Shared {
            limits: Limits { max_connections, ..limits },
            backend: Backend::start(limits.workers, handler)?,
            open: Mutex::new(HashMap::new()),
            closed: Condvar::new(),
            stopping: AtomicBool::new(false),
            body_bytes: AtomicUsize::new(0),
        });
        let (wake, woken) = UnixStream::pair()?;
        let acceptor =
            Acceptor { shared: shared.clone(), listeners, woken, next_id: 0, lingering: VecDeque::new(), last_warning: None };
        let acceptor = thread::Builder::new().name("http-accept".to_owned()).spawn(move || acceptor.run())?;
        Ok(HttpServer { shared, wake, acceptor })
    }

    /// Stops accepting, closes idle connections, and lets running requests finish until the deadline.
    /// What is not finished then is cut off.
    pub fn stop(self, deadline: Duration) {
        let deadline = Instant::now() + deadline;
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(self.wake);
        if self.acceptor.join().is_err() {
            warn!("the accepting thread had panicked");
        }
        self.shared.close_idle();
        if !self.shared.wait_closed(deadline) {
            let open = lock(&self.shared.open);
            warn!("{} HTTP connections did not finish in time and are cut off", open.len());
            open.values().for_each(|slot| slot.cut(Shutdown::Both));
        }
        self.shared.backend.stop(deadline.max(Instant::now() + EVICTION_WAIT));
        self.shared.wait_closed(Instant::now() + EVICTION_WAIT);
    }
}

/// How many connections the descriptor limit allows, once the soft limit is as high as the hard one.
fn affordable_connections(wanted: usize) -> usize {
    let before = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum }) {
        warn!("the descriptor limit stays at {:?}: {error}", before.current);
    }
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let affordable = usize::try_from(descriptors.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX).max(4);
    if affordable < wanted {
        warn!("only {affordable} of {wanted} HTTP connections fit into the limit of {descriptors} open files; raise LimitNOFILE");
    }
    wanted.clamp(1, affordable)
}

/// What the acceptor and all connections share.
struct Shared {
    limits: Limits,
    backend: Backend,
    open: Mutex<HashMap<u64, Arc<Slot>>>,
    closed: Condvar,
    stopping: AtomicBool,
    /// Bytes of large request bodies in memory, until they are answered.
    body_bytes: AtomicUsize,
}

/// An open connection as others see it.
struct Slot {
    socket: Socket,
    phase: Mutex<Phase>,
}

/// What a connection is doing, and since when.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for the first byte of a request.
    Idle(Instant),
    /// Waiting for the rest of a request.
    Receiving(Instant),
    /// Processing a request or sending its response.
    Busy,
    /// Given up in favour of another connection, or because the server stops.
    Evicted,
}

impl Slot {
    /// Moves to another phase, unless the connection was given up in the meantime.
    fn enter(&self, phase: Phase) -> Result<(), End> {
        let mut current = lock(&self.phase);
        if *current == Phase::Evicted {
            return Err(End::Closed);
        }
        *current = phase;
        Ok(())
    }

    /// Gives the connection up if it is still in this phase.
    fn evict(&self, expected: Phase) -> bool {
        let mut current = lock(&self.phase);
        if *current != expected {
            return false;
        }
        *current = Phase::Evicted;
        self.cut(Shutdown::Both);
        true
    }

    fn cut(&self, how: Shutdown) {
        // Fails only if the client has gone already.
        let _ = self.socket.shutdown(how);
    }
}

impl Shared {
    fn full(&self) -> bool {
        lock(&self.open).len() >= self.limits.max_connections
    }

    /// Gives up one connection and waits for its end; tells whether there is room for another now.
    fn give_up_one(&self) -> bool {
        let open = lock(&self.open);
        let before = open.len();
        if !self.evict_one(&open) {
            return false;
        }
        let wait = self.closed.wait_timeout_while(open, EVICTION_WAIT, |open| open.len() >= before);
        wait.unwrap_or_else(PoisonError::into_inner).0.len() < before
    }

    /// Gives up the connection that has waited longest for its client; tells whether there was one.
    fn evict_one(&self, open: &HashMap<u64, Arc<Slot>>) -> bool {
        let now = Instant::now();
        // An idle connection before one that is slow to send a request; then the longest wait.
        let candidates = open.values().filter_map(|slot| match *lock(&slot.phase) {
            phase @ Phase::Idle(since) => Some((0, since, phase, slot)),
            phase @ Phase::Receiving(since) if now.duration_since(since) >= SLOW_AFTER => Some((1, since, phase, slot)),
            _ => None,
        });
        let oldest = candidates.min_by_key(|(class, since, _, _)| (*class, *since));
        oldest.is_some_and(|(_, _, phase, slot)| slot.evict(phase))
    }

    fn close_idle(&self) {
        for slot in lock(&self.open).values() {
            let phase = *lock(&slot.phase);
            if matches!(phase, Phase::Idle(_)) {
                slot.evict(phase);
            }
        }
    }

    fn wait_closed(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = self.closed.wait_timeout_while(lock(&self.open), left, |open| !open.is_empty());
        wait.unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// The thread that accepts.
struct Acceptor {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    /// Readable (at its end) when the server stops.
    woken: UnixStream,
    next_id: u64,
    /// Clients turned away whose 503 may still be under way.
    lingering: VecDeque<(Instant, Socket)>,
    last_warning: Option<Instant>,
}

impl Acceptor {
    fn run(mut self) {
        while !self.shared.stopping() {
            let ready = self.wait();
            self.drop_lingering();
            for (index, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
                self.accept_batch(index);
            }
        }
    }

    /// Waits for something to do; tells which listeners have a connection.
    fn wait(&self) -> Vec<bool> {
        let mut watched = vec![PollFd::new(&self.woken, PollFlags::IN)];
        watched.extend(self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        let linger = Timespec { tv_sec: LINGER_TIME.as_secs() as i64, tv_nsec: 0 };
        let timeout = (!self.lingering.is_empty()).then_some(&linger);
        if let Err(error) = poll(&mut watched, timeout) {
            debug!("waiting for connections was interrupted: {error}");
            return Vec::new();
        }
        watched.iter().skip(1).map(|listener| !listener.revents().is_empty()).collect()
    }

    fn accept_batch(&mut self, index: usize) {
        for _ in 0..ACCEPT_BATCH {
            match self.listeners[index].accept() {
                Ok((socket, peer)) => self.admit(socket, peer),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return self.accept_failed(&error),
                },
            }
        }
    }

    /// Most likely no descriptor is left: try again when there is room, or a little later.
    fn accept_failed(&mut self, error: &io::Error) {
        self.warn(&format!("cannot accept a connection: {error}"));
        self.lingering.clear();
        if !self.shared.give_up_one() {
            thread::sleep(ACCEPT_PAUSE);
        }
    }

    fn admit(&mut self, socket: Socket, peer: Peer) {
        self.drop_lingering();
        // With the timeout on the socket, the usual response needs no other system call than the write.
        if socket.set_write_timeout(Some(self.shared.limits.write_timeout)).is_err() {
            return;
        }
        if self.shared.full() {
            self.shared.give_up_one();
        }
        if self.shared.full() {
            return self.turn_away(socket);
        }
        let slot = Arc::new(Slot { socket, phase: Mutex::new(Phase::Idle(Instant::now())) });
        if let Err(error) = self.spawn(slot.clone(), peer) {
            self.warn(&format!("no thread for a connection: {error}"));
            if self.shared.give_up_one()
                && let Err(error) = self.spawn(slot, peer)
            {
                debug!("a connection is dropped: {error}");
            }
        }
    }

    /// Starts the thread of a connection.
    fn spawn(&mut self, slot: Arc<Slot>, peer: Peer) -> io::Result<()> {
        self.next_id += 1;
        lock(&self.shared.open).insert(self.next_id, slot.clone());
        let guest = Guest { shared: self.shared.clone(), id: self.next_id, slot: Some(slot.clone()) };
        let thread = thread::Builder::new().name("http-conn".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || {
            let guest = guest;
            Connection::new(&guest.shared, slot, peer).run();
        })?;
        Ok(())
    }

    fn turn_away(&mut self, socket: Socket) {
        self.warn("all HTTP connections are at work; a client is turned away with 503");
        let refusal = Refusal { status: 503, detail: "The server has too many connections; try again later." };
        // A new socket has room for this little in its send buffer, so the write does not wait.
        let answer = error_response(self.shared.backend.refuse("", refusal), false);
        let sent = socket.set_nonblocking(true).and_then(|()| (&socket).write_all(&answer));
        if sent.is_ok() && socket.shutdown(Shutdown::Write).is_ok() {
            self.lingering.push_back((Instant::now(), socket));
        }
    }

    fn drop_lingering(&mut self) {
        while let Some((since, socket)) = self.lingering.front() {
            if since.elapsed() < LINGER_TIME && self.lingering.len() <= LINGERING_MOST {
                return;
            }
            discard_input(socket);
            self.lingering.pop_front();
        }
    }

    /// At most one warning a second, so that a flood of clients is not also a flood of log lines.
    fn warn(&mut self, text: &str) {
        if self.last_warning.is_none_or(|last| last.elapsed() >= Duration::from_secs(1)) {
            warn!("{text}");
            self.last_warning = Some(Instant::now());
        }
    }
}

/// Closing a socket with unread input would reset the connection and destroy the response.
fn discard_input(mut socket: &Socket) {
    let mut scratch = [0; READ_BYTES];
    for _ in 0..LINGER_BYTES / READ_BYTES {
        if !matches!(socket.read(&mut scratch), Ok(1..)) {
            return;
        }
    }
}

/// Removes a connection from the table when its thread ends, however it ends.
struct Guest {
    shared: Arc<Shared>,
    id: u64,
    slot: Option<Arc<Slot>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.slot = None;
        // The table holds the last reference now, so the descriptor is closed before anyone is told.
        lock(&self.shared.open).remove(&self.id);
        self.shared.closed.notify_all();
    }
}

/// Why a connection ends.
enum End {
    /// The client has gone, was idle too long, or was given up: nothing to say.
    Closed,
    /// The client is told why.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

/// How a wait for bytes from the client ended.
enum Input {
    Bytes,
    Eof,
    TimedOut,
}

/// A connection as its own thread sees it.
struct Connection<'a> {
    shared: &'a Shared,
    slot: Arc<Slot>,
    peer: Peer,
    /// Bytes received and not used yet; pipelined requests wait here.
    buffer: Vec<u8>,
    /// The read timeout set on the socket.
    read_timeout: Duration,
    /// What the request is about, as far as it is known.
    target: String,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, slot: Arc<Slot>, peer: Peer) -> Connection<'a> {
        Connection { shared, slot, peer, buffer: Vec::new(), read_timeout: Duration::ZERO, target: String::new() }
    }

    fn run(mut self) {
        let mut head_only = false;
        let end = loop {
            match self.serve_one(&mut head_only) {
                Ok(true) => {}
                Ok(false) if self.buffer.is_empty() => break End::Closed,
                Ok(false) => return self.linger(),
                Err(end) => break end,
            }
        };
        if let End::Refused(refusal) = end {
            debug!("refused a request of {:?} with {}: {}", self.peer, refusal.status, refusal.detail);
            let answer = error_response(self.shared.backend.refuse(&self.target, refusal), head_only);
            if self.slot.enter(Phase::Busy).is_ok() && self.send(&answer).is_ok() {
                self.linger();
            }
        }
    }

    /// Serves one request; tells whether another may follow.
    fn serve_one(&mut self, head_only: &mut bool) -> Result<bool, End> {
        let head = self.read_head();
        *head_only = head.as_ref().map_or(self.buffer.starts_with(b"HEAD "), |head| head.method == "HEAD");
        self.target = head.as_ref().map_or_else(|_| head::target_in(&self.buffer), |head| head.target.clone());
        let head = head?;
        let mut body = self.read_body(&head)?;
        self.slot.enter(Phase::Busy)?;
        let close = head.close || self.shared.stopping();
        let mut request = head::canonical(&head, self.peer, body.bytes.len());
        if body.bytes.len() <= READ_BYTES {
            // One write is cheaper than two.
            request.append(&mut body.bytes);
        }
        let response = self.shared.backend.exchange([&request, &body.bytes], *head_only, close)?;
        drop((head, request, body));
        self.send(&response)?;
        Ok(!close)
    }

    fn read_head(&mut self) -> Result<Head, End> {
        let limits = &self.shared.limits;
        if self.buffer.is_empty() {
            // An idle connection keeps no buffer.
            self.buffer = Vec::new();
            self.slot.enter(Phase::Idle(Instant::now()))?;
            if self.shared.stopping() || !matches!(self.receive(limits.idle_timeout), Input::Bytes) {
                return Err(End::Closed);
            }
        }
        let start = Instant::now();
        self.slot.enter(Phase::Receiving(start))?;
        let mut scan = Scan::default();
        loop {
            if let Some(length) = scan.advance(&mut self.buffer, limits.max_head_bytes)? {
                let head = head::parse(&self.buffer[..length], limits.max_headers, limits.max_body_bytes)?;
                self.buffer.drain(..length);
                return Ok(head);
            }
            match self.receive(limits.head_timeout.saturating_sub(start.elapsed())) {
                Input::Bytes => {}
                _ if self.buffer.is_empty() => return Err(End::Closed),
                Input::Eof => return Err(Refusal { status: 400, detail: "The request ended in its head." }.into()),
                Input::TimedOut => {
                    return Err(Refusal { status: 408, detail: "The request head took too long to arrive." }.into());
                }
            }
        }
    }

    fn read_body(&mut self, head: &Head) -> Result<Body<'a>, End> {
        let mut body = Body { shared: self.shared, bytes: Vec::new(), counted: 0 };
        if head.framing == Framing::Length(0) {
            return Ok(body);
        }
        let start = Instant::now();
        self.slot.enter(Phase::Receiving(start))?;
        if head.expects_continue && self.buffer.is_empty() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut chunked = Chunked::new(self.shared.limits.max_body_bytes);
        loop {
            let complete = match head.framing {
                Framing::Length(length) => {
                    body.make_room(length - body.bytes.len());
                    let used = self.buffer.len().min(length - body.bytes.len());
                    body.bytes.extend(self.buffer.drain(..used));
                    body.bytes.len() == length
                }
                Framing::Chunked => {
                    body.make_room(self.buffer.len());
                    let used = chunked.feed(&self.buffer, &mut body.bytes)?;
                    self.buffer.drain(..used);
                    chunked.done()
                }
            };
            body.count()?;
            if complete {
                return Ok(body);
            }
            match self.receive(self.shared.limits.body_timeout.saturating_sub(start.elapsed())) {
                Input::Bytes => {}
                Input::Eof => return Err(Refusal { status: 400, detail: "The request ended in its body." }.into()),
                Input::TimedOut => {
                    return Err(Refusal { status: 408, detail: "The request body took too long to arrive." }.into());
                }
            }
        }
    }

    /// Waits at most this long for more bytes. An error of the connection counts as its end.
    fn receive(&mut self, wait: Duration) -> Input {
        if wait.is_zero() {
            return Input::TimedOut;
        }
        if wait != self.read_timeout {
            if self.slot.socket.set_read_timeout(Some(wait)).is_err() {
                return Input::Eof;
            }
            self.read_timeout = wait;
        }
        let length = self.buffer.len();
        self.buffer.resize(length + READ_BYTES, 0);
        let deadline = Instant::now() + wait;
        let got = loop {
            match (&self.slot.socket).read(&mut self.buffer[length..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && Instant::now() < deadline => {}
                got => break got,
            }
        };
        self.buffer.truncate(length + *got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => Input::Eof,
            Ok(_) => Input::Bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Input::TimedOut,
            Err(_) => Input::Eof,
        }
    }

    /// Sends a whole response within the write timeout, or resets the connection.
    fn send(&self, bytes: &[u8]) -> Result<(), End> {
        let limit = self.shared.limits.write_timeout;
        let start = Instant::now();
        let mut sent = 0;
        let mut timeout_set = limit;
        let mut write = || -> io::Result<()> {
            while sent < bytes.len() {
                let piece = &bytes[sent..bytes.len().min(sent + WRITE_BYTES)];
                if sent > 0 {
                    timeout_set = limit.saturating_sub(start.elapsed());
                    // A timeout of zero would mean none.
                    self.slot.socket.set_write_timeout(Some(timeout_set.max(Duration::from_micros(1))))?;
                }
                match (&self.slot.socket).write(piece) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted && start.elapsed() < limit => {}
                    Err(error) => return Err(error),
                }
            }
            if timeout_set == limit { Ok(()) } else { self.slot.socket.set_write_timeout(Some(limit)) }
        };
        write().map_err(|error| {
            debug!("a response to {:?} was cut off: {error}", self.peer);
            // The kernel must not go on for minutes with what the client does not take.
            let _ = self.slot.socket.set_linger(Some(Duration::ZERO));
            End::Closed
        })
    }

    /// Listens a moment longer, so that the client can read the response before the connection ends.
    fn linger(mut self) {
        self.slot.cut(Shutdown::Write);
        let start = Instant::now();
        let mut received = 0;
        while received < LINGER_BYTES && self.slot.enter(Phase::Idle(start)).is_ok() {
            self.buffer.clear();
            if !matches!(self.receive(LINGER_TIME.saturating_sub(start.elapsed())), Input::Bytes) {
                return;
            }
            received += self.buffer.len();
        }
    }
}

/// A request body, counted against the memory that all large ones may take together.
struct Body<'a> {
    shared: &'a Shared,
    bytes: Vec<u8>,
    counted: usize,
}

impl Body<'_> {
    /// Moves to a large buffer once it is needed.
    fn make_room(&mut self, more: usize) {
        let length = self.bytes.len() + more;
        if length > self.bytes.capacity() && length > LARGE {
            let mut larger = buffer(length);
            larger.append(&mut self.bytes);
            self.bytes = larger;
        }
    }

    fn count(&mut self) -> Result<(), Refusal> {
        let more = self.bytes.len().saturating_sub(UNCOUNTED_BODY + self.counted);
        self.counted += more;
        let total = self.shared.body_bytes.fetch_add(more, Ordering::Relaxed) + more;
        if total > self.shared.limits.max_body_bytes.saturating_mul(BODY_BUDGET_FACTOR) {
            return Err(Refusal { status: 503, detail: "The server is receiving too many large requests; try again later." });
        }
        Ok(())
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.shared.body_bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// The bytes of a response of the gate itself, which always ends the connection.
fn error_response(response: Response, head_only: bool) -> Vec<u8> {
    let mut fields: String = response.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    match response.status {
        405 => fields += &format!("Allow: {ALLOWED_METHODS}\r\n"),
        503 => fields += "Retry-After: 1\r\n",
        _ => {}
    }
    let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
    let head = format!(
        "HTTP/1.1 {} {}\r\nServer: cofferd\r\nDate: {date}\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n",
        response.status,
        reason(response.status),
        response.body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(if head_only { b"" } else { &response.body });
    bytes
}

/// Reason phrases (RFC 9110, section 15) of the statuses the gate sends itself.
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_response_is_complete_and_closes() {
        let refusal = || Response::json(405, &serde_json::json!({"detail": "No."}));
        let text = String::from_utf8(error_response(refusal(), false)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        for field in ["Allow: GET, ", "Connection: close", &format!("Content-Length: {}", body.len()), "Date: "] {
            assert!(head.contains(&format!("\r\n{field}")), "{field}");
        }
        assert_eq!(body, r#"{"detail":"No."}"#);
        let head_only = error_response(refusal(), true);
        assert!(head_only.ends_with(b"\r\n\r\n") && head_only.len() == head.len() + 4);
    }

    #[test]
    fn connections_leave_descriptors_for_the_daemon() {
        let limit = getrlimit(Resource::Nofile).maximum.map_or(usize::MAX, |limit| limit as usize);
        assert_eq!(affordable_connections(3), 3);
        assert!(affordable_connections(usize::MAX) <= limit - RESERVED_DESCRIPTORS as usize);
    }
}
