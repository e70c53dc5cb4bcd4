"""An S3 server for measurements: a real one over a directory, behind a line that counts, and that can be long and narrow."""

import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from daemon import Failed

KEY, SECRET = "benchmark", "benchmark-secret"
REGION = "us-east-1"
PATIENCE_S = 20


@dataclass(frozen=True)
class Line:
    """How far away the store is: what each request waits, and what each direction carries."""

    title: str
    latency_ms: int = 0
    bytes_per_second: int = 0


class Place:
    """A running server with a bucket for each who asks. The server is s3s-fs: quick, and the same work for all."""

    program = "s3s-fs"
    crate = "s3s-fs@0.14.1 --features binary"

    def __init__(self, root: Path, line: Line):
        self.root = root
        root.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.server = subprocess.Popen(["s3s-fs", "--host", "127.0.0.1", "--port", str(port), "--access-key", KEY, "--secret-key", SECRET, root],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.gateway = subprocess.Popen([sys.executable, Path(__file__).parent / "gateway.py", str(port), str(line.latency_ms), str(line.bytes_per_second)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.gateway.stdout.readline())}"
        end = time.monotonic() + PATIENCE_S
        while not answers(port):
            if self.server.poll() is not None or time.monotonic() > end:
                self.close()
                raise Failed("the S3 server does not answer")
            time.sleep(0.02)

    def bucket(self, name: str) -> Path:
        """A new one; where its objects lie."""
        path = self.root / name
        path.mkdir()
        return path

    def counts(self) -> dict[str, int]:
        """Requests, and bytes up and down, since the start."""
        self.gateway.stdin.write("\n")
        self.gateway.stdin.flush()
        return json.loads(self.gateway.stdout.readline())

    def close(self) -> None:
        self.gateway.stdin.close()
        self.gateway.wait()
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.root)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False
