"""Which credentials are accepted where, what the directory shows to whom, application credentials."""

import json
import subprocess
import time

import pytest

from helpers.api import Api, ok
from helpers.keystone import TOKENS, Keystone, basic, by_credential, by_password, by_token, project_scope, refused
from helpers.lab import PASSWORD, PROJECTS, USERS, Lab


def name(user):
    return user.user["username"]


def projects(key, *args, **kw):
    return {project["name"] for project in ok(key.get("/auth/projects", *args, **kw))["projects"]}


# -------------------------------------------------------------------- credentials


def test_a_refused_login_is_logged_with_its_user_and_address(key, ada):
    """Whoever guards the host looks for guessed passwords there; a line break in a name makes no second line."""
    refused(key.post_login(by_password(name(ada), "a-guess")), 401)
    refused(key.post_login(by_password("no\nbody", "a-guess")), 401)
    log = key.d.log()
    assert f'a login as "{name(ada)}" from 127.0.0.1 was refused' in log and 'a login as "no\\nbody" from 127.0.0.1' in log
    assert "a-guess" not in log


def test_every_credential_stands_for_its_user(key, lab, ada):
    mine = {lab.project["name"]}
    token, _ = key.login(by_password(name(ada), PASSWORD))
    assert projects(key, token) == mine
    assert projects(key, ada.token) == mine
    assert projects(key, headers={"Authorization": f"Token {ada.token}"}) == mine
    assert projects(key, headers=basic(name(ada), PASSWORD)) == mine
    assert projects(key, headers={"Authorization": basic(name(ada), PASSWORD)["Authorization"].replace("Basic", "bAsIc")}) == mine
    assert projects(key, headers={"X-Auth-Token": token, **basic("x", "y")}) == mine, "the token comes first"


@pytest.mark.parametrize("headers", [
    {}, {"X-Auth-Token": ""}, {"X-Auth-Token": "notused"}, {"X-Auth-Token": "admin:admin"}, {"X-Auth-Token": "0" * 40},
    {"Authorization": "Basic"}, {"Authorization": "Basic !!!"}, {"Authorization": "Basic YWRtaW4="}, {"Authorization": "Basic //79"},
    {"Authorization": "Bearer x"}, {"Authorization": "Token"}, {"Authorization": "Token x y"}, {"Authorization": "Token x"},
    basic("admin", ""), basic("", ""), basic("nobody", "x"), basic("x" * 5000, "x"), basic("admin", "x" * 5000),
])
def test_without_a_valid_credential_there_is_only_discovery(key, headers):
    for method, path in [
        ("GET", "/projects"), ("GET", "/users"), ("GET", "/roles"), ("GET", "/auth/projects"), ("GET", "/auth/catalog"), ("GET", TOKENS),
        ("DELETE", TOKENS), ("GET", f"/users/{'0' * 32}/application_credentials"),
        ("POST", f"/users/{'0' * 32}/application_credentials"),
    ]:
        refused(key.request(method, path, headers=headers), 401)


def test_the_local_administrator_needs_no_credential(daemon):
    def ask(*headers):
        out = subprocess.run(
            ["curl", "-s", "--unix-socket", daemon.state_dir / "cofferd.sock", *headers, "http://localhost/identity/v3/users"],
            check=True, capture_output=True,
        ).stdout
        return json.loads(out)

    assert "admin" in {user["name"] for user in ask()["users"]}
    assert ask("-H", "X-Auth-Token: wrong")["error"]["code"] == 401, "who sends a credential is judged by it"


def test_a_keystone_token_is_for_openstack_only(key, lab, ada):
    """It has a scope, which the other dialect would not look at."""
    token, _ = key.login(by_password(name(ada), PASSWORD), project_scope(lab.project))
    assert key.works(token)
    assert Api(key.d, token).get(PROJECTS).status_code == 401
    refused(key.get("/projects", headers={"Authorization": f"Token {token}"}), 401)
    assert "methods" not in str(ok(lab.api.get("/ops/tokens/")))
    rows = key.d.sql("SELECT id FROM token WHERE methods IS NOT NULL ORDER BY id DESC LIMIT 1")
    ok(lab.api.delete(f"/ops/tokens/{rows[0][0]}/"), 404)


def test_a_new_password_counts_at_once(key, lab, ada):
    old, new = basic(name(ada), PASSWORD), basic(name(ada), "quite another 8")
    ok(key.get("/projects", headers=old))
    ok(ada.post(f"{USERS}{ada.user['uuid']}/password/", {"password": "quite another 8"}))
    refused(key.get("/projects", headers=old), 401)
    ok(key.get("/projects", headers=new))
    ok(lab.api.patch(ada.user["url"], {"is_active": False}))
    refused(key.get("/projects", headers=new), 401)


