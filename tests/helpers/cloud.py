"""A daemon seen as an OpenStack cloud: its projects and users, the stock clients, and the files behind its volumes."""

import json
import os
import subprocess
import uuid
from pathlib import Path

import requests

from helpers.wait import wait_for

PASSWORD = "secret77"
REGION = "RegionOne"
HERE = Path(__file__).resolve().parent
SBIN = os.environ["PATH"] + ":/usr/sbin:/sbin"


def openstack_venv():
    """Where the stock clients are installed: target/openstack, or what COFFERD_OPENSTACK_VENV names."""
    path = Path(os.environ.get("COFFERD_OPENSTACK_VENV") or HERE.parent.parent / "target" / "openstack")
    assert os.access(path / "bin" / "openstack", os.X_OK), f"{path} has no OpenStack clients: run tests/run, or set COFFERD_OPENSTACK_VENV"
    return path


def dashed(text):
    """An id as OpenStack spells it."""
    return str(uuid.UUID(text))


class Account:
    """A user with a password, at work in one project."""

    def __init__(self, cloud, username, project):
        self.cloud = cloud
        self.username = username
        self.project = project
        self._session = None
        self._token = None

    def env(self, **extra):
        """What `openstack` and `cinder` read from the environment."""
        return {
            "OS_AUTH_URL": self.cloud.identity,
            "OS_USERNAME": self.username,
            "OS_PASSWORD": PASSWORD,
            "OS_PROJECT_NAME": self.project,
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
            "OS_REGION_NAME": REGION,
            "OS_IDENTITY_API_VERSION": "3",
            **extra,
        }

    def login(self):
        """The answer to a login by password that is bound to the project."""
        domain = {"name": "Default"}
        user = {"name": self.username, "domain": domain, "password": PASSWORD}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": self.project, "domain": domain}},
        }
        answer = plain().post(self.cloud.identity + "/auth/tokens", json={"auth": auth}, timeout=60)
        assert answer.status_code == 201, answer.text
        return answer

    @property
    def token(self):
        """What a login said of the account: user, project, roles, catalog."""
        self.session  # noqa: B018  logs in
        return self._token

    @property
    def project_id(self):
        return self.token["project"]["id"]

    @property
    def session(self):
        """An HTTP session that carries a token of the account."""
        if self._session is None:
            answer = self.login()
            self._token = answer.json()["token"]
            self._session = plain()
            self._session.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]
        return self._session

    def call(self, method, path, body=None, version=None, code=None, **kw):
        """A request below /v3; the response, whose status is checked when `code` is given."""
        if version:
            kw["headers"] = {**kw.get("headers", {}), "OpenStack-API-Version": f"volume {version}"}
        answer = self.session.request(method, self.cloud.volume + path, json=body, timeout=60, **kw)
        assert code is None or answer.status_code == code, f"{method} {path}: wanted {code}, got {answer.status_code}: {answer.text[:2000]}"
        return answer

    def get(self, path, **kw):
        return self.call("GET", path, code=200, **kw).json()

    def wait(self, kind, ident, status="available", timeout=60):
        """Waits for a volume, snapshot or backup to get the status (None: to be gone) and returns it as last seen."""
        seen = None

        def look():
            nonlocal seen
            answer = self.call("GET", f"/{kind}s/{ident}")
            if answer.status_code == 404:
                return status is None
            assert answer.status_code == 200, answer.text
            seen = answer.json()[kind]
            if status and seen["status"] != status:
                assert not seen["status"].startswith("error"), f"{kind} {ident}, wanted {status}: {seen}"
            return seen["status"] == status

        wait_for(look, f"{kind} {ident} becomes {status or 'gone'}", timeout)
        return seen


class Cloud:
    """Makes projects and users with the command line, as the admin of the host does."""

    def __init__(self, daemon):
        self.d = daemon
        self.home = daemon.base / "home"
        self.home.mkdir(exist_ok=True)
        self.identity = daemon.url + "/identity/v3"
        self.volume = daemon.url + "/v3"
        self.admin = self.user("admin", "default")

    def cofferd(self, *arguments, **kw):
        """Runs a command of the program under test; what it printed with --json."""
        return cofferd(self.d.binary, self.d.config_file, *arguments, **kw)

    def project(self, name):
        self.cofferd("project", "add", name)
        return name

    def user(self, name, project, role=None, staff=False):
        """An account with a role in a project; the coffer's first user `admin` and staff need none."""
        if name == "admin":
            self.cofferd("user", "passwd", "admin", input=PASSWORD + "\n")
        else:
            staff = ["--staff"] if staff else []
            self.cofferd("user", "add", name, "--password", *staff, input=PASSWORD + "\n")
        if role:
            self.cofferd("role", "add", name, role, "--project", project)
        return Account(self, name, project)

    # ---------------------------------------------------------------- programs

    def environment(self, extra):
        """An environment with nothing of the machine's own cloud in it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("OS_") and not k.endswith("_proxy")}
        path = f"{openstack_venv() / 'bin'}:{SBIN}"
        return {**kept, "HOME": str(self.home), "PATH": path, "PYTHONWARNINGS": "ignore", "COLUMNS": "300", **extra}

    def run(self, *command, env, code=0, timeout=90):
        """Runs a client that must end with `code` (None: with any but 0). Its output; if it failed, also what it complained of."""
        done = subprocess.run(
            [str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
            cwd=self.home, env=self.environment(env),
        )
        fits = done.returncode != 0 if code is None else done.returncode == code
        assert fits, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    # ---------------------------------------------------------------- volumes on this host

    def backing(self, volume):
        """The file that holds a volume."""
        return backing(self.d.binary, self.d.config_file, volume)


def cofferd(binary, config, *arguments, input=None):
    command = [binary, "--config", str(config), "--json", *map(str, arguments)]
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def backing(binary, config, volume):
    found = [v for v in cofferd(binary, config, "volume", "list") if dashed(v["uuid"]) == dashed(volume)]
    assert len(found) == 1, f"volume {volume} is not in the list"
    path = Path(found[0]["path"])
    assert path.is_file(), path
    return path


def plain():
    session = requests.Session()
    session.trust_env = False
    return session
