"""The shipper's loop: several connections at once, what wakes it, and how it ends."""

import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest

from agent.emulator import Fault
from agent.progress import Progress
from tests.delivery.stage import stream

SOON = 10.0  # seconds; much more than anything here takes, so that only a hang meets it


@contextmanager
def running(shipper, *, connections=1, patience=60.0):
    """The shipper's loop in as many threads; they end with the block."""
    stop = threading.Event()
    loops = [Progress(name=f"shipper-{number}", patience=patience) for number in range(connections)]
    threads = [threading.Thread(target=shipper.run, args=(stop, loop)) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield loops
    finally:
        stop.set()
        shipper.stop()
        for thread in threads:
            thread.join(SOON)
        assert not any(thread.is_alive() for thread in threads)


def eventually(condition):
    """Whether it comes true soon. The caller's rule is the condition, not the time."""
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.002)
    return False


def test_several_connections_deliver_each_event_exactly_once(stage):
    for number in range(500):
        stage.put(f"e{number}", client=f"{number % 7}.1")
    shipper = stage.shipper(connections=4)
    with running(shipper, connections=4):
        assert eventually(lambda: stage.queue.books.sent == 500)
    assert Counter(stage.arrived) == Counter(f"e{number}" for number in range(500))
    assert stage.queue.books.requests == stage.emulator.attempts
    assert stage.queue.books.queued == 0


def test_after_the_first_success_all_connections_send(stage):
    """Each request hangs for a moment, so that more than one is under way at once."""
    stage.put("first")
    shipper = stage.shipper(connections=3)
    with running(shipper, connections=3):
        assert eventually(lambda: stage.queue.books.sent == 1)
        stage.emulator.fail(Fault("hang"))
        stage.put(*(f"e{number}" for number in range(75)))
        assert stage.emulator.wait_for(lambda: stage.emulator.attempts_since_fault == 3, SOON)
        stage.emulator.recover()


def test_the_first_success_wakes_the_connections_that_had_to_stand_back(stage):
    """Nothing new comes in to wake them; by themselves they would look again in ten seconds."""
    stage.put(*(f"e{number}" for number in range(100)))
    stage.emulator.fail(Fault("delay", seconds=0.2, times=1), Fault("hang"))
    with running(stage.shipper(connections=3), connections=3):
        assert stage.emulator.wait_for(lambda: stage.emulator.attempts == 4, 5)
        stage.emulator.recover()


def test_until_the_first_success_only_one_connection_sends(stage):
    stage.emulator.fail(Fault("hang"))
    stage.put(*(f"e{number}" for number in range(75)))
    shipper = stage.shipper(connections=3)
    with running(shipper, connections=3):
        assert stage.emulator.wait_for(lambda: stage.emulator.attempts == 1, SOON)
        assert not stage.emulator.wait_for(lambda: stage.emulator.attempts > 1, 0.2)
        stage.emulator.recover()


def test_an_event_that_is_put_while_it_waits_leaves_at_once(stage):
    shipper = stage.shipper()
    with running(shipper):
        stage.put("e0")
        assert stage.emulator.wait_for(lambda: stage.arrived == ["e0"], 5)
        stage.put("e1")
        assert stage.emulator.wait_for(lambda: stage.arrived == ["e0", "e1"], 5)


def test_a_part_filled_batch_waits_without_being_looked_at_over_and_over(stage):
    """An event a second would otherwise keep a core busy for good."""
    stage.time = time.monotonic
    shipper = stage.shipper(max_delay=0.4)
    with running(shipper):
        stage.put("e0")
        assert stage.emulator.wait_for(lambda: stage.arrived == ["e0"], SOON)
    assert stage.queue.leases < 15


def test_waiting_for_a_failed_endpoint_costs_nothing(stage):
    stage.emulator.fail(Fault("status", status=503))
    stage.put("e0")
    shipper = stage.shipper()
    with running(shipper):
        assert eventually(lambda: stage.state(shipper) == "offline")
        looked = stage.queue.leases
        assert not stage.emulator.wait_for(lambda: stage.emulator.attempts > 1, 0.2)
    assert stage.queue.leases <= looked + 1


def test_flush_wakes_it_from_a_backoff(stage):
    stage.emulator.fail(Fault("status", status=503, times=1))
    stage.put("e0")
    shipper = stage.shipper()
    with running(shipper):
        assert eventually(lambda: stage.state(shipper) == "offline")
        shipper.flush()
        assert stage.emulator.wait_for(lambda: stage.arrived == ["e0"], 5)


@pytest.mark.parametrize("fault", [None, Fault("status", status=401)], ids=["idle", "for an hour"])
def test_it_ends_promptly_however_long_it_would_have_waited(stage, fault):
    if fault:
        stage.emulator.fail(fault)
        stage.put("e0")
    shipper = stage.shipper(connections=2)
    with running(shipper, connections=2):
        assert eventually(lambda: stage.queue.looks > 0)
        if fault:
            assert eventually(lambda: stage.state(shipper) == "misconfigured")
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.0


def test_it_ends_promptly_while_a_batch_waits_to_be_filled(stage):
    shipper = stage.shipper(max_delay=3600.0)
    with running(shipper):
        stage.put("e0")
        assert eventually(lambda: stage.queue.leases > 0)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.0
    assert stage.queue.ready("main") == 1
    assert stage.emulator.attempts == 0


def test_its_loop_beats_and_a_request_under_way_is_known_by_its_patience(stage):
    shipper = stage.shipper()
    with running(shipper) as [loop]:
        assert eventually(lambda: loop.running)
        assert loop.late_s == 0


def test_stopped_and_started_again_with_other_streams_everything_leaves(stage):
    """As a reload does it: another shipper on the same queue."""
    stage.put("e0", stream="other")
    with running(stage.shipper()):
        assert eventually(lambda: stage.queue.looks > 0)
    other = stream(stage.emulator.url, name="other", measurement_id="G-OTHER")
    with running(stage.shipper(other)):
        assert stage.emulator.wait_for(lambda: stage.arrived == ["e0"], 5)
        assert eventually(lambda: stage.queue.books.sent == 1)
