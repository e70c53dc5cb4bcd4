"""The units under a real systemd: installed as the README says, into a throw-away machine (see `box`).

The tests use one machine and build on each other's state only through what each fixture asks for: a running service.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from helpers.wait import wait_for

HERE = Path(__file__).resolve().parent
UNITS = HERE.parent.parent / "systemd"
BOX = HERE / "box"

# The README's words, with the binary where the box sees it.
INSTALL = """
/box/cofferd install
systemd-sysusers && systemctl daemon-reload
systemctl enable --now cofferd
"""


class Box:
    def __init__(self, directory):
        self.dir = directory

    def run(self, command, code=0):
        """Runs a shell command in the box as root and returns what it printed."""
        done = subprocess.run([BOX, "run", self.dir, "bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert code is None or done.returncode == code, f"{command}\n{done.returncode}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def ok(self, command):
        return subprocess.run([BOX, "run", self.dir, "bash", "-c", command], capture_output=True, timeout=60).returncode == 0

    def journal(self):
        command = [BOX, "run", self.dir, "journalctl", "-u", "cofferd", "-n", "40", "--no-pager", "-o", "short-monotonic"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    def entries(self, cursor):
        """Priority and message of what was logged by and about the service since the cursor.

        Chosen here and not by journalctl: version 252 loses the first entry after a cursor that its filter leaves out.
        """
        lines = self.run(f"journalctl --sync; journalctl -o json --no-pager --after-cursor='{cursor}'").splitlines()
        found = [json.loads(line) for line in lines]
        return [(int(e["PRIORITY"]), e["MESSAGE"]) for e in found if "cofferd.service" in (e.get("_SYSTEMD_UNIT"), e.get("UNIT"))]

    def said(self, cursor):
        return "\n".join(message for _, message in self.entries(cursor))

    def cursor(self):
        return re.search(r"^-- cursor: (\S+)", self.run("journalctl --sync; journalctl -n 0 --show-cursor"), re.M)[1]

    def property(self, name, unit="cofferd"):
        return self.run(f"systemctl show -P {name} {unit}").strip()

    def healthy(self):
        return self.ok("curl -sf -m 2 http://127.0.0.1:8776/healthz")

    def write(self, path, text):
        self.run(f"mkdir -p $(dirname {path}) && cat > {path} <<'END'\n{text}\nEND")

    def cli(self, arguments):
        return json.loads(self.run(f"cofferd --json {arguments}"))


@pytest.fixture(scope="module")
def machine(binary):
    # Not below the temporary directory: the box has its own there.
    directory = Path(tempfile.mkdtemp(prefix="cofferd-box-", dir="/var/tmp")) / "box"
    share = directory.parent / "share"
    share.mkdir()
    shutil.copy(binary, share / "cofferd")
    up = subprocess.run([BOX, "up", directory, f"--bind-ro={share}:/box"], capture_output=True, text=True, timeout=60)
    assert up.returncode == 0, up.stderr
    box = Box(directory)
    try:
        # The tests restart more often than a start limit allows.
        box.write("/run/systemd/system/cofferd.service.d/limit.conf", "[Unit]\nStartLimitIntervalSec=0")
        box.run(INSTALL + "cp /etc/cofferd/cofferd.toml /box-config")
        yield box
    finally:
        subprocess.run([BOX, "down", directory], check=True, timeout=60)
        shutil.rmtree(directory.parent)


@pytest.fixture
def box(machine):
    """The machine with the service as it was installed, running and answering."""
    yield machine
    machine.run(
        "systemctl disable -q --now cofferd.socket; rm -rf /etc/systemd/system/cofferd.service.d; systemctl daemon-reload;"
        "cp /box-config /etc/cofferd/cofferd.toml; systemctl restart cofferd"
    )


def test_the_units_verify_without_a_word(box):
    said = box.run("systemd-analyze verify --man=no --recursive-errors=yes cofferd.service cofferd.socket 2>&1")
    assert said == ""


def test_the_unit_exposes_little():
    """systemd's own score, at most 1.3, and what is left of it is needed."""
    analyze = ["systemd-analyze", "security", "--offline=true", "--threshold=13", "--no-pager", str(UNITS / "cofferd.service")]
    done = subprocess.run(analyze, capture_output=True, text=True, env={**os.environ, "SYSTEMD_COLORS": "0", "LANG": "C.UTF-8"})
    assert done.returncode == 0, done.stdout + done.stderr
    score = float(re.search(r"exposure level for cofferd.service: ([0-9.]+)", done.stdout)[1])
    assert score <= 1.3
    # It serves a port and a socket, its drop-in gives it groups and devices, and images lie anywhere; ProtectClock= allows the clock itself.
    needed = {"RootDirectory=/RootImage=", "RestrictAddressFamilies=~AF_UNIX", "RestrictAddressFamilies=~AF_(INET|INET6)", "PrivateNetwork=", "PrivateUsers=",
              "DeviceAllow=", "IPAddressDeny="}
    exposed = set(re.findall(r"^\s*✗\s+(\S+)", done.stdout, re.M))
    assert exposed <= needed, exposed - needed


