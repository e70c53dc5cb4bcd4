"""Disk images for the tests: raw ones with random data and holes, and real ext4 file systems with files in them."""

import os
import random
import subprocess
import tempfile
from pathlib import Path

MIB = 1 << 20


def make_raw(path, size=MIB, seed=0, density=0.5):
    """A sparse file of `size` bytes in which about `density` of the 64 KiB blocks hold random bytes."""
    rng = random.Random(f"{seed}/{size}")
    block = 64 * 1024
    with open(path, "wb") as f:
        f.truncate(size)
        for start in range(0, size, block):
            if start == 0 or rng.random() < density:
                f.seek(start)
                f.write(rng.randbytes(min(block, size - start)))
    return Path(path)


def fill_tree(directory, seed=0, files=20):
    """A small tree of files: text, random bytes, an empty one, a sparse one, a symbolic link."""
    rng = random.Random(f"tree {seed}")
    root = Path(directory)
    for n in range(files):
        parent = root / f"dir{n % 4}"
        parent.mkdir(exist_ok=True)
        (parent / f"file{n}.bin").write_bytes(rng.randbytes(rng.randrange(1, 60_000)))
    (root / "hello.txt").write_text(f"hello from seed {seed}\n" * 200)
    (root / "empty").touch()
    with open(root / "sparse", "wb") as f:
        f.truncate(300_000)
        f.seek(200_000)
        f.write(b"end of the hole")
    os.symlink("hello.txt", root / "link")


def make_image(path, size=8 * MIB, seed=0, files=20):
    """An image of `size` bytes with an ext4 file system that holds the files of `fill_tree`."""
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix="cofferd-tree-") as tree:
        fill_tree(tree, seed, files)
        with open(path, "wb") as f:
            f.truncate(size)
        subprocess.run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-L", f"seed{seed}"[:16], "-d", tree, str(path)],
            check=True, capture_output=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        )
    return path


def same_bytes(a, b):
    """Whether two files are equal in length and in every byte (cmp)."""
    return subprocess.run(["cmp", "--silent", str(a), str(b)]).returncode == 0


def assert_same_bytes(a, b):
    result = subprocess.run(["cmp", str(a), str(b)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def assert_clean_ext4(path):
    """`e2fsck -fn` finds nothing to repair."""
    result = subprocess.run(
        ["e2fsck", "-fn", str(path)], capture_output=True, text=True,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
    )
    assert result.returncode == 0, result.stdout + result.stderr


def allocated(path):
    """Bytes of the file that take room on the disk."""
    return os.stat(path).st_blocks * 512
