"""The Waldur part of the document, and that of the host's administrator: `/api/`, `/api-auth/`, `/ops/`.

The API has conventions that hold for every resource; here each is written once.
"""

from common import (
    BOOLEAN, COUNT, FORM, GATE_BY_CODE, INTEGER, JSON, STRING, URL, VOLUME_STATES, array, body_of, choice, described, fields, fixed, nullable,
    number, ref, schema, text,
)

MAX_MIB = 1 << 43
UUID = schema("Uuid")
TIME = schema("Time")


def link_to(what, **more):
    return {"type": "string", "format": "uri-reference", "description": f"URL or path of {what}."} | more


# ---------------------------------------------------------------- representations

COPY_STATES = ["waiting", "copying", "ready", "failed"]
BACKUP_STATES = ["Ready", "Backing up", "Restoring", "Deleting", "Erred"]
INSTANCE_STATES = [
    "Provisioning Scheduled", "Provisioning", "Online", "Offline", "Starting Scheduled", "Starting", "Stopping Scheduled",
    "Stopping", "Erred", "Deletion Scheduled", "Deleting", "Resizing Scheduled", "Resizing", "Restarting Scheduled", "Restarting",
]
# Those from `volumes` on are the OpenStack dialect's.
QUOTA_NAMES = [
    "storage", "ram", "vcpu", "instances", "volumes", "gigabytes", "per_volume_gigabytes", "snapshots", "backups", "backup_gigabytes", "groups",
]

PROGRESS = {
    "total": described(COUNT, "Bytes of all volumes."),
    "read": described(COUNT, "Bytes done, holes included."),
    "new": described(COUNT, "Bytes that were not stored before."),
    "stored": described(COUNT, "Bytes added to the coffer, after compression."),
}

QUOTA = {
    "url": URL,
    "uuid": UUID,
    "name": choice(*QUOTA_NAMES),
    "limit": {"type": "number", "description": "storage and ram in MiB, gigabytes in GiB, the others a count; -1 is unlimited."},
    "usage": {"type": "number", "description": "In the unit of the limit."},
}

ROLE = {
    "uuid": UUID,
    "user": URL,
    "user_uuid": UUID,
    "user_username": STRING,
    "user_full_name": STRING,
    "user_native_name": STRING,
    "user_email": STRING,
    "created": TIME,
    "url": URL,
}

SCHEDULE = {
    "url": URL,
    "uuid": UUID,
    "description": STRING,
    "instance": URL,
    "instance_name": STRING,
    "instance_uuid": UUID,
    "project": URL,
    "project_uuid": UUID,
    "project_name": STRING,
    "retention_time": number("Days that a backup is kept; 0 is for ever.", minimum=0),
    "maximal_number_of_backups": number("The oldest above this number are deleted after a success.", minimum=1),
    "schedule": text("Five cron fields."),
    "schedule_description": text("The schedule in words."),
    "timezone": text("A name of the tz database."),
    "is_active": BOOLEAN,
    "next_trigger_at": TIME,
    "next_trigger_at_local": {"type": "string", "format": "date-time", "description": "The same in the schedule's zone."},
    "next_runs": array(TIME, maxItems=5),
    "error_message": text("Why the schedule was deactivated; empty if it was not."),
    "last_run_at": described(nullable(TIME), "The instant last dealt with."),
    "last_skip_reason": text("Why the last run was left out; empty if it was not."),
    "created": TIME,
    "repository": text("Where its backups go; empty: the default."),
    "backups": array(URL, maxItems=300, description="Of the newest 300, oldest first."),
}

PLACE = text("A repository of the configuration, or `coffer`; empty: the default.", maxLength=64)

TOKEN = {"id": COUNT, "user": STRING, "name": STRING, "created": TIME, "expires": described(nullable(TIME), "null: never.")}

