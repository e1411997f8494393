"""What is settled at the moment of taking: what is new, and whose sitting it is of."""

import json
import logging

import pytest

from agent.clock import Clock
from agent.event import Stream
from agent.intake.attribution import Attribution, Device
from agent.intake.door import Accepted, Full
from agent.intake.duplicates import Window, delivery
from agent.intake.message import Message
from agent.intake.parse import Shape
from agent.intake.reception import Reception
from agent.intake.sessions import Sessions
from agent.intake.spacing import Spacing
from agent.queue.failures import QueueFull, StorageError
from agent.secret import Secret
from tests.intake.stored import events, letters, stored
from tests.sorters import sorter

SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
BEGIN = 1_800_000_000
BOOT = "boot-b"
OWN = Device(client_id="77.88")
SALT = Secret("0123456789abcdef0123")
TAP = {"name": "tap"}
STREAMS = {
    "main": Stream(name="main", endpoint="https://x", measurement_id="G-ABC123", event_id=False),
    "app": Stream(name="app", endpoint="https://x", firebase_app_id="1:2", event_id=False),
}
COOKIES = "_ga=GA1.1.1.2; _ga_ABC123=GS1.1.1690013078.2.1"


class Ticking:
    """The clocks of a boot; ``boot_us`` is set by the test."""

    def __init__(self, *, right=True):
        self.boot_us = 0
        self.clock = Clock(
            wall=lambda: self.boot_us + (BEGIN * SECOND if right else 0),
            boot=lambda: self.boot_us,
            boot_id=BOOT,
            synchronised=lambda: right,
        )


class Failing:
    """A queue that refuses some commits, and notes those that it is asked for."""

    def __init__(self, queue, *errors):
        self._queue, self.errors = queue, list(errors)
        self.note_refused = queue.note_refused

    def put_many(self, items, **beside):
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self._queue.put_many(items, **beside)


class Agent:
    """A door with all that is remembered from one message to the next."""

    def __init__(self, make_door, queue, directory):
        self._make_door, self.queue, self._directory = make_door, queue, directory
        self.ticking = Ticking()
        self.restart()

    def restart(self, *errors, per_sitting=False, sessions=True, mode="off"):
        """A new process on the same queue; the first commits raise these errors."""
        numbers = iter(range(1, 1000))
        sittings = Sessions(
            load=self.queue.session, boot_id=BOOT, timeout_s=120.0, longest_s=3600.0,
            per_sitting=per_sitting, new_client_id=lambda _: f"9.{next(numbers)}",
        )  # fmt: skip
        self.door = self._make_door(
            clock=self.ticking.clock,
            queue=Failing(self.queue, *errors),
            sorter=sorter(
                streams=STREAMS, clock=self.ticking.clock, sessions=sessions, mode=mode,
                attribution=Attribution(device=OWN, salt=SALT),
            ),
            reception=Reception(
                window=Window(load=self.queue.seen), sessions=sittings if sessions else None
            ),
        )  # fmt: skip

    def say(self, value, *, at=None, **fields):
        """Hand in a message, at so many microseconds after the boot."""
        if at is not None:
            self.ticking.boot_us = at
        fields = {"source": "http", "payload": json.dumps(value).encode()} | fields
        return self.door.admit(Message(**fields))

    @property
    def events(self):
        return events(self._directory)

    @property
    def params(self):
        """Session and engagement of all events."""
        names = ("session_id", "engagement_time_msec")
        return [tuple(event.params.get(name) for name in names) for event in self.events]


@pytest.fixture
def agent(make_door, queue, tmp_path):
    return Agent(make_door, queue, tmp_path)


# -- what was taken before --------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_an_event_that_brings_an_event_id_again_is_answered_as_taken_and_counted(agent, restarted):
    said = TAP | {"event_id": "e1"}
    assert agent.say(said) == Accepted(1)
    if restarted:
        agent.restart()
    assert agent.say(said) == Accepted(1, duplicates=1)
    assert len(agent.events) == 1
    assert agent.queue.books.refused == {"duplicate": 1}
    assert agent.queue.books.balanced


def test_equal_events_without_an_id_are_as_many_events(agent):
    for _ in range(2):
        assert agent.say([TAP, TAP]) == Accepted(2)
    assert len(agent.events) == 4


