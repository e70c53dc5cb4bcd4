-- The coffer: one SQLite file with the catalog and the backup data.
-- FORMAT.md describes the store part exactly; this file is executed once, when a coffer is created.
-- Times are integers, milliseconds since 1970-01-01T00:00Z. Identifiers shown to clients (uuid) are 32 lower-case
-- hex digits. Sizes are bytes unless a name says otherwise.

---------------------------------------------------------------- the store: where bytes live

-- About 8 MiB of stored chunks each, in the order of the volume they were first read from. Rewritten only by compaction.
-- Those of a repository are here until they are uploaded.
CREATE TABLE pack (
    id   INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

-- Table of contents of a pack: one fixed-size entry for each slot (FORMAT.md). A chunk's address is (pack, slot).
CREATE TABLE pack_toc (
    id     INTEGER PRIMARY KEY,              -- the pack's id
    format INTEGER NOT NULL,                 -- layout of entries
    slots  INTEGER NOT NULL,
    stored INTEGER NOT NULL,                 -- length of pack.data
    entries BLOB NOT NULL,
    repository INTEGER NOT NULL DEFAULT 0,   -- where the pack lies: 0 in this file
    object TEXT,                             -- its object there, once it is uploaded
    staged INTEGER NOT NULL DEFAULT 0        -- 1: what is in table pack is still to be uploaded
) STRICT;
CREATE INDEX pack_toc_deltas ON pack_toc(id) WHERE format = 2;
CREATE INDEX pack_toc_staged ON pack_toc(repository, id) WHERE staged;
CREATE UNIQUE INDEX pack_toc_object ON pack_toc(object, repository) WHERE object IS NOT NULL;

-- When each pack was written, or last read again and compared with its hashes. Without an index on at: the scrub looks through
-- all rows once in many packs, which takes milliseconds, and an index would cost one more page with each pack.
CREATE TABLE verified (
    pack INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL                    -- 0: never
) STRICT;

-- The addresses of up to 1024 chunks of a volume, named by its content, shared by all backups in the same place that have it.
-- They are in packs of its own repository.
CREATE TABLE segment (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    hash   BLOB NOT NULL,
    format INTEGER NOT NULL,
    chunks BLOB NOT NULL,
    repository INTEGER NOT NULL DEFAULT 0,
    object TEXT,                             -- its object there, once it is uploaded
    staged INTEGER NOT NULL DEFAULT 0,       -- 1: it is still to be uploaded, for the first time or because it lists other addresses
    UNIQUE (hash, repository)
) STRICT;
CREATE UNIQUE INDEX segment_object ON segment(object, repository) WHERE object IS NOT NULL;

-- One volume at one instant: the ordered list of its segments.
CREATE TABLE volume_map (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    hash       BLOB NOT NULL,
    size       INTEGER NOT NULL,
    chunk_size INTEGER NOT NULL,
    segments   BLOB NOT NULL,
    repository INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX volume_map_hash ON volume_map(hash);

-- Objects of repositories that nothing needs any more and that are still to be removed there.
CREATE TABLE trash (
    repository INTEGER NOT NULL,
    object     TEXT NOT NULL,
    since      INTEGER NOT NULL,
    PRIMARY KEY (repository, object)
) STRICT, WITHOUT ROWID;

---------------------------------------------------------------- the catalog

-- Object stores in which backups may lie; the configuration says where they are. Its id is never 0 and never used again.
CREATE TABLE repository (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL UNIQUE,
    writer     TEXT NOT NULL,                 -- who we are there
    epoch      INTEGER NOT NULL,              -- which writer we are: a later one there has taken our place; 0: none yet
    is_default INTEGER NOT NULL DEFAULT 0,
    created    INTEGER NOT NULL,
    copies     TEXT NOT NULL DEFAULT 'null'   -- JSON, as configured: which backups of other places are copied there
) STRICT;

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
    id            INTEGER PRIMARY KEY,
    uuid          TEXT NOT NULL UNIQUE,
    username      TEXT NOT NULL UNIQUE,
    full_name     TEXT NOT NULL DEFAULT '',
    native_name   TEXT NOT NULL DEFAULT '',
    job_title     TEXT NOT NULL DEFAULT '',
    email         TEXT NOT NULL DEFAULT '',
    phone_number  TEXT NOT NULL DEFAULT '',
    organization  TEXT NOT NULL DEFAULT '',
    civil_number  TEXT,
    description   TEXT NOT NULL DEFAULT '',
    is_staff      INTEGER NOT NULL DEFAULT 0,
    is_active     INTEGER NOT NULL DEFAULT 1,
    password      TEXT,                       -- PHC string (argon2id); NULL: no login by password
    created       INTEGER NOT NULL
) STRICT;

-- Tokens of the API, and those that Keystone's dialect gives out (methods is not NULL): these are good in that dialect only.
CREATE TABLE token (
    id      INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES user(id) ON DELETE CASCADE,
    hash    BLOB NOT NULL UNIQUE,             -- BLAKE3 of the token; the token itself is never stored
    name    TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,
    expires INTEGER,
    methods       TEXT,                       -- how it was got, words: password, token, application_credential
    audit_ids     TEXT,                       -- its own, then that of the login it comes from
    project_id    INTEGER REFERENCES project(id) ON DELETE CASCADE, -- its scope; NULL: unscoped
    source_id     INTEGER REFERENCES token(id) ON DELETE CASCADE,   -- the token of the API that it was got with
    credential_id INTEGER REFERENCES application_credential(id) ON DELETE CASCADE -- the same
) STRICT;
CREATE INDEX token_user ON token(user_id);
CREATE INDEX token_source ON token(source_id) WHERE source_id IS NOT NULL;

-- What a program logs in with instead of a user's password: one project, at most one level, revoked by itself.
CREATE TABLE application_credential (
    id          INTEGER PRIMARY KEY,
    uuid        TEXT NOT NULL UNIQUE,
    user_id     INTEGER NOT NULL REFERENCES user(id) ON DELETE CASCADE,
    project_id  INTEGER NOT NULL REFERENCES project(id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    secret      TEXT NOT NULL,                -- PHC string (argon2id)
    level       TEXT NOT NULL CHECK (level IN ('reader', 'member', 'admin')), -- the most it gives, whatever the user may
    created     INTEGER NOT NULL,
    expires     INTEGER,
    UNIQUE (user_id, name)
) STRICT;

CREATE TABLE project (
    id          INTEGER PRIMARY KEY,
    uuid        TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    created     INTEGER NOT NULL
) STRICT;

-- project_id NULL: owner of the one customer, that is, of all projects.
CREATE TABLE role (
    id         INTEGER PRIMARY KEY,
    uuid       TEXT NOT NULL UNIQUE,
    user_id    INTEGER NOT NULL REFERENCES user(id) ON DELETE CASCADE,
    project_id INTEGER REFERENCES project(id) ON DELETE CASCADE,
    role       TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'reader')),
    created    INTEGER NOT NULL,
    CHECK ((project_id IS NULL) = (role = 'owner'))
) STRICT;
CREATE UNIQUE INDEX role_unique ON role(user_id, ifnull(project_id, 0), role);