def test_its_memory_stays_its_own(box):
    """No core file, and no look into it for the other processes of its user."""
    pid = box.property("MainPID")
    assert re.search(r"^Max core file size +0 +0 ", box.run(f"cat /proc/{pid}/limits"), re.M)
    assert box.run(f"stat -c %U /proc/{pid}/environ").strip() == "root"
    assert not box.ok(f"runuser -u cofferd -- cat /proc/{pid}/environ")


def test_ready_is_told_when_requests_are_answered(box):
    assert box.property("Type") == "notify"
    for _ in range(5):
        # `restart` returns with READY: the very next request must be answered.
        box.run("systemctl restart cofferd && curl -sf -m 2 http://127.0.0.1:8776/healthz")
    assert box.property("SubState") == "running"
    assert "/var/lib/cofferd/coffer.db" in box.property("StatusText")


def test_it_runs_as_its_own_user_with_private_files(box):
    assert box.run("ps -o user= -C cofferd").split() == ["cofferd"]
    modes = box.run("cd /var/lib/cofferd && stat -c '%n %U %a' . coffer.db admin.token cofferd.sock").splitlines()
    assert modes == [". cofferd 750", "coffer.db cofferd 600", "admin.token cofferd 600", "cofferd.sock cofferd 660"]


def test_the_token_opens_the_api_and_is_not_in_the_journal(box):
    token = box.run("cat /var/lib/cofferd/admin.token").strip()
    assert re.fullmatch("[0-9a-f]{40}", token)
    box.run(f"curl -sf -H 'Authorization: Token {token}' http://127.0.0.1:8776/api/projects/")
    assert box.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8776/api/projects/") == "401"
    journal = box.run("journalctl --no-pager")
    assert token not in journal
    assert "/var/lib/cofferd/admin.token" in journal


def test_the_journal_knows_the_priority_of_each_line(box):
    cursor = box.cursor()
    box.run("echo 'colour = 1' >> /etc/cofferd/cofferd.toml; systemctl reload cofferd; systemctl restart cofferd; true")
    box.run("sed -i '$d' /etc/cofferd/cofferd.toml; systemctl restart cofferd")
    entries = box.entries(cursor)
    assert any(p == 6 and m == "listening on http://127.0.0.1:8776" for p, m in entries)
    assert any(p == 3 and "colour" in m for p, m in entries), entries
    assert not any(re.match(r"<\d>|\d{4}-", m) for _, m in entries)


def test_reload_takes_the_new_configuration_or_keeps_the_old(box):
    cursor, pid = box.cursor(), box.property("MainPID")
    box.run("mkdir -p /srv/a && truncate -s 1M /srv/a/disk.img")
    box.run("cofferd volume add /srv/a/disk.img", code=1)
    box.write("/etc/cofferd/cofferd.toml", '[volumes]\nroots = ["/srv/a"]')
    box.run("systemctl reload cofferd")
    wait_for(lambda: "configuration reloaded" in box.said(cursor), "the reload", 10, 0.1)
    box.run("cofferd volume add /srv/a/disk.img && cofferd volume remove /srv/a/disk.img")
    box.write("/etc/cofferd/cofferd.toml", "[volumes]\nroots = 5")
    box.run("systemctl reload cofferd")
    wait_for(lambda: "stays as it was" in box.said(cursor), "the refusal", 10, 0.1)
    assert "/etc/cofferd/cofferd.toml" in box.said(cursor)
    # The commands read the file too; the daemon goes on with the roots it had.
    box.write("/etc/cofferd/cofferd.toml", "")
    box.run("cofferd volume add /srv/a/disk.img && cofferd volume remove /srv/a/disk.img")
    assert (box.property("ActiveState"), box.property("MainPID")) == ("active", pid)


