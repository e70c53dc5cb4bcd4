//! `/resource_filters` (since 3.33): what lists can be filtered by (Cinder contract 1.2, 3.3).

use serde_json::{Value, json};

use super::context::{CinderResult, Context};
use super::listing::Collection;
use super::{backups, snapshots, volumes};
use crate::http::Response;

pub fn list(context: &Context) -> CinderResult {
    let entries = [
        ("volume", filters(context, &volumes::COLLECTION, &["bootable", "metadata", "created_at", "updated_at"])),
        ("backup", filters(context, &backups::COLLECTION, &[])),
        ("snapshot", filters(context, &snapshots::COLLECTION, &[])),
    ];
    let wanted = context.param("resource");
    let shown: Vec<Value> = entries
        .into_iter()
        .filter(|(resource, _)| wanted.is_none_or(|wanted| wanted == *resource))
        .map(|(resource, filters)| json!({"resource": resource, "filters": filters}))
        .collect();
    Ok(Response::json(200, &json!({"resource_filters": shown})))
}

fn filters(context: &Context, collection: &Collection, special: &[&str]) -> Vec<String> {
    let mut filters: Vec<String> = collection.filters.iter().chain(special).map(|name| name.to_string()).collect();
    if context.since(34) {
        filters.extend(collection.like.iter().map(|name| format!("{name}~")));
    }
    filters
}
