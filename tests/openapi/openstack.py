"""The OpenStack part of the document: the volume API at `/v3/{project_id}` (Cinder) and the Identity API at `/identity` (Keystone).

Fields that come with a microversion or are for admins only are optional in the views, and say so.
"""

from common import (
    BOOLEAN, COUNT, INTEGER, JSON, STRING, URL, VOLUME_STATES, array, body_of, choice, described, fixed, nullable, number,
    ref, schema, text,
)

NEWEST = 71
MAX_INT = 2147483647
NULL = {"type": "null"}

TRUE_WORDS = ["True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t"]
FALSE_WORDS = ["False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f"]

UUID = schema("DashedUuid")
TIME = schema("ZonelessTime")
STAMP = schema("Stamp")
ID32 = schema("Uuid")
LINKS = array(schema("CinderLink"), minItems=2, maxItems=2)
LABELS = schema("Labels")
SWITCH = schema("Switch")


def since(minor, value):
    """A field that is there from 3.N on."""
    return described_more(value, f"From 3.{minor}.")


def admins(value, minor=None):
    """A field that only admins see."""
    return described_more(value, f"For admins, from 3.{minor}." if minor else "For admins.")


def described_more(value, words):
    """The words after what is said of it already."""
    return value | {"description": f"{value['description']} {words}" if "description" in value else words}


def order(properties, required=(), least=0):
    """The body of a request: no other fields."""
    out = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        out["required"] = list(required)
    return out | ({"minProperties": least} if least else {})


def loose(properties, required=()):
    """The same where others are ignored."""
    out = {"type": "object", "properties": properties}
    return out | ({"required": list(required)} if required else {})


def wrapped(name, inner):
    return order({name: inner}, [name])


def optional_keys(properties):
    return [key for key, value in properties.items() if any(w in value.get("description", "") for w in ("From 3.", "For admins"))]


def view(properties, description=None, optional=()):
    return fixed(properties, [*optional_keys(properties), *optional], description)


NAME = nullable(text(maxLength=255))
DESCRIPTION = nullable(text(maxLength=255))
SIZE = {"anyOf": [number(minimum=1, maximum=MAX_INT), text(pattern="^0*[1-9][0-9]{0,9}$")], "description": "GiB."}
LIMIT = {"anyOf": [number(minimum=-1, maximum=MAX_INT), text(pattern="^(-1|[0-9]{1,9})$")], "description": "-1 is unlimited."}
QUOTA_NAMES = ["volumes", "snapshots", "gigabytes", "backups", "backup_gigabytes", "per_volume_gigabytes", "groups"]

# ---------------------------------------------------------------- representations

MADE_VOLUME = {
    "id": UUID,
    "status": choice(*VOLUME_STATES),
    "size": described(COUNT, "GiB, rounded up."),
    "availability_zone": nullable(STRING),
    "created_at": TIME,
    "updated_at": nullable(TIME),
    "name": nullable(STRING),
    "description": nullable(STRING),
    "volume_type": nullable(STRING),
    "snapshot_id": described(nullable(UUID), "Of what it was made."),
    "source_volid": described(nullable(UUID), "Of what it was made."),
    "metadata": LABELS,
    "links": LINKS,
    "user_id": STRING,
    "bootable": choice("true", "false"),
    "encrypted": {"const": False},
    "replication_status": nullable(STRING),
    "consistencygroup_id": NULL,
    "multiattach": {"const": False},
    "attachments": array(schema("CinderAttachment")),
    "migration_status": admins(nullable(STRING)),
    "group_id": since(13, NULL),
    "provider_id": admins(nullable(STRING), 21),
    "shared_targets": since(48, described(nullable(BOOLEAN), "Null from 3.69 only.")),
    "service_uuid": since(48, nullable(UUID)),
    "cluster_name": admins(NULL, 61),
    "volume_type_id": since(63, nullable(UUID)),
    "consumes_quota": since(65, BOOLEAN),
}

SNAPSHOT_SUMMARY = {
    "id": UUID, "name": nullable(STRING), "description": nullable(STRING), "volume_id": UUID,
    "status": choice("creating", "available", "backing-up", "deleting", "error", "error_deleting"), "size": described(COUNT, "GiB."),
    "created_at": TIME, "updated_at": nullable(TIME), "metadata": LABELS,
}

SUMMARY = {"id": UUID, "name": nullable(STRING), "links": LINKS}

SERVICE = {
    "binary": choice("cinder-volume", "cinder-backup", "cinder-scheduler"), "host": STRING, "zone": STRING,
    "status": choice("enabled", "disabled"), "state": choice("up", "down"), "updated_at": TIME, "disabled_reason": nullable(STRING),
    "frozen": BOOLEAN, "replication_status": STRING, "active_backend_id": nullable(STRING),
    "cluster": since(7, nullable(STRING)), "backend_state": since(49, STRING),
}

NAMED = {"id": STRING, "name": STRING}
DOMAIN_REF = fixed(NAMED)


def page(key, entry, description=None):
    """A list with its link to the next page and its count, both only if there is reason."""
    return fixed(
        {
            key: array(schema(entry)),
            f"{key}_links": described(array(schema("NextLink"), minItems=1, maxItems=1), "If the page is full."),
            "count": described(COUNT, "Of all pages; from 3.45 if `with_count` asks for it."),
        },
        optional=[f"{key}_links", "count"], description=description,
    )


def only(key, value):
    return fixed({key: value})


def error(key, **more):
    return fixed({key: fixed({"code": INTEGER, "message": STRING, **more}, optional=more)})


