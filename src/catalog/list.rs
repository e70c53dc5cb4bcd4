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

    /// Substring, in this case of letters.
    pub fn contains_exactly(&mut self, column: &str, text: &str) {
        self.push(format!("instr({column}, ?)"), [Value::Text(text.to_string())]);
    }

    pub fn one_of<V: Into<Value>>(&mut self, column: &str, values: impl IntoIterator<Item = V>) {
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        let marks = vec!["?"; values.len()].join(", ");
        self.push(format!("{column} IN ({marks})"), values);
    }

    /// Rows that come after one with these values in this order, in which NULL comes before everything else.
    pub fn after(&mut self, order: &[Key], values: &[Value]) {
        let mut alternatives = Vec::new();
        let mut bound = Vec::new();
        for (at, key) in order.iter().enumerate() {
            let column = &key.column;
            let beyond = match (&values[at], key.descending) {
                (Value::Null, false) => format!("{column} IS NOT NULL"),
                (Value::Null, true) => continue,
                (_, false) => format!("{column} > ?"),
                (_, true) => format!("({column} < ? OR {column} IS NULL)"),
            };
            let same = order[..at].iter().map(|key| format!("{} IS ? AND ", key.column)).collect::<String>();
            bound.extend(values[..at].iter().cloned());
            bound.extend((values[at] != Value::Null).then(|| values[at].clone()));
            alternatives.push(format!("({same}{beyond})"));
        }
        match alternatives.is_empty() {
            true => self.nothing(),
            false => self.push(format!("({})", alternatives.join(" OR ")), bound),
        }
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

/// One key of an order: a constant SQL expression and its direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub column: String,
    pub descending: bool,
}

/// The ORDER BY text of these keys.
pub fn order_by(keys: &[Key]) -> String {
    let key = |key: &Key| format!("{}{}", key.column, if key.descending { " DESC" } else { "" });
    keys.iter().map(key).collect::<Vec<_>>().join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of one row each, in every order of two columns with ties and NULLs, give the whole list.
    #[test]
    fn each_row_is_after_the_one_before() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b);
                 INSERT INTO t (a, b) VALUES (1, NULL), (NULL, 'x'), (2, 'x'), (1, 'y'), (NULL, NULL), (2, 'x'), (1, NULL);",
            )
            .unwrap();
        for directions in 0..8 {
            let key = |(at, column): (usize, &str)| Key { column: column.into(), descending: directions >> at & 1 == 1 };
            let keys: Vec<Key> = ["a", "b", "id"].into_iter().enumerate().map(key).collect();
            let all = Page { order: order_by(&keys), limit: -1, offset: 0 };
            let read = |row: &Row| Ok([row.get::<_, Value>(0)?, row.get(1)?, row.get(2)?]);
            let whole = rows(&connection, "SELECT a, b, id FROM t", &Filter::default(), &all, read).unwrap();
            for (at, marker) in whole.iter().enumerate() {
                let mut filter = Filter::default();
                filter.after(&keys, marker);
                let rest = rows(&connection, "SELECT a, b, id FROM t", &filter, &all, read).unwrap();
                assert_eq!(rest, whole[at + 1..], "{keys:?} after {marker:?}");
            }
        }
    }
}
