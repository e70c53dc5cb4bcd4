//! One request in Waldur's conventions: methods, body, query, paging, links.

use std::sync::Arc;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, Transaction};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::Fields;
use crate::api::auth::Identity;
use crate::api::proxy::base_url;
use crate::api::text;
use crate::app::App;
use crate::catalog::list::{Filter, Page};
use crate::http::{Request, Response};
use crate::model::role::Access;

pub type ApiResult = Result<Response, ApiError>;

/// Largest and default number of items on a page.
const MAX_PAGE_SIZE: i64 = 300;
const DEFAULT_PAGE_SIZE: i64 = 10;

pub struct Context<'a> {
    pub app: &'a Arc<App>,
    pub request: &'a Request,
    pub identity: Identity,
    pub query: Vec<(String, String)>,
    base: String,
}

/// A method and what it does.
pub type Method<'m> = (&'m str, &'m dyn Fn() -> ApiResult);

impl<'a> Context<'a> {
    pub fn new(app: &'a Arc<App>, request: &'a Request, identity: Identity) -> Context<'a> {
        Context { app, request, identity, query: text::form_pairs(&request.query), base: base_url(app, request) }
    }

    /// Calls what the method stands for. HEAD is GET without the body, OPTIONS describes; others are 405.
    pub fn methods(&self, methods: &[Method]) -> ApiResult {
        let names: Vec<&str> = methods.iter().map(|(name, _)| *name).collect();
        let asked = match self.request.method.as_str() {
            "HEAD" => "GET",
            other => other,
        };
        let allow = allow(&names);
        if asked == "OPTIONS" {
            return Ok(describe(&names).with_header("Allow", allow));
        }
        match methods.iter().find(|(name, _)| *name == asked) {
            Some((_, act)) => act().map(|response| response.with_header("Allow", allow.clone())).map_err(|e| e.with_header("Allow", allow)),
            None => {
                let message = format!("Method \"{}\" not allowed.", self.request.method);
                Err(ApiError::detail(405, message).with_header("Allow", allow))
            }
        }
    }

    pub fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T, ApiError>) -> Result<T, ApiError> {
        self.app.db.read(f)
    }

    pub fn write<T>(&self, f: impl FnOnce(&Transaction) -> Result<T, ApiError>) -> Result<T, ApiError> {
        self.app.db.write(f)
    }

    // ---- who

    pub fn staff_only(&self) -> Result<(), ApiError> {
        if self.identity.is_staff() { Ok(()) } else { Err(ApiError::forbidden()) }
    }

    /// 404 for what is invisible.
    pub fn can_see(&self, project_id: i64) -> Result<(), ApiError> {
        if self.identity.access(project_id) == Access::None { Err(ApiError::not_found()) } else { Ok(()) }
    }

    /// 404 for what is invisible, 403 for what is only visible.
    pub fn can_write(&self, project_id: i64) -> Result<(), ApiError> {
        match self.identity.access(project_id) {
            Access::None => Err(ApiError::not_found()),
            Access::Read => Err(ApiError::forbidden()),
            Access::Write => Ok(()),
        }
    }

    /// Restricts a list to the projects this user sees.
    pub fn only_visible(&self, filter: &mut Filter, column: &str) {
        match self.identity.visible_projects() {
            None => {}
            Some(projects) if projects.is_empty() => filter.nothing(),
            Some(projects) => filter.one_of(column, projects.into_iter().map(SqlValue::Integer)),
        }
    }

    // ---- in

    /// The body's fields; `partial`: none is required.
    pub fn fields(&self, partial: bool) -> Result<Fields, ApiError> {
        Ok(Fields::new(parse_body(self.request)?, partial))
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn params(&self, name: &str) -> Vec<&str> {
        self.query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    // ---- out

    /// An absolute link to a path of this server.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn link(&self, collection: &str, uuid: &str) -> String {
        format!("{}/api/{collection}/{uuid}/", self.base)
    }

    pub fn created<T: Serialize>(&self, url: &str, body: &T) -> Response {
        Response::json(201, body).with_header("Location", url)
    }

    /// The page that was asked for, of a list of `count` items.
    pub fn page(&self, count: i64, order: &str) -> Result<Paging, ApiError> {
        let size = self.param("page_size").and_then(whole_number).filter(|n| *n > 0);
        let size = size.unwrap_or(DEFAULT_PAGE_SIZE).min(MAX_PAGE_SIZE);
        let last = ((count + size - 1) / size).max(1);
        let text = self.param("page").filter(|text| !text.is_empty()).unwrap_or("1");
        let invalid = |reason: &str| ApiError::detail(404, format!("Invalid page \"{text}\": {reason}."));
        let number = match text {
            "last" => last,
            text => whole_number(text).ok_or_else(|| invalid("That page number is not an integer"))?,
        };
        if number < 1 {
            return Err(invalid("That page number is less than 1"));
        }
        if number > last {
            return Err(invalid("That page contains no results"));
        }
        let page = Page { order: order.to_string(), limit: size, offset: (number - 1) * size };
        Ok(Paging { page, number, last, count })
    }

    /// A list's answer: a bare array, its size and its neighbours.
    pub fn list<T: Serialize>(&self, paging: &Paging, items: Vec<T>) -> Response {
        let link = |number: i64, rel: &str| format!("<{}>; rel=\"{rel}\"", self.page_url(number));
        let mut links = vec![link(1, "first")];
        if paging.number > 1 {
            links.push(link(paging.number - 1, "prev"));
        }
        if paging.number < paging.last {
            links.push(link(paging.number + 1, "next"));
        }
        links.push(link(paging.last, "last"));
        Response::json(200, &items)
            .with_header("X-Result-Count", paging.count.to_string())
            .with_header("Link", links.join(", "))
    }

    /// The request's own URL with another page number; page 1 is the one without a number.
    fn page_url(&self, number: i64) -> String {
        let kept = self.request.query.split('&').filter(|item| !item.is_empty());
        let mut items: Vec<String> = kept.filter(|item| item.split('=').next() != Some("page")).map(header_safe).collect();
        if number > 1 {
            items.push(format!("page={number}"));
        }
        let path = self.url(&header_safe(&self.request.path));
        if items.is_empty() { path } else { format!("{path}?{}", items.join("&")) }
    }
}