def test_a_password_with_each_request_costs_one_hash(key, ada):
    headers = basic(name(ada), PASSWORD)

    def seconds():
        start = time.monotonic()
        ok(key.get("/projects", headers=headers))
        return time.monotonic() - start

    first = seconds()
    assert min(seconds() for _ in range(10)) < first / 2


def test_a_password_may_hold_colons(key, lab):
    user = ok(lab.api.post(USERS, {"username": lab.unique("colon"), "password": "a:b:c 123"}), 201)
    ok(key.get("/projects", headers=basic(user["username"], "a:b:c 123")))


# -------------------------------------------------------------------- the directory


def test_projects(key, lab, ada):
    other = lab.new_project()
    found = ok(key.get("/projects", ada.token))
    assert [p["name"] for p in found["projects"]] == [lab.project["name"]]
    (project,) = found["projects"]
    assert project["id"] == lab.project["uuid"] and project["enabled"] is True and project["domain_id"] == "default"
    assert found["links"]["next"] is None and found["links"]["self"] == key.d.url + "/identity/v3/projects"
    assert ok(key.get(f"/projects/{project['id']}", ada.token)) == {"project": project}
    for query, count in [("name=" + project["name"], 1), ("name=x", 0), ("domain_id=default", 1), ("domain_id=x", 0), ("enabled=false", 0), ("enabled=1", 1)]:
        assert len(ok(key.get("/projects?" + query, ada.token))["projects"]) == count, query
    for path in (f"/projects/{other['uuid']}", f"/projects/{project['name']}", "/projects/" + "0" * 32):
        refused(key.get(path, ada.token), 404)
    assert {lab.project["name"], other["name"], "default"} <= {p["name"] for p in ok(key.get("/projects", key.d.token))["projects"]}


def test_users(key, lab, ada):
    bob = lab.user("manager")
    assert [u["name"] for u in ok(key.get("/users", ada.token))["users"]] == [name(ada)]
    user = ok(key.get(f"/users/{ada.user['uuid']}", ada.token))["user"]
    assert (user["id"], user["name"], user["enabled"], user["domain_id"]) == (ada.user["uuid"], name(ada), True, "default")
    refused(key.get(f"/users/{bob.user['uuid']}", ada.token), 404)
    assert len(ok(key.get(f"/users?name={name(bob)}", ada.token))["users"]) == 0
    assert len(ok(key.get(f"/users?name={name(bob)}", key.d.token))["users"]) == 1
    assert "password" not in ok(key.get(f"/users/{ada.user['uuid']}", key.d.token))["user"]


def test_domains_and_roles(key, ada):
    assert [d["name"] for d in ok(key.get("/domains", ada.token))["domains"]] == ["Default"]
    assert ok(key.get("/domains/default", ada.token))["domain"]["id"] == "default"
    assert [r["name"] for r in ok(key.get("/roles", ada.token))["roles"]] == ["admin", "member", "reader"]
    assert ok(key.get("/roles?name=member", ada.token))["roles"][0] == ok(key.get("/roles/member", ada.token))["role"]
    refused(key.get("/roles/king", ada.token), 404)


def test_unknown_routes_and_methods(key, ada):
    for path in ("/identity/v2.0", "/identity/v4", "/identity/v3/groups", "/identity/v3/auth", "/identity/v3/auth/tokens/x", "/identity/v3/projects/x/y",
                 "/identity/v3/%00", "/identity/v3//projects"):
        refused(key.get(path, ada.token), 404)
    for method, path, allow in [
        ("POST", "/identity", "GET, HEAD"), ("PUT", TOKENS, "GET, HEAD, POST, DELETE"), ("PATCH", "/projects", "GET, HEAD"),
        ("DELETE", "/users/x", "GET, HEAD"), ("POST", "/projects", "GET, HEAD"), ("OPTIONS", "/auth/catalog", "GET, HEAD"),
    ]:
        answer = key.request(method, path, ada.token)
        refused(answer, 405)
        assert answer.headers["Allow"] == allow


# -------------------------------------------------------------------- scopes


