"""Measures what grows with the coffer and writes the part `scale` of RESULTS.md:

    python3 benches/scale.py target/release/cofferd DIR [MOST_BACKUPS]

Part one: what requests cost with more and more backups and schedules. Part two: volumes of terabytes that are only made up. Their
maps, segments and tables of contents are real; their packs are a few bytes, so dropping those costs less than real ones, which is
why real ones are measured too. DIR needs 10 GiB."""

import os
import platform
import random
import shutil
import sqlite3
import statistics
import struct
import sys
import time
import urllib.error
from pathlib import Path

import report
from daemon import Daemon

MIB, TIB = 1 << 20, 1 << 40
BACKUPS, SCHEDULES = [10, 100, 1000, 10_000], [1, 10, 100, 1000]
ROUNDS = 15
BACKUP_LIST, SCHEDULE_LIST = "/api/openstack-backups/", "/api/openstack-backup-schedules/"
CHUNKS_IN_SEGMENT, CHUNKS_IN_PACK = 1024, 16
# Segments of each further map that differ from the first one's.
CHANGED = 0.02


def place(work: Path, name: str) -> Path:
    shutil.rmtree(work / name, ignore_errors=True)
    (work / name / "disks").mkdir(parents=True)
    return work / name


def timed(request) -> tuple[float, object]:
    """Milliseconds, and the answer."""
    began = time.perf_counter()
    answer = request()
    return (time.perf_counter() - began) * 1000, answer


def median_of(request) -> float:
    return statistics.median(timed(request)[0] for _ in range(ROUNDS))


def wait_gone(daemon: Daemon, url: str) -> None:
    while True:
        try:
            daemon.call("GET", url)
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return
        time.sleep(0.002)


def ms(value: float) -> str:
    return f"{value:.1f}"


