//! Lists: filters, order, pages and what links them (Cinder contract 1.2).

use rusqlite::Connection;
use rusqlite::types::Value as SqlValue;
use serde::Serialize;

use super::body::boolean_word;
use super::context::{Context, CinderResult};
use super::error::CinderError;
use super::wire;
use crate::api::text::{parse_timestamp, parse_uuid, percent_encode};
use crate::catalog::list::{self, Filter, Key, Page};
use crate::http::Response;

/// Largest and default number of items on a page.
const MAX_LIMIT: i64 = 1000;
/// Keys in an order, and filters in a query: each becomes a condition, and SQLite's expressions have a depth.
const MAX_KEYS: usize = 20;
const MAX_PARAMETERS: usize = 100;

/// What stands behind a name that a list is filtered or ordered by; the text is SQL.
#[derive(Clone, Copy)]
pub enum Column {
    Text(&'static str),
    /// 32 hex digits in the catalog, any spelling in a query.
    Uuid(&'static str),
    Number(&'static str),
    /// Milliseconds in the catalog.
    Time(&'static str),
    /// 0 or 1.
    Flag(&'static str),
}

impl Column {
    fn sql(self) -> &'static str {
        match self {
            Column::Text(sql) | Column::Uuid(sql) | Column::Number(sql) | Column::Time(sql) | Column::Flag(sql) => sql,
        }
    }

    /// Adds the condition that the column has this value. What it can never have matches nothing.
    fn equals(self, filter: &mut Filter, text: &str) {
        let value = match self {
            Column::Text(_) => Some(SqlValue::Text(text.to_string())),
            Column::Uuid(_) => parse_uuid(text).map(SqlValue::Text),
            Column::Number(_) => text.parse().ok().map(SqlValue::Integer),
            Column::Time(_) => parse_timestamp(text).map(|time| SqlValue::Integer(time.timestamp_millis())),
            Column::Flag(_) => boolean_word(text).map(|flag| SqlValue::Integer(i64::from(flag))),
        };
        match value {
            Some(value) => filter.equals(self.sql(), value),
            None => filter.nothing(),
        }
    }
}

/// A collection: how its rows are found, filtered and ordered.
pub struct Collection {
    /// The key in answers, and in URLs.
    pub name: &'static str,
    /// What one is called in messages.
    pub noun: &'static str,
    /// The FROM clause, and in it the columns that tell one row from the others.
    pub from: &'static str,
    pub uuid: &'static str,
    pub created: &'static str,
    pub project: &'static str,
    /// What every list of it is about.
    pub condition: &'static str,
    /// All that it can be ordered by, and that administrators can filter by.
    pub columns: &'static [(&'static str, Column)],
    /// What everybody can filter by.
    pub filters: &'static [&'static str],
    /// What can be filtered by a part of the text: `name~=part` (since 3.34).
    pub like: &'static [&'static str],
}

impl Collection {
    fn column(&self, name: &str) -> Option<Column> {
        self.columns.iter().find(|(known, _)| *known == name).map(|(_, column)| *column)
    }
}

/// A query for a part of a collection.
pub struct Listing {
    /// All that match.
    pub filter: Filter,
    /// Of these, what comes after the marker.
    page_filter: Filter,
    page: Page,
    limit: i64,
    with_count: bool,
}

/// Parameters that are no filters.
const NO_FILTERS: [&str; 7] = ["limit", "marker", "offset", "sort", "sort_key", "sort_dir", "all_tenants"];

impl Listing {
    /// Reads the query. `special` deals with filters that are peculiar to the collection and says whether it did.
    pub fn read(
        context: &Context,
        c: &Connection,
        collection: &Collection,
        special: impl Fn(&mut Filter, &str, &str) -> Result<bool, CinderError>,
    ) -> Result<Listing, CinderError> {
        if context.query.len() > MAX_PARAMETERS {
            return Err(CinderError::bad_request(format!("There are more than {MAX_PARAMETERS} parameters.")));
        }
        let mut filter = Filter::default();
        if !collection.condition.is_empty() {
            filter.push(collection.condition, []);
        }
        let everywhere = context.is_admin() && context.flag("all_tenants")?;
        if !everywhere {
            filter.equals(collection.project, context.project_id());
        }
        read_filters(context, collection, &mut filter, special)?;
        let keys = read_order(context, collection)?;
        let limit = read_number(context, "limit", i64::MAX)?.unwrap_or(MAX_LIMIT).min(MAX_LIMIT);
        let offset = read_number(context, "offset", i64::from(i32::MAX))?.unwrap_or(0);
        let with_count = match context.param("with_count") {
            Some(_) if context.since(45) => context.flag("with_count")?,
            _ => false,
        };
        let mut page_filter = filter.clone();
        if let Some(marker) = context.param("marker").filter(|marker| !marker.is_empty()) {
            page_filter.after(&keys, &position(context, c, collection, &keys, marker)?);
        }
        let page = Page { order: list::order_by(&keys), limit, offset };
        Ok(Listing { filter, page_filter, page, limit, with_count })
    }

    pub fn rows<T>(&self, read: impl FnOnce(&Filter, &Page) -> rusqlite::Result<Vec<T>>) -> rusqlite::Result<Vec<T>> {
        match self.limit {
            0 => Ok(Vec::new()),
            _ => read(&self.page_filter, &self.page),
        }
    }

