"""An HTTP client for one user of a daemon, and readers for what comes back."""

import re
import socket
import urllib.parse

import requests
import urllib3
from requests.adapters import HTTPAdapter

TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
HEX32 = re.compile(r"^[0-9a-f]{32}$")

DENIED = {"detail": "You do not have permission to perform this action."}
NOT_FOUND = {"detail": "Not found."}


def local(url):
    """Path and query of an absolute URL or of a path: the daemon's port may change with a restart."""
    parts = urllib.parse.urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def ok(response, code=200):
    """The parsed body of a response that must have this status."""
    request = response.request
    assert response.status_code == code, (
        f"{request.method} {request.path_url} {request.body!r}\nwanted {code}, got {response.status_code}: {response.text[:2000]}"
    )
    return response.json() if response.content else None


class Api:
    """Requests as one user. Targets are paths or the absolute URLs out of earlier answers."""

    def __init__(self, daemon, token=None, user=None):
        self.daemon = daemon
        self.token = token
        self.user = user
        self.session = requests.Session()
        self.session.trust_env = False
        if token:
            self.session.headers["Authorization"] = f"Token {token}"

    def request(self, method, target, body=None, **kw):
        if body is not None:
            kw["json"] = body
        kw.setdefault("timeout", 60)
        kw.setdefault("allow_redirects", False)
        return self.session.request(method, self.daemon.url + local(target), **kw)

    def get(self, target, **kw):
        return self.request("GET", target, **kw)

    def head(self, target, **kw):
        return self.request("HEAD", target, **kw)

    def options(self, target, **kw):
        return self.request("OPTIONS", target, **kw)

    def post(self, target, body=None, **kw):
        return self.request("POST", target, body, **kw)

    def put(self, target, body=None, **kw):
        return self.request("PUT", target, body, **kw)

    def patch(self, target, body=None, **kw):
        return self.request("PATCH", target, body, **kw)

    def delete(self, target, **kw):
        return self.request("DELETE", target, **kw)

    def list(self, target, **params):
        """All objects of a collection (up to 300), as the plain list of the body."""
        params.setdefault("page_size", 300)
        return ok(self.get(target, params=params))


class LocalApi(Api):
    """Requests over the daemon's Unix socket, without a token: from root, whom the daemon knows as the administrator of this host."""

    def __init__(self, daemon):
        super().__init__(daemon)
        path = str(daemon.state_dir / "cofferd.sock")

        class Connection(urllib3.connection.HTTPConnection):
            def _new_conn(self):
                made = socket.socket(socket.AF_UNIX)
                made.settimeout(60)
                made.connect(path)
                return made

        class Pool(urllib3.HTTPConnectionPool):
            ConnectionCls = Connection

        class Adapter(HTTPAdapter):
            def get_connection_with_tls_context(self, *_, **__):
                return self.pool

        adapter = Adapter()
        adapter.pool = Pool("localhost")
        self.session.mount("http://", adapter)


def links(response):
    """The Link header as a dictionary rel -> URL, in the order of the header."""
    found = {}
    header = response.headers["Link"]
    for part in header.split(", "):
        match = re.fullmatch(r'<([^>]*)>; rel="([a-z]+)"', part)
        assert match, header
        found[match[2]] = match[1]
    return found


def query_of(url):
    """The query parameters of a URL: name -> list of values."""
    return urllib.parse.parse_qs(urllib.parse.urlsplit(url).query, keep_blank_values=True)


def allowed(response):
    """The methods that the Allow header names."""
    return {m.strip() for m in response.headers["Allow"].split(",")}
