"""/volumes/{id}/metadata: merge, replace, single keys, and tags for careful writers (Cinder contract 3.3, 4.2).

That of a snapshot follows the same rules.
"""

import json

import pytest

from helpers.api import ok
from helpers.cinder import empty
from helpers.cinder_volumes import LATEST, NOBODY, fault


@pytest.fixture(scope="module")
def volume(cloud):
    return cloud.volume(1)


@pytest.fixture(scope="module")
def snapshot(cloud, volume):
    return cloud.snapshot(volume)


@pytest.fixture(params=["volumes", "snapshots"])
def thing(request, volume, snapshot):
    """What the metadata belongs to."""
    return f"/{request.param}/{(volume if request.param == 'volumes' else snapshot)['id']}"


@pytest.fixture
def url(cloud, thing):
    """The metadata, with two keys in it."""
    ok(cloud.member.put(f"{thing}/metadata", {"metadata": {"one": "1", "two": "2"}}))
    return f"{thing}/metadata"


@pytest.fixture
def tagged(cloud, volume):
    """That of the volume."""
    ok(cloud.member.put(f"/volumes/{volume['id']}/metadata", {"metadata": {"one": "1", "two": "2"}}))
    return f"/volumes/{volume['id']}/metadata"


def now(cloud, url):
    body = ok(cloud.member.get(url))
    assert set(body) == {"metadata"}
    return body["metadata"]


@pytest.mark.parametrize("version", ["3.0", LATEST])
@pytest.mark.parametrize("role", ["member", "reader", "admin"])
def test_get(cloud, thing, url, role, version):
    client = getattr(cloud, role).at(version)
    assert ok(client.get(url)) == {"metadata": {"one": "1", "two": "2"}}
    (shown,) = ok(client.get(thing)).values()
    assert shown["metadata"] == {"one": "1", "two": "2"}


def test_post_merges(cloud, url):
    answer = ok(cloud.member.post(url, {"metadata": {"two": "II", "three": "<3 & \u2665>"}}))
    merged = {"one": "1", "two": "II", "three": "<3 & \u2665>"}
    assert set(answer) == {"metadata"} and answer["metadata"].items() >= {"two": "II", "three": "<3 & \u2665>"}.items()
    assert now(cloud, url) == merged


def test_put_replaces(cloud, url):
    wanted = {"three": "3"}
    assert ok(cloud.member.put(url, {"metadata": wanted})) == {"metadata": wanted}
    assert now(cloud, url) == wanted
    assert ok(cloud.member.put(url, {"metadata": {}})) == {"metadata": {}}
    assert now(cloud, url) == {}


def test_get_one(cloud, url):
    assert ok(cloud.reader.get(f"{url}/two")) == {"meta": {"two": "2"}}
    fault(cloud.member.get(f"{url}/three"), 404)


def test_put_one_changes_that_one_only(cloud, url):
    assert ok(cloud.member.put(f"{url}/two", {"meta": {"two": "II"}})) == {"meta": {"two": "II"}}
    assert now(cloud, url) == {"one": "1", "two": "II"}


def test_put_one_that_was_not_there_adds_it(cloud, url):
    assert ok(cloud.member.put(f"{url}/three", {"meta": {"three": "3"}})) == {"meta": {"three": "3"}}
    assert now(cloud, url) == {"one": "1", "two": "2", "three": "3"}


def test_delete_one(cloud, url):
    empty(cloud.member.delete(f"{url}/one"), 200)
    assert now(cloud, url) == {"two": "2"}
    fault(cloud.member.delete(f"{url}/one"), 404)
    fault(cloud.member.get(f"{url}/one"), 404)


@pytest.mark.parametrize("key, quoted", [("a b", "a%20b"), ("a/b", "a%2Fb"), ("a:b.c-d_e", "a:b.c-d_e"), ("k" * 255, "k" * 255)])
def test_keys_with_other_signs_in_them(cloud, url, key, quoted):
    """The signs that Cinder contract 1.1 allows in a key."""
    ok(cloud.member.post(url, {"metadata": {key: "v"}}))
    if "/" not in key:  # no client can name that one in a path
        assert ok(cloud.member.get(f"{url}/{quoted}")) == {"meta": {key: "v"}}
        empty(cloud.member.delete(f"{url}/{quoted}"), 200)
        assert key not in now(cloud, url)


@pytest.mark.parametrize("metadata", [
    None, "x", 7, [], [["a", "b"]], {"": "v"}, {"k" * 256: "v"}, {"k": "v" * 256}, {"k": 7}, {"k": None}, {"k": True}, {"k": {}}, {"k": ["v"]},
], ids=lambda m: str(m)[:24])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_wrong_metadata_is_400(cloud, url, method, metadata):
    fault(cloud.member.request(method, url, {"metadata": metadata}), 400)
    assert now(cloud, url) == {"one": "1", "two": "2"}


@pytest.mark.parametrize("body", [[], "x", {}, {"meta": {"a": "b"}}, {"a": "b"}], ids=str)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_body_without_metadata_is_400(cloud, url, method, body):
    fault(cloud.member.request(method, url, body), 400)
    assert now(cloud, url) == {"one": "1", "two": "2"}


