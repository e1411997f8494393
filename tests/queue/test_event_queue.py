"""The queue's promises, on a real file."""

import os
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import persistqueue
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.event import Priority, RawMessage
from agent.queue import serializer
from agent.queue.entries import SourceState, Traffic
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import QueueFull, UnreadableQueue
from agent.queue.pages import DEAD
from agent.queue.reader import CannotRead, read_snapshot
from agent.queue.schema import PAGE_SIZE, VERSION

CAP = 64 * 1024 * 1024


def names(leased):
    return [row.event.name for row in leased]


def ids(leased):
    return [row.id for row in leased]


def pragma(path, name):
    connection = sqlite3.connect(path / FILE_NAME)
    value = connection.execute(f"PRAGMA {name}").fetchone()[0]
    connection.close()
    return value


def test_what_was_put_is_leased_in_order(queue, make_event):
    queue.put_many([make_event("a"), make_event("b")])
    queue.put_many([make_event("c")])
    assert names(queue.lease("main", limit=25)) == ["a", "b", "c"]


def test_a_lease_holds_one_sender_and_keeps_the_order_of_the_others(queue, make_event):
    queue.put_many([make_event(f"e{i}", client=f"{i % 2}.1") for i in range(6)])
    first, second = queue.lease("main", limit=25), queue.lease("main", limit=25)
    assert names(first) == ["e0", "e2", "e4"]
    assert names(second) == ["e1", "e3", "e5"]
    assert queue.lease("main", limit=25) == ()


def test_a_lease_holds_one_stream(queue, make_event):
    queue.put_many([make_event("a"), make_event("b", stream="other"), make_event("c")])
    assert names(queue.lease("other", limit=25)) == ["b"]
    assert names(queue.lease("main", limit=25)) == ["a", "c"]


def test_high_priority_leaves_first_and_low_last(queue, make_event):
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        queue.put_many([make_event(priority.name, priority=priority)])
    order = [names(queue.lease("main", limit=25)) for _ in range(3)]
    assert order == [["HIGH"], ["NORMAL"], ["LOW"]]


def test_a_lease_takes_no_more_than_its_limit(queue, make_event):
    queue.put_many([make_event(f"e{i}") for i in range(60)])
    assert [len(queue.lease("main", limit=25)) for _ in range(4)] == [25, 25, 10, 0]


def test_released_events_are_next_again_in_their_order(queue, make_event):
    queue.put_many([make_event(f"e{i}") for i in range(5)])
    first = queue.lease("main", limit=2)
    second = queue.lease("main", limit=2)
    queue.release(ids(second))
    queue.release(ids(first))
    assert names(queue.lease("main", limit=25)) == [f"e{i}" for i in range(5)]


def test_leased_events_are_nobody_elses_and_come_again_after_a_restart(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event("a")])
    assert names(queue.lease("main", limit=25)) == ["a"]
    assert queue.lease("main", limit=25) == ()
    queue.close()
    again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert names(again.lease("main", limit=25)) == ["a"]
    again.close()


def test_acknowledged_rows_are_deleted_and_counted(queue, make_event):
    queue.put_many([make_event() for _ in range(3)])
    leased = queue.lease("main", limit=2)
    queue.ack_many(ids(leased), traffic=Traffic(requests=1, sent=700, received=90))
    books = queue.books
    assert (books.received, books.sent, books.queued) == (3, 2, 1)
    assert (books.requests, books.bytes_sent, books.bytes_received) == (1, 700, 90)
    assert books.balanced
    assert queue._read_one(f"SELECT COUNT(*) FROM {queue._table}") == 1


def test_a_buried_event_keeps_its_content_and_reason_with_upstreams_status(queue, make_event):
    queue.put_many([make_event("bad")])
    queue.bury(ids(queue.lease("main", limit=1)), reason="refused_400")
    [(data, status, reason)] = queue._read(f"SELECT data, status, reason FROM {queue._table}")
    assert (serializer.loads(data).name, status, reason) == ("bad", DEAD, "refused_400")
    assert (queue.books.dead, queue.books.queued) == (1, 0)
    assert queue.lease("main", limit=25) == ()


def test_a_raw_message_is_a_dead_letter_from_the_start(queue, make_event):
    raw = RawMessage("mqtt", "malformed", b"\xff\x00", make_event().stamp)
    queue.put_many([raw, make_event("good")])
    assert names(queue.lease("main", limit=25)) == ["good"]
    assert (queue.books.received, queue.books.dead, queue.books.queued) == (2, 1, 1)


def test_the_source_state_is_committed_with_the_events(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event()], state=[SourceState("spool", "a.json", "1")])
    queue.put_many([], state=[SourceState("spool", "b.json", "2")])
    queue.put_many([], state=[SourceState("spool", "b.json", None)])
    queue.close()
    again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert again.source_state("spool") == {"a.json": "1"}
    again.close()


