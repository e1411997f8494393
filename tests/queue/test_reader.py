"""Reading beside the daemon and without it: in pages, and never in the way."""

import os
import sqlite3

import pytest

from agent.event import RawMessage
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.pages import ROWS, Selection
from agent.queue.reader import CannotRead, reading

CAP = 64 * 1024 * 1024
WAITING, DEAD_LETTERS = Selection(), Selection(dead=True)
WAL = f"{FILE_NAME}-wal"


def names(rows):
    return [row.item.name for row in rows]


def ids(leased):
    return [row.id for row in leased]


@pytest.fixture
def mixed(queue, make_event):
    """Waiting: b (leased), d and e; dead: a, a raw message, and c, which is damaged."""
    queue.put_many([make_event("a")])
    queue.bury(ids(queue.lease("main", limit=1)), reason="refused 400")
    queue.put_many([make_event("b"), RawMessage("mqtt", "malformed", b"\xff", make_event().stamp)])
    queue.lease("main", limit=1)
    queue.put_many([make_event("c", stream="main"), make_event("d", stream="other")])
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET data = 'x' WHERE _id = 4")
    assert queue.lease("main", limit=1) == ()  # that buries it
    queue.put_many([make_event("e")])
    return queue


def test_the_waiting_rows_are_read_in_order_those_that_are_leased_among_them(mixed, tmp_path):
    with reading(tmp_path) as reader:
        rows = list(reader.rows(WAITING))
    assert names(rows) == ["b", "d", "e"]
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert {row.reason for row in rows} == {None}


def test_the_dead_rows_are_read_with_their_reasons_the_damaged_one_too(mixed, tmp_path):
    with reading(tmp_path) as reader:
        rows = list(reader.rows(DEAD_LETTERS))
    assert [row.reason for row in rows] == ["refused 400", "malformed", "damaged"]
    event, raw, damaged = (row.item for row in rows)
    assert (event.name, raw.payload, damaged) == ("a", b"\xff", None)


def test_a_damaged_row_that_still_waits_is_read_as_damaged(queue, tmp_path, make_event):
    queue.put_many([make_event(), make_event(), make_event("good")])
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET data = NULL WHERE _id = 1")
        connection.execute(f"UPDATE {queue._table} SET data = 'text' WHERE _id = 2")
    with reading(tmp_path) as reader:
        items = [row.item for row in reader.rows(WAITING)]
    assert items[:2] == [None, None]
    assert items[2].name == "good"


def test_a_damaged_text_hides_no_row(queue, tmp_path, make_event):
    """A flipped bit can make a text that is no UTF-8."""
    queue.put_many([make_event("a"), make_event("b")])
    queue.bury(ids(queue.lease("main", limit=1)), reason="refused 400")
    with queue._putter as connection:
        connection.execute(
            f"UPDATE {queue._table} SET stream = CAST(x'ff41' AS TEXT), reason = CAST(x'fe' AS TEXT)"
        )
    with reading(tmp_path) as reader:
        assert names(reader.rows(WAITING)) == ["b"]
        [dead] = reader.rows(DEAD_LETTERS)
    assert (dead.item.name, dead.stream, dead.reason) == ("a", "\ufffdA", "\ufffd")


def test_filters_are_for_streams_names_reasons_and_ids(mixed, tmp_path):
    with reading(tmp_path) as reader:
        assert names(reader.rows(Selection(stream="other"))) == ["d"]
        assert names(reader.rows(Selection(name="e"))) == ["e"]
        assert names(reader.rows(Selection(name="e", stream="other"))) == []
        assert names(reader.rows(Selection(dead=True, reason="refused 400"))) == ["a"]
        assert names(reader.rows(Selection(upto=2))) == ["b"]


def test_it_counts_what_it_would_read(mixed, tmp_path):
    selections = [WAITING, DEAD_LETTERS, Selection(stream="other"), Selection(upto=2)]
    with reading(tmp_path) as reader:
        counted = [reader.count(selection) for selection in selections]
        read = [len(list(reader.rows(selection))) for selection in selections]
    assert counted == read == [3, 3, 1, 1]


def test_everything_is_read_across_pages(queue, tmp_path, make_event):
    number = 2 * ROWS + 7
    queue.put_many([make_event(f"e{i}") for i in range(number)])
    with reading(tmp_path) as reader:
        assert names(reader.rows(WAITING)) == [f"e{i}" for i in range(number)]


def test_what_arrives_while_it_reads_does_not_make_it_read_for_ever(queue, tmp_path, make_event):
    queue.put_many([make_event() for _ in range(ROWS + 1)])
    with reading(tmp_path) as reader:
        selection = Selection(upto=reader.newest_id)
        number = 0
        for _ in reader.rows(selection):
            number += 1
            queue.put_many([make_event()])
    assert number == ROWS + 1


def test_between_two_pages_it_holds_nobody_up_and_pins_no_wal(queue, tmp_path, make_event):
    """A long read transaction would keep the WAL from being used anew: it would fill the card."""
    queue.put_many([make_event() for _ in range(3 * ROWS)])
    with reading(tmp_path) as reader:
        rows = reader.rows(WAITING)
        next(rows)
        checkpoint = sqlite3.connect(tmp_path / FILE_NAME)
        busy, left, moved = checkpoint.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        checkpoint.close()
        assert (busy, left, moved) == (0, 0, 0)
        assert (tmp_path / WAL).stat().st_size == 0
        queue.ack_many(ids(queue.lease("main", limit=25)))
        assert len(list(rows)) == 3 * ROWS - 1, "the rest of the first page was read before"


def test_rows_that_leave_while_it_reads_are_missed_at_most(queue, tmp_path, make_event):
    queue.put_many([make_event(f"e{i}") for i in range(ROWS + 50)])
    with reading(tmp_path) as reader:
        rows = reader.rows(WAITING)
        read = [next(rows)]
        while leased := queue.lease("main", limit=25):
            queue.ack_many(ids(leased))
        read += rows
    assert names(read) == [f"e{i}" for i in range(ROWS)]


def test_it_reads_when_no_daemon_has_the_file_open(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event("a")])
    queue.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with reading(tmp_path) as reader:
        assert names(reader.rows(WAITING)) == ["a"]
        assert reader.newest_id == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._connection.execute("DELETE FROM ack_queue_default")
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_an_empty_queue_has_no_rows_and_no_newest_id(queue, tmp_path):
    with reading(tmp_path) as reader:
        assert (reader.newest_id, list(reader.rows(WAITING)), reader.oldest) == (0, [], None)


def test_what_is_no_queue_is_said_to_be_none(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 1000)
    with pytest.raises(CannotRead, match="not a database"), reading(tmp_path) as reader:
        list(reader.rows(WAITING))


def test_trouble_of_who_reads_is_not_taken_for_trouble_with_the_queue(queue, tmp_path):
    with pytest.raises(OSError, match="stick is full"), reading(tmp_path):
        raise OSError("the stick is full")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_root_leaves_no_file_behind_that_the_owner_cannot_use(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event("a")])
    queue.close()
    for path in (tmp_path, *tmp_path.iterdir()):
        os.chown(path, 65534, 65534)
    with reading(tmp_path) as reader:
        assert names(reader.rows(WAITING)) == ["a"]
        owners = {path.name: path.stat().st_uid for path in tmp_path.iterdir()}
    owners |= {path.name: path.stat().st_uid for path in tmp_path.iterdir()}
    assert set(owners.values()) == {65534}
    assert WAL in owners, "SQLite had made its files"