def curves(binary: Path, work: Path, most: int) -> list[str]:
    here = place(work, "curves")
    disk = here / "disks" / "vm.img"
    disk.write_bytes(os.urandom(MIB))
    daemon = Daemon(binary, here, here / "disks")
    instance = daemon.instance("vm", disk)

    def back_up() -> dict:
        return daemon.call("POST", BACKUP_LIST, {"instance": instance})

    rows = [["backups", "order one", "it is Ready after", "list of 10", "list of 100, last page", "order a deletion", "it is gone after", "`/ops/stats/`"]]
    for count in [n for n in BACKUPS if n <= most]:
        while (have := int(daemon.call("GET", "/ops/stats/")["backups"])) < count:
            for _ in range(min(500, count - have)):
                last = back_up()
            daemon.wait(last["url"])
        orders, ready, deletions, gone = [], [], [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            took, backup = timed(back_up)
            orders.append(took)
            daemon.wait(backup["url"])
            ready.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            deletions.append(timed(lambda: daemon.call("POST", backup["url"] + "delete/", {}))[0])
            wait_gone(daemon, backup["url"])
            gone.append((time.perf_counter() - began) * 1000)
        lists = [median_of(lambda path=path: daemon.call("GET", path)) for path in (BACKUP_LIST, f"{BACKUP_LIST}?page_size=100&page=last")]
        stats = median_of(lambda: daemon.call("GET", "/ops/stats/"))
        rows.append([f"{count:,}", *[ms(statistics.median(all_of)) for all_of in (orders, ready)], *map(ms, lists),
                     *[ms(statistics.median(all_of)) for all_of in (deletions, gone)], ms(stats)])
    lines = ["### More backups", "", "Milliseconds, medians; of a disk of 1 MiB that does not change.", "", *report.table(*rows)]

    rows = [["schedules", "make one", "list of 10", "list of 100, last page", "delete one", "order a backup", "CPU at rest, ms a second"]]
    made = []
    for count in SCHEDULES:
        def schedule() -> dict:
            return daemon.call("POST", SCHEDULE_LIST, {"instance": instance, "schedule": "0 0 29 2 *", "retention_time": 0, "maximal_number_of_backups": 3})
        while len(made) < count:
            made.append(schedule())
        makes, deletes = [], []
        for _ in range(ROUNDS):
            took, one = timed(schedule)
            makes.append(took)
            deletes.append(timed(lambda: daemon.call("DELETE", one["url"]))[0])
        lists = [median_of(lambda path=path: daemon.call("GET", path)) for path in (SCHEDULE_LIST, f"{SCHEDULE_LIST}?page_size=100&page=last")]
        orders = []
        for _ in range(ROUNDS):
            took, backup = timed(back_up)
            orders.append(took)
            daemon.wait(backup["url"])
        time.sleep(1)
        before = daemon.cpu()
        time.sleep(4)
        rows.append([f"{count:,}", ms(statistics.median(makes)), *map(ms, lists), ms(statistics.median(deletes)), ms(statistics.median(orders)),
                     ms((daemon.cpu() - before) / 4 * 1000)])
    daemon.stop()
    shutil.rmtree(here)
    return [*lines, "### More schedules", "", "The same, beside the backups above.", "", *report.table(*rows)]


def make_up(coffer: Path, tib: float, maps: int) -> None:
    """Gives the backups of the coffer, one a map, a volume of so many TiB of distinct chunks; all but the first differ a little."""
    chunks = int(tib * TIB / MIB)
    make = random.Random(1)
    db = sqlite3.connect(coffer)
    (pack,), = db.execute("SELECT ifnull(max(id), 0) + 1 FROM pack_toc")
    first_pack = pack

    def toc() -> bytes:
        return b"".join(struct.pack("<32sIIIBBHQ", make.randbytes(32), n * 524288, 524288, MIB, 1, 0, 0, 0) for n in range(CHUNKS_IN_PACK))

    for start in range(0, chunks, CHUNKS_IN_PACK * 1024):
        packs = range(pack, pack + min(1024, (chunks - start) // CHUNKS_IN_PACK))
        db.executemany("INSERT INTO pack VALUES (?, zeroblob(64))", ((n,) for n in packs))
        db.executemany("INSERT INTO pack_toc VALUES (?, 1, ?, ?, ?)", ((n, CHUNKS_IN_PACK, 524288 * CHUNKS_IN_PACK, toc()) for n in packs))
        pack = packs.stop

    def segment(number: int, change: bool) -> int:
        addresses = [(first_pack + chunk // CHUNKS_IN_PACK) << 12 | chunk % CHUNKS_IN_PACK
                     for chunk in range(number * CHUNKS_IN_SEGMENT, (number + 1) * CHUNKS_IN_SEGMENT)]
        if change:
            make.shuffle(addresses)
        return db.execute("INSERT INTO segment (hash, format, chunks) VALUES (?, 1, ?)",
                          (make.randbytes(32), struct.pack(f"<{len(addresses)}Q", *addresses))).lastrowid

    first = [segment(number, False) for number in range(chunks // CHUNKS_IN_SEGMENT)]
    for number, (part,) in enumerate(db.execute("SELECT id FROM volume_backup ORDER BY id LIMIT ?", (maps,)).fetchall()):
        ids = list(first)
        for at in make.sample(range(len(ids)), int(len(ids) * CHANGED) if number else 0):
            ids[at] = segment(at, True)
        new = db.execute("INSERT INTO volume_map (hash, size, chunk_size, segments) VALUES (?, ?, ?, ?)",
                         (make.randbytes(32), chunks * MIB, MIB, struct.pack(f"<{len(ids)}q", *ids))).lastrowid
        db.execute("UPDATE volume_backup SET map_id = ? WHERE id = ?", (new, part))
    db.execute("DELETE FROM volume_map WHERE id NOT IN (SELECT map_id FROM volume_backup)")
    db.commit()
    db.close()


def deletion(daemon: Daemon, backups: list[dict]) -> tuple[float, float, float]:
    """Of deleting all backups: the slowest answer in ms, seconds from the last one until all packs are gone, and the slowest list meanwhile in ms."""
    answers, slowest = [], 0.0
    for backup in backups:
        # The daemon may have another port by now.
        answers.append(timed(lambda: daemon.call("POST", f"{BACKUP_LIST}{backup['uuid']}/delete/", {}))[0])
    began = time.perf_counter()
    while daemon.call("GET", "/ops/stats/")["packs"]:
        assert time.perf_counter() - began < 120, "the space does not come back"
        slowest = max(slowest, timed(lambda: daemon.call("GET", BACKUP_LIST))[0])
        time.sleep(0.02)
    return max(answers), time.perf_counter() - began, slowest


def terabytes(binary: Path, work: Path) -> list[str]:
    rows = [["distinct data", "backups of it", "start", "RSS then", "index", "count space", "peak RSS of that", "a second time", "what if 3 go", "delete: slowest answer",
             "until all is free", "slowest list meanwhile"]]
    for tib, maps in ((1, 1), (1, 30), (10, 30)):
        here = place(work, "terabytes")
        disk = here / "disks" / "vm.img"
        disk.write_bytes(os.urandom(MIB))
        daemon = Daemon(binary, here, here / "disks")
        instance = daemon.instance("vm", disk)
        backups = [daemon.back_up(instance) for _ in range(maps)]
        daemon.stop()
        make_up(daemon.state / "coffer.db", tib, maps)
        daemon = Daemon(binary, here, here / "disks")
        start, rss = daemon.start_seconds, daemon.memory("VmRSS")
        daemon.forget_peak()
        count, stats = timed(lambda: daemon.call("GET", "/ops/stats/"))
        peak, again = daemon.memory("VmHWM"), timed(lambda: daemon.call("GET", "/ops/stats/"))[0]
        what_if = timed(lambda: daemon.call("POST", "/ops/space/", {"backups": [b["uuid"] for b in backups[:3]]}))[0]
        answer, free, slowest = deletion(daemon, backups)
        rows.append([f"{tib} TiB", str(maps), f"{start * 1000:.0f} ms", f"{rss:.0f} MiB", f"{stats['index_bytes'] / MIB:.0f} MiB", f"{count:.0f} ms",
                     f"{peak:.0f} MiB", f"{again:.1f} ms", f"{what_if:.0f} ms", f"{answer:.1f} ms", f"{free:.1f} s", f"{slowest:.0f} ms"])
        print(rows[-1], flush=True)
        daemon.stop()
        shutil.rmtree(here)
    return ["### Terabytes, made up", "", f"Tables of contents, segments and maps as of real data; {CHUNKS_IN_PACK} chunks a pack, packs of a few bytes. Each backup but the first "
            f"has {CHANGED:.0%} segments of its own.", "", *report.table(*rows)]


def real_packs(binary: Path, work: Path, gib: int = 3) -> list[str]:
    here = place(work, "real")
    disk = here / "disks" / "vm.img"
    with open(disk, "wb") as file:
        for _ in range(gib * 16):
            file.write(os.urandom(64 * MIB))
    daemon = Daemon(binary, here, here / "disks")
    backup = daemon.back_up(daemon.instance("vm", disk))
    packs = daemon.call("GET", "/ops/stats/")["packs"]
    written = daemon.written()
    answer, free, slowest = deletion(daemon, [backup])
    time.sleep(2)
    written = daemon.written() - written
    daemon.stop()
    shutil.rmtree(here)
    rows = [["real packs", "delete: slowest answer", "until all is free", "slowest list meanwhile", "written by the daemon"],
            [f"{packs:,} of 8 MiB", f"{answer:.1f} ms", f"{free:.1f} s", f"{slowest:.0f} ms", f"{written / MIB:.0f} MiB"]]
    return ["### Gigabytes, real", "", *report.table(*rows)]


def main():
    binary, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    most = int(sys.argv[3]) if len(sys.argv) > 3 else BACKUPS[-1]
    lines = ["## Scale", "", f"`benches/scale.py` on {platform.system()} {platform.release()}, {os.cpu_count()} cores.", "",
             *terabytes(binary, work), *real_packs(binary, work), *curves(binary, work, most)]
    print("\n".join(lines))
    report.replace_section("scale", "\n".join(lines))


if __name__ == "__main__":
    main()
