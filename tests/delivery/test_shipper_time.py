"""Nothing leaves before the time is known, nothing too late, and nothing by a guess."""

import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.boot_book import BootBook
from agent.clock import Clock
from agent.delivery.outlet import NEVER
from agent.delivery.shipper import STORAGE_WAIT
from agent.delivery.transport import Exchange, Transport
from agent.emulator import Emulator, Fault
from agent.event import Beginning, Stamp
from agent.ga4.departure import HOUR_US
from agent.ga4.outcome import NoAnswer
from agent.urequests import Client
from tests.delivery.stage import CAP, WALL, Stage, TestQueue, Time, ship_until_idle, stream

SECOND_US = 1_000_000
PROBE, COLLECT = "/debug/mp/collect", "/mp/collect"
NOBODY = Stamp(wall_us=0, boot_us=0, boot_id="guessed", trusted=False)


@pytest.fixture
def untrusted(stage):
    """A stage whose clock nobody vouches for."""
    stage.present.is_trusted = False
    return stage


@pytest.fixture
def stage_at(tmp_path):
    """A stage whose endpoint says that it is so many seconds since 1970."""
    with ExitStack() as stack:

        def make(seconds):
            emulator = stack.enter_context(Emulator(clock=lambda: seconds))
            queue = TestQueue.open(tmp_path, max_bytes=CAP)
            stack.callback(queue.close)
            stage = Stage(emulator=emulator, queue=queue, directory=tmp_path)
            stack.callback(stage.transport.close)
            return stage

        yield make


@pytest.fixture
def timeless(stage_at):
    """A stage whose endpoint lives in 1970, as this device does."""
    stage = stage_at(0.0)
    stage.present.is_trusted = False
    return stage


def asked(stage):
    """The paths of all requests, in their order."""
    return [request.path for request in stage.emulator.requests()]


def put_old(stage, *names, hours, **fields):
    events = [stage.event(name, **fields) for name in names]
    age_us = int(hours * HOUR_US)
    stage.queue.put_many(
        [replace(e, stamp=replace(e.stamp, wall_us=e.stamp.wall_us - age_us)) for e in events]
    )


# The probe


def test_while_the_time_is_unknown_a_probe_without_events_goes_first(untrusted):
    untrusted.put("e0", "e1")
    shipper = untrusted.shipper()
    assert ship_until_idle(shipper) == NEVER
    assert asked(untrusted) == [PROBE, COLLECT]
    probe = untrusted.emulator.requests()[0]
    assert (probe.method, probe.body, probe.raw) == ("POST", None, "")
    assert probe.query == {"api_secret_present": False}
    assert untrusted.arrived == ["e0", "e1"]
    assert untrusted.queue.books.requests == 2


def test_once_the_time_is_known_nothing_is_probed(stage):
    stage.put("e0")
    ship_until_idle(stage.shipper())
    assert asked(stage) == [COLLECT]


def test_without_events_nobody_is_asked_for_the_time(untrusted):
    assert untrusted.shipper().ship_once() == NEVER
    assert untrusted.emulator.attempts == 0


def test_the_date_of_an_answer_is_handed_on_with_the_moments_around_it(stage_at):
    """A Date names a second: its middle is meant, give or take half of it."""
    stage = stage_at(1_800_000_007.9)
    stage.put("e0")
    before_us = stage.clock.boot_us()
    ship_until_idle(stage.shipper())
    [(server_us, error_us, sent_us, received_us)] = stage.present.confirmed
    assert (server_us, error_us) == (1_800_000_007_500_000, 500_000)
    assert before_us <= sent_us <= received_us <= stage.clock.boot_us()


def test_a_probe_names_no_secret_even_to_a_server_that_refuses_it(untrusted):
    untrusted.emulator.fail(Fault("status", status=404, times=1))
    untrusted.put("e0")
    ship_until_idle(untrusted.shipper())
    assert untrusted.arrived == ["e0"]
    assert untrusted.emulator.requests()[0].query == {"api_secret_present": False}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 411])
