"""Passwords are guessed at through every door: by name, by place, from many places, behind proxies, all at once."""

import concurrent.futures
import http.client
import json
import os
import socket
import subprocess
import sys

import pytest

from faults.bench import needs_root
from helpers.api import ok
from helpers.keystone import TOKENS, Keystone, basic, by_credential, by_password, by_token, project_scope
from helpers.lab import PASSWORD, Lab
from helpers.wait import wait_for

ATTEMPTS = 2
STRICT = f"[auth]\nlogin_attempts = {ATTEMPTS}\nlogin_window_s = 600\n"
BOTH = '[http]\nlisten = ["127.0.0.1:0", "[::1]:0"]\n'
# What a place may fail with in all, whatever the names (see api/auth/password.rs).
OF_A_PLACE = 10 * ATTEMPTS


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class Doors:
    """All ways in with a password or a secret: name -> whether it opens. Each from an address of the caller's choice."""

    def __init__(self, lab):
        self.lab, self.d = lab, lab.d
        self.ada = lab.user("manager")
        self.name = self.ada.user["username"]
        key = Keystone(self.d)
        session, _ = key.login(by_token(self.ada.token), project_scope(lab.project))
        order = {"application_credential": {"name": "cron"}}
        self.credential = ok(key.request("POST", f"/users/{self.ada.user['uuid']}/application_credentials", session, order), 201)["application_credential"]

    def knock(self, door, secret, address="127.0.0.1", name=None, headers=None):
        """The status of a try."""
        name = name or self.name
        by_id = {"methods": ["password"], "password": {"user": {"id": self.ada.user["uuid"].upper(), "password": secret}}}
        of_name = {"name": "cron", "user": {"name": name, "domain": {"id": "default"}}, "secret": secret}
        method, path, body, more = {
            "Waldur": ("POST", "/api-auth/password/", {"username": name, "password": secret}, {}),
            "Keystone, by name": ("POST", TOKENS, {"auth": {"identity": by_password(name, secret)}}, {}),
            "Keystone, by id": ("POST", TOKENS, {"auth": {"identity": by_id}}, {}),
            "Keystone, a credential": ("POST", TOKENS, {"auth": {"identity": by_credential(self.credential, secret)}}, {}),
            "Keystone, a credential by name": (
                "POST", TOKENS, {"auth": {"identity": {"methods": ["application_credential"], "application_credential": of_name}}}, {}),
            "Basic, the volume API": ("GET", f"/v3/{self.lab.project['uuid']}/volumes", None, basic(name, secret)),
            "Basic, Keystone": ("GET", "/identity/v3/projects", None, basic(name, secret)),
        }[door]
        family = "::1" if ":" in address else "127.0.0.1"
        connection = http.client.HTTPConnection(family, self.port(family), timeout=30, source_address=(address, 0))
        fields = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, json.dumps(body) if body else None, fields | more | (headers or {}))
        status = connection.getresponse().status
        connection.close()
        return status

    def port(self, family):
        if family == "127.0.0.1":
            return self.d.port
        line = next(line for line in self.d.log().splitlines()[::-1] if "listening on http://[::1]:" in line)
        return int(line.rsplit(":", 1)[1])

    def secret(self, door):
        return self.credential["secret"] if "credential" in door else PASSWORD


DOORS = ["Waldur", "Keystone, by name", "Keystone, by id", "Keystone, a credential", "Keystone, a credential by name", "Basic, the volume API",
         "Basic, Keystone"]


@pytest.fixture
def doors(start_daemon):
    return Doors(Lab(start_daemon(STRICT + (BOTH if has_ipv6() else ""))))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.fault("access: a password is guessed at one door")
def test_each_door_closes_after_so_many_wrong_tries(doors, door):
    assert [doors.knock(door, f"wrong{n}") for n in range(ATTEMPTS + 2)] == [401] * ATTEMPTS + [429] * 2
    assert doors.knock(door, doors.secret(door)) == 429
    # The real one, elsewhere, is not kept waiting; nor is his token anywhere.
    assert doors.knock(door, doors.secret(door), address="127.0.0.2") in (200, 201)
    assert doors.ada.get("/api/projects/").status_code == 200


@pytest.mark.fault("access: a password is guessed at all doors in turn")
def test_all_doors_count_together(doors):
    of_passwords = [door for door in DOORS if "credential" not in door]
    codes = [doors.knock(of_passwords[n % len(of_passwords)], f"wrong{n}") for n in range(ATTEMPTS + 3)]
    assert codes == [401] * ATTEMPTS + [429] * 3


