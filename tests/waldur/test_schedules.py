"""Schedules over HTTP: the cases C1 to C17, their fields and bounds, activation, the cron grammar, dry runs."""

import pytest

from helpers.api import HEX32, NOT_FOUND, TIMESTAMP, ok
from helpers.lab import NEVER, SCHEDULES, Lab, parse_time

REQUIRED = "This field is required."
FIELDS = {
    "url", "uuid", "description", "instance", "instance_name", "retention_time", "maximal_number_of_backups", "schedule",
    "timezone", "is_active", "backups", "next_trigger_at", "next_trigger_at_local", "error_message", "created",
    "schedule_description",
}


@pytest.fixture(scope="module")
def shared(daemon):
    return Lab(daemon)


@pytest.fixture(scope="module")
def vm(shared):
    return shared.instance()


def count(lab):
    return lab.d.sql("SELECT count(*) FROM schedule")[0][0]


def fields(vm, **changes):
    return {"instance": vm["url"], "schedule": NEVER, "retention_time": 3, "maximal_number_of_backups": 3, **changes}


# -------------------------------------------------------------------- making


def test_C1_create_echoes_the_values(shared, vm):
    answer = shared.api.post(SCHEDULES, fields(vm, schedule="*/5 * * * *"))
    body = ok(answer, 201)
    assert answer.headers["Location"] == body["url"]
    assert (body["retention_time"], body["maximal_number_of_backups"], body["schedule"]) == (3, 3, "*/5 * * * *")
    assert ok(shared.api.get(body["url"]))["schedule"] == "*/5 * * * *"


def test_representation(shared, vm):
    body = shared.schedule(vm, description="schedule description", schedule="1 1 1 1 1", timezone="Europe/London")
    body = shared.get(body)
    assert FIELDS <= set(body), FIELDS - set(body)
    assert HEX32.match(body["uuid"]) and body["url"] == f"{shared.d.url}{SCHEDULES}{body['uuid']}/"
    assert body["instance"] == vm["url"] and body["instance_name"] == vm["name"]
    assert body["description"] == "schedule description"
    assert body["backups"] == []
    assert body["error_message"] == ""
    assert TIMESTAMP.match(body["created"]) and TIMESTAMP.match(body["next_trigger_at"])
    assert parse_time(body["next_trigger_at"]) > parse_time(body["created"])
    assert parse_time(body["next_trigger_at_local"]) == parse_time(body["next_trigger_at"])
    assert isinstance(body["schedule_description"], str) and body["schedule_description"]
    assert "maximal_number_of_resources" not in body


def test_the_seed_example(shared, vm):
    """The request of the documentation, word for word."""
    body = ok(shared.api.post(SCHEDULES, {
        "instance": vm["url"], "description": "schedule description", "retention_time": 0, "timezone": "Europe/London",
        "maximal_number_of_backups": 10, "schedule": "1 1 1 1 1", "is_active": True,
    }), 201)
    assert body["is_active"] is True
    assert (body["retention_time"], body["maximal_number_of_backups"], body["schedule"], body["timezone"]) == (
        0, 10, "1 1 1 1 1", "Europe/London"
    )
    ok(shared.api.delete(body["url"]), 204)


def test_C2_wrong_schedule_is_400(shared, vm):
    before = count(shared)
    answer = ok(shared.api.post(SCHEDULES, fields(vm, schedule="wrong schedule")), 400)
    assert list(answer) == ["schedule"] and answer["schedule"][0]
    assert count(shared) == before


def test_C3_instance_url_of_a_backup_is_400(shared, vm):
    backup = shared.backup(vm)
    answer = ok(shared.api.post(SCHEDULES, fields(vm, instance=backup["url"])), 400)
    assert answer == {"instance": ["Invalid hyperlink - Incorrect URL match."]}


