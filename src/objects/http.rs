//! One HTTP exchange with an object store: bounded in time and size, at the repository's rate, without following a redirect,
//! keeping a cookie, or asking the environment for a proxy. Whatever of an answer may end up in an error has our secrets taken out.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Method, Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::config::Config;
use ureq::{Agent, AsSendBody, Body, SendBody};
use url::Url;

use super::limit::{Limit, Slots};
use super::retry::Cancel;
use super::{ObjectError, Settings};

/// Of a body that tells what went wrong.
const MESSAGE_LIMIT: usize = 64 << 10;
/// What is sent or received between two looks at the limit.
const PIECE: usize = 64 << 10;
/// The slowest a body may move, as long as no limit is slower: a server that trickles is one that hangs.
const SLOWEST: u64 = 32 << 10;
/// How often is looked whether a request is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// How far a server's clock may be off until that is taken for the reason of its refusal.
const CLOCK_SKEW: i64 = 240;

pub struct Http {
    config: Config,
    /// Each with one connection, for one request at a time: whoever gives a request up ends its agent.
    idle: Mutex<Vec<Agent>>,
    timeout: Duration,
    /// Bytes a second that one request moves at least.
    floor: u64,
    slots: Slots,
    upload: Limit,
    download: Limit,
    /// What must not be seen.
    secrets: Vec<String>,
}

/// Whether the certificates of authorities are needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    No,
    /// The catalog decides.
    Maybe,
    Yes,
}

impl Tls {
    pub fn of(url: &Url) -> Tls {
        if url.scheme() == "https" { Tls::Yes } else { Tls::No }
    }
}

pub struct Ask<'a> {
    pub method: Method,
    pub url: &'a Url,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<&'a [u8]>,
    /// The largest answer.
    pub limit: usize,
}

pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub body: Vec<u8>,
    /// "scheme://host:port", for messages.
    pub host: String,
    secrets: Vec<String>,
}

