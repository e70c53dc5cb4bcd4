"""The clients without Keystone: no login at all, a password with each request, one token for all.

Each client has its own way to say so, and not every way works in every client; the ones that do not are here too, so that what
the documentation says of them stays true.
"""

import json
import subprocess

import pytest

from helpers.cloud import PASSWORD, Cloud, plain


class Endpoint:
    """A daemon with one backup named `the one` in the project `default`."""

    def __init__(self, daemon):
        self.cloud = Cloud(daemon)
        self.url = self.cloud.volume
        self.token = daemon.token
        self.session = plain()
        self.session.headers["X-Auth-Token"] = self.token
        volume = self.post("/volumes", {"volume": {"size": 1, "name": "v"}})["volume"]
        self.wait(f"/volumes/{volume['id']}")
        self.backup = self.post("/backups", {"backup": {"volume_id": volume["id"], "name": "the one"}})["backup"]["id"]
        self.wait(f"/backups/{self.backup}")

    def post(self, path, body):
        answer = self.session.post(self.url + path, json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def wait(self, path):
        for _ in range(600):
            thing, = self.session.get(self.url + path).json().values()
            if thing["status"] == "available":
                return
        raise AssertionError(thing)

    def status(self, **kw):
        """How a list is answered to a request as `requests` is told to make it."""
        return plain().get(self.url + "/backups", **kw).status_code

    def openstack(self, *arguments, code=0, **env):
        return self.cloud.run("openstack", *arguments, "volume", "backup", "list", "-f", "value", "-c", "Name", env=env, code=code)

    def cinder(self, *arguments, code=0, **env):
        return self.cloud.run("cinder", *arguments, "backup-list", env=env, code=code)

    def sdk(self, directory, **cloud):
        """What the SDK lists with this entry in clouds.yaml (JSON is YAML too)."""
        clouds = directory / "clouds.yaml"
        clouds.write_text(json.dumps({"clouds": {"here": cloud}}))
        script = "import openstack; print([b.name for b in openstack.connect(cloud='here').block_storage.backups()])"
        return self.cloud.run("python", "-c", script, env={"OS_CLIENT_CONFIG_FILE": str(clouds)})

    def curl(self, *arguments):
        return subprocess.run(
            ["curl", "-sS", "-f", "--noproxy", "*", *arguments, self.url + "/backups"], capture_output=True, text=True, check=True,
        ).stdout


NOAUTH = "[auth]\nnoauth = true"


@pytest.fixture(scope="module")
def none(start_module_daemon):
    return Endpoint(start_module_daemon(NOAUTH))


@pytest.fixture(scope="module")
def usual(start_module_daemon):
    return Endpoint(start_module_daemon())


# -------------------------------------------------------------------- none: whoever reaches the port is admin


def test_openstack_none(none):
    assert "the one" in none.openstack(OS_AUTH_TYPE="none", OS_ENDPOINT=none.url)
    assert "the one" in none.openstack("--os-auth-type", "none", "--os-endpoint", none.url)


def test_openstack_finds_no_project(none):
    """With `--project` it looks for projects below the volume endpoint, in whatever mode."""
    command = ("openstack", "volume", "backup", "list", "--project", "default")
    none.cloud.run(*command, env={"OS_AUTH_TYPE": "none", "OS_ENDPOINT": none.url}, code=1)


def test_sdk_none(none, tmp_path):
    assert "the one" in none.sdk(tmp_path, auth_type="none", auth={"endpoint": none.url})


def test_cinder_none(none):
    """By flags only: with OS_AUTH_TYPE in the environment the client falls over itself."""
    assert "the one" in none.cinder("--os-auth-type", "none", "--os-endpoint", none.url, "--os-project-id", "default")


def test_cinder_noauth(none):
    """The client's own plugin makes the token out of user and project."""
    assert "the one" in none.cinder(OS_AUTH_TYPE="noauth", CINDER_ENDPOINT=none.url, OS_PROJECT_ID="default", OS_USER_ID="ada")
    flags = ("--os-auth-type", "noauth", "--os-endpoint", none.url, "--os-project-id", "default", "--os-user-id", "ada")
    assert "the one" in none.cinder(*flags)


def test_curl_none(none):
    """No token, the word that clients send for none, and `user:project`."""
    for arguments in ([], ["-H", "X-Auth-Token: notused"], ["-H", "X-Auth-Token: ada:default"]):
        assert "the one" in none.curl(*arguments)


def test_everyone_is_admin(none):
    for token in (None, "notused", "ada:default"):
        headers = {"X-Auth-Token": token} if token else {}
        answer = plain().get(f"{none.url}/backups/{none.backup}/export_record", headers=headers)
        assert answer.status_code == 200, answer.text


def test_none_is_for_this_host_alone(start_daemon):
    """A daemon that others can reach does not start without a login."""
    with pytest.raises(AssertionError, match="cofferd ended with"):
        start_daemon(NOAUTH + '\n[http]\nlisten = ["0.0.0.0:0"]')


# -------------------------------------------------------------------- basic: name and password with each request


def test_openstack_basic(usual):
    login = {"OS_AUTH_TYPE": "http_basic", "OS_ENDPOINT": usual.url, "OS_USERNAME": "admin"}
    assert "the one" in usual.openstack(OS_PASSWORD=PASSWORD, **login)
    assert "401" in usual.openstack(OS_PASSWORD="wrong password 1", code=1, **login)


def test_sdk_basic(usual, tmp_path):
    auth = {"endpoint": usual.url, "username": "admin", "password": PASSWORD}
    assert "the one" in usual.sdk(tmp_path, auth_type="http_basic", auth=auth)


def test_cinder_basic(usual):
    flags = ("--os-auth-type", "http_basic", "--os-endpoint", usual.url, "--os-project-id", "default")
    assert "the one" in usual.cinder(*flags, "--os-username", "admin", "--os-password", PASSWORD)


def test_curl_basic(usual):
    assert "the one" in usual.curl("-u", f"admin:{PASSWORD}")
    assert usual.status() == 401
    assert usual.status(headers={"X-Auth-Token": "notused"}) == 401
    assert usual.status(headers={"X-Auth-Token": "admin:default"}) == 401
    assert usual.status(auth=("admin", "wrong password 1")) == 401


# -------------------------------------------------------------------- static: a token of the API, which stays good


def test_openstack_token(usual):
    assert "the one" in usual.openstack(OS_AUTH_TYPE="admin_token", OS_ENDPOINT=usual.url, OS_TOKEN=usual.token)
    assert "401" in usual.openstack(OS_AUTH_TYPE="admin_token", OS_ENDPOINT=usual.url, OS_TOKEN="another", code=1)


def test_cinder_token(usual):
    """The token in the environment, the rest by flags."""
    flags = ("--os-auth-type", "admin_token", "--os-endpoint", usual.url, "--os-project-id", "default")
    assert "the one" in usual.cinder(*flags, OS_TOKEN=usual.token)


def test_curl_token(usual):
    assert "the one" in usual.curl("-H", f"X-Auth-Token: {usual.token}")
    assert usual.status() == 401
    assert usual.status(headers={"X-Auth-Token": "notused"}) == 401
    assert usual.status(headers={"X-Auth-Token": usual.token[:-1]}) == 401


def test_roles_hold_without_keystone(usual):
    """With a password or a token of his own a member is a member."""
    ada = usual.cloud.user("ada", "default", "member")
    token = usual.cloud.cofferd("token", "add", "ada")["token"]
    for login in ({"auth": (ada.username, PASSWORD)}, {"headers": {"X-Auth-Token": token}}):
        assert plain().get(f"{usual.url}/backups/{usual.backup}", **login).status_code == 200
        assert plain().get(f"{usual.url}/backups/{usual.backup}/export_record", **login).status_code == 403


# -------------------------------------------------------------------- what does not work, in no mode


@pytest.mark.parametrize("method", ["none", "http_basic", "admin_token"])
def test_cinder_falls_over_its_environment(none, method):
    """`conflicting option string`: these methods must be given as flags."""
    shown = none.cinder(OS_AUTH_TYPE=method, OS_ENDPOINT=none.url, OS_PROJECT_ID="default", code=1)
    assert "conflicting option string" in shown