@pytest.mark.parametrize("zone", ["Europe/London", "UTC", "Asia/Kathmandu", "GB", "US/Eastern", "Etc/GMT+5", "America/Argentina/Ushuaia"])
def test_C4_timezone_is_echoed(shared, vm, zone):
    assert shared.schedule(vm, timezone=zone)["timezone"] == zone


@pytest.mark.parametrize("zone", ["incorrect", "europe/london", "Europe", "UTC+1", "../etc/passwd", "x" * 60])
def test_C5_unknown_timezone_is_400(shared, vm, zone):
    before = count(shared)
    answer = ok(shared.api.post(SCHEDULES, fields(vm, timezone=zone)), 400)
    assert answer == {"timezone": [f'"{zone}" is not a valid choice.']}
    assert count(shared) == before


def test_C6_without_timezone_the_servers_zone_is_taken(shared, vm, start_daemon):
    assert shared.schedule(vm)["timezone"] == "UTC"
    other = Lab(start_daemon('timezone = "Asia/Tokyo"'))
    assert other.schedule(other.instance())["timezone"] == "Asia/Tokyo"


@pytest.mark.parametrize("given, shown", [(True, True), (False, False), (None, False)])
def test_47_is_active_true_false_absent(shared, vm, given, shown):
    body = fields(vm) if given is None else fields(vm, is_active=given)
    assert ok(shared.api.post(SCHEDULES, body), 201)["is_active"] is shown


@pytest.mark.parametrize("given, shown", [
    (1, True), (0, False), ("t", True), ("f", False), ("true", True), ("True", True), ("false", False), ("False", False),
    ("1", True), ("0", False),
])
def test_boolean_coercions(shared, vm, given, shown):
    assert shared.schedule(vm, is_active=given)["is_active"] is shown


@pytest.mark.parametrize("given, message", [
    ("maybe", '"maybe" is not a valid boolean.'), (2, '"2" is not a valid boolean.'), ("", '"" is not a valid boolean.'),
    (None, "This field may not be null."),
])
def test_bad_booleans(shared, vm, given, message):
    assert ok(shared.api.post(SCHEDULES, fields(vm, is_active=given)), 400) == {"is_active": [message]}


@pytest.mark.parametrize("field", ["retention_time", "maximal_number_of_backups"])
@pytest.mark.parametrize("given, shown", [(5, 5), ("7", 7), (1, 1)])
def test_integer_coercions(shared, vm, field, given, shown):
    assert shared.schedule(vm, **{field: given})[field] == shown


@pytest.mark.parametrize("field", ["retention_time", "maximal_number_of_backups"])
@pytest.mark.parametrize("given", ["3.5", 3.5, True, [], {}, "", "x", "1e3", "0x10"])
def test_bad_integers(shared, vm, field, given):
    before = count(shared)
    assert ok(shared.api.post(SCHEDULES, fields(vm, **{field: given})), 400) == {field: ["A valid integer is required."]}
    assert count(shared) == before


@pytest.mark.parametrize("field, given, message", [
    ("retention_time", -1, "Ensure this value is greater than or equal to 0."),
    ("retention_time", 2147483648, "Ensure this value is less than or equal to 2147483647."),
    ("retention_time", 10**30, "Ensure this value is less than or equal to 2147483647."),
    ("retention_time", None, "This field may not be null."),
    ("maximal_number_of_backups", 0, "Ensure this value is greater than or equal to 1."),
    ("maximal_number_of_backups", -5, "Ensure this value is greater than or equal to 1."),
    ("maximal_number_of_backups", 32768, "Ensure this value is less than or equal to 32767."),
    ("maximal_number_of_backups", None, "This field may not be null."),
    ("description", "x" * 501, "Ensure this field has no more than 500 characters."),
    ("description", None, "This field may not be null."),
    ("schedule", None, "This field may not be null."),
    ("schedule", "", "This field may not be blank."),
    ("schedule", "0," * 50 + "0 * * * *", "Ensure this field has no more than 100 characters."),
    ("timezone", None, "This field may not be null."),
    ("timezone", 5, '"5" is not a valid choice.'),
])
def test_bounds(shared, vm, field, given, message):
    before = count(shared)
    assert ok(shared.api.post(SCHEDULES, fields(vm, **{field: given})), 400) == {field: [message]}
    assert count(shared) == before
    existing = shared.schedule(vm)
    assert ok(shared.api.patch(existing["url"], {field: given}), 400) == {field: [message]}
    assert shared.get(existing) == {k: v for k, v in existing.items() if k in shared.get(existing)}


