"""Block devices as volumes and as targets, on loop devices; needs root."""

import os
import subprocess

import pytest

from helpers.disks import MIB, assert_same_bytes, make_raw
from helpers.lab import Lab


@pytest.fixture
def loop(tmp_path):
    """Makes loop devices of 16 MiB with random data and holes."""
    made = []

    def make(name):
        image = make_raw(tmp_path / name, 16 * MIB, seed=name)
        result = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"no loop devices here: {result.stderr.strip()}")
        made.append(result.stdout.strip())
        return made[-1], image

    if os.geteuid() != 0:
        pytest.skip("needs root")
    yield make
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def lab(start_daemon):
    return Lab(start_daemon('[volumes]\nroots = ["/dev", "{root}"]'))


def restore(lab, backup, device):
    command = [lab.d.binary, "--config", str(lab.d.config_file), "restore", backup["uuid"], "--to", device, "--overwrite"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def contents(device):
    with open(device, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def test_a_device_is_backed_up_and_restored_in_place(lab, loop, tmp_path):
    device, image = loop("disk")
    before = contents(device)
    assert before == image.read_bytes()
    instance = lab.instance([device])
    backup = lab.backup(instance)
    with open(device, "r+b") as file:
        file.write(b"\xee" * len(before))
        os.fsync(file.fileno())
    assert contents(device) != before
    result = restore(lab, backup, device)
    assert result.returncode == 0, result.stderr
    assert contents(device) == before
    new = lab.restore(backup)
    (tmp_path / "before").write_bytes(before)
    assert_same_bytes(lab.volume_files(new)[0], tmp_path / "before")


def test_a_device_that_is_in_use_is_not_overwritten(lab, loop):
    device, _ = loop("disk")
    backup = lab.backup(lab.instance([device]))
    claim = os.open(device, os.O_RDONLY | os.O_EXCL)  # as a mount claims it
    try:
        result = restore(lab, backup, device)
    finally:
        os.close(claim)
    assert result.returncode == 1 and "in use" in result.stderr, result.stderr


def test_a_stable_name_of_a_device_is_kept(lab, loop):
    device, image = loop("disk")
    name = f"/dev/cofferd-test-{os.getpid()}"
    os.symlink(device, name)
    try:
        instance = lab.instance([name])
        assert [str(path) for path in lab.volume_files(instance)] == [name]
        lab.backup(instance)
    finally:
        os.unlink(name)


def test_a_link_out_of_dev_is_no_device(lab, loop):
    name = f"/dev/cofferd-test-{os.getpid()}"
    target = lab.disk()
    os.symlink(target, name)
    try:
        instance = lab.instance([name])
        assert lab.volume_files(instance) == [target], "a file is registered by its own path"
    finally:
        os.unlink(name)
