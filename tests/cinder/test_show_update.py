"""Show and update (Cinder contract 1.3, 1.4)."""

import pytest

from helpers.api import ok
from helpers.cinder import DETAIL, MAX, NOBODY, SUMMARY, CinderLab, fault, moment
from helpers.daemon import slow_reads
from helpers.disks import MIB


@pytest.fixture(scope="module")
def volume(shared):
    return shared.admin.create_volume(1)


@pytest.fixture
def backup(shared, volume):
    return shared.member.backup(volume, name="n", description="d", metadata={"a": "1", "b": "2"})


def put(shared, backup, body, version=MAX, code=200):
    answer = shared.member.at(version).put(f"/backups/{backup['id']}", body)
    return ok(answer)["backup"] if code == 200 else fault(answer, code)


def test_fields_of_the_seed(shared, backup, volume):
    """Cinder contract 8: each of them is there, at the oldest version, with what it says."""
    shown = shared.member.at("3.0").show(backup)
    assert set(shown) == DETAIL
    assert (shown["status"], shown["size"], shown["volume_id"]) == ("available", 1, volume["id"])
    assert (shown["name"], shown["description"], shown["fail_reason"]) == ("n", "d", None)
    assert (shown["is_incremental"], shown["has_dependent_backups"]) == (False, False)
    assert moment(shown["created_at"]) <= moment(shown["updated_at"])
    assert isinstance(shown["object_count"], int) and isinstance(shown["availability_zone"], str)


def test_unknown_is_404(shared, backup):
    fault(shared.member.get(f"/backups/{NOBODY}"), 404)
    fault(shared.member.put(f"/backups/{NOBODY}", {"backup": {"name": "x"}}), 404)
    other = CinderLab(shared.d)
    fault(other.member.get(f"/backups/{backup['id']}"), 404)
    fault(other.member.put(f"/backups/{backup['id']}", {"backup": {"name": "x"}}), 404)
    assert shared.member.show(backup) == backup


def test_update_answers_the_summary(shared, backup):
    """Cinder contract 1.4, 2.1."""
    made = put(shared, backup, {"backup": {"name": "new", "description": "newer"}})
    assert set(made) == SUMMARY and (made["id"], made["name"]) == (backup["id"], "new")
    shown = shared.member.show(backup)
    changed = {key for key in shown if shown[key] != backup[key]}
    assert changed <= {"name", "description", "updated_at"}
    assert (shown["name"], shown["description"]) == ("new", "newer")
    assert moment(shown["updated_at"]) > moment(backup["updated_at"])
    assert shared.member.ids(name="new") == [backup["id"]]


@pytest.mark.parametrize("given, shown", [
    ({"name": "x"}, {"name": "x"}), ({"name": "  x \n"}, {"name": "x"}), ({"name": "x" * 255}, {"name": "x" * 255}),
    ({"name": None}, {"name": None}), ({"description": None}, {"description": None}), ({"description": ""}, {"description": ""}),
    ({"description": "only"}, {"description": "only"}), ({"name": None, "description": None}, {"name": None, "description": None}),
    ({"metadata": {}}, {"metadata": {}}), ({"metadata": {"c": "3"}}, {"metadata": {"c": "3"}}),
    ({"metadata": {"k" * 255: "v" * 255}}, {"metadata": {"k" * 255: "v" * 255}}), ({}, {}),
], ids=str)
def test_what_is_given_is_changed_and_nothing_else(shared, backup, given, shown):
    """Cinder contract 1.4: null clears, metadata is replaced as a whole, an empty object changes nothing."""
    put(shared, backup, {"backup": given})
    after = shared.member.show(backup)
    assert {k: v for k, v in after.items() if k != "updated_at"} == {
        k: v for k, v in {**backup, **shown}.items() if k != "updated_at"
    }


@pytest.mark.parametrize("body", [
    {"backup": None}, {"backup": []}, {"backup": "x"}, {}, {"backup": {"name": "x"}, "other": 1}, {"backup": {"size": 2}},
    {"backup": {"name": "x", "status": "error"}}, {"backup": {"name": 7}}, {"backup": {"name": "x" * 256}},
    {"backup": {"name": " " * 256}}, {"backup": {"description": "x" * 256}}, {"backup": {"description": "a\nb"}},
    {"backup": {"description": 7}}, {"backup": {"metadata": None}}, {"backup": {"metadata": []}}, {"backup": {"metadata": {"a": None}}},
    {"backup": {"metadata": {"a": 1}}}, {"backup": {"metadata": {"": "x"}}}, {"backup": {"metadata": {"a%": "x"}}},
    {"backup": {"metadata": {"k" * 256: "x"}}}, {"backup": {"metadata": {"k": "x" * 256}}}, {"backup": {"container": "x"}},
    {"name": "x", "size": 3}, {"name": 7}, {"name": "x", "backup": {"name": "y"}},
], ids=lambda b: str(b)[:50])
def test_bodies_that_break_the_schema(shared, backup, body):
    put(shared, backup, body, code=400)
    assert shared.member.show(backup) == backup


def test_the_body_may_come_without_its_wrapper(shared, backup):
    """Cinder contract 1.4: gophercloud sends it so."""
    put(shared, backup, {"name": "bare", "description": "as gophercloud", "metadata": {"x": "y"}})
    shown = shared.member.show(backup)
    assert (shown["name"], shown["description"], shown["metadata"]) == ("bare", "as gophercloud", {"x": "y"})
    put(shared, backup, {"name": "only"})
    assert shared.member.show(backup)["name"] == "only"


def test_version_3_9_has_no_metadata(shared, backup):
    put(shared, backup, {"backup": {"name": "x"}}, "3.9")
    put(shared, backup, {"backup": {"metadata": {}}}, "3.42", 400)
    put(shared, backup, {"backup": {"metadata": {}}}, "3.43")


def test_order_of_checks(shared, backup):
    """Cinder contract 0.3: schema, look-up, role."""
    reader = shared.reader
    fault(reader.put(f"/backups/{backup['id']}", {"backup": {"size": 1}}), 400)
    fault(reader.put(f"/backups/{NOBODY}", {"backup": {"size": 1}}), 400)
    fault(reader.put(f"/backups/{NOBODY}", {"backup": {"name": "x"}}), 404)
    fault(reader.put(f"/backups/{backup['id']}", {"backup": {"name": "x"}}), 403)
    assert shared.member.show(backup) == backup


def test_update_in_every_state(braked):
    """Cinder contract 1.4, 6.2: no state forbids it and none is changed by it."""
    lab = braked(slow_reads, "slow.img")
    backup = lab.member.create(lab.registered(8 * MIB, "slow.img"))
    put(lab, backup, {"backup": {"name": "while creating"}})
    assert (lab.member.show(backup)["status"], lab.member.show(backup)["name"]) == ("creating", "while creating")
    assert lab.member.wait(backup)["name"] == "while creating"
    lab.admin.reset(backup, "error")
    put(lab, backup, {"backup": {"name": "in error"}})
    assert (lab.member.show(backup)["status"], lab.member.show(backup)["name"]) == ("error", "in error")