@pytest.mark.parametrize("field, value", [
    ("retention_time", 0), ("retention_time", 2147483647), ("maximal_number_of_backups", 1), ("maximal_number_of_backups", 32767),
    ("description", "é" * 500), ("description", ""),
])
def test_values_at_the_bounds(shared, vm, field, value):
    assert shared.schedule(vm, **{field: value})[field] == value


def test_required_fields(shared):
    assert ok(shared.api.post(SCHEDULES, {}), 400) == {
        "instance": [REQUIRED], "schedule": [REQUIRED], "retention_time": [REQUIRED], "maximal_number_of_backups": [REQUIRED],
    }


def test_sample_of_the_contract(shared, vm):
    answer = ok(shared.api.post(SCHEDULES, {"instance": vm["url"], "schedule": "x"}), 400)
    assert set(answer) == {"schedule", "retention_time", "maximal_number_of_backups"}
    assert answer["retention_time"] == answer["maximal_number_of_backups"] == [REQUIRED]


def test_the_later_name_of_the_maximum_is_not_known(shared, vm):
    body = fields(vm, maximal_number_of_resources=3)
    del body["maximal_number_of_backups"]
    assert ok(shared.api.post(SCHEDULES, body), 400) == {"maximal_number_of_backups": [REQUIRED]}


@pytest.mark.parametrize("state", ["resizing", "erred", "online", "starting"])
def test_create_does_not_depend_on_the_state_of_the_instance(lab, state):
    vm = lab.instance()
    lab.set_instance_state(vm, state)
    lab.schedule(vm)


def test_C17_source_without_a_bootable_volume_is_400(lab):
    vm = lab.instance()
    lab.d.sql(
        "UPDATE instance_volume SET bootable = 0 WHERE instance_id = (SELECT id FROM instance WHERE uuid = ?)", (vm["uuid"],)
    )
    before = count(lab)
    ok(lab.api.post(SCHEDULES, fields(vm)), 400)
    assert count(lab) == before


# -------------------------------------------------------------------- activation


def test_C7_C10_activate_then_deactivate(shared, vm):
    schedule = shared.schedule(vm)

    def stored():
        return shared.d.sql("SELECT is_active FROM schedule WHERE uuid = ?", (schedule["uuid"],))[0][0]

    assert ok(shared.api.post(schedule["url"] + "activate/")) == {"status": "BackupSchedule was activated"}
    assert shared.get(schedule)["is_active"] is True and stored() == 1
    assert ok(shared.api.post(schedule["url"] + "deactivate/")) == {"status": "BackupSchedule was deactivated"}
    assert shared.get(schedule)["is_active"] is False and stored() == 0


def test_C8_activate_active_is_409(shared, vm):
    schedule = shared.schedule(vm, is_active=True)
    answer = ok(shared.api.post(schedule["url"] + "activate/"), 409)
    assert answer == {"status": "BackupSchedule is already activated", "detail": "BackupSchedule is already activated"}
    assert shared.get(schedule)["is_active"] is True


def test_C9_deactivate_inactive_is_409(shared, vm):
    schedule = shared.schedule(vm)
    answer = ok(shared.api.post(schedule["url"] + "deactivate/"), 409)
    assert answer == {"status": "BackupSchedule is already deactivated", "detail": "BackupSchedule is already deactivated"}