impl Http {
    pub fn new(settings: &Settings, tls: Tls, secrets: Vec<String>) -> Result<Http, ObjectError> {
        let timeout = Duration::from_secs(settings.timeout_s);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("cofferd/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .timeout_resolve(Some(timeout))
            .timeout_connect(Some(timeout))
            .timeout_per_read(Some(timeout))
            .timeout_per_write(Some(timeout));
        if tls != Tls::No {
            match tls_config(settings.ca_file.as_deref()) {
                Ok(tls) => config = config.tls_config(tls),
                Err(_) if tls == Tls::Maybe => (),
                Err(error) => return Err(error),
            }
        }
        let share = |rate: u64| if rate > 0 { (rate / settings.connections as u64 / 2).max(1) } else { SLOWEST };
        Ok(Http {
            config: config.build(),
            idle: Mutex::default(),
            timeout,
            floor: SLOWEST.min(share(settings.upload_bytes_per_second)).min(share(settings.download_bytes_per_second)),
            slots: Slots::new(settings.connections),
            upload: Limit::new(settings.upload_bytes_per_second),
            download: Limit::new(settings.download_bytes_per_second),
            secrets,
        })
    }

    /// Sends one request and reads the whole answer.
    pub fn ask(&self, ask: Ask, cancel: &Cancel) -> Result<Answer, ObjectError> {
        let _slot = self.slots.take(cancel)?;
        let host = ask.url.origin().ascii_serialization();
        let mut shown = ask.url.clone();
        shown.set_query(None);
        let begun = Instant::now();
        let agent = self.idle().pop().unwrap_or_else(|| Agent::new_with_config(self.config.clone()));
        let result = until(cancel, || agent.clone().shutdown(), || self.exchange(&agent, &ask, &host, cancel));
        let outcome = match &result {
            Ok(answer) => format!("status {}, {} bytes", answer.status, answer.body.len()),
            Err(error) => error.to_string(),
        };
        log::debug!("{} {shown}: {outcome}, {} ms", ask.method, begun.elapsed().as_millis());
        // An error that comes of the cancelling is not the server's.
        if cancel() {
            return Err(ObjectError::Cancelled);
        }
        self.idle().push(agent);
        result
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Agent>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exchange(&self, agent: &Agent, ask: &Ask, host: &str, cancel: &Cancel) -> Result<Answer, ObjectError> {
        let mut upload = Upload { left: ask.body.unwrap_or_default(), limit: &self.upload, cancel };
        let mut request = Request::builder().method(ask.method.clone()).uri(ask.url.as_str());
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = ask.body {
            request = request.header("content-length", body.len());
        }
        let bytes = ask.body.map_or(0, <[u8]>::len).max(ask.limit) as u64;
        let whole = self.timeout * 4 + Duration::from_secs(bytes / self.floor);
        let mut response = match ask.body {
            Some(_) => self.run(agent, host, whole, request.body(SendBody::from_reader(&mut upload)))?,
            None => self.run(agent, host, whole, request.body(()))?,
        };
        let status = response.status().as_u16();
        let limit = if status < 300 { ask.limit } else { MESSAGE_LIMIT };
        let expected = response.body().content_length().filter(|_| ask.method != Method::HEAD);
        let mut answer = Answer {
            status,
            headers: std::mem::take(response.headers_mut()),
            body: Vec::new(),
            host: host.to_owned(),
            secrets: self.hidden(ask),
        };
        let mut reader = response.body_mut().with_config().limit(u64::MAX).reader();
        let most = limit.saturating_add(1);
        // Growing would take twice as much memory for a while.
        answer.body.reserve_exact(expected.map_or(0, |bytes| most.min((bytes as usize).saturating_add(PIECE))));
        while answer.body.len() < most {
            let (have, piece) = (answer.body.len(), PIECE.min(most - answer.body.len()));
            answer.body.resize(have + piece, 0);
            let read = reader.read(&mut answer.body[have..]).map_err(|error| broken(host, error))?;
            answer.body.truncate(have + read);
            if read == 0 {
                break;
            }
            self.download.pass(read, cancel)?;
        }
        if answer.body.len() > limit {
            if status < 300 {
                return Err(ObjectError::TooLarge { name: name_of(ask.url), limit });
            }
            answer.body.truncate(limit);
        } else if let Some(expected) = expected.filter(|expected| *expected != answer.body.len() as u64) {
            let error = format!("the answer ended after {} of {expected} bytes", answer.body.len());
            return Err(ObjectError::Unreachable { host: host.to_owned(), error });
        }
        Ok(answer)
    }

    fn run(
        &self,
        agent: &Agent,
        host: &str,
        whole: Duration,
        request: Result<Request<impl AsSendBody>, ureq::http::Error>,
    ) -> Result<Response<Body>, ObjectError> {
        let unsendable = |_| ObjectError::Settings(format!("a name, user or secret for {host} has characters that HTTP cannot carry"));
        let request = agent.configure_request(request.map_err(unsendable)?).timeout_global(Some(whole)).build();
        agent.run(request).map_err(|error| trouble(host, error))
    }

    /// All that must not be seen of this request.
    fn hidden(&self, ask: &Ask) -> Vec<String> {
        let tokens = ask.headers.iter().filter(|(name, _)| name.starts_with("x-auth-")).map(|(_, value)| value.clone());
        let signature = ask.url.query_pairs().filter(|(name, _)| ["X-Amz-Signature", "X-Amz-Security-Token"].contains(&&**name)).map(|(_, value)| value.into_owned());
        self.secrets.iter().cloned().chain(tokens).chain(signature).collect()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header of this answer with nothing of ours in it.
    pub fn shown_header(&self, name: &str) -> Option<String> {
        self.header(name).map(|value| self.shown(value))
    }

    /// The object's length by the header.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// What S3 calls the error.
    pub fn code(&self) -> String {
        element(&self.text(), "Code").unwrap_or_default().to_owned()
    }

    /// What the server says in words, in one short line.
    pub fn message(&self) -> String {
        let text = self.text();
        let json = serde_json::from_str::<serde_json::Value>(&text).ok();
        let words = match (element(&text, "Message"), json.as_ref().and_then(|json| json["error"]["message"].as_str())) {
            (Some(message), _) => format!("{} {message}", element(&text, "Code").unwrap_or_default()),
            (None, Some(message)) => message.to_owned(),
            (None, None) => without_tags(&text),
        };
        match self.shown(&words) {
            words if words.is_empty() => "no reason given".to_owned(),
            words => words,
        }
    }

    /// What is wrong, as far as the status alone tells. `name` is the object or else the place that was asked about.
    pub fn failure(&self, place: &str, name: &str) -> ObjectError {
        let (place, message) = (place.to_owned(), self.message());
        match self.status {
            401 | 403 => ObjectError::Refused { place, status: self.status, message, remedy: self.remedy() },
            404 => ObjectError::NotFound(name.to_owned()),
            408 | 429 | 500 | 502..=504 => ObjectError::Unavailable { place, status: self.status, message, retry_after: self.retry_after() },
            413 | 507 => ObjectError::Full { place, message },
            416 => ObjectError::Short { name: name.to_owned(), why: "what was asked for begins behind its end".to_owned() },
            422 => ObjectError::Corrupt { name: name.to_owned(), why: message },
            300..=399 => {
                let to = self.header("location").and_then(|to| Url::parse(to).ok()).map(|to| to.origin().ascii_serialization());
                let to = to.unwrap_or_else(|| "another place".to_owned());
                let what = format!("a redirect to {to} (status {}), which is not followed; if that is the right address, configure it", self.status);
                ObjectError::Unexpected { place, what }
            }
            _ => ObjectError::Unexpected { place, what: format!("status {}: {message}", self.status) },
        }
    }

    fn remedy(&self) -> String {
        match self.clock_skew() {
            Some(skew) => format!("the clock of this host is {} s {} the server's: set it right", skew.abs(), if skew > 0 { "before" } else { "behind" }),
            None => "check the user or key, the secret and the rights of both".to_owned(),
        }
    }

    /// By how much this host's clock is ahead of the server's, if that is enough to be refused for.
    fn clock_skew(&self) -> Option<i64> {
        let theirs = chrono::DateTime::parse_from_rfc2822(self.header("date")?).ok()?;
        let skew = chrono::Utc::now().timestamp() - theirs.timestamp();
        (skew.abs() > CLOCK_SKEW).then_some(skew)
    }

    fn retry_after(&self) -> Option<Duration> {
        let text = self.header("retry-after")?;
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
        (at.with_timezone(&chrono::Utc) - chrono::Utc::now()).to_std().ok()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `text` in one line of at most 200 characters, without secrets.
    fn shown(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| secret.len() >= 3) {
            text = text.replace(secret, "***");
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        crate::logging::plain(&words.join(" ")).chars().take(200).collect()
    }
}

/// Does the work; once it is cancelled, `end` is called, which is to end it wherever it waits.
fn until<T>(cancel: &Cancel, end: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    let (done, changed) = (Mutex::new(false), Condvar::new());
    std::thread::scope(|scope| {
        let watch = || {
            let mut over = done.lock().unwrap_or_else(PoisonError::into_inner);
            while !*over {
                if cancel() {
                    return end();
                }
                over = changed.wait_timeout(over, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        // Without this thread the time limits end it.
        let watching = std::thread::Builder::new().name("until".into()).spawn_scoped(scope, watch).is_ok();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        if watching {
            *done.lock().unwrap_or_else(PoisonError::into_inner) = true;
            changed.notify_all();
        }
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The bytes that are sent, at the rate of the repository.
struct Upload<'a> {
    left: &'a [u8],
    limit: &'a Limit,
    cancel: &'a Cancel,
}

impl Read for Upload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.left.len().min(buffer.len()).min(PIECE);
        self.limit.pass(n, self.cancel).map_err(io::Error::other)?;
        if (self.cancel)() {
            return Err(io::Error::other("interrupted"));
        }
        let (now, later) = self.left.split_at(n);
        buffer[..n].copy_from_slice(now);
        self.left = later;
        Ok(n)
    }
}

fn tls_config(ca_file: Option<&Path>) -> Result<TlsConfig, ObjectError> {
    let roots = match ca_file {
        Some(path) => of_file(path)?,
        None => of_the_platform()?,
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// These and no others.
fn of_file(path: &Path) -> Result<Vec<Certificate<'static>>, ObjectError> {
    let wrong = |why: String| ObjectError::Settings(format!("ca_file {}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| wrong("it is no PEM file, or damaged".to_owned()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong("there is no certificate in it (-----BEGIN CERTIFICATE-----)".to_owned())) } else { Ok(found) }
}

fn of_the_platform() -> Result<Vec<Certificate<'static>>, ObjectError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        let text = format!("this host has no certificates of authorities{why}; install ca-certificates, or name a file with ca_file");
        return Err(ObjectError::Settings(text));
    }
    Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}

/// Of an exchange that came to no answer.
fn trouble(host: &str, error: ureq::Error) -> ObjectError {
    let host = host.to_owned();
    let error = match error {
        ureq::Error::Io(error) => return broken(&host, error),
        ureq::Error::Rustls(error) => return ObjectError::Untrusted { host, error: error.to_string() },
        ureq::Error::Tls(error) => return ObjectError::Untrusted { host, error: error.to_owned() },
        ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
        ureq::Error::HostNotFound => "its name is not known".to_owned(),
        ureq::Error::Protocol(_) => "it does not speak HTTP, or was cut short".to_owned(),
        ureq::Error::LargeResponseHeader(..) => "the head of its answer is too large".to_owned(),
        // Others could show the address that was asked for, in which a signature may be.
        _ => "the connection failed".to_owned(),
    };
    ObjectError::Unreachable { host, error }
}

fn broken(host: &str, error: io::Error) -> ObjectError {
    let host = host.to_owned();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) if is_about_trust(inner) => ObjectError::Untrusted { host, error: inner.to_string() },
        Some(inner) => ObjectError::Unreachable { host, error: inner.to_string() },
        None => match error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>()) {
            true => match error.downcast::<ureq::Error>() {
                Ok(inner) => trouble(&host, inner),
                Err(error) => ObjectError::Unreachable { host, error: error.kind().to_string() },
            },
            false => ObjectError::Unreachable { host, error: error.to_string() },
        },
    }
}

fn is_about_trust(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertRevocationList(_))
}

/// The last part of the path.
fn name_of(url: &Url) -> String {
    PathBuf::from(url.path()).file_name().map_or_else(|| url.path().to_owned(), |name| name.to_string_lossy().into_owned())
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(content, _)| content)
}

fn without_tags(text: &str) -> String {
    let mut out = String::new();
    for part in text.split('<') {
        out.push_str(part.split_once('>').map_or(part, |(_, rest)| rest));
        out.push(' ');
    }
    out
}

/// The MD5 of an object in hexadecimal, if an entity tag is one.
pub fn md5_of_tag(tag: Option<&str>) -> Option<String> {
    let tag = tag?.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    (tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(tag)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Answer { status, headers, body: body.into(), host: "http://h".into(), secrets: vec!["hunter2".into(), "".into()] }
    }

    #[test]
    fn messages_are_short_plain_and_without_secrets() {
        let html = answer(401, &[], "<html><h1>Unauthorized</h1><p>key hunter2\u{1b}[2J is\n wrong</p></html>");
        assert_eq!(html.message(), "Unauthorized key ***\u{fffd}[2J is wrong");
        let xml = answer(403, &[], "<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>No.</Message><StringToSign>hunter2</StringToSign></Error>");
        assert_eq!((xml.message().as_str(), xml.code().as_str()), ("AccessDenied No.", "AccessDenied"));
        let json = answer(401, &[], r#"{"error": {"code": 401, "message": "The request you have made requires authentication."}}"#);
        assert_eq!(json.message(), "The request you have made requires authentication.");
        assert_eq!(answer(500, &[], "").message(), "no reason given");
        assert_eq!(answer(500, &[], &"x".repeat(5000)).message().len(), 200);
    }

    #[test]
    fn a_redirect_shows_where_to_but_not_with_what() {
        let error = answer(307, &[("location", "https://other.example:9/b/n?X-Amz-Signature=abcdef")], "").failure("p", "n").to_string();
        assert!(error.contains("https://other.example:9 ") && !error.contains("abcdef"), "{error}");
    }

    #[test]
    fn a_refusal_for_the_clock_says_so() {
        let now = chrono::Utc::now();
        let refused = |date: String| answer(403, &[("date", &date)], "").failure("p", "n").to_string();
        assert!(refused((now - chrono::Duration::hours(1)).to_rfc2822()).contains("s before the server's"));
        assert!(refused((now + chrono::Duration::hours(1)).to_rfc2822()).contains("s behind the server's"));
        assert!(refused(now.to_rfc2822()).contains("check the user or key"));
        let gmt = (now - chrono::Duration::hours(1)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(refused(gmt).contains("before the server's"));
    }

    #[test]
    fn statuses_are_what_they_mean() {
        let of = |status| answer(status, &[("retry-after", "3")], "").failure("p", "n");
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(of(status).is_transient() && of(status).retry_after() == Some(Duration::from_secs(3)), "{status}");
        }
        for status in [301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 411, 412, 413, 416, 501, 505, 507] {
            assert!(!of(status).is_transient(), "{status}");
        }
        assert!(matches!(of(413), ObjectError::Full { .. }) && matches!(of(507), ObjectError::Full { .. }));
        assert!(of(422).is_transient());
    }

    #[test]
    fn only_what_looks_like_one_is_an_md5() {
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        for tag in [md5.to_owned(), format!("\"{md5}\""), md5.to_uppercase(), format!("W/\"{md5}\"")] {
            assert_eq!(md5_of_tag(Some(&tag)).as_deref(), Some(md5));
        }
        for tag in ["", "\"abc-3\"", "d41d8cd98f00b204e9800998ecf8427e-2"] {
            assert_eq!(md5_of_tag(Some(tag)), None);
        }
    }
}