SCHEMAS = {
    "Uuid": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "Time": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        "description": "UTC with milliseconds.",
    },
    # errors
    "FieldErrors": {
        "type": "object",
        "description": "Messages by field; `non_field_errors` for what concerns no single one.",
        "minProperties": 1,
        "additionalProperties": array(STRING, minItems=1),
    },
    "BadRequest": {
        "anyOf": [schema("FieldErrors"), schema("Detail")],
        "description": "Detail if the body or the request cannot be parsed.",
    },
    "AlreadySo": fixed({"status": STRING, "detail": STRING}, description="The schedule is in the state that was asked for."),
    # answers of actions
    "Status": fixed({"status": STRING}),
    # what users see
    "Root": fixed(
        {name: URL for name in [
            "customer-permissions", "customers", "events", "openstack-backup-schedules", "openstack-backups", "openstack-flavors",
            "openstack-images", "openstack-instances", "project-permissions", "projects", "quotas", "users",
        ]},
        description="The URL of every collection.",
    ),
    "Version": fixed({"version": STRING}),
    "Login": fixed({"token": text(pattern="^[0-9a-f]{40}$")}),
    "Health": fixed({"status": STRING}),
    "Progress": fixed(PROGRESS | {
        "rate": described(COUNT, "Bytes a second."),
        "eta": described(nullable(COUNT), "Seconds; null until it can be told."),
    }),
    "Restoration": fixed({
        "instance": URL, "instance_uuid": UUID, "instance_name": STRING, "instance_state": choice(*INSTANCE_STATES), "created": TIME,
    }),
    "Metadata": fixed(
        {
            "name": STRING, "description": STRING, "cores": COUNT, "ram": COUNT, "min_ram": COUNT, "min_disk": COUNT,
            "flavor_name": STRING, "image_name": STRING, "key_name": STRING, "key_fingerprint": STRING,
            "user_data": text("For staff only: it often holds secrets."),
            "tags": array(STRING),
            "size": number("MiB, all volumes."),
            "system_volume_size": number("MiB, the bootable volume."),
            "data_volume_size": number("MiB, the others."),
            "volumes": array(fixed({
                "uuid": UUID, "position": COUNT, "name": STRING, "size": number("MiB"), "size_bytes": COUNT, "bootable": BOOLEAN,
            })),
            "counter": described(nullable(COUNT), "Number of this backup among the instance's scheduled ones; null by hand."),
            "warnings": array(STRING, description="Volumes that were written to while they were read; absent if there are none."),
        },
        optional=["user_data", "warnings"],
        description="The instance as it was when the backup was begun. Never a path of the host.",
    ),
    "Backup": fixed({
        "url": URL,
        "uuid": UUID,
        "description": STRING,
        "created_at": described(TIME, "When it was asked for."),
        "kept_until": described(nullable(TIME), "null: for ever."),
        "instance": URL,
        "instance_name": STRING,
        "instance_uuid": UUID,
        "state": schema("BackupState"),
        "backup_schedule": described(nullable(URL), "null: made by hand, or the schedule is deleted."),
        "backup_schedule_uuid": nullable(UUID),
        "project": URL,
        "project_uuid": UUID,
        "project_name": STRING,
        "metadata": nullable(schema("Metadata")),
        "error_message": text("Why it is Erred; empty if it is not."),
        "size": number("MiB of its volumes, rounded up: what it takes of the storage quota.", minimum=0),
        "size_bytes": COUNT,
        "stored_size": number("MiB added to the coffer when it was made, rounded up.", minimum=0),
        "stored_bytes": COUNT,
        "finished_at": nullable(TIME),
        "progress": described(nullable(schema("Progress")), "While it is being made or restored."),
        "restorations": array(schema("Restoration")),
        "repository": text("Where its data lies: a repository of the configuration, or `coffer`."),
        "copies": array(schema("CopyState"), description="Where else it is, or is to be."),
    }),
    "CopyState": fixed({
        "repository": STRING, "state": choice(*COPY_STATES), "error_message": text("Why the last attempt failed; it is made again."),
    }),
    "BackupState": choice(*BACKUP_STATES),
    "RestoreStarted": fixed({"status": STRING, "instance": described(URL, "The new instance."), "instance_uuid": UUID}),
    "Schedule": fixed(SCHEDULE),
    "ScheduleWithWarnings": fixed(SCHEDULE | {"warnings": array(STRING, description="What may surprise you about these settings.")}),
    "Runs": fixed({
        "schedule": STRING,
        "timezone": STRING,
        "description": text("The schedule in words."),
        "next_runs": array(TIME, maxItems=1000),
        "next_runs_local": array({"type": "string", "format": "date-time"}, maxItems=1000),
    }),
    "InstanceVolume": fixed(
        {
            "uuid": UUID, "name": STRING, "size": number("MiB"), "size_bytes": COUNT, "bootable": BOOLEAN,
            "type": choice("file", "block"), "state": choice(*VOLUME_STATES), "error_message": STRING,
            "path": text("For staff only."),
        },
        optional=["path"],
    ),
    "InstanceState": choice(*INSTANCE_STATES),
    "Instance": fixed({
        "url": URL,
        "uuid": UUID,
        "name": STRING,
        "description": STRING,
        "state": schema("InstanceState"),
        "error_message": STRING,
        "resource_type": {"const": "OpenStack.Instance"},
        "created": TIME,
        "project": URL,
        "project_uuid": UUID,
        "project_name": STRING,
        "customer": URL,
        "customer_uuid": UUID,
        "cores": COUNT,
        "ram": number("MiB"),
        "disk": number("MiB of all volumes."),
        "system_volume_size": number("MiB of the bootable volume."),
        "data_volume_size": number("MiB of the others."),
        "flavor_name": STRING,
        "image_name": STRING,
        "min_ram": number("MiB"),
        "min_disk": number("MiB"),
        "key_name": STRING,
        "key_fingerprint": STRING,
        "tags": array(STRING),
        "internal_ips": array(STRING),
        "external_ips": array(STRING),
        "volumes": array(schema("InstanceVolume")),
        "backups": array(schema("Backup"), maxItems=300, description="The newest 300, oldest first."),
        "backup_schedules": array(schema("Schedule")),
    }),
    "Image": fixed({"url": URL, "uuid": UUID, "name": STRING, "min_disk": number("MiB"), "min_ram": number("MiB")}),
    "Flavor": fixed({
        "url": URL, "uuid": UUID, "name": STRING, "display_name": STRING, "cores": COUNT, "ram": number("MiB"), "disk": number("MiB"),
    }),
    "Quota": fixed(QUOTA | {"scope": described(URL, "The project.")}),
    "ProjectQuota": fixed(QUOTA),
    "Project": fixed({
        "url": URL, "uuid": UUID, "name": STRING, "customer": URL, "customer_uuid": UUID, "customer_name": STRING,
        "description": STRING, "quotas": array(schema("ProjectQuota")), "services": array({}, maxItems=0), "created": TIME,
    }),
    "Customer": fixed(
        {"url": URL, "uuid": UUID, "name": STRING, "native_name": STRING, "abbreviation": STRING, "contact_details": STRING},
        description="A host has exactly one; all projects are its.",
    ),
    "User": fixed(
        {
            "url": URL, "uuid": UUID, "username": STRING, "full_name": STRING, "native_name": STRING, "job_title": STRING,
            "email": STRING, "phone_number": STRING, "organization": STRING, "organization_approved": BOOLEAN,
            "civil_number": nullable(STRING), "description": STRING, "date_joined": TIME,
            "is_staff": described(BOOLEAN, "For staff only."), "is_active": described(BOOLEAN, "For staff only."),
        },
        optional=["is_staff", "is_active"],
    ),
    "ProjectPermission": fixed(ROLE | {
        "role": choice("admin", "manager", "reader"), "project": URL, "project_uuid": UUID, "project_name": STRING,
    }),
    "CustomerPermission": fixed(ROLE | {"role": {"const": "owner"}, "customer": URL}),
    "Event": fixed({
        "uuid": UUID, "created": TIME, "@timestamp": TIME, "event_type": STRING, "importance": choice("info", "warning", "error"),
        "message": STRING, "context": {"type": "object", "description": "Names and uuids of what it is about."},
    }),
    "EventCount": fixed({"count": COUNT}),
    # what the administrator sees
    "DaemonStatus": fixed({
        "version": STRING, "coffer": text("Path of the coffer."), "coffer_uuid": nullable(UUID), "pid": COUNT, "started": TIME,
        "timezone": text("Zone of schedules that name none."), "listening": array(STRING, description="Addresses and sockets."),
        "jobs": described(COUNT, "Jobs that run now."),
        "timer_age_s": described(COUNT, "Seconds since the timer last looked at the clock."),
        "clock_doubted": nullable(fixed({
            "ahead_s": described(COUNT, "How far the clock was set forward."),
            "confirmed": described(TIME, "By which backups expire meanwhile."),
            "left_s": described(COUNT, "Seconds until the clock is believed."),
        }, description="The clock was set forward a short while ago: no backup expires by it yet.")),
    }),
    "Stats": fixed({
        "backups": COUNT, "snapshots": COUNT, "instances": COUNT, "volumes": COUNT, "schedules": COUNT,
        "logical_bytes": described(COUNT, "Sizes of all volumes of all backups, added up."),
        "data_bytes": described(COUNT, "Of these, what is not chunks of zeros."),
        "unique_bytes": described(COUNT, "Of these, what is left after deduplication, before compression."),
        "stored_bytes": described(COUNT, "In packs: what is left after deduplication and compression, and what is dead."),
        "dead_bytes": described(COUNT, "Of these, what no backup needs (yet, if one is being made)."),
        "file_bytes": COUNT,
        "free_bytes": described(COUNT, "Of the file: will be used next."),
        "packs": COUNT, "chunks": COUNT, "segments": COUNT, "volume_maps": COUNT,
        "index_bytes": described(COUNT, "Memory of the chunk index."),
        "scrub_oldest": described(nullable(TIME), "When those packs were written or verified that were so the longest time ago; null if never."),
        "scrub_due_bytes": described(COUNT, "In packs that were not verified within `scrub.every_days`."),
    }),
    "BackupSpace": fixed({
        "uuid": UUID,
        "logical_bytes": described(COUNT, "Sizes of its volumes."),
        "data_bytes": described(COUNT, "Of these, what is not chunks of zeros."),
        "stored_bytes": described(COUNT, "What its making added to the coffer."),
        "unique_bytes": described(COUNT, "Chunks that no other backup needs, before compression."),
        "exclusive_bytes": described(COUNT, "The same as they are stored: what deleting it frees."),
    }),
    "FreedSpace": fixed({
        "backups": described(COUNT, "How many."),
        "unique_bytes": described(COUNT, "Chunks that no other backup needs, before compression."),
        "exclusive_bytes": described(COUNT, "The same as they are stored: what deleting them together frees."),
    }),
    "Repository": fixed({
        "name": STRING, "kind": choice("swift", "s3", "directory"), "place": described(STRING, "What it is and where, in words."),
        "prefix": described(STRING, "Before the name of every object."), "default": described(BOOLEAN, "Backups go there that name no other place."),
        "connections": described(COUNT, "Requests at a time."), "upload_bytes_per_second": described(COUNT, "0: no limit."),
        "download_bytes_per_second": described(COUNT, "0: no limit."),
        "copies": {"anyOf": [{"type": "null"}, choice("all", "scheduled"), array(STRING)],
                   "description": "Which backups are copied there: all, those of schedules, those in these places; null: none."},
        "backups": described(COUNT, "That lie there."), "backups_copied": described(COUNT, "That lie elsewhere and have a copy there."),
        "packs": COUNT, "stored_bytes": described(COUNT, "Of its packs, also of those that are still to be sent."),
        "waiting_bytes": described(COUNT, "Of packs that lie in the coffer until they are sent."),
        "trash_objects": described(COUNT, "Objects that nothing needs any more and that are still there."),
    }),
    "RepositoryTestResult": fixed({
        "name": STRING, "place": STRING,
        "steps": array(fixed({"step": STRING, "seconds": {"type": "number", "minimum": 0}}), description="In their order, with the time each took."),
    }),
    "FileLayout": fixed({
        "path": STRING, "format": COUNT, "page_size": COUNT, "pages": COUNT, "free_pages": COUNT, "pack_bytes": COUNT,
        "tables": {"type": "object", "additionalProperties": COUNT, "description": "Rows of each table."},
    }),
    "PackLayout": fixed({
        "pack": COUNT, "slots": COUNT,
        "chunks": array(fixed({
            "slot": COUNT, "hash": text(pattern="^[0-9a-f]{64}$"), "offset": COUNT, "stored": COUNT, "raw": COUNT,
            "encoding": choice("raw", "zstd", "delta", "dead", "unknown"),
            "base": described(nullable(fixed({"pack": COUNT, "slot": COUNT})), "Of a delta."), "damaged": BOOLEAN,
        })),
    }),
    "MapLayout": fixed({
        "map": COUNT, "hash": text(pattern="^[0-9a-f]{64}$"), "size": COUNT, "chunk_size": COUNT,
        "segments": array(fixed(
            {
                "segment": described(COUNT, "0: all zeros."), "hash": text(pattern="^[0-9a-f]{64}$"), "chunks": COUNT,
                "data_chunks": COUNT, "packs": array(COUNT),
            },
            optional=["hash", "chunks", "data_chunks", "packs"],
        )),
    }),
    "Token": fixed(TOKEN, description="The secret itself is not kept."),
    "NewToken": fixed(TOKEN | {"token": text("Shown this once.", pattern="^[0-9a-f]{40}$")}),
    "OpenStackAccess": fixed({
        "username": STRING, "is_active": BOOLEAN, "has_password": described(BOOLEAN, "Without one there is no login by password."),
        "projects": array(fixed({"uuid": UUID, "name": STRING})), "region": STRING,
    }),
    "VolumeBackup": fixed({
        "uuid": UUID, "kind": choice("volume", "snapshot"), "name": nullable(STRING), "description": nullable(STRING),
        "state": choice(*BACKUP_STATES), "error_message": STRING, "is_incremental": BOOLEAN, "volume_uuid": UUID, "volume_name": STRING,
        "project_uuid": UUID, "project_name": STRING, "created_at": TIME, "size_bytes": COUNT,
        "stored_bytes": described(COUNT, "What its making added to the coffer."), "copies": array(schema("CopyState")),
        "progress": nullable(schema("Progress")),
    }),
    "Copy": fixed({
        "backup": UUID, "repository": text("The further place: a repository, or `coffer`."), "state": choice(*COPY_STATES),
        "error_message": text("Why the last attempt failed."), "automatic": described(BOOLEAN, "The configuration wants it."), "created": TIME,
        "finished": described(nullable(TIME), "Since when it is there."), "next_try": nullable(TIME),
        "stored_bytes": described(COUNT, "What its making added there."), "progress": nullable(fixed(PROGRESS)),
    }),
    "ReplicateResult": fixed({
        "copied": described(COUNT, "Those that are there, whether sent now or before."), "stored_bytes": described(COUNT, "What was added there."),
        "failed": array(fixed({"backup": UUID, "error_message": STRING}), description="Those that are not; they are tried again."),
    }),
    "NewCredential": fixed({"id": UUID, "name": STRING, "secret": text("Shown this once.")}, description="Of an application credential."),
    "Volume": fixed({
        "uuid": UUID, "name": STRING, "path": STRING, "kind": choice("file", "block"), "size": described(COUNT, "Bytes."),
        "state": choice(*VOLUME_STATES), "error_message": STRING,
        "managed": described(BOOLEAN, "The file was made by cofferd and goes with the volume."),
        "bootable": BOOLEAN, "project_uuid": UUID, "project_name": STRING,
        "instance_uuid": nullable(UUID), "instance_name": nullable(STRING), "created": TIME,
    }),
    "TaskStarted": fixed({"task": COUNT}),
    "Task": fixed(
        {
            "id": COUNT, "kind": choice("restore", "check", "scrub", "gc", "snapshot", "repository test", "repository attach", "replicate"), "state": choice("running", "done", "failed"),
            "error_message": STRING, "progress": fixed(PROGRESS), "result": {"anyOf": [
                {"type": "null"}, schema("RestoreResult"), schema("CheckResult"), schema("ScrubResult"), schema("GcResult"), schema("SnapshotResult"),
                schema("RepositoryTestResult"), schema("AttachResult"), schema("ReplicateResult"),
            ]},
        },
        description="Long work. The newest 100 are remembered, in memory.",
    ),
    "RestoreResult": fixed(PROGRESS),
    "CheckResult": fixed({
        "chunks": COUNT, "bytes": COUNT,
        "corrupt": array(fixed({"backup": UUID, "volume": COUNT, "offset": COUNT, "length": COUNT, "reason": STRING})),
        "backups": array(UUID, description="Backups that are damaged and Erred now."),
        "unreachable": {"type": "object", "additionalProperties": STRING,
                        "description": "Repositories that could not be read, and why; backups there were left out."},
        "wrong_tallies": COUNT,
    }),
    "ScrubResult": fixed({
        "packs": COUNT, "chunks": COUNT, "bytes": described(COUNT, "Stored bytes that were read and compared with their hashes."),
        "corrupt": array(fixed({"backup": UUID, "volume": COUNT, "offset": COUNT, "length": COUNT, "reason": STRING}),
                         description="Damaged parts of backups. At most 1000 are named."),
        "healed": array(fixed({"backup": UUID, "volume": COUNT, "offset": COUNT, "length": COUNT, "source": text("Where whole data was had from.")}),
                        description="Parts that were damaged and have been stored anew. At most 1000 are named."),
        "backups": array(UUID, description="Backups that are damaged and Erred now."),
        "unused": described(COUNT, "Damaged chunks that no backup needs."),
        "unsettled": described(COUNT, "Packs whose damage concerns running work, or could not be dealt with; they stay due."),
        "unreachable": {"type": "object", "additionalProperties": STRING,
                        "description": "Repositories that could not be read, and why; what lies there stays due."},
    }),
    "GcResult": fixed({
        "objects_removed": described(COUNT, "From repositories."), "segments_dropped": COUNT,
        "packs_dropped": COUNT, "packs_compacted": COUNT, "bytes_freed": COUNT, "complete": BOOLEAN,
    }),
    "AttachResult": fixed({
        "name": STRING, "added": described(COUNT, "Backups that are new in the catalog."), "known": described(COUNT, "That were in it before."),
        "incomplete": described(COUNT, "That lack data there; they are Erred."),
        "gone": described(COUNT, "That were in the catalog and have been deleted there by another host; they are Erred."),
        "lost": array(STRING, description="Objects of packs that this coffer knew and that are gone."),
        "packs": COUNT, "segments": COUNT, "unusable": array(STRING, description="Objects that are damaged, or need what is not there."),
    }),
    "SnapshotResult": fixed({"path": STRING, "bytes": COUNT}),
    # bodies of requests
    "Credentials": fields({"username": text(minLength=1, maxLength=128), "password": text(minLength=1, maxLength=1024)},
                          ["username", "password"]),
    "NewBackup": fields(
        {"instance": link_to("the instance"), "description": text(maxLength=500), "repository": PLACE}, ["instance"],
    ),
    "BackupChange": fields({
        "description": text(maxLength=500),
        "kept_until": {"type": ["string", "null"], "format": "date-time", "description": "ISO 8601, UTC without an offset. null: for ever."},
    }),
    "RestoreOrder": fields(
        {
            "image": link_to("the image"), "flavor": link_to("the flavor"),
            "name": text("Name of the new instance; else that of the original.", minLength=1, maxLength=150),
            "start": described(BOOLEAN, "End Online instead of Offline. Changes the record only."),
        },
        ["image", "flavor"],
    ),
    "NewSchedule": fields(
        {
            "instance": link_to("the instance; cannot be changed later"),
            "schedule": text("Five cron fields or one of @hourly, @daily, @weekly, @monthly, @yearly.", minLength=1, maxLength=100),
            "retention_time": number("Days; 0 is for ever.", minimum=0, maximum=2147483647),
            "maximal_number_of_backups": number(minimum=1, maximum=32767),
            "timezone": text("A name of the tz database; else the configured one.", minLength=1),
            "description": text(maxLength=500),
            "is_active": described(BOOLEAN, "Absent: false."),
            "repository": PLACE,
        },
        ["instance", "schedule", "retention_time", "maximal_number_of_backups"],
    ),
    "ScheduleChange": fields({
        "schedule": text(minLength=1, maxLength=100), "retention_time": number("Days", minimum=0, maximum=2147483647),
        "maximal_number_of_backups": number(minimum=1, maximum=32767), "timezone": text(minLength=1),
        "description": text(maxLength=500), "is_active": BOOLEAN, "repository": PLACE,
    }),
    "Preview": fields(
        {
            "schedule": text(minLength=1, maxLength=100), "timezone": text(minLength=1),
            "count": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5},
            "now": text("Reckon from this time; ISO 8601.", format="date-time"),
        },
        ["schedule"],
    ),
    "NewInstance": fields(
        {
            "name": text(minLength=1, maxLength=150),
            "project": link_to("the project"),
            "volumes": array(
                fields({
                    "path": text("A raw image file or block device under a configured root.", maxLength=4096),
                    "volume": text("Instead of path: uuid of a registered volume."),
                    "name": text("Else the file's name."),
                    "bootable": described(BOOLEAN, "Exactly one is; a single volume is by itself."),
                }),
                minItems=1,
            ),
            "flavor": link_to("the flavor"), "image": link_to("the image"),
            "description": text(maxLength=500), "tags": array(STRING), "key_name": text(maxLength=150),
            "key_fingerprint": text(maxLength=150), "user_data": text("Kept to the last blank.", maxLength=65536),
        },
        ["name", "project", "volumes"],
    ),
    "InstanceChange": fields({"name": text(minLength=1, maxLength=150), "description": text(maxLength=500)}),
    "NewImage": fields({
        "name": text(minLength=1, maxLength=150), "min_disk": number("MiB", minimum=0, maximum=MAX_MIB),
        "min_ram": number("MiB", minimum=0, maximum=MAX_MIB),
    }, ["name"]),
    "NewFlavor": fields({
        "name": text(minLength=1, maxLength=150), "cores": number(minimum=1, maximum=65536),
        "ram": number("MiB", minimum=1, maximum=MAX_MIB), "disk": number("MiB", minimum=0, maximum=MAX_MIB),
    }, ["name", "cores", "ram"]),
    "NewUser": fields(
        {
            "username": text("Letters, digits and @.+-_", minLength=1, maxLength=128),
            "password": text("At least 7 characters with a digit and a letter. Absent: no login by password.", minLength=7, maxLength=1024),
            "full_name": text(maxLength=100), "native_name": text(maxLength=100), "job_title": text(maxLength=40),
            "email": text(maxLength=254), "phone_number": text(maxLength=255), "organization": text(maxLength=80),
            "description": text(maxLength=500), "civil_number": {"type": ["string", "null"], "maxLength": 50},
            "is_staff": BOOLEAN, "is_active": BOOLEAN,
        },
        ["username"],
    ),
    "NewPassword": fields({"password": text("At least 7 characters with a digit and a letter.", minLength=7, maxLength=1024)}, ["password"]),
    "NewProject": fields({
        "name": text(minLength=1, maxLength=150), "description": text(maxLength=500), "customer": link_to("the one customer"),
    }, ["name"]),
    "NewLimit": fields({"limit": number("-1 is unlimited.", minimum=-1, maximum=(2**31 - 1) << 20)}, ["limit"]),
    "NewProjectPermission": fields(
        {"user": link_to("the user"), "project": link_to("the project"), "role": choice("admin", "manager", "reader")},
        ["user", "project", "role"],
    ),
    "NewCustomerPermission": fields({"user": link_to("the user"), "role": {"const": "owner"}}, ["user", "role"]),
    "NewTokenOrder": fields(
        {
            "user": text("User name.", minLength=1, maxLength=128), "name": text("A note.", maxLength=150),
            "lifetime_h": number("Hours; 0 is for ever; absent: as configured.", minimum=0, maximum=1000000),
        },
        ["user"],
    ),
    "CredentialOrder": fields({"project": text("Uuid of a project in which the user has a role.", minLength=1, maxLength=36)}, ["project"]),
    "NewVolume": fields(
        {
            "path": text("A raw image file or block device under a configured root.", minLength=1, maxLength=4096),
            "project": text("Its uuid, URL or unambiguous name.", minLength=1, maxLength=200),
            "name": text("Else the file's name.", maxLength=150),
        },
        ["path", "project"],
    ),
    "PathRestore": fields(
        {
            "backup": text("Its uuid.", minLength=1, maxLength=36),
            "position": {"type": "integer", "minimum": 0, "maximum": 1000000, "default": 0, "description": "Which of its volumes."},
            "path": text("Absolute.", minLength=1, maxLength=4096),
            "mode": choice("create", "overwrite", description="create: the path must not exist; overwrite: it must, and be large enough."),
        },
        ["backup", "path", "mode"],
    ),
    "CheckOrder": fields({"backup": {"type": ["string", "null"], "description": "Uuid of one backup; absent or null: all."}}),
    "ScrubOrder": fields({
        "older_than_days": {"type": ["integer", "null"], "minimum": 0, "maximum": 36500,
                            "description": "Only what was not written or verified within so many days; absent or 0: all."},
        "bytes_per_second": {"type": ["integer", "null"], "minimum": 1, "maximum": 1 << 40,
                             "description": "Stored bytes to read a second; absent: as fast as it goes."},
        "full": {"type": ["boolean", "null"],
                 "description": "Read all that lies in repositories; else one chunk of each pack there, and all of a pack in which it is damaged."},
    }),
    "GcOrder": fields({"dead_fraction": {
        "type": ["number", "null"], "minimum": 0, "maximum": 1,
        "description": "Packs with at least this part dead are rewritten; absent or 0: any that has a dead byte.",
    }}),
    "ReplicateOrder": fields({
        "to": text("A repository of the configuration, or `coffer`.", minLength=1, maxLength=64),
        "backups": {"type": ["array", "null"], "items": text(minLength=1, maxLength=36), "description": "Their uuids; absent or null: all that are Ready."},
    }, ["to"]),
    "SpaceOrder": fields({"backups": array(text(minLength=1, maxLength=36), minItems=1, maxItems=10_000, description="Their uuids.")}, ["backups"]),
    "SnapshotOrder": fields({"path": text("Absolute; must not exist.", minLength=1, maxLength=4096)}, ["path"]),
}

