//! A look into the file: the store as it lies there.

use serde_json::{Value, json};

use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::db;
use crate::http::Response;

/// `?pack=N`: the chunks of a pack; `?map=N`: the segments of a volume map; else the file as a whole.
pub fn inspect(context: &Context) -> ApiResult {
    let number = |name: &str| match context.param(name) {
        None => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| ApiError::field(name, "A valid integer is required.")),
    };
    let body = match (number("pack")?, number("map")?) {
        (Some(pack), _) => context.app.store.describe_pack(pack)?,
        (None, Some(map)) => context.app.store.describe_map(map)?,
        (None, None) => Some(whole(context)?),
    };
    body.map(|body| Response::json(200, &body)).ok_or_else(ApiError::not_found)
}

fn whole(context: &Context) -> Result<Value, ApiError> {
    context.read(|c| {
        let number = |sql: &str| c.query_row(sql, [], |row| row.get::<_, i64>(0));
        let mut tables = serde_json::Map::new();
        let names: Vec<String> = c
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for name in names {
            let rows = number(&format!("SELECT count(*) FROM \"{name}\""))?;
            tables.insert(name, json!(rows));
        }
        Ok(json!({
            "path": context.app.db.path(),
            "format": db::FORMAT_VERSION,
            "page_size": number("PRAGMA page_size")?,
            "pages": number("PRAGMA page_count")?,
            "free_pages": number("PRAGMA freelist_count")?,
            "pack_bytes": number("SELECT ifnull(sum(stored), 0) FROM pack_toc")?,
            "tables": tables,
        }))
    })
}
