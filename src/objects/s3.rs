//! S3: what rusty-s3 signs, `http.rs` carries. A put is checked by the server, by the MD5 that is sent with it, and the tag of its
//! answer is looked at where that is an MD5 too.

use std::ops::Range;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use rusty_s3::actions::{ListObjectsV2, S3Action};
use rusty_s3::{Bucket, UrlStyle};
use ureq::http::Method;
use url::Url;

use super::http::{Answer, Ask, Http, Tls, hex, md5_of_tag};
use super::retry::Cancel;
use super::{Backend, Credentials, Listed, ObjectError, PAGE, Settings};

/// How long a signature is good for: it is checked when the request begins.
const SIGNED_FOR: Duration = Duration::from_secs(900);
const DEFAULT_REGION: &str = "us-east-1";
const LIST_LIMIT: usize = 8 << 20;

pub struct S3 {
    http: Http,
    bucket: Bucket,
    credentials: rusty_s3::Credentials,
    place: String,
}

impl S3 {
    pub fn new(settings: &Settings, credentials: &Credentials) -> Result<S3, ObjectError> {
        let wrong = |why: &str| ObjectError::Settings(why.to_owned());
        let endpoint: Url = settings.endpoint.as_deref().unwrap_or_default().parse().map_err(|_| wrong("endpoint is no address"))?;
        let (Some(key), Some(secret)) = (&credentials.access_key, &credentials.secret_key) else {
            return Err(wrong("S3 needs aws_access_key_id and aws_secret_access_key in the file that `credentials` names"));
        };
        let signing = match &credentials.session_token {
            Some(token) => rusty_s3::Credentials::new_with_token(key, secret, token),
            None => rusty_s3::Credentials::new(key, secret),
        };
        let http = Http::new(settings, Tls::of(&endpoint), credentials.secrets())?;
        let style = if settings.virtual_host { UrlStyle::VirtualHost } else { UrlStyle::Path };
        let region = settings.region.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let bucket = Bucket::new(endpoint, style, settings.bucket.clone().unwrap_or_default(), region)
            .map_err(|_| wrong("endpoint and bucket do not give an address; virtual_host needs a host name and a bucket that can be part of one"))?;
        Ok(S3 { http, bucket, credentials: signing, place: settings.place_name() })
    }

    fn ask<'a>(
        &'a self,
        method: Method,
        mut action: impl S3Action<'a>,
        signed: Vec<(&'static str, String)>,
        ask: Ask<'_>,
        cancel: &Cancel,
    ) -> Result<Answer, ObjectError> {
        for (name, value) in &signed {
            action.headers_mut().insert(*name, value.clone());
        }
        let url = action.sign(SIGNED_FOR);
        let headers = ask.headers.into_iter().chain(signed).collect();
        self.http.ask(Ask { method, url: &url, headers, ..ask }, cancel)
    }

