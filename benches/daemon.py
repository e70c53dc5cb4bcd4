"""A cofferd that runs for a measurement, and what is asked of it over HTTP."""

import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path


class Failed(Exception):
    """A backup, restore or command ended without success."""


class Daemon:
    """A running cofferd with its own state directory."""

    def __init__(self, binary: Path, directory: Path, *roots: Path, more: str = ""):
        self.state = directory / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        config, log = directory / "cofferd.toml", directory / "log"
        listed = ", ".join(f'"{root}"' for root in roots)
        config.write_text(f'state_directory = "{self.state}"\n[http]\nlisten = ["127.0.0.1:0"]\n[volumes]\nroots = [{listed}]\n{more}')
        began = time.monotonic()
        with open(log, "w") as out:
            self.process = subprocess.Popen([binary, "serve", "--config", config], stdout=out, stderr=out)
        while not (found := re.search(r"listening on (http://\S+)", log.read_text())):
            if self.process.poll() is not None:
                raise Failed(log.read_text())
            time.sleep(0.005)
        self.start_seconds = time.monotonic() - began
        self.url = found[1]
        self.token = (self.state / "admin.token").read_text().strip()

    def call(self, method: str, path: str, body=None):
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
        request.add_header("Authorization", f"Token {self.token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"null")

    def instance(self, name: str, path: Path) -> str:
        """Registers a machine with this disk; its URL."""
        project = self.call("GET", "/api/projects/")[0]["url"]
        return self.call("POST", "/api/openstack-instances/", {"name": name, "project": project, "volumes": [{"path": str(path)}]})["url"]

    def back_up(self, instance: str) -> dict:
        backup = self.call("POST", "/api/openstack-backups/", {"instance": instance})
        return self.wait(backup["url"])

    def wait(self, url: str) -> dict:
        while (backup := self.call("GET", url))["state"] == "Backing up":
            time.sleep(0.005)
        if backup["state"] != "Ready":
            raise Failed(f"a backup failed: {backup['error_message']}")
        return backup

    def restore(self, backup: str, path: Path) -> None:
        """Restores the only volume of a backup, by its uuid, to a new file."""
        task = self.call("POST", "/ops/restores/", {"backup": backup, "path": str(path), "mode": "create"})["task"]
        while (state := self.call("GET", f"/ops/tasks/{task}/"))["state"] == "running":
            time.sleep(0.005)
        if state["state"] != "done":
            raise Failed(f"a restore failed: {state['error_message']}")

    def proc(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}/{name}")

    def memory(self, field: str) -> float:
        """MiB of a field of /proc/PID/status."""
        return int(re.search(rf"{field}:\s+(\d+)", self.proc("status").read_text())[1]) / 1024

    def forget_peak(self) -> None:
        """From now on VmHWM is the peak since now."""
        self.proc("clear_refs").write_text("5")

    def cpu(self) -> float:
        """Seconds in user and kernel mode so far."""
        fields = self.proc("stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def written(self) -> int:
        """Bytes so far."""
        return int(re.search(r"^write_bytes: (\d+)", self.proc("io").read_text(), re.MULTILINE)[1])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
