"""Every kind of place does what is asked of it: the trait in full by the tests in src/objects/tests.rs, and what the daemon and its
command line make of it."""

import json
import os
import re
import signal
import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.api import ok
from helpers.wait import wait_for
from objects.conftest import S3_CREDENTIALS, make_container, s3_table, swift_table
from objects.keystone_stand_in import APPLICATION, PASSWORD

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = ["put", "size", "get", "get a range", "list", "delete", "get what is gone"]


def keystone_table(keystone, container, how, **more):
    table = {"kind": "swift", "auth_url": keystone.url, "region": "RegionTwo", "container": container}
    if how == "password":
        return table | {"user": "ada", "project": "science", "secret": f"export OS_PASSWORD='{PASSWORD}'\n"} | more
    secret = f'OS_APPLICATION_CREDENTIAL_ID="{APPLICATION[0]}"\nOS_APPLICATION_CREDENTIAL_SECRET="{APPLICATION[1]}"\n'
    return table | {"secret": secret} | more


@pytest.fixture(scope="session")
def trait_tests():
    """The program that cargo makes of the unit tests."""
    command = ["cargo", "test", "--release", "--locked", "--no-run", "--message-format=json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    program, = [m["executable"] for m in made if m.get("profile", {}).get("test") and m["target"]["kind"] == ["lib"] and m["executable"]]
    return program


@pytest.mark.parametrize("kind", ["swift", "s3", "moto"])
def test_a_server_does_all_that_is_asked_of_a_place(kind, request, trait_tests, tmp_path):
    if kind == "moto":
        table = s3_table(request.getfixturevalue("moto").url, request.getfixturevalue("bucket_of_moto"), prefix=tmp_path.name)
    else:
        swift, container = request.getfixturevalue("swift"), request.getfixturevalue("container")
        table = (swift_table if kind == "swift" else s3_table)(swift.url, container, prefix="host/one")
    credentials = tmp_path / "credentials"
    credentials.write_text(table.pop("secret"))
    credentials.chmod(0o600)
    settings = tmp_path / "settings.toml"
    settings.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in {**table, "credentials": str(credentials)}.items()))
    name = "objects::tests::a_server_does_all_that_is_asked_of_a_place"
    done = subprocess.run([trait_tests, "--ignored", "--exact", name], env=os.environ | {"COFFERD_TEST_OBJECTS": str(settings)},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["swift", "keystone password", "keystone application", "s3", "moto", "directory"])
def test_the_daemon_tries_it_out(kind, request, host, tmp_path):
    if kind == "directory":
        table = {"kind": "directory", "directory": str(tmp_path), "prefix": "sub"}
    elif kind == "moto":
        table = s3_table(request.getfixturevalue("moto").url, request.getfixturevalue("bucket_of_moto"))
    else:
        swift, container = request.getfixturevalue("swift"), request.getfixturevalue("container")
        if kind.startswith("keystone"):
            table = keystone_table(request.getfixturevalue("keystone"), container, kind.split()[1])
        else:
            table = {"swift": swift_table, "s3": s3_table}[kind](swift.url, container)
    host = host({"there": table})
    host.secrets |= {PASSWORD, APPLICATION[1]}
    if "keystone" in request.fixturenames:
        host.secrets |= request.getfixturevalue("keystone").tokens
    assert host.works("there") == STEPS
    done = host.run("repository", "test", "there")
    assert re.search(r"^put +\d+\.\d ms$", done.stdout, re.MULTILINE) and "there works: " in done.stdout
    if kind not in ("directory", "moto"):
        assert "status 20" in host.daemon.log(), "the log at trace shows what was done"


