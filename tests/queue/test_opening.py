"""Whatever became of the queue's file: it opens, what can be read is there, the books balance."""

import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import persistqueue
import pytest

from agent import crash_point
from agent.event import BootRow, Event, Priority, RawMessage, Sender
from agent.queue import opening, serializer
from agent.queue.entries import Seen, SessionState, SourceState
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import StorageError
from agent.queue.opening import open_queue, report
from agent.queue.quarantine import files_set_aside
from agent.queue.schema import PAGE_SIZE, TABLE, VERSION
from tests.conftest import STAMP
from tests.queue.test_migration import VERSION_1

CAP = 64 * 1024 * 1024
ROWS = 20_000
SOME = 3000


def event(number, **fields):
    return Event(
        **{
            "name": "tap",
            "stream": "main",
            "sender": Sender(client_id=f"{number % 7}.1"),
            "stamp": STAMP,
            "event_id": f"{number:016x}",
            "params": {"n": number, "x": "y" * 60},
        }
        | fields
    )


def fill(directory, rows):
    """A directory as a stopped daemon leaves it: rows of all kinds, and all that lies beside them."""
    queue = open_queue(directory, max_bytes=CAP)
    for first in range(0, rows, 500):
        numbers = range(first, min(first + 500, rows))
        queue.put_many([event(number) for number in numbers])
    queue.put_many(
        [],
        state=[SourceState("spool", "a.json", "1")],
        sessions=[SessionState("1.1", "7 state")],
        seen=[Seen("event_id", f"key{n}") for n in range(50)],
        boots=[BootRow("boot", 3, "{}")],
    )
    queue.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    directory = tmp_path_factory.mktemp("full")
    fill(directory, ROWS)
    return directory


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    directory = tmp_path_factory.mktemp("some")
    fill(directory, SOME)
    return directory


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """300 events and what else there is: high ones, dead ones, one that is being sent."""
    directory = tmp_path_factory.mktemp("few")
    fill(directory, 300)
    queue = open_queue(directory, max_bytes=CAP)
    queue.put_many([RawMessage("mqtt", "malformed", b"\xff", STAMP)])
    high = {"priority": Priority.HIGH, "sender": Sender(client_id="9.1")}
    queue.put_many([event(1000 + n, **high) for n in range(5)])
    leased = queue.lease("main", limit=5)
    queue.ack_many([row.id for row in leased[:2]])
    queue.bury([row.id for row in leased[2:4]], reason="refused_400")
    queue.mark_sending([leased[4].id])
    queue.close()
    return directory


@pytest.fixture
def copy(tmp_path):
    def copied(source, name="state"):
        directory = tmp_path / name
        shutil.copytree(source, directory)
        return directory

    return copied


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def open_again(directory):
    return open_queue(directory, max_bytes=CAP)


def drained(queue):
    """The numbers of all events that can be leased, in the order in which they come."""
    numbers = []
    while leased := queue.lease("main", limit=25):
        numbers += [row.event.params["n"] for row in leased]
    return numbers


def stored(directory):
    """The numbers of the events that wait, in the order of their rows."""
    connection = sqlite3.connect(directory / FILE_NAME)
    rows = connection.execute(f"SELECT data FROM {TABLE} WHERE status < 2 ORDER BY _id").fetchall()
    connection.close()
    return [serializer.loads(data).params["n"] for (data,) in rows]


def quarantined(directory):
    folder = directory / "quarantine"
    return sorted(path.name for path in folder.glob("*.db")) if folder.exists() else []


def expect_sound(directory, cases):
    """A second start finds nothing amiss."""
    queue = open_again(directory)
    assert queue.books.balanced
    held = queue._read_one(f"SELECT COUNT(*) FROM {TABLE}")
    assert held == queue.books.queued + queue.books.dead
    assert queue._read_one("PRAGMA integrity_check") == "ok"
    queue.close()
    assert quarantined(directory) == cases


# -- a file that is sound -------------------------------------------------------------------


