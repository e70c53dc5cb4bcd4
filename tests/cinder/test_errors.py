"""What holds for every call: URLs, methods, bodies, headers, the shapes of errors (Cinder contract 0.1, 0.2, 0.4)."""

import json
import re
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from helpers.api import ok
from helpers.cinder import (
    MAX, NOBODY, UUID, Cinder, CinderLab, assert_common_headers, empty, fault, over_quota, moment, plain,
)

LIMIT = 114_688


@pytest.fixture(scope="module")
def volume(shared):
    return shared.admin.create_volume(1)


@pytest.fixture(scope="module")
def backup(shared, volume):
    return shared.admin.backup(volume, name="one")


# -------------------------------------------------------------------- URLs


@pytest.mark.parametrize("path", ["/backups", "/backups/detail", "/backups/{id}"])
@pytest.mark.parametrize("version", ["3.0", MAX])
def test_the_project_in_the_url_is_optional_at_every_version(shared, backup, path, version):
    """Cinder contract 0.1: 3.67 only documents it."""
    bare = Cinder(shared.d, None, shared.member.token, version)
    path = path.format(id=backup["id"])
    assert ok(bare.get(path)).keys() == ok(shared.member.at(version).get(path)).keys()


def test_a_backup_is_made_without_a_project_in_the_url(shared, volume):
    bare = Cinder(shared.d, None, shared.member.token)
    made = bare.wait(bare.create(volume, name="bare"))
    assert shared.member.show(made)["name"] == "bare"
    bare.remove(made)


def test_links_repeat_the_form_of_the_request(shared, backup):
    """Cinder contract 0.1, 2.1: the bookmark is the same without the version."""
    base, ident, project = shared.d.url, backup["id"], shared.project["uuid"]
    wanted = {
        shared.member: [f"{base}/v3/{project}/backups/{ident}", f"{base}/{project}/backups/{ident}"],
        Cinder(shared.d, None, shared.member.token): [f"{base}/v3/backups/{ident}", f"{base}/backups/{ident}"],
    }
    for client, (own, bookmark) in wanted.items():
        links = [{"rel": "self", "href": own}, {"rel": "bookmark", "href": bookmark}]
        for shown in (client.show(ident), *[b for b in client.list(False) + client.list() if b["id"] == ident]):
            assert shown["links"] == links
        ok(client.get(shown["links"][0]["href"]))


def test_links_follow_the_host_header(shared, backup):
    """Cinder contract 2.1."""
    answer = shared.member.request("GET", f"/backups/{backup['id']}", headers={"Host": "backup.example:8776"})
    assert [link["href"].split("/")[2] for link in ok(answer)["backup"]["links"]] == ["backup.example:8776"] * 2


def test_links_follow_a_trusted_proxy(start_daemon):
    """Cinder contract 2.1."""
    lab = CinderLab(start_daemon('[http]\ntrusted_proxies = ["127.0.0.1"]'))
    backup = lab.admin.backup(lab.admin.create_volume(1))
    headers = {"X-Forwarded-Host": "public.example", "X-Forwarded-Proto": "https"}
    answer = ok(lab.admin.request("GET", f"/backups/{backup['id']}", headers=headers))
    assert all(link["href"].startswith("https://public.example/") for link in answer["backup"]["links"])


def test_the_project_may_be_given_by_name(shared, backup):
    """Cinder contract 0.1: gophercloud's noauth client puts the name there."""
    name = shared.project["name"]
    shown = Cinder(shared.d, name, shared.member.token).show(backup)
    assert shown["id"] == backup["id"] and f"/v3/{name}/" in shown["links"][0]["href"]


def test_the_project_in_the_url_must_be_the_callers(shared, backup):
    """Cinder contract 0.1 (400: not the token's project) and 0.3 (403: no role on it). Nothing is shown in any case."""
    for other in (shared.new_project()["uuid"], uuid.uuid4().hex):
        client = Cinder(shared.d, other, shared.member.token)
        for answer in (client.get("/backups"), client.get(f"/backups/{backup['id']}")):
            assert answer.status_code in (400, 403), answer.text
            fault(answer, answer.status_code)