# A change may leave out what a new object needs.
for change, new in (("ImageChange", "NewImage"), ("FlavorChange", "NewFlavor"), ("ProjectChange", "NewProject"),
                    ("LimitChange", "NewLimit")):
    SCHEMAS[change] = {k: v for k, v in SCHEMAS[new].items() if k != "required"}
SCHEMAS["UserChange"] = fields({k: v for k, v in SCHEMAS["NewUser"]["properties"].items() if k != "password"})
SCHEMAS["NewInstanceTexts"] = SCHEMAS["InstanceChange"] | {"required": ["name"]}

# ---------------------------------------------------------------- headers, parameters, responses

HEADERS = {
    "X-Result-Count": {"description": "Entries of the whole list.", "schema": COUNT},
    "Link": {"description": "URLs of the first, previous, next and last page (RFC 8288).", "schema": STRING},
    "Location": {"description": "URL of what was made.", "schema": STRING},
    "WWW-Authenticate": {"description": "Always `Token`.", "schema": {"const": "Token"}},
}

UUID_HINT = "Plain or dashed, in any case; what is none is 404."

PARAMETERS = {
    "uuid": {"name": "uuid", "in": "path", "required": True, "description": UUID_HINT, "schema": STRING},
    "page": {
        "name": "page", "in": "query", "description": "From 1 on, or `last`; a page that does not exist is 404.",
        "schema": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "last"}], "default": 1},
    },
    "page_size": {
        "name": "page_size", "in": "query", "description": "At most 300: more is 300, what is no number is the default.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 300, "default": 10},
    },
}


