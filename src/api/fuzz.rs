//! Fuzz targets: what stands in requests, read without an application behind it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::auth::openstack::basic;
pub use super::cinder::fuzz_record as record;
use super::cinder::{Version, fuzz_body};
use super::identity::Claim;
use super::text::{form_pairs, parse_timestamp, parse_uuid, percent_decode, percent_encode, timestamp};
use super::waldur::context::parse_body;
use super::waldur::fields::{Fields, Text};
use super::waldur::links;
use crate::fuzz::Input;
use crate::http::{Peer, Request};

/// Texts of URLs and headers: what is written by us is read as what it was.
pub fn text(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    assert_eq!(percent_decode(&percent_encode(text)), text);
    let written: Vec<String> = form_pairs(text).iter().map(|(key, value)| format!("{}={}", percent_encode(key), percent_encode(value))).collect();
    assert_eq!(form_pairs(&written.join("&")), form_pairs(text));
    if let Some(uuid) = parse_uuid(text) {
        assert!(uuid.len() == 32 && uuid.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert_eq!(parse_uuid(&uuid), Some(uuid));
    }
    if let Some(time) = parse_timestamp(text) {
        let shown = timestamp(time.timestamp_millis());
        assert_eq!(parse_timestamp(&shown).map(|again| again.timestamp_millis()), Some(time.timestamp_millis()), "{text:?} is shown as {shown}");
    }
    for wanted in links::COLLECTIONS {
        if let Ok(uuid) = links::resolve(text, wanted) {
            assert_eq!(links::resolve(&format!("/api/{wanted}/{uuid}/"), wanted), Ok(uuid));
        }
    }
    if let Ok(version) = Version::from_header(Some(text)) {
        assert!(version <= Version::MAX);
        assert_eq!(Version::from_header(Some(&format!("volume {version}"))).ok(), Some(version));
    }
}

/// JSON and form bodies, and their fields by every rule there is.
pub fn bodies(data: &[u8]) {
    let mut input = Input(data);
    let kind = ["application/json", "application/x-www-form-urlencoded", "application/vnd.openstack.volume+json"][input.below(3) as usize];
    let request = Request {
        method: "POST".into(),
        path: "/".into(),
        query: String::new(),
        headers: vec![("content-type".into(), kind.into())],
        body: input.0.to_vec(),
        peer: Peer::Unix { uid: None },
    };
    fuzz_body(&request);
    if let Ok(body) = serde_json::from_slice::<Value>(&request.body) {
        let _ = Claim::read(&body);
    }
    let Ok(map) = parse_body(&request) else { return };
    let names: Vec<String> = map.keys().cloned().collect();
    for name in &names {
        let mut fields = Fields::new(map.clone(), false);
        let text = fields.text(name, &Text::optional(20));
        assert!(text.is_none_or(|text| text.chars().count() <= 20));
        let number = fields.integer(name, true, -5, 5);
        assert!(number.is_none_or(|number| (-5..=5).contains(&number)));
        let _ = (fields.text(name, &Text::required(4)), fields.text(name, &Text::not_blank(4)), fields.text(name, &Text::verbatim(4)));
        let _ = (fields.boolean(name), fields.strings(name), fields.link(name, true, links::PROJECTS));
        let _ = fields.finish();
    }
}

/// `Authorization: Basic`: what a client has encoded is what is understood.
pub fn credentials(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = basic(&text);
    assert_eq!(basic(&BASE64_STANDARD.encode(&*text)).as_deref(), Some(&*text));
}