@pytest.mark.parametrize("name", ["no such project", "admin", "..%2f", "%00", "x" * 1000])
def test_a_project_that_is_none(shared, name):
    """Cinder contract 0.1: stock does not route it; as names are taken here, it may be told as one without a role on it."""
    answer = Cinder(shared.d, name, shared.member.token).get("/backups")
    assert answer.status_code in (400, 403, 404)
    fault(answer, answer.status_code)


@pytest.mark.parametrize("ident", [
    "one", "detail2", "1", "0" * 31, "0" * 33, "g" * 32, NOBODY, "5cd4f0a6-5f0f-4d6c-9d3c-3a3f6d1f7b11", "a" * 2000, "%00", "%2e%2e", "a%20b", "%ff",
    "%F0%9F%90%84", "-", "'", "*",
])
def test_an_id_that_is_unknown_or_no_uuid_is_404(shared, backup, ident):
    """Cinder contract 0.1: the CLI tries a name as an id first and falls back on 404 only."""
    path = f"/backups/{ident}"
    admin = shared.admin
    for answer in (
        admin.get(path), admin.delete(path), admin.put(path, {"backup": {"name": "x"}}),
        admin.post(f"{path}/restore", {"restore": {}}), admin.post(f"{path}/action", {"os-force_delete": {}}),
        admin.get(f"{path}/export_record"),
    ):
        fault(answer, 404)
        assert_common_headers(answer, MAX)


def test_member_urls_take_the_json_suffix(shared, backup):
    """Cinder contract 0.1."""
    assert ok(shared.member.get(f"/backups/{backup['id']}.json"))["backup"] == shared.member.show(backup)
    fault(shared.member.get("/backups/one.json"), 404)


@pytest.mark.parametrize("path", ["/backups/", "/backups/detail/", "/backups/{id}/metadata", "/backups/{id}/metadata/key",
                                  "/backups/{id}/nothing", "/backups/{id}/restore/again", "/backup", "/BACKUPS"])
def test_urls_that_are_not_routed(shared, backup, path):
    """Cinder contract 0.1, 0.2, 1.5."""
    fault(shared.admin.get(path.format(id=backup["id"])), 404)


@pytest.mark.parametrize("method, path", [
    ("HEAD", "/backups"), ("HEAD", "/backups/{id}"), ("PATCH", "/backups/{id}"), ("PATCH", "/backups"), ("PUT", "/backups"),
    ("DELETE", "/backups"), ("POST", "/backups/{id}"), ("POST", "/backups/detail"), ("GET", "/backups/{id}/restore"),
    ("GET", "/backups/{id}/action"), ("POST", "/backups/{id}/export_record"), ("GET", "/backups/import_record"),
    ("POST", "/backups/export_record"), ("DELETE", "/backups/{id}/metadata/key"), ("PUT", "/backups/{id}/metadata"),
])
def test_methods_that_are_not_routed_are_404(shared, backup, method, path):
    """Cinder contract 0.1. The metadata sub-resource must never appear: a client that wants to keep a key deletes it (1.5)."""
    before = shared.admin.show(backup)
    body = None if method in ("HEAD", "GET", "DELETE") else {"backup": {"name": "changed"}}
    answer = shared.admin.request(method, path.format(id=backup["id"]), body)
    assert answer.status_code == 404
    if method != "HEAD":
        fault(answer, 404)
    assert shared.admin.show(backup) == before


# -------------------------------------------------------------------- bodies


WRITES = [
    ("POST", "/backups"), ("PUT", "/backups/{id}"), ("POST", "/backups/{id}/restore"), ("POST", "/backups/{id}/action"),
    ("POST", "/backups/import_record"),
]


