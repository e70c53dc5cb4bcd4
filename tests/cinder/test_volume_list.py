"""GET /volumes, /volumes/detail, /volumes/summary: filters, order, pages, counts (Cinder contract 1.2, 3.3, 4.2)."""

import urllib.parse

import pytest

from helpers.api import local, ok, query_of
from helpers.cinder import moment
from helpers.cinder_volumes import LATEST, NOBODY, Cloud, fault
from helpers.disks import MIB


class Shelf(Cloud):
    """Five volumes that differ in everything, and one in another project."""

    def __init__(self, daemon):
        super().__init__(daemon)
        self.made = [
            self.volume(1, name="alpha", metadata={"kind": "a", "both": "yes"}),
            self.volume(2, name="beta", metadata={"kind": "b", "both": "yes"}, description="the second"),
            self.volume(1, name="gamma"),
            self.volume(3, name="alphabet", metadata={"kind": "a"}),
            self.registered(MIB, name="file"),
        ]
        self.reset(self.made[2], "error")
        ok(self.member.action("volumes", self.made[1], "os-set_bootable", {"bootable": True}))
        self.made = [self.member.show("volumes", v) for v in self.made]
        self.names = [v["name"] for v in self.made]
        self.foreign = self.stranger.wait("volumes", self.stranger.create("volumes", size=1, name="foreign"))

    def found(self, client, detail=False, **params):
        return [v["name"] for v in client.list("volumes", detail, **params)]


@pytest.fixture(scope="module")
def cloud(daemon):
    return Shelf(daemon)


BOTH = pytest.mark.parametrize("detail", [False, True], ids=["plain", "detail"])


# -------------------------------------------------------------------- filters


@BOTH
@pytest.mark.parametrize("role", ["member", "reader"])
@pytest.mark.parametrize("params, wanted", [
    ({}, "alpha beta gamma alphabet file"),
    ({"name": "alpha"}, "alpha"), ({"name": "ALPHA"}, ""), ({"name": "alph"}, ""), ({"name": "foreign"}, ""),
    ({"status": "available"}, "alpha beta alphabet file"), ({"status": "error"}, "gamma"), ({"status": "null"}, ""),
    ({"name": "alpha", "status": "available"}, "alpha"), ({"name": "alpha", "status": "error"}, ""),
    ({"size": "1"}, "alpha gamma file"), ({"size": "3"}, "alphabet"), ({"size": "7"}, ""),
    ({"bootable": "true"}, "beta"), ({"bootable": "false"}, "alpha gamma alphabet file"), ({"bootable": "True"}, "beta"),
    ({"availability_zone": "nova"}, "alpha beta gamma alphabet file"), ({"availability_zone": "mars"}, ""),
    # As Tempest and both command line clients write a dictionary.
    ({"metadata": "{'kind': 'a'}"}, "alpha alphabet"), ({"metadata": '{"kind": "a"}'}, "alpha alphabet"),
    ({"metadata": "{'kind': 'a', 'both': 'yes'}"}, "alpha"), ({"metadata": "{'kind': 'x'}"}, ""), ({"metadata": "{'size': '1'}"}, ""),
], ids=lambda value: str(value)[:40])
def test_filters(cloud, role, detail, params, wanted):
    assert sorted(cloud.found(getattr(cloud, role), detail, **params)) == sorted(wanted.split())


def test_what_is_listed_is_what_is_shown(cloud):
    listed = {v["id"]: v for v in cloud.member.list("volumes", detail=True)}
    assert [listed[v["id"]] for v in cloud.made] == cloud.made


@pytest.mark.parametrize("version, code", [("3.1", 200), ("3.2", 400), (LATEST, 400)])
def test_bootable_is_strict_from_3_2(cloud, version, code):
    """Cinder contract 3.3."""
    assert cloud.member.at(version).get("/volumes", {"bootable": "perhaps"}).status_code == code


@pytest.mark.parametrize("params, wanted", [
    ({"created_at": "gte:{2}"}, [2, 3, 4]), ({"created_at": "gt:{2}"}, [3, 4]), ({"created_at": "lt:{2}"}, [0, 1]),
    ({"created_at": "lte:{2}"}, [0, 1, 2]), ({"created_at": "eq:{2}"}, [2]), ({"created_at": "neq:{2}"}, [0, 1, 3, 4]),
    ({"created_at": "gt:{0},lt:{3}"}, [1, 2]), ({"created_at": "gt:2999-01-01T00:00:00"}, []),
    ({"updated_at": "gt:2000-01-01T00:00:00", "created_at": "lt:{1}"}, [0]),
], ids=str)
def test_times_are_compared_from_3_60(cloud, params, wanted):
    """Cinder contract 3.3."""
    times = [v["created_at"] for v in cloud.made]
    assert sorted(times) == times and len(set(times)) == 5
    ok(cloud.member.put(f"/volumes/{cloud.made[0]['id']}", {"volume": {"name": "alpha"}}))
    params = {key: value.format(*times) for key, value in params.items()}
    found = cloud.found(cloud.member.at("3.60"), **params)
    assert sorted(found) == sorted(cloud.names[n] for n in wanted)


