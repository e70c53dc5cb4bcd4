//! Percent-encoding (RFC 3986), form data and times, as the dialects write them.

use chrono::{DateTime, Datelike, NaiveDateTime, Utc};

use crate::clock;

/// Undoes percent-encoding; what is no valid escape stays as it is, what is no UTF-8 becomes U+FFFD.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_string();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let digits = escape.filter(|hex| hex.iter().all(u8::is_ascii_hexdigit)); // from_str_radix would take a sign too
        let value = digits.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// The pairs of a query or of an urlencoded body (application/x-www-form-urlencoded).
pub fn form_pairs(text: &str) -> Vec<(String, String)> {
    let decode = |part: &str| percent_decode(&part.replace('+', " "));
    let pair = |item: &str| match item.split_once('=') {
        Some((key, value)) => (decode(key), decode(value)),
        None => (decode(item), String::new()),
    };
    text.split('&').filter(|item| !item.is_empty()).map(pair).collect()
}

/// An identifier in any of its spellings (plain or dashed, any case) as 32 lower-case hex digits.
pub fn parse_uuid(text: &str) -> Option<String> {
    if !matches!(text.len(), 32 | 36) {
        return None;
    }
    uuid::Uuid::try_parse(text).ok().map(|uuid| uuid.simple().to_string())
}

/// UTC with exactly three digits of a second: `2014-10-19T20:43:37.370Z`.
pub fn timestamp(ms: i64) -> String {
    clock::from_ms(ms).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// ISO 8601 with an offset or Z; without either it is UTC. Only times that [`timestamp`] can write again: years 1 to 9999.
pub fn parse_timestamp(text: &str) -> Option<DateTime<Utc>> {
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let with_offset = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z"];
    let strict = || DateTime::parse_from_rfc3339(text).ok();
    let zoned = || with_offset.iter().find_map(|format| DateTime::parse_from_str(text, format).ok());
    let zulu = text.strip_suffix('Z').unwrap_or(text);
    let plain = || naive.iter().find_map(|format| NaiveDateTime::parse_from_str(zulu, format).ok()).map(|time| time.and_utc());
    let time = strict().or_else(zoned).map(|time| time.with_timezone(&Utc)).or_else(plain);
    time.filter(|time| (1..=9999).contains(&time.year()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding_never_fails() {
        assert_eq!(percent_decode("a%20b%2Fc"), "a b/c");
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
        assert_eq!(percent_decode("%+1"), "%+1");
        assert_eq!(percent_decode("%ff"), "\u{fffd}");
    }

    #[test]
    fn percent_encoding_is_undone() {
        let text = "a b/ü?&=~-._%";
        assert_eq!(percent_encode("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(percent_decode(&percent_encode(text)), text);
    }

    #[test]
    fn forms_are_pairs() {
        assert_eq!(form_pairs("a=b+c&d&e=%3D"), [("a".into(), "b c".into()), ("d".into(), String::new()), ("e".into(), "=".into())]);
    }

    #[test]
    fn timestamps_have_three_digits_and_a_z() {
        assert_eq!(timestamp(1_413_751_417_370), "2014-10-19T20:43:37.370Z");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn timestamps_are_read_in_any_iso_spelling() {
        for text in ["2014-10-19T20:43:37.370Z", "2014-10-19T22:43:37.370+02:00", "2014-10-19T20:43:37.370", "2014-10-19 20:43:37.37"] {
            assert_eq!(parse_timestamp(text).map(|t| t.timestamp_millis()), Some(1_413_751_417_370), "{text}");
        }
        assert_eq!(parse_timestamp("2014-10-19T20:43Z").map(|t| timestamp(t.timestamp_millis())).as_deref(), Some("2014-10-19T20:43:00.000Z"));
        for text in ["yesterday", "+12345-01-01T00:00:00", "-0001-01-01T00:00", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }
}
