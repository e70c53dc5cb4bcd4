"""Paths that somebody changes between the look and the use: names are exchanged, linked and made anew while they are registered, backed up,
and restored to. What is read and written is always what was allowed."""

import ctypes
import os
import socket
import stat
import subprocess
import threading

import pytest

from faults.bench import LONG, needs_root
from helpers.api import ok
from helpers.daemon import slow_reads
from helpers.disks import MIB, make_raw
from helpers.lab import INSTANCES, Lab
from helpers.wait import wait_for

RENAME_EXCHANGE = 2
ROUNDS = 1500 if LONG else 150
libc = ctypes.CDLL(None, use_errno=True)
SECRET = b"this is not yours " * 4096


def exchange(one, other):
    """Two names change places at once (renameat2(2))."""
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Juggler:
    """Exchanges two names without end, beside what the test does."""

    def __init__(self, one, other):
        self.names, self.on, self.count = (one, other), True, 0
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while self.on:
            exchange(*self.names)
            self.count += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.on = False
        self.thread.join()
        if self.count % 2:
            exchange(*self.names)


@pytest.fixture
def lab(start_daemon):
    lab = Lab(start_daemon('[engine]\njobs = 4\n[auth]\nlogin_attempts = 1000'))
    lab.outside = lab.d.base / "outside"
    lab.outside.mkdir()
    (lab.outside / "image").write_bytes(SECRET)
    return lab


def register(lab, path, code=None):
    answer = lab.api.post("/ops/volumes/", {"path": str(path), "project": lab.project["uuid"]})
    return ok(answer, code) if code else answer


def finished(lab, answer):
    task = f"/ops/tasks/{ok(answer, 202)['task']}/"
    wait_for(lambda: lab.get(task)["state"] != "running", "the task ends", 60)
    return lab.get(task)


def stored_secret(lab):
    """Whether any backup holds what was never allowed; small disks are kept as one chunk, raw or compressed."""
    for backup in lab.api.list("/api/openstack-backups/"):
        if backup["state"] == "Ready":
            out = lab.d.root / lab.unique("out")
            assert finished(lab, lab.api.post("/ops/restores/", {"backup": backup["uuid"], "path": str(out), "mode": "create"}))["state"] == "done"
            content = out.read_bytes()
            out.unlink()
            if SECRET[:18] in content:
                return True
    return False


# ---------------------------------------------------------------- what can be at a path


def odd_places(lab):
    """Paths that no volume may have: name -> path, and what must not be opened is there."""
    root = lab.d.root
    (root / "directory").mkdir()
    os.mkfifo(root / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "socket"))
    server.close()
    os.symlink(lab.outside / "image", root / "link")
    os.symlink(lab.outside, root / "way")
    os.symlink("loop", root / "loop")
    (root / "empty").touch()
    os.link(lab.outside / "image", lab.outside / "other-name")
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(root / "no-such-disk", stat.S_IFBLK | 0o600, os.makedev(259, 1048000))
    places = {name: root / name for name in ("directory", "fifo", "socket", "link", "loop", "empty", "null", "no-such-disk", "missing")}
    return places | {
        "through a link": root / "way" / "image", "dots": root / ".." / "outside" / "image", "a dot and slashes": f"{root}//.//../outside//image",
        "with a slash at its end": f"{lab.outside / 'image'}/", "a NUL": f"{root}/a\0b", "very long": f"{root}/" + "a/" * 2000, "long name": f"{root}/" + "n" * 300,
        "relative": "image", "no path": "", "only the root": "/", "a home": "~/image", "a descriptor of the daemon": "/proc/self/fd/3",
        "another descriptor": "/dev/fd/5", "standard input": "/dev/stdin", "memory": "/proc/self/mem", "all memory": "/proc/kcore",
        "a root by chance": f"{root}-elsewhere/image", "a URL": f"file://{lab.outside / 'image'}",
        "the coffer": lab.d.coffer, "the token": lab.d.state_dir / "admin.token",
    }


