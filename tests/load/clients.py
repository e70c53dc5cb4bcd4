"""Many clients of both dialects at once, each of which knows what it may be answered."""

import random
import threading
import time
import uuid
from collections import Counter, defaultdict

import requests

from helpers.api import Api
from helpers.cinder import Cinder
from helpers.keystone import Keystone, by_password, project_scope
from helpers.lab import PASSWORD
from load.meter import percentiles

# Whatever is asked: a connection or a worker is not free; too many logins at once.
BUSY = {503}


class Wrong(AssertionError):
    """An answer that its request may not have."""


class Figures:
    """How long each class of requests took, and how it was answered."""

    def __init__(self):
        self.lock = threading.Lock()
        self.taken = defaultdict(list)
        self.codes = defaultdict(Counter)
        self.wrong = []

    def add(self, kind, seconds, code):
        with self.lock:
            self.taken[kind].append(seconds)
            self.codes[kind][code] += 1

    def fail(self, error):
        with self.lock:
            self.wrong.append(str(error)[:2000])

    @property
    def count(self):
        return sum(map(len, self.taken.values()))

    def rows(self):
        """(class, number, p50, p99, max in ms, codes) of each class."""
        return [(kind, len(taken), *percentiles(taken), " ".join(f"{code}: {n}" for code, n in sorted(self.codes[kind].items())))
                for kind, taken in sorted(self.taken.items())]

    def __str__(self):
        return "\n".join(f"{kind:34} {n:7} p50 {p50:7.1f} p99 {p99:8.1f} max {most:8.1f} ms   {codes}" for kind, n, p50, p99, most, codes in self.rows())


class Client:
    """One user of one dialect, who does one thing after the other until he is stopped."""

    def __init__(self, figures, seed):
        self.figures, self.random = figures, random.Random(seed)

    def ask(self, kind, request, codes, shape=None):
        """Sends a request that may be answered with these codes; the body of a success has this shape."""
        began = time.perf_counter()
        answer = request()
        self.figures.add(kind, time.perf_counter() - began, answer.status_code)
        if answer.status_code not in codes | BUSY:
            raise Wrong(f"{kind}: {answer.request.method} {answer.request.path_url} {answer.request.body!r}: {answer.status_code} {answer.text[:500]}")
        if answer.status_code >= 300:
            return None
        body = answer.json() if answer.content else None
        if shape and not shape(body):
            raise Wrong(f"{kind}: {answer.request.path_url}: {answer.text[:500]}")
        return body

    def run(self, stop):
        while not stop.is_set():
            try:
                self.random.choice(self.actions())()
            except (Wrong, requests.RequestException, ValueError, KeyError) as error:
                self.figures.fail(f"{type(error).__name__}: {error}")
                return