def test_a_declined_put_leaves_neither_events_nor_source_state(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=4 * 1024 * 1024)
    declined = False
    while not declined:
        big = [make_event(params={"text": "x" * 50_000}) for _ in range(10)]
        try:
            queue.put_many(big, state=[SourceState("spool", "last", "1")])
            queue.put_many([], state=[SourceState("spool", "last", None)])
        except QueueFull:
            declined = True
    assert queue.source_state("spool") == {}
    assert queue.books.received % 10 == 0
    assert queue.books.balanced
    queue.close()


def test_a_full_queue_stays_under_its_cap_and_takes_events_again_when_some_left(
    tmp_path, make_event
):
    cap = 4 * 1024 * 1024
    queue = EventQueue.open(tmp_path, max_bytes=cap)
    with pytest.raises(QueueFull, match="full") as full:
        for _ in range(1000):
            queue.put_many([make_event(params={"text": "x" * 1000}) for _ in range(100)])
    assert not full.value.never
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= cap
    for _ in range(8):
        queue.ack_many(ids(queue.lease("main", limit=25)))
    queue.put_many([make_event(params={"text": "x" * 1000}) for _ in range(100)])
    queue.close()


def test_page_size_auto_vacuum_and_version_are_set_before_wal(tmp_path):
    EventQueue.open(tmp_path, max_bytes=CAP).close()
    read = {name: pragma(tmp_path, name) for name in ("page_size", "auto_vacuum", "user_version")}
    assert read == {"page_size": PAGE_SIZE, "auto_vacuum": 2, "user_version": VERSION}
    assert pragma(tmp_path, "journal_mode") == "wal"


def test_both_connections_wait_for_the_disk_at_every_commit(queue):
    for connection in (queue._putter, queue._getter):
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_newer_file_is_not_touched(tmp_path):
    EventQueue.open(tmp_path, max_bytes=CAP).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(
        UnreadableQueue, match=f"found version {VERSION + 1}, expected at most {VERSION}"
    ):
        EventQueue.open(tmp_path, max_bytes=CAP)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_damaged_row_becomes_a_dead_letter_and_the_others_flow(queue, make_event):
    queue.put_many([make_event("a"), make_event("b")])
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET data = 'x' || substr(data, 2) WHERE _id = 1")
    assert names(queue.lease("main", limit=25)) == ["b"]
    assert (queue.books.dead, queue.books.queued) == (1, 1)
    assert queue.ready("main") == 0


def test_a_plain_persist_queue_reads_and_inserts_and_the_agent_adopts(tmp_path, make_event):
    ours = EventQueue.open(tmp_path, max_bytes=CAP)
    ours.put_many([make_event("ours")])
    ours.close()
    plain = persistqueue.SQLiteAckQueue(
        str(tmp_path), multithreading=True, serializer=serializer, db_file_name=FILE_NAME
    )
    assert plain.get(block=False).name == "ours"
    plain.put(make_event("theirs", client="2.2", stream="other", priority=Priority.HIGH))
    plain.close()
    again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert names(again.lease("main", limit=25)) == ["ours"]
    assert names(again.lease("other", limit=25)) == ["theirs"]
    assert (again.books.received, again.books.queued) == (2, 2)
    again.close()


