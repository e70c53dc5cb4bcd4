//! The running service: what is started in which order, what signals do to it, and what systemd is told.
//!
//! Up: logging, configuration, signals (before the first thread, so that every thread has them blocked off the same way), the
//! coffer with its workers, listeners, HTTP, timer. Down in reverse. systemd hears READY only when requests are answered,
//! and the watchdog is fed only while a request of our own is answered and the timer's heart beats: a daemon that is alive
//! but does no work is restarted.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use listenfd::ListenFd;
use log::{error, info, warn};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::api::Api;
use crate::app::{App, AppError};
use crate::config::{Config, ConfigError};
use crate::db::DbError;
use crate::http::{HttpServer, Listener};

/// A timer that has not looked at the clock for this long hangs; it sleeps at most 30 seconds at a time.
const OLDEST_HEARTBEAT: Duration = Duration::from_secs(60);
/// How long the daemon's own request may take before it counts as unanswered.
const SELF_REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// How long open requests may take to finish when the daemon stops; the jobs get the rest of the deadline.
const HTTP_DRAIN: Duration = Duration::from_secs(5);
/// How long a coffer that is neither served nor free is waited for: most commands take less.
const LOCKED_LIMIT: Duration = Duration::from_secs(10);
const LOCKED_PAUSE: Duration = Duration::from_millis(50);
/// Opens no symbolic link and waits for no FIFO.
const NO_FOLLOW: i32 = (rustix::fs::OFlags::NOFOLLOW.bits() | rustix::fs::OFlags::NONBLOCK.bits()) as i32;
/// Members of the socket's group may talk to the daemon; who they are is checked then.
const SOCKET_MODE: u32 = 0o660;

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("cannot listen on {0}: {1}; stop what listens there or change http.listen in the configuration")]
    Listen(SocketAddr, io::Error),
    #[error("cannot listen on {path}: {error}", path = .0.display(), error = .1)]
    Socket(PathBuf, io::Error),
    #[error("systemd passed a socket that is neither a TCP nor a Unix stream socket: {0}; check cofferd.socket")]
    PassedSocket(io::Error),
    #[error("cannot start the HTTP server: {0}")]
    Http(io::Error),
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
}

/// A coffer being served. Not stopping it properly is survivable: it is what a crash does.
pub struct Daemon {
    app: Arc<App>,
    server: HttpServer,
    addresses: Vec<SocketAddr>,
    socket: PathBuf,
}

impl Daemon {
    /// Opens the coffer and serves it; when this returns, requests are answered. Listeners that are `given` replace the
    /// configured ones.
    pub fn start(config: Config, given: Vec<Listener>) -> Result<Daemon, DaemonError> {
        let app = open_patiently(&config)?;
        Daemon::serve(app.clone(), &config, given).inspect_err(|_| app.shutdown(Duration::ZERO))
    }

    fn serve(app: Arc<App>, config: &Config, given: Vec<Listener>) -> Result<Daemon, DaemonError> {
        let socket = config.socket();
        // The coffer's lock is ours now, so whatever socket lies there is a dead daemon's.
        let unix = bind_unix(&socket).map_err(|e| DaemonError::Socket(socket.clone(), e))?;
        let mut listeners = if given.is_empty() { bind_all(&config.http.listen)? } else { given };
        listeners.push(Listener::Unix(unix));
        let addresses: Vec<SocketAddr> = listeners.iter().filter_map(tcp_address).collect();
        // The first and only time, so it cannot be set already.
        let _ = app.listening.set(addresses.iter().map(|address| format!("http://{}", reachable(*address))).collect());
        let server = HttpServer::start(listeners, config.http.limits, Arc::new(Api(app.clone()))).map_err(DaemonError::Http)?;
        app.start_timer()?;
        Ok(Daemon { app, server, addresses, socket })
    }

    /// The TCP addresses that are served, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Takes no new work, finishes or cleanly interrupts what runs, and closes the coffer, all within `deadline`.
    pub fn stop(self, deadline: Duration) {
        let end = Instant::now() + deadline;
        self.app.begin_shutdown();
        // Gone before the listener is: a command that comes now finds no daemon instead of a dead one.
        if let Err(e) = fs::remove_file(&self.socket) {
            warn!("{}: {e}", self.socket.display());
        }
        self.server.stop(deadline.min(HTTP_DRAIN));
        self.app.shutdown(end.saturating_duration_since(Instant::now()));
        hand_over(&self.app.config());
    }

    /// Whether the daemon does its work: it answers a request over its own socket, and the timer keeps time.
    fn is_well(&self) -> Result<(), String> {
        let age = self.app.timer_heartbeat();
        if age >= OLDEST_HEARTBEAT {
            return Err(format!("the timer has stood still for {} s", age.as_secs()));
        }
        let answer = match self.addresses.first() {
            Some(address) => ask_tcp(reachable(*address)),
            None => ask_unix(&self.socket),
        };
        answer.map_err(|e| format!("a request of its own was not answered: {e}"))
    }
}

