#!/usr/bin/env python3
"""How many bytes each layout of the spool writes to disk for one byte that it is to keep.

    benches/spool_layouts.py [--frames 800] [--picture-bytes 100000] [--folder DIR]

The spool's own tables, pragmas and commits, in Python's sqlite3, one frame to a commit as one camera gives
them: pictures as rows of the database, or appended to segment files that rows point into. `link` deletes each
frame with the commit after its own, as with a broker that answers at once; `outage` keeps all of them, and
then drains them twenty at a time. What was written is what the kernel booked on this process (write_bytes of
/proc/self/io), so the folder must be on a disk, and not on tmpfs. Nothing but the layout differs within a run.
"""

import argparse
import os
import pathlib
import sqlite3
import sys
import tempfile
import time

OBSERVATION_BYTES, HEADER_BYTES = 500, 420
SEGMENT_BYTES = 8 << 20
CHECKPOINT_BYTES = 8 << 20
COLUMNS = (
    "id INTEGER PRIMARY KEY, key TEXT, epoch TEXT, first INTEGER, last INTEGER, kind TEXT, bytes INTEGER, "
    "committed_at_ms INTEGER, synchronised INTEGER, headers TEXT"
)


class Segments:
    """Append-only files, each deleted when nothing in it is needed."""

    def __init__(self, folder):
        self.folder, self.number, self.file, self.size, self.rows = folder, 0, None, 0, {}

    def path(self, number):
        return self.folder / f"segment-{number}"

    def append(self, value):
        """Where it lies: segment and offset."""
        if self.file is None or self.size + len(value) > SEGMENT_BYTES:
            self.begin()
        offset, self.size = self.size, self.size + os.write(self.file, value)
        self.rows[self.number] += 1
        return self.number, offset

    def begin(self):
        if self.file is not None:
            os.close(self.file)
        self.number += 1
        self.file = os.open(self.path(self.number), os.O_WRONLY | os.O_CREAT, 0o600)
        os.posix_fallocate(self.file, 0, SEGMENT_BYTES)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        self.size, self.rows[self.number] = 0, 0

    def sync(self):
        os.fdatasync(self.file)

    def gone(self, number):
        self.rows[number] -= 1
        if self.rows[number] == 0 and number != self.number:
            self.path(number).unlink()


