"""Who may do what, as the contracts have it: one rule for each operation that the daemon describes, and what follows from it for each caller.

Nothing here looks at the daemon. A rule says what the operation needs; a `Caller` says what somebody has where; `expected` is the law that
joins the two, which is another one in each dialect: the order of the checks, and what somebody is told who may not.
"""

from dataclasses import dataclass, field

NONE, READ, WRITE, ADMIN = range(4)
# Places: the caller's project, another one, and nowhere.
OWN, OTHER, NOWHERE = "own", "other", "nowhere"


@dataclass
class Caller:
    headers: dict
    # What the user may in each project; ADMIN is for staff, who may everything everywhere.
    roles: dict = field(default_factory=dict)
    owner: bool = False
    # Whether anybody is behind the headers, in the face of Waldur and in those of OpenStack.
    waldur: bool = False
    openstack: bool = False
    # Of a scoped token: its project. Of one that comes from an application credential: the most that it gives.
    scope: str = None
    ceiling: int = ADMIN
    credential: bool = False
    # Whose the headers are: "member", "reader", ...
    user: str = None

    @property
    def staff(self):
        return self.roles.get(NOWHERE) == ADMIN

    def role(self, place):
        return min(self.roles.get(place, NONE), self.ceiling)


# ---------------------------------------------------------------- the rules

# kind: what must be had; thing: the kind of object that the path is about (see World); order: the body, from the world and the place;
# spare: the object is made for the request, because it would go with it.
@dataclass
class Rule:
    kind: str
    thing: str = None
    order: object = None
    spare: bool = False
    headers: object = None


def instance_of(world, place):
    return world.url(place, "instance")


def schedule(world, place):
    return {"instance": instance_of(world, place), "retention_time": 0, "maximal_number_of_backups": 1, "schedule": "0 0 29 2 *"}


def body(**fields):
    return lambda world, place: fields