def test_an_own_container_need_not_know_the_path_to_tell_the_time(untrusted, status):
    untrusted.emulator.fail(Fault("status", status=status, times=1))
    untrusted.put("e0")
    assert ship_until_idle(untrusted.shipper()) == NEVER
    assert untrusted.arrived == ["e0"]


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault("status", status=503), "offline"),
        (Fault("status", status=429), "offline"),
        (Fault("redirect"), "login_page"),
        (Fault("login_page"), "login_page"),
        (Fault("cut_before"), "offline"),
        (Fault("cut_after"), "offline"),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_probe_that_meets_trouble_is_waited_out_like_any_other(untrusted, fault, state):
    untrusted.put("e0", "e1")
    shipper = untrusted.shipper()
    untrusted.emulator.fail(fault)
    wait = shipper.ship_once()
    assert 2 <= wait <= 4
    assert untrusted.state(shipper) == state
    assert asked(untrusted) == [PROBE] or fault.kind == "cut_before"
    assert untrusted.queue.ready("main") == 2
    untrusted.emulator.recover()
    untrusted.time.pass_(wait + 0.01)
    ship_until_idle(shipper)
    assert untrusted.arrived == ["e0", "e1"]


def test_a_server_that_asks_for_patience_gets_it_even_if_it_told_the_time(untrusted):
    untrusted.put("e0")
    shipper = untrusted.shipper()
    untrusted.emulator.fail(Fault("status", status=429, retry_after="30", times=1))
    shipper.ship_once()
    assert untrusted.present.is_trusted
    assert 30 <= shipper.ship_once() <= 32
    assert asked(untrusted) == [PROBE]


def test_a_network_that_is_not_there_is_only_asked_for_the_time(untrusted):
    untrusted.put("e0")
    shipper = untrusted.shipper()
    untrusted.emulator.stop()
    assert 2 <= shipper.ship_once() <= 4
    assert untrusted.state(shipper) == "offline"
    untrusted.emulator.start()
    untrusted.time.pass_(5)
    ship_until_idle(shipper)
    assert untrusted.arrived == ["e0"]


# A link so slow that the first answer says too little


class Slow(Transport):
    """Posts that take so many seconds, one after another; then none."""

    stage = None
    takes = ()

    def post(self, request):
        if self.takes:
            self.stage.time.pass_(self.takes[0])
            self.takes = self.takes[1:]
        return super().post(request)


@pytest.fixture
def slow(tmp_path):
    """A stage on a machine that starts in 1970, and a transport over a slow link."""
    time = Time()
    with Emulator(clock=lambda: WALL / 1e6 + time()) as emulator:
        queue = TestQueue.open(tmp_path, max_bytes=CAP)
        stage = Stage(emulator=emulator, queue=queue, directory=tmp_path, time=time)
        boot = lambda: int(time() * 1e6)  # noqa: E731 - as Stage has it
        stage.clock = Clock(wall=boot, boot=boot, boot_id="boot", synchronised=lambda: False)
        book = BootBook(clock=stage.clock, load=list, store=lambda _rows: None)
        stage.present = ByClock(stage.clock, book)
        transport = Slow(client=lambda: Client(deadline=5.0))
        transport.stage = stage
        yield stage, transport
        transport.close()
        stage.transport.close()
        queue.close()


class ByClock:
    """What a real clock knows of the time."""

    def __init__(self, clock, book):
        self.now_us, self.confirm, self.when = clock.now_us, clock.confirm, book.when
        self.trusted = lambda: clock.trusted

    def session_id(self, _event):
        raise AssertionError("no event here belongs to a sitting")


