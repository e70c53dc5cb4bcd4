"""Object stores for tests: Swift with its S3 API, moto as another S3, a login like Keystone's; and daemons that know them."""

import json
import os
import re
import signal
import subprocess
import urllib.request
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from helpers.daemon import Daemon
from helpers.wait import wait_for
from objects.keystone_stand_in import Keystone
from objects.proxy import Proxy

HERE = Path(__file__).resolve().parent
VENV = Path(os.environ.get("COFFERD_OBJECTS_VENV") or HERE.parents[1] / "target" / "objects")
S3_CREDENTIALS = "aws_access_key_id = \"test:tester\"\naws_secret_access_key = \"testing\"\n"


def _python():
    python = VENV / "bin" / "python"
    assert python.exists(), f"{python} is missing: tests/run makes it, or set COFFERD_OBJECTS_VENV"
    return str(python)


@contextmanager
def _server(script, directory, *arguments):
    """One of the servers here: what it says when it is there."""
    command = ["setpriv", "--pdeathsig", "TERM", "--", _python(), str(HERE / script), str(directory), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line, f"{script} did not start"
    yield SimpleNamespace(**json.loads(line))
    process.stdin.close()
    process.wait(20)


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    """One Swift for all tests of a worker."""
    with _server("swift_server.py", tmp_path_factory.mktemp("swift") / "swift") as server:
        yield server


@pytest.fixture(scope="session")
def cloud(tmp_path_factory):
    """A real Keystone, a Swift that asks it, a container `backups`, and an application credential for it."""
    base = tmp_path_factory.mktemp("cloud")
    with _server("keystone_server.py", base / "keystone") as keystone:
        with _server("swift_server.py", base / "swift", f"{keystone.url}={keystone.password}") as swift:
            yield _settle(keystone, swift)


def _settle(keystone, swift):
    """The catalog's entry, the container and the application credential, as an administrator makes them."""
    domain = {"name": "Default"}
    login = {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "admin", "domain": domain, "password": keystone.password}}},
                      "scope": {"project": {"name": "admin", "domain": domain}}}}
    answer = requests.post(f"{keystone.url}/v3/auth/tokens", json=login)
    token, user, project = answer.headers["X-Subject-Token"], answer.json()["token"]["user"]["id"], answer.json()["token"]["project"]["id"]

    def post(path, body):
        answer = requests.post(f"{keystone.url}/v3/{path}", json=body, headers={"X-Auth-Token": token})
        assert answer.status_code == 201, answer.text
        return answer.json()

    service = post("services", {"service": {"type": "object-store", "name": "swift"}})["service"]["id"]
    url = f"http://127.0.0.1:{swift.port}/v1/AUTH_$(project_id)s"
    post("endpoints", {"endpoint": {"service_id": service, "interface": "public", "region_id": "RegionOne", "url": url}})
    made = requests.put(url.replace("$(project_id)s", project) + "/backups", headers={"X-Auth-Token": token})
    assert made.status_code == 201, made.text
    application = post(f"users/{user}/application_credentials", {"application_credential": {"name": "cofferd"}})["application_credential"]
    return SimpleNamespace(url=keystone.url, password=keystone.password, application=(application["id"], application["secret"]))


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """Another S3, which takes any key."""
    log = open(tmp_path_factory.mktemp("moto") / "log", "w+")
    command = ["setpriv", "--pdeathsig", "KILL", "--", _python(), "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def port():
        assert process.poll() is None, Path(log.name).read_text()
        return re.search(r"Running on http://127.0.0.1:(\d+)", Path(log.name).read_text())

    found = wait_for(port, "moto listens", 60)
    yield SimpleNamespace(port=int(found[1]), url=f"http://127.0.0.1:{found[1]}")
    process.kill()
    process.wait()


def _ask(url, method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers)) as response:
        return response.headers


def make_container(swift, name, **headers):
    login = _ask(f"{swift.url}/auth/v1.0", X_Auth_User="test:tester", X_Auth_Key="testing")
    _ask(f"{login['X-Storage-Url']}/{name}", "PUT", X_Auth_Token=login["X-Auth-Token"], **headers)


