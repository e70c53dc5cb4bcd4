"""Servers and networks that misbehave while a backup is made, restored or removed. Whatever is Ready in the end, another host
restores from the objects alone; whatever is not, says why."""

import pytest

from helpers.disks import MIB
from helpers.lab import BACKUPS
from objects import proxy as faults
from objects.conftest import make_container, s3_table

PASSING = {
    "bursts of 503": (faults.says(503), "PUT|GET|HEAD", 3),
    "answers of 500 and pages of HTML": (faults.says(500, b"<html><h1>Internal Error</h1></html>"), "PUT|GET", 3),
    "puts that are cut": (faults.cuts_the_request, "PUT", 4),
    "answers to puts that are lost": (faults.cuts_before_the_answer, "PUT", 4),
    "puts with a wrong tag": (faults.wrong_etag, "PUT", 3),
    "puts that hang": (faults.hangs, "PUT", 1),
    "a token that ends": (faults.knows_no_token_before_a_new_login, ".*", 10**9),
}
OBJECTS = "/(packs|segments|backups|writer)/"


def some_long(faults, *long):
    return [pytest.param(name, marks=pytest.mark.long) if name in long else name for name in faults]


@pytest.mark.parametrize("name", some_long(PASSING, "answers of 500 and pages of HTML", "puts that hang"))
def test_what_passes_costs_no_backup(name, site, table, proxy, rescue, ledger):
    lab = site({"r": table(timeout_s=2)}, [proxy])
    machine, saved = lab.raw(20)
    fault, method, times = PASSING[name]
    proxy.plan(fault, method, OBJECTS, times)
    with ledger.fault(f"store: {name} in a backup"):
        backup = lab.backup(machine, repository="r")
        other = rescue()
        assert other.attached["added"] == 1 and not other.attached["unusable"]
        other.assert_restores(other.waldur(backup), saved)


READING = {
    "bursts of 503": (faults.says(503), 5),
    "answers that are cut": (faults.cuts_the_answer, 3),
    "flipped bits": (faults.flips_a_bit, 2),
    "truncated bodies": (faults.truncates, 2),
    "a server that hangs": (faults.hangs, 2),
    "a token that ends": (faults.knows_no_token_before_a_new_login, 10**9),
}


@pytest.mark.parametrize("name", some_long(READING, "truncated bodies", "a server that hangs"))
def test_what_passes_costs_no_restore(name, site, table, proxy, ledger):
    lab = site({"r": table(timeout_s=2)}, [proxy])
    machine, saved = lab.raw(20)
    backup = lab.backup(machine, repository="r")
    fault, times = READING[name]
    proxy.plan(fault, "GET", "/packs/", times)
    with ledger.fault(f"store: {name} in a restore"):
        lab.assert_restores(backup, saved)


LASTING = {
    "always 503": (faults.says(503), ["out of order", "503", "tried "]),
    "puts are always cut": (faults.cuts_the_request, ["cannot be reached", "tried "]),
    "other bytes are always stored": (faults.wrong_etag, ["changed on its way", "the server has stored other bytes"]),
    "writing is forbidden": (faults.says(403, b"Forbidden"), ["refuses access (status 403", "check"]),
    "the disks are full": (faults.says(507, b"Insufficient Storage"), ["is full", "make room there"]),
    "the quota is used up": (faults.says(413, b"Upload exceeds quota."), ["quota is used up", "make room there"]),
}


def at_all_objects():
    """Every fault at every kind of object in a long run, some of them in a short one."""
    short = [("always 503", "packs"), ("writing is forbidden", "packs"), ("the disks are full", "packs"), ("always 503", "segments"), ("other bytes are always stored", "backups")]
    both = [(name, what) for what in ("packs", "segments", "backups") for name in LASTING]
    return [pair if pair in short else pytest.param(*pair, marks=pytest.mark.long) for pair in both]


