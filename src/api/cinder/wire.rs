//! Identifiers, times and links as Cinder writes them. They are written straight into the answer: a list has thousands of them.

use std::fmt;

use chrono::{Datelike, Timelike};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::json;

use crate::clock;

/// 32 hex digits with dashes between them (RFC 9562); what is none stays as it is.
#[derive(Clone, Copy)]
pub struct Id<'a>(pub &'a str);

/// Bytes of a uuid with dashes.
const ID_BYTES: usize = 36;
const DASHES: [usize; 4] = [8, 13, 18, 23];
/// `2014-10-19T20:43:37.370000`
const TIME_BYTES: usize = 26;

impl<'a> Id<'a> {
    /// The text, put together in the buffer if it is not there already.
    fn text<'b>(&'b self, buffer: &'b mut [u8; ID_BYTES]) -> &'b str {
        let digits = self.0.as_bytes();
        if digits.len() != ID_BYTES - DASHES.len() || !digits.is_ascii() {
            return self.0;
        }
        let mut rest = digits.iter();
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = if DASHES.contains(&at) { b'-' } else { *rest.next().unwrap_or(&b'0') };
        }
        std::str::from_utf8(buffer).unwrap_or(self.0)
    }
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.text(&mut [0; ID_BYTES]))
    }
}

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text(&mut [0; ID_BYTES]))
    }
}

/// Milliseconds as UTC with microseconds and without a zone (Cinder contract 0.4).
#[derive(Clone, Copy)]
pub struct Time(pub i64);

impl Time {
    /// The text, put together in the buffer. Digit by digit, because chrono reads its formats anew each time.
    fn text(self, buffer: &mut [u8; TIME_BYTES]) -> &str {
        let at = clock::from_ms(self.0);
        *buffer = *b"0000-00-00T00:00:00.000000";
        let numbers = [
            (0..4, at.year().clamp(0, 9999).unsigned_abs()),
            (5..7, at.month()),
            (8..10, at.day()),
            (11..13, at.hour()),
            (14..16, at.minute()),
            (17..19, at.second()),
            (20..26, at.timestamp_subsec_micros()),
        ];
        for (place, mut number) in numbers {
            for digit in buffer[place].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        std::str::from_utf8(buffer).unwrap_or_default()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.text(&mut [0; TIME_BYTES]))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text(&mut [0; TIME_BYTES]))
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
        for part in [base, self.version, project_path, "/", collection, "/"] {
            f.write_str(part)?;
        }
        f.write_str(Id(uuid).text(&mut [0; ID_BYTES]))
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
