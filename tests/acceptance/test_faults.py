"""However the endpoint or the way to it fails, nothing is lost and nothing counted too early."""

import sqlite3
from dataclasses import replace

import pytest

from agent.emulator import Fault
from tests.acceptance.publishers import deliveries, event, hand_in, ids_of, post
from tests.fake_clock import FakeClock

NUMBERS = range(60)
EVENTS = '"tap"'  # matches what brings events, and no question for the time


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


SILENT = [
    (Fault("status", status=503), "offline"),
    (Fault("hang"), "offline"),
    (Fault("cut_before"), "offline"),
    (Fault("cut_half"), "offline"),
    (Fault("redirect"), "login_page"),
    (Fault("login_page"), "login_page"),
]
# The endpoint itself says no, and with that what time it is.
SPEAKING = [(Fault("body"), "misconfigured"), (Fault("status", status=404), "misconfigured")]


def shown(value) -> str:
    return f"{value.kind}-{value.status}" if isinstance(value, Fault) else value


def kept_while_it_fails(daemon, emulator, state) -> None:
    """Events wait, and the state says why; then all of them arrive."""
    hand_in(daemon.setup.http_port, NUMBERS)
    before = len(emulator.requests())
    # The second attempt shows that the first one's answer was understood.
    seen = daemon.wait(
        lambda status: status["state"] == state and len(emulator.requests()) >= before + 2,
        flush=True,
    )
    assert seen["queue"]["events"] == len(NUMBERS)
    assert not set(ids_of(emulator.events())) & set(NUMBERS)


@pytest.mark.parametrize(("fault", "state"), [*SILENT, *SPEAKING], ids=shown)
def test_nothing_is_lost_or_counted_as_delivered_while_the_endpoint_fails(
    make_daemon, setup, emulator, fault, state
):
    daemon = make_daemon(replace(setup, timeout="1 s"))
    daemon.start()
    hand_in(setup.http_port, [-1])  # so that it knows the time, and has no need to ask
    assert daemon.drained().sent == 1
    emulator.fail(fault)
    kept_while_it_fails(daemon, emulator, state)
    assert daemon.books().sent == 1
    assert {request.path for request in emulator.requests()[-2:]} == {"/mp/collect"}
    emulator.recover()
    everything_arrives_once(daemon, emulator, range(-1, len(NUMBERS)))


@pytest.fixture
def unsure(make_daemon, setup, tmp_path):
    """A daemon on a machine where nobody vouches for the clock."""
    daemon = make_daemon(replace(setup, timeout="1 s"))
    shim = FakeClock(tmp_path).environ
    daemon.environ |= {name: shim[name] for name in ("LD_PRELOAD", "FAKE_CLOCK")}
    return daemon


@pytest.mark.parametrize(("fault", "state"), SILENT, ids=shown)
def test_the_same_holds_while_it_fails_to_say_the_time(unsure, emulator, fault, state):
    """It has to know the time before any event leaves."""
    emulator.fail(fault)
    unsure.start()
    kept_while_it_fails(unsure, emulator, state)
    assert unsure.books().sent == 0
    assert deliveries(emulator) == []
    emulator.recover()
    everything_arrives_once(unsure, emulator, NUMBERS)


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
    emulator.fail(Fault("cut_after", times=1, match=EVENTS))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    books = daemon.drained()
    arrived = ids_of(emulator.events())
    assert set(arrived) == set(NUMBERS)
    assert books.sent == books.received == len(NUMBERS)
    lost, *others = [request.events for request in deliveries(emulator)]
    assert len(arrived) - len(NUMBERS) == len(lost)
    assert 1 <= len(lost) <= 25
    # To the letter, so that whoever has the reports can find the repeats by their event_id.
    assert [event for events in others for event in events if event in lost] == list(lost)
    assert len({event["params"]["event_id"] for event in emulator.events()}) == len(NUMBERS)


@pytest.mark.slow
def test_a_429_with_retry_after_30_is_left_alone(make_daemon, setup, emulator):
    """Exactly one attempt in ten seconds, whatever comes in meanwhile."""
    emulator.fail(Fault("status", status=429, retry_after="30", match=EVENTS))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    assert emulator.wait_for(lambda: deliveries(emulator), 10)
    attempts = emulator.attempts
    hand_in(setup.http_port, range(60, 90))
    assert not emulator.wait_for(lambda: emulator.attempts > attempts, 10)
    assert len(deliveries(emulator)) == 1
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
    emulator.fail(Fault("status", status=400, match=EVENTS))
    daemon = make_daemon(setup)
    daemon.start()
    hand_in(setup.http_port, NUMBERS)
    seen = daemon.wait(lambda status: status["state"] == "misconfigured")
    assert (seen["ledger"]["sent"], seen["ledger"]["dead"]) == (0, 0)
    assert seen["queue"]["events"] == len(NUMBERS)
    emulator.recover()
    everything_arrives_once(daemon, emulator, NUMBERS)
