"""The volumes that are measured: v1 (8 GiB ext4 with this machine's own programs and a log), rnd (incompressible), zero (hole)."""

import os
import shutil
import subprocess
from pathlib import Path

GIB = 1 << 30
SOURCES = ["/usr/bin", "/usr/share", "/usr/include", "/usr/libexec", "/usr/sbin", "/usr/local", "/usr/lib"]
MOST = 5 * GIB


def log_lines(path: Path, count: int = 1_500_000) -> None:
    """Text as a web service writes it, the same at every run."""
    seed = 7
    with open(path, "w") as out:
        for i in range(count):
            seed = (seed * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
            r = seed >> 20
            out.write(f"2026-10-{1 + i // 50000:02} {i // 2000 % 24:02}:{i // 60 % 60:02}:{i % 60:02} node{r % 40} svc[{r % 32768}]: "
                      f"request id={r & 0x7FFFFFFF:08x} status={500 if r % 20 == 0 else 200} took {r % 900}ms path=/v1/obj/{r % 100000}\n")


def fill(stage: Path) -> None:
    """Hard links (or copies) of files up to 5 GiB, in a fixed order."""
    used = 0
    for top in SOURCES:
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                source = Path(folder, name)
                if source.is_symlink() or not source.is_file():
                    continue
                used += source.stat().st_size
                if used > MOST:
                    return
                target = stage / str(source)[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:
                    shutil.copy2(source, target)


def make(directory: Path) -> dict[str, Path]:
    """Makes what is not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    volumes = {name: directory / f"{name}.img" for name in ("v1", "rnd", "zero")}
    if not volumes["v1"].exists():
        stage = directory / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "var/log").mkdir(parents=True)
        fill(stage)
        log_lines(stage / "var/log/app.log")
        part = directory / "v1.part"
        with open(part, "wb") as f:
            f.truncate(8 * GIB)
        subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-F", "-d", stage, part], check=True)
        part.rename(volumes["v1"])
        shutil.rmtree(stage)
    if not volumes["rnd"].exists():
        with open(volumes["rnd"], "wb") as f:
            for _ in range(1024):
                f.write(os.urandom(1 << 20))
    with open(volumes["zero"], "wb") as f:
        f.truncate(4 * GIB)
    return volumes