SCHEMAS = {
    "DashedUuid": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    "ZonelessTime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?$", "description": "UTC, without a zone."},
    "Stamp": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$", "description": "UTC."},
    "Labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 255}},
    "NewLabels": {
        "type": "object", "propertyNames": {"pattern": "^[a-zA-Z0-9_:. /-]{1,255}$"},
        "additionalProperties": {"type": "string", "maxLength": 255}, "maxProperties": 128,
    },
    "Switch": {"anyOf": [BOOLEAN, choice(*TRUE_WORDS, *FALSE_WORDS)], "description": "A boolean, or a word for one."},
    # errors
    "BadRequestFault": error("badRequest"),
    "ForbiddenFault": error("forbidden"),
    "ItemNotFoundFault": error("itemNotFound"),
    "OverLimitFault": error("overLimit", retryAfter={"const": "0"}),
    "TooManyFault": error("overLimit", retryAfter=text("Seconds.", pattern="^[0-9]+$")),
    "BadMethodFault": error("badMethod"),
    "BadMediaTypeFault": error("badMediaType"),
    "NotImplementedFault": error("notImplemented"),
    "UnavailableFault": error("serviceUnavailable", retryAfter=text("Seconds.", pattern="^[0-9]+$")),
    "ComputeFault": error("computeFault"),
    "KeystoneError": only("error", fixed({"code": INTEGER, "title": STRING, "message": STRING})),
    # links and versions
    "CinderLink": fixed({"rel": choice("self", "bookmark"), "href": URL}),
    "NextLink": fixed({"rel": {"const": "next"}, "href": URL}),
    "CinderVersions": only("versions", array(fixed({
        "id": {"const": "v3.0"}, "status": {"const": "CURRENT"}, "version": {"const": f"3.{NEWEST}"}, "min_version": {"const": "3.0"},
        "updated": STAMP, "links": array(fixed({"rel": STRING, "href": URL, "type": STRING}, optional=["type"])),
        "media-types": array(fixed({"base": STRING, "type": STRING})),
    }), minItems=1, maxItems=1)),
    # volumes
    "CinderAttachment": fixed({
        "id": described(UUID, "Of the volume."), "volume_id": UUID, "attachment_id": UUID, "server_id": nullable(UUID),
        "host_name": nullable(STRING), "device": nullable(STRING), "attached_at": nullable(TIME),
    }),
    "CinderVolumeSummary": fixed(SUMMARY),
    "CinderVolume": view(MADE_VOLUME | {
        "os-vol-tenant-attr:tenant_id": ID32,
        "os-vol-host-attr:host": admins(text(pattern="^.+@.+#.+$")),
        "os-vol-mig-status-attr:migstat": admins(nullable(STRING)),
        "os-vol-mig-status-attr:name_id": admins(nullable(UUID)),
    }),
    "CinderMadeVolume": view(MADE_VOLUME, "Without what is seen in a look only."),
    "CinderVolumeTotals": only("volume-summary", view({
        "total_count": COUNT, "total_size": described(COUNT, "GiB."),
        "metadata": since(36, {"type": "object", "additionalProperties": array(STRING), "description": "Every value of every key."}),
    })),
    "NewCinderVolume": wrapped("volume", loose({
        "size": SIZE | {"description": "GiB. May be left out if it is made of something."},
        "name": NAME, "description": DESCRIPTION, "metadata": nullable(schema("NewLabels")),
        "volume_type": described(nullable(text(maxLength=255)), "By name or id; there is one."),
        "availability_zone": described(nullable(text(maxLength=255)), "There is one."),
        "snapshot_id": described(nullable(UUID), "Make it of a snapshot."),
        "source_volid": described(nullable(UUID), "Make it of another volume."),
        "backup_id": since(47, described(nullable(UUID), "Make it of a backup.")),
        "imageRef": described(NULL, "There are no images."),
        "consistencygroup_id": NULL,
    })) | {"description": "Unknown fields are ignored before 3.53, and refused from then on."},
    "CinderVolumeChange": wrapped("volume", loose({
        "name": NAME, "description": DESCRIPTION, "metadata": described(schema("NewLabels"), "All of them."),
    })) | {"description": "From 3.53 at least one field, and no unknown one."},
    "CinderVolumeAction": {"anyOf": [
        wrapped("os-extend", loose({"new_size": described(SIZE, "GiB; more than now.")}, ["new_size"])),
        wrapped("os-set_bootable", loose({"bootable": SWITCH}, ["bootable"])),
        wrapped("os-update_readonly_flag", loose({"readonly": SWITCH}, ["readonly"])),
        wrapped("os-reserve", {}),
        wrapped("os-unreserve", {}),
        wrapped("os-attach", loose({
            "host_name": nullable(text(maxLength=255)), "instance_uuid": described(nullable(UUID), "This or a host, not both."),
            "mountpoint": text(minLength=1, maxLength=255), "mode": choice("rw", "ro"),
        }, ["mountpoint"])),
        wrapped("os-detach", loose({"attachment_id": nullable(UUID)})),
        wrapped("os-reset_status", order({
            "status": nullable(choice(*VOLUME_STATES)),
            "attach_status": nullable(choice("detached", "attached")), "migration_status": nullable(STRING),
        }, least=1) | {"description": "For admins."}),
        wrapped("os-force_delete", {"description": "For admins; in any state."}),
    ]},
    # metadata of volumes and snapshots
    "CinderMetadata": only("metadata", LABELS),
    "CinderMeta": only("meta", {"type": "object", "additionalProperties": STRING, "minProperties": 1, "maxProperties": 1}),
    "NewCinderMetadata": wrapped("metadata", schema("NewLabels")),
    "NewCinderMeta": wrapped("meta", {
        "type": "object", "additionalProperties": {"type": "string", "maxLength": 255}, "minProperties": 1, "maxProperties": 1,
        "description": "The key of the path and its value.",
    }),
    # snapshots
    "CinderSnapshotSummary": fixed(SNAPSHOT_SUMMARY),
    "CinderSnapshot": view(SNAPSHOT_SUMMARY | {
        "os-extended-snapshot-attributes:project_id": ID32,
        "os-extended-snapshot-attributes:progress": text(pattern="^[0-9]{1,3}%$"),
        "group_snapshot_id": since(14, NULL), "user_id": since(41, STRING), "consumes_quota": since(65, BOOLEAN),
    }),
    "NewCinderSnapshot": wrapped("snapshot", loose({
        "volume_id": UUID, "name": NAME, "description": DESCRIPTION, "metadata": nullable(schema("NewLabels")),
        "force": described(SWITCH, "Of a volume in use too; from 3.66 that needs no word."),
    }, ["volume_id"])),
    "CinderSnapshotChange": wrapped("snapshot", loose({"name": NAME, "description": DESCRIPTION})),
    "CinderSnapshotAction": {"anyOf": [
        wrapped("os-reset_status", order({"status": choice("available", "error")}, ["status"])),
        wrapped("os-force_delete", {}),
    ], "description": "For admins."},
    # backups
    "CinderBackupSummary": fixed(SUMMARY),
    "CinderBackup": view(SUMMARY | {
        "status": choice("creating", "available", "deleting", "error", "restoring", "error_deleting"),
        "size": described(COUNT, "GiB of the volume, for incremental ones too."),
        "object_count": described(COUNT, "New chunks that it added to the store."),
        "availability_zone": nullable(STRING), "container": nullable(STRING), "created_at": TIME, "updated_at": nullable(TIME),
        "description": nullable(STRING), "fail_reason": nullable(text(maxLength=255)), "volume_id": UUID,
        "is_incremental": BOOLEAN, "has_dependent_backups": BOOLEAN, "snapshot_id": nullable(UUID),
        "data_timestamp": described(nullable(TIME), "When the data was as it is."),
        "metadata": since(43, LABELS),
        "os-backup-project-attr:project_id": admins(ID32, 18),
        "user_id": admins(nullable(STRING), 56),
    }),
    "NewCinderBackup": wrapped("backup", order({
        "volume_id": UUID, "name": NAME, "description": described(DESCRIPTION, "One line."),
        "container": described(nullable(text(maxLength=255)), "A label."), "incremental": SWITCH,
        "force": described(SWITCH, "Of a volume in use too."), "snapshot_id": nullable(UUID),
        "metadata": since(43, nullable(schema("NewLabels"))), "availability_zone": since(51, nullable(text(maxLength=255))),
    }, ["volume_id"])),
    "CinderBackupChange": wrapped("backup", order({
        "name": NAME, "description": DESCRIPTION, "metadata": schema("NewLabels"),
    })),
    "CinderRestoreOrder": wrapped("restore", nullable(order({
        "name": described(nullable(text(maxLength=255)), "Of a new volume."), "volume_id": described(nullable(UUID), "Overwrite this one instead."),
    }))),
    "CinderRestore": only("restore", fixed({"backup_id": UUID, "volume_id": UUID, "volume_name": nullable(STRING)})),
    "CinderBackupAction": {"anyOf": [
        wrapped("os-reset_status", order({"status": text("available or error, in any case.")}, ["status"])),
        wrapped("os-force_delete", {}),
    ], "description": "For admins."},
    "CinderRecord": only("backup-record", fixed({
        "backup_service": text(pattern=r"^cinder\.backup\.drivers"), "backup_url": text("A JSON object in base64.", minLength=1),
    })),
    "NewCinderRecord": wrapped("backup-record", order({
        "backup_service": text(maxLength=255), "backup_url": text("As exported.", minLength=1),
    }, ["backup_service", "backup_url"])),
    # the small ones
    "CinderType": fixed(
        {
            "id": UUID, "name": STRING, "description": nullable(STRING), "is_public": BOOLEAN, "extra_specs": LABELS,
            "os-volume-type-access:is_public": BOOLEAN, "qos_specs_id": admins(NULL),
        },
        optional=["qos_specs_id"],
    ),
    "CinderQuotas": only("quota_set", fixed({"id": ID32} | dict.fromkeys(QUOTA_NAMES, INTEGER))),
    "CinderNewQuotas": only("quota_set", fixed(dict.fromkeys(QUOTA_NAMES, INTEGER))),
    "CinderQuotaUsage": only("quota_set", fixed({"id": ID32} | dict.fromkeys(QUOTA_NAMES, schema("CinderUsage")))),
    "CinderUsage": fixed({"limit": INTEGER, "in_use": COUNT, "reserved": {"const": 0}}),
    "CinderQuotaClass": only("quota_class_set", fixed({"id": STRING} | dict.fromkeys(QUOTA_NAMES, INTEGER))),
    "CinderNewQuotaClass": only("quota_class_set", fixed(dict.fromkeys(QUOTA_NAMES, INTEGER))),
    "CinderQuotaOrder": wrapped("quota_set", order(dict.fromkeys(QUOTA_NAMES, LIMIT) | {"tenant_id": described(STRING, "Ignored.")})),
    "CinderQuotaClassOrder": wrapped("quota_class_set", order(dict.fromkeys(QUOTA_NAMES, LIMIT))),
    "CinderLimits": only("limits", fixed({
        "rate": array({}, maxItems=0),
        "absolute": fixed(
            dict.fromkeys(["maxTotalVolumes", "maxTotalSnapshots", "maxTotalBackups", "maxTotalVolumeGigabytes", "maxTotalBackupGigabytes"],
                          described(INTEGER, "-1 is unlimited."))
            | dict.fromkeys(["totalVolumesUsed", "totalSnapshotsUsed", "totalBackupsUsed", "totalGigabytesUsed", "totalBackupGigabytesUsed"], COUNT),
        ),
    })),
    "CinderZones": only("availabilityZoneInfo", array(fixed({"zoneName": STRING, "zoneState": fixed({"available": BOOLEAN})}))),
    "CinderServices": only("services", array(view(SERVICE, optional=["frozen", "replication_status", "active_backend_id"]))),
    "CinderFilters": only("resource_filters", array(fixed({"resource": STRING, "filters": array(STRING)}))),
    "CinderMessage": fixed(
        {
            "id": UUID, "request_id": STRING, "message_level": choice("ERROR"), "event_id": STRING, "user_message": STRING,
            "resource_type": nullable(STRING), "resource_uuid": nullable(UUID), "created_at": TIME, "guaranteed_until": nullable(TIME),
            "links": LINKS,
        },
        optional=["links", "resource_type", "resource_uuid", "guaranteed_until"],
    ),
    "CinderExtension": fixed({"name": STRING, "alias": STRING, "description": STRING, "updated": STRING, "links": array({}, maxItems=0)}),
    "CinderHealth": fixed({"status": STRING}),
    # identity
    "KeystoneVersion": fixed({
        "id": STRING, "status": STRING, "updated": STAMP, "links": array(fixed({"rel": STRING, "href": URL})),
        "media-types": array(fixed({"base": STRING, "type": STRING})),
    }),
    "KeystoneVersions": only("versions", only("values", array(schema("KeystoneVersion")))),
    "KeystoneToken": only("token", fixed(
        {
            "methods": array(choice("password", "token", "application_credential")),
            "user": fixed({"id": ID32, "name": STRING, "domain": DOMAIN_REF, "password_expires_at": NULL}),
            "audit_ids": array(STRING, minItems=1, maxItems=2), "expires_at": nullable(STAMP), "issued_at": STAMP,
            "is_domain": BOOLEAN, "project": fixed({"id": ID32, "name": STRING, "domain": DOMAIN_REF}),
            "roles": array(fixed(NAMED)), "catalog": described(array(schema("KeystoneService")), "Absent with `?nocatalog`."),
            "application_credential": fixed({"id": ID32, "name": STRING, "restricted": BOOLEAN}),
        },
        optional=["is_domain", "project", "roles", "catalog", "application_credential"],
        description="Of an unscoped token there are no project, roles and catalog.",
    )),
    "KeystoneService": fixed({"id": STRING, "type": STRING, "name": STRING, "endpoints": array(fixed({
        "id": STRING, "interface": choice("public", "internal", "admin"), "region": STRING, "region_id": STRING, "url": URL,
    }))}),
    "KeystoneCatalog": fixed({"catalog": array(schema("KeystoneService")), "links": fixed({"self": URL})}),
    "KeystoneLogin": wrapped("auth", loose({
        "identity": loose({
            "methods": array(choice("password", "token", "application_credential"), minItems=1, maxItems=1),
            "password": loose({"user": schema("KeystoneUserClaim")}, ["user"]),
            "token": loose({"id": text(maxLength=1024)}, ["id"]),
            "application_credential": loose({
                "id": text(maxLength=1024), "name": text(maxLength=1024), "user": schema("KeystoneNamed"), "secret": text(maxLength=1024),
            }, ["secret"]),
        }, ["methods"]),
        "scope": {"anyOf": [NULL, {"const": "unscoped"}, order({"unscoped": {"type": "object"}}, ["unscoped"]),
                            order({"project": schema("KeystoneNamed")}, ["project"])]},
    }, ["identity"])),
    "KeystoneNamed": loose({"id": text(maxLength=1024), "name": text(maxLength=1024), "domain": schema("KeystoneDomainClaim")})
    | {"description": "An id, or a name."},
    "KeystoneUserClaim": loose({
        "id": text(maxLength=1024), "name": text(maxLength=1024), "domain": schema("KeystoneDomainClaim"), "password": text(maxLength=1024),
    }, ["password"]),
    "KeystoneDomainClaim": loose({"id": text(maxLength=1024), "name": text(maxLength=1024)}) | {"description": "There is one: default, Default."},
    "KeystoneProject": fixed({
        "id": ID32, "name": STRING, "description": STRING, "domain_id": STRING, "parent_id": STRING, "is_domain": BOOLEAN, "enabled": BOOLEAN,
        "tags": array({}, maxItems=0), "options": schema("NoOptions"), "links": fixed({"self": URL}),
    }),
    "KeystoneUser": fixed({
        "id": ID32, "name": STRING, "description": STRING, "email": STRING, "domain_id": STRING, "enabled": BOOLEAN,
        "password_expires_at": NULL, "options": schema("NoOptions"), "links": fixed({"self": URL}),
    }),
    "KeystoneDomain": fixed({
        "id": STRING, "name": STRING, "description": STRING, "enabled": BOOLEAN, "tags": array({}, maxItems=0), "options": schema("NoOptions"),
        "links": fixed({"self": URL}),
    }),
    "KeystoneRole": fixed({
        "id": STRING, "name": STRING, "description": nullable(STRING), "domain_id": NULL, "options": schema("NoOptions"),
        "links": fixed({"self": URL}),
    }),
    "NoOptions": {"type": "object", "maxProperties": 0},
    "KeystoneListLinks": fixed({"self": URL, "previous": NULL, "next": NULL}),
    "KeystoneCredential": fixed({
        "id": ID32, "name": STRING, "description": nullable(STRING), "user_id": ID32, "project_id": ID32, "system": NULL,
        "roles": array(fixed(NAMED | {"domain_id": NULL, "description": nullable(STRING), "options": schema("NoOptions")})),
        "expires_at": nullable(TIME), "unrestricted": {"const": False}, "links": fixed({"self": URL}),
        "secret": described(STRING, "Shown once, when it is made."),
    }, optional=["secret"]),
    "NewKeystoneCredential": wrapped("application_credential", loose({
        "name": text(minLength=1, maxLength=255), "description": nullable(text(maxLength=255)), "secret": nullable(text(minLength=8, maxLength=1024)),
        "expires_at": nullable(text(format="date-time")), "unrestricted": described(nullable({"const": False}), "Always restricted."),
        "roles": nullable(array({"anyOf": [
            loose({"id": choice("admin", "member", "reader")}, ["id"]), loose({"name": choice("admin", "member", "reader")}, ["name"]),
        ]})),
        "access_rules": described(nullable(array({}, maxItems=0)), "Not offered."),
    }, ["name"])),
}