def test_an_image_is_backed_up_and_restored_once_its_path_is_granted(box):
    box.write("/etc/cofferd/cofferd.toml", '[volumes]\nroots = ["/srv"]')
    box.run(
        "groupadd -f images; mkdir -p /srv/images; chgrp images /srv/images; chmod 2770 /srv/images;"
        "head -c 3000000 /dev/urandom > /srv/images/disk.img; truncate -s 8M /srv/images/disk.img; chmod 0640 /srv/images/disk.img;"
        "systemctl restart cofferd"
    )
    refused = box.run("cofferd volume add /srv/images/disk.img 2>&1", code=1)
    assert "user cofferd may not open /srv/images/disk.img" in refused
    box.write("/etc/systemd/system/cofferd.service.d/disks.conf", "[Service]\nSupplementaryGroups=images\nReadWritePaths=/srv/images")
    box.run("systemctl daemon-reload; systemctl restart cofferd")
    box.run("cofferd instance add granted --volume /srv/images/disk.img")
    backup = box.cli("backup granted")
    assert backup["state"] == "Ready"
    box.run(f"cofferd restore {backup['uuid']} --to /srv/images/copy.img && cmp /srv/images/disk.img /srv/images/copy.img")
    box.run(f"cofferd delete {backup['uuid']} && cofferd instance remove granted && rm -r /srv/images")


def test_the_drop_in_example_works_with_every_line_in_use(box):
    example = box.run("cat /usr/local/share/doc/cofferd/disks.conf.example")
    drop_in = re.sub(r"^#(?=\w+=)", "", example, flags=re.M)
    assert drop_in != example
    box.run("for g in libvirt-qemu disk; do groupadd -f $g; done; mkdir -p /srv/images; head -c 1000000 /dev/urandom > /srv/images/root-only.img;"
            "chmod 0600 /srv/images/root-only.img")
    box.write("/etc/systemd/system/cofferd.service.d/disks.conf", drop_in)
    box.write("/etc/cofferd/cofferd.toml", '[volumes]\nroots = ["/srv"]')
    assert box.run("systemctl daemon-reload; systemd-analyze verify --man=no --recursive-errors=yes cofferd.service 2>&1") == ""
    box.run("systemctl restart cofferd; cofferd instance add private --volume /srv/images/root-only.img")
    backup = box.cli("backup private")
    assert backup["state"] == "Ready"
    box.run(f"cofferd delete {backup['uuid']} && cofferd instance remove private && rm -r /srv/images")


def test_a_start_that_fails_says_why_in_the_journal_with_its_priority(box):
    cursor = box.cursor()
    box.write("/etc/cofferd/cofferd.toml", '[http]\nlisten = ["192.0.2.1:8776"]')
    box.run("systemctl restart cofferd", code=1)
    assert any(p == 3 and "cannot listen on 192.0.2.1:8776" in m and "http.listen" in m for p, m in box.entries(cursor))


def test_a_killed_daemon_is_started_again(box):
    pid = box.property("MainPID")
    box.run(f"kill -9 {pid}")
    wait_for(lambda: box.property("MainPID") not in (pid, "0") and box.healthy(), "a new daemon", 20, 0.2)
    assert int(box.property("NRestarts")) >= 1


@pytest.mark.parametrize("how", ["killed", "stopped by systemctl", "stopped by the watchdog"])
def test_a_ready_backup_outlives_whatever_ends_the_service(box, ledger, how):
    """In the middle of the next one."""
    with ledger.fault(f"host: the service is {how} in the middle of a backup"):
        box.write("/etc/cofferd/cofferd.toml", 'shutdown_deadline_s = 1\n[engine]\nworkers = 1\n[volumes]\nroots = ["/srv"]')
        drop_in = "[Service]\nReadWritePaths=/srv\nWatchdogSec=2\nTimeoutAbortSec=2\nRestartSec=100ms"
        box.write("/etc/systemd/system/cofferd.service.d/end.conf", drop_in)
        box.run("mkdir -p /srv/images; chown cofferd /srv/images; head -c 1000000 /dev/urandom > /srv/images/small.img;"
                "head -c 200000000 /dev/urandom > /srv/images/large.img; chmod 644 /srv/images/*.img; systemctl daemon-reload; systemctl restart cofferd;"
                "cofferd instance add small --volume /srv/images/small.img; cofferd instance add large --volume /srv/images/large.img")
        try:
            first = box.cli("backup small")
            pid = box.property("MainPID")
            second = box.cli("backup large --no-wait")
            box.run({"killed": f"kill -9 {pid}", "stopped by systemctl": "systemctl stop cofferd", "stopped by the watchdog": f"kill -STOP {pid}"}[how])
            if how == "stopped by systemctl":
                assert (box.property("Result"), box.property("ExecMainStatus")) == ("success", "0")
                box.run("systemctl start cofferd")
            wait_for(lambda: box.property("MainPID") not in (pid, "0") and box.healthy(), "a new daemon", 30, 0.2)
            shown = box.cli(f"show {second['uuid']}")
            finished = how == "stopped by systemctl" and shown["state"] == "Ready"  # within its deadline
            assert finished or shown["state"] == "Erred" and "interrupted" in shown["error_message"], shown
            assert box.cli(f"show {first['uuid']}")["state"] == "Ready"
            box.run(f"cofferd restore {first['uuid']} --to /srv/images/copy.img && cmp /srv/images/small.img /srv/images/copy.img")
            assert box.cli("check")["result"]["corrupt"] == []
            assert box.cli("backup large")["state"] == "Ready"
        finally:
            box.run("for b in $(cofferd --json list | grep -o '\"uuid\": \"[0-9a-f]*' | cut -d'\"' -f4); do cofferd delete $b; done;"
                    "cofferd instance remove small; cofferd instance remove large; rm -r /srv/images", code=None)


