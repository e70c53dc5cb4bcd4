"""The wire conventions that hold for every resource: authentication, media types, URLs, lists, filters, error bodies."""

import http.client
import json
import threading

import pytest

from helpers.api import DENIED, HEX32, NOT_FOUND, TIMESTAMP, Api, allowed, links, local, ok, query_of
from helpers.lab import (
    BACKUP, BACKUPS, EVENTS, FLAVORS, IMAGES, INSTANCES, PASSWORD, PROJECTS, QUOTAS, SCHEDULES, USERS, Lab,
)

ZERO = "0" * 32
COLLECTIONS = [BACKUPS, BACKUP, SCHEDULES, INSTANCES, FLAVORS, IMAGES, PROJECTS, USERS, QUOTAS]


@pytest.fixture(scope="module")
def shared(daemon):
    return Lab(daemon)


@pytest.fixture(scope="module")
def vm(shared):
    return shared.instance()


@pytest.fixture(scope="module")
def backup(shared, vm):
    return shared.backup(vm, description="shared by the tests")


@pytest.fixture(scope="module")
def schedule(shared, vm):
    return shared.schedule(vm)


def raw(daemon, method, path, headers=None, body=None, host=None):
    """A request with exactly these headers. Returns (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=host is not None, skip_accept_encoding=True)
        if host is not None:
            connection.putheader("Host", host)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def with_token(daemon, **headers):
    return {"Authorization": f"Token {daemon.token}", **headers}


# -------------------------------------------------------------------- authentication


@pytest.mark.parametrize("header, detail", [
    (None, "Authentication credentials were not provided."),
    ("Token", "Invalid token. No credentials provided."),
    ("token", "Invalid token. No credentials provided."),
    ("Token abc def", "Invalid token. Token string should not contain spaces."),
    ("Token " + "0" * 40, "Invalid token."),
    ("Token x", "Invalid token."),
    ("Bearer " + "0" * 40, "Authentication credentials were not provided."),
    ("Basic bm9ib2R5OnRlc3Q=", "Authentication credentials were not provided."),
])
def test_authentication_failures_are_401(daemon, header, detail):
    answer = daemon.anonymous.get(BACKUPS, headers={"Authorization": header} if header else {})
    assert ok(answer, 401) == {"detail": detail}
    assert answer.headers["WWW-Authenticate"] == "Token"
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("word", ["Token", "token", "TOKEN", "tOkEn"])
def test_the_word_token_is_case_insensitive(daemon, word):
    ok(daemon.anonymous.get(BACKUPS, headers={"Authorization": f"{word} {daemon.token}"}))


def test_the_token_itself_is_40_hex_digits(daemon, lab):
    assert len(daemon.token) == 40 and set(daemon.token) <= set("0123456789abcdef")
    user = lab.user()
    assert len(user.token) == 40 and set(user.token) <= set("0123456789abcdef")


def test_disabled_user_is_401(lab):
    user = lab.user()
    ok(user.get(BACKUPS))
    ok(lab.api.patch(user.user["url"], {"is_active": False}))
    assert ok(user.get(BACKUPS), 401) == {"detail": "User inactive or deleted."}
    ok(lab.api.patch(user.user["url"], {"is_active": True}))
    ok(user.get(BACKUPS))


def test_query_token_is_off_by_default(daemon):
    answer = daemon.anonymous.get(BACKUPS, params={"x-auth-token": f"Token {daemon.token}"})
    assert ok(answer, 401) == {"detail": "Authentication credentials were not provided."}


def test_query_token_can_be_switched_on(start_daemon):
    daemon = start_daemon("[http]\nquery_token = true")
    ok(daemon.anonymous.get(BACKUPS, params={"x-auth-token": f"Token {daemon.token}"}))
    answer = daemon.anonymous.get(BACKUPS, params={"x-auth-token": "Token " + "0" * 40})
    assert ok(answer, 401) == {"detail": "Invalid token."}


@pytest.mark.parametrize("path", ["/api/", *COLLECTIONS, EVENTS, "/api/project-permissions/"])
def test_every_collection_needs_authentication(daemon, path):
    answer = daemon.anonymous.get(path)
    assert ok(answer, 401) == {"detail": "Authentication credentials were not provided."}
    assert answer.headers["WWW-Authenticate"] == "Token"


def test_K1_version_is_readable_logged_in_and_anonymous(daemon):
    for client in (daemon.anonymous, daemon.staff):
        body = ok(client.get("/api/version/"))
        assert list(body) == ["version"]
        major, minor, patch = body["version"].split(".")[:3]
        assert major.isdigit() and minor.isdigit() and patch[0].isdigit()


def test_healthz_is_open(daemon):
    assert ok(daemon.anonymous.get("/healthz")) == {"status": "ok"}


def test_root_maps_collections_to_urls(daemon):
    body = ok(daemon.staff.get("/api/"))
    for name in (
        "openstack-backup-schedules", "openstack-backups", "openstack-flavors", "openstack-images", "openstack-instances",
        "projects", "quotas", "users",
    ):
        assert body[name] == f"{daemon.url}/api/{name}/"
    assert list(body) == sorted(body)
    for url in body.values():
        ok(daemon.staff.get(url))


# -------------------------------------------------------------------- login


def test_login_gives_a_working_token(daemon, lab):
    user = lab.user()
    body = ok(daemon.anonymous.post("/api-auth/password/", {"username": user.user["username"], "password": PASSWORD}))
    assert list(body) == ["token"]
    for token in (body["token"], user.token):
        ok(Api(daemon, token).get(BACKUPS))


@pytest.mark.parametrize("body, keys", [
    ({"username": "x"}, {"password"}),
    ({"password": "x"}, {"username"}),
    ({}, {"username", "password"}),
])
def test_login_without_a_field_is_400(daemon, body, keys):
    answer = ok(daemon.anonymous.post("/api-auth/password/", body), 400)
    assert answer == {key: ["This field is required."] for key in keys}


def test_login_with_a_blank_field_is_400(daemon):
    answer = ok(daemon.anonymous.post("/api-auth/password/", {"username": "", "password": ""}), 400)
    assert answer == {key: ["This field may not be blank."] for key in ("username", "password")}


def test_login_with_a_wrong_pair_is_401(daemon, lab):
    user = lab.user()
    for body in (
        {"username": user.user["username"], "password": "wrong horse 8"},
        {"username": "nobody-of-this-name", "password": PASSWORD},
        {"username": "admin", "password": PASSWORD},  # the first user has no password
    ):
        assert ok(daemon.anonymous.post("/api-auth/password/", body), 401) == {"detail": "Invalid username/password"}


def test_login_of_a_disabled_user_is_401(daemon, lab):
    user = lab.user()
    ok(lab.api.patch(user.user["url"], {"is_active": False}))
    body = {"username": user.user["username"], "password": PASSWORD}
    assert ok(daemon.anonymous.post("/api-auth/password/", body), 401) == {"detail": "User account is disabled"}


def test_login_accepts_urlencoded(daemon, lab):
    user = lab.user()
    answer = daemon.anonymous.request(
        "POST", "/api-auth/password/", data={"username": user.user["username"], "password": PASSWORD}
    )
    assert len(ok(answer)["token"]) == 40


def test_login_by_get_is_405(daemon):
    answer = daemon.anonymous.get("/api-auth/password/")
    assert ok(answer, 405) == {"detail": 'Method "GET" not allowed.'}
    assert "POST" in allowed(answer)


def test_login_is_throttled(start_daemon):
    lab = Lab(start_daemon("[auth]\nlogin_attempts = 3\nlogin_window_s = 600"))
    victim, other = lab.user(), lab.user()
    wrong = {"username": victim.user["username"], "password": "wrong horse 8"}
    codes = [lab.d.anonymous.post("/api-auth/password/", wrong).status_code for _ in range(6)]
    assert codes[:3] == [401, 401, 401]
    assert set(codes) <= {401, 429}
    right = {"username": victim.user["username"], "password": PASSWORD}
    assert lab.d.anonymous.post("/api-auth/password/", right).status_code in (401, 429)
    # Neither the victim's token nor another user suffers.
    ok(victim.get(BACKUPS))
    ok(lab.d.anonymous.post("/api-auth/password/", {"username": other.user["username"], "password": PASSWORD}))


def test_tokens_are_not_stored_in_the_clear(start_daemon):
    daemon = start_daemon()
    user = Lab(daemon).user()
    daemon.stop()
    for name in ("coffer.db", "coffer.db-wal"):
        path = daemon.state_dir / name
        content = path.read_bytes() if path.exists() else b""
        for token in (daemon.token, user.token):
            assert token.encode() not in content and bytes.fromhex(token) not in content
        assert PASSWORD.encode() not in content
    assert (daemon.state_dir / "admin.token").stat().st_mode & 0o777 == 0o600


# -------------------------------------------------------------------- order of checks


def test_401_comes_before_405_and_404(daemon):
    for method, path in [("PATCH", "/api/openstack-backups/"), ("PUT", f"{BACKUPS}{ZERO}/"), ("GET", f"{BACKUPS}{ZERO}/restore/")]:
        ok(daemon.anonymous.request(method, path), 401)


def test_405_comes_before_404(daemon):
    answer = daemon.staff.put(f"{BACKUPS}{ZERO}/", {})
    assert ok(answer, 405) == {"detail": 'Method "PUT" not allowed.'}


def test_404_comes_before_the_body(lab, backup):
    stranger = lab.user()
    answer = stranger.post(backup["url"] + "restore/", data="{broken", headers={"Content-Type": "application/json"})
    assert ok(answer, 404) == NOT_FOUND


def test_403_comes_before_the_body(shared, backup):
    reader = shared.user("reader")
    answer = reader.post(backup["url"] + "restore/", data="{broken", headers={"Content-Type": "application/json"})
    assert ok(answer, 403) == DENIED


def test_field_errors_come_before_403_on_the_linked_object(shared, vm):
    reader = shared.user("reader")
    body = {"instance": vm["url"], "schedule": "wrong schedule", "retention_time": 1, "maximal_number_of_backups": 1}
    assert list(ok(reader.post(SCHEDULES, body), 400)) == ["schedule"]
    body["schedule"] = "0 2 * * *"
    assert ok(reader.post(SCHEDULES, body), 403) == DENIED


def test_403_comes_before_409_and_409_before_quota(own):
    vm = own.instance()
    reader = own.user("reader")
    own.set_instance_state(vm, "resizing")
    own.force_quota("storage", 0)
    assert ok(reader.post(BACKUPS, {"instance": vm["url"]}), 403) == DENIED
    assert ok(own.api.post(BACKUPS, {"instance": vm["url"]}), 409) == {"detail": "Instance should be in stable state."}
    own.set_instance_state(vm, "offline")
    assert list(ok(own.api.post(BACKUPS, {"instance": vm["url"]}), 400)) == ["non_field_errors"]


# -------------------------------------------------------------------- methods


LIST, ITEM = {"GET", "HEAD", "OPTIONS"}, {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize("path, methods", [
    (BACKUPS, LIST | {"POST"}),
    (BACKUP, LIST | {"POST"}),
    (SCHEDULES, LIST | {"POST"}),
    (BACKUPS + "{backup}/", ITEM | {"PATCH", "DELETE"}),
    (BACKUP + "{backup}/", ITEM | {"PATCH", "DELETE"}),
    (SCHEDULES + "{schedule}/", ITEM | {"PUT", "PATCH", "DELETE"}),
    (BACKUPS + "{backup}/restore/", {"POST", "OPTIONS"}),
    (BACKUP + "{backup}/delete/", {"POST", "OPTIONS"}),
    (SCHEDULES + "{schedule}/activate/", {"POST", "OPTIONS"}),
    (SCHEDULES + "{schedule}/deactivate/", {"POST", "OPTIONS"}),
    (QUOTAS, LIST),
    ("/api/", LIST),
    ("/api/version/", LIST),
    ("/api-auth/password/", {"POST", "OPTIONS"}),
])
def test_other_methods_are_405_with_allow(daemon, backup, schedule, path, methods):
    path = path.format(backup=backup["uuid"], schedule=schedule["uuid"])
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        if method in methods:
            continue
        answer = daemon.staff.request(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
        assert ok(answer, 405) == {"detail": f'Method "{method}" not allowed.'}
        # OPTIONS may be left out of Allow; nothing else may be missing or too much.
        assert allowed(answer) | {"OPTIONS"} == methods | {"OPTIONS"}


@pytest.mark.parametrize("path", [BACKUPS, SCHEDULES, INSTANCES, FLAVORS, IMAGES, PROJECTS, USERS])
def test_head_is_get_without_the_body(daemon, vm, path):
    get, head = daemon.staff.get(path), daemon.staff.head(path)
    assert head.status_code == 200 and head.content == b""
    for name in ("Content-Type", "X-Result-Count", "Link", "Vary"):
        assert head.headers[name] == get.headers[name]
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_head_of_an_object(daemon, backup):
    assert daemon.staff.head(backup["url"]).status_code == 200
    assert daemon.staff.head(f"{BACKUPS}{ZERO}/").status_code == 404


@pytest.mark.parametrize("path, methods", [
    (BACKUPS, {"GET", "POST"}),
    (BACKUPS + "{backup}/", {"GET", "PATCH", "DELETE"}),
    (BACKUPS + "{backup}/restore/", {"POST"}),
    (SCHEDULES + "{schedule}/", {"GET", "PUT", "PATCH", "DELETE"}),
])
def test_options_names_the_methods(daemon, backup, schedule, path, methods):
    answer = daemon.staff.options(path.format(backup=backup["uuid"], schedule=schedule["uuid"]))
    ok(answer)
    assert allowed(answer) - {"HEAD", "OPTIONS"} == methods


def test_responses_carry_allow_and_vary(daemon, backup):
    for path in (BACKUPS, backup["url"]):
        answer = daemon.staff.get(path)
        assert answer.headers["Content-Type"] == "application/json"
        assert "Accept" in answer.headers["Vary"]
        assert "GET" in allowed(answer)


# -------------------------------------------------------------------- media types and bodies


def test_47_urlencoded_bodies_are_accepted(shared, vm):
    answer = shared.api.request("POST", BACKUPS, data={"instance": vm["url"], "description": "a + b & ü"})
    body = ok(answer, 201)
    assert body["description"] == "a + b & ü"
    answer = shared.api.request("POST", SCHEDULES, data={
        "instance": vm["url"], "schedule": "0 2 * * *", "retention_time": "3", "maximal_number_of_backups": "2", "is_active": "true",
    })
    body = ok(answer, 201)
    assert (body["retention_time"], body["maximal_number_of_backups"], body["is_active"]) == (3, 2, True)
    ok(shared.api.delete(body["url"]), 204)


@pytest.mark.parametrize("kind", [None, "application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_actions_take_an_empty_body_of_any_type(shared, schedule, kind):
    headers = {"Content-Type": kind} if kind else {}
    ok(shared.api.post(schedule["url"] + "activate/", data=b"", headers=headers))
    ok(shared.api.post(schedule["url"] + "deactivate/", data=b"", headers=headers))


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "image/png"])
def test_unknown_media_type_with_a_body_is_415(daemon, kind):
    answer = daemon.staff.post(BACKUPS, data=b"instance=x", headers={"Content-Type": kind})
    assert ok(answer, 415) == {"detail": f'Unsupported media type "{kind}" in request.'}


def test_a_charset_parameter_is_fine(shared, vm):
    data = json.dumps({"instance": vm["url"]}).encode()
    ok(shared.api.post(BACKUPS, data=data, headers={"Content-Type": "application/json; charset=utf-8"}), 201)


@pytest.mark.parametrize("data", [
    b"{", b'{"instance": }', b"instance=x", b"{'a': 1}", b'{"a": 1} x', b"\xff\xfe", b'{"a": "\xff"}', b'{"a": NaN}x', b"[" * 100_000,
])
def test_broken_json_is_400(shared, vm, data):
    before = len(shared.api.list(BACKUPS))
    answer = ok(shared.api.post(BACKUPS, data=data, headers={"Content-Type": "application/json"}), 400)
    assert list(answer) == ["detail"]
    assert answer["detail"].startswith("JSON parse error - ") and len(answer["detail"]) > 20
    assert len(shared.api.list(BACKUPS)) == before


@pytest.mark.parametrize("data, kind", [("[]", "list"), ('["a"]', "list"), ('"text"', "str"), ("7", "int"), ("1.5", "float"), ("true", "bool")])
def test_a_body_that_is_not_an_object_is_400(daemon, data, kind):
    for path in (BACKUPS, SCHEDULES, "/api-auth/password/"):
        answer = daemon.staff.post(path, data=data, headers={"Content-Type": "application/json"})
        assert ok(answer, 400) == {"non_field_errors": [f"Invalid data. Expected a dictionary, but got {kind}."]}


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "application/json;q=0.1", "*/*", ""])
def test_answers_are_json_whatever_is_accepted(daemon, accept):
    answer = daemon.staff.get(BACKUPS, headers={"Accept": accept})
    assert isinstance(ok(answer), list)
    assert answer.headers["Content-Type"] == "application/json"


def test_unknown_and_read_only_fields_are_ignored(shared, vm):
    body = ok(shared.api.post(BACKUPS, {
        "instance": vm["url"], "description": "kept", "state": "Ready", "kept_until": "2001-01-01T00:00:00Z",
        "backup_schedule": "http://x/", "uuid": ZERO, "url": "x", "created_at": 7, "colour": {"deep": [1, None]},
    }), 201)
    assert body["state"] == "Backing up"
    assert body["kept_until"] is None and body["backup_schedule"] is None
    assert body["uuid"] != ZERO and "colour" not in body
    assert body["description"] == "kept"


def test_unicode_survives(shared, vm):
    text = "naïve Ω 漢字 🦀 \u2028 \" \\ </script>"
    created = shared.start_backup(vm, description=text)
    assert shared.get(created)["description"] == text


# -------------------------------------------------------------------- URLs


def test_47_host_header_is_reflected_in_links(daemon, backup):
    status, headers, body = raw(daemon, "GET", local(backup["url"]), with_token(daemon), host="backup.example:1234")
    body = json.loads(body)
    assert status == 200
    assert body["url"] == f"http://backup.example:1234{local(backup['url'])}"
    assert body["instance"].startswith("http://backup.example:1234/api/openstack-instances/")
    status, headers, body = raw(daemon, "GET", BACKUPS, with_token(daemon), host="[::1]:8776")
    assert status == 200 and json.loads(body)[0]["url"].startswith("http://[::1]:8776/api/")
    assert headers["Link"].startswith("<http://[::1]:8776/api/openstack-backups/")


def test_location_uses_the_host_header(daemon, shared, vm):
    data = json.dumps({"instance": vm["url"]}).encode()
    headers = with_token(daemon, **{"Content-Type": "application/json"})
    status, headers, body = raw(daemon, "POST", BACKUPS, headers, data, host="h.example")
    body = json.loads(body)
    assert status == 201
    assert headers["Location"] == body["url"] == f"http://h.example{BACKUPS}{body['uuid']}/"


@pytest.mark.parametrize("host", ["a b", "evil.example/path", "x<script>", "user@host", "a,b", "h:port", "h:99999999", '"'])
def test_a_malformed_host_is_400(daemon, host):
    status, _, body = raw(daemon, "GET", BACKUPS, with_token(daemon), host=host)
    assert status == 400
    assert b"<script>" not in body


def test_forwarded_headers_are_ignored_from_anybody(daemon, backup):
    headers = with_token(daemon, **{"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"})
    status, _, body = raw(daemon, "GET", local(backup["url"]), headers, host="h.example")
    assert status == 200
    assert json.loads(body)["url"].startswith("http://h.example/")


def test_forwarded_headers_are_honoured_from_a_trusted_proxy(start_daemon):
    daemon = start_daemon('[http]\ntrusted_proxies = ["127.0.0.1"]')
    headers = with_token(daemon, **{"X-Forwarded-Host": "public.example", "X-Forwarded-Proto": "https"})
    status, _, body = raw(daemon, "GET", "/api/", headers, host="inner")
    assert status == 200
    assert json.loads(body)["openstack-backups"] == "https://public.example/api/openstack-backups/"
    status, _, body = raw(daemon, "GET", "/api/", with_token(daemon), host="inner")
    assert json.loads(body)["openstack-backups"] == "http://inner/api/openstack-backups/"


def test_paths_work_without_the_final_slash(shared, vm):
    def cut(url):
        return local(url).rstrip("/")

    for path in COLLECTIONS + ["/api/", "/api/version/"]:
        assert shared.api.get(cut(path)).status_code == 200, path
    created = ok(shared.api.post(cut(BACKUPS), {"instance": vm["url"]}), 201)
    shared.wait_state(created["url"], "Ready")
    assert ok(shared.api.get(cut(created["url"])))["url"] == created["url"]
    body = {"image": shared.image()["url"], "flavor": shared.flavor()["url"]}
    answer = ok(shared.api.post(cut(created["url"]) + "/restore", body))
    shared.wait_state(answer["instance"], "Offline")
    shared.wait_state(created["url"], "Ready")
    assert ok(shared.api.post(cut(created["url"]) + "/delete")) == {"status": "Backup deletion was started"}
    schedule = ok(shared.api.post(cut(SCHEDULES), {
        "instance": vm["url"], "schedule": "0 2 * * *", "retention_time": 3, "maximal_number_of_backups": 2,
    }), 201)
    ok(shared.api.post(cut(schedule["url"]) + "/activate"))
    ok(shared.api.post(cut(schedule["url"]) + "/deactivate"))
    ok(shared.api.patch(cut(schedule["url"]), {"retention_time": 4}))
    ok(shared.api.delete(cut(schedule["url"])), 204)


def dashed(uuid):
    return "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))


@pytest.mark.parametrize("spell", [str, str.upper, dashed, lambda u: dashed(u).upper()])
def test_uuid_spellings_name_the_same_object(shared, backup, schedule, vm, spell):
    for thing, collections in [(backup, (BACKUPS, BACKUP)), (schedule, (SCHEDULES,)), (vm, (INSTANCES,))]:
        for collection in collections:
            body = ok(shared.api.get(f"{collection}{spell(thing['uuid'])}/"))
            assert body["uuid"] == thing["uuid"] and HEX32.match(body["uuid"])
            assert body["url"] == thing["url"]


@pytest.mark.parametrize("uuid", ["x", "0" * 31, "0" * 33, "g" * 32, "..", "%00", "0" * 32, "null", "1", dashed("0" * 32) + "-"])
def test_malformed_and_unknown_uuids_are_404(daemon, uuid):
    for path in (f"{BACKUPS}{uuid}/", f"{SCHEDULES}{uuid}/", f"{INSTANCES}{uuid}/"):
        answer = daemon.staff.session.get(daemon.url + path, timeout=30)
        if ".." in uuid or "%00" in uuid:
            assert answer.status_code in (400, 404) or answer.url != daemon.url + path
        else:
            assert ok(answer, 404) == NOT_FOUND


def test_unknown_paths_are_404(daemon):
    for path in ("/api/nothing/", f"{BACKUPS}{ZERO}/nothing/", "/api/openstack-backups/x/y/z/"):
        assert ok(daemon.staff.get(path), 404) == NOT_FOUND


@pytest.mark.parametrize("spell", [
    lambda vm: vm["url"],
    lambda vm: "https://elsewhere.example:99" + local(vm["url"]),
    lambda vm: local(vm["url"]),
    lambda vm: local(vm["url"]).rstrip("/"),
    lambda vm: vm["url"].rstrip("/"),
    lambda vm: vm["url"] + "?a=b&c",
    lambda vm: f"{INSTANCES}{dashed(vm['uuid'])}/",
    lambda vm: f"{INSTANCES}{vm['uuid'].upper()}/",
], ids=["absolute", "other-host", "path", "path-no-slash", "no-slash", "query", "dashed", "upper"])
def test_hyperlink_inputs_take_every_spelling(shared, vm, spell):
    body = ok(shared.api.post(BACKUPS, {"instance": spell(vm)}), 201)
    assert body["instance"] == vm["url"]


@pytest.mark.parametrize("value, message", [
    (5, "Incorrect type. Expected URL string, received int."),
    (True, "Incorrect type. Expected URL string, received bool."),
    (1.5, "Incorrect type. Expected URL string, received float."),
    (["x"], "Incorrect type. Expected URL string, received list."),
    ({"url": "x"}, "Incorrect type. Expected URL string, received dict."),
    ("some_random_url", "Invalid hyperlink - No URL match."),
    ("http://h.example/", "Invalid hyperlink - No URL match."),
    ("/api/openstack-instances/", "Invalid hyperlink - Incorrect URL match."),
    ("ftp://h/api/openstack-instances/" + ZERO + "/", "Invalid hyperlink - No URL match."),
    (f"{FLAVORS}{ZERO}/", "Invalid hyperlink - Incorrect URL match."),
    (f"{BACKUPS}{ZERO}/", "Invalid hyperlink - Incorrect URL match."),
    (f"{INSTANCES}{ZERO}/", "Invalid hyperlink - Object does not exist."),
    ("", "This field may not be null."),
    (None, "This field may not be null."),
])
def test_hyperlink_errors(shared, value, message):
    """Also the formatting and parsing cases of the removed upstream unit tests."""
    for path in (BACKUPS, SCHEDULES):
        answer = ok(shared.api.post(path, {"instance": value}), 400)
        assert answer["instance"] == [message]


def test_an_invisible_object_does_not_exist_for_a_hyperlink(shared, vm):
    stranger = shared.user()
    answer = ok(stranger.post(BACKUPS, {"instance": vm["url"]}), 400)
    assert answer == {"instance": ["Invalid hyperlink - Object does not exist."]}


# -------------------------------------------------------------------- timestamps


def test_timestamps_have_three_digits_and_z(own):
    vm = own.instance()
    backup = own.backup(vm)
    schedule = own.schedule(vm)
    for value in (backup["created_at"], backup["finished_at"], schedule["created"], schedule["next_trigger_at"], vm["created"]):
        assert TIMESTAMP.match(value), value
    for stored, shown in [
        (1_413_751_417_370, "2014-10-19T20:43:37.370Z"),
        (1_413_751_417_000, "2014-10-19T20:43:37.000Z"),
        (1_413_751_417_007, "2014-10-19T20:43:37.007Z"),
    ]:
        own.d.sql("UPDATE backup SET created_at = ? WHERE uuid = ?", (stored, backup["uuid"]))
        assert own.get(backup)["created_at"] == shown


# -------------------------------------------------------------------- lists and pages


@pytest.fixture(scope="module")
def many(start_module_daemon):
    """25 backups of one machine, and a second machine without any."""
    lab = Lab(start_module_daemon())
    lab.vm = lab.instance()
    lab.empty = lab.instance()
    lab.uuids = lab.insert_backups(lab.vm, 25)
    return lab


def uuids(answer):
    return [item["uuid"] for item in ok(answer)]


def test_47_first_page(many):
    answer = many.api.get(BACKUPS)
    assert uuids(answer) == many.uuids[:10]
    assert answer.headers["X-Result-Count"] == "25"
    found = links(answer)
    assert list(found) == ["first", "next", "last"]
    assert found == {
        "first": many.d.url + BACKUPS,
        "next": many.d.url + BACKUPS + "?page=2",
        "last": many.d.url + BACKUPS + "?page=3",
    }


def test_47_middle_and_last_page(many):
    answer = many.api.get(BACKUPS, params={"page": 2})
    assert uuids(answer) == many.uuids[10:20]
    assert list(links(answer)) == ["first", "prev", "next", "last"]
    assert links(answer)["prev"] == many.d.url + BACKUPS  # page=1 is left out
    for page in ("3", "last"):
        answer = many.api.get(BACKUPS, params={"page": page})
        assert uuids(answer) == many.uuids[20:]
        assert list(links(answer)) == ["first", "prev", "last"]
        assert links(answer)["prev"] == many.d.url + BACKUPS + "?page=2"
        assert links(answer)["last"] == many.d.url + BACKUPS + "?page=3"


def test_links_keep_the_other_parameters(many):
    params = {"instance": many.vm["url"], "page_size": 4, "page": 3, "o": "-created_at", "strange": "ä &=?"}
    answer = many.api.get(BACKUPS, params=params)
    assert answer.headers["X-Result-Count"] == "25"
    wanted = {"instance": [many.vm["url"]], "page_size": ["4"], "o": ["-created_at"], "strange": ["ä &=?"]}
    found = links(answer)
    assert query_of(found["first"]) == wanted
    assert query_of(found["prev"]) == {**wanted, "page": ["2"]}
    assert query_of(found["next"]) == {**wanted, "page": ["4"]}
    assert query_of(found["last"]) == {**wanted, "page": ["7"]}
    answer = many.api.get(BACKUPS, params={"page": 1, "page_size": 25})
    assert list(links(answer)) == ["first", "last"]
    assert "page" not in query_of(links(answer)["first"]) and "page" not in query_of(links(answer)["last"])


def test_links_keep_repeated_parameters(many):
    answer = many.api.get(BACKUPS + "?state=Ready&state=Erred&page_size=5")
    assert query_of(links(answer)["next"]) == {"state": ["Ready", "Erred"], "page_size": ["5"], "page": ["2"]}


def test_following_next_visits_everything_once(many):
    seen, url = [], BACKUPS + "?page_size=7"
    while url:
        answer = many.api.get(url)
        seen += uuids(answer)
        url = links(answer).get("next")
    assert seen == many.uuids


def test_an_empty_list_has_first_and_last(many):
    answer = many.api.get(BACKUPS, params={"instance": many.empty["url"]})
    assert ok(answer) == []
    assert answer.headers["X-Result-Count"] == "0"
    assert list(links(answer)) == ["first", "last"]
    for url in links(answer).values():
        assert "page" not in query_of(url)
    assert ok(many.api.get(BACKUPS, params={"instance": many.empty["url"], "page": "last"})) == []


@pytest.mark.parametrize("size", ["0", "-1", "x", "", "1.5"])
def test_a_bad_page_size_is_the_default(many, size):
    assert uuids(many.api.get(BACKUPS, params={"page_size": size})) == many.uuids[:10]


def test_page_size_is_clamped_to_300(start_daemon):
    lab = Lab(start_daemon())
    expected = lab.insert_backups(lab.instance(), 305)
    for size in ("300", "301", "100000", "99999999999999999999"):
        answer = lab.api.get(BACKUPS, params={"page_size": size})
        assert uuids(answer) == expected[:300]
        assert answer.headers["X-Result-Count"] == "305"
    assert uuids(lab.api.get(BACKUPS, params={"page_size": 400, "page": 2})) == expected[300:]


@pytest.mark.parametrize("page, message", [
    ("99", "That page contains no results"),
    ("4", "That page contains no results"),
    ("0", "That page number is less than 1"),
    ("-1", "That page number is less than 1"),
    ("x", "That page number is not an integer"),
    ("1.5", "That page number is not an integer"),
    ("99999999999999999999999", "That page contains no results"),
])
def test_a_bad_page_is_404(many, page, message):
    assert ok(many.api.get(BACKUPS, params={"page": page}), 404) == {"detail": f'Invalid page "{page}": {message}.'}


def test_quotas_are_unpaginated_unless_asked(own):
    for _ in range(3):
        own.new_project()
    everything = ok(own.api.get(QUOTAS))
    assert len(everything) > 10
    page = own.api.get(QUOTAS, params={"page_size": 4})
    assert len(ok(page)) == 4
    assert page.headers["X-Result-Count"] == str(len(everything))
    assert "next" in links(page)


@pytest.mark.parametrize("path", [SCHEDULES, INSTANCES, FLAVORS, IMAGES, PROJECTS, USERS, BACKUP])
def test_every_list_is_paginated(shared, vm, schedule, backup, path):
    if path in (FLAVORS, IMAGES):
        shared.flavor(), shared.flavor(), shared.image(), shared.image()
    if path == PROJECTS:
        shared.new_project()
    if path == SCHEDULES:
        extra = shared.schedule(vm)
    if path == USERS:
        shared.user()
    if path == INSTANCES:
        shared.instance()
    if path == BACKUP:
        shared.backup(vm)
    answer = shared.api.get(path, params={"page_size": 1})
    body = ok(answer)
    assert isinstance(body, list) and len(body) == 1
    assert int(answer.headers["X-Result-Count"]) >= 2
    assert list(links(answer)) == ["first", "next", "last"]
    if path == SCHEDULES:
        ok(shared.api.delete(extra["url"]), 204)


# -------------------------------------------------------------------- filters and ordering


@pytest.fixture(scope="module")
def mixed(start_module_daemon):
    """Two machines in two projects with backups of known descriptions and states."""
    lab = Lab(start_module_daemon())
    lab.one = lab.instance(name="alpha")
    lab.other_project = lab.new_project()
    lab.two = lab.instance(name="beta", project=lab.other_project)
    lab.b1 = lab.backup(lab.one, description="Nightly run")
    lab.b2 = lab.backup(lab.two, description="before UPGRADE")
    lab.b3 = lab.backup(lab.one, description="100% of a_b")
    lab.force_backup(lab.b3, "erred")
    lab.s1 = lab.schedule(lab.one, description="weekly", schedule="0 2 * * 4", is_active=True)
    lab.s2 = lab.schedule(lab.two, description="Daily", schedule="0 1 * * *")
    lab.link(lab.b1, lab.s1)
    return lab


def names(lab, path=BACKUPS, **params):
    known = {lab.b1["uuid"]: "b1", lab.b2["uuid"]: "b2", lab.b3["uuid"]: "b3", lab.s1["uuid"]: "s1", lab.s2["uuid"]: "s2",
             lab.one["uuid"]: "one", lab.two["uuid"]: "two"}
    return [known[item["uuid"]] for item in ok(lab.api.get(path, params=params))]


@pytest.mark.parametrize("text, found", [
    ("nightly", ["b1"]), ("NIGHT", ["b1"]), ("upgrade", ["b2"]), ("r", ["b1", "b2"]), ("", ["b1", "b2", "b3"]), ("zzz", []),
    ("100%", ["b3"]), ("%", ["b3"]), ("a_b", ["b3"]), ("_", ["b3"]), ("'", []), ("\\", []),
])
def test_description_filter_is_a_substring(mixed, text, found):
    assert names(mixed, description=text) == found


def test_instance_filter_takes_every_spelling(mixed):
    """B8, K2: the value is the object's URL; a bare uuid is tolerated."""
    one = mixed.one
    for value in (
        one["url"], local(one["url"]), one["url"].rstrip("/"), "https://other.example" + local(one["url"]), one["uuid"],
        dashed(one["uuid"]), one["uuid"].upper(),
    ):
        assert names(mixed, instance=value) == ["b1", "b3"], value
        assert names(mixed, SCHEDULES, instance=value) == ["s1"], value
    for value in (one["uuid"], dashed(one["uuid"])):
        assert names(mixed, instance_uuid=value) == ["b1", "b3"]
        assert names(mixed, SCHEDULES, instance_uuid=value) == ["s1"]