# ---------------------------------------------------------------- headers, parameters, responses

# Of every answer of the volume API.
CINDER_HEADERS = {
    "x-openstack-request-id": "RequestId", "x-compute-request-id": "RequestId", "OpenStack-API-Version": "ApiVersion", "Vary": "CinderVary",
}
KEYSTONE_HEADERS = {"Vary": "KeystoneVary"}

HEADERS = {
    "RequestId": {"description": "Of this request, for the log.", "schema": text(pattern="^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")},
    "ApiVersion": {"description": "The version that the answer is of.", "schema": text(pattern=r"^volume 3\.\d{1,2}$")},
    "CinderVary": {"description": "The answer depends on the version asked for.", "schema": text(pattern="OpenStack-API-Version")},
    "KeystoneVary": {"description": "The answer depends on who asks.", "schema": text(pattern="X-Auth-Token")},
    "KeystoneUri": {"description": "Where to log in.", "schema": text(pattern="^Keystone uri=\"https?://[^\"]+/identity/?\"$")},
    "NoRetry": {"description": "Of a quota: 0. Waiting does not help.", "schema": {"const": "0"}},
    "Etag": {"description": "Of the metadata as it is, from 3.15, for If-Match.", "schema": STRING},
    "SubjectToken": {"description": "The token.", "schema": STRING},
}


