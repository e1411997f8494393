"""A model of the queue: whatever is done, and whenever the process dies, each event is somewhere.

The oracle knows nothing of the queue but its methods: what was acknowledged to a publisher waits,
is dead, was sent, or was dropped and counted.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent import crash_point
from agent.event import Event, Priority, Sender
from agent.queue.event_queue import EventQueue
from agent.queue.pages import Selection
from agent.queue.rows import HELD, recount
from tests.conftest import STAMP

CAP = 4 * 1024 * 1024
TABLE = "ack_queue_default"
STREAMS = ("main", "shop")


class Killed(BaseException):
    """In the place of a SIGKILL: nothing catches it, and the queue is never used again."""


def kill_at(point):
    def reached(name):
        if name == point:
            raise Killed

    return reached


class Model(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ga4-agent-model-"))
        self.life = 0
        self.numbers = iter(range(10**9))
        self.waiting: set[str] = set()
        self.dead: set[str] = set()
        self.sent: set[str] = set()
        self.gone: set[str] = set()
        self.perhaps: set[str] = set()  # put when the process died: taken or not
        self.leased: dict[int, str] = {}
        self.queue = self.opened()

    def opened(self):
        return EventQueue.open(self.directory, max_bytes=CAP)

    @property
    def directory(self):
        directory = self.folder / str(self.life)
        directory.mkdir(exist_ok=True)
        return directory

    def teardown(self):
        self.queue.close()
        shutil.rmtree(self.folder)

    # -- what is done -----------------------------------------------------------------------

    def events(self, number, priority, stream):
        return [
            Event(
                name="tap", params={}, stream=stream, sender=Sender(client_id=f"1.{each % 3}"),
                stamp=STAMP, event_id=f"e{next(self.numbers)}", priority=priority,
            )
            for each in range(number)
        ]  # fmt: skip

    @rule(
        number=st.integers(1, 40),
        priority=st.sampled_from(Priority),
        stream=st.sampled_from(STREAMS),
    )
    def put(self, number, priority, stream):
        events = self.events(number, priority, stream)
        self.queue.put_many(events)
        self.waiting |= {event.event_id for event in events}

    @rule(stream=st.sampled_from(STREAMS), limit=st.integers(1, 25))
    def lease(self, stream, limit):
        for row in self.queue.lease(stream, limit=limit):
            assert row.id not in self.leased, "nobody else's until it is given back"
            self.leased[row.id] = row.event.event_id

    def some_leased(self, data):
        ids = data.draw(st.lists(st.sampled_from(sorted(self.leased)), unique=True, min_size=1))
        return ids, {self.leased.pop(row_id) for row_id in ids}

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def ack(self, data):
        ids, events = self.some_leased(data)
        self.queue.ack_many(ids)
        self.sent |= events
        self.waiting -= events

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def bury(self, data):
        ids, events = self.some_leased(data)
        self.queue.bury(ids, reason="expired")
        self.dead |= events
        self.waiting -= events

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def drop(self, data):
        ids, events = self.some_leased(data)
        self.queue.drop(ids, reason="uncertain")
        self.gone |= events
        self.waiting -= events

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def release(self, data):
        ids, _ = self.some_leased(data)
        self.queue.release(ids)

    @rule()
    def requeue(self):
        self.queue.requeue(Selection(dead=True))
        self.waiting |= self.dead
        self.dead = set()

    @rule()
    def purge_dead(self):
        self.queue.purge(Selection(dead=True))
        self.gone |= self.dead
        self.dead = set()

    # -- how it dies ------------------------------------------------------------------------

    @rule()
    def die(self):
        self.reborn()

    @rule()
    def end(self):
        self.queue.close()
        self.leased = {}
        self.queue = self.opened()

    @rule(point=st.sampled_from(["commit.before", "commit.after"]), number=st.integers(1, 40))
    def die_while_putting(self, point, number):
        events = {event.event_id: event for event in self.events(number, Priority.NORMAL, "main")}
        self.killed_at(point, lambda: self.queue.put_many(list(events.values())))
        there = self.stored()
        taken = events.keys() & there
        assert taken in (set(), set(events)), "all of them or none"
        assert bool(taken) == (point == "commit.after")
        self.waiting |= taken

    @precondition(lambda self: self.leased)
    @rule(point=st.sampled_from(["commit.before", "commit.after"]))
    def die_while_acknowledging(self, point):
        ids, events = list(self.leased), set(self.leased.values())
        self.killed_at(point, lambda: self.queue.ack_many(ids))
        if point == "commit.after":
            self.sent |= events
            self.waiting -= events

    def killed_at(self, point, work):
        reached = crash_point.reached
        crash_point.reached = kill_at(point)
        try:
            work()
        except Killed:
            pass
        else:
            raise AssertionError(f"{point} was not reached")
        finally:
            crash_point.reached = reached
        self.reborn()

    def reborn(self):
        """What a SIGKILL leaves is what lies on the disk at that moment."""
        old, before = self.queue, self.directory
        self.life += 1
        for name in ("queue.db", "queue.db-wal"):
            if (before / name).exists():
                shutil.copy(before / name, self.directory / name)
        old.close()
        self.leased = {}
        self.queue = self.opened()

    # -- what always holds ------------------------------------------------------------------

    def stored(self):
        rows = self.queue._read(f"SELECT CAST(data AS BLOB) FROM {TABLE} WHERE status < 2")
        return {self.queue._serializer.loads(data).event_id for (data,) in rows}

    @invariant()
    def each_event_is_where_it_should_be(self):
        assert self.stored() == self.waiting

    @invariant()
    def the_books_are_exact(self):
        books = self.queue.books
        assert books.balanced
        assert (books.sent, books.queued, books.dead) == (
            len(self.sent), len(self.waiting), len(self.dead),
        )  # fmt: skip
        assert sum(books.dropped.values()) == len(self.gone)

    @invariant()
    def what_is_counted_is_there(self):
        counted = {k: n for k, n in self.queue._ledger.counters.items() if n and k.startswith(HELD)}
        assert counted == recount(self.queue._getter, TABLE)
        ready = sum(self.queue.ready(stream) for stream in STREAMS)
        assert ready == len(self.waiting) - len(self.leased)


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
