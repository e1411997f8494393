"""What is committed with events, and what is counted beside them: together, and bounded."""

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from agent.event import BootRow
from agent.queue import event_queue
from agent.queue.bounded import BOOTS, SEEN_SLACK, Bounds
from agent.queue.entries import Seen, SessionState
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import QueueFull
from agent.queue.reader import read_snapshot
from tests.conftest import STAMP

CAP = 64 * 1024 * 1024
SMALL = 4 * 1024 * 1024


def ids(leased):
    return [row.id for row in leased]


def rows(path, table):
    connection = sqlite3.connect(path / FILE_NAME)
    number = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
    connection.close()
    return number


@pytest.fixture
def small(tmp_path):
    """A queue of the smallest cap, with bounds to match."""
    queue = EventQueue.open(tmp_path, max_bytes=SMALL)
    yield queue
    queue.close()


def test_everything_is_committed_with_the_events(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many(
        [make_event()],
        sessions=[SessionState("1.1", "0001 a")],
        seen=[Seen("event_id", "k"), Seen("transaction", "t", "d")],
        boots=[BootRow("b", 1, "{}")],
        counts={"repaired.text_cut": 2, "noted.pii_suspected": 1, "refused.duplicate": 3},
    )
    queue.close()
    again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert again.session("1.1") == "0001 a"
    assert again.session("2.2") is None
    assert (again.seen("event_id"), again.seen("transaction")) == ([("k", "")], [("t", "d")])
    assert again.seen("mqtt") == []
    assert again.boots() == [("b", 1, "{}")]
    books = again.books
    assert (books.repaired, books.noted) == ({"text_cut": 2}, {"pii_suspected": 1})
    assert books.refused == {"duplicate": 3}
    assert books.balanced
    again.close()


def test_what_is_declined_leaves_nothing_of_it(small, make_event):
    with pytest.raises(QueueFull):
        small.put_many(
            [make_event(params={"text": "x" * SMALL})],
            sessions=[SessionState("1.1", "1")],
            seen=[Seen("event_id", "k")],
            boots=[BootRow("b", 1, "{}")],
            counts={"repaired.text_cut": 1},
        )
    assert (small.session("1.1"), small.seen("event_id"), small.boots()) == (None, [], [])
    assert small.books.repaired == {}
    assert small.days() == []


@pytest.mark.parametrize("counter", ["received", "sent", "dropped.x", "repaired"])
def test_nobody_can_unbalance_the_books_from_outside(queue, counter):
    with pytest.raises(ValueError, match="expected one of"):
        queue.put_many([], counts={counter: 1})
    with pytest.raises(ValueError, match="expected one of"):
        queue.ack_many([], counts={counter: 1})


def test_counts_of_what_left_are_committed_with_it(queue, tmp_path, make_event):
    queue.put_many([make_event()])
    queue.ack_many(ids(queue.lease("main", limit=1)), counts={"noted.left_after_24h": 1})
    assert read_snapshot(tmp_path).books.noted == {"left_after_24h": 1}


def test_an_older_state_of_a_session_does_not_replace_a_later_one(queue):
    for state in ("0005 a", "0004 b", "0005 a", "0006 c", "0001 d"):
        queue.put_many([], sessions=[SessionState("1.1", state)])
    assert queue.session("1.1") == "0006 c"


def test_sessions_are_bounded_and_the_latest_stay(tmp_path, small):
    most = small._bounded._bounds.sessions
    for number in range(0, 3 * most, 50):
        batch = range(number, number + 50)
        small.put_many([], sessions=[SessionState(f"{n}.1", f"{n:020} x") for n in batch])
    assert most <= rows(tmp_path, "sessions") <= most + most // 10 + 1
    assert small.session(f"{3 * most - 1}.1") is not None
    assert small.session("0.1") is None


def test_sessions_are_counted_anew_after_a_restart(tmp_path, small):
    most = small._bounded._bounds.sessions
    small.put_many([], sessions=[SessionState(f"{n}.1", f"{n:020}") for n in range(most)])
    small.close()
    again = EventQueue.open(tmp_path, max_bytes=SMALL)
    for n in range(most, 2 * most):
        again.put_many([], sessions=[SessionState(f"{n}.1", f"{n:020}")])
    assert rows(tmp_path, "sessions") <= most + most // 10 + 1
    again.close()


def test_what_was_seen_is_bounded_by_kind_and_the_newest_stay(tmp_path, small):
    most = small._bounded._bounds.seen
    small.put_many([], seen=[Seen("mqtt", "one", "")])
    for number in range(0, 3 * most, 50):
        small.put_many([], seen=[Seen("event_id", str(number + i)) for i in range(50)])
    found = small.seen("event_id")
    assert len(found) == most
    assert found[-1] == (str(number + 49), "")
    assert [int(key) for key, _ in found] == sorted(int(key) for key, _ in found)
    assert rows(tmp_path, "seen") <= most + SEEN_SLACK + 1
    assert small.seen("mqtt") == [("one", "")]


def test_the_oldest_that_was_seen_is_forgotten_without_a_search(queue):
    sql = "EXPLAIN QUERY PLAN DELETE FROM seen WHERE kind = 'mqtt' AND number <= 5"
    [plan] = queue._getter.execute(sql).fetchall()
    assert "SEARCH seen USING PRIMARY KEY" in plan[3]


def test_the_newest_boots_are_kept_in_their_order(queue, tmp_path):
    for number in range(BOOTS + 20):
        queue.put_many([], boots=[BootRow(f"b{number}", number, "{}")])
    queue.put_many([], boots=[BootRow("b100", 100, '{"new":1}')])
    found = queue.boots()
    assert [number for _, number, _ in found] == list(range(20, BOOTS + 20))
    assert found[80] == ("b100", 100, '{"new":1}')
    assert read_snapshot(tmp_path).boots == tuple(BootRow(*row) for row in found)


def test_the_bounds_fit_into_a_quarter_of_what_a_queue_may_take():
    for room in (1024 * 1024, 2 * 1024 * 1024, 62 * 1024 * 1024):
        bounds = Bounds.within(room)
        assert 3 * bounds.seen * 100 + bounds.sessions * 250 + bounds.clients * 120 <= room // 4
    assert Bounds.within(CAP - event_queue.RESERVE) == Bounds(10_000, 10_000, 500, 2000)


def test_the_newest_stamp_is_that_of_what_came_last(queue, make_event):
    assert queue.newest_stamp() is None
    first, second = make_event("a"), make_event("b")
    queue.put_many([first, second])
    assert queue.newest_stamp() == STAMP
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET data = 'damaged' WHERE _id = 2")
    assert queue.newest_stamp() == first.stamp


# -- what must not be sent twice ------------------------------------------------------------


def test_what_was_being_sent_at_a_crash_is_dropped_and_counted(tmp_path, make_event, caplog):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event(f"e{n}") for n in range(4)])
    leased = queue.lease("main", limit=3)
    queue.mark_sending(ids(leased))
    queue.unmark_sending(ids(leased[2:]))
    queue.close()
    with caplog.at_level(logging.WARNING):
        again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert "dropping 2 events" in caplog.text
    assert [row.event.name for row in again.lease("main", limit=9)] == ["e2", "e3"]
    assert again.books.dropped == {"uncertain": 2}
    assert again.books.balanced
    assert read_snapshot(tmp_path).books == again.books
    again.close()
    assert not EventQueue.open(tmp_path, max_bytes=CAP).close()
    assert read_snapshot(tmp_path).books.dropped == {"uncertain": 2}, "only once"


