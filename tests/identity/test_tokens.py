"""Discovery, logins by every method, what a token says, how long it is good."""

import concurrent.futures
import re

import pytest

from helpers.api import Api, ok
from helpers.keystone import (
    DEFAULT, STAMP, TOKENS, Keystone, basic, by_credential, by_password, by_token, project_scope, refused,
)
from helpers.lab import PASSWORD, PROJECTS, USERS, Lab
from helpers.wait import wait_for


def name(user):
    return user.user["username"]


# -------------------------------------------------------------------- discovery


def test_versions_need_no_token(key):
    for path in ("/identity", "/identity/"):
        answer = key.get(path)
        (version,) = ok(answer, 300)["versions"]["values"]
        assert answer.headers["Vary"] == "X-Auth-Token"
    for path in ("/identity/v3", "/identity/v3/"):
        assert ok(key.get(path))["version"] == version
    assert (version["id"], version["status"]) == ("v3.14", "stable")
    assert {"updated", "links", "media-types"} <= set(version)
    assert version["links"] == [{"rel": "self", "href": key.d.url + "/identity/v3/"}]


# -------------------------------------------------------------------- what a token says


def test_a_scoped_token_says_all_that_clients_look_at(key, lab, ada):
    answer = key.post_login(by_password(name(ada), PASSWORD), project_scope(lab.project))
    token = ok(answer, 201)["token"]
    assert answer.headers["Vary"] == "X-Auth-Token"
    assert token["methods"] == ["password"]
    domain = {"id": "default", "name": "Default"}
    assert token["user"] == {"id": ada.user["uuid"], "name": name(ada), "domain": domain, "password_expires_at": None}
    assert token["project"] == {"id": lab.project["uuid"], "name": lab.project["name"], "domain": domain}
    assert token["is_domain"] is False
    assert STAMP.match(token["expires_at"]) and STAMP.match(token["issued_at"])
    assert len(token["audit_ids"]) == 1 and len(token["audit_ids"][0]) == 22
    endpoints = {entry["type"]: entry["endpoints"] for entry in token["catalog"]}
    assert set(endpoints) == {"block-storage", "volumev3", "identity"}
    for kind, url in [("block-storage", f"/v3/{lab.project['uuid']}"), ("volumev3", f"/v3/{lab.project['uuid']}"), ("identity", "/identity/v3")]:
        assert {e["interface"] for e in endpoints[kind]} == {"public", "internal", "admin"}
        assert {(e["url"], e["region"], e["region_id"]) for e in endpoints[kind]} == {(key.d.url + url, "RegionOne", "RegionOne")}
    assert len({e["id"] for kind in endpoints.values() for e in kind}) == 9


@pytest.mark.parametrize("role, roles", [
    ("staff", ["admin", "member", "reader"]), ("owner", ["member", "reader"]), ("admin", ["member", "reader"]),
    ("manager", ["member", "reader"]), ("reader", ["reader"]),
])
def test_roles(key, lab, role, roles):
    user = lab.user(staff=True) if role == "staff" else lab.user(role)
    _, token = key.login(by_password(name(user), PASSWORD), project_scope(lab.project))
    assert [r["name"] for r in token["roles"]] == roles
    assert all(r["id"] for r in token["roles"])


def test_an_unscoped_token_has_neither_project_nor_roles_nor_catalog(key, lab, ada):
    for scope in (None, "unscoped", {"unscoped": {}}):
        _, token = key.login(by_password(name(ada), PASSWORD), scope)
        assert set(token) == {"methods", "user", "audit_ids", "expires_at", "issued_at"}


def test_the_catalog_can_be_left_out_and_asked_for(key, lab, ada):
    answer = key.request("POST", TOKENS + "?nocatalog", body={
        "auth": {"identity": by_password(name(ada), PASSWORD), "scope": project_scope(lab.project)}})
    assert "catalog" not in ok(answer, 201)["token"]
    token, body = key.login(by_password(name(ada), PASSWORD), project_scope(lab.project))
    assert ok(key.get("/auth/catalog", token))["catalog"] == body["catalog"]


def test_links_are_those_of_the_proxy(start_daemon):
    daemon = start_daemon('[http]\ntrusted_proxies = ["127.0.0.1"]\n[auth]\nregion = "north pole"')
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "backup.example.org"}
    key = Keystone(daemon)
    answer = key.post_login(by_token(daemon.token), project_scope("default"), headers=forwarded)
    urls = {e["url"].split("/v3")[0] for entry in ok(answer, 201)["token"]["catalog"] for e in entry["endpoints"]}
    assert urls == {"https://backup.example.org", "https://backup.example.org/identity"}
    assert {e["region"] for entry in answer.json()["token"]["catalog"] for e in entry["endpoints"]} == {"north pole"}
    answer = key.get("/projects", headers=forwarded)
    assert answer.headers["WWW-Authenticate"] == 'Keystone uri="https://backup.example.org/identity"'