def test_the_catalog_of_a_credential_without_a_scope(key, lab, ada):
    """The only project is meant; of several, for administrators, the one called default."""
    def project_of(**kw):
        urls = {e["url"] for entry in ok(key.get("/auth/catalog", **kw))["catalog"] for e in entry["endpoints"] if entry["type"] == "volumev3"}
        return urls.pop().rsplit("/", 1)[1]

    assert project_of(headers=basic(name(ada), PASSWORD)) == lab.project["uuid"]
    default = next(p for p in lab.api.list(PROJECTS) if p["name"] == "default")
    lab.new_project()
    assert project_of(token=key.d.token) == default["uuid"]
    scoped, _ = key.login(by_token(key.d.token), project_scope(lab.project))
    assert project_of(token=scoped) == lab.project["uuid"]
    refused(key.get("/auth/catalog", lab.user().token), 403)
    second = lab.new_project("default-not")
    ok(lab.api.post("/api/project-permissions/", {"project": second["url"], "user": ada.user["url"], "role": "reader"}), 201)
    assert "more than one project" in refused(key.get("/auth/catalog", ada.token), 403)


# -------------------------------------------------------------------- application credentials


def credentials_of(user):
    return f"/users/{user.user['uuid']}/application_credentials"


def make(key, user, token, **fields):
    body = {"application_credential": {"name": "cron", **fields}}
    return ok(key.request("POST", credentials_of(user), token, body), 201)["application_credential"]


@pytest.fixture
def scoped(key, lab, ada):
    return key.login(by_password(name(ada), PASSWORD), project_scope(lab.project))[0]


def test_the_life_of_an_application_credential(key, lab, ada, scoped):
    made = make(key, ada, scoped, description="nightly")
    shown = {k: v for k, v in made.items() if k != "secret"}
    assert made["project_id"] == lab.project["uuid"] and made["user_id"] == ada.user["uuid"] and made["unrestricted"] is False
    assert [r["name"] for r in made["roles"]] == ["member", "reader"]
    assert ok(key.get(credentials_of(ada), scoped))["application_credentials"] == [shown]
    assert ok(key.get(f"{credentials_of(ada)}/{made['id']}", scoped)) == {"application_credential": shown}
    assert ok(key.get(credentials_of(ada) + "?name=x", scoped))["application_credentials"] == []
    token, body = key.login(by_credential(made))
    assert body["methods"] == ["application_credential"] and body["project"]["id"] == lab.project["uuid"]
    assert body["application_credential"] == {"id": made["id"], "name": "cron", "restricted": True}
    derived, _ = key.login(by_token(token))
    refused(key.request("POST", credentials_of(ada), scoped, {"application_credential": {"name": "cron"}}), 409)
    assert key.request("DELETE", f"{credentials_of(ada)}/{made['id']}", scoped).status_code == 204
    refused(key.get(f"{credentials_of(ada)}/{made['id']}", scoped), 404)
    assert not key.works(token) and not key.works(derived), "its tokens end with it"
    refused(key.post_login(by_credential(made)), 401)


def test_a_credential_is_named_by_its_id_or_within_its_user(key, lab, ada, scoped):
    made = make(key, ada, scoped, secret="chosen by hand")
    assert made["secret"] == "chosen by hand"
    for user in ({"id": ada.user["uuid"]}, {"name": name(ada), "domain": {"name": "Default"}}):
        for secret, code in (("chosen by hand", 201), ("chosen by foot", 401)):
            identity = {"methods": ["application_credential"], "application_credential": {"name": "cron", "user": user, "secret": secret}}
            ok(key.post_login(identity), code)
    other = {"methods": ["application_credential"], "application_credential": {"name": "cron", "user": {"name": "admin"}, "secret": "chosen by hand"}}
    refused(key.post_login(other), 401)


def test_the_scope_of_a_credential_is_fixed(key, lab, ada, scoped):
    elsewhere = lab.new_project()
    ok(lab.api.post("/api/project-permissions/", {"project": elsewhere["url"], "user": ada.user["url"], "role": "manager"}), 201)
    made = make(key, ada, scoped)
    token, _ = key.login(by_credential(made))
    for identity in (by_credential(made), by_token(token)):
        for same in (project_scope(lab.project), project_scope(lab.project["name"])):
            assert key.login(identity, same)[1]["project"]["id"] == lab.project["uuid"]
        for scope in (project_scope(elsewhere), project_scope("no such"), "unscoped"):
            refused(key.post_login(identity, scope), 401)
    assert projects(key, token) == {lab.project["name"]}
    assert projects(key, scoped) == {lab.project["name"], elsewhere["name"]}


def test_a_credential_may_give_less_but_never_more(key, lab, ada, scoped):
    reader = make(key, ada, scoped, roles=[{"name": "reader"}])
    token, body = key.login(by_credential(reader))
    assert [r["name"] for r in body["roles"]] == ["reader"]
    assert [r["name"] for r in key.login(by_token(token))[1]["roles"]] == ["reader"]
    refused(key.request("POST", credentials_of(ada), scoped, {"application_credential": {"name": "n", "roles": [{"name": "admin"}]}}), 403)
    staff = lab.user(staff=True)
    session, _ = key.login(by_password(name(staff), PASSWORD), project_scope(lab.project))
    limited = make(key, staff, session, roles=[{"id": "member"}])
    token, _ = key.login(by_credential(limited))
    assert len(ok(key.get("/users", token))["users"]) == 1, "no administrator any more"
    (role,) = lab.api.list("/api/project-permissions/", user=ada.user["uuid"])
    ok(lab.api.delete(role["url"]), 204)
    refused(key.post_login(by_credential(reader)), 401)