def path_parameter(name, description, value=STRING):
    return {"name": name, "in": "path", "required": True, "description": description, "schema": value}


def query(name, description, value=None):
    return {"name": name, "in": "query", "description": description, "schema": value or STRING}


PARAMETERS = {
    "project_id": path_parameter("project_id", "The project, by id or by name. Can be left out with its slash."),
    "id": path_parameter("id", "A uuid; anything else is 404."),
    "key": path_parameter("key", "A key of the metadata."),
    "microversion": {
        "name": "OpenStack-API-Version", "in": "header", "description": "The microversion; without it 3.0.",
        "schema": text(pattern=r"^volume (3\.([0-9]|[1-6][0-9]|7[01])|latest)$", default="volume 3.0"),
    },
    "limit": query("limit", "Entries on a page; 1000 at most, and without it.", number(minimum=0)),
    "marker": query("marker", "Id of the last entry that was seen; unknown is 404."),
    "offset": query("offset", "Entries to leave out.", number(minimum=0, maximum=MAX_INT)),
    "sort": query("sort", "`key[:asc|desc]`, several separated by commas; descending unless said otherwise."),
    "sort_key": query("sort_key", "One key, not together with `sort`."),
    "sort_dir": query("sort_dir", "Of sort_key.", choice("asc", "desc")),
    "with_count": query("with_count", "Add `count`. From 3.45.", choice("True", "False")),
    "all_tenants": query("all_tenants", "Of all projects, for admins; ignored of others.", choice("True", "False", "1", "0")),
    "owner": query("project_id", "Of this project, for admins together with all_tenants."),
    "name": query("name", "Exactly this name."),
    "name_like": query("name~", "A part of the name. From 3.34."),
    "status": query("status", "Exactly this status."),
    "status_like": query("status~", "A part of the status. From 3.34."),
    "description_like": query("description~", "A part of the description. From 3.34."),
    "volume_id": query("volume_id", "Of this volume."),
    "volume_id_like": query("volume_id~", "A part of the id. From 3.34."),
    "If-Match": {"name": "If-Match", "in": "header", "description": "From 3.15: only if the metadata has still this Etag.", "schema": STRING},
    "X-Subject-Token": {"name": "X-Subject-Token", "in": "header", "required": True, "description": "The token in question.", "schema": STRING},
    "user_id": path_parameter("user_id", "Of the user."),
    "keystone_id": path_parameter("id", "An id; unknown is 404."),
    "keystone_name": query("name", "Exactly this name."),
}
PAGING = ["limit", "marker", "offset", "sort", "sort_key", "sort_dir", "with_count", "all_tenants", "owner"]


