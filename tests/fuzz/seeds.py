"""What the fuzz targets begin with: one input of each kind that a parser knows, so that a short run gets past the first bytes."""

import base64
import json
import struct

from helpers.disks import MIB

HEADS = [
    b"GET /api/openstack-backups/?page=2 HTTP/1.1\r\nHost: example.org:8776\r\nAuthorization: Token x\r\n\r\n",
    b"POST http://h/api-auth/password/ HTTP/1.1\r\nhost: h\r\nContent-Type: application/json\r\nContent-Length: 17\r\nExpect: 100-continue\r\n\r\n",
    b"\r\nPUT /v3 HTTP/1.0\r\nConnection: close, x\r\nTransfer-Encoding: chunked\r\nX-Auth-Token: t\r\nHost: [::1]:1\r\n\r\n",
]
CHUNKED = [b"5\r\nhello\r\n0\r\n\r\n", b"a;x=y\r\n0123456789\r\n00F\r\n123456789012345\r\n0\r\nName: value\r\n\r\n"]
TEXTS = [
    "a=b&c=%C3%BC+d&&=x", "2026-11-21T12:00:00.123+05:30", "2026-11-21 12:00Z", "A04A26E4-6DEF-4724-A084-1ABCB81926AC",
    "http://h/api/openstack-backup-schedules/a04a26e46def4724a0841abcb81926ac/?x#y", "volume 3.43, compute latest",
]
CRON = ["0 2 * * *", "*/10 1-5,7 1,L jan-MAR/2 sun-fri", "@daily", "59 23 29 2 7", "5/7 0-23/2 */2 1-12 0"]
BODIES = [
    {"backup": {"volume_id": "a04a26e4-6def-4724-a084-1abcb81926ac", "name": "n", "incremental": True, "metadata": {"k": "v"}, "force": "yes"}},
    {"name": " x ", "tags": ["a", "b"], "retention_time": 3, "is_active": "on", "project": "http://h/api/projects/a04a26e46def4724a0841abcb81926ac/"},
    {"auth": {"identity": {"methods": ["password", "token"], "password": {"user": {"name": "u", "domain": {"id": "default"}, "password": "p"}},
                           "token": {"id": "t"}}, "scope": {"project": {"name": "p", "domain": {"name": "Default"}}}}},
    {"auth": {"identity": {"methods": ["application_credential"], "application_credential": {"id": "i", "secret": "s"}}, "scope": "unscoped"}},
]
RECORD = {
    "id": "a04a26e4-6def-4724-a084-1abcb81926ac", "display_name": "n", "display_description": None, "container": "c", "size": 1,
    "service_metadata": "ab" * 32, "object_count": 3, "created_at": "2026-11-21T12:00:00Z", "metadata": {"k": "v"},
    "driver_info": {"volume": {"name": "v", "metadata": {}, "bootable": True}},
}
CONFIG = """state_directory = "/s"
timezone = "Europe/London"
shutdown_deadline_s = 30
[http]
listen = ["127.0.0.1:8776", "[::1]:1"]
max_connections = 10
head_timeout_s = 1
trusted_proxies = ["10.0.0.1"]
query_token = true
[volumes]
roots = ["/a"]
reflinks = true
[engine]
workers = 2
jobs = 1
[scrub]
bytes_per_second = 0
every_days = 3
[auth]
token_lifetime_h = 1
login_attempts = 3
region = "R"
noauth = false
"""


def entry(offset, stored, raw, code, base=0):
    return bytes(range(32)) + struct.pack("<IIIBBBBQ", offset, stored, raw, code, 0, 0, 0, base)


SEEDS = {
    "head": [struct.pack("<H", step) + head for step, head in zip((0, 1, 9), HEADS)],
    "chunked": [struct.pack("<H", 3) + b"\xff\xff\x00" + body for body in CHUNKED],
    "text": [text.encode() for text in TEXTS],
    "bodies": [b"\x00\x00" + json.dumps(body).encode() for body in BODIES] + [b"\x01\x00name=a&tags=b%20c", b"\x02\x00" + json.dumps(BODIES[0]).encode()],
    "credentials": [base64.b64encode(b"user:password")],
    "record": [json.dumps(RECORD).encode(), base64.b64encode(json.dumps(RECORD).encode())],
    "schedule": [struct.pack("<Q", 1_800_000_000)[:5] + struct.pack("<H", n) + text.encode() for n, text in enumerate(CRON)],
    "config": [CONFIG.encode()],
    "lists": [b"\x02" + entry(0, 5, 9, 2) + entry(5, 3, MIB, 3, 4097) + bytes(56), b"\x01" + struct.pack("<QQQ", 4096, 4097, 0)],
    "extents": [bytes([1, 0, 0, 0, 4, 0, 0, 4, 1, 0, 2, 0] + [0, 0, 0, 0, 8, 0, 0, 1, 0] * 6)],
    "codec": [bytes([0, 80, 0, 3, 20, 0] + list(range(60)) + [1, 0, 2, 0] + [9] * 40)],
    "coffer": [bytes((n * 7 + 3) % 256 for n in range(300)), bytes(400), bytes([1] * 400)],
}