def test_of_one_message_only_what_is_new_is_taken(agent):
    agent.say(TAP | {"event_id": "e1"})
    answer = agent.say([TAP | {"event_id": f"e{n}"} for n in (1, 2, 2, 3)])
    assert answer == Accepted(4, duplicates=2)
    assert [event.event_id for event in agent.events] == ["e1", "e2", "e3"]


def test_a_transaction_with_the_same_content_is_a_duplicate(agent):
    sale = {"name": "purchase", "params": {"transaction_id": "t1", "amount": 5}}
    agent.say(sale)
    assert agent.say(sale | {"event_id": "new"}) == Accepted(1, duplicates=1)
    assert len(agent.events) == 1


def test_a_transaction_with_other_content_is_kept_counted_and_warned_of_once(agent, caplog):
    with caplog.at_level(logging.WARNING):
        for amount in (5, 6, 7, 6):
            params = {"transaction_id": "canary", "amount": amount}
            agent.say({"name": "purchase", "params": params})
    assert [event.params["amount"] for event in agent.events] == [5, 6, 7]
    assert agent.queue.books.noted == {"transaction_id_reused": 2}
    assert agent.queue.books.refused == {"duplicate": 1}
    [told] = [record.getMessage() for record in caplog.records]
    assert "transaction_id" in told
    assert "canary" not in told


def test_what_is_said_of_an_event_is_counted_once_however_often_it_comes(agent):
    said = TAP | {"event_id": "e1", "client_id": "9.9"}
    for _ in range(3):
        agent.say(said)
    agent.say([said, TAP | {"event_id": "e2", "client_id": "9.9"}])
    assert agent.queue.books.noted == {"borrowed_without_session": 2}
    assert agent.queue.books.refused == {"duplicate": 3}


@pytest.mark.parametrize(
    "error", [QueueFull(never=False), StorageError("disk_full", "cannot write: full")]
)
def test_what_could_not_be_committed_is_taken_at_the_next_attempt(agent, error):
    agent.restart(error)
    said = TAP | {"event_id": "e1", "client_id": "9.9"}
    assert isinstance(agent.say(said), Full)
    assert (agent.events, agent.queue.books.noted) == ([], {})
    assert agent.say(said) == Accepted(1)
    assert agent.say(said) == Accepted(1, duplicates=1)
    assert agent.queue.books.noted == {"borrowed_without_session": 1}


def test_the_counts_are_committed_with_the_events(agent, queue):
    statements = []
    queue._putter.set_trace_callback(statements.append)
    agent.say([TAP | {"client_id": "9.9", "event_id": "e"}] * 2)
    queue._putter.set_trace_callback(None)
    assert statements.count("COMMIT") == 1
    assert (queue.books.noted, queue.books.refused) == (
        {"borrowed_without_session": 1},
        {"duplicate": 1},
    )


def test_an_export_is_taken_whatever_was_taken_before(agent):
    """Who puts an export back has taken it out: all of it is wanted."""
    said = TAP | {"event_id": "e1", "client_id": "77.88"}
    agent.say(said)
    for _ in range(2):
        back = {"shape": Shape.SPOOL, "answerable": False, "source": "spool"}
        assert agent.say(said | {"complete": True}, **back) == Accepted(1)
    assert len(agent.events) == 3
    assert agent.queue.seen("event_id") != []


# -- deliveries of a broker -------------------------------------------------------------------------


def deliver(agent, value, *, number=1, again=False, topic="t"):
    payload = json.dumps(value).encode()
    return agent.say(
        value, source="mqtt", answerable=False, topic=topic, again=again,
        delivery=delivery(topic, number, payload),
    )  # fmt: skip


@pytest.mark.parametrize("value", [TAP, [TAP, TAP], {"nome": "no event"}, [TAP, 7]])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_message_that_is_delivered_again_is_not_taken_again(agent, tmp_path, value, restarted):
    """Its dead letters neither; and it is acknowledged."""
    deliver(agent, value)
    before = stored(tmp_path)
    if restarted:
        agent.restart()
    assert deliver(agent, value, again=True) == Accepted(len(before), duplicates=len(before))
    assert stored(tmp_path) == before
    assert agent.queue.books.refused == {"duplicate": len(before)}
    assert agent.queue.books.balanced


