"""Purging and requeuing: page by page, counted, and never what somebody is delivering."""

import sqlite3
import threading
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.event import Event, Priority, RawMessage
from agent.queue.entries import Step
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import StorageError
from agent.queue.pages import BYTES, ROWS, Selection
from agent.queue.reader import read_snapshot
from tests.conftest import STAMP
from tests.queue.test_full_disk import full_queue, mebibytes, small_disk  # noqa: F401 - fixtures

CAP = 64 * 1024 * 1024
WAITING, DEAD_LETTERS = Selection(), Selection(dead=True)


def ids(leased):
    return [row.id for row in leased]


def names(leased):
    return [row.event.name for row in leased]


def all_of(step, selection):
    """Step by step to the end; what was done and kept in all, and how many steps it took."""
    done = kept = after = steps = 0
    while after is not None:
        one = step(selection, after=after)
        done, kept, after, steps = done + one.done, kept + one.kept, one.next, steps + 1
    return done, kept, steps


def drained(queue):
    """Deliver everything; the names in the order in which they left."""
    left = []
    while leased := queue.lease("main", limit=25):
        left += names(leased)
        queue.ack_many(ids(leased))
    return left


def buried(queue, *events, reason="refused"):
    queue.put_many(events)
    queue.bury(ids(queue.lease("main", limit=len(events))), reason=reason)


def damage(queue, row_id):
    with queue._putter as connection:
        sql = f"UPDATE {queue._table} SET data = 'x' || substr(data, 2) WHERE _id = {row_id}"
        connection.execute(sql)


# -- purge ----------------------------------------------------------------------------------


def test_purged_events_are_gone_and_counted_as_dropped(queue, make_event):
    queue.put_many([make_event() for _ in range(3)])
    assert queue.purge(WAITING) == Step(done=3, kept=0, next=None)
    books = queue.books
    assert (books.received, books.queued, books.dropped) == (3, 0, {"purged": 3})
    assert books.balanced
    assert queue.ready("main") == 0
    assert queue.lease("main", limit=25) == ()
    assert queue.oldest_candidates() == ()


def test_what_was_purged_stays_gone_after_a_restart(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event("a"), make_event("b")])
    queue.purge(Selection(name="a"))
    books = queue.books
    queue.close()
    again = EventQueue.open(tmp_path, max_bytes=CAP)
    assert again.books == books
    assert drained(again) == ["b"]
    again.close()


def test_a_purge_leaves_leased_events_to_who_delivers_them(queue, make_event):
    queue.put_many([make_event(f"e{i}") for i in range(5)])
    leased = queue.lease("main", limit=2)
    assert queue.purge(WAITING) == Step(done=3, kept=2, next=None)
    queue.ack_many(ids(leased))
    books = queue.books
    assert (books.sent, books.queued, books.dropped) == (2, 0, {"purged": 3})
    assert books.balanced


def test_leased_events_that_a_purge_left_can_be_given_back_and_leave_in_order(queue, make_event):
    queue.put_many([make_event(f"e{i}") for i in range(5)])
    first, second = queue.lease("main", limit=1), queue.lease("main", limit=1)
    queue.purge(WAITING)
    queue.release(ids(second))
    queue.release(ids(first))
    queue.put_many([make_event("later")])
    assert queue.ready("main") == 3
    assert drained(queue) == ["e0", "e1", "later"]


def test_a_purge_leaves_dead_letters_and_a_purge_of_those_leaves_the_events(queue, make_event):
    buried(queue, make_event("dead"))
    queue.put_many([make_event("alive")])
    assert queue.purge(DEAD_LETTERS).done == 1
    assert (queue.books.dead, queue.books.queued) == (0, 1)
    assert queue.purge(WAITING).done == 1
    assert queue.books.dropped == {"purged": 2}
    assert queue.books.balanced


def test_events_that_arrive_after_the_question_are_not_purged(queue, make_event):
    queue.put_many([make_event("asked about")])
    queue.put_many([make_event("came later")])
    queue.purge(Selection(upto=1))
    assert drained(queue) == ["came later"]


def test_a_filter_takes_only_what_fits(queue, make_event):
    queue.put_many(
        [
            make_event("tap"),
            make_event("vend"),
            make_event("tap", stream="other"),
            make_event("tap", priority=Priority.HIGH),
        ]
    )
    assert queue.purge(Selection(stream="main", name="tap")).done == 2
    assert drained(queue) == ["vend"]
    assert queue.ready("other") == 1


def test_dead_letters_are_told_apart_by_their_whole_reason(queue, make_event):
    buried(queue, make_event("a"), reason="refused")
    buried(queue, make_event("b"), reason="refused 400")
    assert queue.purge(Selection(dead=True, reason="refused")).done == 1
    assert queue.requeue(Selection(dead=True, reason="refused 400")).done == 1
    assert drained(queue) == ["b"]


