"""Lists: paging in both directions, sorting, filters, counts, links, whose backups are shown (Cinder contract 1.2)."""

import pytest

from helpers.api import local, ok, query_of
from helpers.cinder import DETAIL, MAX, NOBODY, SUMMARY, Cinder, CinderLab, detail_keys, fault, moment

COUNT = 25


@pytest.fixture(scope="module")
def many(shared):
    """25 backups of one project, oldest first: of three volumes, with names whose order is not that of their age."""
    volumes = [shared.admin.create_volume(size) for size in (1, 2, 1)]
    made = [
        shared.admin.backup(volumes[n % 3], name=f"b{n * 7 % COUNT:02}", description=f"number {n}", container=f"c{n % 4}")
        for n in range(COUNT)
    ]
    shared.admin.reset(made[3], "error")
    shared.admin.reset(made[20], "error")
    return [shared.admin.show(b) for b in made]


def ids(backups):
    return [b["id"] for b in backups]


# -------------------------------------------------------------------- the answer


def test_forms_of_the_two_lists(shared, many):
    """Cinder contract 2.1, 2.2: newest first, all of them, and no more keys than asked for."""
    plain = ok(shared.member.get("/backups"))
    detail = ok(shared.member.get("/backups/detail"))
    assert set(plain) == set(detail) == {"backups"}
    assert ids(plain["backups"]) == ids(detail["backups"]) == ids(many)[::-1]
    assert all(set(b) == SUMMARY for b in plain["backups"])
    assert all(set(b) == DETAIL | {"metadata"} for b in detail["backups"])
    assert detail["backups"] == [shared.member.show(b) for b in many[::-1]]
    assert plain["backups"] == [{k: b[k] for k in SUMMARY} for b in detail["backups"]]


def test_an_empty_list(lab):
    for path in ("/backups", "/backups/detail"):
        assert ok(lab.member.get(path)) == {"backups": []}
        assert ok(lab.member.get(path, limit=5)) == {"backups": []}
        assert ok(lab.member.get(path, with_count="true")) == {"backups": [], "count": 0}


# -------------------------------------------------------------------- limit, marker, offset


@pytest.mark.parametrize("path", ["/backups", "/backups/detail"])
@pytest.mark.parametrize("limit", [1, 7, 25, 26, 1000])
@pytest.mark.parametrize("sort", ["created_at:desc", "created_at:asc", "name:asc", "name:desc", "size:desc,name:asc", None])
def test_following_the_links_meets_everything_once(shared, many, path, limit, sort):
    """Cinder contract 1.2: gophercloud pages so. A page that is full has a link, with all parameters of the query."""
    params = {"limit": limit, "status": "available"} | ({"sort": sort} if sort else {})
    whole = shared.member.ids(**{k: v for k, v in params.items() if k != "limit"})
    assert len(whole) == COUNT - 2
    seen, body = [], ok(shared.member.get(path, **params))
    while True:
        page = ids(body["backups"])
        seen += page
        assert ("backups_links" in body) == (len(page) == limit > 0)
        if "backups_links" not in body:
            break
        link, = body["backups_links"]
        assert link["rel"] == "next" and local(link["href"]).startswith(f"/v3/{shared.project['uuid']}{path}?")
        wanted = {k: [str(v)] for k, v in params.items()} | {"marker": [page[-1]]}
        assert query_of(link["href"]) == wanted
        body = ok(shared.member.get(link["href"]))
    assert seen == whole


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_paging_by_marker_until_an_empty_page(shared, many, direction):
    """Cinder contract 1.2: the SDK pages so, and ignores a missing link."""
    seen, marker = [], None
    while True:
        page = shared.member.ids(limit=4, sort_key="created_at", sort_dir=direction, **({"marker": marker} if marker else {}))
        if not page:
            break
        seen += page
        marker = page[-1]
    assert seen == (ids(many) if direction == "asc" else ids(many)[::-1])


def test_limit(shared, many):
    newest = ids(many)[::-1]
    for limit in (0, 1, 2, 24, 25, 26, 1000, 1001, 10**9):
        assert shared.member.ids(limit=limit) == newest[:limit]
    assert ok(shared.member.get("/backups", limit=0)) == {"backups": []}


@pytest.mark.parametrize("name, value", [
    ("limit", "-1"), ("limit", "x"), ("limit", ""), ("limit", "1.5"), ("limit", "1e3"), ("limit", "0x10"),
    ("offset", "-1"), ("offset", "x"), ("offset", "1.5"), ("offset", "2147483648"), ("offset", "99999999999999999999"),
])
def test_numbers_that_are_none_are_400(shared, many, name, value):
    for path in ("/backups", "/backups/detail"):
        fault(shared.member.get(path, **{name: value}), 400)


