"""A file of an older version becomes one of today: with all that is in it, or not at all."""

import os
import signal
import sqlite3
from dataclasses import replace

import pytest

from agent import crash_point
from agent.queue import migration, serializer
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.ledger import Books
from agent.queue.reader import read_snapshot
from agent.queue.schema import TABLE, VERSION
from tests.conftest import STAMP

CAP = 64 * 1024 * 1024

# As version 1 wrote it; not to be changed.
VERSION_1 = """
PRAGMA page_size = 1024;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
CREATE TABLE ack_queue_default (_id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB, timestamp FLOAT,
    status INTEGER, stream TEXT NOT NULL DEFAULT '', sender TEXT NOT NULL DEFAULT '',
    priority INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL DEFAULT 0,
    sending INTEGER NOT NULL DEFAULT 0, reason TEXT);
CREATE INDEX queue_priority ON ack_queue_default (priority, _id) WHERE priority <> 1 AND status < 2;
CREATE INDEX queue_dead ON ack_queue_default (_id) WHERE status = 9;
CREATE TABLE ledger (counter TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE ledger_days (
    day TEXT NOT NULL, stream TEXT NOT NULL, event TEXT NOT NULL, counter TEXT NOT NULL,
    value INTEGER NOT NULL, PRIMARY KEY (day, stream, event, counter)) WITHOUT ROWID;
CREATE TABLE source_state (
    source TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (source, key)) WITHOUT ROWID;
CREATE TABLE seen (
    kind TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (kind, number)) WITHOUT ROWID;
CREATE TABLE sessions (client TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE boots (
    boot_id TEXT PRIMARY KEY, number INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO ledger VALUES ('received', 4), ('queued', 2), ('dead', 1), ('sent', 1);
INSERT INTO ledger_days VALUES
    ('2027-01-15', 'main', 'tap', 'received', 4), ('2027-01-15', 'main', 'tap', 'sent', 1),
    ('2027-01-15', 'main', 'tap', 'dead', 1);
INSERT INTO source_state VALUES ('spool', 'a.json', '1');
INSERT INTO seen VALUES ('event_id', 1, 'key', '');
INSERT INTO boots VALUES ('boot', 3, '');
"""


@pytest.fixture
def old(tmp_path, make_event):
    """A state directory that version 1 left: a sent event, two that wait, a dead letter."""
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(VERSION_1)
    for number, (status, reason) in enumerate([(0, None), (9, "refused"), (0, None)], 2):
        data = serializer.dumps(make_event("tap", stamp=replace(STAMP, boot_us=number)))
        connection.execute(
            "INSERT INTO ack_queue_default (_id, data, timestamp, status, stream, bytes, reason) "
            "VALUES (?, ?, ?, ?, 'main', ?, ?)",
            (number, data, STAMP.wall_us / 1e6, status, len(data), reason),
        )
    connection.commit()
    connection.close()
    return tmp_path


def version(directory):
    connection = sqlite3.connect(directory / FILE_NAME)
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return found


def structure(directory):
    connection = sqlite3.connect(directory / FILE_NAME)
    columns = [row[1:] for row in connection.execute(f"PRAGMA table_info({TABLE})")]
    indexes = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index'")
    found = (columns, sorted((name, " ".join((sql or "").split())) for name, sql in indexes))
    connection.close()
    return found


def expect_all_of_it(directory):
    queue = EventQueue.open(directory, max_bytes=CAP)
    assert queue.books == Books(received=4, sent=1, queued=2, dead=1)
    [day] = queue.days()
    assert (day.received, day.sent, day.dead) == (4, 1, 1)
    assert queue.source_state("spool") == {"a.json": "1"}
    assert queue.seen("event_id") == [("key", "")]
    assert queue.boots() == [("boot", 3, "")]
    assert [row.id for row in queue.lease("main", limit=25)] == [2, 4]
    assert queue._read_one(f"SELECT reason FROM {TABLE} WHERE _id = 3") == "refused"
    assert queue._read_one("PRAGMA integrity_check") == "ok"
    queue.close()


def test_all_that_an_old_file_holds_survives(old):
    expect_all_of_it(old)
    assert version(old) == VERSION
    expect_all_of_it(old)


def test_a_migrated_file_is_like_a_new_one(old, tmp_path_factory):
    new = tmp_path_factory.mktemp("new")
    for directory in (old, new):
        EventQueue.open(directory, max_bytes=CAP).close()
    assert [name for name, *_ in structure(old)[0]] == [name for name, *_ in structure(new)[0]]
    assert {name for name, _ in structure(old)[1]} == {name for name, _ in structure(new)[1]}


def test_what_comes_late_into_a_migrated_file_is_found(old, make_event):
    queue = EventQueue.open(old, max_bytes=CAP)
    queue.put_many([make_event(time_us=STAMP.wall_us - 10**12)])
    assert STAMP.wall_us - 10**12 in {one.time_us for one in queue.oldest_candidates()}
    queue.close()


def test_who_reads_an_old_file_before_the_daemon_was_updated_sees_it(old):
    snapshot = read_snapshot(old)
    assert snapshot.books.queued == 2
    assert snapshot.candidates[0].stamp.boot_us == 2
    assert version(old) == 1, "reading changes nothing"


@pytest.mark.parametrize("moment", [1, 2])
def test_a_kill_in_the_middle_leaves_the_old_file_and_the_next_start_migrates(old, moment):
    child = os.fork()
    if child == 0:
        reached = []

        def die(name):
            reached.append(name)
            if reached.count("migrate.middle") == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        crash_point.reached = die
        try:
            EventQueue.open(old, max_bytes=CAP)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert version(old) == 1
    assert "early" not in [name for name, *_ in structure(old)[0]]
    expect_all_of_it(old)
    assert version(old) == VERSION


def test_a_failure_in_the_middle_leaves_the_old_file(old, monkeypatch):
    def fail(_name):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(crash_point, "reached", fail)
    with pytest.raises(RuntimeError):
        EventQueue.open(old, max_bytes=CAP)
    assert version(old) == 1
    monkeypatch.undo()
    expect_all_of_it(old)


def test_each_version_has_its_step():
    assert list(migration.STEPS) == list(range(1, VERSION))