@pytest.mark.parametrize("name, what", at_all_objects())
def test_what_lasts_is_an_erred_backup_that_says_why(name, what, site, table, proxy, bucket, rescue, ledger):
    lab = site({"r": table(timeout_s=2, patience_s=1)}, [proxy])
    small, small_saved = lab.raw(2, seed=1)
    before = lab.backup(small, repository="r")
    machine, saved = lab.raw(12)
    fault, parts = LASTING[name]
    proxy.plan(fault, "PUT", f"/{what}/", 10**9)
    with ledger.fault(f"store: {name}, at {what}"):
        lab.erred(lab.start_backup(machine, repository="r"), "repository r: ", *parts)
        lab.assert_restores(before, small_saved)
        # Nobody takes it for a backup, unless the manifest has come through unnoticed: then it is one.
        other = rescue()
        unnoticed = fault is faults.wrong_etag and what == "backups"
        assert other.attached["added"] == len(other.everything()) == (2 if unnoticed else 1)
        for backup in other.api.list(BACKUPS):
            other.assert_restores(backup, small_saved if backup["uuid"] == before["uuid"] else saved)
        # The first host may have it back, and all is well when the server is.
        lab.attach()
        proxy.plans.clear()
        backup = lab.backup(machine, repository="r")
        lab.collect()
        lab.assert_restores(backup, saved)
        assert len(bucket.names("packs/")) == 3


@pytest.mark.fault("store: a quota is used up in the middle of a backup")
def test_a_quota_of_the_container_is_told_and_raised(site, swift, container, table, bucket):
    make_container(swift, container, X_Container_Meta_Quota_Bytes=str(20 * MIB))
    lab = site({"r": table()})
    machine, saved = lab.raw(40)
    lab.erred(lab.start_backup(machine, repository="r"), "quota is used up", "have the quota raised")
    make_container(swift, container, X_Container_Meta_Quota_Bytes=str(100 * MIB))
    lab.assert_restores(lab.backup(machine, repository="r"), saved)


@pytest.mark.fault("store: nobody listens")
def test_an_unreachable_repository_is_an_erred_backup_and_nothing_else(site, table, straight, proxy, bucket):
    away = s3_table("http://127.0.0.1:1", "b", patience_s=1)
    lab = site({"r": table(patience_s=1), "away": away}, [proxy])
    machine, saved = lab.raw(10)
    doomed = lab.backup(machine, repository="r")
    objects = bucket.names()
    lab.erred(lab.start_backup(machine, repository="away"), "repository away: ", "http://127.0.0.1:1 cannot be reached", "tried ")
    here = lab.backup(machine, repository="coffer")
    # All of Swift is gone now.
    proxy.plan(faults.says(503), times=10**9)
    lab.erred(lab.start_backup(machine, repository="r"), "repository r: ", "status 503")
    assert lab.restore(doomed, wait="Erred")["error_message"]
    assert lab.waldur(doomed)["state"] == "Ready", "nothing is known against it"
    # Deletions go on, and so does everything else; the objects go when they can be reached.
    lab.api.delete(doomed["url"])
    lab.wait_gone(doomed["url"])
    assert "503" in lab.tend()
    assert set(objects) <= set(bucket.names())
    lab.assert_restores(here, saved)
    proxy.plans.clear()
    lab.collect()
    assert not [name for name in bucket.names() if not name.startswith("writer/")]


@pytest.mark.fault("store: a pack is lost")
def test_a_lost_pack_costs_the_backups_that_need_it_and_no_later_one(site, table, proxy, bucket, rescue):
    lab = site({"r": table()}, [proxy])
    (one, one_saved), (two, two_saved) = lab.raw(10, seed=1), lab.raw(10, seed=2)
    first = lab.backup(one, repository="r")
    packs = set(bucket.names("packs/"))
    second = lab.backup(two, repository="r")
    lost = sorted(packs)[0]
    bucket.delete(lost)
    assert lost in lab.restore(first, wait="Erred")["error_message"]
    lab.erred(first, "damaged", lost)
    lab.assert_restores(second, two_saved)
    # The next backup of the same disk is complete by itself, and what it shares with the first is whole there again.
    third = lab.backup(one, repository="r")
    assert third["stored_bytes"] > MIB
    other = rescue()
    assert other.attached["incomplete"] == 0
    for backup, saved in ((first, one_saved), (second, two_saved), (third, one_saved)):
        other.assert_restores(other.waldur(backup), saved)