def test_activate_checks_in_order(shared, vm):
    """404, then 403, then 409."""
    schedule = shared.schedule(vm, is_active=True)
    assert ok(shared.user().post(schedule["url"] + "activate/"), 404) == NOT_FOUND
    ok(shared.user("reader").post(schedule["url"] + "activate/"), 403)
    ok(shared.user("admin").post(schedule["url"] + "activate/"), 409)


def test_activation_clears_the_error(shared, vm):
    schedule = shared.schedule(vm)
    shared.d.sql("UPDATE schedule SET error_message = 'Failed to schedule: full' WHERE uuid = ?", (schedule["uuid"],))
    assert shared.get(schedule)["error_message"] == "Failed to schedule: full"
    ok(shared.api.post(schedule["url"] + "activate/"))
    assert shared.get(schedule)["error_message"] == ""


def test_put_and_patch_activate_without_409(shared, vm):
    schedule = shared.schedule(vm)
    for value in (True, True, False, False):
        assert ok(shared.api.patch(schedule["url"], {"is_active": value}))["is_active"] is value
    assert ok(shared.api.put(schedule["url"], fields(vm, is_active=True)))["is_active"] is True
    assert ok(shared.api.put(schedule["url"], fields(vm)))["is_active"] is True  # absent: unchanged
    ok(shared.api.post(schedule["url"] + "deactivate/"))
    assert ok(shared.api.put(schedule["url"], fields(vm)))["is_active"] is False


# -------------------------------------------------------------------- listing, changing, removing


def test_C11_list(own):
    vm = own.instance()
    schedule = own.schedule(vm)
    for user in (own.api, own.user("owner"), own.user("manager"), own.user("admin"), own.user("reader"), own.user(staff=True)):
        assert [s["uuid"] for s in user.list(SCHEDULES)] == [schedule["uuid"]]
    assert own.user().list(SCHEDULES) == []


@pytest.mark.parametrize("role", ["staff", "owner", "admin", "manager"])
def test_C12_sweep_for_writers(shared, vm, role):
    user = shared.user(staff=True) if role == "staff" else shared.user(role)
    schedule = shared.schedule(vm, api=user, is_active=True)
    ok(user.get(schedule["url"]))
    ok(user.post(schedule["url"] + "deactivate/"))
    ok(user.post(schedule["url"] + "activate/"))
    assert ok(user.patch(schedule["url"], {"retention_time": 5}))["retention_time"] == 5
    ok(user.delete(schedule["url"]), 204)


def test_C12_C15_sweep_for_readers_and_strangers(shared, vm):
    schedule = shared.schedule(vm)
    before = shared.get(schedule)
    requests = [
        ("POST", "activate/", None), ("POST", "deactivate/", None), ("PATCH", "", {"retention_time": 5}),
        ("PUT", "", fields(vm)), ("DELETE", "", None),
    ]
    for user, code in ((shared.user("reader"), 403), (shared.user(), 404), (shared.d.anonymous, 401)):
        assert user.get(schedule["url"]).status_code == (200 if code == 403 else code)
        for method, path, body in requests:
            ok(user.request(method, schedule["url"] + path, body), code)
    ok(shared.user("reader").post(SCHEDULES, fields(vm)), 403)
    ok(shared.user().post(SCHEDULES, fields(vm)), 400)
    assert shared.get(schedule) == before


@pytest.mark.parametrize("role", ["staff", "owner", "admin", "manager"])
def test_C13_delete(shared, vm, role):
    schedule = shared.schedule(vm)
    user = shared.api if role == "staff" else shared.user(role)
    answer = user.delete(schedule["url"])
    assert answer.status_code == 204 and answer.content == b""
    assert ok(shared.api.get(schedule["url"]), 404) == NOT_FOUND


def test_C14_delete_by_others(shared, vm):
    schedule = shared.schedule(vm)
    ok(shared.user("reader").delete(schedule["url"]), 403)
    ok(shared.user().delete(schedule["url"]), 404)
    ok(shared.api.get(schedule["url"]))


def test_C16_anonymous_list_is_401(daemon):
    ok(daemon.anonymous.get(SCHEDULES), 401)