def cinder(name, description, **headers):
    return body_of(name, description, CINDER_HEADERS | {key.replace("_", "-"): value for key, value in headers.items()})


def keystone(name, description, **headers):
    return body_of(name, description, KEYSTONE_HEADERS | {key.replace("_", "-"): value for key, value in headers.items()})


RESPONSES = {
    "CinderBadRequest": cinder("BadRequestFault", "The body, a parameter, the version or the project is wrong, or the state forbids it."),
    "CinderUnauthorized": cinder("KeystoneError", "No valid token.", WWW_Authenticate="KeystoneUri"),
    "CinderForbidden": cinder("ForbiddenFault", "Your role in the project does not allow it."),
    "CinderNotFound": cinder("ItemNotFoundFault", "Not there, not visible to you, or not at this version."),
    "CinderNotAcceptable": cinder("ComputeFault", "The version is none of 3.0 to 3.71."),
    "CinderPreconditionFailed": cinder("ComputeFault", "Somebody has changed the metadata meanwhile."),
    "CinderOverLimit": cinder("OverLimitFault", "A quota would be exceeded, or the body is larger than 112 KiB.", Retry_After="NoRetry"),
    "CinderBadMediaType": cinder("BadMediaTypeFault", "The body is not JSON."),
    "CinderFailure": cinder("ComputeFault", "A fault of cofferd; its log says more."),
    "CinderNotImplemented": cinder("NotImplementedFault", "A method or transfer coding that this is no server for."),
    "CinderTooMany": cinder("TooManyFault", "Too many wrong passwords; try again later.", Retry_After="Retry-After"),
    "CinderUnavailable": cinder("UnavailableFault", "Too busy; try again.", Retry_After="Retry-After"),
    "CinderMethodNotAllowed": cinder("BadMethodFault", "TRACE.", Allow="Allow"),
    "CinderRefused": cinder("ComputeFault", "The request is no proper HTTP, too long, or took too long to arrive."),
    "CinderDiskFull": cinder("ComputeFault", "The disk is full."),
    "KeystoneBadRequest": keystone("KeystoneError", "The body or a header is wrong."),
    "KeystoneUnauthorized": keystone("KeystoneError", "No valid token, or a wrong user, password or project.", WWW_Authenticate="KeystoneUri"),
    "KeystoneForbidden": keystone("KeystoneError", "Not yours."),
    "KeystoneNotFound": keystone("KeystoneError", "Not there, or not visible to you."),
    "KeystoneMethodNotAllowed": keystone("KeystoneError", "Any other method than those of this path.", Allow="Allow"),
    "KeystoneRefused": keystone("KeystoneError", "The request is no proper HTTP, too long, or took too long to arrive."),
    "KeystoneConflict": keystone("KeystoneError", "There is one of this name."),
    "KeystoneTooMany": keystone("KeystoneError", "Too many logins; try again later.", Retry_After="Retry-After"),
    "KeystoneFailure": keystone("KeystoneError", "A fault of cofferd; its log says more."),
    "KeystoneUnavailable": keystone("KeystoneError", "Too busy; try again.", Retry_After="Retry-After"),
    "KeystoneDiskFull": keystone("KeystoneError", "The disk is full."),
}

