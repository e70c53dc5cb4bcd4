"""Version documents and microversions (Cinder contract 3.1, 3.2, 3.3 and the `from` columns of 1 and 2)."""

import re

import pytest
import requests

from helpers.api import ok
from helpers.cinder import MAX, MIN, NOBODY, Cinder, assert_common_headers, detail_keys, fault

HEADER = "OpenStack-API-Version"


@pytest.fixture(scope="module")
def backup(shared):
    return shared.admin.backup(shared.admin.create_volume(1), metadata={"a": "b"})


def ask(shared, header, path="/backups", client=None, **kw):
    """A request with this version header, or none."""
    client = Cinder(shared.d, shared.project["uuid"], (client or shared.admin).token, None)
    headers = {} if header is None else {HEADER: header}
    return client.request(kw.pop("method", "GET"), path, headers=headers, **kw)


# -------------------------------------------------------------------- documents


@pytest.mark.parametrize("path, code", [("/", 300), ("/v3/", 200), ("/v3", 200)])
@pytest.mark.parametrize("token", [False, True])
def test_version_document(shared, path, code, token):
    """Cinder contract 3.1: no token is needed; Tempest's schema requires every key."""
    headers = {"X-Auth-Token": shared.d.token} if token else {}
    body = ok(requests.get(shared.d.url + path, headers=headers, timeout=30, allow_redirects=False), code)
    assert set(body) == {"versions"}
    entry, = body["versions"]
    assert set(entry) == {"id", "status", "version", "min_version", "updated", "links", "media-types"}
    assert (entry["id"], entry["status"], entry["version"], entry["min_version"]) == ("v3.0", "CURRENT", MAX, MIN)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", entry["updated"])
    links = {link["rel"]: link for link in entry["links"]}
    assert set(links) == {"describedby", "self"} and len(entry["links"]) == 2
    assert links["describedby"]["type"] == "text/html" and links["describedby"]["href"].startswith("http")
    assert links["self"]["href"] == f"{shared.d.url}/v3/"
    media, = entry["media-types"]
    assert media == {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}


def test_the_document_names_the_host_it_was_asked_by(shared):
    body = requests.get(shared.d.url + "/", headers={"Host": "backup.example:99"}, timeout=30).json()
    assert body["versions"][0]["links"][1]["href"] == "http://backup.example:99/v3/"


def test_healthcheck(shared):
    """Cinder contract 3.1: optional; if it is there, it needs no token."""
    assert requests.get(shared.d.url + "/healthcheck", timeout=30).status_code in (200, 404)


# -------------------------------------------------------------------- the header


@pytest.mark.parametrize("header, version", [
    (None, "3.0"), ("volume latest", MAX), ("volume 3.0", "3.0"), ("volume 3.1", "3.1"), ("volume 3.43", "3.43"),
    (f"volume {MAX}", MAX), ("volumev3 3.43", "3.43"), ("block-storage 3.43", "3.43"), ("compute 2.1", "3.0"),
    ("compute 2.1, volume 3.43", "3.43"), ("volume 3.43, compute 2.1", "3.43"), ("volume 3.43,compute 2.1", "3.43"),
    ("compute 2.1,identity 3.99", "3.0"),
])
def test_version_that_is_used_and_echoed(shared, backup, header, version):
    """Cinder contract 3.2. It is really in force: the keys of a backup depend on it."""
    for path in ("/backups", "/backups/detail", f"/backups/{backup['id']}"):
        answer = ask(shared, header, path)
        ok(answer)
        assert_common_headers(answer, version)
    assert set(answer.json()["backup"]) == detail_keys(version, admin=True)


@pytest.mark.parametrize("name", ["openstack-api-version", "Openstack-Api-Version", "OPENSTACK-API-VERSION"])
def test_the_name_of_the_header_has_no_case(shared, name):
    """Cinder contract 3.2: Tempest spells it its own way."""
    client = Cinder(shared.d, shared.project["uuid"], shared.d.token, None)
    assert_common_headers(client.request("GET", "/backups", headers={name: "volume 3.43"}), "3.43")


def test_gophercloud_s_own_header_is_ignored(shared):
    client = Cinder(shared.d, shared.project["uuid"], shared.d.token, None)
    answer = client.request("GET", "/backups", headers={"X-OpenStack-Volume-API-Version": "3.43"})
    ok(answer)
    assert_common_headers(answer, "3.0")


@pytest.mark.parametrize("version", ["3.99", "3.72", "4.0", "2.0", "2.1", "1.0", "3.4294967296", "99.0"])
def test_versions_out_of_range_are_406(shared, version):
    """Cinder contract 3.2: the text names the least and the greatest."""
    for path in ("/backups", "/backups/none"):
        fault(ask(shared, f"volume {version}", path), 406, MIN, MAX)
    fault(ask(shared, f"volume {version}", method="POST", json={"backup": {"volume_id": NOBODY}}), 406)


@pytest.mark.parametrize("value", [
    "volume 3", "volume 3.01", "volume x.y", "volume 3.", "volume .3", "volume 3.1.1", "volume -3.1", "volume 3.-1", "volume 3.x",
    "volume three", "volume 3,43", "volume 03.1",
])
def test_malformed_versions_are_400(shared, value):
    """Cinder contract 3.2."""
    fault(ask(shared, value), 400)