# -------------------------------------------------------------------- who can log in


def test_users_and_projects_are_named_by_id_or_in_the_one_domain(key, lab, ada):
    users = [{"id": ada.user["uuid"]}] + [{"name": name(ada), "domain": d} for d in (DEFAULT, {"name": "Default"}, {"name": "dEFAULT"})]
    for user in users:
        key.login({"methods": ["password"], "password": {"user": {**user, "password": PASSWORD}}})
    dashed = re.sub(r"(.{8})(.{4})(.{4})(.{4})(.*)", r"\1-\2-\3-\4-\5", lab.project["uuid"])
    projects = [{"id": lab.project["uuid"]}, {"id": dashed}]
    projects += [{"name": lab.project["name"], "domain": d} for d in (DEFAULT, {"name": "Default"}, {"name": "default"})]
    for project in projects:
        _, token = key.login(by_password(name(ada), PASSWORD), {"project": project})
        assert token["project"]["id"] == lab.project["uuid"]


def test_wrong_logins_are_all_the_same(key, lab, ada):
    """Nothing tells whether it was the user, the password, the domain or the project."""
    twins = [lab.new_project("twins"), lab.new_project("twins")]
    for project in twins:
        ok(lab.api.post("/api/project-permissions/", {"project": project["url"], "user": ada.user["url"], "role": "reader"}), 201)
    elsewhere = lab.new_project()
    gone = lab.user("reader")
    ok(lab.api.patch(gone.user["url"], {"is_active": False}))
    good = by_password(name(ada), PASSWORD)
    messages = {refused(key.post_login(identity, scope), 401) for identity, scope in [
        (by_password(name(ada), PASSWORD + "x"), None),
        (by_password("nobody", PASSWORD), None),
        (by_password("admin", PASSWORD), None),  # has no password
        (by_password(name(gone), PASSWORD), None),
        ({"methods": ["password"], "password": {"user": {"id": "0" * 32, "password": PASSWORD}}}, None),
        (good, project_scope(elsewhere)),
        (good, project_scope(elsewhere["name"])),
        (good, project_scope("no such project")),
        (good, project_scope("twins")),
        (good, {"project": {"id": "x"}}),
        (by_token("0" * 40), None),
        (by_token(""), None),
        (by_credential({"id": "0" * 32, "secret": "wrong secret"}), None),
    ]}
    assert len(messages) == 1, messages
    key.login(good, project_scope(twins[0]))
    refused(key.post_login(by_password(name(ada), PASSWORD, {"id": "heroes"})), 401)
    refused(key.post_login(good, {"project": {"name": lab.project["name"], "domain": {"name": "heroes"}}}), 401)
    refused(key.post_login(good, {"domain": DEFAULT}), 401)
    refused(key.post_login(good, {"system": {"all": True}}), 401)
    refused(key.post_login({"methods": ["totp"], "totp": {}}), 401)


WRONG = [None, 7, True, "x", [], {}, [[]], {"id": 7}, {"name": []}, {"id": "\0"}, "x" * 2000, {"domain": 7}, {"id": "x" * 2000}]


def test_wrong_values_of_every_field_are_refused_in_shape(start_daemon):
    """Every part of a login replaced by every wrong value: 400 or 401 in Keystone's shape, or a login that is right anyway."""
    daemon = start_daemon("[auth]\nlogin_attempts = 1000000")
    lab, key = Lab(daemon), Keystone(daemon)
    ada = lab.user("manager")
    credential = {"id": "x", "name": "n", "user": {"name": "u", "domain": DEFAULT}, "secret": "s"}
    bodies = [
        {"auth": {"identity": by_password(name(ada), PASSWORD), "scope": project_scope(lab.project["name"])}},
        {"auth": {"identity": by_token("t"), "scope": {"project": {"id": "x"}}}},
        {"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}},
    ]

    def variants(part):
        yield from WRONG
        if isinstance(part, dict):
            for field, value in part.items():
                yield {k: v for k, v in part.items() if k != field}
                for other in variants(value):
                    yield {**part, field: other}

    seen = set()
    for body in bodies:
        for variant in variants(body):
            answer = key.request("POST", TOKENS, body=variant)
            seen.add(answer.status_code)
            if answer.status_code != 201:
                refused(answer, answer.status_code)
    assert seen == {201, 400, 401}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"null", b"[]", b'"x"', b'{"a":' * 500])
def test_bodies_that_are_no_login(key, body):
    refused(key.request("POST", TOKENS, data=body), 400)


# -------------------------------------------------------------------- tokens for tokens