def test_over_a_slow_link_a_second_probe_brings_the_time_to_2_s_before_anything_leaves(slow):
    """The first exchange holds DNS, TCP and TLS, so its middle is seconds off."""
    stage, transport = slow
    transport.takes = (6.0, 0.1)
    true_us = int(WALL + stage.time() * 1e6)
    stage.put("e0")
    assert ship_until_idle(stage.shipper(transport=transport)) == NEVER
    assert asked(stage) == [PROBE, PROBE, COLLECT]
    [event] = stage.emulator.events()
    assert abs(event["timestamp_micros"] - true_us) <= 2 * SECOND_US
    assert stage.queue.books.requests == 3


@pytest.mark.parametrize("takes", [(2.9,), (0.0, 6.0), ()])
def test_a_time_that_is_known_to_2_s_is_asked_for_once(slow, takes):
    stage, transport = slow
    transport.takes = takes
    stage.put("e0")
    ship_until_idle(stage.shipper(transport=transport))
    assert asked(stage) == [PROBE, COLLECT]


def test_a_link_that_stays_slow_gets_one_more_probe_and_then_the_events(slow):
    stage, transport = slow
    transport.takes = (6.0,) * 100
    shipper = stage.shipper(transport=transport)
    for number in range(5):
        stage.put(f"e{number}")
        ship_until_idle(shipper)
    assert asked(stage) == [PROBE, PROBE] + [COLLECT] * 5
    stage.emulator.fail(Fault("status", status=503, times=1))
    stage.put("e5")
    stage.time.pass_(shipper.ship_once())
    stage.time.pass_(10)
    ship_until_idle(shipper)
    assert asked(stage)[7:] == [COLLECT, PROBE, COLLECT], "and another after each failure"


def test_a_second_probe_that_meets_trouble_is_waited_out_and_nothing_has_left(slow):
    stage, transport = slow
    transport.takes = (6.0, 0.1, 0.1)
    stage.put("e0")
    shipper = stage.shipper(transport=transport)
    stage.emulator.fail(Fault("delay", seconds=0.0, times=1), Fault("status", status=503, times=1))
    wait = shipper.ship_once()
    assert asked(stage) == [PROBE, PROBE]
    assert (stage.state(shipper), stage.arrived) == ("offline", [])
    stage.time.pass_(wait + 0.01)
    ship_until_idle(shipper)
    assert asked(stage) == [PROBE, PROBE, PROBE, COLLECT]


# Nobody tells the time


def test_without_any_time_events_are_kept_and_the_cure_is_said(timeless):
    """Sent now they would be falsified, and buried they would be lost."""
    timeless.put("e0")
    shipper = timeless.shipper()
    for _ in range(3):
        timeless.time.pass_(shipper.ship_once())
    [report] = shipper.reports()
    assert report.state == "offline"
    assert "clock that is not set" in report.reason
    assert "timedatectl set-ntp true" in report.reason
    assert set(asked(timeless)) == {PROBE}
    assert timeless.present.confirmed == []
    assert (timeless.queue.ready("main"), timeless.queue.books.dead) == (1, 0)


def test_an_answer_that_convinces_nobody_keeps_events_too(untrusted):
    """Such as one that took so long that its Date says nothing."""
    untrusted.present.deaf = True
    untrusted.put("e0")
    shipper = untrusted.shipper()
    assert 2 <= shipper.ship_once() <= 4
    assert len(untrusted.present.confirmed) == 1
    assert untrusted.queue.ready("main") == 1
    assert asked(untrusted) == [PROBE]


def test_what_was_taken_by_a_right_clock_is_kept_too(timeless):
    """Without the present nobody can tell whether GA4 would move it in time."""
    timeless.put("e0")
    assert timeless.present.when(timeless.clock.stamp()).error_us == 0
    timeless.shipper().ship_once()
    assert timeless.queue.ready("main") == 1


def test_when_ntp_sets_the_clock_nobody_waits_for_the_backoff(timeless):
    timeless.put("e0")
    shipper = timeless.shipper()
    for _ in range(6):
        timeless.time.pass_(shipper.ship_once())
    assert shipper.ship_once() > 10
    timeless.present.is_trusted = True
    assert ship_until_idle(shipper) == NEVER
    assert timeless.arrived == ["e0"]