def test_an_equal_message_that_is_new_is_taken_even_under_an_id_that_was_used_before(agent):
    for _ in range(2):
        assert deliver(agent, TAP) == Accepted(1)
    assert len(agent.events) == 2


def test_a_message_is_taken_that_may_have_come_before_and_did_not(agent):
    assert deliver(agent, TAP, again=True) == Accepted(1)
    assert deliver(agent, TAP, again=True, number=2) == Accepted(1)
    assert deliver(agent, TAP, again=True, topic="u") == Accepted(1)
    assert len(agent.events) == 3


def test_a_delivery_whose_commit_failed_is_taken_when_it_comes_again(agent):
    agent.restart(StorageError("disk_full", "cannot write: full"))
    assert isinstance(deliver(agent, TAP), Full)
    assert deliver(agent, TAP, again=True) == Accepted(1)
    assert len(agent.events) == 1


# -- sittings ---------------------------------------------------------------------------------------


def test_events_of_a_sitting_have_one_session_and_the_time_since_the_one_before(agent):
    for at in (0, 10 * SECOND, 25 * SECOND):
        agent.say(TAP, at=at)
    assert agent.params == [(BEGIN, 1), (BEGIN, 9999), (BEGIN, 15000)]


def test_after_the_timeout_it_is_another_sitting_with_a_greater_session(agent):
    agent.say(TAP, at=0)
    agent.say(TAP, at=3 * MINUTE)
    assert agent.params == [(BEGIN, 1), (BEGIN + 180, 1)]


def test_a_sitting_goes_on_after_a_restart(agent):
    agent.say(TAP, at=0)
    agent.restart()
    agent.say(TAP, at=10 * SECOND)
    assert agent.params[1][0] == BEGIN


def test_start_and_end_are_said_beside_the_name(agent):
    agent.say(TAP, at=0)
    agent.say(TAP | {"session": "start"}, at=10 * SECOND)
    agent.say(TAP | {"session": "end"}, at=20 * SECOND)
    agent.say(TAP, at=30 * SECOND)
    assert [session for session, _ in agent.params] == [BEGIN, BEGIN + 10, BEGIN + 10, BEGIN + 30]


def test_machine_events_neither_open_nor_prolong_a_sitting(agent):
    machine = TAP | {"actor": "machine"}
    agent.say(machine, at=0)
    agent.say(TAP, at=10 * SECOND)
    agent.say(machine, at=100 * SECOND)
    agent.say(TAP, at=140 * SECOND)
    opened = BEGIN + 10
    assert agent.params == [(None, None), (opened, 1), (opened, None), (BEGIN + 140, 1)]


def test_a_duplicate_does_not_prolong_a_sitting(agent):
    said = TAP | {"event_id": "e1"}
    agent.say(said, at=0)
    agent.say(said, at=100 * SECOND)
    agent.say(TAP, at=150 * SECOND)
    assert [session for session, _ in agent.params] == [BEGIN, BEGIN + 150]


@pytest.mark.parametrize(
    ("said", "session"),
    [
        (TAP | {"client_id": "9.9"}, None),
        (TAP | {"cookies": "_ga=GA1.1.1.2"}, None),
        (TAP | {"cookies": COOKIES}, 1690013078),
        (TAP | {"client_id": "9.9", "params": {"session_id": 1690000000}}, 1690000000),
    ],
)
def test_a_borrowed_id_has_its_own_session_or_none_and_no_engagement(agent, said, session):
    for at in (0, 10 * SECOND):
        agent.say(said, at=at)
    assert agent.params == [(session, None)] * 2
    assert agent.queue.session("9.9") is None
    assert agent.queue.session("1.2") is None


def test_an_id_made_of_a_key_has_sittings_of_its_own(agent):
    agent.say(TAP, at=0)
    agent.say(TAP | {"client_key": "card"}, at=10 * SECOND)
    agent.say(TAP | {"client_key": "card"}, at=20 * SECOND)
    assert [session for session, _ in agent.params] == [BEGIN, BEGIN + 10, BEGIN + 10]


