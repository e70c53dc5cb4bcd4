"""Text from outside is text: names steer no terminal, no path, no header, no statement; parameters are values and nothing else."""

import re
import subprocess
import unicodedata

import pytest

from faults.bench import LONG
from helpers.api import ok
from helpers.cinder_volumes import Cloud
from helpers.lab import FLAVORS, IMAGES, INSTANCES, PROJECTS, SCHEDULES, USERS
from openapi.document import DOCUMENT

NAMES = {
    "path": "../../../../tmp/pwned", "dots": "..", "slash": "/etc/passwd", "backslash": "..\\..\\x", "screen": "\x1b[2J\x1b]0;pwned\x07\x1b[31m", "c1": "\x9b2J\x9d0;x\x9c",
    "order": "exe\u202egpj.\u2066x\u200f", "html": "<script>alert(1)</script><img src=x onerror=y>", "crlf": "a\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK",
    "record": "a\n2026-01-01T00:00:00.000Z ERROR forged", "format": "%s%n%x {} {0} {x!r} $HOME", "sql": "'; DROP TABLE backup; --", "shell": "`id` $(id) ; id | id",
    "lines": "a\u2028b\u2029c\u0085d", "delete": "a\x7f\x08\x08b", "dash": "--help", "percent": "100%_", "long": "ß" * 140,
}
# What is no username: usernames are words.
MARKS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def world(start_module_daemon):
    """One object of each kind with each name that is taken."""
    daemon = start_module_daemon(env={"COFFERD_LOG": "trace"})
    cloud = Cloud(daemon)
    cloud.taken = []
    for key, name in NAMES.items():
        project = cloud.api.post(PROJECTS, {"name": name, "description": name})
        project = project.json() if project.status_code == 201 else cloud.project
        body = {"name": name, "description": name, "project": project["url"], "volumes": [{"path": str(cloud.disk(64 << 10)), "name": name}]}
        vm = cloud.api.post(INSTANCES, body)
        assert vm.status_code in (201, 400), vm.text
        if vm.status_code != 201:
            continue
        vm = vm.json()
        cloud.taken.append(key)
        assert (vm["name"], vm["description"]) == (name, name)
        backup = cloud.wait_state(cloud.start_backup(vm, description=name)["url"], "Ready")
        assert backup["description"] == name and backup["instance_name"] == name
        cloud.schedule(vm, description=name)
        cloud.api.post(USERS, {"username": f"user-{key}", "full_name": name, "native_name": name, "job_title": name})
        for kind in (FLAVORS, IMAGES):
            cloud.api.post(kind, {"name": name, "cores": 1, "ram": 1, "disk": 1})
        volume = cloud.member.post("/volumes", {"volume": {"size": 1, "name": name, "description": name, "metadata": {"k": name}}})
        if volume.status_code == 202:
            volume = cloud.member.wait("volumes", volume.json()["volume"])
            order = {"backup": {"volume_id": volume["id"], "name": name, "description": name, "container": name}}
            made = cloud.member.post("/backups", order)
            if made.status_code == 202:
                cloud.member.wait("backups", made.json()["backup"])
    cloud.vm = vm
    return cloud


def test_most_names_are_taken(world):
    """Else these tests would say little."""
    assert len(world.taken) >= len(NAMES) - 2, set(NAMES) - set(world.taken)


@pytest.mark.fault("access: names that would steer a terminal")
@pytest.mark.parametrize("command", [
    "list", "list --volumes", "instance list", "project list", "user list", "schedule list", "volume list", "flavor list", "image list", "events", "quota list",
    "role list", "stats", "token list",
])
def test_no_command_prints_what_steers_a_terminal(world, command):
    for json in ([], ["--json"]):
        run = [world.d.binary, "--config", str(world.d.config_file), *json, *command.split()]
        done = subprocess.run(run, capture_output=True, timeout=60)
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, text
        found = MARKS.search(text)
        assert not found, f"{command}: {unicodedata.name(found[0], hex(ord(found[0])))} in {text[max(0, found.start() - 60):found.end() + 20]!r}"


@pytest.mark.fault("access: names that would steer a terminal")
def test_no_sentence_of_a_command_does_either(world):
    """Also where a name stands in the middle of one."""
    for key in world.taken:
        vm = next(i for i in world.api.list(INSTANCES) if i["name"] == NAMES[key])
        uuid = next(b for b in world.api.list("/api/openstack-backups/", instance=vm["url"]))["uuid"]
        for command in (
            ["schedule", "add", vm["uuid"], "--cron", "0 0 29 2 *", "--keep-count", "1"], ["backup", vm["uuid"]], ["show", uuid],
            ["instance", "show", vm["uuid"]], ["instance", "start", vm["uuid"]], ["instance", "remove", vm["uuid"]], ["delete", uuid],
        ):
            run = [world.d.binary, "--config", str(world.d.config_file), *command]
            done = subprocess.run(run, capture_output=True, timeout=60)
            text = (done.stdout + done.stderr).decode()
            assert "panicked" not in text
            assert not MARKS.search(text), f"{command}: {text!r}"
            assert key != "record" or not re.search("^2026-01-01", text, re.M), f"{command}: {text!r}"


@pytest.mark.fault("access: names that would forge a record of the log")
def test_the_log_holds_them_as_text(world):
    log = world.d.log()
    assert not MARKS.search(log)
    assert not [line for line in log.splitlines() if line.startswith("2026-01-01")]
    assert "forged" in log