/// Runs the service until a signal ends it.
pub fn serve(config_file: Option<&Path>) -> Result<(), DaemonError> {
    // Its memory holds the passwords of the moment: no core file, and no look into it for others of the same user (ptrace(2)).
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!("other processes of this user can look into the daemon's memory: {e}");
    }
    let config = Config::load(config_file)?;
    let signals = signals().map_err(DaemonError::Signals)?;
    let daemon = Daemon::start(config.clone(), passed_listeners()?)?;
    announce(&daemon, &config);
    let deadline = attend(&daemon, &signals, config_file, config);
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing running jobs")]);
    info!("stopping; a second signal ends at once");
    daemon.stop(deadline);
    info!("stopped");
    Ok(())
}

/// Deals with signals and the watchdog until one asks for the end. Returns the time the end may take.
fn attend(daemon: &Daemon, signals: &Receiver<i32>, config_file: Option<&Path>, mut config: Config) -> Duration {
    let period = sd_notify::watchdog_enabled().map(|limit| limit / 3);
    loop {
        let signal = match period {
            Some(period) => signals.recv_timeout(period),
            None => signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match signal {
            Ok(SIGHUP) => config = reload(daemon, config_file, config),
            Err(RecvTimeoutError::Timeout) => feed_watchdog(daemon),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return config.shutdown_deadline,
        }
    }
}

fn feed_watchdog(daemon: &Daemon) {
    match daemon.is_well() {
        Ok(()) => notify(&[NotifyState::Watchdog]),
        Err(reason) => error!("{reason}; without improvement systemd will restart the daemon"),
    }
}

/// Takes over what can change while running; a wrong file changes nothing.
fn reload(daemon: &Daemon, config_file: Option<&Path>, old: Config) -> Config {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
    let config = match Config::load(config_file) {
        Ok(mut new) => {
            if new.http.listen != old.http.listen || new.state_directory != old.state_directory {
                warn!("state_directory and http.listen change only with a restart");
            }
            new.state_directory.clone_from(&old.state_directory);
            daemon.app.reload(new.clone());
            info!("configuration reloaded");
            new
        }
        Err(e) => {
            error!("the configuration stays as it was: {e}");
            old
        }
    };
    notify(&[NotifyState::Ready]);
    config
}

fn announce(daemon: &Daemon, config: &Config) {
    let mut urls = Vec::new();
    for address in &daemon.addresses {
        let url = format!("http://{}", reachable(*address));
        info!("listening on {url}");
        urls.push(url);
    }
    info!("listening on {}", daemon.socket.display());
    if let Some(token) = daemon.app.first_token() {
        tell_first_token(token, config);
    }
    if config.auth.noauth {
        warn!("auth.noauth is on: whoever is on this host is administrator of the OpenStack API");
    }
    if config.volumes.roots.is_empty() {
        info!("no volume can be registered yet: name the directories that may be backed up in volumes.roots of the configuration");
    }
    let status = format!("serving {} at {}", config.coffer().display(), urls.join(" "));
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The journal is kept and read by others, so there only the place of the token is told.
fn tell_first_token(token: &str, config: &Config) {
    let file = config.admin_token();
    info!("made a new coffer with the staff user admin; its token is in {}", file.display());
    if std::env::var_os("JOURNAL_STREAM").is_none() {
        // Nobody may be reading; the token is in the file anyway.
        let _ = writeln!(io::stdout(), "admin token (shown once, saved in {}): {token}", file.display());
    }
}

/// Outside systemd this does nothing.
fn notify(states: &[NotifyState]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("systemd could not be told about the daemon's state: {e}");
    }
}

/// SIGTERM, SIGINT and SIGHUP come out of the channel; the second of the first two ends the process with code 1 at once.
/// To be called before the first thread is started.
pub fn signals() -> io::Result<Receiver<i32>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag down and raises it.
        signal_hook::flag::register_conditional_shutdown(signal, 1, stopping.clone())?;
        signal_hook::flag::register(signal, stopping.clone())?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = crossbeam_channel::unbounded();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Opens the coffer. A command that has it open is waited for a little, a daemon that serves it is not.
pub fn open_patiently(config: &Config) -> Result<Arc<App>, AppError> {
    let start = Instant::now();
    let mut told = false;
    loop {
        match App::open(config.clone()) {
            Err(AppError::Db(DbError::Locked(_, holder)))
                if start.elapsed() < LOCKED_LIMIT && connect_unix(&config.socket()).is_err() =>
            {
                // Commands wait as well, but have no log: only the service's is on at this level.
                if !holder.is_empty() && !std::mem::replace(&mut told, true) {
                    info!("waiting for process {holder}, which has the coffer open");
                }
                std::thread::sleep(LOCKED_PAUSE);
            }
            Ok(app) => {
                hand_over(config);
                return Ok(app);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Gives what root made in the state directory to the owner of the state directory, or the service could not open its own coffer.
pub fn hand_over(config: &Config) {
    let state = &config.state_directory;
    let Ok(owner) = fs::metadata(state) else { return };
    if !rustix::process::geteuid().is_root() || owner.uid() == 0 {
        return;
    }
    // A directory elsewhere may hold files of others.
    let made = [&config.volumes.restore_directory, &config.volumes.pool_directory].into_iter().filter(|made| made.starts_with(state));
    for directory in [state].into_iter().chain(made) {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in entries.chain([directory.clone()]) {
            // Opened without following links and checked on the open file: the owner may swap names meanwhile.
            let Ok(file) = fs::File::options().read(true).custom_flags(NO_FOLLOW).open(&path) else { continue };
            let given = file.metadata().is_ok_and(|m| m.uid() == 0 && (m.is_dir() || (m.is_file() && m.nlink() == 1)));
            if given && let Err(e) = fchown(&file, Some(owner.uid()), Some(owner.gid())) {
                warn!("{}: cannot be given to the service's user: {e}", path.display());
            }
        }
    }
}

/// The sockets systemd passed (sd_listen_fds(3)), in their order.
fn passed_listeners() -> Result<Vec<Listener>, DaemonError> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        // A wrong kind is an error and leaves the socket in its place.
        let listener = match passed.take_tcp_listener(index) {
            Ok(listener) => listener.map(Listener::Tcp),
            Err(_) => passed.take_unix_listener(index).map_err(DaemonError::PassedSocket)?.map(Listener::Unix),
        };
        listeners.extend(listener);
    }
    Ok(listeners)
}

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<Listener>, DaemonError> {
    let bind = |address: &SocketAddr| bind_tcp(*address).map(Listener::Tcp).map_err(|e| DaemonError::Listen(*address, e));
    addresses.iter().map(bind).collect()
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // What is listened on is what the configuration says, whatever the host's sysctl.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Replaces a socket of a daemon that is gone. The name appears when the mode is right, never before.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|m| !m.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of this name that is no socket"));
    }
    let fresh = path.with_extension("sock.new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => (),
    }
    let listener = with_short_name(&fresh, |name| UnixListener::bind(name))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Connects to the daemon's Unix socket at `path`, however long the path is.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    with_short_name(path, |name| UnixStream::connect(name))
}

/// A Unix socket's name may have 107 bytes (unix(7)); a longer one is reached through its opened directory.
fn with_short_name<T>(path: &Path, f: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    if path.as_os_str().len() < 108 {
        return f(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return f(path) };
    let directory = fs::File::open(directory)?;
    f(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

fn tcp_address(listener: &Listener) -> Option<SocketAddr> {
    match listener {
        Listener::Tcp(listener) => listener.local_addr().ok(),
        Listener::Unix(_) => None,
    }
}

/// Where a client on this host reaches a listener that is bound to every address.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => (),
    }
    address
}

fn ask_tcp(address: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&address, SELF_REQUEST_LIMIT)?;
    stream.set_read_timeout(Some(SELF_REQUEST_LIMIT))?;
    stream.set_write_timeout(Some(SELF_REQUEST_LIMIT))?;
    ask(stream)
}

fn ask_unix(path: &Path) -> io::Result<()> {
    let stream = connect_unix(path)?;
    stream.set_read_timeout(Some(SELF_REQUEST_LIMIT))?;
    stream.set_write_timeout(Some(SELF_REQUEST_LIMIT))?;
    ask(stream)
}

fn ask(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(b"GET /healthz?reads HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    match &status {
        b"HTTP/1.1 200" => Ok(()),
        _ => Err(io::Error::other(String::from_utf8_lossy(&status).into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_private_to_its_group_and_replaces_only_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cofferd.sock");
        drop(bind_unix(&path).unwrap());
        assert!(connect_unix(&path).is_err(), "nobody listens on the stale socket");
        let _listener = bind_unix(&path).unwrap();
        connect_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);

        let file = dir.path().join("precious.sock");
        fs::write(&file, "text").unwrap();
        assert!(bind_unix(&file).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"text");
    }

    #[test]
    fn a_deep_state_directory_still_has_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let _listener = bind_unix(&deep.join("cofferd.sock")).unwrap();
        connect_unix(&deep.join("cofferd.sock")).unwrap();
    }

    #[test]
    fn a_request_of_our_own_must_be_answered_with_200() {
        for (answer, well) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 503 Busy\r\n\r\n", false), ("", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(ask_tcp(address).is_ok(), well, "{answer:?}");
            server.join().unwrap();
        }
    }
}