@pytest.mark.fault("store: a pack is lost, and the scrub finds it")
def test_a_scrub_finds_a_lost_pack_and_no_backup_stays_ready(site, table, proxy, bucket, rescue):
    lab = site({"r": table()}, [proxy])
    machine, saved = lab.raw(10)
    first = lab.backup(machine, repository="r")
    lost = bucket.names("packs/")[0]
    bucket.delete(lost)
    disk = lab.volume_files(machine)[0]
    disk.write_bytes(b"\1" * saved.stat().st_size)
    assert f"cannot be restored whole: {first['uuid']}" in lab.run("scrub", code=1)
    lab.erred(first, lost)
    disk.write_bytes(saved.read_bytes())
    again = lab.backup(machine, repository="r")
    lab.assert_restores(again, saved)
    other = rescue()
    assert other.attached["incomplete"] == 0
    other.assert_restores(other.waldur(again), saved)


@pytest.mark.fault("store: a pack is lost, and the scrub stores it anew from the live volume")
def test_what_a_scrub_mends_of_a_repository_lies_there_and_not_in_the_coffer(site, table, proxy, bucket, rescue):
    """It was stored in the coffer, where no other host finds it."""
    lab = site({"r": table()}, [proxy])
    machine, saved = lab.raw(10)
    first = lab.backup(machine, repository="r")
    bucket.delete(bucket.names("packs/")[0])
    assert "were stored anew" in lab.run("scrub", code=1)
    assert lab.run("scrub")["result"]["corrupt"] == []
    lab.assert_restores(first, saved)
    lab.collect()
    other = rescue()
    assert other.attached["incomplete"] == 0
    other.assert_restores(other.waldur(first), saved)


@pytest.mark.fault("store: a list of chunks is lost")
def test_a_lost_segment_is_named_when_the_host_is_lost_too(site, table, straight, proxy, bucket):
    lab = site({"r": table()}, [proxy])
    (one, one_saved), (two, two_saved) = lab.raw(4, seed=1), lab.raw(4, seed=2)
    first = lab.backup(one, repository="r")
    segments = bucket.names("segments/")
    second = lab.backup(two, repository="r")
    kept = bucket.get(segments[0])
    bucket.delete(segments[0])
    lab.assert_restores(first, one_saved)
    lab.d.stop()
    other = site({"r": straight})
    done = other.attach()
    assert (done["added"], done["incomplete"]) == (1, 1)
    other.erred(other.waldur(first), "repository r lacks objects that this backup needs", "cofferd repository attach r")
    other.assert_restores(other.waldur(second), two_saved)
    # As long as it is so nothing is removed there, and when the object is found again, the backup is whole.
    assert "lacks data of a backup" in other.run("gc", code=1)
    bucket.put(segments[0], kept)
    assert other.attach()["added"] == 1
    other.assert_restores(other.waldur(first), one_saved)
    other.collect()
    other.assert_restores(other.waldur(first), one_saved)


def test_no_token_is_told_by_a_daemon_that_fails_all_the_time(site, table, proxy):
    """All kinds of failures at once, at the finest log; `Site.close` searches what was logged and said."""
    lab = site({"r": table(timeout_s=1, patience_s=1)}, [proxy])
    machine, _ = lab.raw(20)
    for fault in (faults.says(401), faults.cuts_the_request, faults.wrong_etag, faults.says(503), faults.refuses_without_reading):
        proxy.plans.clear()
        proxy.plan(fault, "PUT|GET|HEAD", OBJECTS, 10**9)
        lab.wait_state(lab.start_backup(machine, repository="r")["url"], "Erred")
    assert proxy.secrets