def test_damaged_rows_and_raw_messages_can_be_purged(queue, make_event):
    queue.put_many([make_event(), make_event()])
    damage(queue, 1)
    queue.put_many([RawMessage("mqtt", "malformed", b"\xff", make_event().stamp)])
    assert queue.purge(WAITING).done == 2
    assert queue.purge(DEAD_LETTERS).done == 1
    assert queue.books.dropped == {"purged": 3}
    assert queue.books.balanced


def test_long_work_is_many_short_steps(queue, make_event):
    number = 2 * ROWS + 10
    queue.put_many([make_event() for _ in range(number)])
    assert all_of(queue.purge, WAITING) == (number, 0, 3)
    assert queue.books.balanced


def test_a_step_takes_so_few_bytes_that_the_wal_stays_bounded(queue, make_event):
    large = "x" * 60_000
    queue.put_many([make_event(params={"text": large}) for _ in range(20)])
    step = queue.purge(WAITING)
    assert BYTES / 60_000 <= step.done <= BYTES / 60_000 + 1
    assert step.next is not None


def test_a_purge_gives_its_space_back_through_a_bounded_wal(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    for _ in range(40):
        queue.put_many([make_event(params={"text": "x" * 500}) for _ in range(250)])
    full = (tmp_path / FILE_NAME).stat().st_size
    wal = tmp_path / f"{FILE_NAME}-wal"
    after, sizes = 0, []
    while after is not None:
        after = queue.purge(WAITING, after=after).next
        sizes.append(wal.stat().st_size)
    queue.close()
    assert full > 8_000_000
    assert (tmp_path / FILE_NAME).stat().st_size < 2_000_000
    assert max(sizes) < 2 * 1024 * 1024


@pytest.mark.parametrize("selection", [WAITING, DEAD_LETTERS], ids=["waiting", "dead"])
def test_a_purge_makes_room_on_a_full_disk(small_disk, make_event, selection):  # noqa: F811
    queue = full_queue(small_disk, make_event)
    number = queue.books.queued
    while selection.dead and (leased := queue.lease("main", limit=25)):
        queue.bury(ids(leased), reason="refused")
    assert all_of(queue.purge, selection)[0] == number
    assert queue.books.dropped == {"purged": number}
    assert queue.books.balanced
    (small_disk / "somebody-elses-file").unlink()
    queue.mend()
    queue.put_many([make_event()])
    queue.close()


def test_if_the_disk_refuses_the_purged_events_wait_as_before(queue, make_event, tmp_path):
    queue.put_many([make_event(f"e{i}") for i in range(3)])
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    queue._putter.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="another program holds its file"):
        queue.purge(WAITING)
    other.execute("ROLLBACK")
    other.close()
    assert queue.ready("main") == 3
    assert drained(queue) == ["e0", "e1", "e2"]
    assert queue.books.sent == 3


def test_a_purge_keeps_nothing_in_memory_of_what_is_gone(queue, make_event):
    queue.put_many([make_event()])
    queue.purge(WAITING)
    assert queue._lanes.unleased([1]) == [1]


# -- requeue --------------------------------------------------------------------------------


def test_a_requeued_event_waits_again_in_its_old_place(queue, make_event):
    stamps = [replace(STAMP, boot_us=number) for number in range(4)]
    queue.put_many([make_event(f"e{s.boot_us}", stamp=s) for s in stamps])
    queue.bury(ids(queue.lease("main", limit=2)), reason="refused")
    assert queue.oldest_candidates()[0].stamp == stamps[2]
    assert queue.requeue(DEAD_LETTERS) == Step(done=2, kept=0, next=None)
    assert queue.oldest_candidates()[0].stamp == stamps[0]
    books = queue.books
    assert (books.received, books.queued, books.dead) == (4, 4, 0)
    assert books.balanced
    assert drained(queue) == ["e0", "e1", "e2", "e3"]


def test_a_requeued_event_keeps_its_stream_sender_and_priority(queue, make_event):
    event = make_event("a", client="7.7", stream="other", priority=Priority.HIGH)
    queue.put_many([event, make_event("b", stream="other", client="8.8")])
    queue.bury(ids(queue.lease("other", limit=1)), reason="refused")
    queue.requeue(DEAD_LETTERS)
    [first] = queue.lease("other", limit=25)
    assert first.event == event


def test_requeuing_rings_once_a_step_and_not_for_nothing(tmp_path, make_event):
    rings = []
    queue = EventQueue.open(tmp_path, max_bytes=CAP, on_ready=lambda: rings.append(1))
    buried(queue, make_event(), make_event())
    rings.clear()
    queue.requeue(DEAD_LETTERS)
    queue.requeue(DEAD_LETTERS)
    assert rings == [1]
    queue.close()


