#!/usr/bin/env python3
"""Writes src/api/openapi.json, which the daemon serves at /api/openapi.json.

What is served is described in waldur.py and openstack.py; here it becomes one document. Run it after a change of the API:
`python3 tests/openapi/build.py`. A test compares the file with what this makes, and both with the running daemon.
"""

import json
import re
import tomllib
from pathlib import Path

import common
import openstack
import waldur

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = REPOSITORY / "src" / "api" / "openapi.json"

ABOUT = """\
cofferd backs up the virtual machines and disk volumes of one host.

**Two dialects over the same data.** `/api/` and `/api-auth/` speak that of NodeConductor/Waldur: projects, machines (instances), \
backups, schedules. `/ops/` is for the administrator of the host, with the same conventions; only staff may use it. `/v3/` is \
OpenStack's Block Storage (Cinder) v3 with volumes, snapshots and backups of them, and `/identity/` as much of its Identity \
(Keystone) v3 as its clients need to log in.

# The Waldur dialect

**Authentication.** `Authorization: Token <40 hex digits>`. Without it everything but `/healthz`, `/api/version/`, \
`/api/openapi.json` and `/api-auth/password/` answers 401. On the daemon's Unix socket, root and the user that runs the daemon \
are staff without a token. With `http.query_token = true` in the configuration, `?x-auth-token=Token%20<key>` is accepted too.

**Methods.** `HEAD` is answered wherever `GET` is, `OPTIONS` on every path below `/api/`, `/api-auth/` and `/ops/`. Any other \
method than those documented is 405 with `Allow`.

**Paths.** The final slash may be left out. Backups and schedules are also reachable under their singular names, \
`/api/openstack-backup/` and `/api/openstack-backup-schedule/`, with everything below them; links always use the plural. \
A uuid in a path may be plain or dashed, in any case; what is no uuid is 404.

**Bodies.** JSON, or `application/x-www-form-urlencoded` where no list is needed; at most 1 MiB. Unknown and read-only fields are \
ignored. Numbers and booleans may be written as strings. A link may be an absolute URL, of which only the path counts, or a path.

**Visibility.** What a user may not see is 404, what he may see but not change is 403. The checks come in this order: 401, 405, 404, \
403, 400 and 415 for the body, 409 for the state, 400 for the quota; restoring checks the state before the body.

**Errors.** 400 names the failing fields, all at once: `{"field": ["message"]}`, or `non_field_errors`. Every other error is \
`{"detail": "message"}`. Requests that are no proper HTTP are refused before they get here, with the same shape: 400, 408, 413, 414, \
417, 431, 501, 505, and 503 when the server has no connection or worker free.

**Lists** are bare JSON arrays of one page, with `X-Result-Count` and `Link` headers.

# The OpenStack dialect

**Authentication.** `X-Auth-Token`, with a token of `POST /identity/v3/auth/tokens` or one of cofferd's own; `Authorization: Token` \
and `Basic` are accepted too. Staff are `admin`, who may write in a project is `member`, who may look is `reader`.

**Project.** Every path of the volume API is described with the project in it, by id or by name; without it, `/v3/volumes` and so on, \
the project is that of the token or the only one of the caller. A project that is not the token's is 400.

**Microversions.** `OpenStack-API-Version: volume 3.N`, from 3.0 (without the header) to 3.71. The answer names the version that it \
is of. A version outside of these is 406, one that cannot be read 400. What a field or an operation needs is written with it.

**Ids** are uuids with dashes, the same values as Waldur's without. What is no uuid is 404. Times are UTC without a zone. Sizes are \
GiB, rounded up.

**Methods** that are not described are 404 in the volume API, and 405 in the Identity API, where `HEAD` is `GET` without the body. \
A path has no final slash; `.json` may be appended to the path of one object.

**Errors** are one object under a key that the status chooses, with `code` and `message`. The checks come in this order: the body \
(400), the object (404), the role (403), the state (400), the quota (413, with `Retry-After: 0`). What is no proper \
HTTP is refused in the same shape, of Cinder or of Keystone by the path."""


def merged(*parts):
    """Several dictionaries in one; a name has one meaning."""
    out = {}
    for part in parts:
        assert not out.keys() & part.keys(), out.keys() & part.keys()
        out |= part
    return out


def build():
    version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]["version"]
    paths = merged(waldur.paths(), openstack.paths())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cofferd",
            "version": version,
            "summary": "Backups of the virtual machines and volumes of one host",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": [{"name": name, "description": what} for name, what in waldur.TAGS + openstack.TAGS],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "apiKey", "in": "header", "name": "Authorization", "description": "`Token <40 hex digits>`",
                },
                "x-auth-token": {
                    "type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "A token of the Identity API, or one of cofferd's own",
                },
                "basic": {"type": "http", "scheme": "basic", "description": "User name and password, in the OpenStack dialect only"},
            },
            "headers": merged(common.GATE_HEADERS, waldur.HEADERS, openstack.HEADERS),
            "parameters": merged(waldur.PARAMETERS, openstack.PARAMETERS),
            "responses": merged(common.GATE_RESPONSES, waldur.RESPONSES, openstack.RESPONSES),
            "schemas": dict(sorted(merged(common.GATE_SCHEMAS, waldur.SCHEMAS, openstack.SCHEMAS).items())),
        },
    }


def render():
    text = json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
    # References and short lists of words on one line: the file is read by people too.
    text = re.sub(r'\{\s+("\$ref": "[^"]*")\s+\}', r"{\1}", text)
    return re.sub(r'\[\s+("[^"\n]*"(?:,\s+"[^"\n]*")*)\s+\]', lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)


if __name__ == "__main__":
    TARGET.write_text(render())
