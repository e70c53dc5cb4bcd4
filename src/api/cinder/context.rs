//! One request in Cinder's conventions: who asks, in which project, in which revision of the API.

use std::sync::Arc;

use rusqlite::{Connection, Transaction};

use super::error::CinderError;
use super::microversion::Microversion;
use super::wire::Links;
use crate::api::auth::openstack::{Caller, Level, Scope};
use crate::api::text;
use crate::app::App;
use crate::catalog::{volume_backups, volumes};
use crate::catalog::volume_backups::VolumeBackup;
use crate::catalog::volumes::Volume;
use crate::http::{Request, Response};
use crate::model::backup::BackupKind;

pub type CinderResult = Result<Response, CinderError>;

pub struct Context<'a> {
    pub app: &'a Arc<App>,
    pub request: &'a Request,
    pub version: Microversion,
    pub query: Vec<(String, String)>,
    caller: Caller,
    scope: Scope,
    base: String,
    /// The project as the URL names it, with a slash before it; empty if it does not.
    project_path: String,
}

impl<'a> Context<'a> {
    pub fn new(
        app: &'a Arc<App>,
        request: &'a Request,
        version: Microversion,
        caller: Caller,
        scope: Scope,
        base: String,
        project_in_url: Option<&str>,
    ) -> Context<'a> {
        let project_path = project_in_url.map(|project| format!("/{}", text::percent_encode(project))).unwrap_or_default();
        Context { app, request, version, query: text::form_pairs(&request.query), caller, scope, base, project_path }
    }

    pub fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T, CinderError>) -> Result<T, CinderError> {
        self.app.db.read(f)
    }

    pub fn write<T>(&self, f: impl FnOnce(&Transaction) -> Result<T, CinderError>) -> Result<T, CinderError> {
        self.app.db.write(f)
    }

    /// Is the request in this revision of the API or a later one?
    pub fn since(&self, minor: u16) -> bool {
        self.version >= Microversion(minor)
    }

    // ---- who

    pub fn project_id(&self) -> i64 {
        self.scope.project.id
    }

    pub fn project_uuid(&self) -> &str {
        &self.scope.project.uuid
    }

    pub fn user_uuid(&self) -> &str {
        self.caller.user_uuid()
    }

    pub fn is_admin(&self) -> bool {
        self.scope.level >= Level::Admin
    }

    pub fn admin_only(&self) -> Result<(), CinderError> {
        self.needs(Level::Admin)
    }

    pub fn member_only(&self) -> Result<(), CinderError> {
        self.needs(Level::Member)
    }

    pub fn needs(&self, level: Level) -> Result<(), CinderError> {
        if self.scope.level >= level { Ok(()) } else { Err(CinderError::forbidden("Your roles in this project do not allow this.")) }
    }

    /// What is in another project is not there for anybody but an administrator.
    fn sees(&self, project_id: i64) -> bool {
        project_id == self.scope.project.id || self.is_admin()
    }

    // ---- what

    pub fn volume(&self, c: &Connection, id: &str) -> Result<Volume, CinderError> {
        let found = text::parse_uuid(id).map(|uuid| volumes::get(c, &uuid)).transpose()?.flatten();
        found.filter(|volume| self.sees(volume.project_id)).ok_or_else(|| CinderError::no_such("Volume", id))
    }

    pub fn backup(&self, c: &Connection, id: &str) -> Result<VolumeBackup, CinderError> {
        let found = text::parse_uuid(id).map(|uuid| volume_backups::get(c, &uuid)).transpose()?.flatten();
        let found = found.filter(|backup| backup.kind != BackupKind::Snapshot && self.sees(backup.project_id));
        found.ok_or_else(|| CinderError::no_such("Backup", id))
    }

    pub fn snapshot(&self, c: &Connection, id: &str) -> Result<VolumeBackup, CinderError> {
        let found = text::parse_uuid(id).map(|uuid| volume_backups::get(c, &uuid)).transpose()?.flatten();
        let found = found.filter(|snapshot| snapshot.kind == BackupKind::Snapshot && self.sees(snapshot.project_id));
        found.ok_or_else(|| CinderError::no_such("Snapshot", id))
    }

    // ---- in

    /// The last value of a query parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A query parameter that is a boolean; false if it is not there.
    pub fn flag(&self, name: &str) -> Result<bool, CinderError> {
        match self.param(name) {
            None => Ok(false),
            Some(text) => super::body::boolean_word(text)
                .ok_or_else(|| CinderError::bad_request(format!("{name}: \"{text}\" is neither true nor false."))),
        }
    }

    // ---- out

    pub fn links<'l>(&'l self, collection: &'l str, uuid: &'l str) -> Links<'l> {
        Links { base: &self.base, project_path: &self.project_path, collection, uuid }
    }

    /// The request's own address, without its query.
    pub fn own_url(&self) -> String {
        format!("{}{}", self.base, self.request.path)
    }
}