def test_patch_changes_only_what_it_names(shared, vm):
    schedule = shared.schedule(vm, description="a", timezone="Europe/London")
    before = shared.get(schedule)
    ok(shared.api.patch(schedule["url"], {"description": "b"}))
    assert shared.get(schedule) == {**before, "description": "b"}
    ok(shared.api.patch(schedule["url"], {}))
    assert shared.get(schedule) == {**before, "description": "b"}


def test_put_needs_the_required_fields(shared, vm):
    schedule = shared.schedule(vm)
    answer = ok(shared.api.put(schedule["url"], {"description": "x"}), 400)
    assert set(answer) >= {"schedule", "retention_time", "maximal_number_of_backups"}
    assert shared.get(schedule)["description"] == ""
    body = ok(shared.api.put(schedule["url"], fields(vm, description="x", schedule="0 5 * * *", retention_time=9)))
    assert (body["description"], body["schedule"], body["retention_time"]) == ("x", "0 5 * * *", 9)


def test_the_instance_of_a_schedule_is_fixed(shared, vm):
    other = shared.instance()
    schedule = shared.schedule(vm)
    for method in ("PATCH", "PUT"):
        shared.api.request(method, schedule["url"], fields(vm, instance=other["url"]))
        assert shared.get(schedule)["instance"] == vm["url"]


def test_read_only_fields_are_ignored(shared, vm):
    schedule = shared.schedule(vm)
    before = shared.get(schedule)
    ok(shared.api.patch(schedule["url"], {
        "uuid": "0" * 32, "next_trigger_at": "2001-01-01T00:00:00Z", "error_message": "x", "backups": [], "created": None,
    }))
    assert shared.get(schedule) == before


def test_backups_of_a_schedule_are_listed_in_creation_order(lab):
    vm = lab.instance()
    schedule = lab.schedule(vm)
    made = [lab.backup(vm) for _ in range(3)]
    for backup in made:
        lab.link(backup, schedule)
    assert lab.get(schedule)["backups"] == [b["url"] for b in made]
    shown = lab.get(made[0])
    assert shown["backup_schedule"] == schedule["url"] and shown["backup_schedule_uuid"] == schedule["uuid"]


def test_47_deleting_a_schedule_nulls_the_link(lab):
    vm = lab.instance()
    schedule = lab.schedule(vm)
    backup = lab.backup(vm)
    lab.link(backup, schedule, kept_until=4_000_000_000_000)
    kept = lab.get(backup)["kept_until"]
    ok(lab.api.delete(schedule["url"]), 204)
    after = lab.get(backup)
    assert after["backup_schedule"] is None and after["backup_schedule_uuid"] is None
    assert after["kept_until"] == kept and after["state"] == "Ready"


def test_patch_of_retention_leaves_existing_backups(lab):
    vm = lab.instance()
    schedule = lab.schedule(vm, retention_time=3)
    backup = lab.backup(vm)
    lab.link(backup, schedule, kept_until=4_000_000_000_000)
    before = lab.get(backup)
    ok(lab.api.patch(schedule["url"], {"retention_time": 1}))
    assert lab.get(backup) == before


def test_post_and_patch_warn(shared, vm):
    """What surprises users is said when they set it: the maximum beats the retention time."""
    body = shared.schedule(vm, schedule="0 * * * *", retention_time=30, maximal_number_of_backups=2)
    assert isinstance(body["warnings"], list)
    assert body["warnings"] and all(isinstance(w, str) and w for w in body["warnings"])
    body = ok(shared.api.patch(body["url"], {"maximal_number_of_backups": 1}))
    assert body["warnings"]


# -------------------------------------------------------------------- the cron grammar


def test_a_long_ordinary_list_is_accepted(shared, vm):
    assert shared.schedule(vm, schedule="0 0,12 1,15 * 1-5")["schedule"] == "0 0,12 1,15 * 1-5"


