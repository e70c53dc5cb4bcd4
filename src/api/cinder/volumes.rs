//! `/volumes`: registered disks of the host, and sparse raw files that are made here (Cinder contract 4.2).

use std::collections::BTreeMap;

use rusqlite::types::Value as SqlValue;
use serde_json::json;

use super::body;
use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::listing::{Collection, Column, Listing};
use super::metadata::{self, Labels, Owner};
use super::volume_view::{Detail, Summary, detail, summary};
use super::{volume_actions, volume_create};
use crate::api::text::parse_timestamp;
use crate::catalog::list::{Filter, Page};
use crate::catalog::volumes;
use crate::clock;
use crate::engine::orders;
use crate::http::Response;

pub const COLLECTION: Collection = Collection {
    name: "volumes",
    noun: "Volume",
    from: volumes::FROM,
    uuid: "v.uuid",
    created: "v.created",
    project: "v.project_id",
    condition: "",
    columns: &[
        ("id", Column::Uuid("v.uuid")),
        ("name", Column::Text("v.name")),
        ("display_name", Column::Text("v.name")),
        ("description", Column::Text("v.description")),
        ("status", Column::Text(volumes::STATUS)),
        ("size", Column::Number("((v.size + 1073741823) >> 30)")),
        ("bootable", Column::Flag(volumes::BOOTABLE)),
        ("availability_zone", Column::Text("'nova'")),
        ("volume_type_id", Column::Text("'7a8c5d8e-3c6f-4e3a-9d3f-c0ffe4d00001'")),
        ("created_at", Column::Time("v.created")),
        ("updated_at", Column::Time("v.updated")),
        ("project_id", Column::Uuid("p.uuid")),
        ("user_id", Column::Uuid("v.user_uuid")),
    ],
    filters: &["name", "status", "availability_zone", "size", "description", "volume_type_id"],
    like: &["name", "status", "description"],
};

pub fn route(context: &Context, method: &str, rest: &[&str]) -> CinderResult {
    match (method, rest) {
        ("GET", []) => list(context, false),
        ("GET", ["detail"]) => list(context, true),
        ("GET", ["summary"]) if context.since(12) => totals(context),
        ("POST", []) => volume_create::create(context),
        ("GET", [id]) => show(context, super::member(id)),
        ("PUT", [id]) => update(context, super::member(id)),
        ("DELETE", [id]) => delete(context, super::member(id)),
        ("POST", [id, "action"]) => volume_actions::act(context, id),
        (_, [id, "metadata", rest @ ..]) => metadata::route(context, Owner::Volume, method, id, rest),
        _ => Err(CinderError::not_found()),
    }
}

fn list(context: &Context, detailed: bool) -> CinderResult {
    context.read(|c| {
        let listing = Listing::read(context, c, &COLLECTION, |filter, name, text| special_filter(context, filter, name, text))?;
        let rows = listing.rows(|filter, page| volumes::rows(c, filter, page))?;
        let last = rows.last().map(|volume| volume.uuid.as_str());
        let count = |filter: &Filter| volumes::count(c, filter);
        match detailed {
            true => {
                let items: Vec<Detail> = rows.iter().map(|volume| detail(context, volume, true)).collect();
                listing.answer(context, &COLLECTION, &items, last, count)
            }
            false => {
                let items: Vec<Summary> = rows.iter().map(|volume| summary(context, volume)).collect();
                listing.answer(context, &COLLECTION, &items, last, count)
            }
        }
    })
}