ANY_UUID = {"type": "string", "pattern": "^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})?$"}


def filter_(name, description, value=None, many=False):
    value = value or STRING
    return {"name": name, "in": "query", "description": description, "schema": array(value) if many else value}


def contains(*names):
    return [filter_(name, "Contains this text, in any case of ASCII letters.") for name in names]


def linked(name, what):
    return [
        filter_(name, f"URL, path or uuid of {what}; what can be none is 400."),
        filter_(f"{name}_uuid", f"Uuid of {what}; what is none is 400.", ANY_UUID),
    ]


UUID_FILTER = filter_("uuid", "The one with this uuid; what is none is 400.", ANY_UUID)


def order(*names):
    return filter_("o", f"Order: {', '.join(names)}; with `-` before it descending. Several are separated by commas, unknown ones ignored.")


RESPONSES = {
    "BadRequest": body_of("BadRequest", "The body or a parameter is wrong; nothing was changed."),
    "Unauthorized": body_of("Detail", "No valid token.", ["WWW-Authenticate"]),
    "Forbidden": body_of("Detail", "Visible, but not yours to change; or for staff only."),
    "NotFound": body_of("Detail", "Not there, not visible to you, or no such page."),
    "Conflict": body_of("Detail", "The state forbids it; the message names the state or what is in the way."),
    "UnsupportedMediaType": body_of("Detail", "The body is neither JSON nor urlencoded."),
    "TooManyRequests": body_of("Detail", "Too many failed logins of this user from this address.", ["Retry-After"]),
    "InternalError": body_of("Detail", "A fault of cofferd; its log says more."),
    "Unavailable": body_of("Detail", "Too busy; try again."),
    "DiskFull": body_of("Detail", "The coffer's disk is full."),
    "ContentTooLarge": body_of("Detail", "The body is larger than 1 MiB."),
    "NotImplemented": body_of("Detail", "A method or transfer coding that this is no server for."),
}