@pytest.fixture
def container(swift, request):
    """A container of the test's own, which is an S3 bucket as well."""
    name = "c-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-") + f"-{zlib.crc32(request.node.nodeid.encode()):08x}"
    make_container(swift, name)
    return name


@pytest.fixture
def bucket_of_moto(moto):
    _ask(f"{moto.url}/bucket", "PUT", Authorization="AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0")
    return "bucket"


@pytest.fixture
def proxy(swift):
    """A proxy in front of Swift; each fault that is planned must be met."""
    proxy = Proxy(swift.port)
    yield proxy
    proxy.close()
    assert not proxy.left(), f"nobody met {proxy.left()}"


@pytest.fixture
def keystone(swift):
    keystone = Keystone(swift.url)
    yield keystone
    keystone.close()


class Host:
    """A daemon with repositories, and its command line. Nothing that is logged or printed has a secret in it."""

    def __init__(self, binary, tables, env=(), extra="", **daemon):
        self.daemon = Daemon(binary, env={"COFFERD_LOG": "trace", **dict(env)}, **daemon)
        self.secrets, self.proxies, self.said = {"testing"}, [], ""
        self.extra = extra
        self.configure(tables)
        self.daemon.start()

    def configure(self, tables):
        config = self.extra
        for name, table in tables.items():
            table = {"timeout_s": 2, "patience_s": 2, **table}
            if "secret" in table:
                path = self.daemon.base / f"{name}.credentials"
                path.write_text(table.pop("secret"))
                path.chmod(0o600)
                table["credentials"] = str(path)
            config += f"[repositories.{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items())
        self.daemon.configure(config)

    def reload(self, tables):
        """Another configuration, taken over by the running daemon."""
        before = self.daemon.log().count("configuration reloaded")
        self.configure(tables)
        os.kill(self.daemon.pid, signal.SIGHUP)
        wait_for(lambda: self.daemon.log().count("configuration reloaded") > before, "the reload")

    def run(self, *arguments):
        command = [self.daemon.binary, "--config", str(self.daemon.config_file), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PATH": os.environ["PATH"], "HOME": str(self.daemon.base)})
        self.said += done.stdout + done.stderr
        return done

    def works(self, name):
        done = self.run("--json", "repository", "test", name)
        assert done.returncode == 0, done.stderr
        return [step["step"] for step in json.loads(done.stdout)["steps"]]

    def fails(self, name, *parts):
        """The error of the test, which must have these parts."""
        done = self.run("repository", "test", name)
        assert done.returncode == 1 and not done.stdout, done.stdout + done.stderr
        for part in parts:
            assert part in done.stderr, f"{part!r} is not in {done.stderr!r}"
        return done.stderr

    def close(self):
        secrets = self.secrets.union(*(proxy.secrets for proxy in self.proxies))
        text = self.daemon.log() + self.said
        self.daemon.close()
        for secret in secrets:
            assert secret not in text, f"the secret {secret} is told: ..." + text[max(0, text.find(secret) - 300):][:400]


@pytest.fixture
def host(binary):
    """A factory of daemons with repositories."""
    hosts = []

    def start(tables, proxies=(), env=()):
        host = Host(binary, tables, env)
        hosts.append(host)
        host.proxies = list(proxies)
        return host

    yield start
    for host in hosts:
        host.close()


def swift_table(url, container, **more):
    return {"kind": "swift", "auth_version": 1, "auth_url": f"{url}/auth/v1.0", "user": "test:tester", "container": container,
            "secret": "ST_KEY=testing\n", **more}


def s3_table(url, bucket, **more):
    return {"kind": "s3", "endpoint": url, "bucket": bucket, "secret": S3_CREDENTIALS, **more}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, a certificate of it for 127.0.0.1, and another authority."""
    base = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=base, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key", "-out",
                f"{name}.pem", "-days", "30", "-subj", f"/CN=test {name}")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "host.key", "-out", "host.csr", "-subj", "/CN=host")
    (base / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "host.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-out", "host.pem", "-extfile", "san")
    return SimpleNamespace(ca=str(base / "ca.pem"), other=str(base / "other.pem"), host=(str(base / "host.pem"), str(base / "host.key")))