REFUSED = (408, 414, 417, 431, 505)
CINDER_BY_CODE = dict.fromkeys(REFUSED, "CinderRefused") | {
    405: "CinderMethodNotAllowed", 400: "CinderBadRequest", 401: "CinderUnauthorized", 403: "CinderForbidden", 404: "CinderNotFound", 406: "CinderNotAcceptable",
    412: "CinderPreconditionFailed", 413: "CinderOverLimit", 415: "CinderBadMediaType", 429: "CinderTooMany", 500: "CinderFailure", 501: "CinderNotImplemented",
    503: "CinderUnavailable", 507: "CinderDiskFull",
}
KEYSTONE_BY_CODE = dict.fromkeys(REFUSED, "KeystoneRefused") | {
    400: "KeystoneBadRequest", 401: "KeystoneUnauthorized", 403: "KeystoneForbidden", 404: "KeystoneNotFound", 405: "KeystoneMethodNotAllowed",
    409: "KeystoneConflict", 413: "KeystoneRefused", 429: "KeystoneTooMany", 500: "KeystoneFailure", 501: "KeystoneRefused",
    503: "KeystoneUnavailable", 507: "KeystoneDiskFull",
}
EVERYWHERE = {400, 405, 408, 413, 414, 417, 431, 500, 501, 503, 505}

TAGS = (
    ("cinder versions", "OpenStack: which versions of the volume API there are"), ("cinder volumes", "OpenStack: make, change, attach, extend, delete"),
    ("cinder snapshots", "OpenStack: volumes as they were at an instant"), ("cinder backups", "OpenStack: of single volumes"),
    ("cinder quotas", "OpenStack: what a project may have, and has"), ("cinder service", "OpenStack: types, zones, services, messages"),
    ("identity", "OpenStack: log in, and look names up"),
)

# ---------------------------------------------------------------- operations

PATHS = {}
SECURITY = [{"x-auth-token": []}, {"token": []}, {"basic": []}]
SUCCESS = {200: "Done.", 201: "Made.", 202: "Accepted.", 204: "Gone.", 300: "The versions that there are."}


def add(method, path, name, summary, tag, answer, status, by_code, codes, params, body, required, anonymous, description):
    out = {"operationId": name, "summary": summary, "tags": [tag]}
    if description:
        out["description"] = description
    out["security"] = [] if anonymous else SECURITY
    parameters = [ref("parameters", p) if isinstance(p, str) else p for p in params]
    if parameters:
        out["parameters"] = parameters
    if body:
        out["requestBody"] = {"required": required, "content": {JSON: {"schema": schema(body)}}}
    responses = {str(status): answer} | {str(code): ref("responses", by_code[code]) for code in codes}
    out["responses"] = dict(sorted(responses.items()))
    PATHS.setdefault(path, {})[method] = out


def success(status, result, headers):
    description = SUCCESS[status]
    if result is not None:
        return body_of(result, description, headers)
    return {"description": description, "headers": {header: ref("headers", name) for header, name in headers.items()}}


def volume_api(method, path, name, summary, tag, status, result=None, codes=(), params=(), body=None, required=True, anonymous=False,
               description=None, headers=None):
    """An operation below `/v3/{project_id}`, or with an absolute path one beside it."""
    codes = EVERYWHERE | {404} | set(codes) | ({415} if body else set())
    if not anonymous:
        codes |= {401, 403, 406, 429}
        path = "/v3/{project_id}" + path
    if method != "get":
        codes |= {507}
    given = ["project_id"] if "{project_id}" in path else []
    given += [name for name in ("id", "key") if f"{{{name}}}" in path and not any(isinstance(p, dict) and p["name"] == name for p in params)]
    given += [] if anonymous else ["microversion"]
    add(method, path, "cinder" + name, summary, f"cinder {tag}", success(status, result, CINDER_HEADERS | (headers or {})), status,
        CINDER_BY_CODE, codes, [*given, *params], body, required, anonymous, description)


def identity_api(method, path, name, summary, status, result=None, codes=(), params=(), body=None, anonymous=False, description=None, headers=None):
    codes = EVERYWHERE | set(codes)
    if not anonymous:
        codes |= {401, 429}
    if method != "get":
        codes |= {507}
    add(method, "/identity" + path, "identity" + name, summary, "identity", success(status, result, KEYSTONE_HEADERS | (headers or {})), status,
        KEYSTONE_BY_CODE, codes, params, body, True, anonymous, description)


def listing(path, kind, what, tag, filters):
    """A list in its two forms."""
    word = kind[0].upper() + kind[1:]
    params = [*PAGING, *filters]
    volume_api("get", path, f"List{word}", f"List {what}", tag, 200, page(kind, f"Cinder{word[:-1]}Summary"), params=params)
    volume_api("get", path + "/detail", f"List{word}InDetail", f"List {what} in detail", tag, 200, page(kind, f"Cinder{word[:-1]}"), params=params)


