//! `cofferd quota`: how much a project may use.

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::client::Client;
use super::find::project;
use super::output::{field, parse_mib, table};
use super::{CliError, Context};
use crate::model::quota::QuotaName;

const COLLECTION: &str = "/api/quotas/";

/// Limit what projects use
#[derive(Subcommand)]
pub enum Quota {
    /// List limits and usage
    List {
        /// Only those of this project
        #[arg(long, short)]
        project: Option<String>,
    },
    /// Set a limit
    Set {
        /// What is limited
        #[arg(value_parser = PossibleValuesParser::new(QuotaName::all().map(QuotaName::as_str)))]
        name: String,
        /// A number or `unlimited`; storage and ram are MiB, or have a unit as in 500G; gigabytes are GiB
        #[arg(value_parser = plausible_limit, allow_hyphen_values = true)]
        limit: String,
        /// May be left out when there is only one
        #[arg(long, short)]
        project: Option<String>,
    },
}

pub fn run(args: &Quota, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    match args {
        Quota::List { project: of } => {
            let mut quotas = client.list(COLLECTION)?;
            if of.is_some() {
                let uuid = field(&project(&client, of.as_deref())?, "uuid");
                quotas.retain(|q| field(q, "scope").contains(&uuid));
            }
            let projects = client.list("/api/projects/")?;
            context.show(&Value::Array(quotas), |list| shown(list, &projects))
        }
        Quota::Set { name, limit, project: of } => {
            let limit = parse_limit(name, limit).map_err(|e| CliError::failed(format!("{limit:?} is no limit of {name}: {e}")))?;
            let quota = find(&client, name, &project(&client, of.as_deref())?)?;
            let path = format!("{COLLECTION}{}/", field(&quota, "uuid"));
            context.show(&client.call("PUT", &path, Some(json!({"limit": limit})))?, |q| format!("{name}: {}\n", number(q, "limit")))
        }
    }
}

fn find(client: &Client, name: &str, project: &Value) -> Result<Value, CliError> {
    let uuid = field(project, "uuid");
    let quotas = client.list(&format!("{COLLECTION}?name={name}"))?;
    let meant = quotas.into_iter().find(|q| q["name"] == name && field(q, "scope").contains(&uuid));
    meant.ok_or_else(|| CliError::failed(format!("project {} has no quota {name}", field(project, "name"))))
}

/// The API gives the project as a link; people want its name.
fn shown(quotas: &Value, projects: &[Value]) -> String {
    let name = |quota: &Value| {
        let scope = field(quota, "scope");
        projects.iter().find(|p| scope.contains(&field(p, "uuid"))).map_or(scope.clone(), |p| field(p, "name"))
    };
    let rows: Vec<Value> = quotas
        .as_array()
        .into_iter()
        .flatten()
        .map(|q| json!({"project": name(q), "name": q["name"], "usage": number(q, "usage"), "limit": number(q, "limit")}))
        .collect();
    table(
        &[
            ("PROJECT", |q| field(q, "project")),
            ("NAME", |q| field(q, "name")),
            ("USAGE", |q| field(q, "usage")),
            ("LIMIT", |q| field(q, "limit")),
        ],
        &rows,
    )
}

fn number(quota: &Value, name: &str) -> String {
    match quota[name].as_f64() {
        Some(n) if n < 0.0 => "unlimited".to_owned(),
        Some(n) => format!("{n:.0}"),
        None => "-".to_owned(),
    }
}

/// What may be a limit; of which unit, depends on the name.
fn plausible_limit(text: &str) -> Result<String, String> {
    match text {
        "unlimited" | "-1" => Ok(text.to_owned()),
        _ => parse_mib(text).map(|_| text.to_owned()),
    }
}

fn parse_limit(name: &str, text: &str) -> Result<i64, String> {
    match (text, QuotaName::from_stored(name)) {
        ("unlimited" | "-1", _) => Ok(-1),
        (_, Some(QuotaName::Storage | QuotaName::Ram)) => parse_mib(text).and_then(|n| i64::try_from(n).map_err(|_| "too large".to_owned())),
        _ => text.parse().ok().filter(|n| *n >= 0).ok_or_else(|| "a whole number is needed, without a unit".to_owned()),
    }
}
