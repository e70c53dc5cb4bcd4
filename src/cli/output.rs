//! How results look on a terminal: tables, sizes, times. Text from the coffer is stripped of control characters, so that a
//! name cannot steer the terminal.

use serde_json::Value;

use crate::logging::{plain, steers};

/// A table's column: its heading and what it shows of an entry.
pub type Column = (&'static str, fn(&Value) -> String);

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
/// Hex digits of a uuid; one without letters, or with a single `e`, reads as a number.
const UUID_LENGTH: usize = 32;

/// Entries as aligned columns under their headings; columns of numbers are aligned to the right.
pub fn table(columns: &[Column], entries: &[Value]) -> String {
    let rows: Vec<Vec<String>> = entries.iter().map(|entry| columns.iter().map(|(_, cell)| plain(&cell(entry))).collect()).collect();
    let heads = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
    aligned(heads, &rows)
}

/// A number, or a size as [`bytes`] shows it; no uuid, time or name that begins with a digit.
fn is_amount(cell: &str) -> bool {
    let (number, unit) = cell.split_once(' ').unwrap_or((cell, "B"));
    UNITS.contains(&unit) && number.len() < UUID_LENGTH && number.parse::<f64>().is_ok()
}

fn aligned(heads: Vec<String>, rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0).max(heads[i].chars().count());
    let right = |i: usize| !rows.is_empty() && rows.iter().all(|row| is_amount(&row[i]));
    let shape: Vec<(usize, bool)> = (0..heads.len()).map(|i| (width(i), right(i))).collect();
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&shape)
            .map(|(cell, (width, right))| if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// One object as `name: value` lines; lists of objects in it become indented tables.
pub fn details(value: &Value) -> String {
    let mut text = String::new();
    write_details(&mut text, value, 0);
    text
}

fn write_details(text: &mut String, value: &Value, depth: usize) {
    let Some(object) = value.as_object() else {
        *text += &format!("{}{}\n", "  ".repeat(depth), plain(&scalar(value)));
        return;
    };
    let width = object.iter().filter(|(_, v)| !nested(v)).map(|(k, _)| k.chars().count()).max().unwrap_or(0);
    let indent = "  ".repeat(depth);
    for (name, value) in object {
        let name = plain(name);
        match value {
            Value::Object(_) if nested(value) => {
                *text += &format!("{indent}{name}:\n");
                write_details(text, value, depth + 1);
            }
            Value::Array(list) if nested(value) => {
                *text += &format!("{indent}{name}:\n");
                for line in any_table(list).lines() {
                    *text += &format!("{indent}  {line}\n");
                }
            }
            _ => *text += format!("{indent}{name:<width$}  {}", plain(&scalar(value))).trim_end(),
        }
        if !nested(value) {
            text.push('\n');
        }
    }
}

fn nested(value: &Value) -> bool {
    match value {
        Value::Object(object) => !object.is_empty(),
        Value::Array(list) => !list.is_empty() && list.iter().any(|v| v.is_object() || v.is_array()),
        _ => false,
    }
}

/// A table of whatever the first entry has.
pub fn any_table(entries: &[Value]) -> String {
    let Some(Value::Object(first)) = entries.first() else {
        return entries.iter().map(|e| plain(&scalar(e)) + "\n").collect();
    };
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| first.keys().map(|key| plain(&scalar(entry.get(key).unwrap_or(&Value::Null)))).collect())
        .collect();
    aligned(first.keys().map(|key| plain(key).to_uppercase()).collect(), &rows)
}

/// A value in one cell.
pub fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(scalar).collect::<Vec<_>>().join(", "),
        Value::Object(object) if object.is_empty() => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A field of an entry in one cell, or in a sentence.
pub fn field(entry: &Value, name: &str) -> String {
    plain(&scalar(entry.get(name).unwrap_or(&Value::Null)))
}

/// The value as JSON that steers no terminal either: what the standard lets stand in a string is written as an escape.
pub fn json(value: &Value) -> String {
    let escape = |c: char| match c {
        c if c != '\n' && steers(c) => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    };
    format!("{value:#}\n").chars().map(escape).collect()
}

