"""What is secret is nowhere but where it belongs: a tour of everything with marked secrets, and then a look everywhere else."""

import http.client
import json
import os
import stat

import pytest

from faults.bench import needs_root
from helpers.api import Api, ok
from helpers.cinder_volumes import Cloud
from helpers.keystone import Keystone, basic, by_credential, by_password, project_scope
from helpers.lab import BACKUPS, INSTANCES, USERS, Lab
from helpers.wait import wait_for
from openapi.document import DOCUMENT

PASSWORD, NEXT, WRONG = "Mark-password-4711", "Mark-next-password-4712", "Mark-wrong-password-4713"
USER_DATA = "#cloud-config mark-user-data-4714"
SECRET, BAD_TOKEN = "mark-credential-secret-4715", "deadbeef" * 5


# Orders that need no body.
PLAIN = ("start", "stop", "restart", "unlink", "delete", "activate", "deactivate", "gc", "check", "scrub")


class Tour:
    """A daemon on which everything has happened once, and the secrets of it."""

    def __init__(self, daemon):
        self.d = daemon
        self.lab = Cloud(daemon)
        self.key = Keystone(daemon)
        self.people = {role: self.lab.user(role) for role in ("reader", "manager", "owner")}
        self.people |= {"nobody": self.lab.user(), "stranger": self.lab.user("manager", self.lab.new_project())}
        self.secrets = {"password": PASSWORD, "new password": NEXT, "wrong password": WRONG, "secret of a credential": SECRET, "wrong token": BAD_TOKEN}
        self.secrets |= {f"token of {name}": user.token for name, user in self.people.items()} | {"first token": daemon.token}
        self.go()

    def go(self):
        lab, key = self.lab, self.key
        ada = ok(lab.api.post(USERS, {"username": "ada", "password": PASSWORD}), 201)
        ok(lab.api.post("/api/project-permissions/", {"project": lab.project["url"], "user": ada["url"], "role": "manager"}), 201)
        waldur = ok(self.d.anonymous.post("/api-auth/password/", {"username": "ada", "password": PASSWORD}))["token"]
        session, _ = key.login(by_password("ada", PASSWORD), project_scope(lab.project))
        order = {"application_credential": {"name": "c", "secret": SECRET}}
        credential = ok(key.request("POST", f"/users/{ada['uuid']}/application_credentials", session, order), 201)["application_credential"]
        from_credential, _ = key.login(by_credential(credential))
        made = ok(lab.api.post(f"/ops/users/{ada['uuid']}/credentials/", {"project": lab.project["uuid"]}), 201)
        token = ok(lab.api.post("/ops/tokens/", {"user": "ada", "name": "n"}), 201)["token"]
        self.secrets |= {"login token": waldur, "session": session, "session of a program": from_credential, "made secret": made["secret"], "made token": token}
        # Secrets in the wrong places.
        anonymous = self.d.anonymous
        for body in ({"username": "ada", "password": WRONG}, {"username": "ada", "password": [WRONG]}, {"password": WRONG}):
            anonymous.post("/api-auth/password/", body)
        anonymous.post("/api-auth/password/", data=f'{{"username": "ada", "password": "{WRONG}"', headers={"Content-Type": "application/json"})
        key.post_login(by_password("ada", WRONG))
        key.post_login(by_credential(credential, WRONG))
        key.post_login({"methods": ["password"], "password": {"user": {"name": "ada", "domain": 7, "password": WRONG}}})
        key.get("/projects", headers=basic("ada", WRONG))
        key.get("/projects", BAD_TOKEN)
        key.get("/projects", session, headers={"X-Subject-Token": BAD_TOKEN})
        Api(self.d, BAD_TOKEN).get(BACKUPS)
        anonymous.get(BACKUPS, params={"x-auth-token": f"Token {token}"})
        anonymous.get(BACKUPS, headers={"Cookie": f"token={token}", "X-Forwarded-For": token, "Referer": f"http://x/?x-auth-token={token}"})
        ok(Api(self.d, waldur).post(f"{USERS}{ada['uuid']}/password/", {"password": "x"}), 400)
        ok(Api(self.d, waldur).post(f"{USERS}{ada['uuid']}/password/", {"password": NEXT}))
        lab.api.patch(ada["url"], {"password": WRONG, "email": "a@b.c"})
        self.break_in_the_middle(waldur)
        # Work, and work that fails, whose words name paths.
        disk = lab.disk(64 << 10)
        self.vm = lab.instance([disk], user_data=USER_DATA)
        backup = lab.wait_state(lab.start_backup(self.vm)["url"], "Ready")
        self.restored = lab.restore(backup)
        self.secrets["user_data"] = USER_DATA
        self.paths = {str(self.d.base)}
        aside = disk.with_name("aside")
        disk.rename(aside)
        lab.wait_state(lab.start_backup(self.vm)["url"], "Erred")
        os.symlink(aside, disk)
        lab.wait_state(lab.start_backup(self.vm)["url"], "Erred")
        disk.unlink()
        disk.mkdir()
        lab.wait_state(lab.start_backup(self.vm)["url"], "Erred")
        schedule = lab.schedule(self.vm, is_active=True)
        self.d.sql("UPDATE schedule SET next_trigger_at = 1 WHERE uuid = ?", (schedule["uuid"],))
        wait_for(lambda: not lab.get(schedule)["is_active"], "the schedule is switched off")
        disk.rmdir()
        aside.rename(disk)
        lab.failed_backup()
        lab.lost_snapshot()
        volume = lab.volume(1)
        lab.backup(volume)
        lab.path(volume).unlink()
        copy = lab.member.create("volumes", source_volid=volume["id"], size=1)
        wait_for(lambda: lab.member.show("volumes", copy)["status"] == "error", "the copy fails")
        for path in ("/nowhere/mark", str(self.d.root / "no-such-directory" / "x")):
            lab.api.post("/ops/restores/", {"backup": backup["uuid"], "path": path, "mode": "create"})
            lab.api.post(INSTANCES, {"name": "x", "project": lab.project["url"], "volumes": [{"path": path}]})
        task = ok(lab.api.post("/ops/restores/", {"backup": backup["uuid"], "path": str(self.d.root / "out.img"), "mode": "create"}), 202)["task"]
        wait_for(lambda: lab.get(f"/ops/tasks/{task}/")["state"] == "done", "the restore ends")
        key.check(session, method="DELETE")

    def break_in_the_middle(self, token):
        """Requests that are no requests."""
        for head in (f"GET /?x-auth-token={token} HTTP/9.9\r\n\r\n", f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Token {token}\r\nAuthorization: Token {token}\r\n\r\n",
                     f"POST / HTTP/1.1\r\nHost: a\r\nX-Auth-Token: {token}\r\nContent-Length: 99999999\r\n\r\n", f"{token} / HTTP/1.1\r\n\r\n"):
            connection = http.client.HTTPConnection("127.0.0.1", self.d.port, timeout=10)
            connection.connect()
            connection.sock.sendall(head.encode())
            while connection.sock.recv(4096):
                pass
            connection.close()

    def everything(self, caller):
        """All that a caller can read, page after page, and what is said to all of his orders that are none."""
        project = self.lab.project["uuid"]
        known = {"uuid": [self.vm["uuid"], self.restored["uuid"]], "id": [], "user_id": [self.people["manager"].user["uuid"]], "key": ["k"]}
        for collection in (BACKUPS, INSTANCES, USERS, "/api/projects/", "/api/quotas/", "/api/openstack-backup-schedules/"):
            answer = caller.get(collection, params={"page_size": 300})
            if answer.status_code == 200:
                known["uuid"] += [thing["uuid"] for thing in answer.json()[-3:]]
        for kind in ("volumes", "backups", "snapshots", "messages"):
            answer = caller.get(f"/v3/{project}/{kind}", headers={"OpenStack-API-Version": "volume 3.71"})
            if answer.status_code == 200:
                known["id"] += [thing["id"] for thing in answer.json()[kind][:4]]
        for method, template in DOCUMENT.operations:
            path = template.replace("{project_id}", project)
            name = "uuid" if "{uuid}" in path else "id" if "{id}" in path else None
            for value in known[name] if name else [""]:
                filled = path.replace("{%s}" % name, value).replace("{user_id}", known["user_id"][0]).replace("{key}", "k")
                query = {"scope": self.vm["url"], "page_size": 300} if "/events/" in path else {"page_size": 300} if path.startswith("/api/") else {}
                # Orders are broken, so that nothing changes; some are none the worse for it.
                body = None if method == "GET" else {"wrong": 1}
                if method != "DELETE" and template.strip("/").rpartition("/")[2] not in PLAIN:
                    yield caller.request(method, filled, body, params=query, headers={"OpenStack-API-Version": "volume 3.71"})


