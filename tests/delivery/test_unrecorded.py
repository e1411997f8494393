"""A disk that refuses to record deliveries: a bounded number goes on, and none of it twice."""

import threading
from collections import Counter

import pytest

from agent.delivery.outlet import NEVER
from agent.delivery.shipper import STORAGE_WAIT, UNRECORDED_MAX, Unrecorded
from agent.emulator import Fault
from agent.progress import Progress
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from tests.delivery.stage import CAP, Time, ship_until_idle, stream

REFUSES_BAD = Fault("status", status=400, match='"bad')
MANY = UNRECORDED_MAX + 160


def names(number, *, start=0):
    return [f"e{n}" for n in range(start, start + number)]


def the_disk_recovers(stage):
    stage.queue.refusing = False
    stage.time.pass_(STORAGE_WAIT)


def said(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "agent.delivery.shipper"]


def test_1000_events_are_delivered_unrecorded_then_none_until_the_disk_takes_them(stage):
    stage.put(*names(MANY))
    shipper = stage.shipper()
    stage.queue.refusing = True
    assert ship_until_idle(shipper) == STORAGE_WAIT
    assert stage.arrived == names(UNRECORDED_MAX)
    stage.time.pass_(STORAGE_WAIT)
    assert shipper.ship_once() == STORAGE_WAIT
    assert len(stage.arrived) == UNRECORDED_MAX
    assert (stage.queue.books.sent, stage.queue.books.queued) == (0, MANY)
    the_disk_recovers(stage)
    assert ship_until_idle(shipper) == NEVER
    assert stage.arrived == names(MANY)
    books = stage.queue.books
    assert (books.sent, books.queued, books.requests) == (MANY, 0, stage.emulator.attempts)


def test_the_bound_holds_for_batches_that_do_not_divide_it(stage):
    for sender in range(170):  # batches of 7 events
        stage.put(*names(7, start=7 * sender), client=f"{sender}.1")
    shipper = stage.shipper()
    stage.queue.refusing = True
    assert ship_until_idle(shipper) == STORAGE_WAIT
    assert len(stage.arrived) == shipper.unrecorded.events == UNRECORDED_MAX
    the_disk_recovers(stage)
    ship_until_idle(shipper)
    assert Counter(stage.arrived) == Counter(names(170 * 7))