class WaldurClient(Client):
    """Lists, shows, filters, makes, changes and removes what Waldur's dialect has."""

    def __init__(self, figures, seed, api, admin, project, instances):
        super().__init__(figures, seed)
        self.api, self.admin, self.project, self.instances = api, admin, project, instances
        self.mine, self.schedules = [], []

    def actions(self):
        return [self.list, self.list, self.filter, self.show, self.make, self.change, self.delete, self.schedule, self.permission, self.quotas,
                self.events, self.others]

    def list(self):
        rows = self.ask("Waldur: list", lambda: self.api.get("/api/openstack-backups/", params={"page_size": self.random.choice([5, 10, 100])}),
                        {200}, lambda b: isinstance(b, list) and all({"url", "uuid", "state", "instance"} <= set(x) for x in b))
        self.seen = [row["url"] for row in rows or []]

    def filter(self):
        params = self.random.choice([{"state": "Ready"}, {"instance": self.random.choice(self.instances)["url"]}, {"project": self.project["url"]},
                                     {"description": "load"}, {"o": "-created_at"}, {"page": "2"}])
        self.ask("Waldur: filtered list", lambda: self.api.get("/api/openstack-backups/", params=params), {200, 404} if "page" in params else {200},
                 lambda b: isinstance(b, list))

    def show(self):
        if urls := self.mine or getattr(self, "seen", []):
            self.ask("Waldur: show", lambda: self.api.get(self.random.choice(urls)), {200, 404}, lambda b: b["state"])

    def make(self):
        if len(self.mine) < 6:
            body = {"instance": self.random.choice(self.instances)["url"], "description": "load"}
            made = self.ask("Waldur: create", lambda: self.api.post("/api/openstack-backups/", body), {201}, lambda b: b["state"] == "Backing up")
            self.mine += [made["url"]] if made else []

    def change(self):
        if self.mine:
            self.ask("Waldur: change", lambda: self.api.patch(self.random.choice(self.mine), {"description": f"load {self.random.random()}"}),
                     {200, 404, 409}, lambda b: b["description"].startswith("load"))

    def delete(self):
        if self.mine:
            url = self.random.choice(self.mine)
            answer = []

            def send():
                answer.append(self.api.post(url + "delete/"))
                return answer[0]

            # 409: it is still being made, or on its way out.
            self.ask("Waldur: delete", send, {200, 404, 409})
            if answer[0].status_code in (200, 404):
                self.mine.remove(url)

    def schedule(self):
        if len(self.schedules) < 3:
            body = {"instance": self.random.choice(self.instances)["url"], "retention_time": 1, "maximal_number_of_backups": 2, "schedule": "0 0 29 2 *"}
            made = self.ask("Waldur: create a schedule", lambda: self.api.post("/api/openstack-backup-schedules/", body), {201}, lambda b: b["next_trigger_at"])
            self.schedules += [made["url"]] if made else []
        else:
            url = self.schedules.pop()
            self.ask("Waldur: activate", lambda: self.api.post(url + "activate/"), {200})
            self.ask("Waldur: delete a schedule", lambda: self.api.delete(url), {204})

    def permission(self):
        """Rights come and go: made by an administrator, seen by all."""
        user = self.ask("Waldur: create a user", lambda: self.admin.post("/api/users/", {"username": f"u{uuid.uuid4().hex[:12]}"}), {201}, lambda b: b["url"])
        if user:
            right = self.ask("Waldur: give a role", lambda: self.admin.post(
                "/api/project-permissions/", {"project": self.project["url"], "user": user["url"], "role": "manager"}), {201}, lambda b: b["url"])
            self.ask("Waldur: list of roles", lambda: self.admin.get("/api/project-permissions/"), {200}, lambda b: isinstance(b, list))
            if right:
                self.ask("Waldur: take a role", lambda: self.admin.delete(right["url"]), {204})
            self.ask("Waldur: delete a user", lambda: self.admin.delete(user["url"]), {204})

    def quotas(self):
        self.ask("Waldur: quotas", lambda: self.api.get("/api/quotas/"), {200}, lambda b: all("usage" in q for q in b))

    def events(self):
        self.ask("Waldur: events", lambda: self.admin.get("/api/events/"), {200}, lambda b: all(e["event_type"] for e in b))

    def others(self):
        """What he may not."""
        self.ask("Waldur: refused", lambda: self.random.choice([
            lambda: self.api.get("/api/openstack-backups/" + uuid.uuid4().hex + "/"), lambda: self.api.post("/api/openstack-instances/", {}),
            lambda: self.api.post("/api/openstack-backups/", {"instance": "no"}), lambda: self.api.get("/ops/stats/"),
        ])(), {400, 403, 404})