@pytest.fixture(scope="module")
def tour(start_module_daemon):
    daemon = start_module_daemon("[auth]\nlogin_attempts = 1000", env={"COFFERD_LOG": "trace"})
    return Tour(daemon)


def spellings(secret):
    """As text, as JSON has it, in percents, in base64 of HTTP Basic."""
    return {secret, json.dumps(secret)[1:-1], secret.replace(" ", "%20"), basic("ada", secret)["Authorization"].split()[1]}


def assert_nothing_in(text, secrets, where):
    found = [name for name, secret in secrets.items() if any(spelling in text for spelling in spellings(secret))]
    assert not found, f"{found} in {where}: {text[:300]}"


@pytest.mark.fault("access: secrets in the log, at every level")
def test_no_secret_is_logged_even_at_the_level_trace(tour):
    log = tour.d.log()
    assert " DEBUG " in log and len(log) > 5_000
    # Except, once and on the terminal, the token of a new coffer.
    shown = f"admin token (shown once, saved in {tour.d.state_dir / 'admin.token'}): {tour.d.token}"
    assert_nothing_in(log.replace(shown, ""), tour.secrets, "the log")


@pytest.mark.parametrize("name", ["reader", "manager", "owner", "nobody", "stranger"])
def test_no_secret_and_no_path_of_the_host_is_told_to_users(tour, name, ledger):
    caller = tour.people[name]
    count = 0
    for answer in tour.everything(caller):
        with ledger.fault("access: secrets and paths of the host in answers to users"):
            assert answer.status_code < 500, (answer.request.method, answer.request.path_url, answer.text)
            text = answer.text + str(dict(answer.headers))
            assert_nothing_in(text, tour.secrets, f"{answer.request.method} {answer.request.path_url}")
            assert not [path for path in tour.paths if path in text], f"{answer.request.method} {answer.request.path_url}: {text[:500]}"
        count += 1
    assert count > 100


