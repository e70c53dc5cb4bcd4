//! OpenStack Swift over plain HTTP. A put carries the MD5 of its bytes, which the server checks, and so does every answer with an
//! object.

mod login;

use std::ops::Range;

use md5::{Digest, Md5};
use serde::Deserialize;
use ureq::http::Method;
use url::Url;

use super::http::{Answer, Ask, Http, Tls, hex, md5_of_tag};
use super::retry::Cancel;
use super::s3::{length, whole_or_range};
use super::{Backend, Credentials, Listed, ObjectError, PAGE, Settings};
use login::{Login, Session};

const LIST_LIMIT: usize = 8 << 20;

pub struct Swift {
    http: Http,
    login: Login,
    container: String,
    place: String,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
}

/// What a request is about: the container itself, or an object in it.
struct To<'a> {
    object: Option<&'a str>,
    query: &'a [(&'a str, &'a str)],
}

impl Swift {
    pub fn new(settings: &Settings, credentials: &Credentials) -> Result<Swift, ObjectError> {
        let login = Login::new(settings, credentials)?;
        let tls = match Tls::of(login.address()) {
            Tls::No if settings.ca_file.is_none() => Tls::Maybe,
            _ => Tls::Yes,
        };
        let http = Http::new(settings, tls, credentials.secrets())?;
        Ok(Swift { http, login, container: settings.container.clone().unwrap_or_default(), place: settings.place_name() })
    }

    /// Asks with the token that is there; if that is refused, once more with a new one.
    fn ask(&self, to: &To, ask: &Ask, cancel: &Cancel) -> Result<Answer, ObjectError> {
        let session = self.login.session(&self.http, cancel)?;
        let answer = self.ask_with(&session, to, ask, cancel)?;
        if answer.status != 401 {
            return Ok(answer);
        }
        log::debug!("{}: the token is refused, logging in again", self.place);
        self.login.forget(&session);
        let session = self.login.session(&self.http, cancel)?;
        self.ask_with(&session, to, ask, cancel)
    }

    fn ask_with(&self, session: &Session, to: &To, ask: &Ask, cancel: &Cancel) -> Result<Answer, ObjectError> {
        let url = self.url(&session.storage, to)?;
        let mut headers = ask.headers.clone();
        headers.push(("x-auth-token", session.token.clone()));
        self.http.ask(Ask { method: ask.method.clone(), url: &url, headers, body: ask.body, limit: ask.limit }, cancel)
    }

    fn url(&self, storage: &Url, to: &To) -> Result<Url, ObjectError> {
        let mut url = storage.clone();
        let wrong = |()| ObjectError::Settings(format!("{} is no address of an account", storage.origin().ascii_serialization()));
        url.path_segments_mut().map_err(wrong)?.pop_if_empty().push(&self.container).extend(to.object.iter().flat_map(|name| name.split('/')));
        if !to.query.is_empty() {
            url.query_pairs_mut().extend_pairs(to.query);
        }
        Ok(url)
    }

    fn object(&self, name: &str, method: Method, headers: Vec<(&'static str, String)>, body: Option<&[u8]>, limit: usize, cancel: &Cancel) -> Result<Answer, ObjectError> {
        let to = To { object: Some(name), query: &[] };
        // The address is filled in with the session's.
        let answer = self.ask(&to, &Ask { method, url: self.login.address(), headers, body, limit }, cancel)?;
        match answer.status {
            200..300 => Ok(answer),
            404 if !self.container_is_there(cancel)? => Err(ObjectError::NoPlace(self.place.clone())),
            _ => Err(answer.failure(&self.place, name)),
        }
    }

    /// Swift says 404 to both.
    fn container_is_there(&self, cancel: &Cancel) -> Result<bool, ObjectError> {
        let to = To { object: None, query: &[] };
        let ask = Ask { method: Method::HEAD, url: self.login.address(), headers: Vec::new(), body: None, limit: 0 };
        let answer = self.ask(&to, &ask, cancel)?;
        match answer.status {
            200..300 => Ok(true),
            404 => Ok(false),
            _ => Err(answer.failure(&self.place, &self.place)),
        }
    }
}

impl Backend for Swift {
    fn put(&self, name: &str, body: &[u8], cancel: &Cancel) -> Result<(), ObjectError> {
        let md5 = hex(&Md5::digest(body));
        let headers = vec![("etag", md5.clone()), ("content-type", "application/octet-stream".to_owned())];
        let answer = self.object(name, Method::PUT, headers, Some(body), 64 << 10, cancel)?;
        match md5_of_tag(answer.header("etag")) {
            Some(tag) if tag != md5 => Err(ObjectError::Corrupt { name: name.to_owned(), why: "the server has stored other bytes (ETag)".to_owned() }),
            _ => Ok(()),
        }
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: usize, cancel: &Cancel) -> Result<Vec<u8>, ObjectError> {
        let headers = range.iter().map(|range| ("range", format!("bytes={}-{}", range.start, range.end - 1))).collect();
        let answer = self.object(name, Method::GET, headers, None, limit, cancel)?;
        let of_parts = ["x-static-large-object", "x-object-manifest"].iter().any(|name| answer.header(name).is_some());
        let md5 = md5_of_tag(answer.header("etag")).filter(|_| !of_parts);
        whole_or_range(&self.place, name, range, md5, answer)
    }

    fn size(&self, name: &str, cancel: &Cancel) -> Result<Option<u64>, ObjectError> {
        match self.object(name, Method::HEAD, Vec::new(), None, 0, cancel) {
            Ok(answer) => length(&self.place, name, &answer).map(Some),
            Err(ObjectError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn delete(&self, name: &str, cancel: &Cancel) -> Result<(), ObjectError> {
        match self.object(name, Method::DELETE, Vec::new(), None, 64 << 10, cancel) {
            Err(ObjectError::NotFound(_)) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn list(&self, prefix: &str, after: &str, cancel: &Cancel) -> Result<Vec<Listed>, ObjectError> {
        let page = PAGE.to_string();
        let to = To { object: None, query: &[("format", "json"), ("limit", &page), ("prefix", prefix), ("marker", after)] };
        let ask = Ask { method: Method::GET, url: self.login.address(), headers: Vec::new(), body: None, limit: LIST_LIMIT };
        let answer = self.ask(&to, &ask, cancel)?;
        match answer.status {
            200..300 => (),
            404 => return Err(ObjectError::NoPlace(self.place.clone())),
            _ => return Err(answer.failure(&self.place, &self.place)),
        }
        if answer.body.is_empty() {
            return Ok(Vec::new());
        }
        let unexpected = |_| ObjectError::Unexpected { place: self.place.clone(), what: "a list that is not Swift's".to_owned() };
        let entries: Vec<Entry> = serde_json::from_slice(&answer.body).map_err(unexpected)?;
        Ok(entries.into_iter().map(|entry| Listed { name: entry.name, size: entry.bytes }).collect())
    }
}