@pytest.mark.long
@pytest.mark.parametrize("how", ["password", "application credential"])
def test_keystone_lets_it_in(how, cloud, host):
    """Keystone itself, and a Swift that asks it."""
    table = {"kind": "swift", "auth_url": cloud.url, "container": "backups", "region": "RegionOne"}
    if how == "password":
        table |= {"user": "admin", "project": "admin", "secret": f"OS_PASSWORD={cloud.password}\n"}
    else:
        table |= {"secret": "OS_APPLICATION_CREDENTIAL_ID={}\nOS_APPLICATION_CREDENTIAL_SECRET={}\n".format(*cloud.application)}
    host = host({"r": table | {"timeout_s": 20}, "wrong": table | {"secret": "OS_PASSWORD=wrong-secret-1\n", "user": "admin", "project": "admin"}})
    host.secrets |= {cloud.password, cloud.application[1], "wrong-secret-1"}
    assert host.works("r") == STEPS
    host.fails("wrong", "the login at", "refuses access (status 401: The request you have made requires authentication.)", "check the user")


@pytest.mark.parametrize("kind", ["swift", "s3", "directory"])
def test_one_is_added_when_it_works(kind, request, host, tmp_path):
    host = host({})
    secret = tmp_path / "secret"
    if kind == "directory":
        arguments = ["--directory", str(tmp_path), "--prefix", "sub", "--copies", "coffer"]
    else:
        swift, container = request.getfixturevalue("swift"), request.getfixturevalue("container")
        secret.write_text("ST_KEY=testing\n" if kind == "swift" else S3_CREDENTIALS)
        secret.chmod(0o600)
        where = {"swift": ["--swift", f"{swift.url}/auth/v1.0", "--container", container, "--auth-version", "1", "--user", "test:tester"],
                 "s3": ["--s3", swift.url, "--bucket", container]}[kind]
        arguments = [*where, "--credentials", str(secret)]
    file = host.daemon.config_file
    file.chmod(0o640)
    before = file.read_text()
    done = host.run("repository", "add", "there", *arguments, "--default")
    assert done.returncode == 0 and re.search(r"^put +\d+\.\d ms$", done.stdout, re.MULTILINE) and "systemctl reload" in done.stdout, done.stderr
    assert file.read_text().startswith(before) and stat.S_IMODE(file.stat().st_mode) == 0o640
    host.daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(ok(host.daemon.staff.get("/ops/repositories/"))) == 1, "the reload")
    assert host.works("there") == STEPS
    assert ok(host.daemon.staff.get("/ops/repositories/there/"))["default"] is True
    assert ('copies = ["coffer"]' in file.read_text()) == (kind == "directory")
    again = host.run("repository", "add", "there", *arguments)
    assert again.returncode == 1 and "has a repository there already; nothing was changed" in again.stderr
    second = host.run("repository", "add", "other", *arguments, "--default")
    assert second.returncode == 1 and "expected one default at most" in second.stderr
    assert [name for name in os.listdir(file.parent) if name.startswith(file.name)] == [file.name], "nothing is left beside it"


@pytest.mark.parametrize("arguments, code, part", [
    (["x", "--s3", "http://127.0.0.1:1", "--bucket", "b"], 1, "aws_access_key_id"),
    (["x", "--s3", "http://127.0.0.1:1"], 2, "--bucket"),
    (["x", "--directory", "/nonexistent/of/tests"], 1, "there is no directory"),
    (["x", "--directory", "relative"], 1, "expected an absolute path"),
    (["x", "--directory", "/tmp", "--bucket", "b"], 1, "of kind s3"),
    (["x", "--s3", "http://a", "--swift", "http://b", "--bucket", "b"], 2, "cannot be used with"),
    (["x"], 2, "--directory"),
    (["coffer", "--no-test", "--directory", "/tmp"], 1, "the coffer itself has this name"),
    (["a\n[http]", "--no-test", "--directory", "/tmp"], 1, "expected a name of letters"),
])
def test_one_that_does_not_work_is_not_added(arguments, code, part, host):
    host = host({})
    before = host.daemon.config_file.read_bytes()
    done = host.run("repository", "add", *arguments)
    assert done.returncode == code and part in done.stderr, done.stderr
    assert host.daemon.config_file.read_bytes() == before


