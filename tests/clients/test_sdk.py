"""A tour with openstacksdk: see sdk_tour.py, which runs in the clients' own venv."""

from pathlib import Path

import pytest

from helpers.cloud import PASSWORD, REGION

HERE = Path(__file__).resolve().parent

CLOUD = """
  {name}:
    auth: {{auth_url: "{url}", username: {user}, password: {password}, project_name: {project},
            user_domain_name: Default, project_domain_name: Default}}
    region_name: {region}
"""


@pytest.mark.parametrize("part", ["data", "words"])
def test_sdk(cloud, tmp_path, part):
    project = cloud.project(f"sdk-{part}")
    accounts = {"member": cloud.user(f"member-{part}", project, "member"), "admin": cloud.user(f"admin-{part}", project, staff=True)}
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text("clouds:" + "".join(
        CLOUD.format(name=name, url=cloud.identity, user=a.username, password=PASSWORD, project=project, region=REGION)
        for name, a in accounts.items()
    ))
    (tmp_path / part).mkdir()
    environment = {"OS_CLIENT_CONFIG_FILE": str(clouds), "PYTHONPATH": str(HERE.parent)}
    cloud.run("python", HERE / "sdk_tour.py", cloud.d.binary, cloud.d.config_file, tmp_path / part, env=environment)
