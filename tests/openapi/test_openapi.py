"""The served OpenAPI document: it is valid, and names exactly the paths and methods that the daemon has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from helpers.api import allowed, local, ok
from helpers.lab import EVENTS
from openapi.document import DOCUMENT, FILE, METHODS, REPOSITORY, WALDUR, example


@pytest.fixture(scope="session")
def document():
    return DOCUMENT


# -------------------------------------------------------------------- the document


def test_the_document_is_valid_openapi(document):
    validate(document.doc)
    assert document.doc["openapi"].startswith("3.1.")


def test_the_document_is_what_its_builder_makes():
    made = subprocess.run(
        [sys.executable, "-c", "import build; print(build.render(), end='')"], cwd=Path(__file__).parent, check=True, capture_output=True,
        text=True,
    ).stdout
    assert made == FILE.read_text(), "run `python3 tests/openapi/build.py`"


def test_it_is_served_to_everybody(daemon, document):
    answer = daemon.anonymous.get("/api/openapi.json")
    assert ok(answer) == document.doc
    assert answer.headers["Content-Type"] == "application/json"
    assert ok(daemon.anonymous.get("/api/version/"))["version"] == document.doc["info"]["version"]


def test_every_part_is_used_and_every_name_is_unique(document):
    text = FILE.read_text()
    for kind in ("schemas", "parameters", "responses", "headers"):
        for name in document.doc["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, f"{kind}/{name} is not used"
    names = [operation["operationId"] for operation in document.operations.values()]
    assert len(names) == len(set(names))


def test_representations_name_every_field(document):
    """Answers have exactly the documented fields, so that a field that is added or renamed is noticed."""
    free = {"FieldErrors"}
    for (method, path), operation in document.operations.items():
        for code, answer in operation["responses"].items():
            described = document.resolve(answer)
            if path == "/api/openapi.json" or "content" not in described:
                continue
            for schema in objects(document, described["content"]["application/json"]["schema"]):
                named = schema.get("additionalProperties") is False or schema in [document.doc["components"]["schemas"][n] for n in free]
                assert named or "properties" not in schema, f"{method} {path} {code}: {schema}"


def objects(document, schema):
    schema = document.resolve(schema)
    if schema.get("type") == "object":
        yield schema
    inner = list(schema.get("properties", {}).values()) + schema.get("anyOf", []) + [schema[k] for k in ("items",) if k in schema]
    for part in inner:
        yield from objects(document, part)


# -------------------------------------------------------------------- paths and methods


@pytest.mark.parametrize("path", WALDUR.paths)
def test_exactly_the_documented_methods_are_routed(daemon, document, path):
    documented = {method.upper() for method in METHODS if method in document.doc["paths"][path]}
    answer = daemon.staff.options(example(path))
    routed = allowed(answer) - {"HEAD", "OPTIONS"}
    assert routed == documented
    assert answer.status_code == (405 if path == "/healthz" else 200)
    for method in METHODS:
        answer = daemon.staff.request(method.upper(), example(path))
        assert (answer.status_code == 405) == (method.upper() not in documented), f"{method} {path}: {answer.status_code} {answer.text}"
        assert path == "/healthz" or allowed(answer) >= documented


@pytest.mark.parametrize("path", [p for p in DOCUMENT.paths if re.match("/api/openstack-backup(-schedule)?s/", p)])
def test_the_singular_names_lead_to_the_same(daemon, path):
    alias = re.sub("(/api/openstack-backup(?:-schedule)?)s/", r"\1/", path)
    assert alias != path
    assert allowed(daemon.staff.options(example(alias))) == allowed(daemon.staff.options(example(path)))


def test_every_collection_of_the_root_is_documented(daemon, document):
    for url in ok(daemon.staff.get("/api/")).values():
        assert local(url) in document.doc["paths"]
        assert local(url) + "{uuid}/" in document.doc["paths"] or local(url) == EVENTS


def test_every_word_of_the_routing_code_is_documented(document):
    """The code matches the segments of a path against slices such as [uuid, "restore"]."""
    words = set()
    for source in (REPOSITORY / "src" / "api").rglob("*.rs"):
        if source.name == "claim.rs":  # its slices are of the keys of a body
            continue
        for arm in re.findall(r"^\s*\(?(?:\"\w+\", )?\[([^\[\]]*)\]\)?[^=\n]*=>", source.read_text(), re.MULTILINE):
            words |= set(re.findall(r'"([^"]+)"', arm))
    known = {segment for path in document.doc["paths"] for segment in path.split("/")}
    assert len(words) > 20 and words <= known, words - known


