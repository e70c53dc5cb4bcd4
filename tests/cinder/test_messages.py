"""/messages: why something failed, in more words than a status has (Cinder contract 3.3, 4.2)."""

import pytest

from helpers.api import ok
from helpers.cinder import UUID, moment
from helpers.cinder_volumes import LATEST, Cloud, fault
from helpers.wait import wait_for

REQUIRED = {"id", "request_id", "message_level", "event_id", "created_at", "user_message"}
OPTIONAL = {"links", "guaranteed_until", "resource_uuid", "resource_type"}


@pytest.mark.parametrize("version", ["3.3", LATEST])
def test_where_nothing_went_wrong_there_are_none(daemon, version):
    assert ok(Cloud(daemon).reader.at(version).get("/messages")) == {"messages": []}


@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_before_3_3_they_do_not_exist(cloud, version):
    fault(cloud.member.at(version).get("/messages"), 404)


def about(cloud, thing, client=None):
    """The messages about an object, each of the form that Tempest demands."""
    body = ok((client or cloud.member).get("/messages"))
    assert set(body) <= {"messages", "messages_links"}
    for message in body["messages"]:
        assert REQUIRED <= set(message) <= REQUIRED | OPTIONAL
        assert UUID.match(message["id"]) and moment(message["created_at"])
        assert all(isinstance(message[key], str) and message[key] for key in REQUIRED)
        assert "guaranteed_until" not in message or moment(message["guaranteed_until"]) > moment(message["created_at"])
    return [m for m in body["messages"] if m.get("resource_uuid") == thing["id"]]


def test_a_failed_backup_says_why(cloud):
    """Not only that it failed, but what happened, in the words of the log."""
    backup = cloud.failed_backup()
    (message,) = about(cloud, backup)
    assert message["message_level"] == "ERROR" and "BACKUP" in message["resource_type"].upper()
    assert "does not exist" in message["user_message"], message
    assert backup["fail_reason"] and len(backup["fail_reason"]) <= 255
    assert moment(message["created_at"]) >= moment(backup["created_at"])
    if "links" in message:
        assert ok(cloud.reader.get(message["links"][0]["href"])) == {"message": message}


def test_a_path_of_the_host_is_not_told_to_members(cloud):
    """Where volumes lie is the administrator's business: a path is for staff only."""
    volume = cloud.broken()
    name = cloud.record(volume)["path"]
    backup = cloud.member.create("backups", volume_id=volume["id"])
    wait_for(lambda: cloud.member.show("backups", backup)["status"] == "error", "the backup fails")
    (message,) = about(cloud, backup)
    assert name not in message["user_message"]
    assert name not in cloud.member.show("backups", backup)["fail_reason"]


def test_a_failed_snapshot_and_a_failed_clone_say_why(cloud):
    snapshot = cloud.lost_snapshot()
    (message,) = about(cloud, snapshot)
    assert "does not exist" in message["user_message"], message
    clone = cloud.member.create("volumes", source_volid=cloud.broken()["id"])
    wait_for(lambda: cloud.member.show("volumes", clone)["status"] == "error", "the clone fails")
    (message,) = about(cloud, clone)
    assert "does not exist" in message["user_message"], message


def test_who_sees_them(cloud):
    backup = cloud.failed_backup()
    assert len(about(cloud, backup, cloud.reader)) == len(about(cloud, backup, cloud.admin)) == 1
    assert about(cloud, backup, cloud.stranger) == []


def test_what_succeeded_is_not_worth_a_message(cloud):
    backup = cloud.backup(cloud.volume(1))
    assert about(cloud, backup) == []


def test_they_survive_a_restart(start_daemon):
    cloud = Cloud(start_daemon())
    backup = cloud.failed_backup()
    before = about(cloud, backup)
    cloud.d.stop()
    cloud.d.start()
    assert [m["user_message"] for m in about(cloud, backup)] == [m["user_message"] for m in before] != []
