//! As much of Keystone v3 as OpenStack's clients need to reach the volume API: `/identity`. One file a resource.
//!
//! There is one domain, one region and three roles; users, projects and who has which role are the coffer's own, and are
//! changed elsewhere.

mod catalog;
mod claim;
#[cfg(fuzzing)]
pub use claim::Claim;
mod credentials;
mod directory;
mod discovery;
mod fault;
mod tokens;

use std::sync::Arc;

use serde_json::Value;

use crate::api::auth::openstack::{self, Caller};
use crate::api::proxy::base_url;
use crate::api::text;
use crate::app::App;
use crate::http::{Request, Response};
use fault::{Fault, IdentityResult};

/// Answers a request below `/identity`; `rest` are the path's segments after it.
pub fn handle(app: &Arc<App>, request: &Request, rest: &[&str]) -> Response {
    let context = Context { app, request, base: base_url(app, request) };
    let answer = route(&context, rest).unwrap_or_else(|fault| fault.into_response(&context.base));
    answer.with_header("Vary", "X-Auth-Token")
}

/// The answer to a request that came no further than to the gate.
pub fn refusal(status: u16, message: &str) -> Response {
    Fault::new(status, message).into_response("").with_header("Vary", "X-Auth-Token")
}

/// The answer to an OpenStack request that has no caller, here and in the volume API: it tells where to log in.
pub fn unauthorized(app: &App, request: &Request, message: &str) -> Response {
    Fault::unauthorized(message).into_response(&base_url(app, request)).with_header("Vary", "X-Auth-Token")
}

/// One request.
struct Context<'a> {
    app: &'a Arc<App>,
    request: &'a Request,
    base: String,
}

fn route(context: &Context, rest: &[&str]) -> IdentityResult {
    match rest {
        [] => context.methods(&[("GET", &|| discovery::versions(context))]),
        ["v3"] => context.methods(&[("GET", &|| discovery::version(context))]),
        ["v3", "auth", "tokens"] => context.methods(&[
            ("GET", &|| tokens::show(context)),
            ("POST", &|| tokens::create(context)),
            ("DELETE", &|| tokens::revoke(context)),
        ]),
        ["v3", "auth", "catalog"] => context.methods(&[("GET", &|| catalog::show(context))]),
        ["v3", "auth", "projects"] => context.methods(&[("GET", &|| directory::my_projects(context))]),
        ["v3", "users", user, "application_credentials", rest @ ..] => credentials::route(context, user, rest),
        ["v3", rest @ ..] => directory::route(context, rest),
        _ => Err(Fault::not_found()),
    }
}

/// A method and what it does.
type Method<'m> = (&'m str, &'m dyn Fn() -> IdentityResult);

impl Context<'_> {
    /// Calls what the method stands for; HEAD is GET without the body.
    fn methods(&self, methods: &[Method]) -> IdentityResult {
        let asked = match self.request.method.as_str() {
            "HEAD" => "GET",
            other => other,
        };
        match methods.iter().find(|(name, _)| *name == asked) {
            Some((_, act)) => act(),
            None => Err(Fault::method_not_allowed(methods.iter().map(|(name, _)| *name))),
        }
    }

    fn caller(&self) -> Result<Caller, Fault> {
        Ok(openstack::authenticate(self.app, self.request)?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/identity/v3{path}", self.base)
    }

    /// A parameter of the query.
    fn param(&self, name: &str) -> Option<String> {
        text::form_pairs(&self.request.query).into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn body(&self) -> Result<Value, Fault> {
        serde_json::from_slice(&self.request.body).map_err(|e| Fault::bad_request(format!("The body is not JSON: {e}")))
    }
}

/// UTC with microseconds, as Keystone writes times.
fn timestamp(ms: i64) -> String {
    crate::clock::from_ms(ms).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