@pytest.mark.fault("access: a password is guessed by many at once")
def test_many_at_once_get_no_more_tries(doors):
    """Who waits for his turn to be hashed has been looked at before, and is looked at again."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda n: doors.knock("Keystone, by name", f"wrong{n}"), range(40)))
    # Two are hashed at a time.
    assert codes.count(401) <= ATTEMPTS + 1 and set(codes) == {401, 429}


@pytest.mark.fault("access: the names are guessed as well")
def test_a_place_is_closed_whatever_the_names(doors):
    codes = [doors.knock("Waldur", "wrong", name=f"nobody{n}") for n in range(OF_A_PLACE + 5)]
    assert codes == [401] * OF_A_PLACE + [429] * 5
    # Other places are open, and so is this one for who has come in from here before.
    assert doors.knock("Waldur", PASSWORD, address="127.0.0.3") == 200
    assert doors.knock("Waldur", doors.lab.d.token, name="nobody-at-all") == 429


@pytest.mark.fault("access: the names are guessed as well")
def test_who_is_known_in_a_place_is_not_kept_out_by_others_there(doors):
    assert doors.knock("Waldur", PASSWORD) == 200
    for n in range(OF_A_PLACE):
        doors.knock("Waldur", "wrong", name=f"nobody{n}")
    assert doors.knock("Waldur", "wrong", name="one-more") == 429
    assert doors.knock("Waldur", PASSWORD) == 200
    assert [doors.knock("Waldur", "wrong") for _ in range(ATTEMPTS + 1)] == [401] * ATTEMPTS + [429]


@needs_root
@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
@pytest.mark.fault("access: the address is changed for every guess")
def test_one_network_of_ipv6_is_one_place(doors):
    """Whoever has one address of a /64 has all of them."""
    addresses = [f"2001:db8:{os.getpid() & 0xffff:x}::{n:x}" for n in range(1, ATTEMPTS + 3)]
    done = [subprocess.run(["ip", "-6", "addr", "add", f"{a}/128", "dev", "lo", "nodad"], capture_output=True).returncode for a in addresses]
    try:
        if any(done):
            pytest.skip("no addresses can be added")
        codes = [doors.knock("Waldur", "wrong", address=a) for a in addresses]
        assert codes == [401] * ATTEMPTS + [429] * 2
        assert doors.knock("Waldur", PASSWORD) == 200
    finally:
        for address in addresses:
            subprocess.run(["ip", "-6", "addr", "del", f"{address}/128", "dev", "lo"], capture_output=True)


FORGED = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "X-Client-IP", "CF-Connecting-IP"]


@pytest.mark.parametrize("field", FORGED)
@pytest.mark.fault("access: a guesser claims another address each time")
def test_who_is_no_trusted_proxy_speaks_for_himself(doors, field):
    codes = [doors.knock("Waldur", "wrong", headers={field: f"10.0.0.{n}"}) for n in range(ATTEMPTS + 2)]
    assert codes == [401] * ATTEMPTS + [429] * 2


@pytest.mark.fault("access: a guesser claims another address each time")
def test_behind_a_trusted_proxy_the_client_counts(start_daemon):
    """What stood in the field before it came to the proxy is the client's own invention."""
    doors = Doors(Lab(start_daemon(STRICT + '[http]\ntrusted_proxies = ["127.0.0.1", "127.0.0.9"]\n')))
    tries = lambda value: doors.knock("Waldur", "wrong", headers={"X-Forwarded-For": value})
    assert [tries(f"10.9.9.{n}, 192.0.2.1") for n in range(ATTEMPTS + 1)] == [401] * ATTEMPTS + [429]
    # Another client is another place; and through two proxies he is the same.
    assert tries("192.0.2.2") == 401
    assert doors.knock("Waldur", PASSWORD, headers={"X-Forwarded-For": "192.0.2.3"}) == 200
    assert tries("192.0.2.1, 127.0.0.9") == 429
    # What is no address is the proxy itself.
    assert [tries(f"rubbish{n}") for n in range(ATTEMPTS + 1)] == [401] * ATTEMPTS + [429]
    # Who does not come through the proxy is not believed.
    assert [doors.knock("Waldur", "wrong", address="127.0.0.5", headers={"X-Forwarded-For": f"10.0.0.{n}"}) for n in range(ATTEMPTS + 1)] == (
        [401] * ATTEMPTS + [429])
    refused = [line for line in doors.d.log().splitlines() if "was refused: there is no such user" in line]
    assert any("from 192.0.2.1 " in line for line in refused) and not any("10.9.9." in line or "10.0.0." in line for line in refused)


@pytest.mark.fault("access: a guesser locks somebody out")
def test_it_is_over_after_the_window(start_daemon):
    doors = Doors(Lab(start_daemon("[auth]\nlogin_attempts = 2\nlogin_window_s = 1\n")))
    assert [doors.knock("Waldur", "wrong") for _ in range(2)] == [401, 401]
    wait_for(lambda: doors.knock("Waldur", PASSWORD) == 200, "the window ends", 20, 0.2)


@needs_root
@pytest.mark.fault("access: a password is guessed over the Unix socket")
def test_the_socket_is_a_place_too_and_its_users_no_administrators(start_daemon):
    """Who may use the socket, but is neither root nor the daemon's own user, is nobody without a token."""
    doors = Doors(Lab(start_daemon(STRICT)))
    script = """
import http.client, json, os, socket, sys
os.setgroups([]); os.setgid(12345); os.setuid(12345)
def ask(method, path, body=None):
    c = http.client.HTTPConnection("localhost")
    c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])
    c.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    return c.getresponse().status
print(json.dumps([ask("GET", "/ops/status/")] + [ask("POST", "/api-auth/password/", {"username": sys.argv[2], "password": "wrong"}) for _ in range(int(sys.argv[3]))]))
"""
    socket_file = doors.d.state_dir / "cofferd.sock"
    doors.d.base.chmod(0o711)
    doors.d.state_dir.chmod(0o711)
    socket_file.chmod(0o666)
    done = subprocess.run([sys.executable, "-c", script, str(socket_file), doors.name, str(ATTEMPTS + 2)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [401] + [401] * ATTEMPTS + [429] * 2