def test_a_sound_file_is_only_opened(copy, full, caplog):
    directory = copy(full)
    queue = open_again(directory)
    assert queue.books.queued == ROWS
    assert queue.books.noted == {}
    queue.close()
    assert not (directory / "quarantine").exists()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert report(directory) == opening.Report(damage={}, set_aside=())


def test_a_new_directory_gets_a_queue_with_empty_books(tmp_path):
    queue = open_queue(tmp_path / "new", max_bytes=CAP)
    assert queue.books.received == 0
    assert queue.books.noted == {}
    queue.close()


def fill_plainly(directory):
    """Let a plain SQLiteAckQueue put an event; how many there were before."""
    before = open_again(directory)
    received = before.books.received
    before.close()
    plain = persistqueue.SQLiteAckQueue(
        str(directory), db_file_name=FILE_NAME, serializer=serializer, auto_resume=False
    )
    plain.put(event(5000))
    plain.close()
    return received


def test_what_a_plain_queue_put_is_adopted_before_the_books_are_looked_at(copy, few):
    directory = copy(few)
    received = fill_plainly(directory)
    queue = open_again(directory)
    assert queue.books.received == received + 1
    assert queue.books.dropped == {"uncertain": 1}
    queue.close()
    expect_sound(directory, [])


# -- damage ---------------------------------------------------------------------------------


def leaf(path, number=ROWS // 2):
    """The offset of the page with that row."""
    data = path.read_bytes()
    return data.index(serializer.dumps(event(number))) // PAGE_SIZE * PAGE_SIZE


def test_one_flipped_byte_of_an_event_costs_that_event_and_keeps_it_as_a_dead_letter(copy, full):
    directory = copy(full)
    path = directory / FILE_NAME
    overwrite(path, path.read_bytes().index(serializer.dumps(event(9_999))) + 60, b"\x00")
    queue = open_again(directory)
    assert len(drained(queue)) == ROWS - 1
    assert (queue.books.queued, queue.books.dead) == (ROWS - 1, 1)
    queue.close()
    expect_sound(directory, [])


@pytest.mark.parametrize(("size", "lost"), [(PAGE_SIZE, 4), (4096, 13), (65536, 200)])
def test_zeroed_pages_cost_what_was_on_them(copy, full, caplog, size, lost):
    directory = copy(full)
    # Behind the first leaf of a branch, so that no branch is hit.
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME) + PAGE_SIZE, bytes(size))
    queue = open_again(directory)
    books = queue.books
    gone = books.dropped["damaged"]
    assert 0 < gone <= lost
    assert (books.received, books.queued, books.dead) == (ROWS, ROWS - gone, 0)
    assert books.balanced
    numbers = drained(queue)
    assert len(numbers) == len(set(numbers)) == ROWS - gone
    queue.close()
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert (
        f"saved {ROWS - gone:,} of 20,000 events, lost and counted as dropped.damaged: {gone};"
        in line
    )
    assert "\n" not in line
    assert str(directory / "quarantine" / "damaged-0001.db") in line
    damage = report(directory).damage
    assert (damage["saved"], damage["lost"]) == (ROWS - gone, gone)
    expect_sound(directory, ["damaged-0001.db"])
    assert report(directory).damage == damage, "it survives restarts"


def test_what_a_plain_queue_put_into_a_damaged_file_is_saved_and_counted_once(copy, few):
    directory = copy(few)
    received = fill_plainly(directory)
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 200), bytes(PAGE_SIZE))
    queue = open_again(directory)
    assert queue.books.received == received + 1
    assert queue.books.balanced
    assert 5000 in drained(queue)
    queue.close()
    expect_sound(directory, ["damaged-0001.db"])


def test_nothing_holds_the_damaged_file_open(copy, some):
    """A connection to it that ended later would remove the WAL of the new file, by its name."""
    directory = copy(some)
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 1500), bytes(PAGE_SIZE))
    queue = open_again(directory)
    held = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert [name for name in held if str(directory / "quarantine") in name] == []
    assert str(directory / FILE_NAME) in held
    queue.close()