# Expression, zone, now, and the next three runs in UTC.
VECTORS = [
    ("1 1 1 1 1", "Europe/London", "2026-11-21T12:00:00Z", ["2027-01-01T01:01", "2027-01-04T01:01", "2027-01-11T01:01"]),
    ("1 1 1 1 1", "Europe/London", "2027-01-01T01:01:00Z", ["2027-01-04T01:01", "2027-01-11T01:01", "2027-01-18T01:01"]),
    ("1 1 1 1 1", "Europe/London", "2027-01-25T02:00:00Z", ["2028-01-01T01:01", "2028-01-03T01:01", "2028-01-10T01:01"]),
    ("0 2 * * 4", "UTC", "2026-11-21T12:00:00Z", ["2026-11-26T02:00", "2026-12-03T02:00", "2026-12-10T02:00"]),
    ("0 2 * * *", "UTC", "2026-11-21T02:00:00Z", ["2026-11-22T02:00", "2026-11-23T02:00", "2026-11-24T02:00"]),
    ("0 2 * * *", "Asia/Tokyo", "2026-11-21T16:59:59Z", ["2026-11-21T17:00", "2026-11-22T17:00", "2026-11-23T17:00"]),
    ("0 11 * * *", "Asia/Tokyo", "2026-07-01T10:00:00Z", ["2026-07-02T02:00", "2026-07-03T02:00", "2026-07-04T02:00"]),
    ("0 11 * * *", "America/New_York", "2026-07-01T10:00:00Z", ["2026-07-01T15:00", "2026-07-02T15:00", "2026-07-03T15:00"]),
    ("0 11 * * *", "Europe/Tallinn", "2026-07-01T10:00:00Z", ["2026-07-02T08:00", "2026-07-03T08:00", "2026-07-04T08:00"]),
    ("*/10 * * * *", "Asia/Kathmandu", "2026-11-21T12:03:00Z", ["2026-11-21T12:05", "2026-11-21T12:15", "2026-11-21T12:25"]),
    ("0 * * * *", "Asia/Kolkata", "2026-11-21T12:00:00Z", ["2026-11-21T12:30", "2026-11-21T13:30", "2026-11-21T14:30"]),
    ("30 1 * * *", "Europe/London", "2027-03-27T12:00:00Z", ["2027-03-28T01:30", "2027-03-29T00:30", "2027-03-30T00:30"]),
    ("30 1 * * *", "Europe/London", "2027-10-30T12:00:00Z", ["2027-10-31T00:30", "2027-11-01T01:30", "2027-11-02T01:30"]),
    ("0 * * * *", "Europe/London", "2027-03-28T00:10:00Z", ["2027-03-28T01:00", "2027-03-28T02:00", "2027-03-28T03:00"]),
    ("*/30 * * * *", "Europe/London", "2027-10-31T00:10:00Z", ["2027-10-31T00:30", "2027-10-31T01:00", "2027-10-31T01:30"]),
    ("0 0 29 2 *", "UTC", "2026-11-21T00:00:00Z", ["2028-02-29T00:00", "2032-02-29T00:00", "2036-02-29T00:00"]),
    ("0 0 13 * 5", "UTC", "2026-11-21T00:00:00Z", ["2026-11-27T00:00", "2026-12-04T00:00", "2026-12-11T00:00"]),
    ("0 0 */2 * 1", "UTC", "2026-11-21T00:00:00Z", ["2026-11-23T00:00", "2026-11-25T00:00", "2026-11-27T00:00"]),
    ("0 0 * * 7", "UTC", "2026-11-21T00:00:00Z", ["2026-11-22T00:00", "2026-11-29T00:00", "2026-12-06T00:00"]),
    ("0 0 31 * *", "UTC", "2026-11-21T00:00:00Z", ["2026-12-31T00:00", "2027-01-31T00:00", "2027-03-31T00:00"]),
    ("0 9-17/4 * * mon-fri", "UTC", "2026-11-20T17:30:00Z", ["2026-11-23T09:00", "2026-11-23T13:00", "2026-11-23T17:00"]),
    # Beyond the table: what the grammar adds, and what its reference implementations get wrong.
    ("5/15 * * * *", "UTC", "2026-11-21T12:00:00Z", ["2026-11-21T12:05", "2026-11-21T12:20", "2026-11-21T12:35"]),
    ("0 0 * * 5-7", "UTC", "2026-11-21T00:00:00Z", ["2026-11-22T00:00", "2026-11-27T00:00", "2026-11-28T00:00"]),
    ("0 0 L * *", "UTC", "2026-11-21T00:00:00Z", ["2026-11-30T00:00", "2026-12-31T00:00", "2027-01-31T00:00"]),
    ("0 0 l 2 *", "UTC", "2027-01-21T00:00:00Z", ["2027-02-28T00:00", "2028-02-29T00:00", "2029-02-28T00:00"]),
    ("0 0 31 2 0", "UTC", "2026-11-21T00:00:00Z", ["2027-02-07T00:00", "2027-02-14T00:00", "2027-02-21T00:00"]),
    ("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", ["2104-02-29T00:00", "2108-02-29T00:00", "2112-02-29T00:00"]),
    ("@hourly", "UTC", "2026-11-21T12:03:00Z", ["2026-11-21T13:00", "2026-11-21T14:00", "2026-11-21T15:00"]),
    ("@daily", "UTC", "2026-11-21T12:03:00Z", ["2026-11-22T00:00", "2026-11-23T00:00", "2026-11-24T00:00"]),
    ("@weekly", "UTC", "2026-11-21T12:03:00Z", ["2026-11-22T00:00", "2026-11-29T00:00", "2026-12-06T00:00"]),
    ("@monthly", "UTC", "2026-11-21T12:03:00Z", ["2026-12-01T00:00", "2027-01-01T00:00", "2027-02-01T00:00"]),
    ("@yearly", "UTC", "2026-11-21T12:03:00Z", ["2027-01-01T00:00", "2028-01-01T00:00", "2029-01-01T00:00"]),
    ("0 0 1 JAN,Jul *", "UTC", "2026-11-21T12:03:00Z", ["2027-01-01T00:00", "2027-07-01T00:00", "2028-01-01T00:00"]),
    ("0 0 * * SUN", "UTC", "2026-11-21T12:03:00Z", ["2026-11-22T00:00", "2026-11-29T00:00", "2026-12-06T00:00"]),
    ("15 2 * * *", "Australia/Lord_Howe", "2027-10-02T12:00:00Z", ["2027-10-02T15:45", "2027-10-03T15:15", "2027-10-04T15:15"]),
]


