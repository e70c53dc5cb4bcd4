//! Request bodies: JSON objects whose fields are checked one by one; the first that is wrong is named (Cinder contract 0.2, 1.1).

use serde_json::{Map, Value};

use super::error::CinderError;
use crate::api::text::parse_uuid;
use crate::http::Request;

/// Bytes (Cinder contract 0.1).
const MAX_BODY: usize = 114_688;
/// Characters in a name, a description, a key or a value.
const MAX_TEXT: usize = 255;
/// Items of metadata, as many as Cinder's quota for them has.
const MAX_LABELS: usize = 128;

/// The body as an object. One that is missing is an error.
pub fn parse(request: &Request) -> Result<Object, CinderError> {
    if request.body.len() > MAX_BODY {
        return Err(CinderError::too_large(MAX_BODY));
    }
    if request.body.iter().all(u8::is_ascii_whitespace) {
        return Err(CinderError::bad_request("The request has no body; a JSON object is required."));
    }
    if let Some(found) = request.header("content-type") {
        let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !matches!(essence.as_str(), "application/json" | "application/vnd.openstack.volume+json") {
            return Err(CinderError::media_type(found));
        }
    }
    match serde_json::from_slice(&request.body) {
        Ok(Value::Object(map)) => Ok(Object { name: "the body", map }),
        Ok(_) => Err(CinderError::bad_request("The body is no JSON object.")),
        Err(error) => Err(CinderError::bad_request(format!("The body is no JSON: {error}."))),
    }
}

/// The object inside `{"wrapper": {...}}`, which has no other keys.
pub fn unwrap(request: &Request, wrapper: &'static str) -> Result<Object, CinderError> {
    let body = parse(request)?;
    body.only(&[wrapper])?;
    body.object(wrapper)?.ok_or_else(|| CinderError::bad_request(format!("\"{wrapper}\" is required.")))
}

/// A JSON object of a body.
pub struct Object {
    name: &'static str,
    map: Map<String, Value>,
}

/// A field that may be left out, or be null.
pub type Given<T> = Option<Option<T>>;

impl Object {
    pub fn empty(name: &'static str) -> Object {
        Object { name, map: Map::new() }
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// Refuses keys that are not among these.
    pub fn only(&self, allowed: &[&str]) -> Result<(), CinderError> {
        match self.map.keys().find(|key| !allowed.contains(&key.as_str())) {
            Some(key) => Err(CinderError::bad_request(format!("\"{key}\" is not a field of {} in this version of the API.", self.name))),
            None => Ok(()),
        }
    }

    fn wrong(&self, key: &str, what: &str) -> CinderError {
        let shown: String = self.map.get(key).map_or_else(String::new, Value::to_string).chars().take(100).collect();
        CinderError::bad_request(format!("{key}: {shown} {what}."))
    }

    /// An object; null is one that is not there.
    pub fn object(&self, key: &'static str) -> Result<Option<Object>, CinderError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Object { name: key, map: map.clone() })),
            Some(_) => Err(self.wrong(key, "is no object")),
        }
    }

    /// A string of at most 255 characters, or null.
    pub fn text(&self, key: &str) -> Result<Given<String>, CinderError> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) if text.chars().count() <= MAX_TEXT => Ok(Some(Some(text.clone()))),
            Some(Value::String(_)) => Err(self.wrong(key, "is longer than 255 characters")),
            Some(_) => Err(self.wrong(key, "is no string")),
        }
    }

    /// A name: outer blanks do not belong to it.
    pub fn name(&self, key: &str) -> Result<Given<String>, CinderError> {
        Ok(self.text(key)?.map(|text| text.map(|text| text.trim().to_string())))
    }

    /// A description: no control characters, so no line breaks.
    pub fn description(&self, key: &str) -> Result<Given<String>, CinderError> {
        let text = self.text(key)?;
        match &text {
            Some(Some(text)) if text.chars().any(char::is_control) => Err(self.wrong(key, "has control characters or line breaks")),
            _ => Ok(text),
        }
    }

    /// An identifier in any spelling, as 32 hex digits; null is one that is not there.
    pub fn uuid(&self, key: &str) -> Result<Option<String>, CinderError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => parse_uuid(text).map(Some).ok_or_else(|| self.wrong(key, "is no UUID")),
            Some(_) => Err(self.wrong(key, "is no UUID")),
        }
    }

    pub fn required_uuid(&self, key: &str) -> Result<String, CinderError> {
        self.uuid(key)?.ok_or_else(|| CinderError::bad_request(format!("{key} is required and must be a UUID.")))
    }

    /// A boolean or a word that stands for one; false if it is not there.
    pub fn boolean(&self, key: &str) -> Result<bool, CinderError> {
        match self.map.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(word)) => boolean_word(word).ok_or_else(|| self.wrong(key, "is neither true nor false")),
            Some(_) => Err(self.wrong(key, "is neither true nor false")),
        }
    }

    pub fn required_boolean(&self, key: &str) -> Result<bool, CinderError> {
        if self.has(key) { self.boolean(key) } else { Err(CinderError::bad_request(format!("{key} is required."))) }
    }

    /// A whole number or a string of its digits.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, CinderError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => number.as_i64().map(Some).ok_or_else(|| self.wrong(key, "is no whole number")),
            Some(Value::String(digits)) => {
                let number = digits.parse().ok().filter(|_| !digits.starts_with('+'));
                number.map(Some).ok_or_else(|| self.wrong(key, "is no whole number"))
            }
            Some(_) => Err(self.wrong(key, "is no whole number")),
        }
    }

    /// An object of strings, as JSON text.
    pub fn labels(&self, key: &str) -> Result<Given<String>, CinderError> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::Object(map)) => {
                check_labels(map)?;
                Ok(Some(Some(Value::Object(map.clone()).to_string())))
            }
            Some(_) => Err(self.wrong(key, "is no object of strings")),
        }
    }
}