def test_a_damaged_file_of_an_older_version_is_saved_too(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(VERSION_1)
    sql = f"INSERT INTO {TABLE} (data, status, stream, bytes) VALUES (?, 0, 'main', 1)"
    for number in range(3):
        connection.execute(sql, (serializer.dumps(event(number)),))
    connection.execute("DROP TABLE meta")
    connection.commit()
    connection.close()
    queue = open_again(tmp_path)
    assert (queue.books.received, queue.books.sent, queue.books.queued) == (4, 1, 3)
    assert sorted(drained(queue)) == [0, 1, 2]
    queue.close()
    expect_sound(tmp_path, ["damaged-0001.db"])


def test_a_lost_branch_costs_only_what_hung_on_it(copy, some):
    directory = copy(some)
    path = directory / FILE_NAME
    data = path.read_bytes()
    branches = [n for n in range(100, 900) if data[n * PAGE_SIZE] == 5]
    overwrite(path, branches[0] * PAGE_SIZE, bytes(PAGE_SIZE))
    queue = open_again(directory)
    assert 10 < queue.books.dropped["damaged"] < 1000
    assert queue.books.balanced
    queue.close()
    expect_sound(directory, ["damaged-0001.db"])


@pytest.mark.parametrize("hit", ["header", "first page", "garbage", "empty", "gone"])
def test_without_its_beginning_the_file_is_set_aside_and_the_queue_begins_anew(
    copy, some, caplog, hit
):
    directory = copy(some)
    path = directory / FILE_NAME
    match hit:
        case "header":
            overwrite(path, 0, bytes(100))
        case "first page":
            overwrite(path, 0, bytes(PAGE_SIZE))
        case "garbage":
            overwrite(path, 0, random.Random(5).randbytes(PAGE_SIZE))
        case "empty":
            os.truncate(path, 0)
        case "gone":
            path.unlink()
    queue = open_again(directory)
    assert queue.books.received == 0
    assert queue.books.noted == {"ledger_restarted": 1}
    queue.put_many([event(1)])
    assert drained(queue) == [1]
    queue.close()
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "saved 0 events; nobody can tell how many are lost" in line
    assert report(directory).damage["lost"] is None
    expect_sound(directory, ["damaged-0001.db"])


@pytest.mark.parametrize("part", [0.001, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("ragged", [0, 317])
def test_a_file_that_was_cut_off_keeps_what_is_before_the_cut(copy, some, part, ragged):
    directory = copy(some)
    path = directory / FILE_NAME
    pages = path.stat().st_size // PAGE_SIZE
    os.truncate(path, int(pages * part) * PAGE_SIZE + ragged)
    queue = open_again(directory)
    books = queue.books
    assert books.balanced
    if part >= 0.3:
        assert books.queued > SOME * (part - 0.05)
        assert books.received == SOME
    assert sorted(drained(queue)) == list(range(queue.books.queued))
    queue.close()
    expect_sound(directory, ["damaged-0001.db"])


@pytest.mark.parametrize("table", [TABLE, "ledger", "meta", "seen", "sqlite_sequence_rows"])
def test_a_lost_table_is_damage_and_the_others_are_saved(copy, few, table):
    directory = copy(few)
    connection = sqlite3.connect(directory / FILE_NAME)
    connection.execute(
        "DELETE FROM sqlite_sequence" if table.startswith("sqlite") else f"DROP TABLE {table}"
    )
    connection.commit()
    connection.close()
    queue = open_again(directory)
    assert queue.books.balanced
    assert len(drained(queue)) == queue.books.queued
    assert queue.books.queued == (0 if table == TABLE else 300)
    queue.close()
    expect_sound(directory, [] if table.startswith("sqlite") else ["damaged-0001.db"])


def test_all_that_lies_beside_the_rows_is_saved(copy, few):
    directory = copy(few)
    before = EventQueue.open(copy(few, "sound"), max_bytes=CAP)
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 200), bytes(PAGE_SIZE))
    queue = open_again(directory)
    for what in (lambda q: q.source_state("spool"), lambda q: q.session("1.1"), EventQueue.boots):
        assert what(queue) == what(before)
    assert queue.seen("event_id") == before.seen("event_id")
    lost = queue.books.dropped["damaged"]
    assert 0 < lost < 5
    for name in ("received", "sent", "dead"):
        assert getattr(queue.books, name) == getattr(before.books, name)
    assert queue.books.queued == before.books.queued - lost
    assert queue.books.dropped["uncertain"] == 1, "what was being sent is not sent again"
    assert sum(day.received for day in queue.days()) == sum(day.received for day in before.days())
    reasons = "SELECT _id, reason FROM ack_queue_default WHERE status = 9 ORDER BY _id"
    assert queue._read(reasons) == before._read(reasons)
    before.close()
    queue.close()


def test_rows_keep_their_ids_and_no_id_comes_again(copy, few):
    directory = copy(few)
    connection = sqlite3.connect(directory / FILE_NAME)
    before = dict(connection.execute(f"SELECT _id, data FROM {TABLE}"))
    connection.execute("UPDATE sqlite_sequence SET seq = 4000")  # the newest ones have left
    connection.commit()
    connection.close()
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 200), bytes(PAGE_SIZE))
    queue = open_again(directory)
    after = dict(queue._read(f"SELECT _id, data FROM {TABLE}"))
    assert after.items() <= before.items()
    queue.put_many([event(9)])
    assert queue._read_one(f"SELECT MAX(_id) FROM {TABLE}") == 4001
    queue.close()