    /// A request without a body of its own.
    fn plain<'a>(&'a self, method: Method, action: impl S3Action<'a>, headers: Vec<(&'static str, String)>, limit: usize, cancel: &Cancel) -> Result<Answer, ObjectError> {
        let url = self.bucket.base_url();
        self.ask(method, action, Vec::new(), Ask { method: Method::GET, url, headers, body: None, limit }, cancel)
    }

    fn failure(&self, name: &str, answer: &Answer, cancel: &Cancel) -> ObjectError {
        let message = || answer.message();
        match (answer.status, answer.code().as_str()) {
            (404, "NoSuchBucket") => ObjectError::NoPlace(self.place.clone()),
            // HEAD has no code, and servers differ.
            (404, code) if code != "NoSuchKey" && !self.bucket_is_there(cancel) => ObjectError::NoPlace(self.place.clone()),
            (400, "BadDigest" | "InvalidDigest" | "IncompleteBody") => ObjectError::Corrupt { name: name.to_owned(), why: message() },
            (400, "RequestTimeout") => ObjectError::Unreachable { host: answer.host.clone(), error: message() },
            (403, code) if code.contains("Quota") || code.contains("StorageFull") => ObjectError::Full { place: self.place.clone(), message: message() },
            (403, "RequestTimeTooSkewed") => self.refused(answer, "the clocks of this host and of the server differ: set this one right"),
            (400, "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" | "InvalidToken" | "ExpiredToken") => {
                self.refused(answer, "check region, key and secret")
            }
            (400 | 301, _) if answer.header("x-amz-bucket-region").is_some() => {
                let region = answer.shown_header("x-amz-bucket-region").unwrap_or_default();
                self.refused(answer, &format!("the bucket is in the region {region}: set region and endpoint to that"))
            }
            _ => answer.failure(&self.place, name),
        }
    }

    fn refused(&self, answer: &Answer, remedy: &str) -> ObjectError {
        ObjectError::Refused { place: self.place.clone(), status: answer.status, message: answer.message(), remedy: remedy.to_owned() }
    }

    /// False only if the server says that it is not.
    fn bucket_is_there(&self, cancel: &Cancel) -> bool {
        let answer = self.plain(Method::HEAD, self.bucket.head_bucket(Some(&self.credentials)), Vec::new(), 0, cancel);
        !answer.is_ok_and(|answer| answer.status == 404)
    }

    fn expect(&self, name: &str, answer: Answer, cancel: &Cancel) -> Result<Answer, ObjectError> {
        if answer.is_ok() { Ok(answer) } else { Err(self.failure(name, &answer, cancel)) }
    }
}

/// The tag of the answer, if it is the MD5 of the object: not with keys of the customer or of KMS.
fn tag(answer: &Answer) -> Option<String> {
    let with_key = answer.header("x-amz-server-side-encryption").is_some_and(|kind| kind.starts_with("aws:"))
        || answer.header("x-amz-server-side-encryption-customer-algorithm").is_some();
    md5_of_tag(answer.header("etag")).filter(|_| !with_key)
}

impl Backend for S3 {
    fn put(&self, name: &str, body: &[u8], cancel: &Cancel) -> Result<(), ObjectError> {
        let md5 = Md5::digest(body);
        let signed = vec![("content-md5", BASE64.encode(md5))];
        let action = self.bucket.put_object(Some(&self.credentials), name);
        let ask = Ask { method: Method::PUT, url: self.bucket.base_url(), headers: Vec::new(), body: Some(body), limit: 64 << 10 };
        let answer = self.expect(name, self.ask(Method::PUT, action, signed, ask, cancel)?, cancel)?;
        match tag(&answer) {
            Some(tag) if tag != hex(&md5) => Err(ObjectError::Corrupt { name: name.to_owned(), why: "the server has stored other bytes (ETag)".to_owned() }),
            _ => Ok(()),
        }
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: usize, cancel: &Cancel) -> Result<Vec<u8>, ObjectError> {
        let action = self.bucket.get_object(Some(&self.credentials), name);
        let headers = range.iter().map(|range| ("range", format!("bytes={}-{}", range.start, range.end - 1))).collect();
        let answer = self.expect(name, self.plain(Method::GET, action, headers, limit, cancel)?, cancel)?;
        whole_or_range(&self.place, name, range, tag(&answer), answer)
    }

