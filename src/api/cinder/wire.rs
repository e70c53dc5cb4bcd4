//! Identifiers, times and links as Cinder writes them. They are written straight into the answer: a list has thousands of them.

use std::fmt;

use chrono::{Datelike, Timelike};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::json;

use crate::clock;

/// 32 hex digits with dashes between them (RFC 9562); what is none stays as it is.
#[derive(Clone, Copy)]
pub struct Id<'a>(pub &'a str);

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let uuid = self.0;
        match uuid.len() == 32 && uuid.is_ascii() {
            true => write!(f, "{}-{}-{}-{}-{}", &uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]),
            false => f.write_str(uuid),
        }
    }
}

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Milliseconds as UTC with microseconds and without a zone (Cinder contract 0.4).
#[derive(Clone, Copy)]
pub struct Time(pub i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let at = clock::from_ms(self.0);
        let (year, month, day) = (at.year(), at.month(), at.day());
        // Not by chrono's formats, which are read anew each time.
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())?;
        write!(f, ".{:06}", at.timestamp_subsec_micros())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `[self, bookmark]` of a member of a collection (Cinder contract 2.1).
#[derive(Clone, Copy)]
pub struct Links<'a> {
    /// Scheme and host.
    pub base: &'a str,
    /// The project as the request's URL named it, with a slash before it; or nothing.
    pub project_path: &'a str,
    pub collection: &'a str,
    pub uuid: &'a str,
}

impl Serialize for Links<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut links = serializer.serialize_seq(Some(2))?;
        links.serialize_element(&Link { rel: "self", href: Href { version: "/v3", links: self } })?;
        links.serialize_element(&Link { rel: "bookmark", href: Href { version: "", links: self } })?;
        links.end()
    }
}

#[derive(serde::Serialize)]
struct Link<'a> {
    rel: &'static str,
    href: Href<'a>,
}

struct Href<'a> {
    version: &'static str,
    links: &'a Links<'a>,
}

impl fmt::Display for Href<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Links { base, project_path, collection, uuid } = self.links;
        write!(f, "{base}{}{project_path}/{collection}/{}", self.version, Id(uuid))
    }
}

impl Serialize for Href<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A list's answer; the keys of its items and of the links are named after the collection.
pub struct Collection<'a, T> {
    pub name: &'static str,
    pub items: &'a [T],
    /// Where the next page is.
    pub next: Option<String>,
    pub count: Option<i64>,
}

impl<T: Serialize> Serialize for Collection<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.name, self.items)?;
        if let Some(href) = &self.next {
            map.serialize_entry(&format!("{}_links", self.name), &json!([{"rel": "next", "href": href}]))?;
        }
        if let Some(count) = self.count {
            map.serialize_entry("count", &count)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn identifiers_have_dashes() {
        assert_eq!(Id(UUID).to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        for other in ["", "short", "ü".repeat(16).as_str()] {
            assert_eq!(Id(other).to_string(), other);
        }
    }

    #[test]
    fn times_have_microseconds_and_no_zone() {
        assert_eq!(Time(1_413_751_417_370).to_string(), "2014-10-19T20:43:37.370000");
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000000");
    }

    #[test]
    fn links_repeat_the_form_of_the_request() {
        let links = Links { base: "http://h", project_path: "/p", collection: "backups", uuid: UUID };
        let id = Id(UUID);
        assert_eq!(
            json!(links),
            json!([{"rel": "self", "href": format!("http://h/v3/p/backups/{id}")}, {"rel": "bookmark", "href": format!("http://h/p/backups/{id}")}])
        );
        assert_eq!(json!(Links { project_path: "", ..links })[0]["href"], format!("http://h/v3/backups/{id}"));
    }

    #[test]
    fn lists_are_named_after_their_collection() {
        let list = Collection { name: "backups", items: &[1, 2], next: Some("u".into()), count: Some(7) };
        assert_eq!(json!(list), json!({"backups": [1, 2], "backups_links": [{"rel": "next", "href": "u"}], "count": 7}));
        let last = Collection { name: "backups", items: &[1], next: None, count: None };
        assert_eq!(json!(last), json!({"backups": [1]}));
    }
}
