//! `/volumes/{id}/metadata` and `/snapshots/{id}/metadata`: labels that users put on them (Cinder contract 4.2).

use std::collections::BTreeMap;

use rusqlite::{Connection, Transaction};
use serde_json::{Value, json};

use super::body;
use super::context::{CinderResult, Context};
use super::error::CinderError;
use crate::catalog::volume_backups::{self, VolumeBackup};
use crate::catalog::volumes::{self, Volume};
use crate::clock;
use crate::http::Response;

pub type Labels = BTreeMap<String, String>;

/// Which kind of thing has labels.
#[derive(Clone, Copy)]
pub enum Owner {
    Volume,
    Snapshot,
}

/// One thing that has labels.
enum Owned {
    Volume(Volume),
    Snapshot(VolumeBackup),
}

/// Labels as they are stored.
pub fn parse(text: &str) -> Labels {
    serde_json::from_str(text).unwrap_or_default()
}

impl Owner {
    fn find(self, context: &Context, c: &Connection, id: &str) -> Result<Owned, CinderError> {
        Ok(match self {
            Owner::Volume => Owned::Volume(context.volume(c, id)?),
            Owner::Snapshot => Owned::Snapshot(context.snapshot(c, id)?),
        })
    }
}

impl Owned {
    fn labels(&self) -> Labels {
        parse(match self {
            Owned::Volume(volume) => &volume.labels,
            Owned::Snapshot(snapshot) => &snapshot.labels,
        })
    }

    fn set_labels(&self, tx: &Transaction, labels: &Labels) -> rusqlite::Result<()> {
        let (text, now) = (json!(labels).to_string(), clock::now_ms());
        match self {
            Owned::Volume(volume) => volumes::set_texts(tx, volume.id, &volume.name, volume.description.as_deref(), &text, now),
            Owned::Snapshot(snapshot) => {
                volume_backups::set_texts(tx, snapshot, snapshot.title.as_deref(), snapshot.description.as_deref(), &text, now)
            }
        }
    }
}

pub fn route(context: &Context, owner: Owner, method: &str, id: &str, rest: &[&str]) -> CinderResult {
    match (method, rest) {
        ("GET", []) => context.read(|c| {
            let labels = owner.find(context, c, id)?.labels();
            Ok(answer(context, &labels, &json!({"metadata": labels})))
        }),
        ("POST", []) => set_all(context, owner, id, true),
        ("PUT", []) => set_all(context, owner, id, false),
        ("GET", [key]) => context.read(|c| {
            let labels = owner.find(context, c, id)?.labels();
            let value = labels.get(*key).ok_or_else(|| no_such(key))?;
            Ok(answer(context, &labels, &json!({"meta": {*key: value}})))
        }),
        ("PUT", [key]) => set_one(context, owner, id, key),
        ("DELETE", [key]) => {
            change(context, owner, id, |labels| labels.remove(*key).map(|_| ()).ok_or_else(|| no_such(key)))?;
            Ok(Response::empty(200))
        }
        _ => Err(CinderError::not_found()),
    }
}

fn no_such(key: &str) -> CinderError {
    CinderError::no_such("Metadata item", key)
}

/// Since 3.15 with a mark by which a client can tell whether they are what it has seen.
fn answer(context: &Context, labels: &Labels, body: &Value) -> Response {
    let response = Response::json(200, body);
    if context.since(15) { response.with_header("Etag", etag(labels)) } else { response }
}

fn etag(labels: &Labels) -> String {
    blake3::hash(json!(labels).to_string().as_bytes()).to_hex()[..32].to_string()
}

/// The labels inside `{"wrapper": {...}}`.
fn given(context: &Context, wrapper: &'static str) -> Result<Labels, CinderError> {
    let body = body::parse(context.request)?;
    body.only(&[wrapper])?;
    let text = body.labels(wrapper)?.flatten();
    Ok(parse(&text.ok_or_else(|| CinderError::bad_request(format!("\"{wrapper}\" is required and must be an object of strings.")))?))
}

fn set_all(context: &Context, owner: Owner, id: &str, merge: bool) -> CinderResult {
    let given = given(context, "metadata")?;
    let labels = change(context, owner, id, |labels| {
        if !merge {
            labels.clear();
        }
        labels.extend(given);
        Ok(())
    })?;
    Ok(answer(context, &labels, &json!({"metadata": labels})))
}

fn set_one(context: &Context, owner: Owner, id: &str, key: &str) -> CinderResult {
    let given = given(context, "meta")?;
    if given.len() != 1 || !given.contains_key(key) {
        return Err(CinderError::bad_request(format!("The body must have one item, with the key \"{key}\" of the URL.")));
    }
    let body = json!({"meta": given});
    let labels = change(context, owner, id, |labels| {
        labels.extend(given);
        Ok(())
    })?;
    Ok(answer(context, &labels, &body))
}

/// One change in one transaction, unless `If-Match` names labels that are no longer there.
fn change(
    context: &Context,
    owner: Owner,
    id: &str,
    change: impl FnOnce(&mut Labels) -> Result<(), CinderError>,
) -> Result<Labels, CinderError> {
    context.write(|tx| {
        let owned = owner.find(context, tx, id)?;
        let mut labels = owned.labels();
        let before = labels.len();
        context.member_only()?;
        let expected = context.request.header("if-match").filter(|_| context.since(15)).map(|mark| mark.trim_matches('"'));
        if expected.is_some_and(|expected| expected != "*" && expected != etag(&labels)) {
            return Err(CinderError::precondition_failed());
        }
        change(&mut labels)?;
        // A restore may have brought more together; what makes no more of them is fine.
        if labels.len() > before {
            body::check_number(labels.len())?;
        }
        owned.set_labels(tx, &labels)?;
        Ok(labels)
    })
}