    fn size(&self, name: &str, cancel: &Cancel) -> Result<Option<u64>, ObjectError> {
        let action = self.bucket.head_object(Some(&self.credentials), name);
        let answer = self.plain(Method::HEAD, action, Vec::new(), 0, cancel)?;
        match self.expect(name, answer, cancel) {
            Ok(answer) => length(&self.place, name, &answer).map(Some),
            Err(ObjectError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn delete(&self, name: &str, cancel: &Cancel) -> Result<(), ObjectError> {
        let action = self.bucket.delete_object(Some(&self.credentials), name);
        match self.expect(name, self.plain(Method::DELETE, action, Vec::new(), 64 << 10, cancel)?, cancel) {
            Err(ObjectError::NotFound(_)) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn list(&self, prefix: &str, after: &str, cancel: &Cancel) -> Result<Vec<Listed>, ObjectError> {
        let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
        action.with_max_keys(PAGE);
        action.with_prefix(prefix);
        if !after.is_empty() {
            action.with_start_after(after);
        }
        let answer = self.expect(prefix, self.plain(Method::GET, action, Vec::new(), LIST_LIMIT, cancel)?, cancel)?;
        let unexpected = |what: &str| ObjectError::Unexpected { place: self.place.clone(), what: what.to_owned() };
        let text = std::str::from_utf8(&answer.body).map_err(|_| unexpected("a list that is no text"))?;
        let list = ListObjectsV2::parse_response(text).map_err(|_| unexpected("a list that is not S3's"))?;
        if list.contents.is_empty() && list.next_continuation_token.is_some() {
            return Err(unexpected("an empty page that is not the last one of its list"));
        }
        list.contents
            .into_iter()
            .map(|listed| Ok(Listed { size: listed.size.ok_or_else(|| unexpected("a list without sizes"))?, name: listed.key }))
            .collect()
    }
}

/// The bytes of an answer to a GET, if they are what was asked for.
pub(super) fn whole_or_range(place: &str, name: &str, range: Option<Range<u64>>, md5: Option<String>, answer: Answer) -> Result<Vec<u8>, ObjectError> {
    let Some(range) = range else {
        return match md5 {
            Some(md5) if md5 != hex(&Md5::digest(&answer.body)) => {
                Err(ObjectError::Corrupt { name: name.to_owned(), why: "its bytes do not fit its tag (ETag)".to_owned() })
            }
            _ => Ok(answer.body),
        };
    };
    let unexpected = |what: String| ObjectError::Unexpected { place: place.to_owned(), what };
    let Some(given) = answer.header("content-range").filter(|_| answer.status == 206) else {
        return Err(unexpected(format!("status {} to a request for a part of {name}", answer.status)));
    };
    match given.strip_prefix("bytes ").and_then(|given| given.split_once('/')) {
        Some((span, _)) if span == format!("{}-{}", range.start, range.end - 1) => Ok(answer.body),
        Some((span, total)) if span.starts_with(&format!("{}-", range.start)) => {
            Err(ObjectError::Short { name: name.to_owned(), why: format!("it has {total} bytes, and bytes up to {} were asked for", range.end) })
        }
        _ => Err(unexpected(format!("another part of {name} than was asked for"))),
    }
}

pub(super) fn length(place: &str, name: &str, answer: &Answer) -> Result<u64, ObjectError> {
    answer.length().ok_or_else(|| ObjectError::Unexpected { place: place.to_owned(), what: format!("no length of {name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(more: &str) -> Result<S3, ObjectError> {
        let settings: Settings = toml::from_str(&format!("kind = 's3'\nendpoint = 'https://s3.example.org'\nbucket = 'b'\n{more}")).unwrap();
        let credentials = Credentials { access_key: Some("AK".into()), secret_key: Some("hunter2".into()), ..Credentials::default() };
        S3::new(&settings, &credentials)
    }

    #[test]
    fn the_bucket_is_in_the_path_or_in_the_host() {
        let url = |more| s3(more).unwrap().bucket.object_url("a/b").to_string();
        assert_eq!(url(""), "https://s3.example.org/b/a/b");
        assert_eq!(url("virtual_host = true"), "https://b.s3.example.org/a/b");
        let signed = |more: &str| {
            let s3 = s3(more).unwrap();
            s3.bucket.get_object(Some(&s3.credentials), "n").sign(SIGNED_FOR).to_string()
        };
        assert!(signed("").contains("us-east-1%2Fs3") && signed("region = 'eu-1'").contains("eu-1%2Fs3"));
        assert!(!signed("").contains("hunter2"));
    }

    #[test]
    fn keys_are_needed() {
        let settings: Settings = toml::from_str("kind = 's3'\nendpoint = 'http://h'\nbucket = 'b'").unwrap();
        let Err(error) = S3::new(&settings, &Credentials::default()) else { panic!("it was opened") };
        assert!(error.to_string().contains("aws_secret_access_key"), "{error}");
    }
}
