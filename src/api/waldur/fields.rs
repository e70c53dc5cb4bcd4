//! Reading a request's body field by field, with the messages of Django REST framework 3.1. All failing fields are
//! reported at once; unknown fields are ignored.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::links;

const REQUIRED: &str = "This field is required.";
const NULL: &str = "This field may not be null.";
const BLANK: &str = "This field may not be blank.";
const NOT_INTEGER: &str = "A valid integer is required.";

pub struct Fields {
    values: Map<String, Value>,
    errors: Map<String, Value>,
    /// PATCH: nothing is required.
    partial: bool,
}

/// What a text field allows.
pub struct Text {
    pub required: bool,
    pub blank: bool,
    /// Characters.
    pub max: usize,
    /// Blanks at the ends are not part of it.
    pub trim: bool,
}

impl Text {
    pub fn required(max: usize) -> Text {
        Text { required: true, blank: false, max, trim: true }
    }

    pub fn optional(max: usize) -> Text {
        Text { required: false, blank: true, max, trim: true }
    }

    /// May be left out, but must not be empty.
    pub fn not_blank(max: usize) -> Text {
        Text { required: false, blank: false, max, trim: true }
    }

    /// Kept to the last blank and newline.
    pub fn verbatim(max: usize) -> Text {
        Text { required: false, blank: true, max, trim: false }
    }
}

impl Fields {
    pub fn new(values: Map<String, Value>, partial: bool) -> Fields {
        Fields { values, errors: Map::new(), partial }
    }

    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub fn error(&mut self, name: &str, message: impl Into<String>) {
        let messages = self.errors.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(messages) = messages {
            messages.push(Value::String(message.into()));
        }
    }

    /// Refuses the request if any field was wrong.
    pub fn finish(&mut self) -> Result<(), ApiError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::fields(std::mem::take(&mut self.errors))) }
    }

    /// The value if there is one; reports a missing or null one.
    fn present(&mut self, name: &str, required: bool) -> Option<Value> {
        match self.values.get(name).cloned() {
            None if required && !self.partial => {
                self.error(name, REQUIRED);
                None
            }
            None => None,
            Some(Value::Null) => {
                self.error(name, NULL);
                None
            }
            value => value,
        }
    }

    pub fn text(&mut self, name: &str, rule: &Text) -> Option<String> {
        let text = match self.present(name, rule.required)? {
            Value::String(text) if rule.trim => text.trim().to_string(),
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => {
                self.error(name, "Not a valid string.");
                return None;
            }
        };
        if text.is_empty() && !rule.blank {
            self.error(name, BLANK);
            return None;
        }
        if text.chars().count() > rule.max {
            self.error(name, format!("Ensure this field has no more than {} characters.", rule.max));
            return None;
        }
        if text.contains('\0') {
            self.error(name, "Null characters are not allowed.");
            return None;
        }
        Some(text)
    }

    pub fn integer(&mut self, name: &str, required: bool, min: i64, max: i64) -> Option<i64> {
        let value = self.present(name, required)?;
        let Some(number) = as_integer(&value) else {
            self.error(name, NOT_INTEGER);
            return None;
        };
        if number < min {
            self.error(name, format!("Ensure this value is greater than or equal to {min}."));
            return None;
        }
        if number > max {
            self.error(name, format!("Ensure this value is less than or equal to {max}."));
            return None;
        }
        Some(number)
    }

    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.present(name, false)?;
        let known = match &value {
            Value::Bool(value) => Some(*value),
            Value::Number(n) if n.as_i64() == Some(1) => Some(true),
            Value::Number(n) if n.as_i64() == Some(0) => Some(false),
            Value::String(text) => match text.as_str() {
                "t" | "T" | "true" | "True" | "TRUE" | "1" => Some(true),
                "f" | "F" | "false" | "False" | "FALSE" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if known.is_none() {
            let shown = match &value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            self.error(name, format!("\"{shown}\" is not a valid boolean."));
        }
        known
    }

    /// The uuid a link to a member of `collection` names; whether that exists is the caller's question.
    pub fn link(&mut self, name: &str, required: bool, collection: &str) -> Option<String> {
        // Null counts as null even where the field may be left out; "" as null too.
        match self.present(name, required)? {
            Value::String(text) if text.trim().is_empty() => {
                self.error(name, NULL);
                None
            }
            Value::String(text) => match links::resolve(text.trim(), collection) {
                Ok(uuid) => Some(uuid),
                Err(message) => {
                    self.error(name, message);
                    None
                }
            },
            other => {
                self.error(name, format!("Incorrect type. Expected URL string, received {}.", python_type(&other)));
                None
            }
        }
    }

    /// A field whose null means "not given".
    pub fn drop_null(&mut self, name: &str) {
        if self.values.get(name) == Some(&Value::Null) {
            self.values.remove(name);
        }
    }

    /// A list of short strings, such as tags.
    pub fn strings(&mut self, name: &str) -> Option<Vec<String>> {
        let value = self.present(name, false)?;
        let list = value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_string)).collect());
        if list.is_none() {
            self.error(name, "Expected a list of strings.");
        }
        list
    }
}

fn as_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            // Out of i64's range the bounds must speak, not the parser.
            if float.fract() != 0.0 { None } else { Some(float.clamp(i64::MIN as f64, i64::MAX as f64) as i64) }
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The name Django REST framework would print.
fn python_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        let Value::Object(map) = value else { panic!("an object") };
        Fields::new(map, false)
    }

    #[test]
    fn all_failing_fields_are_reported_at_once() {
        let mut f = fields(json!({"number": "3.5", "flag": "maybe", "text": "", "link": 5}));
        f.integer("number", true, 0, 10);
        f.boolean("flag");
        f.text("text", &Text::required(5));
        f.link("link", true, links::INSTANCES);
        f.text("missing", &Text::required(5));
        let response = f.finish().unwrap_err().into_response();
        assert_eq!(response.status, 400);
        assert_eq!(
            serde_json::from_slice::<Value>(&response.body).unwrap(),
            json!({"number": ["A valid integer is required."], "flag": ["\"maybe\" is not a valid boolean."],
                "text": ["This field may not be blank."], "link": ["Incorrect type. Expected URL string, received int."],
                "missing": ["This field is required."]})
        );
    }

    #[test]
    fn integers_are_coerced_as_django_does() {
        for (value, wanted) in [(json!(7), Some(7)), (json!("7"), Some(7)), (json!(7.0), Some(7)), (json!(true), None), (json!([]), None), (json!("3.5"), None)] {
            assert_eq!(fields(json!({"n": value})).integer("n", true, 0, 10), wanted);
        }
        let mut f = fields(json!({"n": 11, "m": -1, "huge": 1e300}));
        assert_eq!((f.integer("n", true, 0, 10), f.integer("m", true, 0, 10), f.integer("huge", true, 0, 10)), (None, None, None));
        assert!(f.finish().is_err());
    }
}
