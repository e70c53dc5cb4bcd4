"""What must be true of one project, kept in memory: bytes of volumes, backups, schedules, quotas. It knows the rules, not the daemon."""

import os
import random
from dataclasses import dataclass, field

from helpers.disks import MIB

BLOCK = 64 << 10
HOUR, DAY = 3_600_000, 86_400_000  # times are milliseconds, as in the coffer


class Content:
    """The bytes of a volume: blocks of 64 KiB that are not all zeros, by their number. Never changed in place."""

    def __init__(self, size, blocks=None):
        self.size, self.blocks = size, blocks or {}

    @classmethod
    def read(cls, path):
        with open(path, "rb") as f:
            content, at = cls(os.fstat(f.fileno()).st_size), 0
            while at < content.size:
                try:
                    data = os.lseek(f.fileno(), at, os.SEEK_DATA)
                except OSError:  # only a hole is left
                    break
                start, at = data // BLOCK * BLOCK, -(-os.lseek(f.fileno(), data, os.SEEK_HOLE) // BLOCK) * BLOCK
                content._put(start, os.pread(f.fileno(), at - start, start))
            return content

    def _put(self, start, data):
        for at in range(0, len(data), BLOCK):
            self._set((start + at) // BLOCK, data[at:at + BLOCK].ljust(BLOCK, b"\0"))

    def _set(self, number, block):
        if block.strip(b"\0"):
            self.blocks[number] = block
        else:
            self.blocks.pop(number, None)

    def bytes(self, offset, length):
        first, last = offset // BLOCK, -(-(offset + length) // BLOCK)
        whole = b"".join(self.blocks.get(number, bytes(BLOCK)) for number in range(first, last))
        return whole[offset - first * BLOCK:][:length]

    def written(self, offset, data):
        """This content with `data` written at `offset`."""
        new = Content(self.size, dict(self.blocks))
        first, end = offset // BLOCK * BLOCK, -(-(offset + len(data)) // BLOCK) * BLOCK
        before, after = self.bytes(first, offset - first), self.bytes(offset + len(data), end - offset - len(data))
        new._put(first, before + data + after)
        return new

    def grown(self, size):
        return Content(size, self.blocks)

    def restored_over(self, old):
        """What a volume that held `old` holds when this has been written over it."""
        edge = self.size // BLOCK * BLOCK
        new = Content(old.size, {number: block for number, block in old.blocks.items() if number * BLOCK >= edge})
        new.blocks |= {number: block for number, block in self.blocks.items() if number * BLOCK < edge}
        return new.written(edge, self.bytes(edge, self.size - edge)) if edge < self.size else new

    def __eq__(self, other):
        return self.size == other.size and self.blocks == other.blocks

    def differs(self, other):
        """What is different, for people."""
        if self.size != other.size:
            return f"{self.size} bytes instead of {other.size}"
        wrong = sorted(n for n in self.blocks.keys() | other.blocks.keys() if self.blocks.get(n) != other.blocks.get(n))
        return f"{len(wrong)} blocks of 64 KiB differ, the first at {wrong[0] * BLOCK if wrong else None}"


def bytes_of(kind, seed, length):
    if kind == "noise":
        return random.Random(seed).randbytes(length)
    if kind == "text":
        line = b"%d the quick brown fox jumps over the lazy dog\n" % seed
        return (line * (length // len(line) + 1))[:length]
    return bytes(length)


@dataclass(eq=False)
class Volume:
    id: str
    path: str
    content: Content
    known: int  # its size when the daemon last looked
    managed: bool = False
    whole: bool = True  # False after a restore that was interrupted

    @property
    def status(self):
        return "available" if self.whole else "error_restoring"


@dataclass(eq=False)
class Part:
    """One volume in a backup."""
    id: str
    volume: Volume | None
    content: Content | None  # None: its bytes are not all stored
    size: int
    timestamp: int = 0
    row: int = 0
    parent: "Part | None" = None


@dataclass(eq=False)
class Backup:
    kind: str  # instance, volume, snapshot
    id: str
    parts: list[Part]
    created: int
    ready: bool = True
    schedule: "Schedule | None" = None
    instant: int | None = None
    kept_until: int | None = None
    row: int = 0

    @property
    def reserved(self):
        return sum(part.size for part in self.parts) if all(part.content for part in self.parts) else 0


@dataclass(eq=False)
class Schedule:
    """Hourly."""
    url: str
    id: str
    maximal: int
    days: int
    next: int
    active: bool = True

    def next_after(self, now):
        return (now // HOUR + 1) * HOUR


@dataclass
class Model:
    machine: list[Volume] = field(default_factory=list)  # the volumes of the one instance
    single: list[Volume] = field(default_factory=list)  # registered or made volumes of none
    backups: list[Backup] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)  # storage in bytes

    @property
    def volumes(self):
        return self.machine + self.single

    def of(self, *kinds):
        return [backup for backup in self.backups if backup.kind in kinds]

    @property
    def parts(self):
        return [part for backup in self.backups for part in backup.parts]

    def restorable(self, *kinds):
        return [(backup, part) for backup in self.of(*kinds or ("instance", "volume", "snapshot")) if backup.ready for part in backup.parts]

    # ---------------------------------------------------------------- quotas

    def usage(self):
        volumes = sum(volume.known for volume in self.volumes)
        snapshots = len(self.of("snapshot"))
        return {
            "storage": volumes + sum(backup.reserved for backup in self.backups),
            "volumes": len(self.volumes),
            "snapshots": snapshots,
            "gigabytes": sum(gib(volume.known) for volume in self.volumes) + snapshots,
            "backups": len(self.parts) - snapshots,
        }

    def fits(self, **additions):
        usage = self.usage()
        return all(name not in self.limits or usage[name] + more <= self.limits[name] for name, more in additions.items())

    # ---------------------------------------------------------------- backups

    def parent(self, volume, before=None):
        """What an incremental backup of the volume depends on."""
        parts = [part for backup, part in self.restorable("instance", "volume") if part.volume is volume]
        parts = [part for part in parts if before is None or part.timestamp < before]
        return max(parts, key=lambda part: (part.timestamp, part.row), default=None)

    def has_children(self, backup):
        return any(part.parent in backup.parts for part in self.parts if part.parent)

    def remove(self, backup):
        self.backups.remove(backup)
        for part in self.parts:
            if part.parent in backup.parts:
                part.parent = None

    def remove_volume(self, volume):
        self.single.remove(volume)
        for part in self.parts:
            if part.volume is volume:
                part.volume = None

    def prune(self, new):
        """What a schedule's new backup drives out."""
        mine = [backup for backup in self.backups if backup.schedule is new.schedule and backup.ready]
        mine.sort(key=lambda backup: (min(backup.created, new.created), backup.row))
        excess = max(len(mine) - new.schedule.maximal, 0)
        return mine[:-1][:excess]

    def expired(self, now):
        return [backup for backup in self.backups if backup.kept_until is not None and backup.kept_until < now]


def gib(size):
    return -(-size // (1024 * MIB))