def test_concurrent_puts_share_commits(tmp_path, make_event):
    """While one commit runs, all who arrive wait for the next one together."""
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    commits = []
    queue._putter.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    queue.tran_lock.acquire()  # the first commit cannot proceed until everybody has arrived
    threads = [
        threading.Thread(target=queue.put_many, args=([make_event(f"e{i}")],)) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    while len(queue._commits._waiting) < 15:
        time.sleep(0.001)
    queue.tran_lock.release()
    for thread in threads:
        thread.join()
    assert len(commits) == 2
    assert len(queue.lease("main", limit=25)) == 16
    queue.close()


def test_of_a_shared_commit_only_the_one_that_does_not_fit_is_declined(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=4 * 1024 * 1024)
    results = {}

    def put(name, size):
        try:
            queue.put_many([make_event(name, params={"text": "x" * size})])
            results[name] = "accepted"
        except QueueFull:
            results[name] = "full"

    queue.tran_lock.acquire()
    sizes = {"first": 10, "large": 8_000_000, "small": 10}
    threads = [threading.Thread(target=put, args=item) for item in sizes.items()]
    for number, thread in enumerate(threads):
        thread.start()
        while number and len(queue._commits._waiting) < number:
            time.sleep(0.001)
    queue.tran_lock.release()
    for thread in threads:
        thread.join()
    assert results == {"first": "accepted", "large": "full", "small": "accepted"}
    queue.close()


def test_what_no_empty_queue_could_hold_is_told_apart(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=4 * 1024 * 1024)
    with pytest.raises(QueueFull) as full:
        queue.put_many([make_event(params={"text": "x" * 50_000}) for _ in range(100)])
    assert full.value.never
    queue.close()


def test_one_high_event_is_found_behind_many_normal_ones_by_the_partial_index(queue):
    """Without the index, finding it would be a scan of everything that waits."""
    statements = []
    queue._getter.set_trace_callback(statements.append)
    list(queue._waiting(0, "main", Priority.HIGH))
    [sql] = statements
    plan = queue._getter.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
    assert "queue_priority" in plan[0][3]


def test_giving_back_wakes_nobody(tmp_path, make_event):
    """Who gives back knows when it will look again; a ring would make it look at once."""
    rings = []
    queue = EventQueue.open(tmp_path, max_bytes=CAP, on_ready=lambda: rings.append(1))
    queue.put_many([make_event()])
    queue.release(ids(queue.lease("main", limit=25)))
    assert rings == [1]
    queue.close()


def test_damage_in_a_column_beside_the_event_raises_nothing(queue, make_event):
    queue.put_many([make_event("a"), make_event("b", client="2.2")])
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET sender = CAST(x'ff41' AS TEXT) WHERE _id=1")
    assert names(queue.lease("main", limit=25)) == ["a"]
    assert names(queue.lease("main", limit=25)) == ["b"]


def test_a_drained_backlog_gives_its_space_back(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    for _ in range(40):
        queue.put_many([make_event(params={"text": "x" * 500}) for _ in range(250)])
    full = (tmp_path / FILE_NAME).stat().st_size
    while leased := queue.lease("main", limit=25):
        queue.ack_many(ids(leased))
    queue.close()
    assert full > 8_000_000
    assert (tmp_path / FILE_NAME).stat().st_size < 2_000_000


def test_refused_counts_are_written_with_the_next_commit(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.note_refused("malformed", 2)
    assert queue.books.refused == {"malformed": 2}
    assert read_snapshot(tmp_path).books.refused == {}
    queue.put_many([make_event()])
    assert read_snapshot(tmp_path).books.refused == {"malformed": 2}
    queue.note_refused("malformed")
    queue.write_noted()
    assert read_snapshot(tmp_path).books.refused == {"malformed": 3}
    queue.close()


def test_the_reader_sees_books_and_oldest_while_the_queue_is_open(queue, tmp_path, make_event):
    queue.put_many([make_event("first"), make_event("second")])
    snapshot = read_snapshot(tmp_path)
    assert snapshot.books == queue.books
    assert snapshot.oldest.name == "first"
    assert snapshot.used_bytes == queue.used_bytes


def test_the_reader_says_that_there_is_no_queue(tmp_path):
    with pytest.raises(CannotRead, match="found no"):
        read_snapshot(tmp_path)


def read_as_nobody(directory):
    """What a user without rights is told; asked in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            read_snapshot(directory)
        except CannotRead as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_who_may_not_read_the_queue_is_told_who_may():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        state = Path(folder, "state")
        state.mkdir(mode=0o750)
        EventQueue.open(state, max_bytes=CAP).close()
        told = read_as_nobody(state)
    assert "Permission denied" in told
    assert told.endswith("run this as root or as the user root, who owns it")


def test_the_pinned_private_names_of_persist_queue_exist(queue):
    for name in ("_new_db_connection", "_init", "_count", "tran_lock", "action_lock"):
        assert hasattr(persistqueue.SQLiteAckQueue(":memory:"), name)
    for name in ("_getter", "_putter", "_serializer", "_table_name", "total", "put_event"):
        assert hasattr(queue, name)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "lease", "ack", "release", "bury", "reopen"]), st.integers(0, 5)
    ),
    max_size=30,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=OPERATIONS)
def test_the_books_balance_and_nothing_is_lost_whatever_happens(
    operations, tmp_path_factory, make_event
):
    """A model beside the queue: every name put is queued, sent or dead, and leased once."""
    directory = tmp_path_factory.mktemp("queue")
    queue = EventQueue.open(directory, max_bytes=CAP)
    put, sent, dead = [], [], []
    leases = []
    for operation, number in operations:
        if operation == "put":
            events = [make_event(client=f"{number % 2}.1") for _ in range(number)]
            queue.put_many(events)
            put += [event.event_id for event in events]
        elif operation == "lease":
            leases.append(queue.lease("main", limit=number + 1))
        elif operation == "reopen":
            queue.close()
            queue = EventQueue.open(directory, max_bytes=CAP)
            leases = []
        elif leases:
            leased = leases.pop()
            if operation == "ack":
                queue.ack_many(ids(leased))
                sent += [row.event.event_id for row in leased]
            elif operation == "bury":
                queue.bury(ids(leased), reason="test")
                dead += [row.event.event_id for row in leased]
            else:
                queue.release(ids(leased))
    held = [row.event.event_id for leased in leases for row in leased]
    rest = []
    while leased := queue.lease("main", limit=25):
        rest += [row.event.event_id for row in leased]
    assert sorted(put) == sorted(sent + dead + held + rest)
    books = queue.books
    assert (books.received, books.sent, books.dead) == (len(put), len(sent), len(dead))
    assert books.balanced
    queue.close()