class NotYetValid(Transport):
    """While the clock is not set, every certificate is one of the future."""

    present = None

    def post(self, request):
        if self.present.is_trusted:
            return super().post(request)
        answer = NoAnswer(reason="not yet valid", maybe_sent=False, clock_blocks_tls=True)
        return Exchange(answer, 0, 0)


def test_a_clock_that_blocks_tls_is_said_and_what_it_blocked_leaves_once_it_is_set(untrusted):
    transport = NotYetValid(client=lambda: Client(deadline=5.0))
    transport.present = untrusted.present
    untrusted.put("e0")
    shipper = untrusted.shipper(transport=transport)
    for _ in range(6):
        untrusted.time.pass_(shipper.ship_once())
    assert untrusted.state(shipper) == "clock_blocks_tls"
    assert shipper.ship_once() > 10
    untrusted.present.is_trusted = True
    ship_until_idle(shipper)
    transport.close()
    assert untrusted.arrived == ["e0"]
    assert untrusted.state(shipper) == "ok"


def test_a_date_heard_for_one_stream_frees_the_others(untrusted):
    other = stream(untrusted.emulator.url, name="other", measurement_id="G-OTHER")
    untrusted.put("m", stream="main")
    untrusted.put("o", stream="other")
    assert ship_until_idle(untrusted.shipper(stream(untrusted.emulator.url), other)) == NEVER
    assert sorted(untrusted.arrived) == ["m", "o"]
    assert asked(untrusted).count(PROBE) == 1


def test_paused_or_stopped_nobody_is_asked_for_the_time(untrusted):
    untrusted.put("e0")
    shipper = untrusted.shipper()
    shipper.pause()
    shipper.ship_once()
    shipper.resume()
    shipper.stop()
    shipper.ship_once()
    assert untrusted.emulator.attempts == 0


# What leaves, and as what


def test_an_event_leaves_with_the_corrected_time(stage):
    stage.present.when = lambda stamp: type(stage.present).when(
        stage.present, replace(stamp, wall_us=stamp.wall_us - 3_000)
    )
    event = stage.event("e0")
    stage.queue.put_many([event])
    ship_until_idle(stage.shipper())
    [sent] = stage.emulator.events()
    assert sent["timestamp_micros"] == event.stamp.wall_us - 3_000


def test_late_events_become_dead_letters_and_do_not_leave(stage):
    put_old(stage, "old", "older", hours=71.1)
    put_old(stage, "in_time", hours=70.9)
    assert ship_until_idle(stage.shipper()) == NEVER
    assert stage.arrived == ["in_time"]
    assert stage.dead == {"expired": 2}
    assert stage.emulator.attempts == 1


def test_events_of_a_time_that_nobody_knows_become_dead_letters(stage):
    stage.present.errors["guessed"] = 13 * HOUR_US
    stage.put("known")
    stage.queue.put_many([replace(stage.event("guess"), stamp=NOBODY)])
    ship_until_idle(stage.shipper())
    assert stage.arrived == ["known"]
    assert stage.dead == {"time_unknown": 1}


def test_dead_letters_leave_no_gap_in_a_request(stage):
    """Of fifty events every other one is too late: the rest is one full request."""
    for number in range(50):
        put_old(stage, f"e{number}", hours=71.1 if number % 2 else 1)
    ship_until_idle(stage.shipper())
    assert stage.batches == [[f"e{number}" for number in range(0, 50, 2)]]
    assert stage.dead == {"expired": 25}


def test_dead_letters_are_said_once_with_their_number(stage, caplog):
    put_old(stage, *(f"e{number}" for number in range(60)), hours=80)
    ship_until_idle(stage.shipper())
    assert [record.getMessage() for record in caplog.records] == [
        "stream main: dead letters: 60 expired"
    ]