W = "/api/openstack-"
WALDUR = {
    "GET /healthz": Rule("open"),
    "GET /api/version/": Rule("open"),
    "GET /api/openapi.json": Rule("open"),
    "POST /api-auth/password/": Rule("open", order=body(username="x")),
    "GET /api/": Rule("any"),
    # Backups and schedules belong to their instance's project. Writes are refused by the state, if by nothing else.
    f"GET {W}backups/": Rule("any"),
    f"POST {W}backups/": Rule("into", order=lambda w, p: {"instance": instance_of(w, p)}),
    f"GET {W}backups/{{uuid}}/": Rule("see", "backup"),
    f"PATCH {W}backups/{{uuid}}/": Rule("write", "backup", body(description="changed")),
    f"DELETE {W}backups/{{uuid}}/": Rule("write", "backup"),
    f"POST {W}backups/{{uuid}}/restore/": Rule("write", "backup", lambda w, p: {"image": w.url(OWN, "image"), "flavor": w.url(OWN, "flavor")}),
    f"POST {W}backups/{{uuid}}/delete/": Rule("write", "backup"),
    f"GET {W}backup-schedules/": Rule("any"),
    f"POST {W}backup-schedules/": Rule("into", order=schedule),
    f"POST {W}backup-schedules/preview/": Rule("any", order=body(schedule="0 0 29 2 *")),
    f"GET {W}backup-schedules/{{uuid}}/": Rule("see", "schedule"),
    f"PUT {W}backup-schedules/{{uuid}}/": Rule("write", "schedule", body(schedule="x")),
    f"PATCH {W}backup-schedules/{{uuid}}/": Rule("write", "schedule", body(schedule="x")),
    f"DELETE {W}backup-schedules/{{uuid}}/": Rule("write", "schedule", spare=True),
    f"POST {W}backup-schedules/{{uuid}}/activate/": Rule("write", "schedule", spare=True),
    f"POST {W}backup-schedules/{{uuid}}/deactivate/": Rule("write", "schedule"),
    f"GET {W}backup-schedules/{{uuid}}/next-runs/": Rule("see", "schedule"),
    # Registering names a path of the host.
    f"GET {W}instances/": Rule("any"),
    f"POST {W}instances/": Rule("staff", order=body(name="")),
    f"GET {W}instances/{{uuid}}/": Rule("see", "instance"),
    f"PUT {W}instances/{{uuid}}/": Rule("write", "instance", body(name="changed")),
    f"PATCH {W}instances/{{uuid}}/": Rule("write", "instance", body(name="changed")),
    f"DELETE {W}instances/{{uuid}}/": Rule("write", "instance"),
    **{f"POST {W}instances/{{uuid}}/{action}/": Rule("write", "instance") for action in ("start", "stop", "restart", "unlink")},
    # Profiles are everybody's to see.
    **{
        f"{method} {W}{kind}s/{path}": rule for kind in ("image", "flavor") for method, path, rule in [
            ("GET", "", Rule("any")), ("POST", "", Rule("staff", order=body(name=""))), ("GET", "{uuid}/", Rule("see", kind)),
            ("PATCH", "{uuid}/", Rule("staff on", kind, body(name=""))), ("DELETE", "{uuid}/", Rule("staff on", kind, spare=True)),
        ]
    },
    "GET /api/projects/": Rule("any"),
    "POST /api/projects/": Rule("owner", order=body(name="")),
    "GET /api/projects/{uuid}/": Rule("see", "project"),
    "PUT /api/projects/{uuid}/": Rule("owner on", "project", body(name="")),
    "PATCH /api/projects/{uuid}/": Rule("owner on", "project", body(name="")),
    "DELETE /api/projects/{uuid}/": Rule("owner on", "project"),
    "GET /api/customers/": Rule("any"),
    "GET /api/customers/{uuid}/": Rule("see", "customer"),
    "GET /api/quotas/": Rule("any"),
    "GET /api/quotas/{uuid}/": Rule("see", "quota"),
    "PUT /api/quotas/{uuid}/": Rule("staff on", "quota", body(limit=-5)),
    "PATCH /api/quotas/{uuid}/": Rule("staff on", "quota", body(limit=-5)),
    # Everybody sees the users that are neither staff nor inactive, and changes himself.
    "GET /api/users/": Rule("any"),
    "POST /api/users/": Rule("staff", order=body(username="")),
    "GET /api/users/{uuid}/": Rule("see", "user"),
    "PUT /api/users/{uuid}/": Rule("staff on", "user", body(username="x" * 999)),
    "PATCH /api/users/{uuid}/": Rule("staff on", "user", body(username="x" * 999)),
    "DELETE /api/users/{uuid}/": Rule("staff on", "user", spare=True),
    "POST /api/users/{uuid}/password/": Rule("staff on", "user", body(password="short")),
    "GET /api/project-permissions/": Rule("any"),
    "POST /api/project-permissions/": Rule("owner", order=body(role="king")),
    "GET /api/project-permissions/{uuid}/": Rule("see", "permission"),
    "DELETE /api/project-permissions/{uuid}/": Rule("owner on", "permission", spare=True),
    "GET /api/customer-permissions/": Rule("any"),
    "POST /api/customer-permissions/": Rule("owner", order=body(role="king")),
    "GET /api/customer-permissions/{uuid}/": Rule("owner sees", "ownership"),
    "DELETE /api/customer-permissions/{uuid}/": Rule("owner sees, staff", "ownership", spare=True),
    # Others than staff must say whose.
    "GET /api/events/": Rule("staff, else 400"),
    "GET /api/events/count/": Rule("staff, else 400"),
    # Of what is asked for the role comes first, for nothing there is for anybody else.
    **{f"GET /ops/{name}/": Rule("staff") for name in ("status", "stats", "space", "inspect", "tokens", "volume-backups", "volumes")},
    **{f"POST /ops/{name}/": Rule("staff", order=order) for name, order in [
        ("space", body(backups=[])), ("tokens", body(user="")), ("volumes", body(path="x")), ("restores", body(path="x")), ("check", body(backup="")),
        ("scrub", body(bytes_per_second=0)), ("gc", body(dead_fraction=7)), ("snapshot", body(path="x")),
    ]},
    **{f"GET /ops/{name}/": Rule("staff") for name in ("repositories", "copies")},
    "POST /ops/replicate/": Rule("staff", order=body(to="nowhere")),
    "GET /ops/repositories/{name}/": Rule("staff", "repository"),
    **{f"POST /ops/repositories/{{name}}/{what}/": Rule("staff", "repository") for what in ("test", "attach")},
    "GET /ops/space/{uuid}/": Rule("staff", "backup"),
    "DELETE /ops/tokens/{id}/": Rule("staff", "token", spare=True),
    "GET /ops/users/{uuid}/openstack/": Rule("staff", "user"),
    "POST /ops/users/{uuid}/credentials/": Rule("staff", "user", body(project="x")),
    "GET /ops/volume-backups/{uuid}/": Rule("staff", "parent"),
    "DELETE /ops/volume-backups/{uuid}/": Rule("staff", "parent"),
    "GET /ops/volumes/{uuid}/": Rule("staff", "volume"),
    "DELETE /ops/volumes/{uuid}/": Rule("staff", "volume"),
    "GET /ops/tasks/{id}/": Rule("staff", "task"),
}

