"""What makes the process die is set aside after three deaths at most; all else flows."""

import json
import signal
import sys

import pytest

from tests.acceptance.daemon import ROOT
from tests.acceptance.publishers import event, ids_of, mqtt_program, post
from tests.acceptance.test_faults import dead_letters
from tests.waiting import until

SICK_AGENT = str(ROOT / "tests" / "acceptance" / "sick_agent.py")


@pytest.fixture
def make_poisoned(make_daemon):
    def make(setup):
        daemon = make_daemon(setup)
        daemon.program = (sys.executable, SICK_AGENT, "poison")
        return daemon

    return make


def supervise(daemon, condition) -> int:
    """Start it again whenever it dies, as systemd does, until the condition holds; the deaths."""
    deaths = 0

    def holds() -> bool:
        nonlocal deaths
        if daemon.died():
            assert daemon.exit_status() == -signal.SIGKILL, daemon.tail()
            deaths += 1
            assert deaths < 10, f"it dies for ever:\n{daemon.tail()}"
            daemon.spawn()
        status = daemon.status()
        return status is not None and condition(status)

    until(holds, daemon.tail, timeout=60)
    return deaths


def events_with(poison: str) -> list[dict]:
    """21 events, of which the eleventh kills."""
    events = [event(number) for number in range(20)]
    return [*events[:10], event(999, name=poison), *events[10:]]


def test_a_row_that_kills_is_set_aside(make_poisoned, setup, emulator):
    daemon = make_poisoned(setup)
    daemon.start()
    assert post(setup.http_port, "/events", events_with("poison_row")) == 202
    deaths = supervise(daemon, lambda s: s["ledger"]["dead"] == 1 and s["queue"]["events"] == 0)
    assert 1 <= deaths <= 3
    assert set(ids_of(emulator.events())) == set(range(20))
    daemon.kill()
    assert dead_letters(daemon) == ["crashed"]


def test_a_message_that_kills_is_set_aside(make_poisoned, mqtt_setup, broker, emulator):
    """The broker sends it again after each death, because nobody acknowledged it."""
    daemon = make_poisoned(mqtt_setup)
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    with mqtt_program(broker.port) as program:
        for one in events_with("poison_message"):
            program.publish_text(json.dumps(one))
        deaths = supervise(
            daemon,
            lambda s: s["ledger"]["dead"] >= 1 and set(ids_of(emulator.events())) == set(range(20)),
        )
    assert 1 <= deaths <= 3
    books = daemon.drained()
    assert books.dead == 1
    daemon.kill()
    assert dead_letters(daemon) == ["crashed"]


def test_a_row_and_a_message_that_kill_are_both_set_aside(
    make_poisoned, mqtt_setup, broker, emulator
):
    daemon = make_poisoned(mqtt_setup)
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    daemon.ask("pause")  # so that both are there before the first death
    assert post(mqtt_setup.http_port, "/events", events_with("poison_row")) == 202
    with mqtt_program(broker.port) as program:
        for one in events_with("poison_message"):
            program.publish_text(json.dumps({**one, "params": {"id": one["params"]["id"] + 100}}))
        expected = set(range(20)) | set(range(100, 120))
        deaths = supervise(
            daemon,
            lambda s: s["ledger"]["dead"] >= 2 and set(ids_of(emulator.events())) == expected,
        )
    assert 2 <= deaths <= 6
    daemon.drained()
    daemon.kill()
    # Brought again after a death between commit and PUBACK, the message is known.
    assert dead_letters(daemon) == ["crashed"] * 2
