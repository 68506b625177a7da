#!/usr/bin/env python3
"""The work of `spool_work.rs` as one would write it with Python's sqlite3: the yardstick of `backlog.py`.

    sqlite_spool.py FOLDER put|drain|link|outage|start [FRAMES PICTURE_BYTES]

Meant to be a good one: the spool's pragmas (page size, WAL, synchronous=FULL, checkpoints of its own), its
batches (256 rows or 4 MiB to a commit), one table a topic with key, headers and value, the number as the key,
executemany where it helps. What it leaves out is what the spool does besides: accounts that change in the same
transaction, totals, caps, leases, a thread of its own.
"""

import json
import os
import pathlib
import sqlite3
import sys
import time

PAGE_BYTES = 2048
CHECKPOINT_BYTES = 8 << 20
BATCH_ROWS, BATCH_BYTES = 256, 4 << 20
DETECTION = {
    "box": [10.5, 20.0, 30.25, 40.0], "score": 0.875, "class": "face",
    "landmarks": [[12.0, 25.0], [30.0, 25.5], [21.0, 35.0], [14.0, 45.0], [28.0, 45.5]],
    "quality": {"score": 0.5, "size_px": 30.25, "sharpness": 210.5, "yaw_deg": None, "roll_deg": None},
}  # fmt: skip


class Spool:
    """Two queues in one database."""

    def __init__(self, folder):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        self.database = sqlite3.connect(pathlib.Path(folder) / "peer.sqlite", isolation_level=None)
        self.since_checkpoint, self.payload = 0, 0
        for pragma in (
            f"page_size = {PAGE_BYTES}", "auto_vacuum = NONE", "journal_mode = WAL", "synchronous = FULL",
            "wal_autocheckpoint = 0", f"journal_size_limit = {2 * CHECKPOINT_BYTES}", "temp_store = MEMORY",
            "mmap_size = 0", "secure_delete = OFF",
        ):  # fmt: skip
            self.database.execute(f"PRAGMA {pragma}")
        for table in ("records", "pictures"):
            self.database.execute(
                f"CREATE TABLE IF NOT EXISTS {table}"
                " (id INTEGER PRIMARY KEY, key TEXT, committed_at_ms INTEGER, headers TEXT, value BLOB) STRICT"
            )

    def commit(self, rows, gone):
        """Writes rows {table: [(key, time, headers, value)]}, and deletes {table: [id]}."""
        self.database.execute("BEGIN IMMEDIATE")
        added = 0
        for table, ids in gone.items():
            self.database.executemany(f"DELETE FROM {table} WHERE id = ?", ((row,) for row in ids))
        for table, new in rows.items():
            self.database.executemany(
                f"INSERT INTO {table} (key, committed_at_ms, headers, value) VALUES (?, ?, ?, ?)", new
            )
            added += sum(len(headers) + len(value) for _, _, headers, value in new)
        self.database.execute("COMMIT")
        self.payload += added
        self.since_checkpoint += added + 4 * PAGE_BYTES
        if self.since_checkpoint >= CHECKPOINT_BYTES:
            self.database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self.since_checkpoint = 0

    def take(self, table):
        """The oldest rows, a batch of them."""
        batch, size = [], 0
        query = f"SELECT id, key, headers, value FROM {table} ORDER BY id"
        for row, key, headers, value in self.database.execute(query):
            batch.append((row, key, json.loads(headers), value))
            size += len(headers) + len(value)
            if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                break
        return batch

    def close(self):
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.database.close()


class Frames:
    """Frames as `spool_work.rs` makes them."""

    def __init__(self, picture_bytes):
        self.noise = b"\xff\xd8\xff" + os.urandom(max(picture_bytes - 3, 0)) if picture_bytes else b""

    def rows(self, seq):
        name = f"gate/north/1-0a1b2c3d/{seq}"
        observation = {
            "id": name, "mono_us": seq, "captured_at": None, "clock": "unset", "frame_width": 1280,
            "frame_height": 720, "detector": {"name": "yunet", "model_sha256": "ab" * 32}, "motion_score": 0.25,
            "frame": "possible", "detections": [DETECTION],
        }  # fmt: skip
        value = json.dumps(observation, separators=(",", ":")).encode()
        rows = {"records": [self.row("observation", name, seq, [], value)]}
        if self.noise:
            more = [["picket-width", "1280"], ["picket-height", "720"], ["picket-redacted", "none"],
                    ["content-type", "image/jpeg"]]  # fmt: skip
            jpeg = self.noise[:8] + seq.to_bytes(8, "little") + self.noise[16:]
            rows["pictures"] = [self.row("frame", name, seq, more, jpeg)]
        return rows

    def row(self, kind, name, seq, more, value):
        headers = [
            ["picket-schema", f"picket.{kind}/1.0"], ["picket-kind", kind], ["picket-id", name],
            ["picket-device", "gate"], ["picket-camera", "north"], ["picket-mono-us", str(seq)],
            ["picket-captured-at", ""], ["picket-clock", "unset"], *more,
        ]  # fmt: skip
        return "gate/north", None, json.dumps(headers, separators=(",", ":")), value


def put(spool, frames, count):
    batch, rows, size = {}, 0, 0
    for seq in range(1, count + 1):
        for table, new in frames.rows(seq).items():
            batch.setdefault(table, []).extend(new)
            rows += len(new)
            size += sum(len(headers) + len(value) for _, _, headers, value in new)
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            spool.commit(batch, {})
            batch, rows, size = {}, 0, 0
    spool.commit(batch, {})


def drain(spool):
    drained = 0
    for table in ("records", "pictures"):
        while rows := spool.take(table):
            drained += sum(len(value) for *_, value in rows)
            spool.commit({}, {table: [row for row, *_ in rows]})
    return drained


def link(spool, frames, count):
    gone = {}
    for seq in range(1, count + 1):
        spool.commit(frames.rows(seq), gone)
        gone = {table: [row for row, *_ in spool.take(table)] for table in ("records", "pictures")}
    spool.commit({}, gone)


def outage(spool, frames, count):
    for seq in range(1, count + 1):
        spool.commit(frames.rows(seq), {})
    drain(spool)


def first(spool):
    for table in ("records", "pictures"):
        row = spool.database.execute(f"SELECT id, key, headers, value FROM {table} ORDER BY id LIMIT 1").fetchone()
        spool.payload += len(row[2]) + len(row[3])


def kernel(path, name):
    fields = dict(line.split(":") for line in pathlib.Path(path).read_text().splitlines() if ":" in line)
    return int(fields[name].split()[0])


def main(folder, work, count="0", picture_bytes="0"):
    began, written = time.monotonic(), kernel("/proc/self/io", "write_bytes")
    spool, frames = Spool(folder), Frames(int(picture_bytes))
    started_s = time.monotonic() - began
    began = began if work == "start" else time.monotonic()
    if work == "put":
        put(spool, frames, int(count))
    elif work == "drain":
        spool.payload = drain(spool)
    elif work == "link":
        link(spool, frames, int(count))
    elif work == "outage":
        outage(spool, frames, int(count))
    elif work == "start":
        first(spool)
    else:
        raise SystemExit(f"{work} is no work")
    spent = time.monotonic() - began
    spool.close()
    print(
        json.dumps({
            "s": spent, "started_s": started_s, "payload": spool.payload,
            "written": kernel("/proc/self/io", "write_bytes") - written,
            "peak_kib": kernel("/proc/self/status", "VmHWM"),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