def test_a_credentials_token_manages_no_credentials(key, ada, scoped):
    made = make(key, ada, scoped)
    token, _ = key.login(by_credential(made))
    for session in (token, key.login(by_token(token))[0]):
        refused(key.get(credentials_of(ada), session), 403)
        refused(key.request("POST", credentials_of(ada), session, {"application_credential": {"name": "more"}}), 403)
        refused(key.request("DELETE", f"{credentials_of(ada)}/{made['id']}", session), 403)


def test_credentials_are_each_users_own(key, lab, ada, scoped):
    made = make(key, ada, scoped)
    bob = lab.user("manager")
    for owner in (ada.user["uuid"], "0" * 32, "x"):
        path = f"/users/{owner}/application_credentials"
        refused(key.get(path, bob.token), 403)
        refused(key.request("POST", path, bob.token, {"application_credential": {"name": "n"}}), 403)
        refused(key.request("DELETE", f"{path}/{made['id']}", bob.token), 403)
    refused(key.get(f"{credentials_of(bob)}/{made['id']}", bob.token), 404)
    # An administrator sees and deletes, and makes none in another's name.
    assert len(ok(key.get(credentials_of(ada), key.d.token))["application_credentials"]) == 1
    refused(key.request("POST", credentials_of(ada), key.d.token, {"application_credential": {"name": "n"}}), 403)
    refused(key.get("/users/x/application_credentials", key.d.token), 404)
    assert key.request("DELETE", f"{credentials_of(ada)}/{made['id']}", key.d.token).status_code == 204


def test_a_credential_survives_a_new_password_and_ends_with_its_user(key, lab, ada, scoped):
    made = make(key, ada, scoped)
    ok(ada.post(f"{USERS}{ada.user['uuid']}/password/", {"password": "quite another 8"}))
    token, _ = key.login(by_credential(made))
    ok(lab.api.patch(ada.user["url"], {"is_active": False}))
    refused(key.post_login(by_credential(made)), 401)
    assert not key.works(token)


@pytest.mark.parametrize("fields", [
    {"name": ""}, {"name": None}, {"name": 7}, {"name": "x" * 256}, {"secret": "short"}, {"secret": 7}, {"expires_at": "soon"},
    {"expires_at": "2001-01-01T00:00:00Z"}, {"roles": "member"}, {"roles": [{"name": "king"}]}, {"roles": [7]}, {"unrestricted": True},
    {"unrestricted": "x"}, {"access_rules": [{"path": "/x"}]}, {"description": []},
])
def test_wrong_orders_of_credentials(key, ada, scoped, fields):
    refused(key.request("POST", credentials_of(ada), scoped, {"application_credential": {"name": "n", **fields}}), 400)


def test_bodies_that_are_no_order(key, ada, scoped):
    for body in (b"", b"[]", b"{", b"{}", b'{"application_credential": 7}'):
        refused(key.request("POST", credentials_of(ada), scoped, data=body), 400)


def test_a_credential_expires_and_its_tokens_with_it(start_daemon):
    daemon = start_daemon(clock="2026-03-01T12:00:00")
    lab, key = Lab(daemon), Keystone(daemon)
    ada = lab.user("manager")
    made = make(key, ada, ada.token, expires_at="2026-03-01T13:00:00.000000")
    assert made["expires_at"] == "2026-03-01T13:00:00.000000"
    token, body = key.login(by_credential(made))
    assert body["expires_at"] == "2026-03-01T13:00:00.000000Z"
    daemon.clock.advance(3700)
    assert not key.works(token)
    refused(key.post_login(by_credential(made)), 401)


def test_a_user_has_so_many_credentials_and_no_more(key, ada, scoped):
    made = make(key, ada, scoped)
    key.d.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99) INSERT INTO application_credential"
        " (uuid, user_id, project_id, name, secret, level, created)"
        " SELECT lower(hex(randomblob(16))), user_id, project_id, 'n' || i, secret, level, created FROM application_credential, n WHERE uuid = ?",
        (made["id"],),
    )
    assert "exceeds" in refused(key.request("POST", credentials_of(ada), scoped, {"application_credential": {"name": "one more"}}), 403)