@pytest.mark.parametrize("method, path", WRITES)
@pytest.mark.parametrize("body", [
    b"", b"{", b"{]", b"nonsense", b"[]", b"null", b'"text"', b"7", b"{}{}", b'{"backup": }', b"\xff\xfe", b'{"a": "\xff"}',
    b'{"backup": []}', b'{"restore": []}', b'{"backup": "x"}', b'{"restore": 1}', b'{"backup-record": null}',
    b"[" * 20_000, b'{"backup":' * 5_000,
], ids=lambda b: b[:14].decode("latin-1"))
def test_a_body_that_is_no_such_object_is_400(shared, backup, method, path, body):
    """Cinder contract 0.1: a missing body, too."""
    before = shared.admin.show(backup), shared.admin.ids()
    answer = shared.admin.request(
        method, path.format(id=backup["id"]), data=body, headers={"Content-Type": "application/json"}
    )
    fault(answer, 400)
    assert (shared.admin.show(backup), shared.admin.ids()) == before


@pytest.mark.parametrize("method, path", WRITES)
@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data",
                                  "application/octet-stream", "application/vnd.openstack.volume+xml"])
def test_other_content_types_are_415(shared, backup, method, path, kind):
    """Cinder contract 0.1."""
    before = shared.admin.show(backup)
    answer = shared.admin.request(
        method, path.format(id=backup["id"]), data=b'{"backup": {"name": "x"}}', headers={"Content-Type": kind}
    )
    fault(answer, 415)
    assert_common_headers(answer, MAX)
    assert shared.admin.show(backup) == before


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.openstack.volume+json", "application/json; charset=utf-8",
                                  "Application/JSON"])
def test_content_types_of_json(shared, backup, kind):
    data = json.dumps({"backup": {"description": kind}})
    ok(shared.admin.request("PUT", f"/backups/{backup['id']}", data=data, headers={"Content-Type": kind}))
    assert shared.admin.show(backup)["description"] == kind


@pytest.mark.parametrize("size, code", [(LIMIT, 404), (LIMIT + 1, 413), (4 * LIMIT, 413)])
def test_body_limit(shared, size, code):
    """Cinder contract 0.1: 114 688 bytes."""
    body = json.dumps({"backup": {"volume_id": NOBODY}}).encode()
    body += b" " * (size - len(body))
    answer = shared.admin.request("POST", "/backups", data=body, headers={"Content-Type": "application/json"})
    fault(answer, code)


def test_a_body_that_the_gate_refuses(shared):
    """Larger ones do not get as far as any dialect, but are refused in its form."""
    answer = shared.admin.request("POST", "/backups", data=b" " * (2 << 20), headers={"Content-Type": "application/json"})
    fault(answer, 413, "too large")
    assert_common_headers(answer, "3.0")


def test_answers_are_json_whatever_is_accepted(shared, backup):
    """Cinder contract 0.1."""
    for accept in ("text/html", "application/xml", "image/png", "*/*", "text/html;q=0.9, */*;q=0.1", ""):
        for path, code in ((f"/backups/{backup['id']}", 200), ("/backups/none", 404)):
            answer = shared.member.request("GET", path, headers={"Accept": accept})
            ok(answer, code)
            assert answer.headers["Content-Type"].split(";")[0] == "application/json"


# -------------------------------------------------------------------- headers


def test_every_answer_has_an_id_of_its_own(shared, backup):
    """Cinder contract 0.1: successes, errors, and answers without a body."""
    answers = [
        shared.member.get("/backups"), shared.member.get("/backups/detail"), shared.member.get(f"/backups/{backup['id']}"),
        shared.member.get("/backups/none"), shared.member.get("/nothing/here"), shared.member.post("/backups", {}),
        shared.member.get(f"/backups/{backup['id']}/export_record"), shared.member.get("/backups", limit="x"),
        shared.admin.get(f"/backups/{backup['id']}/export_record"),
        shared.admin.action(backup, "os-reset_status", {"status": "available"}),
    ]
    assert [a.status_code for a in answers] == [200, 200, 200, 404, 404, 400, 403, 400, 200, 202]
    for answer in answers:
        assert_common_headers(answer, MAX)
    assert len({a.headers["x-openstack-request-id"] for a in answers}) == len(answers)


