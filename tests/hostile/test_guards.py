"""What one client does must not stop the others, nor overwrite what is another's."""

import os
import threading
import time

import pytest
import requests

from helpers.api import ok
from helpers.disks import MIB, assert_same_bytes
from helpers.lab import BACKUPS, Lab


@pytest.mark.alone
def test_a_flood_of_logins_leaves_the_others_their_workers(start_daemon):
    """Each password costs tens of milliseconds on purpose; with all workers at it, nothing else was answered for seconds."""
    daemon = start_daemon("[auth]\nlogin_attempts = 1000")  # or the address that all come from would soon be throttled
    end = time.monotonic() + 4
    codes = []

    def flood(number):
        while time.monotonic() < end:
            body = {"username": f"nobody{number}-{time.monotonic_ns()}", "password": "wrong1234"}
            codes.append(requests.post(daemon.url + "/api-auth/password/", json=body, timeout=20).status_code)

    threads = [threading.Thread(target=flood, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    slowest = 0
    while time.monotonic() < end:
        began = time.monotonic()
        assert requests.get(daemon.url + "/healthz", timeout=20).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert set(codes) == {401, 503}
    assert slowest < 15  # forty Python threads share the machine with it; the watchdog waits for half a minute


def test_a_thousand_query_parameters_are_refused_not_an_internal_error(start_daemon):
    lab = Lab(start_daemon())
    for path, query in (("/api/projects/", "name=a&" * 1100), ("/api/openstack-flavors/", "o=" + "ram," * 1900), (BACKUPS, "state=Ready&" * 600)):
        assert lab.api.get(f"{path}?{query}").status_code in (200, 400, 414)


def test_a_restore_overwrites_no_volume_of_a_running_instance(start_daemon):
    lab = Lab(start_daemon())
    mine = lab.disk(MIB)
    vm = lab.instance([mine])
    backup = lab.backup(vm)
    ok(lab.api.post(vm["url"] + "start/"), 202)
    before = mine.read_bytes()
    body = {"backup": backup["uuid"], "path": str(mine), "mode": "overwrite"}
    assert "Online" in ok(lab.api.post("/ops/restores/", body), 409)["detail"]
    assert mine.read_bytes() == before and lab.get(backup)["state"] == "Ready"


def test_a_state_directory_behind_a_link_can_restore(start_daemon, tmp_path):
    """New volumes are opened without following links; the link in the way made every restore fail."""
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    lab = Lab(start_daemon(state_dir=tmp_path / "link" / "state"))
    disk = lab.disk(MIB)
    new = lab.restore(lab.backup(lab.instance([disk])))
    assert_same_bytes(disk, lab.volume_files(new)[0])