/// The answer to OPTIONS.
pub fn describe(methods: &[&str]) -> Response {
    let parses = ["application/json", "application/x-www-form-urlencoded"];
    Response::json(200, &json!({"parses": parses, "renders": ["application/json"], "methods": methods}))
}

/// An integer; one that is too large for us is the largest we have.
fn whole_number(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(i64::MAX))
}

/// What came from the client must not end the angle brackets of a Link header.
fn header_safe(text: &str) -> String {
    text.replace('<', "%3C").replace('>', "%3E").replace('"', "%22").replace(' ', "%20")
}

/// Where a page lies in its list.
pub struct Paging {
    pub page: Page,
    number: i64,
    last: i64,
    count: i64,
}

fn allow(methods: &[&str]) -> String {
    let mut names: Vec<&str> = methods.to_vec();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.join(", ")
}

/// The body as an object. Nothing at all is an empty object.
pub fn parse_body(request: &Request) -> Result<Map<String, Value>, ApiError> {
    if request.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let content_type = request.header("content-type").unwrap_or("application/json");
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => parse_json(&request.body),
        "application/x-www-form-urlencoded" => {
            let text = std::str::from_utf8(&request.body).map_err(|e| ApiError::detail(400, format!("Form parse error - {e}")))?;
            Ok(text::form_pairs(text).into_iter().map(|(key, value)| (key, Value::String(value))).collect())
        }
        _ => Err(ApiError::detail(415, format!("Unsupported media type \"{content_type}\" in request."))),
    }
}

fn parse_json(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let value: Value = serde_json::from_slice(body).map_err(|e| ApiError::detail(400, format!("JSON parse error - {e}")))?;
    let kind = match value {
        Value::Object(map) => return Ok(map),
        Value::Array(_) => "list",
        Value::String(_) => "str",
        Value::Number(ref n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::Bool(_) => "bool",
        Value::Null => "NoneType",
    };
    Err(ApiError::non_field(vec![format!("Invalid data. Expected a dictionary, but got {kind}.")]))
}