def test_raw_messages_and_damaged_rows_are_kept_and_counted(queue, make_event):
    buried(queue, make_event("damaged"), make_event("good"))
    queue.put_many([RawMessage("mqtt", "malformed", b"\xff", make_event().stamp)])
    damage(queue, 1)
    assert queue.requeue(DEAD_LETTERS) == Step(done=1, kept=2, next=None)
    assert (queue.books.dead, queue.books.queued) == (2, 1)
    assert drained(queue) == ["good"]


def test_an_event_whose_columns_are_damaged_finds_its_lane_again(queue, make_event):
    """What the checksum covers is right; what stands beside it may not be."""
    buried(queue, make_event("a"))
    with queue._putter as connection:
        connection.execute(f"UPDATE {queue._table} SET stream = CAST(x'ff41' AS TEXT), priority=7")
    assert queue.requeue(DEAD_LETTERS).done == 1
    assert drained(queue) == ["a"]


def test_a_row_that_is_just_being_buried_is_left(queue, make_event):
    """Between the commit and the end of the lease: what waits and is leased would wait forever."""
    queue.put_many([make_event("a")])
    leased = queue.lease("main", limit=1)
    forget, steps = queue._lanes.forget, []

    def meanwhile(rows):
        if not steps:
            steps.append(queue.requeue(DEAD_LETTERS))
        forget(rows)

    queue._lanes.forget = meanwhile
    queue.bury(ids(leased), reason="refused")
    assert steps == [Step(done=0, kept=1, next=None)]
    assert queue.requeue(DEAD_LETTERS).done == 1
    assert drained(queue) == ["a"]


# -- whatever happens -----------------------------------------------------------------------

FILTERS = st.sampled_from([{}, {"name": "tap"}, {"stream": "main"}, {"upto": 5}, {"upto": 12}])
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["put", "lease", "ack", "release", "bury", "purge", "requeue"] * 2
            + ["purge_dead", "raw", "drop", "mark", "unmark", "reopen"]
        ),
        st.integers(0, 5),
        FILTERS,
    ),
    max_size=40,
)


def totals(queue):
    """What the days add up to: received, sent, dead, and dropped by reason."""
    rows, dropped = queue.days(), Counter()
    for row in rows:
        dropped.update(row.dropped)
    received, sent, dead = (
        sum(getattr(row, name) for row in rows) for name in ("received", "sent", "dead")
    )
    return received, sent, dead, dict(dropped)


