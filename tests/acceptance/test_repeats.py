"""What comes twice is counted once, and what was sent without an answer as the stream says."""

import json
import signal
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from agent.emulator import Fault
from tests.acceptance.daemon import ROOT
from tests.acceptance.publishers import event, ids_of, mqtt_program, post

MORTAL_AGENT = str(ROOT / "tests" / "acceptance" / "mortal_agent.py")
MESSAGES = 120
REQUEST = 10  # events of a test that fit into one request


@pytest.fixture
def daemon(make_daemon, setup):
    return make_daemon(setup)


@pytest.fixture
def make_sender(make_daemon, setup):
    """Makes daemons whose stream repeats or loses what is uncertain."""

    def make(on_uncertain):
        # An answer may take long, so that a kill comes before it.
        stream = f'on_uncertain = "{on_uncertain}"'
        return make_daemon(replace(setup, stream=stream, timeout="60 s"))

    return make


def dies(daemon, moment):
    """Let the daemon's next life end at a moment."""
    daemon.program = (sys.executable, MORTAL_AGENT, moment)


def revive(daemon):
    """It has died; start it again, and well."""
    assert daemon.exit_status() == -signal.SIGKILL, daemon.tail()
    daemon.program = (sys.executable, "-m", "agent", "run")
    daemon.start()


def restart(daemon):
    daemon.kill()
    daemon.start()


def hand_in(daemon, *events):
    assert post(daemon.setup.http_port, "/events", list(events)) == 202


def purchase(transaction, value):
    items = [{"item_id": "cola", "price": value, "quantity": 1}]
    params = {"transaction_id": transaction, "currency": "EUR", "value": value, "items": items}
    return {"name": "purchase", "params": params}


# Over HTTP


def test_an_event_id_that_comes_again_is_answered_as_if_it_were_new_and_counts_once(
    daemon, emulator
):
    """Who repeats a request did not hear the answer: to hear "refused" would make it try for ever."""
    daemon.start()
    own = {**event(1), "event_id": "till-7-0815"}
    hand_in(daemon, own)
    hand_in(daemon, own)
    hand_in(daemon, own, {**event(2), "event_id": "till-7-0816"})
    body = {"client_id": "7.7", "events": [own]}
    for _ in range(2):
        assert post(daemon.setup.http_port, "/mp/collect", body) == 204
    books = daemon.drained()
    assert sorted(ids_of(emulator.events())) == [1, 1, 2], "another client's event is another one"
    assert (books.received, books.sent, dict(books.refused)) == (3, 3, {"duplicate": 3})
    sent = [event["params"]["event_id"] for event in emulator.events()]
    assert sorted(sent) == ["till-7-0815", "till-7-0815", "till-7-0816"]


@pytest.mark.parametrize("delivered", [False, True], ids=["waiting", "delivered"])
def test_an_event_id_is_known_again_after_a_kill(daemon, emulator, delivered):
    if not delivered:
        emulator.stop()
    daemon.start()
    hand_in(daemon, {**event(1), "event_id": "till-7-0815"}, event(2))
    if delivered:
        daemon.drained()
    restart(daemon)
    hand_in(daemon, {**event(1), "event_id": "till-7-0815"}, event(2))
    if not delivered:
        emulator.start()
    books = daemon.drained()
    # Two equal events without an id of their own are two events.
    assert sorted(ids_of(emulator.events())) == [1, 2, 2]
    assert (books.received, dict(books.refused)) == (3, {"duplicate": 1})


def test_the_ids_that_the_agent_gives_tell_all_events_apart(daemon, emulator):
    daemon.start()
    hand_in(daemon, *(event(1) for _ in range(5)))
    restart(daemon)
    hand_in(daemon, *(event(1) for _ in range(5)))
    daemon.drained()
    assert len({event["params"]["event_id"] for event in emulator.events()}) == 10