def test_K2_url_filter_checks_the_kind(mixed):
    for path in (BACKUPS, SCHEDULES):
        for value in ("some_random_url", "http://h.example/nothing/", "12"):
            answer = ok(mixed.api.get(path, params={"instance": value}), 400)
            assert answer == {"instance": ["Invalid hyperlink - No URL match."]}
        answer = ok(mixed.api.get(path, params={"instance": mixed.b1["url"]}), 400)
        assert answer["instance"] in (["Invalid hyperlink - Incorrect URL match."], ["Invalid hyperlink - No URL match."])


def test_unknown_or_invisible_instance_filters_to_nothing(mixed):
    assert names(mixed, instance=f"{INSTANCES}{ZERO}/") == []
    assert names(mixed, instance=ZERO) == []
    reader = mixed.user("reader", project=mixed.project)
    assert ok(reader.get(BACKUPS, params={"instance": mixed.two["url"]})) == []
    assert len(ok(reader.get(BACKUPS, params={"instance": mixed.one["url"]}))) == 2


def test_state_filter_is_repeatable(mixed):
    assert names(mixed, state="Ready") == ["b1", "b2"]
    assert names(mixed, state="Erred") == ["b3"]
    assert names(mixed, state=["Ready", "Erred"]) == ["b1", "b2", "b3"]
    assert names(mixed, state="Backing up") == []
    for text in ("x", "ready", "Deleted"):
        answer = ok(mixed.api.get(BACKUPS, params={"state": text}), 400)
        assert answer == {"state": [f'"{text}" is not a valid choice.']}


