//! `/api/openstack-flavors/`: profiles. Everybody reads, staff keep them.

use rusqlite::types::Value as SqlValue;
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::Text;
use super::images::MAX_MIB;
use super::links::FLAVORS;
use super::listing::{order, uuid_filter};
use super::uuid_segment;
use crate::catalog::images::{self, Flavor};
use crate::catalog::list::Filter;
use crate::catalog::new_uuid;
use crate::clock;
use crate::http::Response;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| put(context, None))]),
        [uuid] => context.methods(&[
            ("GET", &|| context.read(|c| Ok(Response::json(200, &to_json(context, &find(c, uuid)?))))),
            ("PATCH", &|| put(context, Some(uuid))),
            ("DELETE", &|| delete(context, uuid)),
        ]),
        _ => Err(ApiError::not_found()),
    }
}

const ORDERS: [(&str, &str); 4] = [("cores", "cores"), ("ram", "ram"), ("disk", "disk"), ("name", "name")];

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        for text in context.params("name") {
            filter.contains("name", text);
        }
        uuid_filter(context, &mut filter, "uuid", "uuid")?;
        for column in ["cores", "ram", "disk"] {
            for (suffix, comparison) in [("", "="), ("__gte", ">="), ("__lte", "<=")] {
                for number in context.params(&format!("{column}{suffix}")).iter().filter_map(|text| text.parse::<i64>().ok()) {
                    filter.push(format!("{column} {comparison} ?"), [SqlValue::Integer(number)]);
                }
            }
        }
        let count = crate::catalog::list::count(c, "flavor", &filter)?;
        let paging = context.page(count, &order(context, &ORDERS, "cores, ram, disk", "id"))?;
        let (_, rows) = images::list_flavors(c, &filter, &paging.page)?;
        Ok(context.list(&paging, rows.iter().map(|flavor| to_json(context, flavor)).collect()))
    })
}

fn find(c: &rusqlite::Connection, uuid: &str) -> Result<Flavor, ApiError> {
    images::flavor(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)
}

fn put(context: &Context, uuid: Option<&str>) -> ApiResult {
    context.write(|tx| {
        let old = uuid.map(|uuid| find(tx, uuid)).transpose()?;
        context.staff_only()?;
        let mut fields = context.fields(old.is_some())?;
        let name = fields.text("name", &Text::required(150));
        let cores = fields.integer("cores", true, 1, 65536);
        let ram = fields.integer("ram", true, 1, MAX_MIB);
        let disk = fields.integer("disk", false, 0, MAX_MIB);
        fields.finish()?;
        let new = Flavor { id: 0, uuid: new_uuid(), name: String::new(), cores: 0, ram: 0, disk: 0, created: clock::now_ms() };
        let is_new = old.is_none();
        let mut flavor = old.unwrap_or(new);
        flavor.name = name.unwrap_or(flavor.name);
        flavor.cores = cores.unwrap_or(flavor.cores);
        flavor.ram = ram.unwrap_or(flavor.ram);
        flavor.disk = disk.unwrap_or(flavor.disk);
        images::put_flavor(tx, &flavor)?;
        let body = to_json(context, &flavor);
        Ok(if is_new { context.created(&context.link(FLAVORS, &flavor.uuid), &body) } else { Response::json(200, &body) })
    })
}

fn delete(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let flavor = find(tx, uuid)?;
        context.staff_only()?;
        images::delete_flavor(tx, flavor.id)?;
        Ok(Response::empty(204))
    })
}

fn to_json(context: &Context, flavor: &Flavor) -> Value {
    json!({"url": context.link(FLAVORS, &flavor.uuid), "uuid": flavor.uuid, "name": flavor.name,
        "display_name": format!("{} ({} cores, {} MiB RAM, {} MiB disk)", flavor.name, flavor.cores, flavor.ram, flavor.disk),
        "cores": flavor.cores, "ram": flavor.ram, "disk": flavor.disk})
}
