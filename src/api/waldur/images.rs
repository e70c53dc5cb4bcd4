//! `/api/openstack-images/`: profiles. Everybody reads, staff keep them.

use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::Text;
use super::links::IMAGES;
use super::listing::{order, uuid_filter};
use super::uuid_segment;
use crate::catalog::images::{self, Image};
use crate::catalog::list::Filter;
use crate::catalog::new_uuid;
use crate::clock;
use crate::http::Response;

/// Largest size in MiB that makes sense: 8 EiB in MiB.
pub const MAX_MIB: i64 = 1 << 43;

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

const ORDERS: [(&str, &str); 3] = [("name", "name"), ("min_disk", "min_disk"), ("min_ram", "min_ram")];

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        for text in context.params("name") {
            filter.contains("name", text);
        }
        uuid_filter(context, &mut filter, "uuid", "uuid")?;
        let count = crate::catalog::list::count(c, "image", &filter)?;
        let paging = context.page(count, &order(context, &ORDERS, "name", "id"))?;
        let (_, rows) = images::list_images(c, &filter, &paging.page)?;
        Ok(context.list(&paging, rows.iter().map(|image| to_json(context, image)).collect()))
    })
}

fn find(c: &rusqlite::Connection, uuid: &str) -> Result<Image, ApiError> {
    images::image(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)
}

fn put(context: &Context, uuid: Option<&str>) -> ApiResult {
    context.write(|tx| {
        let old = uuid.map(|uuid| find(tx, uuid)).transpose()?;
        context.staff_only()?;
        let mut fields = context.fields(old.is_some())?;
        let name = fields.text("name", &Text::required(150));
        let min_disk = fields.integer("min_disk", false, 0, MAX_MIB);
        let min_ram = fields.integer("min_ram", false, 0, MAX_MIB);
        fields.finish()?;
        let new = Image { id: 0, uuid: new_uuid(), name: String::new(), min_disk: 0, min_ram: 0, created: clock::now_ms() };
        let is_new = old.is_none();
        let mut image = old.unwrap_or(new);
        image.name = name.unwrap_or(image.name);
        image.min_disk = min_disk.unwrap_or(image.min_disk);
        image.min_ram = min_ram.unwrap_or(image.min_ram);
        images::put_image(tx, &image)?;
        let body = to_json(context, &image);
        Ok(if is_new { context.created(&context.link(IMAGES, &image.uuid), &body) } else { Response::json(200, &body) })
    })
}

fn delete(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let image = find(tx, uuid)?;
        context.staff_only()?;
        images::delete_image(tx, image.id)?;
        Ok(Response::empty(204))
    })
}

fn to_json(context: &Context, image: &Image) -> Value {
    json!({"url": context.link(IMAGES, &image.uuid), "uuid": image.uuid, "name": image.name, "min_disk": image.min_disk,
        "min_ram": image.min_ram})
}
