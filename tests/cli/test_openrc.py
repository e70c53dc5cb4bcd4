"""`cofferd openrc`: the file works in a shell, whatever names hold, and the daemon takes what it sets."""

import os
import pty
import subprocess

import pytest

from cli.test_cli import Host
from helpers.api import ok
from helpers.keystone import Keystone, by_credential, by_password, project_scope, refused
from helpers.lab import PASSWORD

SHELLS = ["bash", "dash"]


@pytest.fixture
def host(daemon):
    return Host(daemon)


def sourced(text, tmp_path, shell="bash", **env):
    """The OS_ variables of a shell that has read the file."""
    file = tmp_path / "rc"
    file.write_text(text)
    env = {"PATH": os.environ["PATH"], **env}
    out = subprocess.run([shell, "-c", f". {file}; env -0"], env=env, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert not out.stderr, out.stderr
    return {k: v for k, v in (line.split("=", 1) for line in out.stdout.split("\0") if line) if k.startswith("OS_")}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_for_a_user_with_a_password(host, lab, tmp_path, shell):
    project = lab.new_project("it's $HOME; `rm -rf x` \"y\" \\ ü")
    ada = lab.user("manager", project=project)
    name = ada.user["username"]
    other = {"OS_TOKEN": "x", "OS_AUTH_TYPE": "none", "OS_CLOUD": "x", "OS_ENDPOINT": "x", "OS_APPLICATION_CREDENTIAL_ID": "x"}
    env = sourced(host.run("openrc", name), tmp_path, shell, OS_PASSWORD=PASSWORD, **other)
    assert env == {
        "OS_AUTH_URL": host.d.url + "/identity/v3", "OS_IDENTITY_API_VERSION": "3", "OS_USERNAME": name, "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_ID": project["uuid"], "OS_PROJECT_NAME": project["name"], "OS_PROJECT_DOMAIN_NAME": "Default", "OS_REGION_NAME": "RegionOne",
        "OS_INTERFACE": "public", "OS_VOLUME_API_VERSION": "3.71", "OS_PASSWORD": PASSWORD,
    }
    _, token = Keystone(host.d).login(by_password(env["OS_USERNAME"], env["OS_PASSWORD"]), project_scope(env["OS_PROJECT_NAME"]))
    assert token["project"]["id"] == project["uuid"]


@pytest.mark.parametrize("shell", SHELLS)
def test_it_asks_for_the_password_without_showing_it(host, lab, tmp_path, shell):
    ada = lab.user("manager")
    (tmp_path / "rc").write_text(host.run("openrc", ada.user["username"]))
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        [shell, "-c", f". {tmp_path}/rc; echo got:$OS_PASSWORD > {tmp_path}/out"], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while b": " not in shown:
        shown += os.read(ours, 1000)
    os.write(ours, PASSWORD.encode() + b"\n")
    assert shell.wait(10) == 0
    shown += os.read(ours, 1000)
    os.close(ours)
    assert (tmp_path / "out").read_text() == f"got:{PASSWORD}\n"
    assert b"Password of " + ada.user["username"].encode() in shown and PASSWORD.encode() not in shown


@pytest.mark.parametrize("shell", SHELLS)
def test_another_users_password_is_not_kept(host, lab, tmp_path, shell):
    """Who sources one user's file after another's is asked again; also where any failing command ends the shell."""
    name = lab.user("manager").user["username"]
    (tmp_path / "rc").write_text(host.run("openrc", name))
    for before, password in ((name, "kept"), ("somebody-else", "typed")):
        env = {"PATH": os.environ["PATH"], "OS_USERNAME": before, "OS_PASSWORD": "kept"}
        run = [shell, "-c", f'set -eu; . {tmp_path}/rc; echo "$OS_USERNAME $OS_PASSWORD"']
        assert subprocess.run(run, env=env, input="typed\n", capture_output=True, text=True, check=True).stdout == f"{name} {password}\n"


def test_a_file_with_an_application_credential(host, lab, tmp_path):
    user = ok(lab.api.post("/api/users/", {"username": lab.unique("robot")}), 201)
    ok(lab.api.post("/api/project-permissions/", {"project": lab.project["url"], "user": user["url"], "role": "reader"}), 201)
    text = host.run("openrc", user["username"], "--credential", "--project", lab.project["name"])
    env = sourced(text, tmp_path, OS_USERNAME="x", OS_PASSWORD="x", OS_PROJECT_NAME="x", OS_USER_DOMAIN_NAME="x")
    assert env.pop("OS_AUTH_TYPE") == "v3applicationcredential"
    assert not {"OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_USER_DOMAIN_NAME"} & set(env)
    key = Keystone(host.d)
    identity = by_credential({"id": env["OS_APPLICATION_CREDENTIAL_ID"]}, env["OS_APPLICATION_CREDENTIAL_SECRET"])
    token, body = key.login(identity)
    assert body["user"]["name"] == user["username"] and body["project"]["id"] == lab.project["uuid"]
    assert [r["name"] for r in body["roles"]] == ["reader"]
    again = host.json("openrc", user["username"], "--credential")
    assert again["OS_APPLICATION_CREDENTIAL_ID"] != env["OS_APPLICATION_CREDENTIAL_ID"]
    # The administrator can take it back.
    path = f"/users/{user['uuid']}/application_credentials/{env['OS_APPLICATION_CREDENTIAL_ID']}"
    assert key.request("DELETE", path, host.d.token).status_code == 204
    assert not key.works(token)
    refused(key.post_login(identity), 401)


def test_who_cannot_log_in_is_told_why(host, lab):
    assert 'there is no user "moon"' in host.run("openrc", "moon", code=1)
    nobody = lab.user()
    assert "no role in any project" in host.run("openrc", nobody.user["username"], code=1)
    ada = lab.user("manager")
    name = ada.user["username"]
    second = lab.new_project()
    ok(lab.api.post("/api/project-permissions/", {"project": second["url"], "user": ada.user["url"], "role": "reader"}), 201)
    error = host.run("openrc", name, code=1)
    assert "--project" in error and lab.project["name"] in error and second["name"] in error
    assert lab.project["name"] in host.run("openrc", name, "--project", lab.project["name"])
    assert second["name"] in host.run("openrc", name, "--project", second["uuid"])
    assert "moon" in host.run("openrc", name, "--project", "moon", code=1)
    error = host.run("openrc", "admin", "--project", "default", code=1)
    assert "cofferd user passwd admin" in error and "--credential" in error
    host.run("user", "disable", name)
    assert f"cofferd user enable {name}" in host.run("openrc", name, "--project", second["name"], code=1)


def test_where_the_daemon_is(host, start_daemon, lab):
    ada = lab.user("manager").user["username"]
    assert host.json("openrc", ada)["OS_AUTH_URL"] == f"http://127.0.0.1:{host.d.port}/identity/v3"
    assert host.json("openrc", ada, "--url", "https://backup.example.org/")["OS_AUTH_URL"] == "https://backup.example.org/identity/v3"
    assert "no URL" in host.run("openrc", ada, "--url", "backup.example.org", code=1)
    status = ok(host.d.staff.get("/ops/status/"))
    assert status["listening"] == [host.d.url]


def test_without_a_daemon(start_daemon):
    """The configured address stands for the one that is not there yet."""
    down = Host(start_daemon(start=False))
    down.run("init")
    down.run("user", "add", "ada", "--password", input=PASSWORD + "\n")
    down.run("role", "add", "ada", "member", "--project", "default")
    assert "--url" in down.run("openrc", "ada", code=1)
    down.d.configure('[http]\nlisten = ["0.0.0.0:8776"]')
    assert down.json("openrc", "ada")["OS_AUTH_URL"] == "http://127.0.0.1:8776/identity/v3"
    assert down.json("openrc", "ada", "--credential")["OS_AUTH_TYPE"] == "v3applicationcredential"