def utc(moments):
    return [m + ":00.000Z" for m in moments]


@pytest.mark.parametrize("expression, zone, now, wanted", VECTORS, ids=[f"{v[0]} {v[1]} {v[2][:10]}" for v in VECTORS])
def test_vectors_by_next_runs(shared, vm, expression, zone, now, wanted):
    schedule = shared.schedule(vm, schedule=expression, timezone=zone)
    body = ok(shared.api.get(schedule["url"] + "next-runs/", params={"count": 3, "now": now}))
    assert body["next_runs"] == utc(wanted)
    ok(shared.api.delete(schedule["url"]), 204)


@pytest.mark.parametrize("expression, zone, now, wanted", VECTORS, ids=[f"{v[0]} {v[1]} {v[2][:10]}" for v in VECTORS])
def test_vectors_by_preview(shared, expression, zone, now, wanted):
    body = ok(shared.api.post(SCHEDULES + "preview/", {"schedule": expression, "timezone": zone, "count": 3, "now": now}))
    assert body["next_runs"] == utc(wanted)
    assert isinstance(body["description"], str) and body["description"]


REFUSED = [
    "hello world", "* * * * * *", "0 0 * * * *", "* * * *", "*/59", "*", "60 * * * *", "-1 * * * *", "* 24 * * *", "* * 0 * *",
    "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "* * * * 5-1", "* * * * fri-mon",
    "* * * dec-jan *", "1,,2 * * * *", "1- * * * *", ", * * * *", "a b c d e", "@reboot", "@every 5m", "@daily 5", "1.5 * * * *",
    "0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 * *", "* * * * mond", "+1 * * * *", "*/x * * * *", "٣ * * * *", "? * * * *",
]