    /// The answer: the items (`last` is the uuid of the last one), a link to the next page if this one is full, and the count if it was asked for.
    pub fn answer<T: Serialize>(
        &self,
        context: &Context,
        collection: &Collection,
        items: &[T],
        last: Option<&str>,
        count: impl FnOnce(&Filter) -> rusqlite::Result<i64>,
    ) -> CinderResult {
        let next = last.filter(|_| items.len() as i64 == self.limit).map(|last| next_page(context, last));
        let count = if self.with_count { Some(count(&self.filter)?) } else { None };
        Ok(Response::json(200, &wire::Collection { name: collection.name, items, next, count }))
    }
}

fn read_filters(
    context: &Context,
    collection: &Collection,
    filter: &mut Filter,
    special: impl Fn(&mut Filter, &str, &str) -> Result<bool, CinderError>,
) -> Result<(), CinderError> {
    let mut unknown = Vec::new();
    for (name, text) in &context.query {
        let name = name.as_str();
        if NO_FILTERS.contains(&name) || (name == "with_count" && context.since(45)) {
            continue;
        }
        let like = name.strip_suffix('~').filter(|name| context.since(34) && collection.like.contains(name));
        let plain = collection.filters.contains(&name) || context.is_admin();
        if special(filter, name, text)? {
        } else if let Some(column) = like.and_then(|name| collection.column(name)) {
            let part = if matches!(column, Column::Uuid(_)) { text.replace('-', "") } else { text.clone() };
            filter.contains_exactly(column.sql(), &part);
        } else if let Some(column) = collection.column(name).filter(|_| plain) {
            column.equals(filter, text);
        } else if context.is_admin() {
            filter.nothing(); // a key that is no column
        } else {
            unknown.push(name);
        }
    }
    match unknown.is_empty() || !context.since(31) {
        true => Ok(()),
        false => Err(CinderError::bad_request(format!("Invalid filters {} are found in the query.", unknown.join(", ")))),
    }
}

/// The keys that were asked for, then the time of creation and the id, so that the order is the same each time.
fn read_order(context: &Context, collection: &Collection) -> Result<Vec<Key>, CinderError> {
    let single = context.param("sort_key").is_some() || context.param("sort_dir").is_some();
    let wanted = match context.param("sort") {
        Some(_) if single => return Err(CinderError::bad_request("sort cannot be mixed with sort_key and sort_dir.")),
        Some(sort) => sort.split(',').map(|key| key.trim().split_once(':').unwrap_or((key.trim(), "desc"))).collect(),
        None => vec![(context.param("sort_key").unwrap_or("created_at"), context.param("sort_dir").unwrap_or("desc"))],
    };
    if wanted.len() > MAX_KEYS {
        return Err(CinderError::bad_request(format!("sort: there are more than {MAX_KEYS} keys.")));
    }
    let mut keys: Vec<Key> = Vec::new();
    for (name, direction) in wanted {
        let descending = match direction {
            "asc" => false,
            "desc" => true,
            other => return Err(CinderError::bad_request(format!("sort: \"{other}\" is neither asc nor desc."))),
        };
        let column = collection.column(name).filter(|_| name != "name" || context.since(37));
        let column = column.ok_or_else(|| CinderError::bad_request(format!("sort: \"{name}\" is no key to order by.")))?.sql();
        if !keys.iter().any(|key| key.column == column) {
            keys.push(Key { column: column.into(), descending });
        }
    }
    let descending = keys.first().is_none_or(|key| key.descending);
    for column in [collection.created, collection.uuid] {
        if !keys.iter().any(|key| key.column == column) {
            keys.push(Key { column: column.into(), descending });
        }
    }
    Ok(keys)
}

fn read_number(context: &Context, name: &str, most: i64) -> Result<Option<i64>, CinderError> {
    let Some(text) = context.param(name) else { return Ok(None) };
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More digits than fit are a number all the same, if there is no bound.
    let number = plain.then(|| text.parse().unwrap_or(i64::MAX)).filter(|number| *number <= most);
    number.map(Some).ok_or_else(|| CinderError::bad_request(format!("{name}: \"{text}\" is no whole number from 0 to {most}.")))
}

/// The values that the marker's row has for the keys of the order.
fn position(context: &Context, c: &Connection, collection: &Collection, keys: &[Key], marker: &str) -> Result<Vec<SqlValue>, CinderError> {
    let mut filter = Filter::default();
    match parse_uuid(marker) {
        Some(uuid) => filter.equals(collection.uuid, uuid),
        None => filter.nothing(),
    }
    if !collection.condition.is_empty() {
        filter.push(collection.condition, []);
    }
    if !context.is_admin() {
        filter.equals(collection.project, context.project_id());
    }
    let columns: Vec<&str> = keys.iter().map(|key| key.column.as_str()).collect();
    let select = format!("SELECT {} FROM {}", columns.join(", "), collection.from);
    let page = Page { order: collection.uuid.into(), limit: 1, offset: 0 };
    let read = |row: &rusqlite::Row| (0..keys.len()).map(|at| row.get(at)).collect::<rusqlite::Result<Vec<SqlValue>>>();
    let found = list::rows(c, &select, &filter, &page, read)?.pop();
    found.ok_or_else(|| CinderError::no_such(collection.noun, marker))
}

/// The request's own URL, beginning after this id.
fn next_page(context: &Context, last: &str) -> String {
    let kept = context.query.iter().filter(|(name, _)| name != "marker" && name != "offset");
    let mut items: Vec<String> = kept.map(|(name, value)| format!("{}={}", percent_encode(name), percent_encode(value))).collect();
    items.push(format!("marker={}", wire::Id(last)));
    format!("{}?{}", context.own_url(), items.join("&"))
}