def test_not_even_staff_reads_secrets_again(tour):
    """User data is staff's to see, and where things lie."""
    secrets = {name: secret for name, secret in tour.secrets.items() if name != "user_data"}
    for answer in tour.everything(tour.lab.api):
        assert_nothing_in(answer.text, secrets, f"{answer.request.method} {answer.request.path_url}")
    assert USER_DATA in tour.lab.api.get(tour.vm["url"]).text


def test_no_secret_stands_in_the_coffer_in_the_clear(tour):
    """Of users' data their own is kept; of what opens doors only hashes."""
    secrets = {name: secret for name, secret in tour.secrets.items() if name != "user_data"}
    dump = "\n".join(
        repr(row) for table, in tour.d.sql("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('pack', 'segment', 'pack_toc')")
        for row in tour.d.sql(f'SELECT * FROM "{table}"')
    )
    assert "argon2id" in dump
    assert_nothing_in(dump, secrets, "the coffer")


def test_no_secret_is_an_argument_or_in_the_environment(tour):
    for name in ("cmdline", "environ"):
        with open(f"/proc/{tour.d.pid}/{name}", "rb") as f:
            assert_nothing_in(f.read().decode(errors="replace"), tour.secrets, name)


@needs_root
def test_its_memory_is_nobody_elses(start_daemon):
    """Not of another process of the same user, nor a core file's: then what /proc has of it belongs to root (proc_pid_environ(5))."""
    daemon = start_daemon(start=False, wrapper=["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--"])
    daemon.base.chmod(0o711)
    os.chown(daemon.state_dir, 12345, 12345)
    os.chmod(daemon.config_file, 0o644)
    daemon.start()
    assert "Uid:\t12345" in open(f"/proc/{daemon.pid}/status").read()
    assert os.stat(f"/proc/{daemon.pid}/environ").st_uid == 0
    assert Lab(daemon).project["uuid"], "and it works"