V = "/v3/{project_id}/"
CINDER = {
    "GET /": Rule("open"),
    "GET /v3/": Rule("open"),
    "GET /healthcheck": Rule("open"),
    **{f"GET {V}{kind}{rest}": Rule("reader") for kind in ("volumes", "snapshots", "backups") for rest in ("", "/detail")},
    f"GET {V}volumes/summary": Rule("reader"),
    f"POST {V}volumes": Rule("member into", "volume", lambda w, p: {"volume": {"source_volid": w.id(p, "volume")}}),
    f"POST {V}snapshots": Rule("member into", "volume", lambda w, p: {"snapshot": {"volume_id": w.id(p, "volume")}}),
    f"POST {V}backups": Rule("member into", "volume", lambda w, p: {"backup": {"volume_id": w.id(p, "volume")}}),
    **{f"GET {V}{kind}s/{{id}}": Rule("reader on", thing) for kind, thing in (("volume", "volume"), ("snapshot", "snapshot"), ("backup", "parent"))},
    **{f"PUT {V}{kind}s/{{id}}": Rule("member on", thing, body(**{kind: {"description": "changed"}}))
       for kind, thing in (("volume", "volume"), ("snapshot", "snapshot"), ("backup", "parent"))},
    f"DELETE {V}volumes/{{id}}": Rule("member on", "volume"),
    f"DELETE {V}snapshots/{{id}}": Rule("member on", "snapshot"),
    f"DELETE {V}backups/{{id}}": Rule("member on", "parent"),
    f"POST {V}volumes/{{id}}/action": Rule("member on", "volume", body(**{"os-extend": {"new_size": 9}})),
    f"POST {V}volumes/{{id}}/action (reset)": Rule("admin on", "volume", body(**{"os-reset_status": {"status": "maintenance"}})),
    f"POST {V}volumes/{{id}}/action (force delete)": Rule("admin on", "volume", body(**{"os-force_delete": {}})),
    f"POST {V}snapshots/{{id}}/action": Rule("admin on", "snapshot", body(**{"os-reset_status": {"status": "error"}})),
    f"POST {V}backups/{{id}}/action": Rule("admin on", "parent", body(**{"os-reset_status": {"status": "error"}})),
    f"POST {V}backups/{{id}}/action (force delete)": Rule("admin on", "parent", body(**{"os-force_delete": {}})),
    f"POST {V}backups/{{id}}/restore": Rule("member on", "parent", body(restore={})),
    f"GET {V}backups/{{id}}/export_record": Rule("admin on", "parent"),
    f"POST {V}backups/import_record": Rule("admin", order=body(**{"backup-record": {"backup_service": "x", "backup_url": "e30="}})),
    **{
        f"{method} {V}{kind}s/{{id}}/metadata{rest}": Rule(need + " on", kind, order)
        for kind in ("volume", "snapshot") for method, rest, need, order in [
            ("GET", "", "reader", None), ("POST", "", "member", body(metadata={"k": "v"})), ("PUT", "", "member", body(metadata={"k": "v"})),
            ("GET", "/{key}", "reader", None), ("PUT", "/{key}", "member", body(meta={"k": "v"})), ("DELETE", "/{key}", "member", None),
        ]
    },
    f"GET {V}os-quota-sets/{{id}}": Rule("quotas of"),
    f"GET {V}os-quota-sets/{{id}}/defaults": Rule("quotas of"),
    f"PUT {V}os-quota-sets/{{id}}": Rule("admin", order=body(quota_set={"volumes": -1})),
    f"DELETE {V}os-quota-sets/{{id}}": Rule("admin"),
    f"GET {V}os-quota-class-sets/{{id}}": Rule("reader"),
    f"PUT {V}os-quota-class-sets/{{id}}": Rule("admin", order=body(quota_class_set={"volumes": -1})),
    **{f"GET {V}{name}": Rule("reader") for name in (
        "limits", "types", "types/default", "types/{id}", "types/{id}/extra_specs", "os-availability-zone", "resource_filters", "messages",
        "extensions", "extensions/{id}",
    )},
    f"GET {V}os-services": Rule("admin"),
    f"GET {V}messages/{{id}}": Rule("reader here", "message"),
}