def test_who_has_a_session_of_his_own_keeps_it(agent):
    agent.say(TAP | {"params": {"session_id": 1690000000}}, at=0)
    assert agent.params == [(1690000000, None)]


def test_what_has_no_room_gets_nothing(agent):
    agent.say(TAP | {"params": {f"p{n}": n for n in range(25)}}, at=0)
    agent.say(TAP | {"params": {f"p{n}": n for n in range(24)}}, at=10 * SECOND)
    assert agent.params == [(None, None), (BEGIN, None)]
    assert [len(event.params) for event in agent.events] == [25, 25]


def test_an_export_is_in_no_sitting_of_now(agent):
    said = TAP | {"complete": True, "client_id": "77.88"}
    agent.say(said, at=0, shape=Shape.SPOOL)
    assert agent.params == [(None, None)]
    assert agent.queue.session("77.88") is None


def test_of_a_clock_that_is_not_right_the_session_is_found_when_the_event_leaves(agent):
    agent.ticking = Ticking(right=False)
    agent.restart()
    agent.say(TAP, at=50 * SECOND)
    agent.say(TAP, at=60 * SECOND)
    agent.say(TAP | {"params": {f"p{n}": n for n in range(25)}}, at=70 * SECOND)
    first, second, full = agent.events
    assert first.sitting == second.sitting
    assert (first.sitting.client, first.sitting.start) == ("77.88", first.stamp)
    assert agent.params[:2] == [(None, 1), (None, 9999)]
    # Without room for a session_id it must not get one later either.
    assert full.sitting is None


def test_with_a_visitor_for_each_sitting_the_client_is_a_new_one(agent):
    agent.restart(per_sitting=True)
    for at in (0, 10 * SECOND, 5 * MINUTE):
        agent.say(TAP, at=at)
    # Even where there is no room for a session.
    agent.say(TAP | {"params": {f"p{n}": n for n in range(25)}}, at=5 * MINUTE + SECOND)
    agent.say(TAP | {"client_key": "card"}, at=6 * MINUTE)
    clients = [event.sender.client_id for event in agent.events]
    assert clients[:4] == ["9.1", "9.1", "9.2", "9.2"]
    assert not clients[4].startswith("9.")
    assert clients[4] != "77.88"


def test_a_machine_s_event_between_sittings_is_the_device_s(agent):
    agent.restart(per_sitting=True)
    agent.say(TAP | {"actor": "machine"}, at=0)
    assert agent.events[0].sender.client_id == "77.88"


def test_with_a_visitor_for_each_sitting_an_unknown_session_is_found_under_the_device(agent):
    """By its id the sittings are kept, whatever the visitors are called."""
    agent.ticking = Ticking(right=False)
    agent.restart(per_sitting=True)
    agent.say(TAP, at=50 * SECOND)
    [event] = agent.events
    assert (event.sender.client_id, event.sitting.client) == ("9.1", "77.88")


def test_without_sessions_there_is_nothing_of_a_sitting(agent):
    agent.restart(sessions=False)
    agent.say(TAP, at=0)
    assert (agent.params, agent.events[0].sitting) == ([(None, None)], None)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("session", [None, "start", "end"])
def test_what_its_publisher_dates_before_this_boot_is_in_no_sitting_of_now(agent, local, session):
    """With or without a mark, by this device's clock or by another."""
    agent.restart(per_sitting=True)
    agent.say(TAP, at=HOUR)
    old = TAP | {"timestamp_micros": BEGIN * SECOND - 20 * HOUR}
    agent.say(old | ({"session": session} if session else {}), local=local)
    agent.say(TAP, at=HOUR + MINUTE)
    assert [session for session, _ in agent.params] == [BEGIN + 3600, None, BEGIN + 3600]
    assert agent.params[1] == (None, None)
    clients = [event.sender.client_id for event in agent.events]
    assert clients == ["9.1", "77.88", "9.1"]


def test_it_opens_none_either(agent):
    agent.say(TAP | {"timestamp_micros": BEGIN * SECOND - 20 * HOUR}, at=HOUR)
    assert agent.params == [(None, None)]
    assert agent.queue.session("77.88") is None


