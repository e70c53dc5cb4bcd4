"""The event log: what is recorded under which name, and how it is read (2.9 and section 7)."""

import pytest

from helpers.api import HEX32, TIMESTAMP, ok
from helpers.lab import EVENTS, Lab
from helpers.wait import wait_for


@pytest.fixture(scope="module")
def shared(daemon):
    return Lab(daemon)


def types(lab, thing, *wanted):
    """The event types of a thing, once `wanted` are all among them."""
    return wait_for(
        lambda: (found := lab.event_types(thing)) and set(wanted) <= set(found) and found,
        f"{wanted} in the events of the thing; there are {lab.event_types(thing)}",
    )


def test_events_of_a_backup(shared):
    backup = shared.backup(shared.instance())
    assert types(shared, backup, "resource_backup_creation_succeeded") == [
        "resource_backup_creation_scheduled", "resource_backup_creation_succeeded",
    ]
    shared.restore(backup)
    found = types(shared, backup, "resource_backup_restoration_succeeded")
    assert found[2:] == ["resource_backup_restoration_scheduled", "resource_backup_restoration_succeeded"]
    ok(shared.api.post(backup["url"] + "delete/"))
    shared.wait_gone(backup["url"])
    found = types(shared, backup, "resource_backup_deletion_succeeded")
    assert found[4:] == ["resource_backup_deletion_scheduled", "resource_backup_deletion_succeeded"]


def test_event_of_a_failed_backup(shared):
    disk = shared.disk()
    vm = shared.instance([disk])
    disk.unlink()
    backup = shared.wait_state(shared.start_backup(vm)["url"], "Erred")
    assert types(shared, backup, "resource_backup_creation_failed")[-1] == "resource_backup_creation_failed"
    assert "resource_backup_creation_succeeded" not in shared.event_types(backup)


def test_events_of_a_schedule(shared):
    schedule = shared.schedule(shared.instance())
    ok(shared.api.patch(schedule["url"], {"description": "x"}))
    ok(shared.api.post(schedule["url"] + "activate/"))
    ok(shared.api.post(schedule["url"] + "deactivate/"))
    ok(shared.api.delete(schedule["url"]), 204)
    assert types(shared, schedule, "resource_backup_schedule_deletion_succeeded") == [
        "resource_backup_schedule_creation_succeeded", "resource_backup_schedule_update_succeeded",
        "resource_backup_schedule_activated", "resource_backup_schedule_deactivated",
        "resource_backup_schedule_deletion_succeeded",
    ]


def test_refused_requests_leave_no_event(shared):
    backup = shared.backup(shared.instance())
    types(shared, backup, "resource_backup_creation_succeeded")
    before = shared.event_types(backup)
    ok(shared.api.post(backup["url"] + "restore/", {}), 400)
    ok(shared.user("reader").post(backup["url"] + "delete/"), 403)
    assert shared.event_types(backup) == before


def test_representation(shared):
    backup = shared.backup(shared.instance())
    event = shared.events(scope=backup["url"])[0]
    assert {"created", "event_type", "message", "context"} <= set(event)
    assert TIMESTAMP.match(event["created"])
    assert isinstance(event["message"], str) and event["message"]
    assert isinstance(event["context"], dict)
    assert HEX32.match(event["uuid"]) if "uuid" in event else True


def test_filters(own):
    backup = own.backup(own.instance())
    own.schedule(own.instance(), is_active=False)
    wait_for(lambda: "resource_backup_creation_succeeded" in own.event_types(backup), "the backup's event")

    def found(**params):
        return [e["event_type"] for e in own.events(**params)]

    assert set(found(event_type="resource_backup_creation_scheduled")) == {"resource_backup_creation_scheduled"}
    both = ["resource_backup_creation_scheduled", "resource_backup_schedule_creation_succeeded"]
    assert set(found(event_type=both)) == set(both)
    assert found(event_type="no_such_event") == []
    assert found(created_to=1_000_000_000) == []
    assert found(created_from=1_000_000_000) == found()
    forward = [e["created"] for e in own.events(o="created")]
    assert forward == sorted(forward)
    assert [e["created"] for e in own.events(o="-created")] == forward[::-1]
    answer = own.api.get(EVENTS, params={"page_size": 1})
    assert len(ok(answer)) == 1 and int(answer.headers["X-Result-Count"]) == len(found())
    assert ok(own.api.get(EVENTS + "count/")) == {"count": len(found())}
    assert ok(own.api.get(EVENTS + "count/", params={"event_type": "no_such_event"})) == {"count": 0}


def test_events_are_for_those_who_see_the_project(own):
    backup = own.backup(own.instance())
    reader, stranger = own.user("reader"), own.user()
    assert [e["event_type"] for e in reader.list(EVENTS, scope=backup["url"])]
    answer = stranger.get(EVENTS, params={"scope": backup["url"]})
    assert answer.status_code in (400, 404) or ok(answer) == []
    answer = stranger.get(EVENTS)
    assert answer.status_code == 400 or ok(answer) == []
    ok(own.d.anonymous.get(EVENTS), 401)
    ok(own.api.post(EVENTS, {}), 405)


def test_no_host_paths_in_users_events(own):
    disk = own.disk()
    vm = own.instance([disk])
    disk.unlink()
    backup = own.wait_state(own.start_backup(vm)["url"], "Erred")
    reader = own.user("reader")
    assert str(own.d.root) not in reader.get(EVENTS, params={"scope": backup["url"]}).text