@pytest.mark.parametrize("value", ["gt:yesterday", "about:2020-01-01T00:00:00", "gt:", ":", "gt:2020-13-01T00:00:00"])
@pytest.mark.parametrize("key", ["created_at", "updated_at"])
def test_times_that_are_none_are_400(cloud, key, value):
    fault(cloud.member.at("3.60").get("/volumes", {key: value}), 400)


@BOTH
def test_an_unknown_filter_of_a_member(cloud, detail):
    """Cinder contract 1.2, 3.3: ignored before 3.31, then refused, all offenders named."""
    path = "/volumes/detail" if detail else "/volumes"
    for version in ("3.0", "3.30"):
        assert len(ok(cloud.member.at(version).get(path, {"colour": "red"}))["volumes"]) == 5
    for version in ("3.31", LATEST):
        message = fault(cloud.member.at(version).get(path, {"colour": "red", "shape": "round", "status": "error"}), 400)
        assert "colour" in message and "shape" in message
        fault(cloud.member.at(version).get(path + "?n%C3%A4me=x"), 400)


@pytest.mark.parametrize("version", ["3.0", "3.31", LATEST])
def test_an_unknown_filter_of_an_admin_finds_nothing(cloud, version):
    """Cinder contract 1.2."""
    assert cloud.admin.at(version).list("volumes", colour="red") == []


@pytest.mark.parametrize("role", ["member", "reader", "admin"])
@pytest.mark.parametrize("params, wanted", [
    ({"name~": "alpha"}, "alpha alphabet"), ({"name~": "et"}, "beta alphabet"), ({"name~": "zz"}, ""), ({"status~": "err"}, "gamma"),
    ({"name~": "alpha", "size": "3"}, "alphabet"), ({"name~": "%"}, ""), ({"name~": "_lpha"}, ""),
], ids=str)
def test_parts_of_names_from_3_34(cloud, role, params, wanted):
    """Cinder contract 1.2, 3.3: for members too. A sign that SQL takes for a wildcard is none."""
    assert sorted(cloud.found(getattr(cloud, role).at("3.34"), **params)) == sorted(wanted.split())


def test_parts_of_names_before_3_34(cloud):
    fault(cloud.member.at("3.33").get("/volumes", {"name~": "alpha"}), 400)
    assert len(cloud.member.at("3.30").list("volumes", **{"name~": "alpha"})) == 5


@BOTH
@pytest.mark.parametrize("value", ["1", "True", "true", "0", "False", "perhaps"])
@pytest.mark.parametrize("version", ["3.0", LATEST])
def test_all_tenants_of_a_member_is_ignored(cloud, detail, value, version):
    """Cinder contract 1.2: the cinder client always sends it when it looks a name up."""
    assert sorted(cloud.found(cloud.member.at(version), detail, all_tenants=value)) == sorted(cloud.names)


@BOTH
def test_all_tenants_of_an_admin(cloud, detail):
    """Cinder contract 0.3, 1.2."""
    assert sorted(cloud.found(cloud.admin, detail)) == sorted(cloud.names)
    for yes in ("1", "True"):
        assert set(cloud.found(cloud.admin, detail, all_tenants=yes)) >= {*cloud.names, "foreign"}
    for no in ("0", "False"):
        assert sorted(cloud.found(cloud.admin, detail, all_tenants=no)) == sorted(cloud.names)
    assert cloud.found(cloud.admin, detail, all_tenants="1", name="foreign") == ["foreign"]
    assert cloud.found(cloud.admin, detail, all_tenants="1", project_id=cloud.stranger.project) == ["foreign"]
    fault(cloud.admin.get("/volumes", {"all_tenants": "perhaps"}), 400)


def test_a_members_project_filter(cloud):
    """Cinder contract 1.2: ignored, from 3.31 refused."""
    assert len(cloud.member.at("3.30").list("volumes", project_id=cloud.stranger.project)) == 5
    fault(cloud.member.at("3.31").get("/volumes", {"project_id": cloud.stranger.project}), 400)


