"""What a disk may hold after a power cut.

The record of a shim says what a program changed, in which order. A file's own sync makes its bytes last, and the sync of a directory the names
in it; nothing else is sure. What came later may be there, or not, or in another order, or in pieces.
"""

import os
import shutil
from pathlib import Path

from faults.shim import MKDIR, RENAME, SYNC, TRUNCATE, UNLINK, WRITE

SECTORS = (512, 4096)
# What of the changes that no sync has covered reaches the disk.
WAYS = ("none", "all", "the first", "the last", "only the last one", "some", "some, in pieces")


class Inode:
    def __init__(self, content=b""):
        self.synced = bytearray(content)
        self.pending = []  # (number, entry)


class Disk:
    """The files below `base` as the record leads from one state to the next. What is there at the beginning is on the disk for good."""

    def __init__(self, base, beginning=()):
        self.base, self.beginning = Path(base), list(beginning)
        self.number = 0
        self.names, self.kept_names = {}, {}  # path -> Inode: as the program sees it, and on the disk
        self.directories = {str(self.base)}
        self.changed_names = []  # (number, directory, how): what happened to names since their directory was synced
        self.seen = set()
        for path in map(Path, beginning):
            self.directories |= {str(parent) for parent in path.parents}
            if path.is_dir():
                self.directories.add(str(path))
            else:
                self.names[str(path)] = self.kept_names[str(path)] = Inode(path.read_bytes())
                self.seen.add(str(path))
        self.kept_directories = set(self.directories)

    # ---------------------------------------------------------------- what the program does

    def apply(self, entry):
        self.number += 1
        if entry.op == SYNC and entry.path in self.directories:
            self._sync_directory(entry.path)
        elif entry.op == UNLINK:
            if self.names.pop(entry.path, None):
                self._name(entry.path, lambda names: names.pop(entry.path, None))
        elif entry.op == MKDIR:
            self.directories.add(entry.path)
            self._name(entry.path, lambda names: names.update({entry.path: None}))
        elif entry.op == RENAME:
            self._rename(entry.path, entry.data.decode())
        elif entry.op != SYNC or entry.path in self.names:
            inode = self.names.get(entry.path) or self._create(entry.path)
            if entry.op == SYNC:
                for _, pending in inode.pending:
                    change(inode.synced, pending)
                inode.pending = []
            else:
                inode.pending.append((self.number, entry))

    def _create(self, path):
        """The record does not say when a file was made, only when it was first used."""
        self.seen.add(path)
        inode = self.names[path] = Inode()
        self._name(path, lambda names: names.update({path: inode}))
        return inode

    def _rename(self, old, new):
        inode = self.names.pop(old, None)
        if inode:  # not a socket
            self.seen.add(new)
            self.names[new] = inode

            def move(names):
                names.pop(old, None)
                names[new] = inode

            self._name(new, move)

    def _name(self, path, how):
        self.changed_names.append((self.number, os.path.dirname(path), how))

    def _sync_directory(self, path):
        rest = []
        for number, directory, how in self.changed_names:
            if directory == path:
                how(self.kept_names)
            else:
                rest.append((number, directory, how))
        self.changed_names = rest

    # ---------------------------------------------------------------- what a power cut leaves

    def image(self, rng, way):
        """Path -> content, as the next start finds it."""
        numbers = sorted([number for number, _, _ in self.changed_names]
                         + [number for inode in {id(i): i for i in self.names.values()}.values() for number, _ in inode.pending])
        middle = rng.choice(numbers) if numbers else 0
        survives = {
            "none": lambda number: False, "all": lambda number: True, "the first": lambda number: number <= middle,
            "the last": lambda number: number >= middle, "only the last one": lambda number: number == numbers[-1],
            "some": lambda number: rng.random() < 0.5, "some, in pieces": lambda number: rng.random() < 0.8,
        }[way]
        # Names of one directory change in their order.
        names, ended = dict(self.kept_names), set()
        for number, directory, how in self.changed_names:
            if directory not in ended and (survives(number) or way in ("the last", "only the last one")):
                how(names)
            else:
                ended.add(directory)
        directories = self.kept_directories | {path for path, inode in names.items() if inode is None}
        found = {}
        for path, inode in names.items():
            if inode is not None and all(str(p) in directories for p in Path(path).parents if self.base in p.parents):
                content = bytearray(inode.synced)
                for number, entry in inode.pending:
                    if survives(number):
                        change(content, entry, rng if way.endswith("pieces") else None)
                found[path] = bytes(content)
        return found

    def put(self, image, state_dir):
        """Makes the files be the image's: all of the state directory, and of what else has ever been recorded."""
        shutil.rmtree(state_dir)
        os.mkdir(state_dir)
        for path in self.seen - image.keys():
            Path(path).unlink(missing_ok=True)
        for path, content in image.items():
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            Path(path).write_bytes(content)
            os.chmod(path, 0o600)


def change(content, entry, rng=None):
    """Applies a write or a truncation; with `rng` only some sectors of it."""
    if entry.op == TRUNCATE:
        length = entry.offset
        content[length:] = bytes(max(0, length - len(content)))
        return
    assert entry.op == WRITE, entry
    end = entry.offset + len(entry.data)
    if rng is None:
        content.extend(bytes(max(0, end - len(content))))
        content[entry.offset:end] = entry.data
        return
    sector = rng.choice(SECTORS)
    for at in range(entry.offset // sector * sector, end, sector):
        if rng.random() < 0.5:
            start, stop = max(at, entry.offset), min(at + sector, end)
            content.extend(bytes(max(0, stop - len(content))))
            content[start:stop] = entry.data[start - entry.offset:stop - entry.offset]
