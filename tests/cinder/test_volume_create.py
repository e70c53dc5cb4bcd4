"""Making volumes: every field and its limits, and volumes made of a backup, a snapshot or another volume (Cinder contract 4.2)."""

import os
import stat

import pytest

from helpers.api import ok
from helpers.cinder import GIB
from helpers.cinder_volumes import LATEST, NOBODY, Cloud, content, fault, scribble
from helpers.disks import MIB, allocated
from helpers.wait import wait_for


def sizes_are(cloud, volume, gigabytes):
    assert volume["size"] == gigabytes
    assert os.path.getsize(cloud.path(volume)) == gigabytes * GIB


# -------------------------------------------------------------------- an empty volume


def test_a_volume_is_a_sparse_file_of_its_size(cloud):
    answer = cloud.member.create("volumes", size=2, name="data")
    assert answer["status"] in ("creating", "available") and answer["size"] == 2
    seen, shown = cloud.member.watch("volumes", answer)
    assert seen in (["available"], ["creating", "available"])
    path = cloud.path(shown)
    assert os.path.getsize(path) == 2 * GIB and allocated(path) < MIB
    assert content(path) == {}
    # What is on it is nobody else's business.
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0
    assert path.parent == cloud.d.state_dir.resolve() / "volumes"


def test_volumes_lie_in_the_configured_pool(start_daemon):
    d = start_daemon('[volumes]\npool_directory = "{base}/pool"')
    cloud = Cloud(d)
    assert cloud.path(cloud.volume(1)).parent == (d.base / "pool").resolve()


@pytest.mark.parametrize("size", [1, "1", 2, "2", "002"])
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_sizes_are_numbers_or_digits(cloud, size, version):
    made = cloud.member.at(version).create("volumes", size=size)
    assert made["size"] == int(size)


@pytest.mark.parametrize("size", [
    0, "0", -1, "-1", 1.5, "1.5", "", " ", "#$%", "one", "1e3", "0x10", True, [], {}, [1], None, 2**31, 2**63, 2**64, str(2**64), "9" * 400,
])
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_other_sizes_are_400(cloud, size, version):
    before = cloud.member.ids("volumes")
    fault(cloud.member.at(version).post("/volumes", {"volume": {"size": size}}), 400)
    assert cloud.member.ids("volumes") == before


def test_without_a_source_there_must_be_a_size(cloud):
    cloud.member.create("volumes", 400, name="x")
    cloud.member.create("volumes", 400, name="x", snapshot_id=None, source_volid=None, backup_id=None)


@pytest.mark.parametrize("field", ["name", "description"])
@pytest.mark.parametrize("value", [None, "", "plain", "x" * 255, "Größe 9 \u4e16\u754c", "<b>&'\"\\"])
def test_names_and_descriptions(cloud, field, value):
    made = cloud.member.create("volumes", size=1, **{field: value})
    assert made[field] == value or (value == "" and made[field] is None)
    assert cloud.member.show("volumes", made)[field] == made[field]


def test_without_a_name_it_has_none(cloud):
    made = cloud.member.create("volumes", size=1)
    assert made["name"] is None and made["description"] is None and made["metadata"] == {}


def test_names_need_not_be_unique(cloud):
    made = [cloud.member.create("volumes", size=1, name="twin") for _ in range(2)]
    assert {v["id"] for v in made} == set(cloud.member.ids("volumes", name="twin"))


@pytest.mark.parametrize("fields", [
    {"name": "x" * 256}, {"name": 7}, {"name": []}, {"name": True}, {"description": "x" * 256}, {"description": 7},
    {"metadata": "x"}, {"metadata": []}, {"metadata": {"k": 7}}, {"metadata": {"k": None}}, {"metadata": {"": "v"}},
    {"metadata": {"k" * 256: "v"}}, {"metadata": {"k": "v" * 256}}, {"metadata": {"k": ["v"]}},
    {"availability_zone": "mars"}, {"availability_zone": "x" * 256}, {"availability_zone": 7},
    {"volume_type": 7}, {"volume_type": []},
    {"snapshot_id": "x"}, {"snapshot_id": 7}, {"source_volid": "x"}, {"source_volid": {}}, {"backup_id": "x"},
    # There are no images (no Glance).
    {"imageRef": NOBODY}, {"imageRef": "cirros"},
    # Of which one should it be made?
    {"snapshot_id": NOBODY, "source_volid": NOBODY},
], ids=lambda fields: str(fields)[:40])
def test_wrong_fields_are_400(cloud, fields):
    before = cloud.member.ids("volumes")
    fault(cloud.member.post("/volumes", {"volume": {"size": 1, **fields}}), 400)
    assert cloud.member.ids("volumes") == before