@pytest.mark.parametrize("body", [
    [], {}, {"metadata": {"two": "II"}}, {"meta": None}, {"meta": {}}, {"meta": []}, {"meta": {"one": "II"}},
    {"meta": {"two": "II", "one": "I"}}, {"meta": {"two": 7}}, {"meta": {"two": None}}, {"meta": {"two": "v" * 256}},
], ids=lambda body: str(body)[:30])
def test_a_key_that_is_not_the_one_in_the_url_is_400(cloud, url, body):
    fault(cloud.member.put(f"{url}/two", body), 400)
    assert now(cloud, url) == {"one": "1", "two": "2"}


@pytest.mark.parametrize("method, path, body", [
    ("GET", "", None), ("POST", "", {"metadata": {"a": "b"}}), ("PUT", "", {"metadata": {"a": "b"}}), ("GET", "/one", None),
    ("PUT", "/one", {"meta": {"one": "I"}}), ("DELETE", "/one", None),
])
def test_metadata_of_what_is_not_there_is_404(cloud, url, method, path, body):
    fault(cloud.member.request(method, f"/{url.split('/')[1]}/{NOBODY}/metadata{path}", body), 404)
    fault(cloud.stranger.request(method, url + path, body), 404)
    assert now(cloud, url) == {"one": "1", "two": "2"}


def test_a_volume_in_use_can_be_labelled(cloud, tagged, volume):
    cloud.attach(volume)
    ok(cloud.member.post(tagged, {"metadata": {"three": "3"}}))
    empty(cloud.member.action("volumes", volume, "os-detach", {}))
    assert now(cloud, tagged) == {"one": "1", "two": "2", "three": "3"}


@pytest.mark.parametrize("method, path, body", [
    ("POST", "", {"metadata": {"a": "b"}}), ("PUT", "", {"metadata": {"a": "b"}}), ("PUT", "/one", {"meta": {"one": "I"}}), ("DELETE", "/one", None),
])
def test_a_reader_changes_nothing(cloud, url, method, path, body):
    """Cinder contract 0.3."""
    fault(cloud.reader.request(method, url + path, body), 403)
    assert now(cloud, url) == {"one": "1", "two": "2"}


# -------------------------------------------------------------------- tags (3.15)


def test_before_3_15_there_is_no_tag_and_no_condition(cloud, tagged):
    old = cloud.member.at("3.14")
    assert "Etag" not in old.get(tagged).headers
    ok(old.put(tagged, {"metadata": {"one": "I"}}, headers={"If-Match": '"wrong"'}))


def test_a_tag_changes_with_the_metadata(cloud, tagged):
    client = cloud.member.at("3.15")
    first, again = client.get(tagged), client.get(tagged)
    assert first.headers["Etag"] == again.headers["Etag"]
    ok(client.post(tagged, {"metadata": {"three": "3"}}))
    assert client.get(tagged).headers["Etag"] != first.headers["Etag"]


@pytest.mark.parametrize("path, body", [("", {"metadata": {"one": "I"}}), ("/one", {"meta": {"one": "I"}})])
def test_a_writer_who_knows_an_old_state_is_refused(cloud, tagged, path, body):
    """Cinder contract 3.3: 412."""
    client = cloud.member.at(LATEST)
    tag = client.get(tagged).headers["Etag"]
    ok(client.put(f"{tagged}/two", {"meta": {"two": "II"}}))
    answer = client.put(tagged + path, body, headers={"If-Match": tag})
    assert answer.status_code == 412
    assert now(cloud, tagged) == {"one": "1", "two": "II"}
    ok(client.put(tagged + path, body, headers={"If-Match": client.get(tagged).headers["Etag"]}))
    assert now(cloud, tagged)["one"] == "I"


def items(count, stem="k"):
    return {f"{stem}{n}": "v" for n in range(count)}


def test_there_is_an_end_to_the_number_of_items(cloud, url):
    """As with Cinder's quota for them: a member cannot fill the catalog with notes, nor make each list carry them."""
    ok(cloud.member.put(url, {"metadata": items(128)}))
    for answer in (
        cloud.member.put(url, {"metadata": items(129)}),
        cloud.member.post(url, {"metadata": {"one more": "v"}}),
        cloud.member.put(f"{url}/another", {"meta": {"another": "v"}}),
    ):
        assert "129" in fault(answer, 400) and "128" in answer.text
    assert now(cloud, url) == items(128)
    ok(cloud.member.post(url, {"metadata": {"k1": "changed"}}))
    ok(cloud.member.delete(f"{url}/k1"))
    ok(cloud.member.put(f"{url}/another", {"meta": {"another": "v"}}))


def test_there_is_an_end_to_the_number_of_items_of_a_new_thing(cloud, volume):
    for kind, body in (("volumes", {"size": 1}), ("snapshots", {"volume_id": volume["id"]}), ("backups", {"volume_id": volume["id"]})):
        fault(cloud.member.post(f"/{kind}", {kind[:-1]: {**body, "metadata": items(129)}}), 400)
    fault(cloud.member.put(f"/volumes/{volume['id']}", {"volume": {"metadata": items(129)}}), 400)


def test_what_has_more_items_can_be_brought_down(cloud, volume, tagged):
    """A restore keeps the volume's and adds those of the backup."""
    cloud.d.sql("UPDATE volume SET labels = ? WHERE uuid = ?", (json.dumps(items(200)), volume["id"].replace("-", "")))
    fault(cloud.member.post(tagged, {"metadata": {"one more": "v"}}), 400)
    ok(cloud.member.post(tagged, {"metadata": {"k1": "changed"}}))
    ok(cloud.member.delete(f"{tagged}/k1"))
    ok(cloud.member.put(tagged, {"metadata": {}}))
