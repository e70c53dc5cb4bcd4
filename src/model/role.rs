//! Who may do what. Write access is a property of the instance's project, not of the backup.

/// What a role gives on one project. `Owner` is held on the one customer, that is, on all projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Owner,
    Admin,
    Member,
    Reader,
}

/// What somebody may do with the things of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Invisible: answers are 404.
    None,
    /// Visible, but writes are 403.
    Read,
    Write,
}

/// The same in Keystone's words: the highest role of a token, which includes those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    Reader,
    Member,
    Admin,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Reader => "reader",
            Level::Member => "member",
            Level::Admin => "admin",
        }
    }

    pub fn from_stored(name: &str) -> Option<Level> {
        [Level::Reader, Level::Member, Level::Admin].into_iter().find(|level| level.as_str() == name)
    }

    /// The names of all roles that this level has.
    pub fn roles(self) -> &'static [&'static str] {
        match self {
            Level::None => &[],
            Level::Reader => &["reader"],
            Level::Member => &["member", "reader"],
            Level::Admin => &["admin", "member", "reader"],
        }
    }
}

impl From<Access> for Level {
    fn from(access: Access) -> Level {
        match access {
            Access::None => Level::None,
            Access::Read => Level::Reader,
            Access::Write => Level::Member,
        }
    }
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
            Role::Reader => "reader",
        }
    }

    pub fn from_stored(name: &str) -> Option<Role> {
        [Role::Owner, Role::Admin, Role::Member, Role::Reader].into_iter().find(|role| role.as_str() == name)
    }

    /// Waldur's name: its `manager` is our member.
    pub fn waldur_name(self) -> &'static str {
        match self {
            Role::Member => "manager",
            other => other.as_str(),
        }
    }

    /// A project role by Waldur's name.
    pub fn from_waldur_name(name: &str) -> Option<Role> {
        [Role::Admin, Role::Member, Role::Reader].into_iter().find(|role| role.waldur_name() == name)
    }

    pub fn access(self) -> Access {
        match self {
            Role::Owner | Role::Admin | Role::Member => Access::Write,
            Role::Reader => Access::Read,
        }
    }
}