# -------------------------------------------------------------------- order


@BOTH
@pytest.mark.parametrize("params, key, reverse", [
    ({}, "created_at", True), ({"sort_key": "created_at", "sort_dir": "asc"}, "created_at", False),
    ({"sort": "created_at:asc"}, "created_at", False), ({"sort": "created_at"}, "created_at", True),
    ({"sort": "name:asc"}, "name", False), ({"sort": "display_name:desc"}, "name", True),
    ({"sort_key": "name", "sort_dir": "desc"}, "name", True), ({"sort_key": "display_name"}, "name", True),
    ({"sort": "id:asc"}, "id", False), ({"sort_key": "id", "sort_dir": "desc"}, "id", True),
])
def test_order_by_one_key(cloud, detail, params, key, reverse):
    listed = cloud.found(cloud.member, detail, **params)
    assert listed == [v["name"] for v in sorted(cloud.made, key=lambda v: v[key], reverse=reverse)]


@pytest.mark.parametrize("sort, wanted", [
    ("size:asc,name:asc", "alpha file gamma beta alphabet"), ("size:desc,name:asc", "alphabet beta alpha file gamma"),
    ("status:asc,name:desc", "file beta alphabet alpha gamma"),
    # What is equal is in the order of creation, in the first direction (Cinder contract 1.2).
    ("size:asc", "alpha gamma file beta alphabet"), ("size", "alphabet beta file gamma alpha"),
])
def test_order_by_several_keys(cloud, sort, wanted):
    assert cloud.found(cloud.member, sort=sort) == wanted.split()


@pytest.mark.parametrize("params", [
    {"sort_key": "invalid"}, {"sort": "invalid:asc"}, {"sort": "id:sideways"}, {"sort_key": "id", "sort_dir": "sideways"},
    {"sort": "id", "sort_key": "id"}, {"sort": "id", "sort_dir": "asc"}, {"sort": "id;drop table volume"},
], ids=str)
def test_wrong_orders_are_400(cloud, params):
    fault(cloud.member.get("/volumes", params), 400)


# -------------------------------------------------------------------- pages


@BOTH
def test_pages_by_link(cloud, detail):
    """Cinder contract 1.2: a full page has a link to the next, which keeps every parameter."""
    path = "/volumes/detail" if detail else "/volumes"
    seen, target = [], f"{path}?limit=2&sort=name:asc&size=1"
    for count in (2, 1):
        body = ok(cloud.member.get(target))
        assert len(body["volumes"]) == count
        seen += [v["name"] for v in body["volumes"]]
        if count == 2:
            (link,) = body["volumes_links"]
            assert set(link) == {"rel", "href"} and link["rel"] == "next"
            assert urllib.parse.urlsplit(link["href"]).path == f"/v3/{cloud.project['uuid']}{path}"
            last = body["volumes"][-1]["id"]
            assert query_of(link["href"]) == {"limit": ["2"], "sort": ["name:asc"], "size": ["1"], "marker": [last]}
            target = link["href"]
        else:
            assert set(body) == {"volumes"}
    assert seen == ["alpha", "file", "gamma"]


def test_a_page_that_is_not_full_has_no_link(cloud):
    """Tempest forbids every other key at the top level (Cinder contract 1.2)."""
    for params in ({}, {"limit": "6"}, {"limit": "1000"}, {"limit": "0"}, {"limit": "2", "marker": cloud.made[1]["id"], "sort": "id"}):
        body = ok(cloud.member.get("/volumes", params))
        if len(body["volumes"]) < int(params.get("limit", 1000)) or params.get("limit") == "0":
            assert set(body) == {"volumes"}


@pytest.mark.parametrize("limit, count", [("0", 0), ("1", 1), ("4", 4), ("5", 5), ("9", 5), ("100000", 5), ("99999999999999999999", 5)])
def test_limit(cloud, limit, count):
    assert len(cloud.member.list("volumes", limit=limit)) == count


@pytest.mark.parametrize("params", [
    {"limit": "x"}, {"limit": "-1"}, {"limit": "1.5"}, {"limit": ""}, {"offset": "x"}, {"offset": "-1"}, {"offset": "2147483648"},
], ids=str)
def test_wrong_limits_and_offsets_are_400(cloud, params):
    fault(cloud.member.get("/volumes", params), 400)