def test_answers_without_a_body_say_so(shared, volume):
    """Cinder contract 0.1: Content-Length: 0."""
    backup = shared.admin.backup(volume)
    empty(shared.admin.action(backup, "os-reset_status", {"status": "error"}))
    empty(shared.admin.delete(f"/backups/{backup['id']}"))
    shared.admin.wait_gone(backup)
    backup = shared.admin.backup(volume)
    empty(shared.admin.action(backup, "os-force_delete"))
    shared.admin.wait_gone(backup)


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize("token", [None, "", "wrong", "notused", "x" * 5000])
def test_without_a_good_token(shared, backup, token):
    """Cinder contract 0.2: the shape is keystonemiddleware's, and names where to get one."""
    client = Cinder(shared.d, shared.project["uuid"])
    headers = {} if token is None else {"X-Auth-Token": token}
    for path in ("/backups", f"/backups/{backup['id']}", "/backups/none", "/volumes"):
        answer = client.request("GET", path, headers=headers)
        inner = fault(answer, 401)
        assert isinstance(inner["title"], str) and inner["title"]
        uri = answer.headers["WWW-Authenticate"]
        assert re.fullmatch(r'Keystone uri="https?://[^"]+/identity[^"]*"', uri), uri
    fault(client.post("/backups", {"backup": {"volume_id": backup["volume_id"]}}, headers=headers), 401)


def test_shapes_of_errors(shared, backup, volume):
    """Cinder contract 0.2: one key, chosen by the status; `code` and `message`."""
    fault(shared.member.post("/backups", {"backup": {}}), 400, "volume_id")
    fault(shared.reader.post("/backups", {"backup": {"volume_id": volume["id"]}}), 403)
    fault(shared.member.get(f"/backups/{NOBODY}"), 404)
    fault(shared.member.get("/backups/name of nothing"), 404)
    fault(shared.member.request("GET", "/backups", headers={"OpenStack-API-Version": "volume 3.99"}), 406)


def test_the_offending_field_and_value_are_named(shared, volume):
    """Cinder contract 0.2."""
    base = {"volume_id": volume["id"]}
    for field, value, shown in (("force", "perhaps", "perhaps"), ("snapshot_id", "17x", "17x"), ("flavour", "vanilla", "flavour")):
        fault(shared.member.post("/backups", {"backup": base | {field: value}}), 400, field, shown)


def test_shape_of_a_quota_error(lab):
    """Cinder contract 0.2."""
    volume = lab.admin.create_volume(1)
    lab.admin.set_quota(backups=0)
    answer = lab.member.post("/backups", {"backup": {"volume_id": volume["id"]}})
    over_quota(answer)
    assert_common_headers(answer, MAX)


# -------------------------------------------------------------------- time stamps


def test_time_stamps_have_no_zone(shared, volume):
    """Cinder contract 0.4: gophercloud parses exactly this layout; they are UTC."""
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    backup = shared.admin.backup(volume)
    for shown in (backup, next(b for b in shared.admin.list() if b["id"] == backup["id"])):
        created, updated, data = (moment(shown[key]) for key in ("created_at", "updated_at", "data_timestamp"))
        assert before <= created <= updated <= datetime.now(timezone.utc) + timedelta(seconds=1)
        assert data == created


def test_ids_have_dashes(shared, backup, volume):
    """Cinder contract 2.2. Waldur's are the same values without."""
    assert UUID.match(backup["id"]) and UUID.match(backup["volume_id"])
    assert backup["volume_id"] == volume["id"]
    assert plain(volume["id"]) in [v["uuid"] for v in shared.api.list("/ops/volumes/")]