def test_dead_letters_that_the_disk_refuses_are_recorded_later_and_are_none_twice(stage):
    put_old(stage, "old", hours=80)
    stage.put("e0", client="2.2")
    shipper = stage.shipper()
    stage.queue.refusing = True
    ship_until_idle(shipper)
    assert stage.arrived == ["e0"]
    stage.queue.refusing = False
    stage.time.pass_(STORAGE_WAIT)
    ship_until_idle(shipper)
    assert stage.dead == {"expired": 1}
    assert stage.arrived == ["e0"]


def test_restamped_late_events_leave_now(stage):
    put_old(stage, "old", hours=80, params={"session_id": 5})
    ship_until_idle(stage.shipper(stream(stage.emulator.url, late="restamp")))
    [sent] = stage.emulator.events()
    assert abs(sent["timestamp_micros"] - stage.clock.wall_us()) < SECOND_US
    assert set(sent["params"]) == {"original_time", "late_h"}
    assert stage.dead == {}


def test_a_sittings_session_id_is_known_when_it_leaves(stage):
    sitting = Beginning("1.1", replace(stage.clock.stamp(), wall_us=WALL))
    stage.put("e0", sitting=sitting)
    ship_until_idle(stage.shipper())
    assert stage.emulator.events()[0]["params"] == {"session_id": WALL // SECOND_US}


def test_a_repeated_event_is_the_same_event(stage):
    """The same time and params, or BigQuery could not tell that it is a repeat."""
    stage.present.errors["boot"] = 100 * SECOND_US
    sitting = Beginning("1.1", replace(stage.clock.stamp(), wall_us=WALL))
    put_old(stage, "e0", hours=30, params={"n": 1}, sitting=sitting)
    stage.emulator.fail(Fault("cut_after", times=1))
    shipper = stage.shipper()
    shipper.ship_once()
    stage.time.pass_(shipper.ship_once())
    ship_until_idle(shipper)
    first, second = stage.emulator.events()
    assert first == second
    assert first["params"]["time_uncertain_s"] == 100


# What is counted


def test_the_ledger_is_told_what_left_late(stage):
    put_old(stage, "a", hours=1)
    put_old(stage, "b", "c", hours=30)
    put_old(stage, "d", hours=50)
    stage.emulator.fail(Fault("status", status=503, times=1))
    shipper = stage.shipper()
    shipper.ship_once()
    assert stage.queue.books.noted == {}
    stage.time.pass_(5)
    ship_until_idle(shipper)
    assert stage.queue.books.noted == {"left_after_24h": 3, "left_after_48h": 1}


def test_what_was_left_out_for_want_of_room_is_counted(stage):
    stage.present.errors["boot"] = 100 * SECOND_US
    stage.put("e0", params={f"p{number}": number for number in range(25)})
    ship_until_idle(stage.shipper())
    assert stage.queue.books.noted == {"param_left_out": 1}


def test_the_days_of_the_ledger_are_those_of_the_times_that_were_sent(stage):
    put_old(stage, "tap", hours=30)
    stage.put("tap")
    ship_until_idle(stage.shipper())
    days = {row.day: (row.stream, row.event, row.sent) for row in stage.queue.days()}
    assert days == {
        str(datetime.fromtimestamp(event["timestamp_micros"] / 1e6, UTC).date()): ("main", "tap", 1)
        for event in stage.emulator.events()
    }
    assert len(days) == 2


# Several connections


def test_however_many_connections_there_are_one_asks_for_the_time(untrusted):
    untrusted.put(*(f"e{number}" for number in range(75)))
    untrusted.emulator.fail(Fault("delay", seconds=0.1, times=1))
    shipper = untrusted.shipper(connections=3)
    threads = [threading.Thread(target=shipper.ship_once) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked(untrusted).count(PROBE) == 1
    ship_until_idle(shipper)
    assert len(untrusted.arrived) == 75