def test_offset(shared, many):
    newest = ids(many)[::-1]
    for offset in (0, 1, 10, 24, 25, 2147483647):
        assert shared.member.ids(offset=offset) == newest[offset:]
        assert shared.member.ids(offset=offset, limit=3) == newest[offset:offset + 3]
    assert shared.member.ids(marker=newest[4], offset=2, limit=3) == newest[7:10]


def test_marker(shared, many):
    newest = ids(many)[::-1]
    for n in (0, 11, 24):
        assert shared.member.ids(marker=newest[n]) == newest[n + 1:]
        assert shared.member.ids(marker=ids(many)[n], sort="created_at:asc") == ids(many)[n + 1:]


def test_unknown_markers_are_404(lab, shared, many):
    """Cinder contract 1.2: also one that is of another project, or no id at all."""
    foreign = lab.admin.backup(lab.admin.create_volume(1))
    for marker in (NOBODY, "x", foreign["id"]):
        fault(shared.member.get("/backups", marker=marker), 404)


def test_a_marker_need_not_match_the_filter(shared, many):
    """It says where to go on, no more."""
    error = many[20]["id"]
    assert shared.member.ids(marker=error, status="available") == ids(many[19:3:-1]) + ids(many[2::-1])


def test_no_link_without_a_full_page(shared, many):
    """Cinder contract 1.2: Tempest's schema forbids the key there."""
    for params in ({}, {"limit": 26}, {"limit": 0}, {"status": "nothing"}, {"limit": 3, "marker": many[1]["id"]}):
        assert set(ok(shared.member.get("/backups", **params))) == {"backups"}


def test_links_of_a_list_without_project_repeat_that(shared, many):
    body = ok(Cinder(shared.d, None, shared.member.token).get("/backups", limit=2))
    assert local(body["backups_links"][0]["href"]).startswith("/v3/backups?")


# -------------------------------------------------------------------- sorting


KEYS = ["id", "created_at", "updated_at", "status", "size", "volume_id", "container", "availability_zone", "object_count",
        "data_timestamp", "snapshot_id", "parent_id", "display_name", "display_description", "project_id", "user_id", "host", "name"]


@pytest.mark.parametrize("key", KEYS)
def test_each_key_sorts(shared, many, key):
    """Cinder contract 1.2: default direction desc; among equals created_at and id in the same direction."""
    for suffix, backwards in ((":asc", False), (":desc", True), ("", True)):
        found = shared.member.list(sort=key + suffix)
        assert len(found) == COUNT and ids(found) == ids(shared.member.list(
            sort_key=key, **({"sort_dir": suffix[1:]} if suffix else {})))
        shown = {"display_name": "name", "display_description": "description"}.get(key, key)
        if shown in many[0] and shown != "snapshot_id":
            order = sorted(many, key=lambda b: (b[shown], moment(b["created_at"]), b["id"]), reverse=backwards)
            assert ids(found) == ids(order)
        else:
            assert set(ids(found)) == set(ids(many))


def test_several_keys(shared, many):
    found = shared.member.list(sort="size:asc,container:desc,display_name")
    order = sorted(many, key=lambda b: b["name"], reverse=True)
    order = sorted(order, key=lambda b: b["container"], reverse=True)
    order = sorted(order, key=lambda b: b["size"])
    assert ids(found) == ids(order)
    assert ids(shared.member.list(sort="display_name:asc,id:desc")) == ids(sorted(many, key=lambda b: b["name"]))


@pytest.mark.parametrize("params", [
    {"sort": "colour"}, {"sort": "colour:asc"}, {"sort_key": "colour"}, {"sort": "name:up"}, {"sort": "name:"}, {"sort": "name:asc:desc"},
    {"sort_key": "created_at", "sort_dir": "up"}, {"sort": "created_at", "sort_key": "created_at"}, {"sort": "id", "sort_dir": "asc"},
    {"sort": "created_at; DROP TABLE backup"}, {"sort": "links"}, {"sort": "is_incremental"},
], ids=str)
def test_bad_orders_are_400(shared, many, params):
    for path in ("/backups", "/backups/detail"):
        fault(shared.member.get(path, **params), 400)