@pytest.mark.parametrize("how", ["stopped", "without descriptors"])
def test_a_hanging_daemon_is_started_again_by_the_watchdog(box, how):
    box.write("/etc/systemd/system/cofferd.service.d/watchdog.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\nRestartSec=100ms")
    box.run("systemctl daemon-reload; systemctl restart cofferd")
    pid, cursor = box.property("MainPID"), box.cursor()
    if how == "stopped":
        box.run(f"kill -STOP {pid}")
    else:
        # Alive, and its threads run, but no request can be answered any more.
        box.run(f"runuser -u cofferd -- prlimit --nofile=4:4 --pid {pid}")
    wait_for(lambda: box.property("MainPID") not in (pid, "0") and box.healthy(), "a new daemon", 30, 0.2)
    assert "Watchdog timeout" in box.said(cursor)


def test_the_watchdog_leaves_a_working_daemon_alone(box):
    box.write("/etc/systemd/system/cofferd.service.d/watchdog.conf", "[Service]\nWatchdogSec=1")
    box.run("systemctl daemon-reload; systemctl restart cofferd")
    pid = box.property("MainPID")
    box.run("sleep 4")
    assert box.property("MainPID") == pid


def test_stop_ends_it_with_0_and_commands_still_work(box):
    cursor = box.cursor()
    box.run("systemctl stop cofferd")
    assert (box.property("Result"), box.property("ExecMainStatus")) == ("success", "0")
    assert "stopped" in box.said(cursor)
    box.run("test ! -e /var/lib/cofferd/cofferd.sock")
    # Root opens the coffer itself; what it leaves must be the service's again.
    box.run("cofferd project add made-while-stopped")
    owners = set(box.run("stat -c %U /var/lib/cofferd/*").split())
    assert owners == {"cofferd"}
    box.run("systemctl start cofferd")
    assert "made-while-stopped" in box.run("cofferd project list")


def test_root_may_make_the_coffer_before_the_first_start(box):
    box.run("systemctl stop cofferd; mv /var/lib/cofferd /var/lib/aside; install -d -o cofferd -g cofferd -m 750 /var/lib/cofferd")
    try:
        token = box.cli("init")["token"]
        box.run("systemctl start cofferd")
        box.run(f"curl -sf -H 'Authorization: Token {token}' http://127.0.0.1:8776/api/projects/")
    finally:
        box.run("systemctl stop cofferd; rm -rf /var/lib/cofferd; mv /var/lib/aside /var/lib/cofferd; systemctl start cofferd")


def test_systemd_holds_the_port_when_asked_to(box):
    box.run("systemctl stop cofferd; systemctl start cofferd.socket")
    assert box.property("ActiveState") == "inactive"
    assert box.healthy(), "the first connection starts the service"
    assert box.property("ActiveState") == "active"
    box.run("systemctl stop cofferd.service")
    assert box.healthy(), "the port outlives the daemon"
    # During a restart no connection is refused: it waits in the socket. (One that the old daemon has accepted but not read
    # from may be closed, as any idle connection; clients try again then.)
    box.run("systemctl restart --no-block cofferd; for n in {1..50}; do curl -s -m 20 http://127.0.0.1:8776/healthz; [[ $? != 7 ]] || exit 1; done")