def test_the_version_is_echoed_on_every_kind_of_answer(shared, backup):
    """Cinder contract 3.2: Tempest compares it on every successful call; we set it on errors as well."""
    path = f"/backups/{backup['id']}"
    for version in ("3.0", "3.43", MAX):
        client, reader = shared.admin.at(version), shared.reader.at(version)
        for answer, code in (
            (client.get("/backups"), 200), (client.get(path), 200), (client.get("/backups/none"), 404),
            (client.post("/backups", {"backup": {}}), 400), (client.get("/nothing"), 404), (client.get("/backups/"), 404),
            (reader.delete(path), 403), (client.get("/backups", marker=NOBODY), 404),
            (client.request("POST", "/backups", data="x", headers={"Content-Type": "text/plain"}), 415),
            (client.action(backup, "os-reset_status", {"status": "available"}), 202),
        ):
            assert answer.status_code == code, answer.text
            assert_common_headers(answer, version)


# -------------------------------------------------------------------- what the versions bring


def test_update_begins_with_3_9(shared, backup):
    """Cinder contract 1.4: 404 below, whatever the id and the body."""
    for version, code in (("3.0", 404), ("3.8", 404), ("3.9", 200), (MAX, 200)):
        answer = shared.member.at(version).put(f"/backups/{backup['id']}", {"backup": {"name": f"at {version}"}})
        ok(answer, code) if code == 200 else fault(answer, code)
        assert (shared.admin.show(backup)["name"] == f"at {version}") == (code == 200)


def test_metadata_begins_with_3_43(shared, backup):
    """Cinder contract 1.1, 1.4: below, its presence is a 400."""
    volume = backup["volume_id"]
    for version, good in (("3.0", False), ("3.42", False), ("3.43", True), (MAX, True)):
        client = shared.member.at(version)
        for value in ({}, None, {"k": "v"}):
            # An unknown volume, so that nothing is made: 404 says that the schema was passed.
            fault(client.post("/backups", {"backup": {"volume_id": NOBODY, "metadata": value}}), 404 if good else 400)
        assert ("metadata" in client.show(backup)) == good
    fault(shared.member.at("3.42").put(f"/backups/{backup['id']}", {"backup": {"metadata": {"x": "y"}}}), 400)
    assert shared.member.show(backup)["metadata"] == {"a": "b"} and shared.member.show(backup)["volume_id"] == volume
    ok(shared.member.at("3.43").put(f"/backups/{backup['id']}", {"backup": {"metadata": {"a": "b"}}}))


def test_availability_zone_begins_with_3_51(shared):
    """Cinder contract 1.1: below, its presence is a 400."""
    for version, code in (("3.0", 400), ("3.50", 400), ("3.51", 404), (MAX, 404)):
        for value in ("nova", None):
            fault(shared.member.at(version).post("/backups", {"backup": {"volume_id": NOBODY, "availability_zone": value}}), code)


def test_sorting_by_name_begins_with_3_37(shared, backup):
    """Cinder contract 1.2: `display_name` is good at every version."""
    for version, code in (("3.0", 400), ("3.36", 400), ("3.37", 200), (MAX, 200)):
        client = shared.member.at(version)
        for params in ({"sort": "name"}, {"sort": "name:asc"}, {"sort_key": "name"}):
            answer = client.get("/backups", **params)
            ok(answer) if code == 200 else fault(answer, code)
        ok(client.get("/backups", sort="display_name:asc"))
        ok(client.get("/backups", sort_key="display_name", sort_dir="asc"))


def test_counting_begins_with_3_45(shared, backup):
    """Cinder contract 1.2: before, `with_count` is an unknown key."""
    for version, code, counted in (("3.0", 200, False), ("3.30", 200, False), ("3.31", 400, False), ("3.44", 400, False),
                                   ("3.45", 200, True), (MAX, 200, True)):
        answer = shared.member.at(version).get("/backups", with_count="true")
        if code == 400:
            fault(answer, 400, "with_count")
        else:
            assert ("count" in ok(answer)) == counted


def test_unknown_filters_are_refused_from_3_31(shared, backup):
    """Cinder contract 1.2: a member's are ignored before, and all offenders are named then."""
    for version in ("3.0", "3.30"):
        assert shared.member.at(version).ids(colour="red", shape="round") == shared.member.ids()
    for version in ("3.31", MAX):
        fault(shared.member.at(version).get("/backups", colour="red", shape="round"), 400, "colour", "shape")


def test_like_filters_begin_with_3_34(shared, backup):
    """Cinder contract 1.2: before, `name~` is an unknown key."""
    assert backup["id"] in shared.member.at("3.30").ids(**{"name~": "zzz"})
    for version in ("3.31", "3.33"):
        fault(shared.member.at(version).get("/backups", **{"name~": "zzz"}), 400)
    for version in ("3.34", MAX):
        assert shared.member.at(version).ids(**{"name~": "zzz"}) == []


def test_resource_filters_begin_with_3_33(shared):
    """Cinder contract 3.3, 4.2: and say which like filters a member has (1.2)."""
    fault(shared.member.at("3.32").get("/resource_filters"), 404)
    for version in ("3.33", MAX):
        body = ok(shared.member.at(version).get("/resource_filters", resource="backup"))
        entry, = body["resource_filters"]
        assert entry["resource"] == "backup"
        assert {"name", "status", "volume_id"} <= set(entry["filters"])
    assert {"name~", "status~", "volume_id~", "description~"} <= set(entry["filters"])
