"""`cofferd openrc` prints what makes the clients work in a shell that sources it."""

import subprocess

import pytest

from helpers.cloud import PASSWORD


def sourced(account, arguments, command, input="", **env):
    """What a shell prints that sources the output of `cofferd openrc` and then runs the command."""
    d = account.cloud.d
    script = f'set -e; rc=$("{d.binary}" --config "{d.config_file}" openrc {arguments}); eval "$rc"; {command}'
    done = subprocess.run(
        ["bash", "-c", script], input=input, capture_output=True, text=True, timeout=60, cwd=d.base, env=account.cloud.environment(env),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ada(cloud):
    account = cloud.user("ada", cloud.project("shop"), "member")
    volume = account.call("POST", "/volumes", {"volume": {"size": 1}}, code=202).json()["volume"]
    account.wait("volume", volume["id"])
    backup = {"volume_id": volume["id"], "name": "first of ada"}
    account.wait("backup", account.call("POST", "/backups", {"backup": backup}, code=202).json()["backup"]["id"])
    return account


def test_with_a_password(ada):
    """A password in the environment is taken; the clients find the same project."""
    shown = sourced(ada, "ada --project shop", "openstack volume backup list; cinder backup-list", OS_PASSWORD=PASSWORD)
    assert shown.count("first of ada") == 2, shown


def test_with_a_password_on_standard_input(ada):
    """Without one it is asked for, once."""
    shown = sourced(ada, "ada", "cinder backup-list", input=PASSWORD + "\n")
    assert "first of ada" in shown


def test_with_a_credential(ada):
    """An application credential needs no password, then or later. `cinder` wants to be told the project as well."""
    shown = sourced(ada, "ada --project shop --credential", """
        test -z "$OS_PASSWORD"
        test "$OS_AUTH_TYPE" = v3applicationcredential
        openstack volume backup list
        cinder --os-project-name shop --os-project-domain-name Default backup-list
    """)
    assert shown.count("first of ada") == 2, shown