class World:
    """The queue, and what is known of each event: where it is, by its id."""

    def __init__(self, directory, make_event):
        self.directory, self.make_event = directory, make_event
        self.queue = EventQueue.open(directory, max_bytes=CAP)
        self.where = {}  # by event_id: "waits", "leased", "sent", "dead", "dropped"; purged: absent
        self.raw = self.purged = 0
        self.leases = []
        self.sending = set()

    def put(self, number):
        kinds = [("tap", "1.1"), ("vend", "2.2"), ("tap", "2.2")]
        stamp = self.make_event().stamp
        stamp = replace(stamp, wall_us=stamp.wall_us + number * 86_400_000_000)
        events = [
            self.make_event(name, client=client, priority=Priority((number + i) % 3), stamp=stamp)
            for i, (name, client) in enumerate(kinds[:number])
        ]
        self.queue.put_many(events)
        self.where |= {event.event_id: "waits" for event in events}

    def put_raw(self, number):
        stamp = self.make_event().stamp
        self.queue.put_many([RawMessage("mqtt", "malformed", b"x", stamp)] * number)
        self.raw += number

    def lease(self, number):
        leased = self.queue.lease("main", limit=number + 1)
        assert {self.where[row.event.event_id] for row in leased} <= {"waits"}
        self.move(leased, "leased")
        self.leases.append(leased)

    def settle(self, how, where):
        if self.leases:
            leased = self.leases.pop()
            how(ids(leased))
            self.move(leased, where)

    def mark(self, how, sending):
        """A request that starts, or one that was certainly not sent."""
        if self.leases:
            leased = self.leases[-1]
            how(ids(leased))
            keys = {row.event.event_id for row in leased}
            self.sending = self.sending | keys if sending else self.sending - keys

    def purge(self, selection):
        before = self.counted()
        done, kept, _ = all_of(self.queue.purge, selection)
        self.purged += done
        self.look_again()
        after = self.counted()
        assert after["leased"] == before["leased"], "what is leased is nobody else's"
        assert kept <= before["leased"]

    def requeue(self, selection):
        leased = self.counted()["leased"]
        all_of(self.queue.requeue, selection)
        self.look_again()
        assert self.counted()["leased"] == leased

    def reopen(self):
        self.queue.close()
        self.queue = EventQueue.open(self.directory, max_bytes=CAP)
        self.leases = []
        for key, at in self.where.items():
            if at in ("leased", "waits"):
                self.where[key] = "dropped" if key in self.sending else "waits"
        self.sending = set()

    def look_again(self):
        """Where events are by the file, for those that are not leased or sent."""
        rows = {True: [], False: []}
        for dead in rows:
            page = self.queue._page(Selection(dead=dead), 0)
            rows[dead] = [row.item.event_id for row in page.rows if isinstance(row.item, Event)]
        for key, at in list(self.where.items()):
            if at in ("waits", "dead"):
                del self.where[key]
            elif at == "leased":
                assert key in rows[False], "a leased event vanished"
        found = dict.fromkeys(rows[False], "waits") | dict.fromkeys(rows[True], "dead")
        for key, at in found.items():
            assert self.where.get(key) in (None, "leased"), "what was sent or dropped is back"
            self.where.setdefault(key, at)

    def move(self, leased, where):
        if where in ("sent", "dead", "dropped"):
            self.sending -= {row.event.event_id for row in leased}
        self.where |= {row.event.event_id: where for row in leased}

    def counted(self):
        return Counter(self.where.values())

    def check(self):
        counted, books = self.counted(), self.queue.books
        assert books.balanced
        assert books.queued == counted["waits"] + counted["leased"]
        assert books.sent == counted["sent"]
        assert books.dropped.get("purged", 0) == self.purged
        assert books.dropped.get("uncertain", 0) == counted["dropped"]
        assert totals(self.queue) == (books.received, books.sent, books.dead, books.dropped)
        on_disk = read_snapshot(self.directory).books
        assert on_disk == books, "no crash could change them"
        assert self.queue.ready("main") == counted["waits"]

    def do(self, operation, number, filters):
        waiting = Selection(**filters)
        dead = Selection(dead=True, **filters)
        {
            "put": lambda: self.put(number),
            "raw": lambda: self.put_raw(number),
            "lease": lambda: self.lease(number),
            "ack": lambda: self.settle(self.queue.ack_many, "sent"),
            "release": lambda: self.settle(self.queue.release, "waits"),
            "drop": lambda: self.settle(
                lambda i: self.queue.drop(i, reason="uncertain"), "dropped"
            ),
            "mark": lambda: self.mark(self.queue.mark_sending, sending=True),
            "unmark": lambda: self.mark(self.queue.unmark_sending, sending=False),
            "bury": lambda: self.settle(lambda i: self.queue.bury(i, reason="test"), "dead"),
            "purge": lambda: self.purge(waiting),
            "purge_dead": lambda: self.purge(dead),
            "requeue": lambda: self.requeue(dead),
            "reopen": self.reopen,
        }[operation]()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=OPERATIONS)
def test_whatever_happens_the_books_balance_and_what_waits_can_be_leased_once(
    operations, tmp_path_factory, make_event
):
    world = World(tmp_path_factory.mktemp("queue"), make_event)
    for operation in operations:
        world.do(*operation)
        world.check()
    waits = {key for key, at in world.where.items() if at == "waits"}
    left = []
    while leased := world.queue.lease("main", limit=25):
        left += [row.event.event_id for row in leased]
    assert sorted(left) == sorted(waits)
    assert bool(world.queue.oldest_candidates()) == bool(world.queue.books.queued)
    world.queue.close()


def test_purging_while_others_deliver_loses_nothing_that_is_leased(tmp_path, make_event):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([make_event(f"e{i}") for i in range(6000)])
    sent, going = [], threading.Barrier(4)

    def deliver():
        going.wait()
        while leased := queue.lease("main", limit=5):
            before = queue.books.sent
            queue.ack_many(ids(leased))
            assert queue.books.sent >= before + len(leased), "a leased event was not there"
            sent.extend(names(leased))

    def bury_and_requeue():
        going.wait()
        for _ in range(100):
            leased = queue.lease("main", limit=3)
            queue.bury(ids(leased), reason="test")
            all_of(queue.requeue, DEAD_LETTERS)

    threads = [threading.Thread(target=t) for t in (deliver, deliver, bury_and_requeue)]
    for thread in threads:
        thread.start()
    going.wait()
    purged = all_of(queue.purge, Selection(upto=5000))[0]
    for thread in threads:
        thread.join()
    all_of(queue.requeue, DEAD_LETTERS)
    sent += drained(queue)
    books = queue.books
    assert books.balanced
    assert (books.queued, books.dead) == (0, 0)
    assert len(sent) == len(set(sent)) == books.sent == 6000 - purged
    assert books.dropped == {"purged": purged}
    assert purged > 0
    queue.close()
