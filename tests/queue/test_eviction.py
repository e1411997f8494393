"""A full queue: who goes, in what order, and that each is counted."""

import random
import sqlite3
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.event import Event, Priority, RawMessage, Sender, Stamp
from agent.queue.cap import Cap
from agent.queue.entries import SourceState
from agent.queue.event_queue import RESERVE, EventQueue
from agent.queue.failures import QueueFull
from agent.queue.pages import Selection
from agent.queue.rows import DEAD_BYTES, HELD, recount
from tests.conftest import STAMP

CAP = 4 * 1024 * 1024
ROOM = CAP - RESERVE
TEXT = "x" * 2000  # of an event: 800 fill the room
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


@pytest.fixture
def full(tmp_path):
    queue = EventQueue.open(tmp_path, max_bytes=CAP, on_full="evict")
    yield queue
    assert queue.books.balanced
    assert queue.used_bytes <= queue.cap.room + 8 * 1024
    queue.close()


@pytest.fixture
def refusing(tmp_path):
    queue = EventQueue.open(tmp_path, max_bytes=CAP, on_full="refuse")
    yield queue
    assert queue.books.balanced
    queue.close()


@pytest.fixture
def some(make_event):
    """Makes so many events of a priority, each of about 2 kB."""

    def make(number, priority=NORMAL, name="tap"):
        return [make_event(name, priority=priority, params={"text": TEXT}) for _ in range(number)]

    return make


def waiting(queue):
    """The priorities of what waits, in the order of arrival, with their event ids."""
    rows = queue._getter.execute(
        "SELECT CAST(data AS BLOB) FROM ack_queue_default WHERE status < 2 ORDER BY _id"
    ).fetchall()
    return [queue._serializer.loads(data) for (data,) in rows]


def by_priority(queue):
    return Counter(event.priority for event in waiting(queue))


def counted(queue):
    """As what the rows are counted, without what has come to nothing."""
    counters = queue._ledger.counters
    return Counter({k: n for k, n in counters.items() if n and k.startswith(HELD)})


def put(queue, events):
    for first in range(0, len(events), 5):
        queue.put_many(events[first : first + 5])


def test_the_oldest_of_the_least_important_go_first(full, some):
    low, normal = some(300, LOW), some(400, NORMAL)
    put(full, [*low, *normal])
    put(full, some(200, NORMAL))
    left = waiting(full)
    gone = full.books.dropped["evicted"]
    assert gone > 0
    assert [e.event_id for e in left if e.priority == LOW] == [e.event_id for e in low[gone:]]
    assert by_priority(full)[NORMAL] == 600


def test_when_nothing_less_important_is_left_the_own_oldest_go(full, some):
    events = some(1200)
    put(full, events)
    left = waiting(full)
    assert [e.event_id for e in left] == [e.event_id for e in events[-len(left) :]]
    assert full.books.dropped == {"evicted": 1200 - len(left)}


def test_what_is_more_important_than_what_comes_stays(full, some):
    high = some(900, HIGH)
    put(full, high)
    there = by_priority(full)[HIGH]
    full.put_many(some(30, LOW))
    left = by_priority(full)
    assert left[HIGH] == there
    assert left[LOW] < 5, "but for what the last high ones left of a page or two"
    books = full.books
    assert books.received == 930
    assert books.dropped == {"evicted": 930 - left.total()}, "what finds no room is counted at once"


def test_a_tenth_of_the_room_is_kept_for_high(full, some):
    put(full, some(1000, NORMAL))
    normal = by_priority(full)[NORMAL]
    evicted = full.books.dropped["evicted"]
    reserved = int(ROOM / 10 / 2600)
    put(full, some(reserved, HIGH))
    assert by_priority(full) == {HIGH: reserved, NORMAL: normal}
    assert full.books.dropped["evicted"] == evicted


def test_high_drives_out_the_others_when_its_share_is_used_up(full, some):
    put(full, [*some(400, LOW), *some(1000, NORMAL)])
    put(full, some(1000, HIGH))
    assert set(by_priority(full)) == {HIGH}


