"""The volumes that are measured. The same machine makes the same ones again, whatever the tool.

v1      8 GiB sparse ext4 with this machine's own programs and a log, about 5 GiB of data
v2      v1 a day later: 86 MiB rewritten in 480 runs, 300 single blocks, 124 MiB new in what were holes
rw1k    v1 with 1,000 random blocks of 4 KiB in its data
rw20k   v1 with 20,000 of them
clone   another machine from the same template: v2 with 500 MiB of files of its own
rnd     2 GiB that nothing compresses
zero    4 GiB that is one hole
"""

import array
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

MIB, GIB = 1 << 20, 1 << 30
BLOCK = 4096  # what file systems write at once
PIECE = 4 * MIB  # new files are smaller
SOURCES = ["/usr/bin", "/usr/share", "/usr/include", "/usr/libexec", "/usr/sbin", "/usr/local", "/usr/lib"]
UUID = "c0ffe12d-0000-4000-8000-000000000001"


def log_lines(count: int, seed: int = 7, month: str = "2026-10") -> Iterator[str]:
    """Text as a web service writes it, the same at every run."""
    for i in range(count):
        seed = (seed * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        r = seed >> 20
        yield (f"{month}-{1 + i // 50000:02} {i // 2000 % 24:02}:{i // 60 % 60:02}:{i % 60:02} node{r % 40} svc[{r % 32768}]: "
               f"request id={r & 0x7FFFFFFF:08x} status={500 if r % 20 == 0 else 200} took {r % 900}ms path=/v1/obj/{r % 100000}\n")


def fill(stage: Path, most: int) -> None:
    """Hard links (or copies) of this machine's files up to `most` bytes, in a fixed order."""
    used = 0
    for top in SOURCES:
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                source = Path(folder, name)
                if source.is_symlink() or not source.is_file():
                    continue
                used += source.stat().st_size
                if used > most:
                    return
                target = stage / str(source)[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:
                    shutil.copy2(source, target)


class Image:
    """An image that is being changed: where it has data, where holes, and the kinds of changes."""

    def __init__(self, path: Path, seed: int):
        self.file, self.random = open(path, "r+b", buffering=0), random.Random(seed)
        self.data, self.holes = [], []
        end, offset = os.fstat(self.file.fileno()).st_size, 0
        while offset < end:
            try:
                start = os.lseek(self.file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # no more data
                start = end
            self.holes.append((offset, start))
            if start < end:
                offset = os.lseek(self.file.fileno(), start, os.SEEK_HOLE)
                self.data.append((start, offset))
            else:
                offset = end
        self.blocks = array.array("Q", (offset for start, stop in self.data for offset in range(start, stop - BLOCK + 1, BLOCK)))

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.file.fileno(), length, offset)

    def write(self, offset: int, content: bytes) -> None:
        os.pwrite(self.file.fileno(), content, offset)

    def edited(self, block: bytes) -> bytes:
        """The block with another number at its head and its end moved to the front: as compressible as it was, but new."""
        cut = self.random.randrange(64, BLOCK - 64)
        return self.random.randbytes(8) + block[cut:] + block[8:cut]

    def rewrite(self, first: int, count: int) -> None:
        """Edits `count` blocks from the one with that number on; where data ends in a hole, those behind it."""
        for offset in self.blocks[first:first + count]:
            self.write(offset, self.edited(self.read(offset, BLOCK)))

    def rewrite_runs(self, runs: int, total: int) -> None:
        """Edits blocks in runs of very different lengths, `total` bytes together."""
        weights = [self.random.lognormvariate(0, 1.2) for _ in range(runs)]
        for weight in weights:
            count = max(1, round(weight / sum(weights) * total / BLOCK))
            self.rewrite(self.random.randrange(len(self.blocks) - count), count)

    def rewrite_singles(self, count: int) -> None:
        for first in self.random.sample(range(len(self.blocks)), count):
            self.rewrite(first, 1)

    def randomize_singles(self, count: int) -> None:
        """Overwrites that many blocks with random bytes."""
        for number in self.random.sample(range(len(self.blocks)), count):
            self.write(self.blocks[number], self.random.randbytes(BLOCK))

    def rearranged(self, length: int) -> bytes:
        """What lies somewhere in the image, cut into parts of uneven length and put together in another order."""
        first = self.random.randrange(len(self.blocks) - length // BLOCK)
        content = b"".join(self.read(offset, BLOCK) for offset in self.blocks[first:first + length // BLOCK])
        cuts = sorted(self.random.sample(range(1, length), length // 800))
        parts = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, length])]
        self.random.shuffle(parts)
        return b"".join(parts)

    def log(self, length: int) -> bytes:
        lines = log_lines(length // 90, self.random.getrandbits(64), "2026-11")
        return "".join(lines).encode()[:length].ljust(length, b"\n")

    def add(self, total: int) -> None:
        """New files in holes, 2 to 4 MiB each: every fourth a log, the others like the files that are there."""
        slots = [offset for start, stop in self.holes for offset in range(start, stop - PIECE + 1, PIECE)]
        self.random.shuffle(slots)
        number = 0
        while total > 0 and slots:
            length = min(self.random.randrange(PIECE // 2, PIECE, BLOCK), total)
            self.write(slots.pop(), self.log(length) if number % 4 == 0 else self.rearranged(length))
            total -= length
            number += 1


class Volumes:
    """Makes each volume when it is first asked for, and finds it there the next time. `scale` makes all of them smaller."""

    def __init__(self, directory: Path, scale: float = 1):
        self.directory, self.scale = directory, scale
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        path = self.directory / f"{name}.img"
        if not path.exists():
            part = self.directory / f"{name}.part"
            part.unlink(missing_ok=True)
            getattr(self, f"make_{name}")(part)
            part.rename(path)
        return path

    def size(self, full: int) -> int:
        """Bytes at this scale, in whole MiB."""
        return max(1, round(full / MIB * self.scale)) * MIB

    def count(self, full: int) -> int:
        return max(1, round(full * self.scale))

    def copied(self, name: str, part: Path, seed: int) -> Image:
        """A copy of another volume, holes as they are, to be changed."""
        subprocess.run(["cp", "--reflink=auto", self.path(name), part], check=True)
        return Image(part, seed)

    def make_v1(self, part: Path) -> None:
        stage = self.directory / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "var/log").mkdir(parents=True)
        fill(stage, self.size(5 * GIB))
        with open(stage / "var/log/app.log", "w") as log:
            log.writelines(log_lines(self.count(1_500_000)))
        with open(part, "wb") as image:
            image.truncate(self.size(8 * GIB))
        subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-F", "-U", UUID, "-E", f"hash_seed={UUID}", "-d", stage, part], check=True)
        shutil.rmtree(stage)

    def make_v2(self, part: Path) -> None:
        image = self.copied("v1", part, 2)
        image.rewrite_runs(self.count(480), self.size(86 * MIB))
        image.rewrite_singles(self.count(300))
        image.add(self.size(124 * MIB))

    def make_rw1k(self, part: Path) -> None:
        self.copied("v1", part, 3).randomize_singles(self.count(1000))

    def make_rw20k(self, part: Path) -> None:
        self.copied("v1", part, 4).randomize_singles(self.count(20_000))

    def make_clone(self, part: Path) -> None:
        self.copied("v2", part, 5).add(self.size(500 * MIB))

    def make_rnd(self, part: Path) -> None:
        source = random.Random(6)
        with open(part, "wb") as image:
            for _ in range(self.size(2 * GIB) // MIB):
                image.write(source.randbytes(MIB))

    def make_zero(self, part: Path) -> None:
        with open(part, "wb") as image:
            image.truncate(self.size(4 * GIB))