def test_the_same_purchase_counts_once_and_a_changed_one_is_told(daemon, emulator):
    daemon.start()
    hand_in(daemon, purchase("T-1", 2.5))
    hand_in(daemon, purchase("T-1", 2.5))
    hand_in(daemon, purchase("T-2", 2.5))
    daemon.drained()  # what is in the air at a kill may come twice
    restart(daemon)
    hand_in(daemon, purchase("T-1", 2.5))
    hand_in(daemon, purchase("T-1", 3.5))
    hand_in(daemon, purchase("T-1", 3.5))
    books = daemon.drained()
    bought = [(e["params"]["transaction_id"], e["params"]["value"]) for e in emulator.events()]
    assert sorted(bought) == [("T-1", 2.5), ("T-1", 3.5), ("T-2", 2.5)]
    assert dict(books.refused) == {"duplicate": 3}
    assert books.noted["transaction_id_reused"] == 1
    status = daemon.status()["ledger"]
    assert status["noted"]["transaction_id_reused"] == 1
    assert status["refused"]["duplicate"] == 3
    assert daemon.log.count("found a transaction_id again with other content") == 1


def test_two_machines_that_number_alike_lose_no_sale(daemon, emulator):
    daemon.start()
    for client_id in ("11.1", "22.2", "11.1", "22.2"):
        hand_in(daemon, {**purchase("0001", 1.5), "client_id": client_id})
    books = daemon.drained()
    senders = [r.body["client_id"] for r in emulator.requests() for _ in r.events]
    assert sorted(senders) == ["11.1", "22.2"]
    assert dict(books.refused) == {"duplicate": 2}
    assert books.noted["transaction_id_reused"] == 1


def test_of_one_sale_the_same_amount_may_be_given_back_twice_at_different_times(daemon, emulator):
    """By this machine's clock: such times end up in the stamp, and count as they were said."""
    daemon.start()
    now_us = time.time_ns() // 1000
    parts = {"transaction_id": "T-1", "value": 1, "currency": "EUR"}
    first = {"name": "refund", "params": parts, "timestamp_micros": now_us - 20_000_000}
    second = {**first, "timestamp_micros": now_us - 10_000_000}
    hand_in(daemon, first, second)
    hand_in(daemon, second)
    books = daemon.drained()
    assert [event["name"] for event in emulator.events()] == ["refund", "refund"]
    assert dict(books.refused) == {"duplicate": 1}
    assert "transaction_id_reused" not in books.noted


def test_what_another_agent_sends_twice_counts_once(daemon, emulator):
    """It goes on with the id that the first agent gave it, and comes to the second as a param."""
    daemon.start()
    hand_in(daemon, event(1))
    daemon.drained()
    [sent] = emulator.events()
    handed_on = {"client_id": "5.5", "events": [sent]}
    for _ in range(2):
        assert post(daemon.setup.http_port, "/mp/collect", handed_on) == 204
    books = daemon.drained()
    assert ids_of(emulator.events()) == [1, 1]
    assert dict(books.refused) == {"duplicate": 1}


@pytest.mark.parametrize("number", ["", "  "], ids=["empty", "blank"])
def test_a_purchase_without_its_number_is_refused(daemon, number):
    daemon.start()
    assert post(daemon.setup.http_port, "/events", purchase(number, 2.5)) == 400
    assert daemon.status()["ledger"]["refused"] == {"invalid": 1}


# Over MQTT


@pytest.mark.parametrize("equal", [False, True], ids=["numbered", "equal"])
def test_what_the_broker_delivers_again_after_a_kill_counts_once(
    make_daemon, mqtt_setup, broker, emulator, equal
):
    """Killed between commit and PUBACK. Equal payloads are no repeats: ON, OFF, ON."""
    daemon = make_daemon(mqtt_setup)
    emulator.stop()
    dies(daemon, "committed")
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    with mqtt_program(broker.port) as program:
        program.publish([7] * MESSAGES if equal else range(MESSAGES))
        program.wait_acknowledged(MESSAGES)
    revive(daemon)
    daemon.wait_received(MESSAGES)
    emulator.start()
    expected = Counter([7] * MESSAGES if equal else range(MESSAGES))
    daemon.wait(lambda _: len(emulator.events()) >= MESSAGES, flush=True)
    books = daemon.drained()
    assert Counter(ids_of(emulator.events())) == expected
    assert books.received == books.sent == MESSAGES
    assert books.refused["duplicate"] >= 1, "it died after a commit"


# Between the endpoint's answer and the acknowledgement


def arrivals(emulator):
    """How often each event arrived, by its id; of one that repeats, all is the same."""
    told = [json.dumps(event, sort_keys=True) for event in emulator.events()]
    by_id = Counter(event["params"]["event_id"] for event in emulator.events())
    assert len(set(told)) == len(by_id), told
    return by_id