def test_what_is_written_is_readable_by_its_owner_only(tour):
    """Whatever the umask of the daemon (here it is the tests'), and of what it makes for others as well."""
    lab = tour.lab
    copy = tour.d.root / "copy.db"
    task = ok(lab.api.post("/ops/snapshot/", {"path": str(copy)}), 202)["task"]
    wait_for(lambda: lab.get(f"/ops/tasks/{task}/")["state"] == "done", "the copy ends")
    files = [copy, tour.d.root / "out.img"]
    files += [tour.d.state_dir / name for name in ("coffer.db", "coffer.db-wal", "coffer.db-shm", "coffer.lock", "admin.token")]
    files += [path for directory in ("restored", "volumes") for path in (tour.d.state_dir / directory).rglob("*")]
    assert len(files) > 8
    for path in files:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path}: {mode:o}"
    assert stat.S_IMODE(os.stat(tour.d.state_dir / "cofferd.sock").st_mode) == 0o660


@pytest.mark.parametrize("umask", ["000", "777"])
def test_the_umask_makes_no_difference(start_daemon, umask):
    daemon = start_daemon(start=False, wrapper=["sh", "-c", f'umask {umask}; exec "$@"', "sh"])
    lab = Lab(daemon.start())
    restored = lab.restore(lab.backup(lab.instance([64 << 10])))
    for name in ("coffer.db", "coffer.db-wal", "coffer.db-shm", "coffer.lock", "admin.token"):
        # A mask takes away, it never gives: what it takes from the owner, root has anyway.
        assert stat.S_IMODE((daemon.state_dir / name).stat().st_mode) & 0o177 == 0, name
    path, = lab.volume_files(restored)
    assert stat.S_IMODE(path.stat().st_mode) & 0o177 == 0 and stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((daemon.state_dir / "cofferd.sock").stat().st_mode) == 0o660


@pytest.mark.parametrize("mode, words", [(0o777, "everybody may write to the state directory"), (0o757, "everybody may write"), (0o775, "others may write to"), (0o1777, "others may write to")])
@pytest.mark.fault("access: the state directory is open to others")
def test_a_state_directory_that_others_write_to_is_refused_or_told_of(start_daemon, mode, words):
    """Whoever can, puts a coffer and a token of his own there."""
    daemon = start_daemon(start=False)
    daemon.state_dir.chmod(mode)
    if words.startswith("everybody"):
        with pytest.raises(AssertionError, match="ended with 1"):
            daemon.start()
        assert words in daemon.log() and not daemon.coffer.exists()
    else:
        daemon.start()
        assert f"{words} {daemon.state_dir}" in daemon.log()


@pytest.mark.parametrize("name", ["coffer.db", "admin.token"])
def test_files_that_others_can_read_are_told_of(start_daemon, name):
    """As after a copy was put in their place."""
    daemon = start_daemon()
    assert "others may" not in daemon.log()
    daemon.stop()
    (daemon.state_dir / name).chmod(0o644)
    daemon.start()
    assert f"others may open {daemon.state_dir / name}; chmod 600 it" in daemon.log()
