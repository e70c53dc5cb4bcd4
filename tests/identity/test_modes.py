"""Running without authentication: whom it lets in, and whom never."""

import os
import signal
import subprocess

import pytest

from helpers.api import ok
from helpers.keystone import Keystone, basic, by_password, refused
from helpers.lab import PASSWORD, Lab
from helpers.wait import wait_for


@pytest.fixture(scope="module")
def open_daemon(start_module_daemon):
    return start_module_daemon("[auth]\nnoauth = true")


@pytest.fixture
def key(open_daemon):
    return Keystone(open_daemon)


def is_admin(answer):
    return "admin" in {user["name"] for user in ok(answer)["users"]}


@pytest.mark.parametrize("token", [None, "notused", "u:default", "admin:admin", ":", "u:"])
def test_on_this_host_everybody_is_administrator(key, token):
    assert is_admin(key.get("/users", token))
    assert is_admin(key.get("/users", token, headers={"Host": "localhost:1"}))
    assert is_admin(key.get("/users", token, headers={"Host": "[::1]:1"}))


def test_over_the_unix_socket_too(open_daemon):
    out = subprocess.run(
        ["curl", "-s", "--unix-socket", open_daemon.state_dir / "cofferd.sock", "-H", "X-Auth-Token: notused", "http://localhost/identity/v3/users"],
        check=True, capture_output=True, text=True,
    ).stdout
    assert '"admin"' in out


@pytest.mark.parametrize("headers", [
    {"X-Forwarded-For": "10.0.0.1"}, {"X-Forwarded-Proto": "https"}, {"X-Forwarded-Host": "x"}, {"Forwarded": "for=10.0.0.1"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"},
    {"X-Real-IP": "10.0.0.1"}, {"Via": "1.1 proxy"}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Host": "localhost.evil.example:8776"},
    {"Host": "127.0.0.1.evil.example"}, {"Host": "backup"},
])
def test_what_comes_through_a_proxy_or_from_a_web_page_needs_a_credential(key, headers):
    for token in (None, "notused", "u:default"):
        refused(key.get("/users", token, headers=headers), 401)
    assert is_admin(key.get("/users", key.d.token, headers=headers))


def test_real_credentials_are_still_judged(key, open_daemon):
    ada = Lab(open_daemon).user("manager")
    assert not is_admin(key.get("/users", ada.token))
    assert not is_admin(key.get("/users", headers=basic(ada.user["username"], PASSWORD)))
    refused(key.get("/users", "0" * 40), 401)
    refused(key.get("/users", headers=basic(ada.user["username"], "wrong")), 401)
    refused(key.post_login(by_password(ada.user["username"], "wrong")), 401)
    assert open_daemon.anonymous.get("/api/users/").status_code == 401, "the other dialect is not concerned"


def test_the_project_is_the_tokens_or_the_default(key, open_daemon):
    lab = Lab(open_daemon)

    def volumes(token):
        catalog = ok(key.get("/auth/catalog", token))["catalog"]
        return next(entry["endpoints"][0]["url"] for entry in catalog if entry["type"] == "volumev3").rsplit("/", 1)[1]

    (default,) = [p for p in lab.api.list("/api/projects/") if p["name"] == "default"]
    assert volumes(f"u:{lab.project['name']}") == volumes(f"u:{lab.project['uuid']}") == lab.project["uuid"]
    assert volumes("notused") == volumes(None) == volumes("u:") == default["uuid"]
    assert "no such" in refused(key.get("/auth/catalog", "u:no such"), 403)


def test_it_is_off_unless_asked_for(daemon):
    for token in (None, "notused", "u:default"):
        refused(Keystone(daemon).get("/users", token), 401)


@pytest.mark.parametrize("http, part", [
    ('listen = ["0.0.0.0:0"]', "0.0.0.0:0"), ('listen = ["127.0.0.1:0", "[::]:0"]', "[::]:0"), ('trusted_proxies = ["127.0.0.1"]', "trusted_proxies"),
])
def test_it_is_refused_where_others_could_come(binary, start_daemon, http, part):
    daemon = start_daemon(f"[http]\n{http}\n[auth]\nnoauth = true", start=False)
    tried = subprocess.run([binary, "--config", daemon.config_file, "serve"], capture_output=True, text=True, timeout=20)
    assert tried.returncode == 1
    assert "auth.noauth = true" in tried.stderr and part in tried.stderr, tried.stderr


def test_a_reload_ends_it(start_daemon):
    daemon = start_daemon("[auth]\nnoauth = true")
    key = Keystone(daemon)
    assert is_admin(key.get("/users"))
    daemon.configure()
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: key.get("/users").status_code == 401, "authentication is required")


def test_the_log_says_so(open_daemon):
    assert "auth.noauth is on" in open_daemon.log()