K = "/identity/v3/"
KEYSTONE = {
    "GET /identity/": Rule("open"),
    f"GET {K}": Rule("open"),
    f"POST {K}auth/tokens": Rule("open", order=body(auth={})),
    f"GET {K}auth/tokens": Rule("token of", headers=lambda w, p: {"X-Subject-Token": w.session(p)}),
    f"DELETE {K}auth/tokens": Rule("token of", headers=lambda w, p: {"X-Subject-Token": w.session(p)}),
    f"GET {K}auth/catalog": Rule("some role"),
    f"GET {K}auth/projects": Rule("any"),
    **{f"GET {K}{kind}": Rule("any") for kind in ("projects", "users", "domains", "roles")},
    f"GET {K}projects/{{id}}": Rule("see", "project"),
    f"GET {K}users/{{id}}": Rule("himself", "user"),
    f"GET {K}domains/{{id}}": Rule("any"),
    f"GET {K}roles/{{id}}": Rule("any"),
    f"GET {K}users/{{user_id}}/application_credentials": Rule("credentials of"),
    f"POST {K}users/{{user_id}}/application_credentials": Rule("own credentials", order=body(application_credential={"name": ""})),
    f"GET {K}users/{{user_id}}/application_credentials/{{id}}": Rule("credentials of", "credential"),
    f"DELETE {K}users/{{user_id}}/application_credentials/{{id}}": Rule("credentials of", "credential", spare=True),
}

RULES = WALDUR | CINDER | KEYSTONE


# ---------------------------------------------------------------- the law

ALLOWED = "allowed"


def expected(operation, rule, caller, place, through=None):
    """The status, or ALLOWED. `place`: where the object lies; `through`: the project in the URL, in the volume API."""
    if rule.kind == "open":
        return ALLOWED
    if operation in WALDUR:
        return in_waldur(rule, caller, place) if caller.waldur else 401
    if not caller.openstack:
        return 401
    return in_cinder(rule, caller, place, through) if operation in CINDER else in_keystone(rule, caller, place)


def in_waldur(rule, caller, place):
    """What cannot be seen is not there (404); what can be seen but not changed is refused (403). There is nothing for anybody nowhere."""
    everybodys = rule.thing in ("image", "flavor", "customer", "user") and place != NOWHERE
    sees = NONE if place == NOWHERE else READ if everybodys else caller.role(place)
    sees = max(sees, ADMIN if caller.staff and place != NOWHERE else NONE)
    if rule.kind == "any":
        return ALLOWED
    if rule.kind == "staff, else 400":
        return ALLOWED if caller.staff else 400
    if rule.kind in ("staff", "owner"):
        if not (caller.staff or rule.kind == "owner" and caller.owner):
            return 403
        return 404 if rule.thing and place == NOWHERE else ALLOWED
    if rule.kind == "into":
        return ALLOWED if sees >= WRITE else 403 if sees else 400
    if rule.kind.startswith("owner sees"):
        if not (caller.owner or caller.staff) or place == NOWHERE:
            return 404
        return 403 if "staff" in rule.kind and not caller.staff else ALLOWED
    if not sees:
        return 404
    may = {"see": True, "write": sees >= WRITE, "staff on": caller.staff, "owner on": caller.owner or caller.staff}[rule.kind]
    return ALLOWED if may else 403


def in_cinder(rule, caller, place, through):
    """400 for another project than the token's, 403 for one without a role; then the object (404), then the role (403)."""
    if caller.scope and caller.scope != through:
        return 400
    level = caller.role(through)
    if level == NONE:
        return 403
    need = {"reader": READ, "member": WRITE, "admin": ADMIN, "quotas": READ}[rule.kind.split()[0]]
    if rule.kind == "quotas of":
        return 403 if place != through and level < ADMIN else 404 if place == NOWHERE else ALLOWED
    # An administrator sees the objects of all projects, but not what was said about them.
    if rule.thing and place != through and (level < ADMIN or place == NOWHERE or rule.kind == "reader here"):
        return 404
    return ALLOWED if level >= need else 403


def in_keystone(rule, caller, place):
    """`own` is what belongs to the caller, `other` to somebody else."""
    admin = caller.role(NOWHERE) == ADMIN
    if rule.kind == "any":
        return ALLOWED
    if rule.kind == "some role":
        return ALLOWED if any(caller.role(p) for p in (OWN, OTHER)) else 403
    if rule.kind == "token of":
        return 404 if place == NOWHERE else ALLOWED if place == OWN or admin else 403
    if rule.kind == "see":
        bound = caller.credential and place != caller.scope
        return 404 if place == NOWHERE or bound or not caller.role(place) else ALLOWED
    if rule.kind == "himself":
        return ALLOWED if place != NOWHERE and (admin or place == OWN) else 404
    if caller.credential:
        return 403
    if place == OWN:
        # Without a project there are none.
        homeless = not any(caller.role(p) for p in (OWN, OTHER))
        return 403 if homeless and rule.kind == "own credentials" else 404 if homeless and rule.thing else ALLOWED
    if not admin:
        return 403
    return 404 if place == NOWHERE else 403 if rule.kind == "own credentials" else ALLOWED