def test_the_bound_holds_for_connections_that_send_at_the_same_time(stage):
    stage.put(*names(MANY))
    shipper = stage.shipper(connections=4)
    stage.queue.refusing = True
    stop = threading.Event()
    threads = [
        threading.Thread(target=shipper.run, args=(stop, Progress(name="shipper", patience=60.0)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    try:
        waited = threading.Event()
        for _ in range(2000):
            if len(stage.arrived) >= UNRECORDED_MAX:
                break
            waited.wait(0.01)
        waited.wait(0.3)
        assert len(stage.arrived) == UNRECORDED_MAX
    finally:
        stop.set()
        shipper.stop()
        for thread in threads:
            thread.join(10)
    the_disk_recovers(stage)


def test_what_was_delivered_is_recorded_in_order(stage):
    done = []
    kept = Unrecorded(boot_us=lambda: int(stage.time() * 1e6))

    def write(name):
        def work():
            if stage.queue.refusing:
                raise StorageError("read_only", "cannot use the queue's disk")
            done.append(name)

        return work

    stage.queue.refusing = True
    kept.record(write("first"), 1)
    stage.queue.refusing = False
    kept.record(write("second"), 1)  # not before the first, though the disk would take it
    assert done == []
    stage.time.pass_(STORAGE_WAIT)
    assert kept.written()
    assert done == ["first", "second"]
    assert kept.events == 0


def test_a_disk_that_refuses_is_asked_again_only_every_few_seconds(stage):
    time, asked = Time(), []
    kept = Unrecorded(boot_us=lambda: int(time() * 1e6))

    def refused():
        asked.append(time())
        raise StorageError("read_only", "cannot use the queue's disk")

    kept.record(refused, 1)
    for _ in range(100):
        assert not kept.written()
        time.pass_(STORAGE_WAIT / 10)
    assert len(asked) == 10


def test_each_change_is_said_once(stage, caplog):
    caplog.set_level("INFO")
    stage.put(*names(MANY))
    shipper = stage.shipper()
    stage.queue.refusing = True
    for _ in range(3):
        ship_until_idle(shipper)
        stage.time.pass_(STORAGE_WAIT)
    stage.queue.refusing = False
    ship_until_idle(shipper)
    refused, stopped, well = said(caplog)
    assert refused.startswith(
        "cannot record what became of events: cannot write the queue: the disk is full"
    )
    assert stopped == (
        "what became of 1000 events is not on record: sending nothing more until it is"
    )
    assert well == "the disk takes writes again: what became of every event is on record"


def test_a_bisection_goes_on_without_the_disk_and_is_recorded_later(stage):
    stage.put(*names(24), "bad")
    stage.emulator.fail(REFUSES_BAD)
    stage.queue.refusing = True
    shipper = stage.shipper()
    ship_until_idle(shipper)
    assert Counter(stage.arrived) == Counter(names(24))
    the_disk_recovers(stage)
    ship_until_idle(shipper)
    assert Counter(stage.arrived) == Counter(names(24))
    assert stage.dead == {"refused_400": 1}
    assert stage.queue.books.requests == stage.emulator.attempts


def test_what_must_not_count_twice_does_not_leave_without_its_mark(stage):
    stage.put(*names(3))
    shipper = stage.shipper(stream(stage.emulator.url, on_uncertain="lose"))
    stage.queue.refusing = True
    shipper.ship_once()
    assert stage.emulator.attempts == 0
    assert shipper.unrecorded.room == UNRECORDED_MAX
    stage.queue.refusing = False
    shipper.flush()
    ship_until_idle(shipper)
    assert stage.arrived == names(3)


def test_it_is_recorded_while_paused_too(stage):
    stage.put(*names(3))
    shipper = stage.shipper()
    stage.queue.refusing = True
    ship_until_idle(shipper)
    shipper.pause()
    assert shipper.ship_once() == STORAGE_WAIT
    the_disk_recovers(stage)
    assert shipper.ship_once() == NEVER
    assert stage.queue.books.sent == 3


def test_flush_tries_to_record_at_once(stage):
    stage.put(*names(3))
    shipper = stage.shipper()
    stage.queue.refusing = True
    ship_until_idle(shipper)
    stage.queue.refusing = False
    shipper.flush()
    shipper.ship_once()
    assert stage.queue.books.sent == 3


def test_the_end_is_the_last_chance_to_record(stage):
    """Without it the next process would send again what this one could have recorded."""
    stage.put(*names(3))
    shipper = stage.shipper()
    stage.queue.refusing = True
    ship_until_idle(shipper)
    stage.queue.refusing = False
    stop = threading.Event()
    stop.set()
    shipper.run(stop, Progress(name="shipper", patience=60.0))
    assert stage.queue.books.sent == 3


def test_only_what_was_not_recorded_is_sent_again_after_a_crash(stage):
    stage.put(*names(60))
    shipper = stage.shipper()
    shipper.ship_once()
    stage.queue.refusing = True
    shipper.ship_once()
    again = EventQueue.open(stage.directory, max_bytes=CAP)
    left = [row.event.name for _ in range(3) for row in again.lease("main", limit=25)]
    assert left == names(35, start=25)
    again.close()
    stage.queue.refusing = False


def test_it_is_not_sent_again_after_a_reload_and_the_bound_is_the_same(stage):
    stage.put(*names(MANY))
    old = stage.shipper()
    stage.queue.refusing = True
    old.ship_once()
    new = stage.shipper()
    new.take_over(old)
    assert ship_until_idle(new) == STORAGE_WAIT
    assert len(stage.arrived) == UNRECORDED_MAX
    the_disk_recovers(stage)
    ship_until_idle(new)
    assert stage.arrived == names(MANY)
    assert stage.queue.books.sent == MANY


def test_a_disk_that_cannot_even_be_read_does_not_end_the_shipper(stage):
    stage.put(*names(3))
    shipper = stage.shipper()
    lease = stage.queue.lease

    def broken(*arguments, **named):
        raise StorageError("read_only", "cannot use the queue's disk: disk I/O error")

    stage.queue.lease = broken
    assert shipper.ship_once() == STORAGE_WAIT
    stage.queue.lease = lease
    ship_until_idle(shipper)
    assert stage.arrived == names(3)


@pytest.mark.parametrize("number", [1, 25])
def test_what_is_under_way_counts_too(number):
    kept = Unrecorded(boot_us=lambda: 0, most=number)
    assert kept.begin(number)
    assert kept.room == 0
    assert not kept.begin(1)
    kept.end(number)
    assert kept.room == number
