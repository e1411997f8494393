"""Promises 1 to 3: kill -9 loses nothing that was acknowledged, and repeats are bounded."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.emulator import Fault
from agent.intake.mqtt import BATCH_MESSAGES
from tests.acceptance.publishers import HttpPrograms, event, ids_of, mqtt_program

MESSAGES = 1000
IN_FLIGHT = 4 * 25  # events that a kill can catch between sending and recording: design, promise 2


@contextmanager
def slow_disk(state: Path) -> Iterator[None]:
    """Nothing gets on the agent's disk as long as the block lasts, as on a dying card."""
    connection = sqlite3.connect(state / "queue.db", isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


def kill_in_the_middle_of_the_drain(daemon, emulator) -> None:
    emulator.fail(Fault("delay", seconds=0.2))
    before = emulator.stats()["counted_events"]
    daemon.flush()
    assert emulator.wait_for(lambda: emulator.stats()["counted_events"] >= before + 250, 15)
    daemon.kill()
    assert daemon.books().queued >= 250, "the kill came after the drain"
    emulator.recover()
    daemon.start()


def kill_between_commit_and_puback(daemon, program) -> None:
    """Or thereabouts: at the very moment in which the ledger says that something was taken."""
    program.publish(range(300))
    daemon.wait_received(1)
    daemon.kill()
    daemon.start()


def kill_with_700_unacknowledged(daemon, program) -> None:
    daemon.wait_received(300)
    with slow_disk(daemon.setup.state):
        program.publish(range(300, MESSAGES))
        program.wait_acknowledged(MESSAGES)
        daemon.kill()
    assert daemon.books().received == 300, "700 were unacknowledged, none was taken twice"
    daemon.start()


@pytest.mark.slow
@pytest.mark.parametrize("kill_in_drain", [False, True])
def test_1000_mqtt_messages_survive_two_kills_and_an_outage(
    make_daemon, mqtt_setup, broker, emulator, kill_in_drain
):
    daemon = make_daemon(mqtt_setup)
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    emulator.stop()
    with mqtt_program(broker.port) as program:
        if kill_in_drain:
            program.publish(range(300))
        else:
            kill_between_commit_and_puback(daemon, program)
        kill_with_700_unacknowledged(daemon, program)
        daemon.wait_received(MESSAGES)
    emulator.start()
    if kill_in_drain:
        kill_in_the_middle_of_the_drain(daemon, emulator)
    daemon.wait(lambda _: len(set(ids_of(emulator.events()))) == MESSAGES, flush=True, timeout=60)
    books = daemon.drained()
    counted = emulator.stats()["counted_events"]
    assert set(ids_of(emulator.events())) == set(range(MESSAGES))
    assert books.received == books.sent == MESSAGES, "nothing is left, dead, dropped or twice"
    # What the broker delivered again was known: a batch at most for each kill of the intake.
    assert books.refused.get("duplicate", 0) <= 2 * BATCH_MESSAGES
    assert books.refused.keys() <= {"duplicate"}
    # Without a kill while it sends, the two sides agree exactly.
    assert 0 <= counted - books.sent <= (IN_FLIGHT if kill_in_drain else 0)


@pytest.mark.slow
@pytest.mark.parametrize("kill_in_drain", [False, True])
def test_1000_http_events_survive_kills_and_an_outage(make_daemon, setup, emulator, kill_in_drain):
    daemon = make_daemon(setup)
    daemon.start()
    emulator.fail(Fault("status", status=503))
    threads = 8
    with HttpPrograms(port=setup.http_port, threads=threads, goal=MESSAGES) as programs:
        programs.wait_acknowledged(300)
        daemon.kill()
        taken_at_the_kill = len(programs.acknowledged)
        daemon.start()
        programs.wait_acknowledged(MESSAGES)
    assert taken_at_the_kill < MESSAGES, "the kill came too late to be in the middle"
    assert programs.refused == []
    emulator.recover()
    if kill_in_drain:
        kill_in_the_middle_of_the_drain(daemon, emulator)
    books = daemon.drained()
    arrived = set(ids_of(emulator.events()))
    assert programs.acknowledged <= arrived
    assert arrived <= programs.acknowledged | programs.uncertain
    assert len(arrived - programs.acknowledged) <= threads, "one request of each thread was cut"
    assert books.received == books.sent == len(arrived), "HTTP itself repeats nothing"
    counted = emulator.stats()["counted_events"]
    assert 0 <= counted - books.sent <= (IN_FLIGHT if kill_in_drain else 0)


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
def test_a_broker_that_restarts_while_programs_publish_costs_no_message(
    make_daemon, mqtt_setup, broker, emulator, named
):
    """``named``: events bring an event_id, so that what the program says twice is known too."""
    daemon = make_daemon(mqtt_setup)
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    with mqtt_program(broker.port) as program:
        publish(program, range(400), named=named)
        program.wait_acknowledged(100)
        broker.stop()
        publish(program, range(400, 800), named=named)
        daemon.wait(lambda status: status["sources"]["mqtt"]["problem"])
        broker.start()
        program.wait_acknowledged(800)
        assert emulator.wait_for(lambda: len(set(ids_of(emulator.events()))) == 800, 15)
    books = daemon.drained()
    assert books.received == books.sent == emulator.stats()["counted_events"]
    # What the program said twice, because it did not hear the PUBACK, are two messages.
    assert books.received - 800 <= (0 if named else 2 * BATCH_MESSAGES)


def publish(program, numbers, *, named: bool) -> None:
    for number in numbers:
        own = {"event_id": f"sale-{number}"} if named else {}
        program.publish_text(json.dumps(event(number) | own))