/// Filters that are more than a comparison with a column.
fn special_filter(context: &Context, filter: &mut Filter, name: &str, text: &str) -> Result<bool, CinderError> {
    match name {
        // Strict since 3.2; before, what is no boolean matches nothing.
        "bootable" => {
            match body::boolean_word(text) {
                Some(flag) => filter.equals(volumes::BOOTABLE, i64::from(flag)),
                None if context.since(2) => return Err(CinderError::bad_request(format!("bootable: \"{text}\" is neither true nor false."))),
                None => filter.nothing(),
            }
            Ok(true)
        }
        "metadata" => {
            for (key, value) in parse_labels(text)? {
                let labelled = "EXISTS (SELECT 1 FROM json_each(v.labels) AS label WHERE label.key = ? AND label.value = ?)";
                filter.push(labelled, [SqlValue::Text(key), SqlValue::Text(value)]);
            }
            Ok(true)
        }
        "created_at" | "updated_at" if context.since(60) => {
            let column = if name == "created_at" { "v.created" } else { "v.updated" };
            compare_times(filter, column, name, text)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// `{'key': 'value'}`: JSON, or what Python prints of a dictionary.
fn parse_labels(text: &str) -> Result<Labels, CinderError> {
    let parsed = serde_json::from_str(text).or_else(|_| serde_json::from_str(&text.replace('\'', "\"")));
    parsed.map_err(|_| CinderError::bad_request("metadata: this is no dictionary of strings."))
}

/// `gt:2026-01-01T00:00:00,lt:...`, or one time alone.
fn compare_times(filter: &mut Filter, column: &str, name: &str, text: &str) -> Result<(), CinderError> {
    for part in text.split(',') {
        let operator = part.split_once(':').and_then(|(word, time)| {
            let operator = match word {
                "gt" => ">",
                "gte" => ">=",
                "eq" => "=",
                "neq" => "<>",
                "lt" => "<",
                "lte" => "<=",
                _ => return None,
            };
            Some((operator, time))
        });
        let (operator, time) = operator.unwrap_or(("=", part));
        let time = parse_timestamp(time).ok_or_else(|| CinderError::bad_request(format!("{name}: \"{time}\" is no time.")))?;
        filter.push(format!("{column} {operator} ?"), [SqlValue::Integer(time.timestamp_millis())]);
    }
    Ok(())
}

/// `/volumes/summary`: how many, how large, and since 3.36 which metadata.
fn totals(context: &Context) -> CinderResult {
    context.read(|c| {
        let mut filter = Filter::default();
        if !(context.is_admin() && context.flag("all_tenants")?) {
            filter.equals(COLLECTION.project, context.project_id());
        }
        let (count, size) = (volumes::count(c, &filter)?, volumes::gigabytes(c, &filter)?);
        let mut summary = json!({"total_count": count, "total_size": size});
        if context.since(36) {
            let all = Page { order: "v.id".into(), limit: -1, offset: 0 };
            let mut metadata: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for volume in volumes::rows(c, &filter, &all)? {
                for (key, value) in metadata::parse(&volume.labels) {
                    let values = metadata.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
            summary["metadata"] = json!(metadata);
        }
        Ok(Response::json(200, &json!({"volume-summary": summary})))
    })
}

fn show(context: &Context, id: &str) -> CinderResult {
    context.read(|c| Ok(Response::json(200, &json!({"volume": detail(context, &context.volume(c, id)?, true)}))))
}

fn update(context: &Context, id: &str) -> CinderResult {
    let fields = body::unwrap(context.request, "volume")?;
    if context.since(53) {
        fields.only(&["name", "display_name", "description", "display_description", "metadata"])?;
        if fields.is_empty() {
            return Err(CinderError::bad_request("volume: there is nothing to change."));
        }
    }
    let name = fields.name("name")?.or(fields.name("display_name")?);
    let description = fields.description("description")?.or(fields.description("display_description")?);
    let labels = fields.labels("metadata")?;
    context.write(|tx| {
        let volume = context.volume(tx, id)?;
        context.member_only()?;
        let name = name.map_or_else(|| volume.name.clone(), Option::unwrap_or_default);
        let description = description.unwrap_or_else(|| volume.description.clone());
        let labels = labels.flatten().unwrap_or_else(|| volume.labels.clone());
        volumes::set_texts(tx, volume.id, &name, description.as_deref(), &labels, clock::now_ms())?;
        Ok(Response::json(200, &json!({"volume": detail(context, &context.volume(tx, id)?, false)})))
    })
}

/// `cascade` deletes its snapshots too; `force` (since 3.23, for administrators) deletes it from whatever state.
fn delete(context: &Context, id: &str) -> CinderResult {
    let cascade = context.flag("cascade")?;
    let force = context.since(23) && context.flag("force")?;
    context.write(|tx| {
        let volume = context.volume(tx, id)?;
        context.member_only()?;
        if force {
            context.admin_only()?;
        }
        let refused = |refusal| CinderError::refused("volume", refusal);
        if cascade {
            return orders::delete_volume_with_snapshots(tx, &volume, force).map_err(refused);
        }
        orders::delete_volume(tx, &volume, force).map_err(refused)
    })?;
    context.app.engine.wake();
    Ok(Response::empty(202))
}