def test_they_are_listed_without_secrets(host, swift, tmp_path):
    host = host({"cloud": s3_table(swift.url, "b", prefix="x"), "usb": {"kind": "directory", "directory": str(tmp_path)}})
    done = host.run("repository", "list")
    assert re.search(rf"^cloud  s3 +bucket b at {swift.url}  +x +0 +0 +0 B +0 B$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(rf"^usb +directory +directory {tmp_path} +- +0 +0 +0 B +0 B$", done.stdout, re.MULTILINE), done.stdout
    assert "testing" not in json.dumps(ok(host.daemon.staff.get("/ops/repositories/cloud/")))
    ok(host.daemon.staff.get("/ops/repositories/none/"), 404)
    ok(host.daemon.staff.post("/ops/repositories/none/test/"), 404)
    ok(host.daemon.anonymous.post("/ops/repositories/usb/test/"), 401)
    assert "it names cloud, usb" in host.fails("none", "no repository \"none\"")


def test_a_reload_takes_over_changed_repositories(host, tmp_path):
    host = host({"a": {"kind": "directory", "directory": str(tmp_path)}})
    host.daemon.configure(f"[repositories.b]\nkind = 'directory'\ndirectory = '{tmp_path}'\n")
    os.kill(host.daemon.pid, signal.SIGHUP)
    wait_for(lambda: [r["name"] for r in ok(host.daemon.staff.get("/ops/repositories/"))] == ["b"], "the reload")
    assert host.works("b") == STEPS
    host.fails("a", "it names b")


@pytest.mark.parametrize("how", ["swift", "keystone", "s3"])
def test_wrong_secrets_are_refused_with_what_to_check(how, host, swift, keystone, container):
    wrong = "wrong-secret-1"
    table = {
        "swift": lambda: swift_table(swift.url, container, secret=f"ST_KEY={wrong}\n"),
        "keystone": lambda: keystone_table(keystone, container, "password", secret=f"OS_PASSWORD={wrong}\n"),
        "s3": lambda: s3_table(swift.url, container, secret=S3_CREDENTIALS.replace("testing", wrong)),
    }[how]()
    host = host({"r": table})
    host.secrets.add(wrong)
    host.fails("r", "refuses access (status 40", "check the user or key")


def test_who_may_only_read_is_refused(host, swift, container):
    host({"r": swift_table(swift.url, container, user="test:reader", secret="ST_KEY=reading\n")}).fails("r", "put: ", "status 403")


@pytest.mark.fault("store: the container is missing")
@pytest.mark.parametrize("kind", ["swift", "s3", "moto", "directory"])
def test_a_container_that_is_missing_is_named(kind, request, host, tmp_path):
    if kind == "directory":
        host = host({"r": {"kind": "directory", "directory": str(tmp_path / "not-mounted")}})
        host.fails("r", f"there is no directory {tmp_path}/not-mounted: make it")
        assert not (tmp_path / "not-mounted").exists()
        return
    url = request.getfixturevalue("moto" if kind == "moto" else "swift").url
    host({"r": (swift_table if kind == "swift" else s3_table)(url, "no-such-place")}).fails("r", "there is no ", "no-such-place", "make it")


@pytest.mark.fault("store: a quota is used up")
def test_a_quota_that_is_used_up_is_no_reason_to_try_again(host, swift, container, proxy):
    make_container(swift, container, X_Container_Meta_Quota_Bytes="1000")
    host = host({"r": swift_table(proxy.url, container)}, [proxy])
    host.fails("r", "its quota is used up", "make room")
    assert proxy.count("PUT") == 1


def test_the_catalog_is_searched_by_region_and_interface(host, keystone, container):
    host = host({
        "region": keystone_table(keystone, container, "application", region="RegionNine"),
        "interface": keystone_table(keystone, container, "application", interface="admin"),
        "elsewhere": keystone_table(keystone, container, "application", region="RegionOne"),
        "version": keystone_table(keystone, container, "application", auth_url=keystone.url + "/v2.0"),
    })
    host.secrets |= {APPLICATION[1]}
    host.fails("region", "no public endpoint of object-store in region RegionNine", "public in RegionTwo", "set region")
    host.fails("interface", "no admin endpoint")
    host.fails("elsewhere", "http://127.0.0.1:1 cannot be reached")
    host.fails("version", "there is no login at", "auth_version")


def test_a_token_is_renewed_before_it_ends(host, keystone, container):
    host = host({"r": keystone_table(keystone, container, "password")})
    host.secrets |= {PASSWORD}
    assert host.works("r") == STEPS
    assert len(keystone.logins) == 1
    keystone.lifetime = timedelta(milliseconds=20)
    assert host.works("r") == STEPS
    assert len(keystone.logins) > 2


def test_a_clock_that_is_ahead_does_not_make_tokens_useless(host, keystone, container):
    """By this host's clock the token has ended before it comes: it is used until the server refuses it."""
    keystone.lifetime = timedelta(hours=-2)
    host = host({"r": keystone_table(keystone, container, "password")})
    host.secrets |= {PASSWORD}
    assert host.works("r") == STEPS
    assert len(keystone.logins) == 1


@pytest.mark.fault("access: others can read the secrets of a repository")
def test_a_file_of_secrets_that_others_can_read_is_refused(host, swift, container):
    host = host({"r": swift_table(swift.url, container)})
    path = host.daemon.base / "r.credentials"
    path.chmod(0o644)
    host.fails("r", str(path), "mode 0644", "chmod 600")
    path.chmod(0o600)
    assert host.works("r") == STEPS
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))
    host.fails("r", "symbolic link")
    path.unlink()
    host.fails("r", "No such file")
    path.write_text("ST_KEE=testing\n")
    path.chmod(0o600)
    host.fails("r", "unknown key ST_KEE")