def test_project_filters(mixed):
    project = mixed.project
    assert names(mixed, project=project["url"]) == ["b1", "b3"]
    assert names(mixed, project_uuid=project["uuid"]) == ["b1", "b3"]
    assert names(mixed, project_uuid=ZERO) == []
    assert names(mixed, SCHEDULES, project_uuid=mixed.other_project["uuid"]) == ["s2"]
    assert names(mixed, INSTANCES, project_uuid=project["uuid"]) == ["one"]
    assert names(mixed, INSTANCES, project=mixed.other_project["url"]) == ["two"]


def test_schedule_uuid_and_name_filters(mixed):
    assert names(mixed, backup_schedule=mixed.s1["url"]) == ["b1"]
    assert names(mixed, backup_schedule_uuid=mixed.s1["uuid"]) == ["b1"]
    assert names(mixed, backup_schedule=mixed.s2["url"]) == []
    assert names(mixed, uuid=mixed.b2["uuid"]) == ["b2"]
    assert ok(mixed.api.get(BACKUPS, params={"backup_schedule": mixed.one["url"]}), 400).keys() == {"backup_schedule"}


def test_filters_combine_and_unknown_ones_are_ignored(mixed):
    assert names(mixed, instance=mixed.one["url"], state="Erred") == ["b3"]
    assert names(mixed, instance=mixed.one["url"], description="upgrade") == []
    assert names(mixed, colour="red") == ["b1", "b2", "b3"]