@pytest.mark.parametrize(("on_uncertain", "times"), [("repeat", 2), ("lose", 1)])
def test_killed_after_the_answer_an_event_counts_twice_or_is_given_up(
    make_sender, emulator, on_uncertain, times
):
    daemon = make_sender(on_uncertain)
    emulator.stop()
    daemon.start()
    hand_in(daemon, *(event(number) for number in range(REQUEST)))
    daemon.kill()
    emulator.start()
    dies(daemon, "answered")
    daemon.spawn()
    revive(daemon)
    hand_in(daemon, event(REQUEST))
    books = daemon.drained()
    by_id = arrivals(emulator)
    assert Counter(by_id.values()) == {times: REQUEST, 1: 1} if times > 1 else {1: REQUEST + 1}
    lost = {"uncertain": REQUEST} if on_uncertain == "lose" else {}
    assert dict(books.dropped) == lost
    assert (books.received, books.sent) == (REQUEST + 1, REQUEST + 1 - sum(lost.values()))


@pytest.mark.parametrize(
    ("on_uncertain", "fault", "times"),
    [
        ("repeat", Fault("hang"), 1),
        ("lose", Fault("hang"), 0),
        ("repeat", Fault("delay", seconds=60), 2),
        ("lose", Fault("delay", seconds=60), 1),
    ],
    ids=["repeat-hang", "lose-hang", "repeat-taken", "lose-taken"],
)
def test_killed_while_it_waits_for_the_answer(make_sender, emulator, on_uncertain, fault, times):
    """Nobody knows whether the endpoint took them: with "hang" it did not, with "delay" it did."""
    daemon = make_sender(on_uncertain)
    daemon.start()
    hand_in(daemon, event(0))  # the clock is trusted now: no probe comes any more
    daemon.drained()
    emulator.fail(fault)
    hand_in(daemon, *(event(number) for number in range(1, REQUEST + 1)))
    assert emulator.wait_for(lambda: emulator.attempts_since_fault == 1, 10)
    daemon.kill()
    emulator.recover()
    daemon.start()
    books = daemon.drained()
    by_number = Counter(ids_of(emulator.events()))
    assert by_number == Counter({0: 1} | dict.fromkeys(range(1, REQUEST + 1), times))
    arrivals(emulator)
    lost = {"uncertain": REQUEST} if on_uncertain == "lose" else {}
    assert dict(books.dropped) == lost
    assert daemon.status()["ledger"]["dropped"] == lost
    assert (books.received, books.sent) == (REQUEST + 1, REQUEST + 1 - sum(lost.values()))


@pytest.mark.parametrize(("on_uncertain", "times"), [("repeat", 2), ("lose", 1)])
def test_an_answer_that_is_lost_on_the_way_needs_no_kill(
    make_sender, emulator, on_uncertain, times
):
    daemon = make_sender(on_uncertain)
    daemon.start()
    hand_in(daemon, event(0))
    daemon.drained()
    emulator.fail(Fault("cut_after", times=1))
    hand_in(daemon, event(1))
    books = daemon.drained()
    assert Counter(ids_of(emulator.events())) == Counter({0: 1, 1: times})
    arrivals(emulator)
    assert dict(books.dropped) == ({"uncertain": 1} if on_uncertain == "lose" else {})


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault("status", status=429), "offline"),
        (Fault("status", status=404), "misconfigured"),
        (Fault("redirect"), "login_page"),
    ],
    ids=["429", "404", "302"],
)
def test_a_clear_no_is_not_uncertain(make_sender, emulator, fault, state):
    """Nothing is given up that the endpoint surely did not take, at a restart neither."""
    daemon = make_sender("lose")
    daemon.start()
    hand_in(daemon, event(0))
    daemon.drained()
    emulator.fail(fault)
    hand_in(daemon, *(event(number) for number in range(1, REQUEST)))
    daemon.wait(lambda status: status["state"] == state)
    assert daemon.end() == 0
    emulator.recover()
    daemon.start()
    books = daemon.drained()
    assert sorted(ids_of(emulator.events())) == list(range(REQUEST))
    assert (books.sent, dict(books.dropped)) == (REQUEST, {})
