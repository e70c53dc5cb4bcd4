//! Filters and orders that all lists share.

use super::context::Context;
use super::error::ApiError;
use super::links;
use crate::api::text::parse_uuid;
use crate::catalog::list::Filter;

/// `name=` takes an object's URL, path or uuid; `name_uuid=` its uuid. What cannot be one is 400, what is not there
/// matches nothing.
pub fn link_filter(context: &Context, filter: &mut Filter, name: &str, collection: &str, column: &str) -> Result<(), ApiError> {
    for value in context.params(name).into_iter().filter(|value| !value.is_empty()) {
        let uuid = match parse_uuid(value) {
            Some(uuid) => uuid,
            None => links::resolve(value, collection).map_err(|message| ApiError::field(name, message))?,
        };
        filter.equals(column, uuid);
    }
    uuid_filter(context, filter, &format!("{name}_uuid"), column)
}

pub fn uuid_filter(context: &Context, filter: &mut Filter, name: &str, column: &str) -> Result<(), ApiError> {
    for value in context.params(name).into_iter().filter(|value| !value.is_empty()) {
        match parse_uuid(value) {
            Some(uuid) => filter.equals(column, uuid),
            None => return Err(ApiError::field(name, format!("\"{value}\" is not a valid UUID."))),
        }
    }
    Ok(())
}

/// States by their display names; the filter can be repeated.
pub fn states<S>(names: Vec<&str>, parse: fn(&str) -> Option<S>) -> Result<Vec<S>, ApiError> {
    let state = |name: &str| parse(name).ok_or_else(|| ApiError::field("state", format!("\"{name}\" is not a valid choice.")));
    names.into_iter().filter(|name| !name.is_empty()).map(state).collect()
}

/// The ORDER BY of a list: `o=field` or `o=-field`, what is unknown is ignored, the id settles ties.
pub fn order(context: &Context, known: &[(&str, &str)], default: &str, id: &str) -> String {
    let mut columns = Vec::new();
    let mut seen = std::collections::HashSet::new(); // a column counts once
    for wanted in context.params("o").into_iter().flat_map(|value| value.split(',')) {
        let (name, direction) = match wanted.strip_prefix('-') {
            Some(name) => (name, "DESC"),
            None => (wanted, "ASC"),
        };
        if let Some((_, column)) = known.iter().find(|(known, _)| *known == name)
            && seen.insert(*column)
        {
            columns.push(format!("{column} {direction}"));
        }
    }
    if columns.is_empty() {
        columns.push(default.to_string());
    }
    columns.push(id.to_string());
    columns.join(", ")
}