@pytest.mark.parametrize("counter", ["queued", "received", "sent"])
def test_a_wrong_figure_in_the_ledger_is_put_right(copy, few, counter):
    directory = copy(few)
    connection = sqlite3.connect(directory / FILE_NAME)
    connection.execute("UPDATE ledger SET value = value + 64 WHERE counter = ?", (counter,))
    connection.commit()
    connection.close()
    queue = open_again(directory)
    assert queue.books.balanced
    assert queue.books.noted == {"ledger_restarted": 1}
    assert queue.books.queued == 300
    queue.close()
    expect_sound(directory, [])


def test_a_row_that_is_missing_is_counted_as_lost(copy, few, caplog):
    directory = copy(few)
    connection = sqlite3.connect(directory / FILE_NAME)
    connection.execute(f"DELETE FROM {TABLE} WHERE _id = 17")
    connection.commit()
    connection.close()
    queue = open_again(directory)
    assert queue.books.dropped == {"uncertain": 1, "damaged": 1}
    assert len(drained(queue)) == 299
    queue.close()
    assert "lost and counted as dropped.damaged: 1" in caplog.text
    assert report(directory).damage["lost"] == 1
    expect_sound(directory, [])


def test_a_status_that_is_none_lets_the_event_wait(copy, few):
    directory = copy(few)
    connection = sqlite3.connect(directory / FILE_NAME)
    connection.execute(f"UPDATE {TABLE} SET status = 7 WHERE _id = 17")
    connection.commit()
    connection.close()
    queue = open_again(directory)
    assert sorted(drained(queue)) == list(range(300))
    queue.close()
    expect_sound(directory, [])


def test_an_index_that_forgot_its_rows_is_made_anew(copy, few):
    """An event of high priority that its index does not know would never leave."""
    directory = copy(few)
    connection = sqlite3.connect(directory / FILE_NAME)
    sql = "SELECT sql FROM sqlite_schema WHERE name = 'queue_dead'"
    right = connection.execute(sql).fetchone()[0]
    connection.execute("DROP INDEX queue_dead")
    connection.execute(right.replace("status = 9", "status = 8"))
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'queue_dead'", (right,))
    connection.commit()
    connection.close()
    queue = open_again(directory)
    assert (
        queue._read_one(f"SELECT COUNT(*) FROM {TABLE} INDEXED BY queue_dead WHERE status = 9") == 3
    )
    queue.close()
    expect_sound(directory, [])


# -- the WAL --------------------------------------------------------------------------------