@pytest.mark.parametrize("body", [[], "x", 7, {}, {"volume": None}, {"volume": []}, {"volume": "x"}, {"size": 1}], ids=str)
def test_a_body_that_is_no_volume_is_400(cloud, body):
    fault(cloud.member.post("/volumes", body), 400)


@pytest.mark.parametrize("data", [b"", b"{", b'"', b"\xff", b"null"])
def test_a_body_that_is_no_json_object_is_400(cloud, data):
    fault(cloud.member.post("/volumes", data=data, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize("metadata", [
    None, {}, {"a": "b"}, {"a": ""}, {"k" * 255: "v" * 255}, {"a-b_c:d.e/f g": "x"}, {f"k{n}": str(n) for n in range(40)},
], ids=lambda m: str(m)[:24])
def test_metadata(cloud, metadata):
    made = cloud.member.create("volumes", size=1, metadata=metadata)
    assert made["metadata"] == (metadata or {})
    assert cloud.member.show("volumes", made)["metadata"] == (metadata or {})


def test_the_type_may_be_given_by_name_or_id_and_no_other_exists(cloud):
    (default,) = ok(cloud.member.get("/types"))["volume_types"]
    for given in (None, "__DEFAULT__", default["id"]):
        assert cloud.member.create("volumes", size=1, volume_type=given)["volume_type"] == "__DEFAULT__"
    for unknown in ("fast", NOBODY):
        cloud.member.create("volumes", 404, size=1, volume_type=unknown)


@pytest.mark.parametrize("zone", [None, "nova"])
def test_the_one_zone(cloud, zone):
    made = cloud.member.create("volumes", size=1, availability_zone=zone)
    assert cloud.member.wait("volumes", made)["availability_zone"] == "nova"


@pytest.mark.parametrize("version", ["3.0", "3.47", LATEST])
def test_the_nulls_of_the_cinder_client(cloud, version):
    """It names every field that it knows (Cinder contract 4.2)."""
    cloud.member.at(version).create(
        "volumes", size=1, consistencygroup_id=None, snapshot_id=None, name=None, description=None, volume_type=None,
        availability_zone=None, metadata={}, imageRef=None, source_volid=None, backup_id=None,
    )


@pytest.mark.parametrize("version, code", [("3.0", 202), ("3.52", 202), ("3.53", 400), (LATEST, 400)])
def test_unknown_keys_are_refused_from_3_53(cloud, version, code):
    """Cinder contract 3.3."""
    made = cloud.member.at(version).create("volumes", code, size=1, colour="red")
    assert code == 400 or "colour" not in made


def test_a_reader_and_a_stranger_make_nothing_here(cloud):
    before = cloud.member.ids("volumes")
    fault(cloud.reader.post("/volumes", {"volume": {"size": 1}}), 403)
    made = cloud.stranger.create("volumes", size=1)
    assert cloud.member.ids("volumes") == before
    assert cloud.admin.show("volumes", made)["os-vol-tenant-attr:tenant_id"] == cloud.stranger.project


# -------------------------------------------------------------------- of a snapshot


@pytest.fixture(scope="module")
def source(cloud):
    """A volume whose bytes have changed since a snapshot and a backup were made of it, and what was on it then."""
    volume = cloud.volume(2, seed="before", name="source", metadata={"a": "b"})
    snapshot, backup = cloud.snapshot(volume), cloud.backup(volume)
    before = content(cloud.path(volume))
    assert len(before) >= 12
    scribble(cloud.path(volume), "after")
    assert content(cloud.path(volume)) != before
    return {"volume": volume, "snapshot": snapshot, "backup": backup, "before": before}


def test_of_a_snapshot_it_has_the_bytes_of_that_instant(cloud, source):
    made = cloud.member.create("volumes", snapshot_id=source["snapshot"]["id"], name="copy")
    assert made["status"] == "creating" and made["snapshot_id"] == source["snapshot"]["id"] and made["name"] == "copy"
    seen, shown = cloud.member.watch("volumes", made)
    assert seen in (["creating", "available"], ["available"])
    sizes_are(cloud, shown, 2)
    assert shown["snapshot_id"] == source["snapshot"]["id"] and shown["source_volid"] is None
    assert content(cloud.path(shown)) == source["before"]
    assert allocated(cloud.path(shown)) < 64 * MIB
    assert cloud.member.show("snapshots", source["snapshot"])["status"] == "available"


def test_of_a_snapshot_it_may_be_larger(cloud, source):
    made = cloud.volume(3, snapshot_id=source["snapshot"]["id"])
    sizes_are(cloud, made, 3)
    assert content(cloud.path(made)) == source["before"]


def test_of_a_snapshot_it_may_not_be_smaller(cloud, source):
    cloud.member.create("volumes", 400, size=1, snapshot_id=source["snapshot"]["id"])


def test_of_a_snapshot_that_is_not_there(cloud, source):
    cloud.member.create("volumes", 404, size=1, snapshot_id=NOBODY)
    cloud.stranger.create("volumes", 404, size=2, snapshot_id=source["snapshot"]["id"])


def test_of_a_snapshot_that_failed(cloud):
    cloud.member.create("volumes", 400, size=1, snapshot_id=cloud.lost_snapshot()["id"])


# -------------------------------------------------------------------- of another volume


def test_a_clone_has_the_bytes_of_its_source(cloud, source):
    now = content(cloud.path(source["volume"]))
    made = cloud.member.create("volumes", source_volid=source["volume"]["id"], name="clone")
    assert made["status"] == "creating" and made["source_volid"] == source["volume"]["id"]
    seen, shown = cloud.member.watch("volumes", made)
    assert seen in (["creating", "available"], ["available"])
    sizes_are(cloud, shown, 2)
    assert shown["source_volid"] == source["volume"]["id"] and shown["snapshot_id"] is None
    assert content(cloud.path(shown)) == now
    assert allocated(cloud.path(shown)) < 64 * MIB
    assert cloud.member.show("volumes", source["volume"])["status"] == "available"
    # They are two disks from now on.
    scribble(cloud.path(shown), "clone")
    assert content(cloud.path(source["volume"])) == now


def test_a_clone_may_be_larger_but_not_smaller(cloud, source):
    now = content(cloud.path(source["volume"]))
    made = cloud.volume("4", source_volid=source["volume"]["id"])
    sizes_are(cloud, made, 4)
    assert content(cloud.path(made)) == now
    cloud.member.create("volumes", 400, size=1, source_volid=source["volume"]["id"])


def test_a_clone_of_what_is_not_there(cloud, source):
    cloud.member.create("volumes", 404, size=1, source_volid=NOBODY)
    cloud.stranger.create("volumes", 404, size=2, source_volid=source["volume"]["id"])


def test_a_clone_of_a_volume_in_error(cloud):
    volume = cloud.volume(1)
    cloud.reset(volume, "error")
    cloud.member.create("volumes", 400, source_volid=volume["id"])


def test_a_clone_boots_if_its_source_does(cloud):
    volume = cloud.volume(1)
    ok(cloud.member.action("volumes", volume, "os-set_bootable", {"bootable": True}))
    made = cloud.volume(1, source_volid=volume["id"])
    assert made["bootable"] == "true"


@pytest.mark.parametrize("way", ["source_volid", "snapshot_id", "backup_id"])
def test_what_is_made_of_a_registered_file_of_no_whole_gibibytes(cloud, way):
    volume = cloud.registered(3 * MIB)
    source = {"source_volid": lambda: volume, "snapshot_id": lambda: cloud.snapshot(volume), "backup_id": lambda: cloud.backup(volume)}
    given = {way: source[way]()["id"]}
    made = cloud.member.wait("volumes", cloud.member.create("volumes", **given))
    assert made["size"] == 1
    assert content(cloud.path(made)) == content(cloud.path(volume))
    assert cloud.record(made)["managed"] and not cloud.record(volume)["managed"]
    if way == "backup_id":
        cloud.member.wait("backups", given[way])
    # Who asks for a size gets it.
    for size in (1, 2):
        made = cloud.member.wait("volumes", cloud.member.create("volumes", size=size, **given))
        sizes_are(cloud, made, size)
        assert content(cloud.path(made)) == content(cloud.path(volume))
        if way == "backup_id":
            cloud.member.wait("backups", given[way])


# -------------------------------------------------------------------- of a backup


def test_of_a_backup_it_stays_creating_until_it_is_available(cloud, source):
    """Terraform takes `restoring-backup` here for a failure, while the backup itself is `restoring` (Cinder contract 4.2, 6.2)."""
    made = cloud.member.create("volumes", backup_id=source["backup"]["id"], name="restored")
    assert made["status"] == "creating" and made["name"] == "restored"
    seen, shown = cloud.member.watch("volumes", made)
    assert seen in (["creating", "available"], ["available"])
    sizes_are(cloud, shown, 2)
    assert content(cloud.path(shown)) == source["before"]
    assert shown["name"] == "restored"
    assert cloud.member.wait("backups", source["backup"])["status"] == "available"
    # Stock Cinder never shows it, and Tempest forbids it (Cinder contract 4.2).
    assert "backup_id" not in shown


def test_while_it_is_made_the_backup_is_restoring(start_daemon):
    """A backup with much on it, so that both can be looked at on the way."""
    cloud = Cloud(start_daemon())
    volume = cloud.volume(1)
    with open(cloud.path(volume), "r+b") as f:
        for _ in range(40):
            f.write(os.urandom(4 * MIB))
    backup = cloud.backup(volume)
    made = cloud.member.create("volumes", backup_id=backup["id"])
    pairs = set()

    def look():
        first = cloud.member.show("volumes", made)["status"]
        between = cloud.member.show("backups", backup)["status"]
        if cloud.member.show("volumes", made)["status"] == first:
            pairs.add((first, between))
        return first == "available"

    wait_for(look, "the volume is made", 60, 0)
    assert {volume for volume, _ in pairs} <= {"creating", "available"}, pairs
    assert ("creating", "restoring") in pairs and ("creating", "available") not in pairs, pairs
    assert content(cloud.path(made)) == content(cloud.path(volume))
    cloud.member.wait("backups", backup)


def test_of_a_backup_it_may_be_larger_but_not_smaller(cloud, source):
    made = cloud.volume(3, backup_id=source["backup"]["id"])
    sizes_are(cloud, made, 3)
    assert content(cloud.path(made)) == source["before"]
    cloud.member.wait("backups", source["backup"])
    cloud.member.create("volumes", 400, size=1, backup_id=source["backup"]["id"])


def test_of_a_backup_that_is_not_there(cloud, source):
    cloud.member.create("volumes", 404, size=1, backup_id=NOBODY)
    cloud.stranger.create("volumes", 404, size=2, backup_id=source["backup"]["id"])


def test_of_a_backup_that_is_not_available(cloud):
    cloud.member.create("volumes", 400, size=1, backup_id=cloud.failed_backup()["id"])


def test_before_3_47_the_backup_is_an_unknown_key(cloud, source):
    """Cinder contract 3.3, 4.2: ignored, so that without a size there is nothing to make."""
    old = cloud.member.at("3.46")
    old.create("volumes", 400, backup_id=source["backup"]["id"])
    made = cloud.member.wait("volumes", old.create("volumes", size=1, backup_id=source["backup"]["id"]))
    assert content(cloud.path(made)) == {}


def test_of_a_backup_of_a_volume_that_is_gone(cloud):
    """Cinder contract 6.5: backups outlive their volume."""
    volume = cloud.volume(1, seed="gone")
    before = content(cloud.path(volume))
    backup = cloud.backup(volume)
    cloud.remove("volumes", volume)
    made = cloud.member.wait("volumes", cloud.member.create("volumes", backup_id=backup["id"]))
    assert content(cloud.path(made)) == before


def test_two_volumes_at_once_cannot_be_made_of_one_backup(cloud, source):
    """Cinder contract 6.3: two restores of one backup do not overlap. Each is made or refused, and what is made is right."""
    answers = [cloud.member.post("/volumes", {"volume": {"backup_id": source["backup"]["id"]}}) for _ in range(3)]
    assert answers[0].status_code == 202
    assert {a.status_code for a in answers} <= {202, 400}
    for answer in answers:
        if answer.status_code == 202:
            made = cloud.member.wait("volumes", answer.json()["volume"])
            assert content(cloud.path(made)) == source["before"]
        else:
            fault(answer, 400)
    cloud.member.wait("backups", source["backup"])


def test_of_an_incremental_backup_whose_blocks_were_zeroed(cloud):
    """Cinder contract 7: stock Cinder gave the old bytes back where a later backup has zeros."""
    volume = cloud.volume(1, seed="full")
    path = cloud.path(volume)
    cloud.backup(volume)
    with open(path, "r+b") as f:
        f.write(bytes(MIB))
    zeroed = content(path)
    backup = cloud.backup(volume, incremental=True)
    made = cloud.member.wait("volumes", cloud.member.create("volumes", backup_id=backup["id"]))
    assert content(cloud.path(made)) == zeroed