CREATE TABLE quota (
    project_id INTEGER NOT NULL REFERENCES project(id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    uuid       TEXT NOT NULL UNIQUE,
    "limit"    INTEGER,                       -- in the unit the API shows (storage, ram: MiB); -1: unlimited; NULL: the default
    PRIMARY KEY (project_id, name)
) STRICT;

-- Limits of projects that have none of their own; what is not here is unlimited (Cinder's quota class "default").
CREATE TABLE quota_default (
    name    TEXT PRIMARY KEY,
    "limit" INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Running sums for each project, kept by the triggers below: quotas and list counts cost the same with 10 backups and 100,000.
CREATE TABLE tally (
    project_id INTEGER NOT NULL REFERENCES project(id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    value      INTEGER NOT NULL,
    PRIMARY KEY (project_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    id       INTEGER PRIMARY KEY,
    uuid     TEXT NOT NULL UNIQUE,
    name     TEXT NOT NULL,
    min_disk INTEGER NOT NULL DEFAULT 0,      -- MiB
    min_ram  INTEGER NOT NULL DEFAULT 0,      -- MiB
    created  INTEGER NOT NULL
) STRICT;

CREATE TABLE flavor (
    id      INTEGER PRIMARY KEY,
    uuid    TEXT NOT NULL UNIQUE,
    name    TEXT NOT NULL,
    cores   INTEGER NOT NULL,
    ram     INTEGER NOT NULL,                 -- MiB
    disk    INTEGER NOT NULL,                 -- MiB
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE volume (
    id            INTEGER PRIMARY KEY,
    uuid          TEXT NOT NULL UNIQUE,
    project_id    INTEGER NOT NULL REFERENCES project(id),
    user_uuid     TEXT NOT NULL DEFAULT '',   -- who made or registered it
    name          TEXT NOT NULL DEFAULT '',
    description   TEXT,
    path          TEXT NOT NULL UNIQUE,       -- absolute, without symbolic links
    kind          TEXT NOT NULL CHECK (kind IN ('file', 'block')),
    size          INTEGER NOT NULL CHECK (size > 0),
    managed       INTEGER NOT NULL DEFAULT 0, -- 1: the file was made by cofferd and is removed with the volume
    state         TEXT NOT NULL,              -- model/volume.rs lists them; what is going on with it stands in job
    error_message TEXT NOT NULL DEFAULT '',
    bootable      INTEGER NOT NULL DEFAULT 0, -- of a volume that belongs to no instance
    readonly      INTEGER,                    -- as a user has flagged it; NULL: nobody has
    labels        TEXT NOT NULL DEFAULT '{}', -- JSON object of strings: Cinder's metadata
    attachment    TEXT,                       -- JSON: who on the host uses it (os-attach)
    origin        TEXT NOT NULL DEFAULT '{}', -- JSON: uuid of the snapshot or volume that it was made from
    created       INTEGER NOT NULL,
    updated       INTEGER
) STRICT;
CREATE INDEX volume_project ON volume(project_id, created, id);

CREATE TABLE instance (
    id              INTEGER PRIMARY KEY,
    uuid            TEXT NOT NULL UNIQUE,
    project_id      INTEGER NOT NULL REFERENCES project(id),
    name            TEXT NOT NULL,
    description     TEXT NOT NULL DEFAULT '',
    state           TEXT NOT NULL,            -- model/instance.rs lists them
    error_message   TEXT NOT NULL DEFAULT '',
    cores           INTEGER NOT NULL DEFAULT 0,
    ram             INTEGER NOT NULL DEFAULT 0, -- MiB
    flavor_name     TEXT NOT NULL DEFAULT '',
    image_name      TEXT NOT NULL DEFAULT '',
    min_ram         INTEGER NOT NULL DEFAULT 0, -- MiB
    min_disk        INTEGER NOT NULL DEFAULT 0, -- MiB
    key_name        TEXT NOT NULL DEFAULT '',
    key_fingerprint TEXT NOT NULL DEFAULT '',
    user_data       TEXT NOT NULL DEFAULT '',
    tags            TEXT NOT NULL DEFAULT '[]', -- JSON array of strings
    internal_ips    TEXT NOT NULL DEFAULT '[]',
    external_ips    TEXT NOT NULL DEFAULT '[]',
    backup_counter  INTEGER NOT NULL DEFAULT 0, -- scheduled backups made so far
    created         INTEGER NOT NULL
) STRICT;
CREATE INDEX instance_project ON instance(project_id, created, id);
CREATE INDEX instance_created ON instance(created, id);

CREATE TABLE instance_volume (
    instance_id INTEGER NOT NULL REFERENCES instance(id) ON DELETE CASCADE,
    position    INTEGER NOT NULL,
    volume_id   INTEGER NOT NULL UNIQUE REFERENCES volume(id),
    bootable    INTEGER NOT NULL,
    PRIMARY KEY (instance_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE schedule (
    id               INTEGER PRIMARY KEY,
    uuid             TEXT NOT NULL UNIQUE,
    instance_id      INTEGER NOT NULL REFERENCES instance(id) ON DELETE CASCADE,
    description      TEXT NOT NULL DEFAULT '',
    retention_time   INTEGER NOT NULL,        -- days; 0: for ever
    maximal_number   INTEGER NOT NULL,
    cron             TEXT NOT NULL,
    timezone         TEXT NOT NULL,
    is_active        INTEGER NOT NULL,
    next_trigger_at  INTEGER NOT NULL,
    error_message    TEXT NOT NULL DEFAULT '',
    last_run_at      INTEGER,                 -- the trigger instant last dealt with
    last_skip_reason TEXT NOT NULL DEFAULT '',
    created          INTEGER NOT NULL,
    repository       TEXT NOT NULL DEFAULT '' -- name of where its backups go; empty: the default
) STRICT;
CREATE INDEX schedule_instance ON schedule(instance_id);
CREATE INDEX schedule_due ON schedule(next_trigger_at) WHERE is_active;
CREATE INDEX schedule_created ON schedule(created, id);

-- A point in time that is kept: of an instance (Waldur), of one volume (Cinder's backup), or a volume's snapshot (Cinder).
CREATE TABLE backup (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid          TEXT NOT NULL UNIQUE,
    kind          TEXT NOT NULL CHECK (kind IN ('instance', 'volume', 'snapshot')),
    project_id    INTEGER NOT NULL REFERENCES project(id),
    user_uuid     TEXT NOT NULL DEFAULT '',   -- who asked for it
    instance_id   INTEGER REFERENCES instance(id),
    schedule_id   INTEGER REFERENCES schedule(id) ON DELETE SET NULL,
    trigger_at    INTEGER,                    -- the schedule's instant that made it
    description   TEXT NOT NULL DEFAULT '',
    state         TEXT NOT NULL,              -- model/backup.rs lists them
    error_message TEXT NOT NULL DEFAULT '',
    fail_reason   TEXT,                       -- the last failure, of a restore too; never cleared
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER,
    finished_at   INTEGER,
    kept_until    INTEGER,
    size          INTEGER NOT NULL,           -- sum of the virtual sizes of its volumes
    reserved      INTEGER NOT NULL,           -- what it takes of the storage quota: size, or 0 once its data is gone
    stored        INTEGER NOT NULL DEFAULT 0, -- bytes its making added to the store
    metadata      TEXT NOT NULL DEFAULT '{}', -- JSON: the instance as it was
    repository_id INTEGER REFERENCES repository(id), -- where its data goes; NULL: into this file
    manifest      TEXT,                       -- its object there
    CHECK ((kind = 'instance') = (instance_id IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX backup_trigger ON backup(schedule_id, trigger_at) WHERE trigger_at IS NOT NULL;
CREATE INDEX backup_created ON backup(created_at, id) WHERE instance_id IS NOT NULL;
CREATE INDEX backup_project ON backup(project_id, created_at, id) WHERE instance_id IS NOT NULL;
CREATE INDEX backup_instance ON backup(instance_id, created_at, id);
CREATE INDEX backup_schedule ON backup(schedule_id, created_at, id);
CREATE INDEX backup_state ON backup(state) WHERE state NOT IN ('ready', 'erred');
CREATE INDEX backup_expiry ON backup(kept_until) WHERE kept_until IS NOT NULL;

-- One volume in a backup, which is also what Cinder shows as a backup or a snapshot.
CREATE TABLE volume_backup (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid           TEXT NOT NULL UNIQUE,
    backup_id      INTEGER NOT NULL REFERENCES backup(id) ON DELETE CASCADE,
    kind           TEXT NOT NULL,              -- of its backup
    project_id     INTEGER NOT NULL REFERENCES project(id), -- of its backup
    position       INTEGER NOT NULL DEFAULT 0,
    volume_id      INTEGER REFERENCES volume(id) ON DELETE SET NULL,
    volume_uuid    TEXT NOT NULL,              -- outlives the volume
    name           TEXT NOT NULL DEFAULT '',   -- of the volume, as it was; so are the next three
    volume_description TEXT,
    volume_labels  TEXT NOT NULL DEFAULT '{}',
    bootable       INTEGER NOT NULL DEFAULT 0,
    size           INTEGER NOT NULL,
    map_id         INTEGER REFERENCES volume_map(id), -- NULL until its bytes are all stored. Several may share one
    stored         INTEGER NOT NULL DEFAULT 0,
    objects        INTEGER NOT NULL DEFAULT 0, -- chunks its making added to the store
    created        INTEGER NOT NULL,
    title          TEXT,                       -- Cinder's name of the backup
    description    TEXT,                       -- Cinder's description of it
    labels         TEXT NOT NULL DEFAULT '{}', -- JSON object of strings: Cinder's metadata of it
    container      TEXT,                       -- as it was asked for; a label
    zone           TEXT,                       -- availability zone
    parent_id      INTEGER REFERENCES volume_backup(id) ON DELETE SET NULL, -- what it was asked to be incremental to
    snapshot_uuid  TEXT,                       -- the snapshot it was made from
    data_timestamp INTEGER                     -- when the data was as it is
) STRICT;
CREATE INDEX volume_backup_backup ON volume_backup(backup_id, position);
CREATE INDEX volume_backup_volume ON volume_backup(volume_id);
CREATE INDEX volume_backup_map ON volume_backup(map_id);
CREATE INDEX volume_backup_parent ON volume_backup(parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX volume_backup_list ON volume_backup(project_id, created, uuid) WHERE kind <> 'snapshot';
CREATE INDEX volume_backup_list_all ON volume_backup(created, uuid) WHERE kind <> 'snapshot';
CREATE INDEX volume_backup_snapshots ON volume_backup(project_id, created, uuid) WHERE kind = 'snapshot';

-- A further place that a backup is kept in: promised, or there. What has no row here is in its first place alone.
CREATE TABLE copy (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    backup_id     INTEGER NOT NULL REFERENCES backup(id) ON DELETE CASCADE,
    repository_id INTEGER REFERENCES repository(id), -- NULL: in this file
    automatic     INTEGER NOT NULL,           -- 1: the configuration wants it; 0: somebody has asked for it
    created       INTEGER NOT NULL,
    finished      INTEGER,                    -- since when it is there; NULL: it is not, or not whole
    next_at       INTEGER NOT NULL,           -- it is not tried before that
    attempts      INTEGER NOT NULL DEFAULT 0, -- that have failed since it was promised
    error_message TEXT NOT NULL DEFAULT '',   -- why the last one did
    manifest      TEXT,                       -- its object there
    stored        INTEGER NOT NULL DEFAULT 0, -- bytes its making added there
    mends         INTEGER NOT NULL DEFAULT 0  -- 1: the backup is damaged in its first place, and to be mended from here
) STRICT;
CREATE UNIQUE INDEX copy_place ON copy(backup_id, ifnull(repository_id, 0));
CREATE INDEX copy_due ON copy(next_at) WHERE finished IS NULL OR mends;

CREATE TABLE copy_volume (
    part_id INTEGER NOT NULL REFERENCES volume_backup(id) ON DELETE CASCADE,
    copy_id INTEGER NOT NULL REFERENCES copy(id) ON DELETE CASCADE,
    map_id  INTEGER NOT NULL REFERENCES volume_map(id),
    PRIMARY KEY (part_id, copy_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX copy_volume_copy ON copy_volume(copy_id);
CREATE INDEX copy_volume_map ON copy_volume(map_id);

-- Reflink copies of image files, each made for a part of a backup and kept to tell what has changed since.
CREATE TABLE reflink (
    path    TEXT PRIMARY KEY,
    part_id INTEGER REFERENCES volume_backup(id) ON DELETE SET NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reflink_part ON reflink(part_id);

CREATE TABLE restoration (
    id          INTEGER PRIMARY KEY,
    backup_id   INTEGER NOT NULL REFERENCES backup(id) ON DELETE CASCADE,
    instance_id INTEGER NOT NULL REFERENCES instance(id) ON DELETE CASCADE,
    created     INTEGER NOT NULL
) STRICT;
CREATE INDEX restoration_backup ON restoration(backup_id);
CREATE INDEX restoration_instance ON restoration(instance_id);

-- Work that was promised. A row is inserted in the transaction that changes the state, and removed with the work's end.
CREATE TABLE job (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    kind      TEXT NOT NULL CHECK (kind IN ('create', 'restore', 'delete', 'provision', 'copy', 'extend', 'erase')),
    backup_id INTEGER REFERENCES backup(id) ON DELETE CASCADE,
    volume_id INTEGER REFERENCES volume(id) ON DELETE CASCADE, -- what is written to
    source_id INTEGER REFERENCES volume(id) ON DELETE CASCADE, -- what a copy reads
    target    TEXT NOT NULL DEFAULT '{}',     -- JSON: where a restore goes, how large a volume was, which file is left of a volume
    created   INTEGER NOT NULL
) STRICT;
CREATE INDEX job_backup ON job(backup_id);
CREATE INDEX job_volume ON job(volume_id);
CREATE INDEX job_source ON job(source_id);

CREATE TABLE event (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created    INTEGER NOT NULL,
    type       TEXT NOT NULL,
    severity   TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'error')),
    message    TEXT NOT NULL,
    context    TEXT NOT NULL DEFAULT '{}',    -- JSON object
    project_id INTEGER REFERENCES project(id) ON DELETE SET NULL,
    scope      TEXT NOT NULL DEFAULT ''       -- uuid of what it is about
) STRICT;
CREATE INDEX event_type ON event(type, id);
CREATE INDEX event_scope ON event(scope, id);

---------------------------------------------------------------- what keeps the tallies true

CREATE TRIGGER tally_instance_insert AFTER INSERT ON instance BEGIN
    INSERT INTO tally VALUES (new.project_id, 'instances', 1), (new.project_id, 'vcpu', new.cores), (new.project_id, 'ram', new.ram)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_instance_delete AFTER DELETE ON instance BEGIN
    INSERT INTO tally VALUES (old.project_id, 'instances', -1), (old.project_id, 'vcpu', -old.cores), (old.project_id, 'ram', -old.ram)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_instance_update AFTER UPDATE OF cores, ram ON instance BEGIN
    INSERT INTO tally VALUES (new.project_id, 'vcpu', new.cores - old.cores), (new.project_id, 'ram', new.ram - old.ram)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_volume_insert AFTER INSERT ON volume BEGIN
    INSERT INTO tally VALUES (new.project_id, 'volumes', 1), (new.project_id, 'volume_bytes', new.size),
        (new.project_id, 'volume_gib', (new.size + 1073741823) >> 30)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_volume_delete AFTER DELETE ON volume BEGIN
    INSERT INTO tally VALUES (old.project_id, 'volumes', -1), (old.project_id, 'volume_bytes', -old.size),
        (old.project_id, 'volume_gib', -((old.size + 1073741823) >> 30))
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_volume_update AFTER UPDATE OF size ON volume BEGIN
    INSERT INTO tally VALUES (new.project_id, 'volume_bytes', new.size - old.size),
        (new.project_id, 'volume_gib', ((new.size + 1073741823) >> 30) - ((old.size + 1073741823) >> 30))
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_backup_insert AFTER INSERT ON backup BEGIN
    INSERT INTO tally VALUES (new.project_id, 'backups', new.kind = 'instance'), (new.project_id, 'backup_bytes', new.reserved)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_backup_delete AFTER DELETE ON backup BEGIN
    INSERT INTO tally VALUES (old.project_id, 'backups', -(old.kind = 'instance')), (old.project_id, 'backup_bytes', -old.reserved)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_backup_update AFTER UPDATE OF reserved ON backup BEGIN
    INSERT INTO tally VALUES (new.project_id, 'backup_bytes', new.reserved - old.reserved)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_volume_backup_insert AFTER INSERT ON volume_backup BEGIN
    INSERT INTO tally VALUES (new.project_id, iif(new.kind = 'snapshot', 'snapshots', 'volume_backups'), 1),
        (new.project_id, iif(new.kind = 'snapshot', 'snapshot_gib', 'volume_backup_gib'), (new.size + 1073741823) >> 30)
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_volume_backup_delete AFTER DELETE ON volume_backup BEGIN
    INSERT INTO tally VALUES (old.project_id, iif(old.kind = 'snapshot', 'snapshots', 'volume_backups'), -1),
        (old.project_id, iif(old.kind = 'snapshot', 'snapshot_gib', 'volume_backup_gib'), -((old.size + 1073741823) >> 30))
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER tally_volume_backup_update AFTER UPDATE OF size ON volume_backup BEGIN
    INSERT INTO tally VALUES (new.project_id, iif(new.kind = 'snapshot', 'snapshot_gib', 'volume_backup_gib'),
        ((new.size + 1073741823) >> 30) - ((old.size + 1073741823) >> 30))
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
END;