/// A field that holds a time of the API, shown as date and time of day in UTC.
pub fn time(entry: &Value, name: &str) -> String {
    match entry.get(name).and_then(Value::as_str) {
        Some(text) if text.len() >= 19 && text.is_ascii() => text[..19].replace('T', " "),
        _ => field(entry, name),
    }
}

/// A field that holds a number of MiB.
pub fn mib(entry: &Value, name: &str) -> String {
    entry.get(name).and_then(Value::as_f64).map_or("-".to_owned(), |n| bytes(n * 1024.0 * 1024.0))
}

/// A field that holds a number of bytes.
pub fn byte_field(entry: &Value, name: &str) -> String {
    entry.get(name).and_then(Value::as_f64).map_or("-".to_owned(), bytes)
}

/// A number of bytes with a binary unit and at most one decimal.
pub fn bytes(n: f64) -> String {
    let mut value = n;
    for unit in UNITS {
        if value.abs() < 1024.0 {
            return match value.fract().abs() < 0.05 || unit == "B" {
                true => format!("{value:.0} {unit}"),
                false => format!("{value:.1} {unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// The reverse for arguments, in MiB: a bare number is MiB; the suffixes M, G and T (also MiB, GiB, TiB) are powers of 1024.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match text[digits..].trim().trim_end_matches("iB") {
        "" | "M" => 1,
        "G" => 1 << 10,
        "T" => 1 << 20,
        _ => return Err("expected a number of MiB, or one with the unit M, G or T, for example 512 or 20G".to_owned()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "expected a number, for example 512 or 20G".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_aligned_and_harmless() {
        let columns: [Column; 2] = [("NAME", |v| field(v, "name")), ("SIZE", |v| mib(v, "size"))];
        let text = table(&columns, &[json!({"name": "a\u{1b}[2Jb", "size": 2048}), json!({"name": "longer\nname", "size": 1.5})]);
        assert_eq!(text, "NAME            SIZE\na\u{fffd}[2Jb         2 GiB\nlonger\u{fffd}name  1.5 MiB\n");
        assert_eq!(table(&columns, &[]), "NAME  SIZE\n");
    }

    #[test]
    fn only_amounts_are_aligned_to_the_right() {
        for cell in ["0", "17", "1.5", "1023 B", "1.5 GiB"] {
            assert!(is_amount(cell), "{cell}");
        }
        for cell in ["", "-", "1 day", "30 2 * * *", "2026-11-22 03:10:00", "7zip", "12345678901234567890123456789012", &"1".repeat(32)] {
            assert!(!is_amount(cell), "{cell}");
        }
    }

    #[test]
    fn details_show_every_level() {
        let text = details(&json!({"a": 1, "long": null, "o": {"x": true}, "l": [{"p": 1, "q": "z"}], "e": []}));
        assert_eq!(text, "a     1\nlong  -\no:\n  x  yes\nl:\n  P  Q\n  1  z\ne     -\n");
    }

    #[test]
    fn sizes_go_both_ways() {
        let shown = [(0.0, "0 B"), (1023.0, "1023 B"), (1024.0, "1 KiB"), (1536.0, "1.5 KiB"), (f64::from(1 << 30), "1 GiB")];
        for (n, text) in shown {
            assert_eq!(bytes(n), text);
        }
        for (text, n) in [("512", 512), ("512M", 512), ("20G", 20480), ("1TiB", 1 << 20), ("3 GiB", 3072)] {
            assert_eq!(parse_mib(text), Ok(n), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "10k", "99999999999999999999", "18446744073709551615T", "1é"] {
            assert!(parse_mib(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_lose_their_fraction() {
        assert_eq!(time(&json!({"t": "2026-11-22T03:10:00.482Z"}), "t"), "2026-11-22 03:10:00");
        assert_eq!(time(&json!({"t": null}), "t"), "-");
        assert_eq!(time(&json!({"t": "äöüäöüäöüäöüäöüäöüäöü"}), "t"), "äöüäöüäöüäöüäöüäöüäöü");
    }
}