@pytest.mark.parametrize("expression", REFUSED)
def test_N20_refused_expressions(shared, vm, expression):
    before = count(shared)
    answer = ok(shared.api.post(SCHEDULES, fields(vm, schedule=expression)), 400)
    assert list(answer) == ["schedule"] and isinstance(answer["schedule"][0], str) and answer["schedule"][0]
    assert count(shared) == before
    assert list(ok(shared.api.post(SCHEDULES + "preview/", {"schedule": expression}), 400)) == ["schedule"]


@pytest.mark.parametrize("expression", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_impossible_dates_say_so(shared, vm, expression):
    answer = ok(shared.api.post(SCHEDULES, fields(vm, schedule=expression)), 400)
    assert "never matches" in answer["schedule"][0]


@pytest.mark.parametrize("expression", [
    "*/1 * * * *", "*/10 * * * *", "*/59 * * * *", "0 * * * *", "0 0 * * *", "0 0 1 * *", "0 0 1 1 *", "@hourly", "@yearly",
    "1-5,10,20-30/5 * * * *", "0 0 * * 0-7", "0 0 * * MON-fri", "* * * * *",
])
def test_N20_accepted_expressions(shared, vm, expression):
    """No minimum period: what is shorter than an hour is accepted."""
    assert shared.schedule(vm, schedule=expression)["schedule"] == expression


def test_patch_with_a_wrong_schedule_changes_nothing(shared, vm):
    schedule = shared.schedule(vm, schedule="0 2 * * *")
    before = shared.get(schedule)
    assert list(ok(shared.api.patch(schedule["url"], {"schedule": "wrong", "retention_time": 9}), 400)) == ["schedule"]
    assert list(ok(shared.api.patch(schedule["url"], {"timezone": "incorrect", "retention_time": 9}), 400)) == ["timezone"]
    assert shared.get(schedule) == before


def test_next_runs_defaults_and_bounds(shared, vm):
    schedule = shared.schedule(vm, schedule="0 * * * *")
    path = schedule["url"] + "next-runs/"
    runs = ok(shared.api.get(path))["next_runs"]
    assert len(runs) >= 1 and runs[0] == schedule["next_trigger_at"]
    assert runs == sorted(runs)
    assert len(ok(shared.api.get(path, params={"count": 7}))["next_runs"]) == 7
    for bad in ("0", "-1", "x", "1000000"):
        answer = shared.api.get(path, params={"count": bad})
        assert answer.status_code in (200, 400)
        assert len(answer.content) < 100_000
    assert list(ok(shared.api.get(path, params={"now": "yesterday"}), 400)) == ["now"]
    ok(shared.api.post(path, {}), 405)
    ok(shared.user().get(path), 404)
    ok(shared.user("reader").get(path))


def test_preview_needs_no_rights_but_a_user(shared):
    body = {"schedule": "0 2 * * *", "timezone": "Asia/Tokyo", "count": 2, "now": "2026-11-21T00:00:00Z"}
    assert ok(shared.user().post(SCHEDULES + "preview/", body))["next_runs"] == utc(["2026-11-21T17:00", "2026-11-22T17:00"])
    ok(shared.d.anonymous.post(SCHEDULES + "preview/", body), 401)
    assert list(ok(shared.api.post(SCHEDULES + "preview/", {**body, "timezone": "incorrect"}), 400)) == ["timezone"]
    assert list(ok(shared.api.post(SCHEDULES + "preview/", {}), 400)) == ["schedule"]