def test_a_name_without_a_slash_is_a_credential_of_the_service(host, swift, container, tmp_path):
    (tmp_path / "cloud").write_text("ST_KEY=testing\n")
    (tmp_path / "cloud").chmod(0o440)
    table = swift_table(swift.url, container, credentials="cloud")
    del table["secret"]
    assert host({"r": table}, env={"CREDENTIALS_DIRECTORY": str(tmp_path)}).works("r") == STEPS
    host({"r": table}).fails("r", "LoadCredential=")


def test_objects_in_a_directory_are_for_the_daemon_alone(host, tmp_path):
    host = host({"r": {"kind": "directory", "directory": str(tmp_path)}})
    assert host.works("r") == STEPS
    assert [p.name for p in tmp_path.rglob("*")] == ["test"] and stat.S_IMODE((tmp_path / "test").stat().st_mode) == 0o700


@pytest.mark.fault("store: the disk is full")
def test_a_full_disk_is_told(host, tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", tmp_path], check=True)
    try:
        host({"r": {"kind": "directory", "directory": str(tmp_path)}}).fails("r", "is full", "make room")
        assert not [p for p in tmp_path.rglob("*") if p.is_file()], "what was not finished is removed"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("text, parts", [
    ("kind = 's3'\nbucket = 'b'", ["repositories.r.endpoint", "https://"]),
    ("kind = 's3'\nendpoint = 'http://ada:hunter2@h'\nbucket = 'b'", ["repositories.r.endpoint", "without user, password"]),
    ("kind = 'tape'", ["tape", "swift"]),
    ("kind = 'directory'\ndirectory = '/d'\nbucket = 'b'", ["repositories.r.bucket", "of kind s3"]),
])
def test_a_wrong_configuration_stops_the_daemon(start_daemon, text, parts):
    daemon = start_daemon(start=False)
    daemon.config_file.write_text(daemon.config_file.read_text() + f"\n[repositories.r]\n{text}\n")
    with pytest.raises(AssertionError) as caught:
        daemon.start()
    for part in parts:
        assert part in str(caught.value)
    assert "hunter2" not in str(caught.value)
