"""OpenStack Swift with its S3 API in one directory, without root and without memcached: `python swift_server.py DIRECTORY [KEYSTONE]`.

Runs in the virtual environment target/objects. One process each for accounts, containers, objects and the proxy in front of them, one copy
of everything. Prints one line of JSON when it answers, and ends, with all its processes, when its standard input does.

Users are those of tempauth: `test:tester` with the key `testing`, which are also S3's access key and secret, and `test:reader`. With the URL
and the password of a Keystone as `URL=PASSWORD` they are that one's, and there is no S3.
"""

import json
import os
import pwd
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

SERVERS = ("account", "container", "object", "proxy")
FILTERS = {
    "catch_errors": {}, "healthcheck": {}, "listing_formats": {}, "s3api": {"location": "us-east-1", "allow_no_owner": "true"},
    "tempauth": {"user_test_tester": "testing .admin", "user_test_reader": "reading", "token_life": "86400"},
    "slo": {}, "dlo": {}, "copy": {}, "account_quotas": {}, "container_quotas": {},
}
PIPELINE = "catch_errors healthcheck memory listing_formats {auth} copy container_quotas account_quotas slo dlo proxy-server"


class Memory:
    """What Swift keeps in memcached, for as long as the one process that asks runs."""

    def __init__(self):
        self.values = {}

    def set(self, key, value, serialize=True, time=0, **_):
        self.values[key] = (value, self._end(time))

    def get(self, key, raise_on_error=False):
        value, end = self.values.get(key, (None, None))
        return None if end and end < _now() else value

    def delete(self, key, server_key=None):
        self.values.pop(key, None)

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + delta)
        self.set(key, value, time=time)
        return value

    def set_multi(self, mapping, server_key, serialize=True, time=0, **_):
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys, server_key):
        return [self.get(key) for key in keys]

    @staticmethod
    def _end(seconds):
        return _now() + seconds if seconds else None


_now = time.time


def memory_filter(global_conf, **local_conf):
    memory = Memory()

    def wrap(app):
        def call(env, start_response):
            env["swift.cache"] = memory
            return app(env, start_response)
        return call

    return wrap


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ini(sections):
    return "\n".join(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for name, values in sections.items())


def write_configuration(base, ports, keystone):
    from swift.common.ring import RingBuilder

    etc = base / "etc"
    for directory in (etc, base / "srv" / "disk", base / "cache"):
        directory.mkdir(parents=True)
    (etc / "swift.conf").write_text(ini({
        "swift-hash": {"swift_hash_path_prefix": "a", "swift_hash_path_suffix": "z"},
        "storage-policy:0": {"name": "single", "default": "yes"},
    }))
    for kind in SERVERS:
        default = {
            "bind_ip": "127.0.0.1", "bind_port": ports[kind], "workers": 0, "swift_dir": etc, "devices": base / "srv", "mount_check": "false",
            "disable_fallocate": "true", "fallocate_reserve": 0, "user": pwd.getpwuid(os.getuid()).pw_name, "log_level": "WARNING",
            "log_address": base / "no-syslog", "recon_cache_path": base / "cache", "eventlet_debug": "false",
        }
        if kind == "proxy":
            sections = {
                "DEFAULT": default, "pipeline:main": {"pipeline": PIPELINE.format(auth="authtoken keystoneauth" if keystone else "s3api tempauth")},
                "app:proxy-server": {"use": "egg:swift#proxy", "account_autocreate": "true", "allow_account_management": "true"},
                "filter:memory": {"paste.filter_factory": "swift_server:memory_filter"},
                **{f"filter:{name}": {"use": f"egg:swift#{name}", **more} for name, more in FILTERS.items()},
            }
            if keystone:
                url, password = keystone.split("=")
                sections["filter:keystoneauth"] = {"use": "egg:swift#keystoneauth", "operator_roles": "admin"}
                sections["filter:authtoken"] = {
                    "paste.filter_factory": "keystonemiddleware.auth_token:filter_factory", "auth_url": f"{url}/v3", "www_authenticate_uri": url,
                    "auth_type": "password", "username": "admin", "password": password, "project_name": "admin", "user_domain_id": "default",
                    "project_domain_id": "default", "delay_auth_decision": "true", "cache": "swift.cache",
                }
        else:
            sections = {"DEFAULT": default, "pipeline:main": {"pipeline": f"{kind}-server"}, f"app:{kind}-server": {"use": f"egg:swift#{kind}"}}
            ring = RingBuilder(2, 1, 1)
            ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": ports[kind], "replication_ip": "127.0.0.1",
                          "replication_port": ports[kind], "device": "disk", "weight": 1.0, "meta": ""})
            ring.rebalance()
            ring.get_ring().save(str(etc / f"{kind}.ring.gz"))
        (etc / f"{kind}.conf").write_text(ini(sections))
    return etc


def serve(kind, base, etc):
    """One server, in this process, for ever."""
    log = os.open(base / f"{kind}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Else /etc/swift is read.
    from swift.common.utils import set_swift_dir
    set_swift_dir(str(etc))
    from swift.common import constraints, storage_policy, wsgi
    constraints.reload_constraints()
    storage_policy.reload_storage_policies()
    more = {}
    if kind == "object":
        from swift.obj import server
        more["global_conf_callback"] = server.global_conf_callback
    os._exit(wsgi.run_wsgi(str(etc / f"{kind}.conf"), f"{kind}-server", **more) or 0)


def main(directory, keystone=None):
    base = Path(directory)
    ports = {kind: free_port() for kind in SERVERS}
    etc = write_configuration(base, ports, keystone)
    children = {}
    # Also when the tests are killed nothing is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for kind in SERVERS:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setpgid(0, 0)
            serve(kind, base, etc)
        children[kind] = pid
    try:
        url = f"http://127.0.0.1:{ports['proxy']}"
        for _ in range(600):
            try:
                # The proxy answers for itself alone.
                for port in ports.values():
                    socket.create_connection(("127.0.0.1", port), 5).close()
                urllib.request.urlopen(f"{url}/healthcheck", timeout=5).read()
                break
            except OSError:
                time.sleep(0.05)
        else:
            logs = "\n".join((base / f"{kind}.log").read_text() for kind in SERVERS)
            sys.exit(f"Swift does not answer:\n{logs[-4000:]}")
        print(json.dumps({"url": url, "port": ports["proxy"], "pids": children}), flush=True)
        sys.stdin.read()
    finally:
        for pid in children.values():
            os.kill(pid, 9)


if __name__ == "__main__":
    main(*sys.argv[1:])
