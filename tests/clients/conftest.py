"""Fixtures of the tests with the stock clients."""

import uuid

import pytest

from helpers.cloud import Cloud


@pytest.fixture(scope="module")
def cloud(daemon):
    return Cloud(daemon)


@pytest.fixture
def project(cloud):
    """The name of a project of the test's own."""
    return cloud.project(f"project-{uuid.uuid4().hex[:6]}")