def test_schedule_filters(mixed):
    assert names(mixed, SCHEDULES, description="WEEK") == ["s1"]
    assert names(mixed, SCHEDULES, is_active="true") == ["s1"]
    assert names(mixed, SCHEDULES, is_active="True") == ["s1"]
    assert names(mixed, SCHEDULES, is_active="false") == ["s2"]


def test_ordering(mixed):
    assert names(mixed) == ["b1", "b2", "b3"]
    assert names(mixed, o="created_at") == ["b1", "b2", "b3"]
    assert names(mixed, o="-created_at") == ["b3", "b2", "b1"]
    assert names(mixed, o="description") == ["b3", "b1", "b2"]
    assert names(mixed, o="-description") == ["b2", "b1", "b3"]
    assert names(mixed, o="instance_name") == ["b1", "b3", "b2"]
    assert names(mixed, o="-instance_name") == ["b2", "b1", "b3"] or names(mixed, o="-instance_name") == ["b2", "b3", "b1"]
    assert names(mixed, o="no_such_field") == ["b1", "b2", "b3"]
    assert names(mixed, SCHEDULES, o="-created") == ["s2", "s1"]
    assert names(mixed, SCHEDULES, o="instance_name") == ["s1", "s2"]
    assert names(mixed, SCHEDULES, o="is_active") == ["s2", "s1"]
    assert names(mixed, SCHEDULES, o="next_trigger_at")[0] in ("s1", "s2")
    first, second = ok(mixed.api.get(SCHEDULES, params={"o": "-next_trigger_at"}))
    assert first["next_trigger_at"] >= second["next_trigger_at"]
    assert names(mixed, INSTANCES, o="-name") == ["two", "one"]
    assert sorted(names(mixed, o="state")) == ["b1", "b2", "b3"]
    states = [b["state"] for b in ok(mixed.api.get(BACKUPS, params={"o": "state"}))]
    assert states == ["Erred", "Ready", "Ready"] or states == ["Ready", "Ready", "Erred"]


