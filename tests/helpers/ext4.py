"""Real ext4 file systems inside the files of volumes, and changes to them that leave the file systems whole."""

import errno
import os
import random
import subprocess
import tempfile
from pathlib import Path

from helpers.disks import MIB, assert_clean_ext4, fill_tree

BLOCK = 4096
ENV = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


def make(path, seed=0):
    """A file system with a tree of files and one file of 8 MiB, written into an existing file, whose size stays."""
    path = Path(path)
    size = path.stat().st_size
    with tempfile.TemporaryDirectory(prefix="cofferd-tree-") as tree:
        fill_tree(tree, seed)
        (Path(tree) / "big").write_bytes(random.Random(f"big {seed}").randbytes(8 * MIB))
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-J", "size=4", "-d", tree, str(path)]
        subprocess.run(command, check=True, capture_output=True, env=ENV)
    assert path.stat().st_size == size, "mke2fs changed the size of the volume"
    assert_clean_ext4(path)


def change(path):
    """Changes bytes of the big file, writes zeros over more than 2 MiB of it, and punches as much out of it."""
    blocks = _blocks_of_big(path)
    with open(path, "r+b") as f:
        for block in (blocks[3], blocks[90], blocks[-1]):
            f.seek(block + 100)
            f.write(b"changed after the first backup")
        for block in blocks[100:700]:
            f.seek(block)
            f.write(bytes(BLOCK))
        assert f.seek(blocks[1000], os.SEEK_DATA) == blocks[1000], "the place to punch is a hole already"
    for start, end in _runs(blocks[1000:1600]):
        subprocess.run(["fallocate", "-p", "-o", str(start), "-l", str(end - start), str(path)], check=True)
    assert_clean_ext4(path)


def _blocks_of_big(path):
    """Byte offsets of the blocks of the big file inside the image, in the file's order."""
    done = subprocess.run(["debugfs", "-R", "blocks /big", str(path)], check=True, capture_output=True, text=True, env=ENV)
    blocks = [int(word) * BLOCK for word in done.stdout.split()]
    assert len(blocks) == 8 * MIB // BLOCK, done.stdout + done.stderr
    return blocks


def _runs(blocks):
    """The same as (start, end) of what is contiguous."""
    runs = []
    for block in blocks:
        if runs and runs[-1][1] == block:
            runs[-1] = (runs[-1][0], block + BLOCK)
        else:
            runs.append((block, block + BLOCK))
    return runs


def copy(path, to):
    """A copy to compare with later; holes stay holes."""
    subprocess.run(["cp", "--sparse=always", str(path), str(to)], check=True)
    return Path(to)


def assert_restored(path, saved):
    """The volume holds exactly what was saved, and its file system is whole."""
    assert path.stat().st_size == saved.stat().st_size
    with open(path, "rb", buffering=0) as a, open(saved, "rb", buffering=0) as b:
        for start, end in _extents(a) + _extents(b):
            a.seek(start)
            b.seek(start)
            for offset in range(start, end, MIB):
                length = min(MIB, end - offset)
                assert a.read(length) == b.read(length), f"{path} and {saved} differ between {offset} and {offset + length}"
    assert_clean_ext4(path)


def _extents(file):
    """Where a file has data, as (start, end). What is a hole in both of two files needs no reading, which takes seconds a GiB."""
    found, end = [], 0
    while True:
        try:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            return found
        end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        found.append((start, end))


def scribble(path):
    """Ruins a volume all over, so that a restore onto it has to write everything, zeros too."""
    rng = random.Random("scribble")
    with open(path, "r+b") as f:
        for offset in range(0, path.stat().st_size, 64 * MIB):
            f.seek(offset + MIB)
            f.write(rng.randbytes(MIB))