@pytest.fixture(scope="module")
def mixed(shared):
    """Backups that lack this or that, some of which were made in the same instant."""
    lab = CinderLab(shared.d)
    volume = lab.filled()
    snapshot = lab.admin.snapshot(volume)
    made = [
        lab.admin.backup(volume, **fields) for fields in (
            {}, {"name": "b"}, {"name": "B", "incremental": True}, {"description": "d"}, {"snapshot_id": snapshot["id"]},
            {"name": "", "description": ""}, {"container": "x", "incremental": True}, {"name": "b", "description": "é"}, {"name": "é"},
        )
    ]
    equal = [b["id"].replace("-", "") for b in made[2:8]]
    marks = ",".join("?" * len(equal))
    lab.d.sql(
        f"UPDATE volume_backup SET created = (SELECT created FROM volume_backup WHERE uuid = ?) WHERE uuid IN ({marks})",
        [equal[0], *equal],
    )
    return lab, ids(made)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_pages_by_each_key_have_everything_once(mixed, key, direction):
    """Nulls and equal values are met once as well, and the pages together are the whole list."""
    lab, made = mixed
    sort = f"{key}:{direction}"
    whole = lab.member.ids(sort=sort)
    assert sorted(whole) == sorted(made)
    for limit in (1, 2, 5):
        seen, marker = [], {}
        while page := lab.member.ids(sort=sort, limit=limit, **marker):
            seen += page
            assert len(seen) <= len(made), "it goes on for ever"
            marker = {"marker": page[-1]}
        assert seen == whole


def test_backups_of_one_instant_are_ordered_by_their_ids(mixed):
    """Cinder contract 1.2: the last of the tie-breaks."""
    lab, made = mixed
    equal = made[2:8]
    for direction, backwards in (("asc", False), ("desc", True)):
        whole = lab.member.ids(sort=f"created_at:{direction}")
        assert [i for i in whole if i in equal] == sorted(equal, reverse=backwards)


# -------------------------------------------------------------------- filters


@pytest.mark.parametrize("query", ["name=%ff", "%ff=x", "name", "=", "&&", "name=a&name=b", "limit=1&limit=2", "name=%00", "a[]=1", "%",
                                   "name~=%25%5f%5c", "x" * 4000, "&".join(["a=1"] * 500)], ids=lambda q: q[:20])
def test_odd_queries_are_answered(shared, many, query):
    """Whatever they say: a list or a 400, never a failure of the server."""
    for client in (shared.member, shared.admin, shared.member.at("3.0")):
        answer = client.get(f"/backups?{query}")
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            fault(answer, 400)


def test_filters_for_everybody(shared, many):
    """Cinder contract 1.2: exact and case-sensitive."""
    newest = many[::-1]
    for client in (shared.member, shared.reader, shared.admin, shared.member.at("3.0")):
        assert client.ids(name="b07") == [many[1]["id"]]
        assert client.ids(name="B07") == client.ids(name="b0") == client.ids(name="b07 ") == []
        assert client.ids(status="error") == [many[20]["id"], many[3]["id"]]
        assert client.ids(status="Error") == []
        assert client.ids(volume_id=many[1]["volume_id"]) == ids(b for b in newest if b["volume_id"] == many[1]["volume_id"])
        assert client.ids(volume_id=NOBODY) == []
        assert client.ids(status="error", name=many[3]["name"]) == [many[3]["id"]]
        assert client.ids(status="available", name=many[3]["name"]) == []


def test_the_seed_s_status_is_accepted_as_a_filter(shared, many):
    """Cinder contract 8: no backup has it, but a client offers it."""
    for status in ("error_restoring", "restoring", "creating", "deleting", "error_deleting"):
        assert shared.member.ids(status=status) == []


@pytest.mark.parametrize("params, number", [
    ({"name~": "b0"}, 10), ({"name~": "7"}, 2), ({"name~": "zzz"}, 0), ({"status~": "err"}, 2), ({"status~": "a"}, 23),
    ({"description~": "number 1"}, 11), ({"name~": "b0", "status": "available"}, 10 - 1), ({"name~": "%"}, 0), ({"name~": "_"}, 0),
], ids=str)
def test_like_filters(shared, many, params, number):
    """Cinder contract 1.2: from 3.34 a part is enough, for members too. The part is taken as it is."""
    if params == {"name~": "b0", "status": "available"}:
        number = sum(b["name"].startswith("b0") and b["status"] == "available" for b in many)
    for client in (shared.member, shared.admin):
        assert len(client.ids(**params)) == number
    assert shared.member.ids(**{"volume_id~": many[0]["volume_id"][:13]}) == shared.member.ids(volume_id=many[0]["volume_id"])


def test_names_and_values_of_any_script(lab):
    volume = lab.admin.create_volume(1)
    odd = lab.member.backup(volume, name="snö ☃ & co? =1")
    lab.member.backup(volume, name="sno")
    assert lab.member.ids(name="snö ☃ & co? =1") == [odd["id"]]
    assert lab.member.ids(**{"name~": "☃ &"}) == [odd["id"]]