def test_ordering_by_kept_until(own):
    vm = own.instance()
    first, second, third = own.insert_backups(vm, 3)
    for uuid, moment in ((first, 3), (second, 1), (third, 2)):
        own.d.sql("UPDATE backup SET kept_until = ? WHERE uuid = ?", (4_000_000_000_000 + moment, uuid))
    assert uuids(own.api.get(BACKUPS, params={"o": "kept_until"})) == [second, third, first]
    assert uuids(own.api.get(BACKUPS, params={"o": "-kept_until"})) == [first, third, second]


def test_backups_of_the_same_millisecond_keep_their_order(own):
    expected = own.insert_backups(own.instance(), 12)
    own.d.sql("UPDATE backup SET created_at = 1500000000000")
    seen = uuids(own.api.get(BACKUPS, params={"page_size": 5}))
    seen += uuids(own.api.get(BACKUPS, params={"page_size": 5, "page": 2}))
    seen += uuids(own.api.get(BACKUPS, params={"page_size": 5, "page": 3}))
    assert seen == expected


# -------------------------------------------------------------------- field errors


def test_all_failing_fields_are_reported_at_once(daemon):
    answer = ok(daemon.staff.post(SCHEDULES, {"schedule": "x", "timezone": "incorrect", "retention_time": -1}), 400)
    assert set(answer) == {"instance", "schedule", "timezone", "retention_time", "maximal_number_of_backups"}
    for messages in answer.values():
        assert isinstance(messages, list) and all(isinstance(m, str) and m for m in messages)


def test_parallel_requests_are_all_answered(daemon, vm):
    """Sixteen clients at once, over kept connections."""
    codes = []

    def client():
        api = Api(daemon, daemon.token)
        codes.extend(api.get(BACKUPS).status_code for _ in range(20))

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 320