class CinderClient(Client):
    """The same in Cinder's dialect, with logins at Keystone."""

    def __init__(self, figures, seed, daemon, user, project, volumes):
        super().__init__(figures, seed)
        self.d, self.user, self.project, self.volumes = daemon, user, project, volumes
        self.key, self.cinder = Keystone(daemon), Cinder(daemon, project["uuid"], user.token)
        self.mine, self.seen = [], []

    def actions(self):
        return [self.list, self.detail, self.detail, self.show, self.make, self.delete, self.volumes_of, self.quotas, self.limits, self.validate,
                self.snapshot, self.login if self.random.random() < 0.15 else self.validate, self.others]

    def list(self):
        self.ask("Cinder: list", lambda: self.cinder.get("/backups", limit=10), {200}, lambda b: all({"id", "name", "links"} == set(x) for x in b["backups"]))

    def detail(self):
        params = self.random.choice([{"limit": 100}, {"status": "available", "limit": 10}, {"sort": "created_at:asc", "limit": 10}])
        body = self.ask("Cinder: detail", lambda: self.cinder.get("/backups/detail", **params), {200},
                        lambda b: all({"id", "status", "volume_id"} <= set(x) for x in b["backups"]))
        self.seen = [x["id"] for x in body["backups"]] if body else []

    def show(self):
        if ids := self.mine or self.seen:
            self.ask("Cinder: show", lambda: self.cinder.get("/backups/" + self.random.choice(ids)), {200, 404}, lambda b: b["backup"]["status"])

    def make(self):
        if len(self.mine) < 6:
            # 400: the volume is at work for somebody else.
            body = {"backup": {"volume_id": self.random.choice(self.volumes), "name": "load", "force": True}}
            made = self.ask("Cinder: create", lambda: self.cinder.post("/backups", body), {202, 400}, lambda b: b["backup"]["id"])
            self.mine += [made["backup"]["id"]] if made else []

    def delete(self):
        if self.mine:
            ident, answer = self.random.choice(self.mine), []

            def send():
                answer.append(self.cinder.delete("/backups/" + ident))
                return answer[0]

            self.ask("Cinder: delete", send, {202, 400, 404})
            if answer[0].status_code in (202, 404):
                self.mine.remove(ident)

    def snapshot(self):
        body = {"snapshot": {"volume_id": self.random.choice(self.volumes), "name": "load", "force": True}}
        made = self.ask("Cinder: create a snapshot", lambda: self.cinder.post("/snapshots", body), {202, 400}, lambda b: b["snapshot"]["id"])
        if made:
            url = "/snapshots/" + made["snapshot"]["id"]
            for _ in range(200):  # 400: it is still being made
                if self.ask("Cinder: show a snapshot", lambda: self.cinder.get(url), {200, 404}, lambda b: b["snapshot"]["status"] != "error") is None:
                    continue
                began = time.perf_counter()
                answer = self.cinder.delete(url)
                self.figures.add("Cinder: delete a snapshot", time.perf_counter() - began, answer.status_code)
                if answer.status_code in (202, 404):
                    return
                if answer.status_code not in {400} | BUSY:
                    raise Wrong(f"delete of a snapshot: {answer.status_code} {answer.text[:500]}")
                time.sleep(0.1)

    def volumes_of(self):
        self.ask("Cinder: volumes", lambda: self.cinder.get("/volumes/detail", limit=20), {200}, lambda b: all(v["status"] for v in b["volumes"]))

    def quotas(self):
        self.ask("Cinder: quotas", lambda: self.cinder.get("/os-quota-sets/" + self.project["uuid"], usage="True"), {200}, lambda b: b["quota_set"]["backups"])

    def limits(self):
        self.ask("Cinder: limits", lambda: self.cinder.get("/limits"), {200}, lambda b: b["limits"]["absolute"])

    def validate(self):
        token = self.cinder.token
        self.ask("Keystone: projects of a token", lambda: self.key.get("/auth/projects", token), {200}, lambda b: b["projects"])

    def login(self):
        answer = []

        def send():
            answer.append(self.key.post_login(by_password(self.user.user["username"], PASSWORD), project_scope(self.project)))
            return answer[0]

        if self.ask("Keystone: login", send, {201}, lambda b: b["token"]["expires_at"]):
            token = answer[0].headers["X-Subject-Token"]
            self.ask("Keystone: validate", lambda: self.key.check(token), {200}, lambda b: b["token"]["user"]["name"] == self.user.user["username"])
            self.cinder = Cinder(self.d, self.project["uuid"], token)

    def others(self):
        self.ask("Cinder: refused", lambda: self.random.choice([
            lambda: self.cinder.get("/backups/" + str(uuid.uuid4())), lambda: self.cinder.post("/backups", {"backup": {}}),
            lambda: self.cinder.get("/os-services"), lambda: self.cinder.post("/nothing", {}),
        ])(), {400, 403, 404})


class Crowd:
    """So many clients, half of each dialect, that share some machines and volumes of one project."""

    def __init__(self, lab, count, instances, volumes):
        self.figures, self.stop = Figures(), threading.Event()
        users = [lab.user("manager") for _ in range(4)]
        self.clients = []
        for n in range(count):
            user = users[n % len(users)]
            if n % 2:
                self.clients.append(CinderClient(self.figures, n, lab.d, user, lab.project, volumes))
            else:
                api, admin = Api(lab.d, user.token, user.user), Api(lab.d, lab.d.token)
                self.clients.append(WaldurClient(self.figures, n, api, admin, lab.project, instances))
        self.threads = [threading.Thread(target=client.run, args=(self.stop,), daemon=True) for client in self.clients]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self.threads), "a client was not answered"
        for client in self.clients:
            for api in (getattr(client, "api", None), getattr(client, "admin", None), getattr(client, "cinder", None)):
                if api:
                    api.session.close()
            if hasattr(client, "key"):
                client.key.api.session.close()