def metadata(kind, tag, condition=()):
    """The metadata of a volume or a snapshot."""
    path, word = f"/{kind}/{{id}}/metadata", kind[0].upper() + kind[1:-1]
    tagged = {"headers": {"Etag": "Etag"}} if condition else {}
    refused = [412] if condition else []
    volume_api("get", path, f"Show{word}Metadata", "Show all", tag, 200, "CinderMetadata", **tagged)
    volume_api("post", path, f"Add{word}Metadata", "Add some, and change those that there are", tag, 200, "CinderMetadata", body="NewCinderMetadata")
    volume_api("put", path, f"Replace{word}Metadata", "Replace all", tag, 200, "CinderMetadata", refused, params=condition, body="NewCinderMetadata")
    volume_api("get", path + "/{key}", f"Show{word}Key", "Show one", tag, 200, "CinderMeta")
    volume_api("put", path + "/{key}", f"Set{word}Key", "Set one", tag, 200, "CinderMeta", refused, params=condition, body="NewCinderMeta")
    volume_api("delete", path + "/{key}", f"Delete{word}Key", "Delete one", tag, 200)


def versions():
    tag = "versions"
    volume_api("get", "/", "Versions", "The versions of the volume API", tag, 300, "CinderVersions", anonymous=True)
    volume_api("get", "/v3/", "Version", "The same, with 200; also without the slash", tag, 200, "CinderVersions", anonymous=True)
    volume_api("get", "/healthcheck", "Health", "Does the volume API answer?", tag, 200, "CinderHealth", anonymous=True)


def volumes():
    tag = "volumes"
    times = "`gt:time`, also gte, lt, lte, eq, neq; several separated by commas. From 3.60."
    listing("/volumes", "volumes", "volumes", tag, [
        "name", "name_like", "status", "status_like", "description_like", query("size", "Exactly so many GiB.", INTEGER),
        query("bootable", "From 3.2 anything but a boolean is 400.", choice("true", "false")), query("availability_zone", "There is one."),
        query("metadata", "`{'key': 'value', ...}`: has all of these."), query("created_at", times), query("updated_at", times),
    ])
    volume_api("post", "/volumes", "CreateVolume", "Make a volume", tag, 202, only("volume", schema("CinderMadeVolume")), body="NewCinderVolume",
               description="Empty, or of one of a snapshot, a volume and a backup. Its status is creating until it is available.")
    volume_api("get", "/volumes/summary", "SumVolumesUp", "How many, and how much", tag, 200, "CinderVolumeTotals", params=["all_tenants"],
               description="From 3.12.")
    one = "/volumes/{id}"
    volume_api("get", one, "ShowVolume", "Show a volume", tag, 200, only("volume", schema("CinderVolume")))
    volume_api("put", one, "ChangeVolume", "Change a volume", tag, 200, only("volume", schema("CinderMadeVolume")), body="CinderVolumeChange")
    volume_api("delete", one, "DeleteVolume", "Delete a volume, and its file unless it was registered", tag, 202, params=[
        query("cascade", "Its snapshots too.", choice("True", "False")), query("force", "In any state; for admins from 3.23.", choice("True", "False")),
    ], description="From available, error, error_restoring and error_extending. Backups stay.")
    volume_api("post", one + "/action", "ActOnVolume", "Extend, attach, detach, reserve, mark or reset a volume", tag, 202,
               body="CinderVolumeAction", description="os-set_bootable answers 200.")
    PATHS["/v3/{project_id}/volumes/{id}/action"]["post"]["responses"]["200"] = success(200, None, CINDER_HEADERS)
    metadata("volumes", tag, ["If-Match"])


def snapshots():
    tag = "snapshots"
    listing("/snapshots", "snapshots", "snapshots", tag, ["name", "name_like", "status", "status_like", "description_like", "volume_id", "volume_id_like"])
    volume_api("post", "/snapshots", "CreateSnapshot", "Make a snapshot", tag, 202, only("snapshot", schema("CinderSnapshotSummary")),
               body="NewCinderSnapshot", description="The bytes are read into the store; until that is done its status is creating.")
    one = "/snapshots/{id}"
    volume_api("get", one, "ShowSnapshot", "Show a snapshot", tag, 200, only("snapshot", schema("CinderSnapshot")))
    volume_api("put", one, "ChangeSnapshot", "Change a snapshot", tag, 200, only("snapshot", schema("CinderSnapshotSummary")), body="CinderSnapshotChange")
    volume_api("delete", one, "DeleteSnapshot", "Delete a snapshot; what was made of it stays", tag, 202)
    volume_api("post", one + "/action", "ActOnSnapshot", "Reset or force", tag, 202, body="CinderSnapshotAction")
    metadata("snapshots", tag)


def backups():
    tag = "backups"
    listing("/backups", "backups", "backups", tag, ["name", "name_like", "status", "status_like", "description_like", "volume_id", "volume_id_like"])
    volume_api("post", "/backups", "CreateBackup", "Back a volume up", tag, 202, only("backup", schema("CinderBackupSummary")), body="NewCinderBackup",
               description="Of the volume, or of one of its snapshots.")
    volume_api("post", "/backups/import_record", "ImportBackup", "Make a backup known again", tag, 201, only("backup", schema("CinderBackupSummary")),
               body="NewCinderRecord", description="For admins.")
    one = "/backups/{id}"
    volume_api("get", one, "ShowBackup", "Show a backup", tag, 200, only("backup", schema("CinderBackup")))
    volume_api("put", one, "ChangeBackup", "Change a backup", tag, 200, only("backup", schema("CinderBackupSummary")), body="CinderBackupChange",
               description="From 3.9.")
    volume_api("delete", one, "DeleteBackup", "Delete a backup that no other depends on", tag, 202)
    volume_api("post", one + "/restore", "RestoreBackup", "Restore to a new volume, or over one", tag, 202, "CinderRestore", body="CinderRestoreOrder")
    volume_api("post", one + "/action", "ActOnBackup", "Reset or force", tag, 202, body="CinderBackupAction")
    volume_api("get", one + "/export_record", "ExportBackup", "What import_record needs", tag, 200, "CinderRecord", description="For admins.")