@pytest.mark.parametrize("local", [True, False])
def test_what_its_publisher_dates_into_an_earlier_sitting_of_this_boot_is_of_that_one(agent, local):
    agent.say(TAP, at=HOUR)
    agent.say(TAP, at=2 * HOUR)
    between = TAP | {"timestamp_micros": BEGIN * SECOND + HOUR + MINUTE, "session": "end"}
    agent.say(between, local=local)
    agent.say(TAP, at=2 * HOUR + MINUTE)
    assert [session for session, _ in agent.params] == [
        BEGIN + 3600, BEGIN + 7200, BEGIN + 3600, BEGIN + 7200,
    ]  # fmt: skip


def test_a_second_end_is_of_the_visitor_who_has_left_and_a_lone_one_of_nobody(agent):
    agent.restart(per_sitting=True)
    end = TAP | {"session": "end"}
    for second, said in ((0, end), (10, TAP), (20, end), (21, end), (300, end)):
        agent.say(said, at=second * SECOND)
    assert [session for session, _ in agent.params] == [None, *[BEGIN + 10] * 3, None]
    clients = [event.sender.client_id for event in agent.events]
    assert clients == ["77.88", "9.1", "9.1", "9.1", "77.88"]


@pytest.mark.parametrize("session_id", ["17fba6ee-8673-4ebc", "0", "", "abc"])
def test_who_says_a_session_that_is_none_is_in_the_sitting_that_is_open(agent, session_id):
    agent.restart(mode="repair")
    agent.say(TAP, at=0)
    agent.say(TAP | {"params": {"session_id": session_id}}, at=10 * SECOND)
    assert agent.params == [(BEGIN, 1), (BEGIN, 9999)]
    assert agent.queue.books.repaired == {"identifier_dropped": 1}


def test_an_event_that_is_refused_opens_no_sitting(agent, tmp_path):
    bad = {"name": "tap", "client_key": 7}
    agent.say(bad, at=0, answerable=False)
    agent.say(TAP, at=100 * SECOND)
    assert len(letters(tmp_path)) == 1
    assert agent.params == [(BEGIN + 100, 1)]


# -- times ------------------------------------------------------------------------------------------


def test_events_of_one_client_have_increasing_times_in_the_order_in_which_they_came(agent):
    agent.say([TAP] * 30, at=0)
    agent.say([TAP] * 30, at=5)
    agent.say({"events": [TAP] * 25}, at=20)
    times = [event.stamp.wall_us for event in agent.events]
    assert times == sorted(set(times))
    boots = [event.stamp.boot_us for event in agent.events]
    assert boots == sorted(set(boots))
    assert times[-1] - times[0] < 200


def test_a_publisher_that_counts_in_seconds_has_microseconds_of_its_own(agent):
    said = TAP | {"client_id": "9.9", "timestamp_micros": BEGIN * SECOND}
    agent.say([said, said], at=MINUTE, local=False)
    agent.say(said, local=False)
    assert [event.time_us - BEGIN * SECOND for event in agent.events] == [0, 1, 2]


def test_a_reception_that_goes_on_where_another_stopped_gives_no_microsecond_twice(queue):
    """As after a reload."""
    spacing, told = Spacing(), []
    message = Message(
        source="http",
        payload=json.dumps(TAP | {"timestamp_micros": BEGIN * SECOND}).encode(),
        local=False,
    )
    for _ in range(2):
        reception = Reception(window=Window(load=queue.seen), sessions=None, spacing=spacing)
        part = sorter(streams=STREAMS).sort(message, Ticking().clock.stamp())
        with reception.claim([message], [part]) as claim:
            told += [item.event.time_us for item in reception.receive([part], claim).parts[0].items]
    assert [time_us - BEGIN * SECOND for time_us in told] == [0, 1]


def test_an_export_keeps_its_times(agent):
    stamp = {"wall_us": 5, "boot_us": 6, "boot_id": "old", "trusted": True}
    said = TAP | {"complete": True, "client_id": "77.88", "stamp": stamp}
    agent.say([said, said], shape=Shape.SPOOL)
    assert {(event.stamp.wall_us, event.stamp.boot_us) for event in agent.events} == {(5, 6)}
