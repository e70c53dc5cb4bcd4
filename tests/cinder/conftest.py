"""Fixtures of the Cinder tests."""

import pytest

from helpers.cinder import CinderLab
from helpers.cinder_volumes import Cloud


@pytest.fixture(scope="module")
def shared(daemon):
    """Shortcuts on the daemon of the file, with one project for all its tests."""
    return CinderLab(daemon)


@pytest.fixture(scope="module")
def cloud(daemon):
    """The same for tests of volumes and snapshots."""
    return Cloud(daemon)


@pytest.fixture
def lab(daemon):
    """Shortcuts on the daemon of the file, with a project of the test's own."""
    return CinderLab(daemon)


@pytest.fixture
def own(start_daemon):
    """Shortcuts on a daemon of the test's own."""
    return CinderLab(start_daemon())


@pytest.fixture
def braked(start_daemon):
    """Starts a daemon on which reading or writing (`slow_reads`, `slow_writes`) the disk of this name takes long."""
    def start(wrapper, name, delay="300ms", config=""):
        daemon = start_daemon(config, start=False)
        daemon.wrapper = wrapper(daemon.root / name, delay)
        daemon.start()
        return CinderLab(daemon)
    return start
