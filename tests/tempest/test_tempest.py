"""Tempest, the test suite of OpenStack itself, against the daemon.

What is to pass is said the other way round: every test that a run selects must pass, unless `expected.toml` names it with the
reason why it cannot. So neither a failure nor a pass goes by that nobody expected. The accounts, the options and the traps are
those of Tempest 47: three accounts at once, no Nova, no Glance, and `neutron = True` although there is none, because
whole classes are skipped without it and not one request goes there.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from helpers.cloud import PASSWORD, REGION, Cloud, openstack_venv

HERE = Path(__file__).resolve().parent

BACKUPS = (
    r"(^tempest\.api\.volume\..*[Bb]ackup|test_snapshot_backup|^cinder_tempest_plugin\.api\.volume\..*[Bb]ackup"
    r"|test_create_backups_and_restores)"
)
# It fails where its siblings are skipped for want of Nova and Glance.
NOT_BACKUPS = r"test_volume_backup\.VolumesBackupsTest\.test_incremental_backup\["
RBAC = r"^cinder_tempest_plugin\.rbac\.v3\.test_backups"
QUOTAS = r"^tempest\.api\.volume\.admin\.test_volume_quota"
VOLUME = r"^tempest\.api\.volume\."

THE_13 = {
    "tempest.api.volume.admin.test_volumes_backup.VolumesBackupsAdminTest.test_volume_backup_export_import",
    "tempest.api.volume.admin.test_volumes_backup.VolumesBackupsAdminTest.test_volume_backup_reset_status",
    "tempest.api.volume.test_volumes_backup.VolumesBackupsTest.test_volume_backup_create_get_detailed_list_restore_delete",
    "tempest.api.volume.test_volumes_backup.VolumesBackupsV39Test.test_update_backup",
    "tempest.api.volume.test_volumes_snapshots.VolumesSnapshotTestJSON.test_snapshot_backup",
    "cinder_tempest_plugin.api.volume.admin.test_volume_backup.VolumesBackupsTest.test_backup_crossproject_admin_negative",
    "cinder_tempest_plugin.api.volume.admin.test_volume_backup.VolumesBackupsTest.test_backup_crossproject_user_negative",
    "cinder_tempest_plugin.api.volume.admin.test_volume_backup.VolumesBackupsTest.test_incremental_backup_respective_parents",
    "cinder_tempest_plugin.api.volume.test_multiple_volume_from_resource.CreateVolumesFromBackupTest"
    ".test_create_multiple_volume_from_backup",
    "cinder_tempest_plugin.api.volume.test_volume_backup.VolumesBackupsTest.test_backup_create_and_restore_to_an_existing_volume",
    "cinder_tempest_plugin.api.volume.test_volume_backup.VolumesBackupsTest.test_incr_backup_create_and_restore_to_an_existing_volume",
    "cinder_tempest_plugin.api.volume.test_volume_backup.VolumesBackupsTest.test_volume_snapshot_backup",
    "cinder_tempest_plugin.scenario.test_volume_concurrency.ConcurrentVolumeActionsTest.test_create_backups_and_restores",
}

# A poll a second would be most of the time; at 0 Tempest asks again at once. It takes a 0 for unset and then looks at compute's.
CONFIGURATION = """
[DEFAULT]
log_file = tempest.log
[oslo_concurrency]
lock_path = {directory}/lock
[auth]
use_dynamic_credentials = False
test_accounts_file = {directory}/accounts.yaml
default_credentials_domain_name = Default
[identity]
auth_version = v3
uri_v3 = {identity}
region = {region}
[identity-feature-enabled]
api_v2 = False
api_v3 = True
[service_available]
cinder = True
nova = False
glance = {glance}
swift = False
horizon = False
neutron = True
[compute]
build_interval = 0
[volume]
catalog_type = block-storage
build_interval = 0
build_timeout = 60
backup_driver = posix
min_microversion = {minimum}
max_microversion = latest
[volume-feature-enabled]
backup = True
snapshot = True
clone = True
concurrency_tests = True
api_extensions = backups
[enforce_scope]
cinder = True
"""


def not_passing(minimum):
    """The table of what cannot pass when Tempest asks for at least this microversion: test or class -> reason."""
    table = tomllib.loads((HERE / "expected.toml").read_text())
    return {name: group["why"] for group in table["group"] if group.get("at", minimum) == minimum for name in group["tests"]}


class Workspace:
    """A directory for Tempest, with a file of accounts that exist."""

    def __init__(self, daemon, minimum="3.0", admin_in="admin", glance=False):
        """`admin_in`: some tests want the admin in the project of the member, others in another. `glance`: say that there is one."""
        self.cloud = Cloud(daemon)
        self.minimum = minimum
        self.dir = daemon.base / "tempest"
        self.dir.mkdir()
        self.bin = openstack_venv() / "bin"
        for project in ("demo", "alt", "admin"):
            self.cloud.project(project)
        accounts = [
            (self.cloud.user("demo", "demo", "member"), "roles: [member]"),
            (self.cloud.user("alt", "alt", "member"), ""),
            (self.cloud.user("reader", "demo", "reader"), "roles: [reader]"),
            (self.cloud.user("root", admin_in, staff=True), "types: [admin]" if admin_in == "admin" else "roles: [admin]"),
        ]
        (self.dir / "accounts.yaml").write_text("".join(
            f"- {{username: {a.username}, project_name: {a.project}, user_domain_name: Default, project_domain_name: Default,"
            f" password: {PASSWORD}{', ' + more if more else ''}}}\n"
            for a, more in accounts
        ))
        (self.dir / "tempest.conf").write_text(CONFIGURATION.format(
            directory=self.dir, identity=self.cloud.identity, region=REGION, minimum=minimum, glance=glance,
        ))
        self.start("stestr", "init").check_returncode()

    def start(self, program, *arguments, text=True, **kw):
        environment = self.cloud.environment({"PYTHON": str(self.bin / "python")})
        return subprocess.run(
            [self.bin / program, *arguments], capture_output=True, text=text, cwd=self.dir, env=environment, timeout=1500, **kw
        )

    def run(self, regex, exclude=None):
        """Runs what the expression selects, in one worker, for there is one set of accounts."""
        selection = ["--regex", regex] + (["--exclude-regex", exclude] if exclude else [])
        listed = self.start("tempest", "run", "--config-file", "tempest.conf", "--list-tests", *selection)
        assert listed.returncode == 0, listed.stdout + listed.stderr
        done = self.start("tempest", "run", "--config-file", "tempest.conf", "--serial", *selection)
        stream = self.start("stestr", "last", "--subunit", text=False)
        assert stream.stdout, done.stdout + done.stderr
        outcomes = self.start("python", HERE / "outcomes.py", input=stream.stdout, text=False)
        assert outcomes.returncode == 0, outcomes.stderr.decode()
        return Run(listed.stdout.split(), outcomes.stdout.decode(), not_passing(self.minimum))


class Run:
    """What a run selected, and what became of it. Names are without the attributes in brackets."""

    def __init__(self, listed, outcomes, known):
        self.known = known
        self.listed = {name.partition("[")[0] for name in listed}
        self.passed, self.skipped, self.failed = set(), {}, {}
        for outcome in map(json.loads, outcomes.splitlines()):
            name = outcome["id"].partition("[")[0]
            # A class that cannot be set up reports itself instead of its tests.
            of_class = re.fullmatch(r"(?:setUpClass|tearDownClass) \((\S+)\)", name)
            name = of_class[1] if of_class else name
            if outcome["status"] == "success":
                self.passed.add(name)
            else:
                {"skip": self.skipped}.get(outcome["status"], self.failed)[name] = outcome["why"].strip()

    def cause(self, test):
        """Why a test did not pass."""
        for name in (test, test.rpartition(".")[0]):
            for kind, found in (("failed", self.failed), ("skipped", self.skipped)):
                if name in found:
                    return f"{kind}: {found[name]}"
        return "it was not run"

    def check(self):
        """Every selected test passed, except those of the table, and these did not."""
        known = self.known
        wrong = []
        for test in sorted(self.listed):
            why = known.get(test) or known.get(test.rpartition(".")[0])
            if test in self.passed and why:
                wrong.append(f"{test} passed, but expected.toml says: {why}")
            elif test not in self.passed and not why:
                wrong.append(f"{test}\n{self.cause(test)}")
            elif why:
                print(f"not passing: {test}: {why}")
        print(f"{len(self.passed)} passed, {len(self.listed - self.passed)} did not, as expected")
        # A class can also fail after its tests have passed.
        classes = {test.rpartition(".")[0] for test in self.listed}
        wrong += [f"{name}\n{why}" for name, why in self.failed.items() if name in classes and name not in known]
        assert not wrong, "\n\n".join(wrong)


@pytest.mark.timeout(600)
def test_backups(start_daemon):
    run = Workspace(start_daemon()).run(BACKUPS, NOT_BACKUPS)
    run.check()
    assert run.passed == THE_13
    assert not run.failed
    assert len(run.skipped) == 3


@pytest.mark.timeout(600)
def test_backups_at_the_newest_microversion(start_daemon):
    run = Workspace(start_daemon(), minimum="3.71").run(BACKUPS, NOT_BACKUPS)
    run.check()
    assert run.passed == THE_13


@pytest.mark.timeout(600)
def test_roles(start_daemon):
    run = Workspace(start_daemon(), admin_in="demo").run(RBAC)
    run.check()
    assert len(run.passed) == 26


@pytest.mark.timeout(600)
def test_all_of_the_volume_service(start_daemon):
    """With Glance said to be there, whole classes run that otherwise fall over before their first request, and few want it."""
    run = Workspace(start_daemon(), glance=True).run(VOLUME)
    run.check()
    assert len([test for test in run.passed if re.match(QUOTAS, test)]) >= 8
    classes = {test.rpartition(".")[0] for test in run.listed}
    stale = [name for name in run.known if re.match(VOLUME, name) and name not in run.listed | classes]
    assert not stale, f"expected.toml names what there is not: {stale}"