def test_what_is_being_delivered_is_never_evicted(full, some):
    put(full, some(800))
    leased = [row for _ in range(4) for row in full.lease("main", limit=25)]
    put(full, some(800))
    ids = {event.event_id for event in waiting(full)}
    assert {row.event.event_id for row in leased} <= ids
    full.release([row.id for row in leased])
    again = full.lease("main", limit=25)
    assert [row.id for row in again] == [row.id for row in leased[:25]], "they are still first"


def test_what_was_given_back_can_go_later(full, some):
    put(full, some(800))
    leased = full.lease("main", limit=25)
    put(full, some(100))
    full.release([row.id for row in leased])
    put(full, some(100))
    assert not {row.event.event_id for row in leased} & {e.event_id for e in waiting(full)}


def test_dead_letters_go_before_any_event(full, some):
    put(full, some(150))
    while rows := full.lease("main", limit=25):
        full.bury([row.id for row in rows], reason="expired")
    put(full, some(700))
    books = full.books
    assert 0 < books.dead < 150, "some had to go, for events that still can be sent"
    assert books.dropped == {"expired": 150 - books.dead}
    put(full, some(200, HIGH))
    assert full.books.dropped["expired"] == 150
    assert full.books.dropped["evicted"] > 0, "only then events go"


def test_dead_letters_have_a_quarter_of_the_cap(full, some):
    for _ in range(5):
        put(full, some(150))
        while rows := full.lease("main", limit=25):
            full.bury([row.id for row in rows], reason="expired")
    dead = recount(full._getter, "ack_queue_default")[DEAD_BYTES]
    assert CAP // 4 - 5000 < dead <= CAP // 4
    books = full.books
    assert books.dead + books.dropped["expired"] == 750


def test_a_message_that_is_a_dead_letter_from_the_start_drives_out_no_event(full, some):
    put(full, some(1000, HIGH))
    there = by_priority(full)[HIGH]
    full.put_many([RawMessage("mqtt", "malformed", b"x" * 4000, STAMP)])
    assert by_priority(full)[HIGH] == there
    assert full.books.dropped["expired"] == 1


def test_a_source_that_is_to_wait_is_told_and_nothing_goes(refusing, some):
    with pytest.raises(QueueFull):
        put(refusing, some(1000))
    stored = refusing.books.received
    assert refusing.books.queued == stored
    assert refusing.books.dropped == {}
    put(refusing, some(20, HIGH))
    assert refusing.books.queued == stored + 20, "high has its share still"
    with pytest.raises(QueueFull):
        put(refusing, some(1000, HIGH))


def test_what_lies_beside_the_database_leaves_less_room(full, some):
    put(full, some(800))
    before = full.books.queued
    full.cap.note("spool", 600 * 1024)
    put(full, some(1))
    assert full.used_bytes <= full.cap.room
    assert full.books.queued < before


def test_rows_keep_a_quarter_of_the_room_whatever_lies_in_files():
    cap = Cap(CAP, reserve=RESERVE)
    cap.note("spool", 100 * CAP)
    assert cap.room == ROOM // 4


def test_what_was_to_go_for_a_put_that_failed_waits_as_before(full, some):
    put(full, some(800))
    before = [event.event_id for event in waiting(full)]

    def refuse(action, *_):
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_INSERT else sqlite3.SQLITE_OK

    full._putter.set_authorizer(refuse)
    with pytest.raises(Exception, match="not authorized"):
        full.put_many(some(5))
    full._putter.set_authorizer(None)
    assert [event.event_id for event in waiting(full)] == before
    leased = full.lease("main", limit=25)
    assert [row.event.event_id for row in leased] == before[:25]
    full.release([row.id for row in leased])


def test_sizes_are_known_again_after_a_restart(tmp_path, some):
    queue = EventQueue.open(tmp_path, max_bytes=CAP, on_full="evict")
    put(queue, [*some(100, HIGH), *some(100, LOW), *some(100)])
    queue.bury([row.id for row in queue.lease("main", limit=25)], reason="expired")
    expected = recount(queue._getter, "ack_queue_default")
    assert counted(queue) == expected
    queue.close()
    queue = EventQueue.open(tmp_path, max_bytes=CAP, on_full="evict")
    assert counted(queue) == expected
    queue.close()