@pytest.mark.parametrize("roots", ["its own", "all of the host"])
def test_nothing_is_registered_or_written_that_is_no_volume_below_a_root(lab, ledger, roots):
    places = odd_places(lab)
    backup = lab.backup(lab.instance([64 << 10]))
    if roots == "all of the host":
        lab.d.configure('[volumes]\nroots = ["/"]')
        lab.d.restart()
        # Then only what is no volume at all is refused.
        for name in ("link", "through a link", "dots", "a dot and slashes", "a root by chance", "with a slash at its end"):
            places.pop(name)
        places = {name: path for name, path in places.items() if name != "all memory" or os.path.exists(path)}
    before = (lab.outside / "image").read_bytes(), lab.d.coffer.stat().st_ino
    for name, path in places.items():
        with ledger.fault("access: a path that is no volume below a root"):
            assert register(lab, path).status_code == 400, name
            body = {"name": "x", "project": lab.project["url"], "volumes": [{"path": str(path)}]}
            assert lab.api.post(INSTANCES, body).status_code == 400, name
            for mode in ("overwrite", "create") if name not in ("missing", "long name") else ("overwrite",):
                order = {"backup": backup["uuid"], "path": str(path), "mode": mode}
                assert lab.api.post("/ops/restores/", order).status_code == 400, (name, mode)
            if name != "missing":
                assert lab.api.post("/ops/snapshot/", {"path": str(path)}).status_code == 400, name
    assert ((lab.outside / "image").read_bytes(), lab.d.coffer.stat().st_ino) == before
    assert lab.api.get("/ops/status/").status_code == 200


@needs_root
def test_a_name_that_is_no_text_is_refused(lab):
    """A link may lead to one."""
    odd = os.path.join(os.fsencode(lab.d.root), b"\xff\xfe")
    with open(odd, "wb") as f:
        f.write(SECRET)
    os.symlink(odd, lab.d.root / "link")
    assert "UTF-8" in register(lab, lab.d.root / "link", 400)["path"][0]


def test_a_link_to_a_reflink_copys_directory_is_seen_through(lab):
    """What lies there is removed some day."""
    directory = lab.d.root / ".cofferd"
    directory.mkdir()
    make_raw(directory / ("0" * 32), 64 << 10)
    os.symlink(directory, lab.d.root / "images")
    assert "belongs to the coffer" in register(lab, lab.d.root / "images" / ("0" * 32), 400)["path"][0]


# ---------------------------------------------------------------- the coffer in disguise


@pytest.fixture
def disguised(lab):
    """A registered disk, in the place of which the coffer can be put. Both files, and the machine."""
    disk = make_raw(lab.d.root / "disk.img", 64 << 10)
    vm = lab.instance([disk])
    backup = lab.backup(vm)

    def put(how):
        disk.rename(lab.d.root / "aside.img")
        if how == "hard link":
            os.link(lab.d.coffer, disk)
        else:
            os.symlink(lab.d.coffer, disk)

    lab.put, lab.disk_file, lab.vm, lab.first = put, disk, vm, backup
    return lab


def assert_still_locked(lab):
    """Another process cannot take the coffer: the locks that SQLite has on it are there."""
    done = subprocess.run(["cat", "/proc/locks"], capture_output=True, text=True).stdout
    inode = os.stat(lab.d.state_dir / "coffer.db").st_ino
    ours = [line for line in done.splitlines() if f" {lab.d.pid} " in line and line.split()[5 if "->" not in line else 6].endswith(f":{inode}")]
    assert ours, f"no lock of {lab.d.pid} on inode {inode}:\n{done}"


@pytest.mark.parametrize("how", ["hard link", "link"])
@pytest.mark.fault("access: a registered disk becomes the coffer")
def test_a_disk_that_becomes_the_coffer_is_not_read(disguised, how):
    lab = disguised
    assert_still_locked(lab)
    lab.put(how)
    failed = lab.wait_state(lab.start_backup(lab.vm)["url"], "Erred")
    assert ("become one of the coffer's own files" if how == "hard link" else "is a symbolic link") in failed["error_message"]
    assert str(lab.d.state_dir) not in failed["error_message"]
    assert_still_locked(lab)
    lab.d.restart(kill=True)
    assert lab.get(lab.first)["state"] == "Ready"