BY_CODE = {
    **GATE_BY_CODE, 400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 413: "ContentTooLarge",
    415: "UnsupportedMediaType", 429: "TooManyRequests", 500: "InternalError", 501: "NotImplemented", 503: "Unavailable", 507: "DiskFull",
}
# Every request goes through the gate and its workers, which answer these by themselves.
EVERYWHERE = [400, 405, 408, 413, 414, 417, 431, 500, 501, 503, 505]

TAGS = (
    ("service", "Is it there, which version, how to log in"), ("backups", "Make, list, restore, delete"),
    ("schedules", "Backups by the clock"), ("instances", "The machines whose volumes are backed up"),
    ("profiles", "Images and flavors: what a restored instance is made as"), ("projects", "Projects, their quotas, and the one customer"),
    ("users", "Users and their roles"), ("events", "What happened"), ("ops", "For the administrator of the host; staff only"),
)

# ---------------------------------------------------------------- operations

PATHS = {}


def operation(method, path, name, summary, success, codes=(), tag=None, params=(), body=None, anonymous=False, description=None,
              required=True, form=True):
    """`success` is (status, schema or None, headers...); `codes` are the errors that this operation has besides the common ones."""
    status, result, *headers = success
    out = {"operationId": name, "summary": summary, "tags": [tag or TAG]}
    if description:
        out["description"] = description
    if anonymous:
        out["security"] = []
    parameters = [ref("parameters", "uuid")] if "{uuid}" in path else []
    parameters += [ref("parameters", p) if isinstance(p, str) else p for p in params]
    if parameters:
        out["parameters"] = parameters
    if body:
        types = [JSON, FORM] if form else [JSON]
        out["requestBody"] = {"required": required, "content": {kind: {"schema": schema(body)} for kind in types}}
    headers = list(headers) + ([] if path in NO_ALLOW else ["Allow"])
    answer = {"description": SUCCESS[status]}
    if result is not None:
        answer = body_of(result, SUCCESS[status], headers)
    elif headers:
        answer["headers"] = {header: ref("headers", header) for header in headers}
    errors = set(EVERYWHERE) | set(codes) | ({415} if body else set())
    if not anonymous:
        errors.add(401)
    if method in ("post", "put", "patch", "delete"):
        errors.add(507)
    responses = {str(status): answer} | {str(code): ref("responses", BY_CODE[code]) for code in sorted(errors)}
    out["responses"] = dict(sorted(responses.items()))
    PATHS.setdefault(path, {})[method] = out


