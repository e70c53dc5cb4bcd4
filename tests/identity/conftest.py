"""Fixtures of the tests of Keystone."""

import pytest

from helpers.keystone import Keystone


@pytest.fixture
def key(daemon):
    return Keystone(daemon)


@pytest.fixture
def ada(lab):
    """A member of the test's own project."""
    return lab.user("manager")