def test_a_token_becomes_another_of_the_same_life(key, lab, ada):
    other = lab.new_project()
    ok(lab.api.post("/api/project-permissions/", {"project": other["url"], "user": ada.user["url"], "role": "reader"}), 201)
    first, told = key.login(by_password(name(ada), PASSWORD))
    second, scoped = key.login(by_token(first), project_scope(lab.project))
    third, moved = key.login(by_token(second), project_scope(other))
    assert scoped["methods"] == moved["methods"] == ["token", "password"]
    assert told["expires_at"] == scoped["expires_at"] == moved["expires_at"]
    assert [r["name"] for r in moved["roles"]] == ["reader"]
    assert scoped["audit_ids"][1] == moved["audit_ids"][1] == told["audit_ids"][0]
    assert len({t["audit_ids"][0] for t in (told, scoped, moved)}) == 3
    refused(key.post_login(by_token(third), project_scope(lab.new_project())), 401)
    assert "project" not in key.login(by_token(third))[1]


def test_a_token_of_the_api_logs_in_and_takes_its_tokens_with_it(key, lab, ada):
    made = ok(lab.api.post("/ops/tokens/", {"user": name(ada), "name": "ci", "lifetime_h": 1}), 201)
    token, body = key.login(by_token(made["token"]), project_scope(lab.project))
    derived, _ = key.login(by_token(token))
    assert body["methods"] == ["token"]
    assert body["expires_at"][:19] == made["expires"][:19]
    assert key.works(token) and key.works(derived)
    ok(lab.api.delete(f"/ops/tokens/{made['id']}/"), 204)
    assert not key.works(token) and not key.works(derived)


# -------------------------------------------------------------------- looking at tokens and ending them


def test_looking_at_a_token(key, lab, ada):
    token, body = key.login(by_password(name(ada), PASSWORD), project_scope(lab.project))
    answer = key.check(token)
    assert ok(answer) == {"token": body}
    assert answer.headers["X-Subject-Token"] == token and answer.headers["Vary"] == "X-Auth-Token"
    head = key.check(token, method="HEAD")
    assert head.status_code == 200 and not head.content
    assert ok(key.check(token, key.d.token))["token"] == body
    refused(key.check(token, key.login(by_password(name(lab.user("manager")), PASSWORD))[0]), 403)
    refused(key.check("0" * 40, token), 404)
    refused(key.check(key.d.token, token), 404)
    refused(key.check(token, "0" * 40), 401)
    refused(key.get(TOKENS, token), 400)
    refused(key.request("GET", TOKENS, headers={"X-Subject-Token": token}), 401)


def test_ending_a_token(key, ada):
    first, second, third = (key.login(by_password(name(ada), PASSWORD))[0] for _ in range(3))
    answer = key.check(first, second, "DELETE")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not key.works(first) and key.works(second)
    refused(key.check(first, second, "DELETE"), 404)
    refused(key.check(second, first, "DELETE"), 401)
    assert key.check(second, method="DELETE").status_code == 204
    assert key.check(third, key.d.token, "DELETE").status_code == 204
    assert not key.works(second) and not key.works(third)


def test_tokens_end_with_the_password_and_with_the_user(key, lab, ada):
    def session():
        return key.login(by_password(name(ada), PASSWORD), project_scope(lab.project))[0]

    token = session()
    ok(ada.post(local_path(ada) + "password/", {"password": PASSWORD}))
    assert not key.works(token)
    token = session()
    ok(lab.api.patch(ada.user["url"], {"is_active": False}))
    assert not key.works(token)
    refused(key.check(token, key.d.token), 404)
    refused(key.post_login(by_password(name(ada), PASSWORD)), 401)
    ok(lab.api.patch(ada.user["url"], {"is_active": True}))
    assert not key.works(token), "it must not come to life again"
    token = session()
    ok(lab.api.delete(ada.user["url"]), 204)
    assert not key.works(token)


def local_path(user):
    return f"{USERS}{user.user['uuid']}/"


def test_a_scoped_token_ends_with_the_role_and_with_the_project(key, lab):
    project = lab.new_project()
    user = lab.user("manager", project=project)
    token, _ = key.login(by_password(name(user), PASSWORD), project_scope(project))
    (role,) = lab.api.list("/api/project-permissions/", user=user.user["uuid"])
    ok(lab.api.delete(role["url"]), 204)
    assert not key.works(token)
    token, _ = key.login(by_token(key.d.token), project_scope(project))
    ok(lab.api.delete(f"{PROJECTS}{project['uuid']}/"), 204)
    assert not key.works(token)