def quotas():
    tag = "quotas"
    one = "/os-quota-sets/{id}"
    project = path_parameter("id", "The project in question.")
    volume_api("get", one, "ShowQuotas", "Show quotas", tag, 200, {"anyOf": [schema("CinderQuotas"), schema("CinderQuotaUsage")]}, params=[
        project, query("usage", "What is used as well.", choice("True", "False"))])
    volume_api("put", one, "ChangeQuotas", "Set quotas", tag, 200, "CinderNewQuotas", params=[project], body="CinderQuotaOrder",
               description="For admins. Below what is used is 400.")
    volume_api("delete", one, "DeleteQuotas", "Go back to the defaults", tag, 200, params=[project], description="For admins.")
    volume_api("get", one + "/defaults", "ShowDefaults", "Show the defaults", tag, 200, "CinderQuotas", params=[project])
    klass = path_parameter("id", "`default`: what holds for projects without quotas of their own.")
    volume_api("get", "/os-quota-class-sets/{id}", "ShowQuotaClass", "Show the defaults of all projects", tag, 200, "CinderQuotaClass", params=[klass])
    volume_api("put", "/os-quota-class-sets/{id}", "ChangeQuotaClass", "Set the defaults of all projects", tag, 200, "CinderNewQuotaClass",
               params=[klass], body="CinderQuotaClassOrder", description="For admins.")
    volume_api("get", "/limits", "ShowLimits", "Quotas and usage of the project", tag, 200, "CinderLimits")


def service():
    tag = "service"
    volume_api("get", "/types", "ListTypes", "List volume types", tag, 200, only("volume_types", array(schema("CinderType"))))
    one = only("volume_type", schema("CinderType"))
    volume_api("get", "/types/default", "ShowDefaultType", "Show the default type", tag, 200, one)
    volume_api("get", "/types/{id}", "ShowType", "Show a type", tag, 200, one)
    volume_api("get", "/types/{id}/extra_specs", "ShowTypeSpecs", "Show what is special about a type", tag, 200, only("extra_specs", LABELS))
    volume_api("get", "/os-availability-zone", "ListZones", "List zones", tag, 200, "CinderZones")
    volume_api("get", "/os-services", "ListServices", "List services", tag, 200, "CinderServices", params=[
        query("host", "On this host, with or without `@backend`."), query("binary", "This one.")], description="For admins.")
    volume_api("get", "/resource_filters", "ListFilters", "List what lists can be filtered by", tag, 200, "CinderFilters", params=[
        query("resource", "Of this one.", choice("volume", "snapshot", "backup"))], description="From 3.33.")
    volume_api("get", "/messages", "ListMessages", "List what went wrong", tag, 200, page("messages", "CinderMessage"),
               params=["limit", "marker", "offset", "sort", "sort_key", "sort_dir"], description="From 3.3.")
    volume_api("get", "/messages/{id}", "ShowMessage", "Show a message", tag, 200, only("message", schema("CinderMessage")), description="From 3.3.")
    volume_api("get", "/extensions", "ListExtensions", "List extensions", tag, 200, only("extensions", array(schema("CinderExtension"))))
    volume_api("get", "/extensions/{id}", "ShowExtension", "Show an extension", tag, 200, only("extension", schema("CinderExtension")), params=[
        path_parameter("id", "The alias.")])


def identity():
    identity_api("get", "/", "Versions", "The versions of the Identity API; also without the slash", 300, "KeystoneVersions", anonymous=True)
    identity_api("get", "/v3/", "Version", "The one there is; also without the slash", 200, only("version", schema("KeystoneVersion")), anonymous=True)
    path, token = "/v3/auth/tokens", {"X-Subject-Token": "SubjectToken"}
    catalog = query("nocatalog", "Without the catalog, whatever the value.")
    identity_api("post", path, "CreateToken", "Log in", 201, "KeystoneToken", [401, 429], params=[catalog], body="KeystoneLogin", anonymous=True,
                 headers=token, description="With a password, a token or an application credential; for a project, or unscoped.")
    identity_api("get", path, "ShowToken", "Show a token", 200, "KeystoneToken", [403, 404], params=["X-Subject-Token", catalog], headers=token)
    identity_api("delete", path, "RevokeToken", "Revoke a token", 204, None, [403, 404], params=["X-Subject-Token"])
    identity_api("get", "/v3/auth/catalog", "ShowCatalog", "Where the APIs are", 200, "KeystoneCatalog", [403])
    collection("auth/projects", "projects", "MyProjects", "List your projects", "KeystoneProject", [])
    for kind, one in (("projects", "KeystoneProject"), ("users", "KeystoneUser"), ("domains", "KeystoneDomain"), ("roles", "KeystoneRole")):
        word = kind[0].upper() + kind[1:]
        collection(kind, kind, f"List{word}", f"List {kind} that you see", one, ["keystone_name"])
        identity_api("get", f"/v3/{kind}/{{id}}", f"Show{word[:-1]}", f"Show one of the {kind}", 200, only(kind[:-1], schema(one)), [404],
                     params=["keystone_id"])
    path = "/v3/users/{user_id}/application_credentials"
    many = fixed({"application_credentials": array(schema("KeystoneCredential")), "links": schema("KeystoneListLinks")})
    one = only("application_credential", schema("KeystoneCredential"))
    identity_api("get", path, "ListCredentials", "List application credentials", 200, many, [403, 404], params=["user_id", "keystone_name"])
    identity_api("post", path, "CreateCredential", "Make an application credential", 201, one, [403, 404, 409], params=["user_id"],
                 body="NewKeystoneCredential", description="For the project of the token; with no more than your own roles.")
    identity_api("get", path + "/{id}", "ShowCredential", "Show an application credential", 200, one, [403, 404], params=["user_id", "keystone_id"])
    identity_api("delete", path + "/{id}", "DeleteCredential", "Delete an application credential, and the tokens got with it", 204, None, [403, 404],
                 params=["user_id", "keystone_id"])


def collection(path, key, name, summary, entry, params):
    result = fixed({key: array(schema(entry)), "links": schema("KeystoneListLinks")})
    identity_api("get", f"/v3/{path}", name, summary, 200, result, params=params)


def paths():
    PATHS.clear()
    for part in (versions, volumes, snapshots, backups, quotas, service, identity):
        part()
    return PATHS
