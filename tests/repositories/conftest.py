"""Daemons whose backups go to repositories: Swift, its S3, a directory, straight or through the proxy that misbehaves."""

import json
import urllib.parse
from pathlib import Path

import pytest
import requests

from helpers.api import ok
from helpers.cinder import CinderLab
from helpers.disks import MIB, assert_same_bytes, make_raw
from helpers.ext4 import copy
from helpers.wait import wait_for
from objects.conftest import (  # noqa: F401 (fixtures)
    Host, bucket_of_moto, cloud, container, make_container, moto, proxy, s3_table, swift, swift_table,
)

class Site(CinderLab):
    """A host: its daemon with repositories, both dialects, and its command line."""

    def __init__(self, binary, tables, proxies=(), extra="", **daemon):
        self.host = Host(binary, tables, extra=extra, **daemon)
        self.host.proxies = list(proxies)
        super().__init__(self.host.daemon)

    def run(self, *arguments, code=0):
        done = self.host.run("--json", *arguments)
        assert done.returncode == code, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout) if code == 0 else done.stderr

    def attach(self, name="r", code=0):
        return self.run("repository", "attach", name, code=code)

    def collect(self):
        """What `cofferd gc` does, and says."""
        return self.run("gc")["result"]

    def tend(self):
        """What the daemon does by itself after a while, but for objects that have become useless just now, which it removes as well."""
        number = ok(self.api.post("/ops/gc/", {"dead_fraction": 0.3}), 202)["task"]
        task = wait_for(lambda: (t := ok(self.api.get(f"/ops/tasks/{number}/")))["state"] != "running" and t, "the collection ends", 60)
        return task["result"] if task["state"] == "done" else task["error_message"]

    def everything(self):
        """The administrator's view of all projects, over Cinder's API."""
        return ok(self.staff().get("/backups/detail", all_tenants="1"))["backups"]

    def erred(self, backup, *parts):
        """Waits for the failure of a backup, which must say this."""
        now = self.wait_state(backup["url"], "Erred")
        for part in parts:
            assert part in now["error_message"], f"{part!r} is not in {now['error_message']!r}"
        return now

    def restored_volumes(self, backup):
        """The files of a new machine that the backup is restored to, in order."""
        machine = self.restore(backup)
        files = self.volume_files(machine)
        assert len(files) == len(backup["metadata"]["volumes"]), (files, backup["metadata"])
        return files

    def assert_restores(self, backup, *saved):
        for restored, wanted in zip(self.restored_volumes(backup), saved, strict=True):
            assert_same_bytes(restored, wanted)

    def waldur(self, backup):
        """The same backup, made elsewhere, as this host has it."""
        return ok(self.api.get(f"/api/openstack-backups/{backup['uuid']}/"))

    def raw(self, mib, seed=0):
        """A machine with one disk of random bytes, and a copy of the disk."""
        disk = make_raw(self.d.root / (self.unique("raw") + ".img"), mib * MIB, seed=f"{seed}/{self.d.base}", density=1)
        return self.instance([disk]), self.keep(disk)

    def keep(self, disk, directory=None):
        return copy(disk, (directory or self.d.base) / self.unique("saved"))

    def close(self):
        self.host.close()


class Bucket:
    """What lies in a container of Swift, looked at behind everybody's back."""

    def __init__(self, url, name, prefix=""):
        self.session, self.prefix = requests.Session(), prefix
        self.session.trust_env = False
        login = self.session.get(f"{url}/auth/v1.0", headers={"X-Auth-User": "test:tester", "X-Auth-Key": "testing"})
        self.session.headers["X-Auth-Token"] = login.headers["X-Auth-Token"]
        self.url = f"{login.headers['X-Storage-Url']}/{name}"

    def names(self, kind=""):
        answer = self.session.get(self.url, params={"format": "json", "prefix": self.prefix + kind})
        assert answer.status_code in (200, 204), answer.text
        return [o["name"] for o in answer.json()]

    def get(self, name):
        answer = self.session.get(f"{self.url}/{urllib.parse.quote(name)}")
        assert answer.status_code == 200
        return answer.content

    def put(self, name, body):
        assert self.session.put(f"{self.url}/{urllib.parse.quote(name)}", data=body).status_code == 201

    def delete(self, name):
        assert self.session.delete(f"{self.url}/{urllib.parse.quote(name)}").status_code == 204


class Folder:
    """The same of a directory."""

    def __init__(self, path):
        self.path = Path(path)

    def names(self, kind=""):
        found = [str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file()]
        return sorted(name for name in found if name.startswith(kind))

    def delete(self, name):
        (self.path / name).unlink()


@pytest.fixture
def site(binary):
    """A factory of hosts; whatever a test does, no secret is in their logs in the end."""
    sites = []

    def start(tables, proxies=(), extra="", **daemon):
        made = Site(binary, tables, proxies, extra, **daemon)
        sites.append(made)
        return made

    yield start
    problems = []
    for made in sites:
        try:
            made.close()
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)


@pytest.fixture
def bucket(swift, container):  # noqa: F811
    return Bucket(swift.url, container)


@pytest.fixture
def table(proxy, container):  # noqa: F811
    """The container as a repository behind the proxy."""

    def make(**more):
        return swift_table(proxy.url, container, **{"connections": 2, "timeout_s": 5, "patience_s": 20, **more})

    return make


@pytest.fixture
def straight(swift, container):  # noqa: F811
    """The same container, not through the proxy: what another host sees of it."""
    return swift_table(swift.url, container, timeout_s=20, patience_s=20)


@pytest.fixture
def rescue(site, straight):
    """A factory of bare hosts that have attached the container."""

    def start():
        made = site({"r": straight})
        made.attached = made.attach()
        return made

    return start