WRITER = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from agent.queue.opening import open_queue
from tests.queue.test_opening import event
queue = open_queue(Path(sys.argv[1]), max_bytes=2**26)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    queue.put_many([event(number)])
os._exit(0)  # as after a power cut: the WAL stays
"""


def write_and_die(directory, first, last):
    program = WRITER.format(root=str(Path(__file__).parents[2]))
    arguments = [sys.executable, "-c", program, str(directory), str(first), str(last)]
    subprocess.run(arguments, check=True, timeout=60)
    assert (directory / f"{FILE_NAME}-wal").stat().st_size > 100_000


@pytest.fixture(scope="module")
def cut(some, tmp_path_factory):
    """3,100 events, the last hundred of them in the WAL."""
    directory = tmp_path_factory.mktemp("cut") / "state"
    shutil.copytree(some, directory)
    write_and_die(directory, SOME, SOME + 100)
    return directory


def test_with_its_wal_nothing_is_missing(copy, cut):
    directory = copy(cut)
    queue = open_again(directory)
    assert queue.books.queued == SOME + 100
    queue.close()
    expect_sound(directory, [])


def test_without_its_wal_the_file_is_as_it_was_before(copy, cut):
    directory = copy(cut)
    (directory / f"{FILE_NAME}-wal").unlink()
    queue = open_again(directory)
    assert queue.books.balanced
    assert queue.books.queued >= SOME
    assert len(drained(queue)) == queue.books.queued
    queue.close()


@pytest.mark.parametrize("left", [0, 10, 600, PAGE_SIZE])
def test_the_wal_of_a_young_file_that_was_cut_off_is_not_thrown_away(tmp_path, left):
    write_and_die(tmp_path, 0, 100)
    os.truncate(tmp_path / FILE_NAME, left)
    queue = open_again(tmp_path)
    assert queue.books.received == 100
    assert sorted(drained(queue)) == list(range(100)), "all of it was in the WAL"
    queue.close()
    # From the first whole page on SQLite finds nothing amiss: the WAL has what is missing.
    expect_sound(tmp_path, ["damaged-0001.db"] if left < PAGE_SIZE else [])


@pytest.mark.parametrize("others", [50, 1000, SOME + 500])
def test_a_foreign_wal_ruins_nothing(copy, some, tmp_path, others):
    foreign = tmp_path / "foreign"
    fill(foreign, others)
    write_and_die(foreign, others, others + 100)
    directory = copy(some)
    for ending in ("-wal", "-shm"):
        shutil.copy(foreign / f"{FILE_NAME}{ending}", directory / f"{FILE_NAME}{ending}")
    queue = open_again(directory)
    assert queue.books.balanced
    assert len(drained(queue)) == queue.books.queued
    assert queue.books.queued == SOME
    assert queue.books.dropped == {}
    queue.close()
    expect_sound(directory, ["damaged-0001.db"])


def test_a_wal_with_a_flipped_byte_counts_up_to_there(copy, cut):
    directory = copy(cut)
    overwrite(directory / f"{FILE_NAME}-wal", 100_000, b"\xaa\xbb\xcc")
    queue = open_again(directory)
    assert queue.books.balanced
    assert queue.books.queued >= SOME
    queue.close()


# -- what is no damage ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (sqlite3.SQLITE_FULL, "disk_full"),
        (sqlite3.SQLITE_READONLY, "read_only"),
        (sqlite3.SQLITE_IOERR | 3 << 8, "read_only"),
        (sqlite3.SQLITE_CANTOPEN, "read_only"),
        (sqlite3.SQLITE_BUSY, "storage_slow"),
    ],
)
def test_a_disk_that_cannot_be_written_is_no_damage(copy, few, monkeypatch, code, state):
    directory = copy(few)

    def fail(*_args, **_options):
        error = sqlite3.OperationalError("as the disk says")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(EventQueue, "open", fail)
    with pytest.raises(StorageError) as caught:
        open_again(directory)
    assert caught.value.state == state
    assert not (directory / "quarantine").exists()
    assert (directory / FILE_NAME).exists()


def test_a_file_that_another_program_holds_is_no_damage(copy, few, monkeypatch):
    directory = copy(few)
    holder = sqlite3.connect(directory / FILE_NAME, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute(f"UPDATE {TABLE} SET sending = 0")
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **k | {"timeout": 0.1}))
    with pytest.raises(StorageError) as caught:
        open_again(directory)
    assert caught.value.state == "storage_slow"
    holder.close()
    assert not (directory / "quarantine").exists()


def test_a_disk_that_ruins_every_file_is_given_up(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(EventQueue, "open", fail)
    with pytest.raises(StorageError, match="replace the card"):
        open_queue(tmp_path, max_bytes=CAP)


# -- newer files ----------------------------------------------------------------------------


def make_newer(directory, version=VERSION + 1):
    connection = sqlite3.connect(directory / FILE_NAME)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()


def test_a_newer_file_is_set_aside_untouched_and_drained_after_the_upgrade(
    copy, few, caplog, monkeypatch
):
    directory = copy(few)
    make_newer(directory)
    content = (directory / FILE_NAME).read_bytes()
    queue = open_again(directory)
    aside = directory / f"queue.v{VERSION + 1}.db"
    assert aside.read_bytes() == content
    assert queue.books.received == 0
    assert queue.books.noted == {}
    queue.put_many([event(7000 + n) for n in range(3)])
    queue.close()
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert f"file version {VERSION + 1}" in line
    assert report(directory).set_aside == (aside.name,)
    expect_sound(directory, [])

    monkeypatch.setattr(opening.schema, "VERSION", VERSION + 1)
    monkeypatch.setattr(opening, "prepare", lambda _connection: None)
    monkeypatch.setattr("agent.queue.migration.STEPS", {VERSION: ()})
    queue = open_again(directory)
    assert not aside.exists()
    books = queue.books
    assert (books.received, books.sent, books.queued, books.dead) == (309, 2, 303, 3)
    assert books.dropped == {"uncertain": 1}
    assert books.balanced
    queue.close()
    assert stored(directory) == [7000, 7001, 7002, *range(300)]
    queue = open_again(directory)
    assert sorted(drained(queue)) == [*range(300), 7000, 7001, 7002]
    queue.close()


@pytest.mark.parametrize("time", [1, 2])
def test_a_kill_while_a_newer_file_is_drained_loses_and_repeats_nothing(
    copy, some, monkeypatch, time
):
    directory = copy(some)
    make_newer(directory)
    queue = open_again(directory)
    queue.put_many([event(7000)])
    queue.close()
    monkeypatch.setattr(opening.schema, "VERSION", VERSION + 1)
    monkeypatch.setattr(opening, "prepare", lambda _connection: None)
    monkeypatch.setattr("agent.queue.migration.STEPS", {VERSION: ()})
    assert die_at(directory, "salvage.middle", time)
    queue = open_again(directory)
    assert queue.books.received == queue.books.queued == SOME + 1
    queue.close()
    assert stored(directory) == [7000, *range(SOME)]
    assert list(files_set_aside(directory)) == []


def test_a_second_newer_file_gets_a_name_of_its_own(copy, few):
    directory = copy(few)
    for _ in range(2):
        make_newer(directory)
        open_again(directory).close()
    assert [path.name for path in files_set_aside(directory)] == [
        f"queue.v{VERSION + 1}.2.db",
        f"queue.v{VERSION + 1}.db",
    ]


def test_a_version_that_cannot_be_is_damage(copy, few):
    directory = copy(few)
    make_newer(directory, VERSION + 2**20)
    queue = open_again(directory)
    assert queue.books.queued == 300
    queue.close()
    expect_sound(directory, ["damaged-0001.db"])


# -- crashes --------------------------------------------------------------------------------


def die_at(directory, name, time, cap=CAP):
    """Open the queue in a process that is killed at that moment; whether it came."""
    child = os.fork()
    if child == 0:
        reached = Counter()

        def die(moment):
            reached[moment] += 1
            if reached[name] == time:
                os.kill(os.getpid(), signal.SIGKILL)

        crash_point.reached = die
        try:
            open_queue(directory, max_bytes=cap)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "time"),
    [("quarantine.middle", 1), *(("salvage.middle", n) for n in (1, 2, 6))],
)
def test_a_kill_during_salvage_loses_and_repeats_nothing(copy, some, name, time):
    directory = copy(some)
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 1500), bytes(4096))
    whole = copy(directory, "whole")
    assert die_at(directory, name, time)
    expected, queue = open_again(whole), open_again(directory)
    assert queue.books == expected.books
    assert drained(queue) == drained(expected)
    queue.close()
    expected.close()
    expect_sound(directory, ["damaged-0001.db"])
    assert report(directory).damage["lost"] == report(whole).damage["lost"]


def test_a_kill_while_the_quarantine_is_kept_small_is_made_good_at_the_next_start(copy, some):
    directory = copy(some)
    cap = 6 * 1024 * 1024
    for number in (100, 200):
        overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, number), bytes(PAGE_SIZE))
        if number == 200:
            break
        open_queue(directory, max_bytes=cap).close()
    assert die_at(directory, "rotate.middle", 1, cap)
    open_queue(directory, max_bytes=cap).close()
    left = sorted(path.name for path in (directory / "quarantine").iterdir())
    assert left == ["damaged-0002.db", "damaged-0002.json"]
    queue = open_again(directory)
    assert queue.books.balanced
    queue.close()


def test_kill_after_kill_comes_to_an_end(copy, few):
    directory = copy(few)
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 200), bytes(PAGE_SIZE))
    assert die_at(directory, "quarantine.middle", 1)
    assert die_at(directory, "salvage.middle", 1)
    queue = open_again(directory)
    assert queue.books.balanced
    assert queue.books.received == 306
    queue.close()
    expect_sound(directory, ["damaged-0001.db"])


def test_damage_in_the_middle_of_a_salvage_doubles_nothing(copy, some):
    directory = copy(some)
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 2500), bytes(PAGE_SIZE))
    assert die_at(directory, "salvage.middle", 3)
    connection = sqlite3.connect(directory / FILE_NAME)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 200), bytes(PAGE_SIZE))
    queue = open_again(directory)
    assert queue.books.balanced
    numbers = drained(queue)
    assert len(numbers) == len(set(numbers)) == queue.books.queued
    assert queue.books.queued == SOME - 3, "what the second damage took is still in the first file"
    queue.close()
    expect_sound(directory, ["damaged-0001.db", "damaged-0002.db"])


# -- anything -------------------------------------------------------------------------------


def spoil(path, chance):
    """Random damage, as flash and careless hands make it."""
    size = path.stat().st_size
    for _ in range(chance.choice([1, 1, 2, 8])):
        match chance.randrange(4):
            case 0:
                overwrite(path, chance.randrange(size), bytes([chance.randrange(256)]))
            case 1:
                offset = chance.randrange(size) // PAGE_SIZE * PAGE_SIZE
                overwrite(path, offset, bytes(chance.choice([512, PAGE_SIZE, 4096])))
            case 2:
                overwrite(
                    path, chance.randrange(size), chance.randbytes(chance.choice([4, 64, 900]))
                )
            case 3 if chance.random() < 0.3:
                os.truncate(path, chance.randrange(1, size))
                size = path.stat().st_size


@pytest.mark.parametrize("seed", range(200))
def test_any_damage_leaves_a_working_queue(copy, few, caplog, seed):
    caplog.set_level(logging.CRITICAL)
    directory = copy(few)
    spoil(directory / FILE_NAME, random.Random(seed))
    queue = open_again(directory)
    assert queue.books.balanced
    numbers = drained(queue)
    assert len(numbers) == len(set(numbers))
    assert set(numbers) <= {*range(300), *range(1000, 1005)}
    queue.put_many([event(4000)])
    assert drained(queue) == [4000]
    queue.close()
    cases = quarantined(directory)
    expect_sound(directory, cases)


def test_the_reason_file_says_what_happened(copy, few):
    directory = copy(few)
    overwrite(directory / FILE_NAME, leaf(directory / FILE_NAME, 200), bytes(PAGE_SIZE))
    open_again(directory).close()
    reason = json.loads((directory / "quarantine" / "damaged-0001.json").read_text())
    assert reason == report(directory).damage
    assert (directory / "quarantine").stat().st_mode & 0o777 == 0o700
