"""The served description of the API, and the check of one exchange with the daemon against it."""

import json
import re
import urllib.parse
from functools import cached_property
from pathlib import Path

from jsonschema import Draft202012Validator

from helpers.api import Api

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "src" / "api" / "openapi.json"
METHODS = ("get", "put", "post", "patch", "delete")
# Of these, not every answer has them.
SOMETIMES = ("Retry-After", "Etag")
# What may come after `/v3/` where the project is left out.
RESOURCES = (
    "volumes", "snapshots", "backups", "types", "limits", "messages", "extensions", "resource_filters", "os-quota-sets", "os-quota-class-sets",
    "os-services", "os-availability-zone",
)


def of_openstack(path):
    return path in ("/", "/healthcheck") or path.startswith(("/v3", "/identity"))


class Document:
    """The document, or the part of it whose paths belong to one dialect."""

    def __init__(self, text, belongs=lambda path: True):
        self.doc = json.loads(text)
        self.belongs = belongs

    @cached_property
    def paths(self):
        return sorted(path for path in self.doc["paths"] if self.belongs(path))

    @cached_property
    def operations(self):
        """(method, path template) -> operation."""
        return {(method.upper(), path): self.doc["paths"][path][method] for path in self.paths for method in METHODS if method in self.doc["paths"][path]}

    @cached_property
    def _patterns(self):
        """Templates as expressions; those without parameters first, as the daemon looks at them."""
        paths = sorted(self.doc["paths"], key=lambda path: path.count("{"))
        return [(re.compile("^" + re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "$"), path) for path in paths]

    def template(self, path, method=None):
        """The documented path that a request's path is one of; None if there is none. Of several the one that has the method."""
        if of_openstack(path):
            path = path + "/" if path in ("/v3", "/identity", "/identity/v3") else path.removesuffix(".json")
            path = re.sub(f"^/v3/(?=({'|'.join(RESOURCES)})(/|$))", "/v3/project/", path)
            found = [template for pattern, template in self._patterns if pattern.match(path)]
            return next((template for template in found if (method, template) in self.operations), found[0] if found else None)
        path = re.sub("^/api/openstack-backup(-schedule)?(?=/|$)", lambda m: f"/api/openstack-backup{m[1] or ''}s", path)
        path = path if path.endswith((".json", "healthz", "/")) else path + "/"
        return next((template for pattern, template in self._patterns if pattern.match(path)), None)

    def resolve(self, thing):
        while "$ref" in thing:
            target = self.doc
            for step in thing["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            thing = target
        return thing

    def faults(self, value, schema):
        """What is wrong with a value, in words."""
        validator = Draft202012Validator(schema | {"components": self.doc["components"]})
        return [f"{error.json_path}: {error.message[:300]}" for error in _leaves(validator.iter_errors(value))]

    def check(self, response):
        """Fails if an exchange is not as described. Returns (method, template, status)."""
        request = response.request
        template = self.template(urllib.parse.urlsplit(request.url).path, request.method)
        where = f"{request.method} {request.path_url} -> {response.status_code} {response.text[:1500]}"
        assert template, f"not documented: {where}"
        cinder = of_openstack(template) and not template.startswith("/identity")
        method = "GET" if request.method == "HEAD" and not cinder else request.method
        operation = self.operations.get((method, template))
        if operation is None:
            allowed = (401, 404) if cinder else (401, 405)
            assert (method == "OPTIONS" and not cinder) or response.status_code in allowed, f"not documented: {where}"
            return method, template, response.status_code
        assert str(response.status_code) in operation["responses"], f"status not documented: {where}"
        described = self.resolve(operation["responses"][str(response.status_code)])
        for name, header in described.get("headers", {}).items():
            if name in SOMETIMES and name not in response.headers:
                continue
            assert name in response.headers, f"header {name} is missing: {where}"
            value = response.headers[name]
            value = int(value) if self.resolve(header)["schema"].get("type") == "integer" else value
            assert not self.faults(value, self.resolve(header)["schema"]), f"header {name}: {where}"
        if "content" not in described:
            assert not response.content, f"a body where none is documented: {where}"
        elif request.method != "HEAD":
            assert response.headers["Content-Type"] == "application/json", where
            faults = self.faults(response.json(), described["content"]["application/json"]["schema"])
            assert not faults, f"{where}\n" + "\n".join(faults)
        return method, template, response.status_code


def _leaves(errors):
    """The errors that say most: those inside the alternative that fits best."""
    for error in errors:
        if error.validator == "anyOf" and error.context:
            branches = {}
            for inner in error.context:
                branches.setdefault(inner.schema_path[0], []).append(inner)
            best = min(branches.values(), key=lambda found: (any(e.validator == "type" and len(e.path) == len(error.path) for e in found), len(found)))
            yield from _leaves(best)
        else:
            yield error


DOCUMENT = Document(FILE.read_text())
WALDUR = Document(FILE.read_text(), lambda path: not of_openstack(path))
OPENSTACK = Document(FILE.read_text(), of_openstack)


def example(path):
    """A path of nothing that exists."""
    return re.sub(r"\{(\w+)\}", lambda m: "0" * 32 if m[1] == "uuid" else "999999", path)


class Checked(Api):
    """A client that compares every exchange with the document and remembers what it has seen."""

    def __init__(self, daemon, token, seen):
        super().__init__(daemon, token)
        self.seen = seen

    def request(self, method, target, body=None, **kw):
        response = super().request(method, target, body, **kw)
        self.seen.add(DOCUMENT.check(response))
        return response