def test_tokens_expire(start_daemon):
    # A clock that the test sets forward is soon believed.
    daemon = start_daemon("[auth]\nkeystone_token_lifetime_h = 2\n[engine]\nclock_hold_s = 1", clock="2026-03-01T12:00:00")
    key = Keystone(daemon)
    first, body = key.login(by_token(daemon.token))
    assert body["expires_at"].startswith("2026-03-01T14:00:0") and body["issued_at"].startswith("2026-03-01T12:00:0")
    daemon.clock.advance(7000)
    second, later = key.login(by_token(first))
    assert later["expires_at"] == body["expires_at"]
    assert key.works(first)
    daemon.clock.advance(300)
    third, _ = key.login(by_token(daemon.token))
    for token in (first, second):
        refused(key.get("/projects", token), 401)
        refused(key.check(token, third), 404)
        refused(key.post_login(by_token(token)), 401)
    assert key.works(third)
    now = int(daemon.clock.now().timestamp() * 1000)

    def cleared():
        key.login(by_token(daemon.token))
        return daemon.sql("SELECT count(*) FROM token WHERE methods IS NOT NULL AND expires < ?", (now,)) == [(0,)]

    wait_for(cleared, "what has expired is cleared away")


def test_logins_leave_no_heap_and_push_nobody_out_early(start_daemon):
    daemon = start_daemon()
    key = Keystone(daemon)
    first, _ = key.login(by_token(daemon.token))
    for _ in range(500):
        key.login(by_token(daemon.token))
    assert key.works(first)
    daemon.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
        " INSERT INTO token (user_id, hash, created, expires, methods, audit_ids)"
        " SELECT 1, randomblob(32), 0, 9e15, 'token', 'x' FROM n"
    )
    key.login(by_token(daemon.token))
    assert daemon.sql("SELECT count(*) FROM token WHERE methods IS NOT NULL") == [(1000,)]
    assert Api(daemon, daemon.token).get("/ops/status/").status_code == 200


# -------------------------------------------------------------------- guessing


def guesses(key, identity):
    answers = [key.post_login(identity) for _ in range(6)]
    return [a.status_code for a in answers], answers[-1]


def test_guessing_is_slowed_down(start_daemon):
    daemon = start_daemon("[auth]\nlogin_attempts = 4\nlogin_window_s = 60")
    lab, key = Lab(daemon), Keystone(daemon)
    ada, bob = lab.user("manager"), lab.user("manager")
    for user in (name(ada), "nobody"):  # the same whether there is such a user or not
        codes, last = guesses(key, by_password(user, "wrong"))
        assert codes == [401] * 4 + [429] * 2
        refused(last, 429)
        assert 0 < int(last.headers["Retry-After"]) <= 60
    refused(key.post_login(by_password(name(ada), PASSWORD)), 429)
    refused(key.post_login({"methods": ["password"], "password": {"user": {"id": ada.user["uuid"], "password": PASSWORD}}}), 429)
    refused(key.get("/projects", headers=basic(name(ada), PASSWORD)), 429)
    assert daemon.anonymous.post("/api-auth/password/", {"username": name(ada), "password": PASSWORD}).status_code == 429
    key.login(by_password(name(bob), PASSWORD))
    codes, _ = guesses(key, by_credential({"id": "0" * 32, "secret": "wrong"}))
    assert codes == [401] * 4 + [429] * 2


def test_what_is_known_to_be_right_is_no_way_round_the_throttle(start_daemon):
    daemon = start_daemon("[auth]\nlogin_attempts = 3\nlogin_window_s = 60")
    lab, key = Lab(daemon), Keystone(daemon)
    ada = lab.user("manager")
    right = basic(name(ada), PASSWORD)
    ok(key.get("/projects", headers=right))
    ok(key.get("/projects", headers=right))
    assert [key.get("/projects", headers=basic(name(ada), f"wrong{n}")).status_code for n in range(4)] == [401] * 3 + [429]
    refused(key.get("/projects", headers=right), 429)


def test_clients_that_start_at_once_all_get_in(daemon, lab):
    """A script that starts many clients: hashing takes its time, and nobody is turned away."""
    users = [lab.user("manager") for _ in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda user: Keystone(daemon).post_login(by_password(name(user), PASSWORD)), users))
    assert {answer.status_code for answer in answers} == {201}


def test_secrets_are_neither_kept_nor_logged(start_daemon):
    daemon = start_daemon(env={"COFFERD_LOG": "trace"})
    lab, key = Lab(daemon), Keystone(daemon)
    ada = lab.user("manager")
    token, _ = key.login(by_password(name(ada), PASSWORD))
    key.post_login(by_password(name(ada), "a wrong password 1"))
    key.get("/projects", "a-wrong-token")
    key.get("/projects", headers=basic(name(ada), "another wrong one 2"))
    log = daemon.log()
    for secret in (token, PASSWORD, "a wrong password 1", "a-wrong-token", "another wrong one 2"):
        assert secret not in log
    daemon.stop()
    assert token.encode() not in daemon.coffer.read_bytes()