@pytest.mark.parametrize(
    "wrong",
    [
        "DELETE FROM ledger WHERE counter LIKE '%:%'",
        "UPDATE ledger SET value = -1 WHERE counter LIKE 'waiting:%'",
    ],
)
def test_what_cannot_be_is_counted_anew(tmp_path, some, wrong):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    put(queue, some(40))
    queue.bury([row.id for row in queue.lease("main", limit=25)], reason="expired")
    queue._putter.execute(wrong)
    queue._putter.commit()
    queue.close()
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    assert counted(queue) == recount(queue._getter, "ack_queue_default")
    assert queue.ready("main") == 15
    queue.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([HIGH, NORMAL, LOW]), st.integers(1, 60)),
        st.tuples(st.sampled_from(["ack", "bury", "release"]), st.integers(1, 25)),
        st.tuples(st.sampled_from(["requeue", "purge dead", "raw"])),
        st.tuples(st.just("spool"), st.integers(0, CAP)),
    ),
    max_size=40,
)


@given(steps=STEPS, seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_whatever_happens_the_books_balance_and_the_room_is_kept(tmp_path_factory, steps, seed):
    queue = EventQueue.open(tmp_path_factory.mktemp("q"), max_bytes=CAP, on_full="evict")
    Story(queue, random.Random(seed)).play(steps)
    queue.close()


class Story:
    """Takes random steps, and checks after each what always holds."""

    def __init__(self, queue, rng):
        self.queue = queue
        self.rng = rng
        self.numbers = iter(range(10**6))

    def play(self, steps):
        for step, *values in steps:
            getattr(self, step.replace(" ", "_"))(*values)
            self.check()

    def check(self):
        queue = self.queue
        assert queue.books.balanced
        assert counted(queue) == recount(queue._getter, "ack_queue_default")
        assert queue.ready("main") == queue.books.queued

    def put(self, priority, number):
        size = self.rng.choice([10, 2000, 9000])
        events = [self.event(priority, size) for _ in range(number)]
        before = self.queue.used_bytes
        with suppress(QueueFull):  # they may be more than all the room
            self.queue.put_many(events)
        room = self.queue.cap.room
        # Sizes are rough; and what is more important stays when the room has become less.
        assert self.queue.used_bytes <= max(before, room + room // 20) + 16 * 1024

    def event(self, priority, size):
        return Event(
            name="tap", params={"text": "x" * size}, stream="main", sender=Sender(client_id="1.1"),
            stamp=Stamp(1_800_000_000_000_000 + next(self.numbers), 1, "b", trusted=True),
            event_id=f"{next(self.numbers):016x}", priority=priority,
        )  # fmt: skip

    def ack(self, limit):
        self.queue.ack_many([row.id for row in self.queue.lease("main", limit=limit)])

    def bury(self, limit):
        rows = self.queue.lease("main", limit=limit)
        self.queue.bury([row.id for row in rows], reason="expired")

    def release(self, limit):
        self.queue.release([row.id for row in self.queue.lease("main", limit=limit)])

    def requeue(self):
        self.queue.requeue(Selection(dead=True))

    def purge_dead(self):
        self.queue.purge(Selection(dead=True))

    def raw(self):
        self.queue.put_many([RawMessage("mqtt", "malformed", b"x" * 4000, STAMP)])

    def spool(self, size):
        self.queue.cap.note("spool", size)


def test_what_can_stay_where_it_is_drives_nobody_out(full, some):
    put(full, some(800))
    there = full.books
    with pytest.raises(QueueFull):
        full.put_many(some(5), can_wait=True)
    assert full.books == there


def test_files_wait_for_room_only_up_to_half_of_the_cap(full, some):
    full.cap.note("spool", CAP // 2 + 1)
    put(full, some(400))
    there = full.books
    full.put_many(some(5), can_wait=True)
    assert full.books.received == there.received + 5
    assert full.books.dropped["evicted"] > there.dropped.get("evicted", 0)


def test_what_is_no_event_is_kept_even_when_the_queue_is_full(refusing, some):
    with pytest.raises(QueueFull):
        put(refusing, some(1000, HIGH))
    refusing.put_many([], state=[SourceState("mqtt", "topic", "")])
    assert refusing.source_state("mqtt") == {"topic": ""}
