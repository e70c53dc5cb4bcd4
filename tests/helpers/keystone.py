"""A client of the Keystone subset: logins of every kind, and requests with what they gave."""

import base64
import re

from helpers.api import Api, ok

TOKENS = "/identity/v3/auth/tokens"
DEFAULT = {"id": "default"}
STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")


def by_password(name, password, domain=DEFAULT):
    return {"methods": ["password"], "password": {"user": {"name": name, "domain": domain, "password": password}}}


def by_token(token):
    return {"methods": ["token"], "token": {"id": token}}


def by_credential(credential, secret=None):
    return {
        "methods": ["application_credential"],
        "application_credential": {"id": credential["id"], "secret": secret or credential["secret"]},
    }


def project_scope(project):
    """A project as Waldur's dialect shows it, or its name."""
    return {"project": {"name": project, "domain": DEFAULT} if isinstance(project, str) else {"id": project["uuid"]}}


def basic(name, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


class Keystone:
    def __init__(self, daemon):
        self.d = daemon
        self.api = Api(daemon)

    def request(self, method, path, token=None, body=None, headers=None, **kw):
        headers = dict(headers or {})
        if token is not None:
            headers["X-Auth-Token"] = token
        return self.api.request(method, path if path.startswith("/identity") else "/identity/v3" + path, body, headers=headers, **kw)

    def get(self, path, token=None, **kw):
        return self.request("GET", path, token, **kw)

    def post_login(self, identity, scope=None, **kw):
        auth = {"identity": identity}
        if scope is not None:
            auth["scope"] = scope
        return self.request("POST", TOKENS, body={"auth": auth}, **kw)

    def login(self, identity, scope=None):
        """The token and what it says."""
        answer = self.post_login(identity, scope)
        return answer.headers["X-Subject-Token"], ok(answer, 201)["token"]

    def check(self, token, asker=None, method="GET"):
        """The answer to asking after a token, with itself unless another asks."""
        return self.request(method, TOKENS, asker or token, headers={"X-Subject-Token": token})

    def works(self, token):
        return self.get("/auth/projects", token).status_code == 200


def refused(answer, code):
    """The error of an answer, which must be of Keystone's shape and tell where to log in."""
    error = ok(answer, code)
    assert list(error) == ["error"] and set(error["error"]) == {"code", "title", "message"}, error
    assert error["error"]["code"] == code and error["error"]["title"] and error["error"]["message"]
    assert answer.headers["Vary"] == "X-Auth-Token"
    assert ("WWW-Authenticate" in answer.headers) == (code == 401)
    if code == 401:
        host = answer.request.headers.get("Host") or answer.request.url.split("/")[2]
        assert answer.headers["WWW-Authenticate"] == f'Keystone uri="http://{host}/identity"'
    return error["error"]["message"]