SUCCESS = {200: "Done.", 201: "Made.", 202: "Accepted.", 204: "Gone."}
NO_ALLOW = ("/healthz",)
TAG = ""


def collection(path, one, many, rep, filters=(), codes=()):
    operation("get", path, f"list{many}", f"List {LABEL[many]}", (200, array(schema(rep)), "X-Result-Count", "Link"),
              [404, *codes], params=[*filters, "page", "page_size"])


LABEL = {
    "Backups": "backups", "Schedules": "backup schedules", "Instances": "instances", "Images": "images", "Flavors": "flavors",
    "Users": "users", "Projects": "projects", "Customers": "customers", "ProjectPermissions": "roles in projects",
    "CustomerPermissions": "owners", "Events": "events", "Volumes": "volumes", "Tokens": "tokens",
}


def paths():
    global TAG
    PATHS.clear()

    TAG = "service"
    operation("get", "/healthz", "health", "Can the daemon answer, read its coffer, and write to it?", (200, "Health"), anonymous=True,
              params=[
                  {"name": "reads", "in": "query", "description": "Leaves out writing: for a watchdog, as a restart mends no disk.",
                   "allowEmptyValue": True, "schema": STRING}],
              description="503 with another status if the coffer cannot be read, the last change to it has failed, or one has been under way "
                          "for a minute.")
    PATHS["/healthz"]["get"]["responses"]["503"] = body_of(
        {"anyOf": [schema("Health"), schema("Detail")]}, "The coffer cannot be read, or the server is too busy.")
    operation("get", "/api/", "root", "The URL of every collection", (200, "Root"))
    operation("get", "/api/version/", "version", "Which version this is", (200, "Version"), anonymous=True)
    operation("get", "/api/openapi.json", "openapi", "This document", (200, {"type": "object"}), anonymous=True)
    operation("post", "/api-auth/password/", "login", "A user name and a password for a token", (200, "Login"), [401, 429],
              body="Credentials", anonymous=True)

    TAG = "backups"
    base = "/api/openstack-backups/"
    collection(base, "Backup", "Backups", "Backup", [
        *contains("description", "name", "instance_name"), *linked("instance", "the instance"), *linked("project", "the project"),
        *linked("backup_schedule", "the schedule"), UUID_FILTER,
        filter_("state", "One of these states; can be repeated.", choice(*BACKUP_STATES), many=True),
        order("created_at", "kept_until", "state", "description", "instance_name"),
    ])
    operation("post", base, "createBackup", "Back an instance up now", (201, "Backup", "Location"), [403, 409], body="NewBackup",
              description="Answers at once, in state Backing up. 400 if the storage quota is too small, 409 if the instance is neither "
                          "Online nor Offline.")
    one = base + "{uuid}/"
    operation("get", one, "showBackup", "Show a backup", (200, "Backup"), [404])
    operation("patch", one, "changeBackup", "Change description or kept_until", (200, "Backup"), [403, 404, 409], body="BackupChange",
              required=False)
    operation("delete", one, "deleteBackup", "Delete a backup", (202, "Detail"), [403, 404, 409])
    operation("post", one + "restore/", "restoreBackup", "Restore to a new instance", (200, "RestoreStarted"), [403, 404, 409],
              body="RestoreOrder", description="The new instance is Offline (or Online with `start`) when it is complete. 409 names the "
              "state if the backup is not Ready, whatever the body is.")
    operation("post", one + "delete/", "deleteBackupByAction", "Delete a backup", (200, "Status"), [403, 404, 409])

    TAG = "schedules"
    base = "/api/openstack-backup-schedules/"
    collection(base, "Schedule", "Schedules", "Schedule", [
        *contains("description", "instance_name"), *linked("instance", "the instance"), *linked("project", "the project"), UUID_FILTER,
        filter_("is_active", "true or false."), order("created", "next_trigger_at", "is_active", "instance_name"),
    ])
    operation("post", base, "createSchedule", "Make a schedule", (201, "ScheduleWithWarnings", "Location"), [403, 409],
              body="NewSchedule")
    operation("post", base + "preview/", "previewSchedule", "When a schedule would run, without making it", (200, "Runs"), body="Preview")
    one = base + "{uuid}/"
    operation("get", one, "showSchedule", "Show a schedule", (200, "Schedule"), [404])
    operation("put", one, "replaceSchedule", "Change a schedule", (200, "ScheduleWithWarnings"), [403, 404], body="NewSchedule",
              description="The instance stays; `instance` is ignored.")
    operation("patch", one, "changeSchedule", "Change some fields of a schedule", (200, "ScheduleWithWarnings"), [403, 404],
              body="ScheduleChange", required=False)
    operation("delete", one, "deleteSchedule", "Delete a schedule; its backups stay", (204, None), [403, 404])
    for action in ("activate", "deactivate"):
        operation("post", one + action + "/", action + "Schedule", action.capitalize() + " a schedule", (200, "Status"), [403, 404])
        PATHS[one + action + "/"]["post"]["responses"]["409"] = body_of("AlreadySo", f"It is already {action}d.")
    operation("get", one + "next-runs/", "nextRuns", "When a schedule runs next", (200, "Runs"), [404], params=[
        filter_("count", "How many.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5}),
        filter_("now", "Reckon from this time; ISO 8601.", {"type": "string", "format": "date-time"}),
    ])

    TAG = "instances"
    base = "/api/openstack-instances/"
    collection(base, "Instance", "Instances", "Instance", [
        *contains("name", "description", "project_name"), *linked("project", "the project"), UUID_FILTER,
        filter_("state", "One of these states; can be repeated.", choice(*INSTANCE_STATES), many=True),
        filter_("cores", "Exactly so many.", INTEGER), filter_("ram", "Exactly so many MiB.", INTEGER),
        order("name", "state", "created", "ram", "cores", "project_name", "system_volume_size", "data_volume_size"),
    ])
    operation("post", base, "registerInstance", "Register an instance and its volumes", (201, "Instance", "Location"), [403],
              body="NewInstance", form=False, description="Staff only, because a path is read access to the host.")
    one = base + "{uuid}/"
    operation("get", one, "showInstance", "Show an instance", (200, "Instance"), [404])
    operation("put", one, "replaceInstance", "Change name and description", (200, "Instance"), [403, 404, 409], body="NewInstanceTexts")
    operation("patch", one, "changeInstance", "Change name or description", (200, "Instance"), [403, 404, 409], body="InstanceChange",
              required=False)
    operation("delete", one, "destroyInstance", "Remove an instance that is Offline or Erred and has no backups", (202, "Status"),
              [403, 404, 409], description="Registered disks are left alone, volumes that were made on their own are only detached. "
              "Files that a restore made for it are deleted with it.")
    for action, effect in (("start", "Offline becomes Online"), ("stop", "Online becomes Offline"), ("restart", "Online stays Online")):
        operation("post", one + action + "/", action + "Instance", f"{effect}: in the record only", (202, "Status"), [403, 404, 409])
    operation("post", one + "unlink/", "unlinkInstance", "Forget an instance without backups; no file is touched", (202, "Status"),
              [403, 404, 409])

    TAG = "profiles"
    base = "/api/openstack-images/"
    collection(base, "Image", "Images", "Image", [*contains("name"), UUID_FILTER, order("name", "min_disk", "min_ram")])
    operation("post", base, "createImage", "Make an image profile (staff)", (201, "Image", "Location"), [403], body="NewImage")
    one = base + "{uuid}/"
    operation("get", one, "showImage", "Show an image", (200, "Image"), [404])
    operation("patch", one, "changeImage", "Change an image (staff)", (200, "Image"), [403, 404], body="ImageChange", required=False)
    operation("delete", one, "deleteImage", "Delete an image (staff)", (204, None), [403, 404])
    base = "/api/openstack-flavors/"
    numbers = [filter_(f"{column}{suffix}", f"{column} {meaning}.", INTEGER) for column in ("cores", "ram", "disk")
               for suffix, meaning in (("", "exactly"), ("__gte", "at least"), ("__lte", "at most"))]
    collection(base, "Flavor", "Flavors", "Flavor", [*contains("name"), UUID_FILTER, *numbers, order("cores", "ram", "disk", "name")])
    operation("post", base, "createFlavor", "Make a flavor (staff)", (201, "Flavor", "Location"), [403], body="NewFlavor")
    one = base + "{uuid}/"
    operation("get", one, "showFlavor", "Show a flavor", (200, "Flavor"), [404])
    operation("patch", one, "changeFlavor", "Change a flavor (staff)", (200, "Flavor"), [403, 404], body="FlavorChange", required=False)
    operation("delete", one, "deleteFlavor", "Delete a flavor (staff)", (204, None), [403, 404])

    TAG = "projects"
    base = "/api/projects/"
    collection(base, "Project", "Projects", "Project",
               [*contains("name", "description"), *linked("customer", "the customer"), UUID_FILTER, order("name", "created")])
    operation("post", base, "createProject", "Make a project (owners and staff)", (201, "Project", "Location"), [403], body="NewProject")
    one = base + "{uuid}/"
    operation("get", one, "showProject", "Show a project and its quotas", (200, "Project"), [404])
    operation("put", one, "replaceProject", "Change a project (owners and staff)", (200, "Project"), [403, 404], body="NewProject")
    operation("patch", one, "changeProject", "Change a project (owners and staff)", (200, "Project"), [403, 404], body="ProjectChange",
              required=False)
    operation("delete", one, "deleteProject", "Delete an empty project (owners and staff)", (204, None), [403, 404, 409])
    base = "/api/customers/"
    collection(base, "Customer", "Customers", "Customer")
    operation("get", base + "{uuid}/", "showCustomer", "Show the customer", (200, "Customer"), [404])
    base = "/api/quotas/"
    operation("get", base, "listQuotas", "List quotas and their usage", (200, array(schema("Quota")), "X-Result-Count"), [404],
              params=[*linked("scope", "the project"), *linked("project", "the project"), *contains("name"), "page", {
                  "name": "page_size", "in": "query", "description": "Absent: all on one page.",
                  "schema": {"type": "integer", "minimum": 1, "maximum": 300},
              }])
    one = base + "{uuid}/"
    operation("get", one, "showQuota", "Show a quota", (200, "Quota"), [404])
    operation("put", one, "replaceLimit", "Set a limit (staff)", (200, "Quota"), [403, 404], body="NewLimit")
    operation("patch", one, "changeLimit", "Set a limit (staff)", (200, "Quota"), [403, 404], body="LimitChange", required=False)

    TAG = "users"
    base = "/api/users/"
    collection(base, "User", "Users", "User", [
        filter_("current", "Only yourself, whatever the value."), filter_("username", "Exactly this name."),
        *contains("full_name", "native_name", "email", "job_title", "organization", "description"), UUID_FILTER,
        order("username", "full_name", "email", "date_joined"),
    ])
    operation("post", base, "createUser", "Make a user (staff)", (201, "User", "Location"), [403], body="NewUser")
    one = base + "{uuid}/"
    operation("get", one, "showUser", "Show a user", (200, "User"), [404])
    operation("put", one, "replaceUser", "Change a user (staff) or yourself", (200, "User"), [403, 404, 409], body="UserChange",
              description="Only staff change username (which they must give), is_staff and is_active; the password has its own URL.")
    operation("patch", one, "changeUser", "Change a user (staff) or yourself", (200, "User"), [403, 404, 409], body="UserChange",
              required=False)
    operation("delete", one, "deleteUser", "Delete a user (staff)", (204, None), [403, 404, 409])
    operation("post", one + "password/", "setPassword", "Set a password (staff, or your own)", (200, "Detail"), [403, 404],
              body="NewPassword", description="Tokens got with the old password are revoked.")
    base = "/api/project-permissions/"
    role = filter_("role", "One of the roles; anything else is 400.", choice("admin", "manager", "reader", "owner"))
    collection(base, "ProjectPermission", "ProjectPermissions", "ProjectPermission",
               [*linked("user", "the user"), *linked("project", "the project"), role])
    operation("post", base, "giveRole", "Give a user a role in a project (owners and staff)", (201, "ProjectPermission", "Location"), [403],
              body="NewProjectPermission")
    operation("get", base + "{uuid}/", "showRole", "Show a role", (200, "ProjectPermission"), [404])
    operation("delete", base + "{uuid}/", "takeRole", "Take a role away (owners and staff)", (204, None), [403, 404])
    base = "/api/customer-permissions/"
    collection(base, "CustomerPermission", "CustomerPermissions", "CustomerPermission", [*linked("user", "the user"), role])
    operation("post", base, "giveOwnership", "Make a user owner of all projects (staff)", (201, "CustomerPermission", "Location"), [403],
              body="NewCustomerPermission")
    operation("get", base + "{uuid}/", "showOwnership", "Show an owner", (200, "CustomerPermission"), [404])
    operation("delete", base + "{uuid}/", "takeOwnership", "Take ownership away (staff)", (204, None), [403, 404])

    TAG = "events"
    events = [
        filter_("event_type", "One of these types; can be repeated.", many=True), *contains("message"),
        filter_("created_from", "Seconds since 1970.", INTEGER), filter_("created_to", "Seconds since 1970.", INTEGER),
        filter_("scope", "URL or uuid of what it is about. Required unless you are staff."),
    ]
    collection("/api/events/", "Event", "Events", "Event", [
        *events, filter_("o", "`created`: oldest first; else the newest come first."),
    ])
    operation("get", "/api/events/count/", "countEvents", "Count events", (200, "EventCount"), params=events)

    TAG = "ops"
    operation("get", "/ops/status/", "status", "The daemon", (200, "DaemonStatus"), [403])
    operation("get", "/ops/stats/", "stats", "The coffer in numbers", (200, "Stats"), [403])
    counted = "Counting takes some seconds in a large coffer; 503 while somebody else does."
    operation("get", "/ops/space/", "listSpace", "What each backup takes", (200, array(schema("BackupSpace")), "X-Result-Count", "Link"),
              [403, 404], params=["page", "page_size"], description=f"Of instances and of volumes alone, and snapshots; oldest first. {counted}")
    operation("post", "/ops/space/", "whatIfDeleted", "What deleting some backups would free", (200, "FreedSpace"), [403], body="SpaceOrder",
              description=f"Nothing is deleted. {counted}")
    operation("get", "/ops/space/{uuid}/", "showSpace", "What a backup takes", (200, "BackupSpace"), [403, 404], description=counted)
    operation("get", "/ops/inspect/", "inspect", "The file as it lies there", (200, {"anyOf": [
        schema("FileLayout"), schema("PackLayout"), schema("MapLayout")]}), [403, 404], params=[
            filter_("pack", "The chunks of this pack.", INTEGER), filter_("map", "The segments of this volume map.", INTEGER)])
    named = {"name": "name", "in": "path", "required": True, "schema": STRING, "description": "As the configuration calls it."}
    operation("get", "/ops/repositories/", "listRepositories", "List the repositories of the configuration",
              (200, array(schema("Repository")), "X-Result-Count"), [403], description="Places for objects outside of this host.")
    operation("get", "/ops/repositories/{name}/", "showRepository", "Show a repository", (200, "Repository"), [403, 404], params=[named])
    operation("post", "/ops/repositories/{name}/test/", "testRepository", "Try a repository out", (202, "TaskStarted"), [403, 404], params=[named],
              description="A small object is put there, read, listed and deleted. A failed task tells what is wrong, and what to do.")
    operation("post", "/ops/repositories/{name}/attach/", "attachRepository", "Take a repository over", (202, "TaskStarted"), [403, 404],
              params=[named], description="Whoever wrote to it before may do so no more. All backups in it are in the catalog afterwards.")
    operation("get", "/ops/copies/", "listCopies", "List copies of backups", (200, array(schema("Copy")), "X-Result-Count", "Link"), [403, 404],
              params=["page", "page_size", filter_("repository", "Only those in this place.")])
    operation("post", "/ops/replicate/", "replicate", "Keep backups in a further place too", (202, "TaskStarted"), [403, 404, 409],
              body="ReplicateOrder", description="Only what is not there is sent. The task ends when all are there or have failed once; what failed is tried "
              "again by itself. 409 for snapshots, for what is not Ready, and for what lies there already.")
    operation("get", "/ops/tokens/", "listTokens", "List tokens", (200, array(schema("Token")), "X-Result-Count"), [403],
              params=[filter_("user", "Only those of this user name.")])
    operation("post", "/ops/tokens/", "createToken", "Make a token", (201, "NewToken"), [403], body="NewTokenOrder")
    operation("delete", "/ops/tokens/{id}/", "revokeToken", "Revoke a token", (204, None), [403, 404], params=[
        {"name": "id", "in": "path", "required": True, "schema": INTEGER}])
    operation("get", "/ops/users/{uuid}/openstack/", "showOpenStackAccess", "What a user's OpenStack clients need", (200, "OpenStackAccess"),
              [403, 404])
    operation("post", "/ops/users/{uuid}/credentials/", "createCredential", "Make an application credential for a user", (201, "NewCredential"),
              [403, 404], body="CredentialOrder")
    operation("get", "/ops/volume-backups/", "listVolumeBackups", "List backups and snapshots of volumes alone",
              (200, array(schema("VolumeBackup")), "X-Result-Count", "Link"), [403, 404], params=["page", "page_size", {
                  "name": "volume", "in": "query", "description": "Only those of the volume of this uuid.", "schema": UUID}],
              description="OpenStack clients made them.")
    operation("get", "/ops/volume-backups/{uuid}/", "showVolumeBackup", "Show a backup or snapshot of a volume alone", (200, "VolumeBackup"),
              [403, 404, 409], description="409 for one volume in an instance's backup.")
    operation("delete", "/ops/volume-backups/{uuid}/", "deleteVolumeBackup", "Delete a backup or snapshot of a volume alone", (202, "Detail"),
              [403, 404, 409], description="409 if it is at work, or incremental backups depend on it; and for one volume in an instance's backup.")
    operation("get", "/ops/volumes/", "listVolumes", "List volumes", (200, array(schema("Volume")), "X-Result-Count", "Link"),
              [403, 404], params=["page", "page_size"])
    operation("post", "/ops/volumes/", "registerVolume", "Register a volume on its own", (201, "Volume", "Location"), [403],
              body="NewVolume")
    operation("get", "/ops/volumes/{uuid}/", "showVolume", "Show a volume", (200, "Volume"), [403, 404])
    operation("delete", "/ops/volumes/{uuid}/", "forgetVolume", "Forget a volume of no instance", (204, None), [403, 404, 409],
              description="A registered file or device is left alone. A file that cofferd made, for a restore or for an OpenStack client, is deleted "
              "with its volume.")
    operation("post", "/ops/restores/", "restoreToPath", "Write one volume of a backup to a file or device", (202, "TaskStarted"),
              [403, 404, 409], body="PathRestore")
    operation("post", "/ops/check/", "check", "Read every chunk of one backup or of all and compare it with its hash",
              (202, "TaskStarted"), [403, 404], body="CheckOrder", required=False)
    operation("post", "/ops/scrub/", "scrub", "Read stored data again, oldest-verified first, and mend what can be mended",
              (202, "TaskStarted"), [403], body="ScrubOrder", required=False)
    operation("post", "/ops/gc/", "collectGarbage", "Give back the space of what was deleted", (202, "TaskStarted"), [403],
              body="GcOrder", required=False)
    operation("post", "/ops/snapshot/", "snapshot", "Write a consistent copy of the coffer", (202, "TaskStarted"), [403],
              body="SnapshotOrder")
    operation("get", "/ops/tasks/{id}/", "showTask", "Show long work", (200, "Task"), [403, 404], params=[
        {"name": "id", "in": "path", "required": True, "schema": INTEGER}])

    return PATHS