def test_filters_of_an_administrator(shared, many):
    """Cinder contract 0.3, 1.2: any column; a key that is none gives an empty list."""
    admin = shared.admin
    assert admin.ids(container="c1") == ids(b for b in many[::-1] if b["container"] == "c1")
    assert admin.ids(size=2) == ids(b for b in many[::-1] if b["size"] == 2)
    assert admin.ids(id=many[5]["id"]) == [many[5]["id"]]
    for version in ("3.0", MAX):
        assert admin.at(version).ids(colour="red") == []


def test_filter_keys_that_are_not_ascii(shared, many):
    """Cinder contract 1.2: 400 from 3.31."""
    for version in ("3.31", MAX):
        fault(shared.member.at(version).get("/backups", **{"цвет": "x"}), 400)


# -------------------------------------------------------------------- counts


def test_count(shared, many):
    """Cinder contract 1.2: what matches, regardless of the page."""
    for params, count in (({}, COUNT), ({"limit": 3}, COUNT), ({"limit": 0}, COUNT), ({"status": "error"}, 2), ({"name": "no"}, 0),
                          ({"limit": 2, "marker": many[9]["id"]}, COUNT), ({"offset": 20}, COUNT)):
        for path in ("/backups", "/backups/detail"):
            for spelling in ("true", "True", "1", "yes"):
                assert ok(shared.member.get(path, with_count=spelling, **params))["count"] == count
            assert "count" not in ok(shared.member.get(path, with_count="False", **params))
    for value in ("perhaps", "2", ""):
        fault(shared.member.get("/backups", with_count=value), 400)


# -------------------------------------------------------------------- whose backups


@pytest.fixture(scope="module")
def abroad(shared, many):
    """A backup in another project."""
    other = CinderLab(shared.d)
    return other, other.admin.backup(other.admin.create_volume(1), name="abroad")


def test_a_list_is_of_one_project(shared, many, abroad):
    """Cinder contract 0.3: also for an administrator, unless he asks for all."""
    other, foreign = abroad
    for client in (shared.member, shared.reader, shared.admin):
        assert set(client.ids()) == set(ids(many))
    assert other.admin.ids() == other.member.ids() == [foreign["id"]]


def test_all_tenants_is_for_administrators(shared, many, abroad):
    """Cinder contract 1.2: from a member it is ignored at every version; cinderclient sends it with each look-up of a name."""
    other, foreign = abroad
    everything = set(ids(many)) | {foreign["id"]}
    for value in ("1", "True", "true", "yes"):
        assert everything <= set(shared.admin.ids(all_tenants=value))
        for version in ("3.0", "3.30", "3.31", MAX):
            assert set(shared.member.at(version).ids(all_tenants=value)) == set(ids(many))
    for value in ("0", "False"):
        assert set(shared.admin.ids(all_tenants=value)) == set(ids(many))
    assert shared.admin.ids(all_tenants=1, name="abroad") == [foreign["id"]]
    assert shared.member.ids(all_tenants=1, name="abroad") == []
    for value in ("perhaps", "2"):
        fault(shared.admin.get("/backups", all_tenants=value), 400)
        assert set(shared.member.ids(all_tenants=value)) == set(ids(many))


def test_project_as_a_filter(shared, many, abroad):
    """Cinder contract 1.2: for administrators with all_tenants; a member's is ignored below 3.31 and 400 from there."""
    other, foreign = abroad
    project = other.project["uuid"]
    assert shared.admin.ids(all_tenants=1, project_id=project) == [foreign["id"]]
    assert set(shared.member.at("3.30").ids(project_id=project)) == set(ids(many))
    for version in ("3.31", MAX):
        fault(shared.member.at(version).get("/backups", project_id=project), 400, "project_id")
    shown = shared.admin.list(all_tenants=1, project_id=project)[0]
    assert set(shown) == detail_keys(MAX, admin=True) and shown["os-backup-project-attr:project_id"] == project


def test_count_of_all_projects(shared, many, abroad):
    body = ok(shared.admin.get("/backups", all_tenants=1, with_count=1, limit=1))
    assert body["count"] >= COUNT + 1 and len(body["backups"]) == 1


def test_backups_that_are_gone_are_not_listed(lab):
    volume = lab.admin.create_volume(1)
    one, two = lab.member.backup(volume), lab.member.backup(volume)
    lab.member.remove(one)
    assert lab.member.ids() == [two["id"]]
    assert ok(lab.member.get("/backups", with_count=1))["count"] == 1
    fault(lab.member.get("/backups", marker=one["id"]), 404)
