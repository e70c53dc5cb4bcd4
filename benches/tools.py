"""The tools that are compared: cofferd and its peers, each with the settings that make it do the same work."""

import os
import shutil
import subprocess
from pathlib import Path

import meter
from daemon import Daemon, Failed
from meter import Usage

BUILT = Path(__file__).resolve().parents[1] / "target" / "peers"
FIRST = {"full", "day", "restore", "rnd", "zero"}
EVERYTHING = FIRST | {"unchanged", "rw1k", "rw20k", "clone"}


def allocated(path: Path) -> int:
    """Bytes on the disk of a file, or of all files below a directory."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


class Tool:
    """A tool with its repository below `place`, backing up files in `disks`. One is made for each round."""

    name: str
    settings: str
    program: str
    works = EVERYTHING
    packages: tuple[str, ...] = ()  # of Debian: what brings the program, or what building it needs
    crate = ""  # name@version and options, built from crates.io
    version_argument = "--version"

    def __init__(self, place: Path, disks: Path):
        self.place, self.disks = place, disks
        self.repository = place / "repository"

    def run(self, *words: str | Path, directory: Path | None = None, output: Path | None = None) -> Usage:
        environment = {"HOME": str(self.place), "TMPDIR": str(self.place)} | self.environment()
        return meter.command([self.program, *words], directory or self.disks, environment, output)

    def environment(self) -> dict[str, str]:
        return {}

    def back_up(self, file: str, label: str) -> Usage:
        """Backs up one file of `disks`; the label is new each time."""
        raise NotImplementedError

    def restore(self, directory: Path) -> Usage:
        """Restores what was backed up last to a file in this empty directory."""
        raise NotImplementedError

    def size(self) -> int:
        """Bytes of the repository on the disk."""
        return allocated(self.repository)

    def resident(self) -> float | None:
        """MiB of RSS now, of what runs all the time."""
        return None

    def close(self) -> None:
        pass

    @classmethod
    def version(cls) -> str:
        shown = subprocess.run([cls.program, cls.version_argument], check=True, capture_output=True, text=True).stdout
        return shown.strip(" *\n").splitlines()[0]

    @classmethod
    def install(cls) -> None:
        """Raises Failed with the reason if the program is not there in the end."""
        if shutil.which(cls.program):
            return
        if cls.packages:
            install_packages(*cls.packages)
        if cls.crate:
            build(cls.crate)
        if not shutil.which(cls.program):
            raise Failed(f"{cls.program} was not installed")


def build(crate: str) -> None:
    """From crates.io, by name@version and options."""
    print(f"building {crate}", flush=True)
    quietly("cargo", "install", "--quiet", "--locked", "--root", BUILT, *crate.split())


def quietly(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode:
        raise Failed(f"{words[0]} {words[1]} failed: {done.stderr[-500:].strip()}")


def install_packages(*packages: str) -> None:
    missing = [package for package in packages if subprocess.run(["dpkg", "-s", package], capture_output=True).returncode]
    if missing and (os.geteuid() != 0 or not shutil.which("apt-get")):
        raise Failed(f"install these Debian packages first: {' '.join(missing)}")
    if missing:
        quietly("apt-get", "update", "-qq")
        quietly("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


class Cofferd(Tool):
    name = "cofferd"
    settings = "as it comes"
    program = str(BUILT.parent / "release" / "cofferd")

    def __init__(self, place: Path, disks: Path):
        super().__init__(place, disks)
        self.daemon = Daemon(Path(self.program), place, disks, place / "restored", more=self.configuration())
        self.instances: dict[str, str] = {}
        self.latest = ""

    def configuration(self) -> str:
        """What else is in its file."""
        return ""

    def back_up(self, file: str, label: str) -> Usage:
        if file not in self.instances:
            self.instances[file] = self.daemon.instance(file, self.disks / file)
        with meter.working(self.daemon) as usage:
            self.latest = self.daemon.back_up(self.instances[file])["uuid"]
        return usage

    def restore(self, directory: Path) -> Usage:
        with meter.working(self.daemon) as usage:
            self.daemon.restore(self.latest, directory / "restored.img")
        return usage

    def size(self) -> int:
        # Without the WAL: a buffer that does not grow with the coffer and is empty after a stop.
        return allocated(self.daemon.state / "coffer.db")

    def resident(self) -> float:
        return self.daemon.memory("VmRSS")

    def close(self) -> None:
        self.daemon.stop()


class Borg(Tool):
    name = program = "borg"
    settings = "`init -e none`, `create -C zstd,1 --chunker-params fixed,4194304 --sparse --files-cache disabled`, `extract --sparse`"
    packages = ("borgbackup",)

    def __init__(self, place: Path, disks: Path):
        super().__init__(place, disks)
        self.latest = ""
        self.run("init", "-e", "none", self.repository)

    def environment(self) -> dict[str, str]:
        return {"BORG_BASE_DIR": str(self.place), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

    def back_up(self, file: str, label: str) -> Usage:
        self.latest = f"{self.repository}::{label}"
        return self.run("create", "-C", "zstd,1", "--chunker-params", "fixed,4194304", "--sparse", "--files-cache", "disabled", self.latest, file)

    def restore(self, directory: Path) -> Usage:
        return self.run("extract", "--sparse", self.latest, directory=directory)


class Restic(Tool):
    name = program = "restic"
    settings = "`backup --force`; compression as it comes; always encrypted"
    packages = ("restic",)
    version_argument = "version"

    def __init__(self, place: Path, disks: Path):
        super().__init__(place, disks)
        self.run("init")

    def environment(self) -> dict[str, str]:
        return {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(self.place / "cache")}

    def back_up(self, file: str, label: str) -> Usage:
        return self.run("backup", "--quiet", "--force", "--tag", label, file)

    def restore(self, directory: Path) -> Usage:
        return self.run("restore", "--quiet", "latest", "--target", directory)


class Rustic(Tool):
    name = program = "rustic"
    settings = "`backup --force`; compression as it comes; always encrypted"
    packages = ("pkg-config",)
    crate = "rustic-rs@0.11.3 --no-default-features"

    def __init__(self, place: Path, disks: Path):
        super().__init__(place, disks)
        self.run("init")

    def environment(self) -> dict[str, str]:
        return {"RUSTIC_REPOSITORY": str(self.repository), "RUSTIC_PASSWORD": "benchmark", "RUSTIC_CACHE_DIR": str(self.place / "cache"),
                "RUSTIC_NO_PROGRESS": "true"}

    def back_up(self, file: str, label: str) -> Usage:
        return self.run("backup", "--force", "--tag", label, file)

    def restore(self, directory: Path) -> Usage:
        return self.run("restore", "latest", directory)


class Bupstash(Tool):
    name = program = "bupstash"
    settings = "`put --send-log LOG --compression zstd:1`, one log a volume; always encrypted; restores without holes"
    packages = ("libsodium-dev", "pkg-config")
    crate = "bupstash@0.12.0"

    def __init__(self, place: Path, disks: Path):
        super().__init__(place, disks)
        self.latest = ""
        self.run("new-key", "-o", place / "key")
        self.run("init")

    def environment(self) -> dict[str, str]:
        return {"BUPSTASH_REPOSITORY": str(self.repository), "BUPSTASH_KEY": str(self.place / "key")}

    def back_up(self, file: str, label: str) -> Usage:
        self.latest = f"label={label}"
        log = self.place / f"{file}.log"
        return self.run("put", "--quiet", "--send-log", log, "--compression", "zstd:1", self.latest, file)

    def restore(self, directory: Path) -> Usage:
        return self.run("get", "--quiet", self.latest, output=directory / "restored.img")


class Single(Tool):
    """A tool that writes each backup to a file of its own."""

    works = FIRST

    def __init__(self, place: Path, disks: Path):
        super().__init__(place, disks)
        self.repository.mkdir()
        self.latest = Path()

    def back_up(self, file: str, label: str) -> Usage:
        self.latest = self.repository / label
        return self.pack(file)

    def pack(self, file: str) -> Usage:
        raise NotImplementedError


class QemuImg(Single):
    name = program = "qemu-img"
    settings = "`convert -c -O qcow2 -o compression_type=zstd`; no increments"
    packages = ("qemu-utils",)

    def pack(self, file: str) -> Usage:
        return self.run("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", file, self.latest)

    def restore(self, directory: Path) -> Usage:
        return self.run("convert", "-f", "qcow2", "-O", "raw", self.latest, directory / "restored.img")


class Zstd(Single):
    name = program = "zstd"
    settings = "`-T2 -1`, `-d`; no increments"
    packages = ("zstd",)

    def pack(self, file: str) -> Usage:
        return self.run("-q", "-T2", "-1", file, "-o", self.latest)

    def restore(self, directory: Path) -> Usage:
        return self.run("-q", "-d", self.latest, "-o", directory / "restored.img")


PEERS = {peer.name: peer for peer in (Borg, Restic, Rustic, Bupstash, QemuImg, Zstd)}
