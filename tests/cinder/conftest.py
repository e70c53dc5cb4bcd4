"""Fixtures of the Cinder tests."""

import pytest

from helpers.cinder import CinderLab


@pytest.fixture(scope="module")
def shared(daemon):
    """Shortcuts on the daemon of the file, with one project for all its tests."""
    return CinderLab(daemon)


@pytest.fixture
def lab(daemon):
    """Shortcuts on the daemon of the file, with a project of the test's own."""
    return CinderLab(daemon)


@pytest.fixture
def own(start_daemon):
    """Shortcuts on a daemon of the test's own."""
    return CinderLab(start_daemon())