def test_what_was_sent_or_buried_meanwhile_is_not_uncertain(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event() for _ in range(3)])
    first, second, third = (queue.lease("main", limit=1) for _ in range(3))
    queue.mark_sending(ids([*first, *second, *third]))
    queue.ack_many(ids(first))
    queue.bury(ids(second), reason="refused")
    queue.drop(ids(third), reason="uncertain")
    books = queue.books
    queue.close()
    again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert again.books == books
    assert (books.sent, books.dead, books.queued, books.dropped) == (1, 1, 0, {"uncertain": 1})
    again.close()


def test_if_the_disk_refuses_at_the_start_what_is_uncertain_is_leased_to_nobody(
    tmp_path, make_event, monkeypatch
):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event("sending"), make_event("waiting")])
    queue.mark_sending(ids(queue.lease("main", limit=1)))
    queue.close()

    def refuse(*_args, **_kwargs):
        raise event_queue.StorageError("read_only", "cannot use the queue's disk")

    with monkeypatch.context() as patch:
        patch.setattr(EventQueue, "drop", refuse)
        again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert [row.event.name for row in again.lease("main", limit=9)] == ["waiting"]
    again.close()


def test_a_mark_is_on_the_disk_when_the_call_returns(queue, tmp_path, make_event):
    queue.put_many([make_event(), make_event()])
    leased = queue.lease("main", limit=2)
    queue.mark_sending(ids(leased[:1]))
    other = sqlite3.connect(tmp_path / FILE_NAME)
    assert other.execute(f"SELECT sending FROM {queue._table}").fetchall() == [(1,), (0,)]
    other.close()


# -- across a kill --------------------------------------------------------------------------

WRITER = """
import itertools, sys
from pathlib import Path
from agent.event import Event, Sender, Stamp
from agent.queue.entries import Seen, SessionState
from agent.queue.event_queue import EventQueue
queue = EventQueue.open(Path(sys.argv[1]), max_bytes=64 * 1024 * 1024)
for n in itertools.count(1):
    stamp = Stamp(1_800_000_000_000_000 + n, n, "boot", True)
    event = Event(name=f"e{n % 3}", stream="main", sender=Sender(client_id="1.1"), stamp=stamp,
                  event_id=f"{n:016x}")
    queue.put_many([event], sessions=[SessionState("1.1", f"{n:020}")],
                   seen=[Seen("event_id", str(n))], counts={"repaired.text_cut": 1})
    if n % 2:
        queue.ack_many([row.id for row in queue.lease("main", limit=1)])
    print(n, flush=True)
"""


def test_a_kill_leaves_events_ledger_days_sessions_and_seen_in_step(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with writer:
        said = [int(next(writer.stdout)) for _ in range(150)][-1]
        os.kill(writer.pid, signal.SIGKILL)
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    books, days = queue.books, queue.days()
    assert books.balanced
    assert books.received >= said
    assert sum(row.received for row in days) == books.received
    assert sum(row.sent for row in days) == books.sent
    assert queue.seen("event_id") == [(str(n), "") for n in range(1, books.received + 1)]
    assert queue.session("1.1") == f"{books.received:020}"
    assert books.repaired == {"text_cut": books.received}
    assert json.loads(json.dumps(books.queued)) == queue.ready("main")
    queue.close()