class Spool:
    """The spool's tables and commits; `segments` is None where pictures are rows."""

    def __init__(self, folder, page_bytes, segments):
        self.segments, self.page_bytes, self.next_id, self.since_checkpoint = segments, page_bytes, 1, 0
        self.database = sqlite3.connect(folder / "spool.sqlite", isolation_level=None)
        for pragma in (
            f"page_size = {page_bytes}", "auto_vacuum = NONE", "journal_mode = WAL", "synchronous = FULL",
            "wal_autocheckpoint = 0", f"journal_size_limit = {2 * CHECKPOINT_BYTES}", "temp_store = MEMORY",
            "mmap_size = 0", "secure_delete = OFF",
        ):  # fmt: skip
            self.database.execute(f"PRAGMA {pragma}")
        where = "value BLOB" if segments is None else "segment INTEGER, place INTEGER, length INTEGER"
        self.database.executescript(
            f"CREATE TABLE records ({COLUMNS}, value BLOB) STRICT; CREATE TABLE pictures ({COLUMNS}, {where}) STRICT;"
            "CREATE TABLE accounts (key TEXT PRIMARY KEY, epoch TEXT, kept INTEGER, gone INTEGER, dropped TEXT)"
            " STRICT, WITHOUT ROWID;"
            "CREATE TABLE spool (id INTEGER PRIMARY KEY, records INTEGER, pictures INTEGER) STRICT;"
            "INSERT INTO accounts VALUES ('gate/north', '12-0a1b2c3d', 0, 0, '{\"spool-full\":12}');"
            "INSERT INTO spool VALUES (1, 0, 0);"
        )

    def commit(self, frames, gone):
        """Writes frames {(observation, picture or none)}, deletes rows, and gives the rows written."""
        run, written, emptied = self.database.execute, [], []
        run("BEGIN IMMEDIATE")
        for observation, picture in frames:
            written.append(self.insert("records", "observation", observation, [observation]))
            if picture is None:
                continue
            value = [picture] if self.segments is None else [*self.segments.append(picture), len(picture)]
            written.append(self.insert("pictures", "frame", picture, value))
        for table, row in gone:
            if table == "pictures" and self.segments is not None:
                emptied += [number for (number,) in run("SELECT segment FROM pictures WHERE id = ?", (row,))]
            run(f"DELETE FROM {table} WHERE id = ?", (row,))
        run("UPDATE accounts SET kept = kept + ?, gone = gone + ?", (len(frames), len(gone)))
        run("UPDATE spool SET records = records + 1, pictures = pictures + 1")
        if self.segments is not None and any(picture is not None for _, picture in frames):
            self.segments.sync()
        run("COMMIT")
        for number in emptied:
            self.segments.gone(number)
        self.checkpoint_if_due(sum(len(o) + len(p or b"") for o, p in frames))
        return written

    def insert(self, table, kind, payload, value):
        row, self.next_id = self.next_id, self.next_id + 1
        columns = [row, "gate/north", "12-0a1b2c3d", row, row, kind, len(payload), 0, 1, "h" * HEADER_BYTES, *value]
        self.database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", columns)
        return table, row

    def checkpoint_if_due(self, added):
        self.since_checkpoint += added + 4 * self.page_bytes
        if self.since_checkpoint >= CHECKPOINT_BYTES:
            self.database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self.since_checkpoint = 0

    def close(self):
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.database.close()


def written_bytes():
    """What this process has caused to be written to disks."""
    fields = dict(line.split(": ") for line in pathlib.Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


def measure(folder, layout, page_bytes, scenario, frames, picture_bytes):
    """Bytes written for one kept, and seconds."""
    spool = Spool(folder, page_bytes, Segments(folder) if layout == "segments" else None)
    before, began = written_bytes(), time.monotonic()
    kept = []
    for _ in range(frames):
        picture = os.urandom(picture_bytes) if picture_bytes else None
        rows = spool.commit([(os.urandom(OBSERVATION_BYTES), picture)], kept if scenario == "link" else [])
        kept = rows if scenario == "link" else kept + rows
    while kept:
        spool.commit([], kept[:40])
        del kept[:40]
    spool.close()
    rows = 2 if picture_bytes else 1
    payload = frames * (OBSERVATION_BYTES + picture_bytes + rows * HEADER_BYTES)
    return (written_bytes() - before) / payload, time.monotonic() - began


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--frames", type=int, default=800)
    arguments.add_argument("--picture-bytes", type=int, default=100_000)
    arguments.add_argument("--folder", type=pathlib.Path, default=None)
    options = arguments.parse_args()
    print(f"SQLite {sqlite3.sqlite_version}, {options.frames} frames; bytes written for one kept\n")
    print("| pictures | layout | page | link up | outage and drain |\n|---:|---|---:|---:|---:|")
    for picture_bytes in (options.picture_bytes, 0):
        for layout in ("rows", "segments") if picture_bytes else ("rows",):
            for page_bytes in (1024, 2048, 4096, 8192):
                ratios = []
                for scenario in ("link", "outage"):
                    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                        frames = options.frames if picture_bytes else options.frames * 4
                        ratio, _ = measure(pathlib.Path(folder), layout, page_bytes, scenario, frames, picture_bytes)
                    if ratio < 0.5:
                        print(f"spool_layouts: {folder} is on no disk: name another --folder", file=sys.stderr)
                        return 1
                    ratios.append(f"{ratio:.2f}")
                print(f"| {picture_bytes} B | {layout} | {page_bytes} | {' | '.join(ratios)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