@pytest.mark.fault("access: names that would be paths")
def test_no_name_becomes_a_path(world):
    files = [path.relative_to(world.d.base) for path in world.d.base.rglob("*")]
    for path in files:
        if path.parts[0] == "state":
            assert re.fullmatch(r"state(/(restored|volumes)(/[0-9a-f-]+(\.raw|\.img)?)*|/(coffer|admin|cofferd)[a-z.-]*)?", str(path)), path
    assert not [path for path in files if "pwned" in str(path)]


@pytest.mark.fault("access: text that would end a header")
def test_no_text_ends_a_header(world):
    """In whatever is given back in one: ids of requests, places, links, the name of the host."""
    evil = "x%0d%0aX-Evil:%201%0d%0a%0d%0a<html>"
    paths = ["/api/projects/?name=" + evil, f"/api/projects/{evil}/", "/v3/" + evil + "/volumes", f"/v3/{world.project['uuid']}/volumes?limit=1&name={evil}",
             f"/identity/v3/projects?name={evil}", f"/identity/{evil}", "/" + evil, f"/v3/{world.project['uuid']}/volumes?limit=1&sort={evil}"]
    sent = {"X-Openstack-Request-Id": "req-evil\tx", "X-Request-Id": "evil", "Accept-Language": "evil", "X-Forwarded-Host": "evil.example"}
    for path in paths:
        for method in ("GET", "POST", "OPTIONS"):
            answer = world.api.request(method, path, {} if method == "POST" else None, headers=sent | {"X-Auth-Token": world.d.token})
            assert answer.status_code < 500 and "X-Evil" not in answer.headers, answer.text
            assert answer.headers["Content-Type"] in ("application/json", None) and not answer.text.startswith("<")
            assert "evil.example" not in answer.text + str(answer.headers)
            assert "req-evil" not in str(answer.headers)


PAYLOADS = ["' OR '1'='1", "'; DELETE FROM backup; --", "x') OR ('1'='1", "0 OR 1=1", "sto%ge", "stor_ge"]
if LONG:
    PAYLOADS += ["' OR 1=1 --", '" OR ""="', "1 UNION SELECT hash FROM token", "%%%", "*", "(SELECT 1)", "'", '"', "\\", "\x00", "1e999", "NULL", "x' AND randomblob(999999999) --"]
NOTHING = "no-such-value-anywhere"


def parameters():
    """(path, name) for each documented parameter of each list."""
    for method, path in DOCUMENT.operations:
        if method == "GET" and not re.search(r"\{(?!project_id)", path):
            item, operation = DOCUMENT.doc["paths"][path], DOCUMENT.operations[method, path]
            for parameter in item.get("parameters", []) + operation.get("parameters", []):
                parameter = DOCUMENT.resolve(parameter)
                if parameter["in"] == "query":
                    yield path, parameter["name"]


def test_no_parameter_is_a_statement(world, ledger):
    """Each value finds what a value finds that is nowhere, or is refused like it."""
    before = world.d.sql("SELECT (SELECT count(*) FROM backup), (SELECT count(*) FROM token), (SELECT count(*) FROM user)")
    tried = set(parameters())
    assert len(tried) > 60
    wrong = []
    for path, name in sorted(tried):
        target = path.replace("{project_id}", world.project["uuid"])

        def ask(value):
            query = {name: value} | ({"scope": world.vm["url"]} if "events" in path and name != "scope" else {})
            answer = world.api.get(target, params=query, headers={"OpenStack-API-Version": "volume 3.71"})
            body = answer.json()
            body = next((v for v in body.values() if isinstance(v, list)), body) if isinstance(body, dict) and answer.ok else body
            return answer.status_code, len(body) if answer.ok else None

        nothing = ask(NOTHING)
        for payload in PAYLOADS:
            with ledger.fault("access: statements and wildcards as parameters"):
                found = ask(payload)
                assert found[0] < 500, (path, name, payload)
            # Some of these are parts of names here.
            fits = sum(payload.lower() in text.lower() for text in NAMES.values())
            if found != nothing and not (found[0] == nothing[0] == 200 and found[1] - nothing[1] <= 4 * fits and fits):
                wrong.append(f"{path} {name}={payload!r}: {found} instead of {nothing}")
    assert not wrong, "\n".join(wrong)
    assert world.d.sql("SELECT (SELECT count(*) FROM backup), (SELECT count(*) FROM token), (SELECT count(*) FROM user)") == before


def test_repeated_parameters_and_markers_are_no_statements(world):
    for query in ("marker=" + PAYLOADS[0], "limit=1;DROP TABLE backup", "offset=1 OR 1", "sort=name:asc,(SELECT 1)", "sort_key=name;--&sort_dir=asc;--", "sort=created_at:desc--"):
        for kind in ("volumes", "backups", "snapshots"):
            assert world.admin.get(f"/{kind}?{query}").status_code in (200, 400, 404), (kind, query)
    for order in ("name,(SELECT 1)", "-name;DROP TABLE backup", "name desc", "name--"):
        for path in (INSTANCES, SCHEDULES, PROJECTS):
            names = [thing["uuid"] for thing in ok(world.api.get(path, params={"o": order, "page_size": 300}))]
            assert sorted(names) == sorted(thing["uuid"] for thing in world.api.list(path))
