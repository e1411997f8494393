"""However the endpoint or the way to it fails, nothing is lost and nothing counted too early."""

import sqlite3
from dataclasses import replace

import pytest

from agent.emulator import Fault
from tests.acceptance.publishers import event, hand_in, ids_of, post

NUMBERS = range(60)


def everything_arrives_once(daemon, emulator, numbers) -> None:
    books = daemon.drained()
    assert sorted(ids_of(emulator.events())) == list(numbers)
    assert books.received == books.sent == len(numbers)


def dead_letters(daemon) -> list[str]:
    """The reasons of the dead letters in the file of a daemon that has ended."""
    path = daemon.setup.state / "queue.db"
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT reason FROM ack_queue_default WHERE status = 9")
        return [reason for (reason,) in rows]
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault("status", status=503), "offline"),
        (Fault("hang"), "offline"),
        (Fault("cut_before"), "offline"),
        (Fault("cut_half"), "offline"),
        (Fault("redirect"), "login_page"),
        (Fault("login_page"), "login_page"),
        (Fault("body"), "misconfigured"),
        (Fault("status", status=404), "misconfigured"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else value,
)
def test_nothing_is_lost_or_counted_as_delivered_while_the_endpoint_fails(
    make_daemon, setup, emulator, fault, state
):
    emulator.fail(fault)
    daemon = make_daemon(replace(setup, timeout="1 s"))
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    # The second attempt shows that the first one's answer was understood.
    seen = daemon.wait(
        lambda status: status["state"] == state and status["traffic"]["requests"] >= 2, flush=True
    )
    assert seen["ledger"]["sent"] == 0
    assert seen["queue"]["events"] == len(NUMBERS)
    assert emulator.events() == ()
    emulator.recover()
    everything_arrives_once(daemon, emulator, NUMBERS)


def test_a_refused_connection_keeps_everything(make_daemon, setup, emulator):
    emulator.stop()
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    seen = daemon.wait(lambda status: status["state"] == "offline")
    assert seen["ledger"]["sent"] == 0
    assert seen["queue"]["events"] == len(NUMBERS)
    emulator.start()
    everything_arrives_once(daemon, emulator, NUMBERS)


def test_an_answer_that_was_lost_repeats_its_request_and_no_more(make_daemon, setup, emulator):
    emulator.fail(Fault("cut_after", times=1))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    books = daemon.drained()
    arrived = ids_of(emulator.events())
    assert set(arrived) == set(NUMBERS)
    assert books.sent == books.received == len(NUMBERS)
    assert len(arrived) - len(NUMBERS) == len(emulator.requests()[0].events) <= 25


@pytest.mark.slow
def test_a_429_with_retry_after_30_is_left_alone(make_daemon, setup, emulator):
    """Exactly one attempt in ten seconds, whatever comes in meanwhile."""
    emulator.fail(Fault("status", status=429, retry_after="30"))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    assert emulator.wait_for(lambda: emulator.attempts >= 1, 10)
    hand_in(setup.http_port, range(60, 90))
    assert not emulator.wait_for(lambda: emulator.attempts > 1, 10)
    status = daemon.wait(lambda status: status["queue"]["events"] == 90)
    assert status["ledger"]["sent"] == 0
    assert 15 < status["streams"][0]["next_try_s"] <= 32
    emulator.recover()
    everything_arrives_once(daemon, emulator, range(90))


def test_one_refused_event_among_50_becomes_a_dead_letter(make_daemon, setup, emulator):
    emulator.fail(Fault("status", status=400, match="nobody_wants_this"))
    daemon = make_daemon(setup)
    daemon.start()
    events = [event(number) for number in range(50)]
    events[17] = event(17, name="nobody_wants_this")
    assert post(setup.http_port, "/events", events) == 202
    books = daemon.drained()
    assert sorted(ids_of(emulator.events())) == [n for n in range(50) if n != 17]
    assert (books.received, books.sent, books.dead) == (50, 49, 1)
    daemon.kill()
    assert dead_letters(daemon) == ["refused_400"]


def test_an_endpoint_that_refuses_everything_is_a_configuration_fault(make_daemon, setup, emulator):
    """Else a typing error would turn a day's events into dead letters."""
    emulator.fail(Fault("status", status=400))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    seen = daemon.wait(lambda status: status["state"] == "misconfigured")
    assert (seen["ledger"]["sent"], seen["ledger"]["dead"]) == (0, 0)
    assert seen["queue"]["events"] == len(NUMBERS)
    emulator.recover()
    everything_arrives_once(daemon, emulator, NUMBERS)
