"""As much of Keystone v3 as a login to Swift takes, in front of Swift's own: whoever knows the secret gets one of Swift's tokens, and a
catalog that leads to it."""

import json
import threading
import urllib.request
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASSWORD = "kpassword-77"
APPLICATION = ("app-id-1", "app-secret-77")


class Keystone:
    def __init__(self, swift_url):
        self.swift_url = swift_url
        self.lifetime = timedelta(hours=1)
        self.logins, self.tokens = [], set()
        keystone = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, answer, token = keystone.log_in(body) if self.path == "/v3/auth/tokens" else (404, {"error": {"message": "no"}}, None)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                if token:
                    self.send_header("X-Subject-Token", token)
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def log_in(self, body):
        identity = body["auth"]["identity"]
        method, = identity["methods"]
        self.logins.append(method)
        if method == "password":
            user = identity["password"]["user"]
            project = body["auth"]["scope"]["project"]
            good = (user["name"], user["domain"], user["password"], project["name"], project["domain"]) == (
                "ada", {"name": "Default"}, PASSWORD, "science", {"name": "Default"})
        else:
            credential = identity["application_credential"]
            good = "scope" not in body["auth"] and (credential["id"], credential["secret"]) == APPLICATION
        if not good:
            return 401, {"error": {"code": 401, "message": "The request you have made requires authentication."}}, None
        request = urllib.request.Request(f"{self.swift_url}/auth/v1.0", headers={"X-Auth-User": "test:tester", "X-Auth-Key": "testing"})
        with urllib.request.urlopen(request) as response:
            token, storage = response.headers["X-Auth-Token"], response.headers["X-Storage-Url"]
        self.tokens.add(token)
        nowhere = "http://127.0.0.1:1/v1/AUTH_test"

        def endpoint(interface, region, url):
            return {"interface": interface, "region": region, "region_id": region, "url": url, "id": f"{region}-{interface}"}

        expires = datetime.now(timezone.utc) + self.lifetime
        return 201, {"token": {
            "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "catalog": [
                {"type": "identity", "name": "keystone", "endpoints": [endpoint("public", "RegionTwo", nowhere)]},
                {"type": "object-store", "name": "swift", "endpoints": [
                    endpoint("public", "RegionOne", nowhere), endpoint("internal", "RegionTwo", nowhere), endpoint("public", "RegionTwo", storage)]},
            ],
        }}, token

    def close(self):
        self.server.shutdown()
        self.server.server_close()
