//! Filtered, ordered, paged lists: the SQL text is put together from constant pieces, values are always bound.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

/// The WHERE part of a list and its values.
#[derive(Default, Clone)]
pub struct Filter {
    clauses: Vec<String>,
    values: Vec<Value>,
    nothing: bool,
}

impl Filter {
    /// `clause` has one `?` for each value.
    pub fn push(&mut self, clause: impl Into<String>, values: impl IntoIterator<Item = Value>) {
        self.clauses.push(clause.into());
        self.values.extend(values);
    }

    pub fn equals(&mut self, column: &str, value: impl Into<Value>) {
        self.push(format!("{column} = ?"), [value.into()]);
    }

    /// Case-insensitive substring (ASCII case, as SQLite's LIKE has it).
    pub fn contains(&mut self, column: &str, text: &str) {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        self.push(format!("{column} LIKE ? ESCAPE '\\'"), [Value::Text(format!("%{escaped}%"))]);
    }

    pub fn one_of<V: Into<Value>>(&mut self, column: &str, values: impl IntoIterator<Item = V>) {
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        let marks = vec!["?"; values.len()].join(", ");
        self.push(format!("{column} IN ({marks})"), values);
    }

    /// Matches no row.
    pub fn nothing(&mut self) {
        self.nothing = true;
    }

    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty() && !self.nothing
    }

    fn sql(&self) -> String {
        if self.nothing {
            return " WHERE 0".into();
        }
        if self.clauses.is_empty() { String::new() } else { format!(" WHERE {}", self.clauses.join(" AND ")) }
    }
}

/// Which part of a list, and in which order. `order` is a constant of the caller, never a client's text.
pub struct Page {
    pub order: String,
    pub limit: i64,
    pub offset: i64,
}

/// How many rows match. `from` is the FROM clause.
pub fn count(connection: &Connection, from: &str, filter: &Filter) -> rusqlite::Result<i64> {
    if filter.nothing {
        return Ok(0);
    }
    let sql = format!("SELECT count(*) FROM {from}{}", filter.sql());
    connection.prepare_cached(&sql)?.query_row(params_from_iter(&filter.values), |row| row.get(0))
}

/// The rows of one page. `select` is everything before WHERE.
pub fn rows<T>(
    connection: &Connection,
    select: &str,
    filter: &Filter,
    page: &Page,
    read: impl FnMut(&Row) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    if filter.nothing {
        return Ok(Vec::new());
    }
    let sql = format!("{select}{} ORDER BY {} LIMIT ? OFFSET ?", filter.sql(), page.order);
    let mut statement = connection.prepare_cached(&sql)?;
    let values = filter.values.iter().cloned().chain([page.limit.into(), page.offset.into()]);
    statement.query_map(params_from_iter(values), read)?.collect()
}