/// Metadata as it may be given.
pub fn check_labels(labels: &Map<String, Value>) -> Result<(), CinderError> {
    check_number(labels.len())?;
    labels.iter().try_for_each(|(label, value)| check_label(label, value))
}

/// It is a place for notes, and read whenever what it belongs to is.
pub fn check_number(labels: usize) -> Result<(), CinderError> {
    match labels {
        0..=MAX_LABELS => Ok(()),
        _ => Err(CinderError::bad_request(format!("metadata: {labels} items are more than the {MAX_LABELS} that there may be."))),
    }
}

/// Keys are 1 to 255 letters, digits and `- _ : . / space`; values are strings of at most 255 characters.
fn check_label(label: &str, value: &Value) -> Result<(), CinderError> {
    let shown: String = label.chars().take(100).collect();
    let good = !label.is_empty()
        && label.chars().count() <= MAX_TEXT
        && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_:./ ".contains(c));
    if !good {
        return Err(CinderError::bad_request(format!(
            "metadata: the key \"{shown}\" is not made of 1 to 255 letters (a to z), digits, blanks and - _ : . /."
        )));
    }
    match value {
        Value::String(text) if text.chars().count() <= MAX_TEXT => Ok(()),
        _ => Err(CinderError::bad_request(format!("metadata: the value of \"{shown}\" is no string of at most 255 characters."))),
    }
}

/// The words that stand for a boolean (Cinder contract 1.1).
pub fn boolean_word(word: &str) -> Option<bool> {
    match word {
        "True" | "TRUE" | "true" | "1" | "ON" | "On" | "on" | "YES" | "Yes" | "yes" | "y" | "t" => Some(true),
        "False" | "FALSE" | "false" | "0" | "OFF" | "Off" | "off" | "NO" | "No" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// Fuzz target: every way to read a field. What passes can be written and read again.
#[cfg(fuzzing)]
pub fn fuzz(request: &Request) {
    let Ok(body) = parse(request) else { return };
    for key in body.keys() {
        let text = body.text(key).ok().flatten().flatten();
        assert!(text.is_none_or(|text| text.chars().count() <= MAX_TEXT));
        assert!(body.description(key).ok().flatten().flatten().is_none_or(|text| !text.chars().any(char::is_control)));
        assert!(body.uuid(key).ok().flatten().is_none_or(|uuid| parse_uuid(&uuid).as_ref() == Some(&uuid)));
        let labels = body.labels(key).ok().flatten().flatten();
        assert!(labels.is_none_or(|labels| serde_json::from_str::<Map<String, Value>>(&labels).is_ok_and(|map| map.len() <= MAX_LABELS)));
        let _ = (body.name(key), body.boolean(key), body.required_boolean(key), body.integer(key), body.required_uuid(key));
    }
    let _ = body.object("backup").map(|inner| inner.map(|inner| inner.only(&["name", "volume_id"])));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        let Value::Object(map) = value else { panic!("{value} is no object") };
        Object { name: "backup", map }
    }

    #[test]
    fn fields_are_absent_null_or_given() {
        let fields = object(json!({"a": null, "b": " x ", "c": "y".repeat(256), "d": 1}));
        assert_eq!(fields.name("z").unwrap(), None);
        assert_eq!(fields.name("a").unwrap(), Some(None));
        assert_eq!(fields.name("b").unwrap(), Some(Some("x".into())));
        assert!(fields.name("c").is_err() && fields.name("d").is_err());
    }

    #[test]
    fn numbers_are_whole() {
        let fields = object(json!({"a": 1, "b": "12", "c": 1.5, "d": "+1", "e": true, "f": null, "g": -1, "h": ""}));
        let read: Vec<_> = "abcdefgh".chars().map(|key| fields.integer(&key.to_string()).ok()).collect();
        assert_eq!(read, [Some(Some(1)), Some(Some(12)), None, None, None, Some(None), Some(Some(-1)), None]);
    }

    #[test]
    fn labels_are_strings_under_plain_keys() {
        for (labels, good) in [
            (json!({"a-b_c:d.e/f g": "v", "Z9": "ключ"}), true),
            (json!({"ключ": "v"}), false),
            (json!({"": "v"}), false),
            (json!({"a!": "v"}), false),
            (json!({"a": null}), false),
            (json!({"a": 1}), false),
            (json!({"a": "v".repeat(256)}), false),
            (json!([]), false),
        ] {
            assert_eq!(object(json!({"metadata": labels})).labels("metadata").is_ok(), good, "{labels}");
        }
    }
}
