//! How every command reaches the coffer: through the daemon's Unix socket when it runs, otherwise by opening the file and
//! calling the same API in this process. A command cannot tell the difference, and the coffer's lock allows one of the two.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde_json::Value;

use super::CliError;
use super::wire::{self, Reply};
use crate::app::App;
use crate::config::Config;
use crate::daemon;
use crate::http::{Peer, Request};

/// How long a job may go on after Ctrl-C before it is interrupted.
const INTERRUPT_LIMIT: Duration = Duration::from_secs(1);
/// A daemon that does not answer for so long hangs; its operations that take long are tasks that are asked after.
const REPLY_LIMIT: Duration = Duration::from_secs(120);
/// Exit status of a command ended by Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;
/// The largest page the API gives.
const PAGE_SIZE: usize = 300;

pub struct Client {
    link: Link,
}

enum Link {
    Socket(PathBuf),
    Tcp { address: SocketAddr, token: String },
    /// The coffer opened by this process.
    Direct(Arc<App>),
}

impl Client {
    /// Reaches the coffer of this configuration, which must exist.
    pub fn connect(config: &Config) -> Result<Client, CliError> {
        if let Some(client) = Client::through_socket(config)? {
            return Ok(client);
        }
        if !config.coffer().exists() {
            return Err(CliError::failed(format!(
                "there is no coffer at {}; `cofferd serve` or `cofferd init` makes one",
                config.coffer().display()
            )));
        }
        let signals = daemon::signals().map_err(|e| CliError::failed(e.to_string()))?;
        match daemon::open_patiently(config) {
            Ok(app) => Client::direct(app, signals),
            // A daemon may have been starting.
            Err(e) => Client::through_socket(config)?.ok_or_else(|| CliError::failed(e.to_string())),
        }
    }

    /// Serves this command from the coffer that this process has open. A signal ends its jobs cleanly first.
    fn direct(app: Arc<App>, signals: Receiver<i32>) -> Result<Client, CliError> {
        let interrupted = app.clone();
        std::thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || {
                if signals.recv().is_ok() {
                    close(&interrupted, INTERRUPT_LIMIT);
                    std::process::exit(INTERRUPTED);
                }
            })
            .map_err(|e| CliError::failed(e.to_string()))?;
        Ok(Client { link: Link::Direct(app) })
    }

    /// Talks to a daemon as any user of the network does.
    pub fn over_tcp(address: SocketAddr, token: &str) -> Client {
        Client { link: Link::Tcp { address, token: token.to_owned() } }
    }

    /// Whether the work goes on when this command ends.
    pub fn outlives_command(&self) -> bool {
        !matches!(self.link, Link::Direct(_))
    }

    fn through_socket(config: &Config) -> Result<Option<Client>, CliError> {
        let path = config.socket();
        match daemon::connect_unix(&path) {
            Ok(_) => Ok(Some(Client { link: Link::Socket(path) })),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
            Err(e) => Err(CliError::failed(format!(
                "{}: {e}; run the command as root or as the user that runs the daemon",
                path.display()
            ))),
        }
    }

    /// One call of the API. A reply that is an error becomes `CliError::Api`; one without a body is null.
    pub fn call(&self, method: &str, target: &str, body: Option<Value>) -> Result<Value, CliError> {
        self.reply(method, target, body).map(|reply| reply.body)
    }

    pub fn get(&self, target: &str) -> Result<Value, CliError> {
        self.call("GET", target, None)
    }

    pub fn post(&self, target: &str, body: Value) -> Result<Value, CliError> {
        self.call("POST", target, Some(body))
    }

    /// All entries of a collection, page by page.
    pub fn list(&self, target: &str) -> Result<Vec<Value>, CliError> {
        let joint = if target.contains('?') { '&' } else { '?' };
        let mut entries = Vec::new();
        for page in 1.. {
            let reply = self.reply("GET", &format!("{target}{joint}page_size={PAGE_SIZE}&page={page}"), None)?;
            let total = reply.header("x-result-count").and_then(|n| n.parse().ok());
            let Value::Array(part) = reply.body else {
                return Err(CliError::failed(format!("{target} did not answer with a list")));
            };
            let last = part.is_empty();
            entries.extend(part);
            // A collection without pages has given all at once.
            if last || total.is_none_or(|total: usize| entries.len() >= total) {
                break;
            }
        }
        Ok(entries)
    }

    fn reply(&self, method: &str, target: &str, body: Option<Value>) -> Result<Reply, CliError> {
        let reply = match &self.link {
            Link::Socket(path) => over_socket(path, method, target, body)
                .map_err(|e| CliError::failed(format!("the daemon at {} cannot be reached: {e}", path.display())))?,
            Link::Tcp { address, token } => over_network(*address, token, method, target, body)
                .map_err(|e| CliError::failed(format!("http://{address} cannot be reached: {e}")))?,
            Link::Direct(app) => in_process(app, method, target, body)?,
        };
        match reply.status {
            200..=299 => Ok(reply),
            status => Err(CliError::Api { status, body: reply.body }),
        }
    }
}

fn over_socket(path: &Path, method: &str, target: &str, body: Option<Value>) -> io::Result<Reply> {
    let stream = daemon::connect_unix(path)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    stream.set_write_timeout(Some(REPLY_LIMIT))?;
    wire::exchange(stream, "localhost", None, method, target, body.as_ref())
}

fn over_network(address: SocketAddr, token: &str, method: &str, target: &str, body: Option<Value>) -> io::Result<Reply> {
    let stream = TcpStream::connect_timeout(&address, REPLY_LIMIT)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    stream.set_write_timeout(Some(REPLY_LIMIT))?;
    wire::exchange(stream, &address.to_string(), Some(token), method, target, body.as_ref())
}

fn in_process(app: &Arc<App>, method: &str, target: &str, body: Option<Value>) -> Result<Reply, CliError> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = vec![("host".to_owned(), "localhost".to_owned())];
    if body.is_some() {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    let response = app.handle(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: body.map(|b| b.to_string().into_bytes()).unwrap_or_default(),
        peer: Peer::Unix { uid: Some(rustix::process::geteuid().as_raw()) },
    });
    let body = match response.body.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&response.body).map_err(|e| CliError::failed(format!("{target}: no JSON: {e}")))?,
    };
    let headers = response.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    Ok(Reply { status: response.status, headers, body })
}

fn close(app: &App, deadline: Duration) {
    app.begin_shutdown();
    app.shutdown(deadline);
    daemon::hand_over(&app.config());
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Link::Direct(app) = &self.link {
            close(app, app.config().shutdown_deadline);
        }
    }
}