def test_marker_and_offset(cloud):
    order = cloud.member.ids("volumes", sort="id:asc")
    for n, marker in enumerate(order):
        assert cloud.member.ids("volumes", sort="id:asc", marker=marker) == order[n + 1:]
    assert cloud.member.ids("volumes", sort="id:asc", offset="2") == order[2:]
    assert cloud.member.ids("volumes", sort="id:asc", offset="2", limit="2") == order[2:4]
    assert cloud.member.ids("volumes", offset="2147483647") == []


@pytest.mark.parametrize("marker", [NOBODY, "x"])
def test_a_marker_that_is_not_there_is_404(cloud, marker):
    fault(cloud.member.get("/volumes", {"marker": marker}), 404)


def test_pages_in_the_default_order_show_each_volume_once(cloud):
    """As the SDK pages: it asks on with the last id until a page is empty, whatever the links say (Cinder contract 1.2)."""
    seen, marker = [], {}
    while page := cloud.member.ids("volumes", limit="1", **marker):
        seen += page
        marker = {"marker": page[-1]}
    assert seen == cloud.member.ids("volumes") and len(seen) == 5


def test_pages_of_filtered_and_sorted_lists_with_equal_keys(cloud):
    seen, target = [], "/volumes?sort=size:asc&limit=1&status=available"
    while target:
        body = ok(cloud.member.get(target))
        seen += [v["name"] for v in body["volumes"]]
        target = local(body["volumes_links"][0]["href"]).removeprefix(f"/v3/{cloud.project['uuid']}") if "volumes_links" in body else None
    assert seen == ["alpha", "file", "beta", "alphabet"]


# -------------------------------------------------------------------- counts


@BOTH
@pytest.mark.parametrize("version, params, count", [
    ("3.44", {}, None), ("3.45", {}, None), ("3.45", {"with_count": "True"}, 5), (LATEST, {"with_count": "1", "limit": "2"}, 5),
    (LATEST, {"with_count": "true", "size": "1", "limit": "1"}, 3), (LATEST, {"with_count": "false"}, None),
    (LATEST, {"with_count": "True", "limit": "0"}, 5),
    # Before, it is just a key that nobody knows.
    ("3.30", {"with_count": "True"}, None),
], ids=str)
def test_with_count(cloud, detail, version, params, count):
    body = ok(cloud.member.at(version).get("/volumes/detail" if detail else "/volumes", params))
    assert body.get("count") == count and ("count" in body) == (count is not None)


@pytest.mark.parametrize("version, value", [("3.31", "True"), ("3.44", "True"), ("3.45", "perhaps"), (LATEST, "2")])
def test_with_count_wrongly(cloud, version, value):
    fault(cloud.member.at(version).get("/volumes", {"with_count": value}), 400)


# -------------------------------------------------------------------- the summary


@pytest.mark.parametrize("role", ["member", "reader", "admin"])
def test_the_summary_adds_up(cloud, role):
    client = getattr(cloud, role)
    assert ok(client.at("3.12").get("/volumes/summary")) == {"volume-summary": {"total_count": 5, "total_size": 8}}
    assert ok(client.at("3.35").get("/volumes/summary")) == {"volume-summary": {"total_count": 5, "total_size": 8}}


def test_metadata_in_the_summary_from_3_36(cloud):
    """Cinder contract 3.3: every value of every key."""
    for version in ("3.36", LATEST):
        summary = ok(cloud.member.at(version).get("/volumes/summary"))["volume-summary"]
        assert set(summary) == {"total_count", "total_size", "metadata"}
        assert {key: sorted(values) for key, values in summary["metadata"].items()} == {"kind": ["a", "b"], "both": ["yes"]}


def test_before_3_12_the_summary_is_a_volume_that_is_not_there(cloud):
    fault(cloud.member.at("3.11").get("/volumes/summary"), 404)


def test_the_summary_of_all_projects_is_for_admins(cloud):
    everything = ok(cloud.admin.get("/volumes/summary", {"all_tenants": "1"}))["volume-summary"]
    assert everything["total_count"] >= 6 and everything["total_size"] >= 9
    assert ok(cloud.member.get("/volumes/summary", {"all_tenants": "1"}))["volume-summary"]["total_count"] == 5


def test_the_summary_of_nothing(cloud):
    empty = cloud.client("reader", cloud.new_project())
    assert ok(empty.at("3.12").get("/volumes/summary")) == {"volume-summary": {"total_count": 0, "total_size": 0}}
    assert empty.list("volumes") == [] and empty.list("volumes", detail=True) == []


def test_created_times_are_in_order(cloud):
    times = [moment(v["created_at"]) for v in cloud.member.list("volumes", detail=True)]
    assert times == sorted(times, reverse=True)