@pytest.mark.parametrize("how", ["hard link", "link"])
@pytest.mark.fault("access: the target of a restore becomes the coffer")
def test_a_disk_that_becomes_the_coffer_is_not_written(disguised, how):
    """After the order was taken: the one that runs before it keeps it waiting."""
    lab = disguised
    slow = make_raw(lab.d.root / "slow.img", 16 * MIB)
    lab.d.stop()
    lab.d.wrapper = slow_reads(slow, "200ms")
    lab.d.configure("[engine]\njobs = 1")
    lab.d.start()
    held = lab.start_backup(lab.instance([slow]))
    order = {"backup": lab.first["uuid"], "path": str(lab.disk_file), "mode": "overwrite"}
    answer = lab.api.post("/ops/restores/", order)
    assert answer.status_code == 202, answer.text
    lab.put(how)
    task = finished(lab, answer)
    assert task["state"] == "failed" and ("belongs to the coffer" if how == "hard link" else "is a symbolic link") in task["error_message"]
    lab.wait_state(held["url"], "Ready")
    assert_still_locked(lab)
    lab.d.interrupt("term")
    assert lab.get(lab.first)["state"] == "Ready"


# ---------------------------------------------------------------- races


@needs_root
def test_a_directory_that_is_exchanged_for_a_link_leads_nowhere(lab, ledger):
    """While disks in it are registered, backed up, restored over and made, again and again."""
    images, trap = lab.d.root / "images", lab.d.root / "trap"
    images.mkdir()
    make_raw(images / "image", len(SECRET), density=1.0)
    for name in ("read", "taken"):
        make_raw(images / name, len(SECRET), density=1.0)
        (lab.outside / name).write_bytes(SECRET)
    good = (images / "image").read_bytes()
    trap.symlink_to(lab.outside)
    vm = lab.instance([images / "read"])
    backup = lab.backup(vm)
    registered = backed_up = 0
    with Juggler(images, trap) as juggler:
        for n in range(ROUNDS):
            with ledger.fault("access: a directory is exchanged for a link while it is used"):
                answer = register(lab, images / "image")
                assert answer.status_code in (201, 400), answer.text
                if answer.status_code == 201:
                    registered += 1
                    volume = answer.json()
                    assert volume["path"] == str(images / "image")
                    assert lab.api.delete(f"/ops/volumes/{volume['uuid']}/").status_code == 204
                if n % 10 == 0:
                    new = {"backup": backup["uuid"], "path": str(images / f"new{n}"), "mode": "create"}
                    over = {"backup": backup["uuid"], "path": str(images / "taken"), "mode": "overwrite"}
                    for order in (new, over):
                        answer = lab.api.post("/ops/restores/", order)
                        assert answer.status_code in (202, 400, 409), answer.text
                        if answer.status_code == 202:
                            finished(lab, answer)
                    made = lab.start_backup(vm)
                    state = wait_for(lambda: (s := lab.get(made)["state"]) != "Backing up" and s, "the backup ends")
                    backed_up += state == "Ready"
                    assert state in ("Ready", "Erred")
    assert juggler.count > ROUNDS and registered > 0
    assert sorted(path.name for path in lab.outside.iterdir()) == ["image", "read", "taken"], "something was made outside"
    assert all(path.read_bytes() == SECRET for path in lab.outside.iterdir()), "something was written outside"
    assert (images / "image").read_bytes() == good
    assert not stored_secret(lab)
    assert_still_locked(lab)


@needs_root
def test_an_image_that_is_exchanged_for_the_coffer_is_never_opened_as_one(lab, ledger):
    """Not even for a moment: closing it would drop the locks of the daemon."""
    disk, target = make_raw(lab.d.root / "disk.img", 256 << 10), make_raw(lab.d.root / "target.img", 256 << 10)
    vm = lab.instance([disk])
    backup = lab.backup(vm)
    others = [lab.d.root / "other1.img", lab.d.root / "other2.img"]
    for other in others:
        os.link(lab.d.coffer, other)
    with Juggler(disk, others[0]) as juggler, Juggler(target, others[1]):
        for n in range(ROUNDS // 5):
            with ledger.fault("access: a disk is exchanged for the coffer while it is used"):
                made = lab.start_backup(vm)
                answer = lab.api.post("/ops/restores/", {"backup": backup["uuid"], "path": str(target), "mode": "overwrite"})
                assert answer.status_code in (202, 400), answer.text
                if answer.status_code == 202:
                    finished(lab, answer)
                wait_for(lambda: lab.get(made)["state"] != "Backing up", "the backup ends")
                assert_still_locked(lab)
    assert juggler.count > ROUNDS
    assert lab.d.sql("PRAGMA integrity_check") == [("ok",)]
    lab.d.restart(kill=True)
    assert lab.get(backup)["state"] == "Ready"
