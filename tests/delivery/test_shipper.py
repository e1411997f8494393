"""What leaves, when, how often, and what becomes of it: step by step, with a clock set by hand."""

import logging
import math
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import jsontext
from agent.delivery.backoff import HOUR
from agent.delivery.outlet import NEVER
from agent.delivery.shipper import STORAGE_WAIT
from agent.delivery.transport import REQUEST_OVERHEAD, Transport
from agent.emulator import Emulator, Fault
from agent.event import UNASSIGNED, Priority
from agent.queue.event_queue import EventQueue
from agent.queue.pages import Selection
from agent.stepwise import TOUCHING_FILE, Stepwise
from agent.urequests import Client
from tests.delivery.stage import CAP, SECRET, Stage, TestQueue, ship_until_idle, stream

UNAVAILABLE = Fault("status", status=503)
REFUSES_BAD = Fault("status", status=400, match='"bad')


def names(count, *, start=0, prefix="e"):
    return [f"{prefix}{number}" for number in range(start, start + count)]


def posts_of_a_bisection(size):
    """Posts at most until one bad event among so many is alone: both halves at each step."""
    return 1 + 2 * math.ceil(math.log2(size))


# Batches


def test_there_is_nothing_to_do_without_events(stage):
    assert stage.shipper().ship_once() == NEVER
    assert stage.emulator.attempts == 0


def test_a_batch_has_25_events_at_most_in_their_order(stage):
    stage.put(*names(60))
    shipper = stage.shipper()
    assert ship_until_idle(shipper) == NEVER
    assert stage.batches == [names(25), names(25, start=25), names(10, start=50)]
    assert (stage.queue.books.sent, stage.queue.books.queued) == (60, 0)


def test_one_look_delivers_one_batch(stage):
    stage.put(*names(60))
    assert stage.shipper().ship_once() == 0.0
    assert stage.emulator.attempts == 1


def test_a_batch_has_one_sender(stage):
    for number in range(6):
        stage.put(f"e{number}", client=f"{number % 2}.1")
    ship_until_idle(stage.shipper())
    assert stage.batches == [["e0", "e2", "e4"], ["e1", "e3", "e5"]]
    assert [request.body["client_id"] for request in stage.emulator.requests()] == ["0.1", "1.1"]


def test_a_batch_has_one_stream_and_goes_where_that_stream_goes(stage):
    other = stream(stage.emulator.url, name="other", measurement_id="G-OTHER")
    for number in range(6):
        stage.put(f"e{number}", stream=("main", "other")[number % 2])
    ship_until_idle(stage.shipper(stream(stage.emulator.url), other))
    went = {
        request.query["measurement_id"]: [event["name"] for event in request.events]
        for request in stage.emulator.requests()
    }
    assert went == {"G-MAIN": ["e0", "e2", "e4"], "G-OTHER": ["e1", "e3", "e5"]}
    assert stage.emulator.attempts == 2


def test_a_batch_stays_below_the_size_limit_and_the_rest_follows(stage):
    stage.put(*names(10), params={"text": "x" * 40_000})
    ship_until_idle(stage.shipper())
    assert [len(batch) for batch in stage.batches] == [3, 3, 3, 1]
    assert stage.arrived == names(10)


def test_high_priority_leaves_first(stage):
    stage.put("low", priority=Priority.LOW)
    stage.put("normal")
    stage.put("high", priority=Priority.HIGH)
    ship_until_idle(stage.shipper())
    assert stage.arrived == ["high", "normal", "low"]


# Waiting for a batch to fill


def test_a_part_filled_batch_waits_for_more_and_says_how_long(stage):
    shipper = stage.shipper(max_delay=2.0)
    stage.put("e0")
    assert shipper.ship_once() == pytest.approx(2.0, abs=1e-3)
    stage.time.pass_(1.5)
    stage.put("e1")
    assert shipper.ship_once() == pytest.approx(0.5, abs=1e-3)
    assert stage.emulator.attempts == 0
    stage.time.pass_(0.5)
    assert shipper.ship_once() == 0.0
    assert stage.batches == [["e0", "e1"]]


def test_a_full_batch_leaves_at_once_and_its_rest_waits(stage):
    shipper = stage.shipper(max_delay=60.0)
    stage.put(*names(30))
    assert shipper.ship_once() == 0.0
    assert shipper.ship_once() == pytest.approx(60.0, abs=1e-3)
    assert stage.batches == [names(25)]
    assert stage.queue.ready("main") == 5


def test_a_batch_that_is_full_by_size_leaves_at_once(stage):
    shipper = stage.shipper(max_delay=60.0)
    stage.put(*names(4), params={"text": "x" * 40_000})
    assert shipper.ship_once() == 0.0
    assert stage.batches == [names(3)]


def test_high_priority_does_not_wait(stage):
    shipper = stage.shipper(max_delay=60.0)
    stage.put("urgent", priority=Priority.HIGH)
    assert shipper.ship_once() == 0.0
    assert stage.arrived == ["urgent"]


def test_a_full_batch_passes_one_that_waits_to_be_filled(stage):
    shipper = stage.shipper(max_delay=60.0)
    stage.put("slow", client="1.1")
    stage.put(*names(25), client="2.2")
    assert shipper.ship_once() == 0.0
    assert stage.batches == [names(25)]
    assert shipper.ship_once() == pytest.approx(60.0, abs=1e-3)
    assert stage.queue.ready("main") == 1


def test_the_wait_is_that_of_the_batch_that_has_waited_longest(stage):
    shipper = stage.shipper(max_delay=60.0)
    stage.put("first", client="1.1")
    stage.time.pass_(20)
    stage.put("second", client="2.2")
    assert shipper.ship_once() == pytest.approx(40.0, abs=1e-3)
    stage.time.pass_(40)
    ship_until_idle(shipper)
    assert stage.arrived == ["first"]
    assert stage.queue.ready("main") == 1


def test_what_waited_before_a_restart_does_not_wait_again(stage):
    stage.put("old")
    stage.time.pass_(3600)
    assert stage.shipper(max_delay=60.0).ship_once() == 0.0


@pytest.mark.parametrize("jump", [-(10**15), 0, 10**15])
def test_what_another_boot_left_does_not_wait_whatever_the_clocks_say(stage, jump):
    left = stage.event("left")
    stamp = replace(left.stamp, boot_id="before", wall_us=left.stamp.wall_us + jump)
    stage.queue.put_many([replace(left, stamp=stamp)])
    shipper = stage.shipper(stream(stage.emulator.url, late="send"), max_delay=60.0)
    assert shipper.ship_once() == 0.0
    assert stage.arrived == ["left"]


# Trouble that passes


def fail_and_wait(stage, fault, *, events=30):
    """Meet the fault with the first batch; the wait that follows, with everything kept."""
    stage.put(*names(events))
    shipper = stage.shipper()
    stage.emulator.fail(fault)
    shipper.ship_once()
    assert stage.emulator.attempts == 1
    wait = shipper.ship_once()
    assert stage.emulator.attempts == 1
    books = stage.queue.books
    assert (books.sent, books.queued, books.dead) == (0, events, 0)
    assert stage.queue.ready("main") == events
    return shipper, wait


TROUBLE = [
    (UNAVAILABLE, "offline"),
    (Fault("status", status=500), "offline"),
    (Fault("status", status=429), "offline"),
    (Fault("status", status=408), "offline"),
    (Fault("cut_before"), "offline"),
    (Fault("cut_half"), "offline"),
    (Fault("redirect"), "login_page"),
    (Fault("login_page"), "login_page"),
    (Fault("status", status=511), "login_page"),
]


@pytest.mark.parametrize(
    ("fault", "state"), TROUBLE, ids=lambda value: getattr(value, "kind", value)
)
def test_trouble_keeps_everything_and_nothing_is_sent_before_the_wait_is_over(stage, fault, state):
    shipper, wait = fail_and_wait(stage, fault)
    assert 2 <= wait <= 4
    assert stage.state(shipper) == state
    stage.time.pass_(wait - 0.01)
    assert shipper.ship_once() == pytest.approx(0.01)
    assert stage.emulator.attempts == 1
    stage.emulator.recover()
    stage.time.pass_(0.02)
    ship_until_idle(shipper)
    assert stage.arrived == names(30)
    assert stage.state(shipper) == "ok"
    assert stage.queue.books.sent == 30


def test_a_redirected_post_is_not_followed(stage):
    fail_and_wait(stage, Fault("redirect"))
    assert [(r.method, r.path) for r in stage.emulator.requests()] == [("POST", "/mp/collect")]


def test_lasting_trouble_is_met_less_and_less_often(stage):
    shipper, wait = fail_and_wait(stage, UNAVAILABLE)
    waits = [wait]
    for _ in range(8):
        stage.time.pass_(waits[-1])
        shipper.ship_once()
        waits.append(shipper.ship_once())
    assert waits == sorted(waits)
    assert waits[-1] > 100
    assert stage.emulator.attempts == 9


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_waited(stage, status):
    fault = Fault("status", status=status, retry_after="30")
    _, wait = fail_and_wait(stage, fault)
    assert 30 <= wait <= 32


def test_retry_after_as_a_date_is_waited_whatever_this_devices_clock_says(tmp_path):
    servers_time = 1_000_000_000.0
    until = formatdate(servers_time + 40, usegmt=True)
    bare = Stage(
        emulator=Emulator(clock=lambda: servers_time),
        queue=TestQueue.open(tmp_path, max_bytes=CAP),
        directory=tmp_path,
    )
    with bare.emulator:
        _, wait = fail_and_wait(bare, Fault("status", status=503, retry_after=until))
        bare.transport.close()
    bare.queue.close()
    assert 40 <= wait <= 42


def test_an_endpoint_that_hangs_is_given_up_at_the_deadline(stage):
    stage.deadline = 0.2
    shipper, wait = fail_and_wait(stage, Fault("hang"))
    assert 2 <= wait <= 4
    assert stage.state(shipper) == "offline"


def test_a_network_that_is_not_there_keeps_everything(stage):
    stage.put(*names(30))
    shipper = stage.shipper()
    stage.emulator.stop()
    shipper.ship_once()
    assert 2 <= shipper.ship_once() <= 4
    assert stage.queue.ready("main") == 30
    assert stage.queue.books.bytes_sent == 0
    stage.emulator.start()
    stage.time.pass_(5)
    ship_until_idle(shipper)
    assert stage.arrived == names(30)


def test_what_was_sent_without_a_clear_answer_is_sent_again_and_only_that(stage):
    stage.put(*names(60))
    shipper = stage.shipper()
    stage.emulator.fail(Fault("cut_after", times=1))
    shipper.ship_once()
    stage.time.pass_(shipper.ship_once())
    ship_until_idle(shipper)
    assert Counter(stage.arrived) == Counter(names(60) + names(25))
    assert stage.queue.books.sent == 60


def test_a_success_ends_the_backoff(stage):
    shipper, wait = fail_and_wait(stage, Fault("status", status=503, times=3), events=200)
    for _ in range(2):
        stage.time.pass_(wait)
        shipper.ship_once()
        wait = shipper.ship_once()
    stage.time.pass_(wait)
    assert shipper.ship_once() == 0.0
    stage.emulator.fail(UNAVAILABLE)
    shipper.ship_once()
    assert 2 <= shipper.ship_once() <= 4


# Trouble while nothing waits


QUIET = [
    (UNAVAILABLE, "offline"),
    (Fault("login_page"), "login_page"),
    (Fault("redirect"), "login_page"),
]


def emptied(stage, fault):
    """A shipper that met the fault, and whose queue a person has emptied since."""
    shipper, wait = fail_and_wait(stage, fault, events=1)
    stage.queue.purge(Selection(), after=0)
    assert stage.queue.ready("main") == 0
    return shipper, wait


@pytest.mark.parametrize(("fault", "state"), QUIET)
def test_a_quiet_device_notices_that_the_trouble_has_passed(stage, fault, state, caplog):
    shipper, wait = emptied(stage, fault)
    assert 0 < shipper.ship_once() <= wait
    assert stage.emulator.attempts == 1, "not before the backoff"
    waits = []
    for _ in range(4):
        stage.time.pass_(shipper.ship_once())
        waits.append(shipper.ship_once())
        assert stage.state(shipper) == state
    assert waits == sorted(waits)
    assert stage.emulator.attempts == 5
    stage.emulator.recover()
    stage.time.pass_(waits[-1])
    with caplog.at_level(logging.INFO):
        assert ship_until_idle(shipper) == NEVER
    [report] = shipper.reports()
    assert (report.state, report.reason, report.delivered_ago_s) == ("ok", "", None)
    assert "the endpoint answers again" in caplog.text
    assert "delivering again" not in caplog.text
    assert stage.arrived == []
    assert [r.path for r in stage.emulator.requests()[1:]] == ["/debug/mp/collect"] * 5
    assert stage.queue.books.requests == 6
    stage.time.pass_(24 * HOUR)
    assert ship_until_idle(shipper) == NEVER
    assert stage.emulator.attempts == 6, "once it answers nobody asks any more"


def test_flush_asks_at_once_while_nothing_waits(stage):
    shipper, _ = emptied(stage, UNAVAILABLE)
    stage.emulator.recover()
    shipper.flush()
    assert ship_until_idle(shipper) == NEVER
    assert stage.state(shipper) == "ok"


def test_what_only_a_delivery_can_disprove_stays_while_nothing_waits(stage):
    shipper, _ = emptied(stage, Fault("status", status=401))
    stage.emulator.recover()
    for _ in range(3):
        stage.time.pass_(2 * HOUR)
        shipper.flush()
        shipper.ship_once()
    assert stage.state(shipper) == "misconfigured"
    assert stage.emulator.attempts == 1


def test_paused_or_stopped_nobody_asks_whether_the_trouble_has_passed(stage):
    shipper, wait = emptied(stage, UNAVAILABLE)
    stage.time.pass_(wait)
    shipper.pause()
    shipper.ship_once()
    shipper.resume()
    shipper.stop()
    shipper.ship_once()
    assert stage.emulator.attempts == 1


# Trouble that a person has to mend


@pytest.mark.parametrize(
    "fault",
    [*(Fault("status", status=status) for status in (401, 403, 404)), Fault("body")],
    ids=["401", "403", "404", "a body"],
)
def test_a_configuration_fault_keeps_everything_and_is_tried_hourly(stage, fault):
    shipper, wait = fail_and_wait(stage, fault)
    assert 0.9 * HOUR <= wait <= 1.1 * HOUR
    assert stage.state(shipper) == "misconfigured"
    stage.time.pass_(0.8 * HOUR)
    assert shipper.ship_once() > 0
    assert stage.emulator.attempts == 1
    stage.emulator.recover()
    stage.time.pass_(0.3 * HOUR)
    ship_until_idle(shipper)
    assert stage.arrived == names(30)


def test_a_container_that_answers_with_a_body_is_believed_where_that_was_configured(stage):
    stage.emulator.fail(Fault("body"))
    stage.put(*names(3))
    shipper = stage.shipper(stream(stage.emulator.url, accept_body=True))
    assert ship_until_idle(shipper) == NEVER
    assert stage.queue.books.sent == 3


def test_a_login_page_is_no_delivery_even_where_bodies_are_accepted(stage):
    stage.emulator.fail(Fault("login_page"))
    stage.put(*names(3))
    shipper = stage.shipper(stream(stage.emulator.url, accept_body=True))
    shipper.ship_once()
    assert stage.state(shipper) == "login_page"
    assert (stage.queue.books.sent, stage.queue.ready("main")) == (0, 3)


def test_without_a_secret_nothing_leaves_and_that_is_said(stage):
    stage.put(*names(3))
    shipper = stage.shipper(stream(stage.emulator.url, secret=None))
    assert shipper.ship_once() == NEVER
    shipper.flush()
    assert shipper.ship_once() == NEVER
    assert stage.emulator.attempts == 0
    assert stage.state(shipper) == "unconfigured"
    assert stage.queue.ready("main") == 3


def test_events_of_a_stream_that_was_removed_stay(stage):
    stage.put(*names(3), stream="gone")
    stage.put("here")
    assert ship_until_idle(stage.shipper()) == NEVER
    assert stage.arrived == ["here"]
    assert stage.queue.ready("gone") == 3


def test_events_from_before_any_stream_leave_through_the_first(stage):
    stage.put("early", stream=UNASSIGNED)
    first = stream(stage.emulator.url)
    second = stream(stage.emulator.url, name="other", measurement_id="G-OTHER")
    assert ship_until_idle(stage.shipper(first, second)) == NEVER
    [request] = stage.emulator.requests()
    assert request.query["measurement_id"] == "G-MAIN"
    assert stage.arrived == ["early"]


# Events that are refused for what they are


@pytest.mark.parametrize("where", [0, 1, 12, 24, 25, 37, 49])
def test_one_bad_event_among_fifty_costs_a_bisection_and_nobody_else(stage, where):
    sent = names(50)
    sent[where] = "bad"
    stage.put(*sent)
    stage.emulator.fail(REFUSES_BAD)
    assert ship_until_idle(stage.shipper()) == NEVER
    assert Counter(stage.arrived) == Counter(set(sent) - {"bad"})
    assert stage.dead == {"refused_400": 1}
    assert (stage.queue.books.sent, stage.queue.books.dead) == (49, 1)
    assert stage.emulator.attempts <= 1 + posts_of_a_bisection(25)


@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_event_is_kept_with_its_reason(stage, status):
    stage.put("bad", "good")
    stage.emulator.fail(Fault("status", status=status, match='"bad'))
    ship_until_idle(stage.shipper())
    assert stage.dead == {f"refused_{status}": 1}
    assert stage.arrived == ["good"]


def test_an_event_that_is_too_large_for_any_request_is_sent_alone_and_buried(stage):
    stage.put("small")
    stage.put("huge", params={"text": "x" * 200_000})
    stage.emulator.fail(Fault("status", status=413, match='"huge'))
    ship_until_idle(stage.shipper())
    assert stage.batches == [["small"]]
    assert stage.dead == {"refused_413": 1}


def test_a_dead_letter_is_said_without_its_content(stage, caplog):
    stage.put("bad", "good", client="visitor-7.1", params={"name": "Ada"})
    stage.emulator.fail(REFUSES_BAD)
    with caplog.at_level(logging.DEBUG):
        ship_until_idle(stage.shipper())
    assert "stream main: dead letter: refused_400" in caplog.text
    for private in ("visitor-7", "Ada", SECRET):
        assert private not in caplog.text


@pytest.mark.parametrize("status", [400, 413])
def test_an_endpoint_that_refuses_everything_buries_nothing(stage, status):
    stage.put(*names(60))
    stage.emulator.fail(Fault("status", status=status))
    shipper = stage.shipper()
    shipper.ship_once()
    assert 0.9 * HOUR <= shipper.ship_once() <= 1.1 * HOUR
    assert stage.state(shipper) == "misconfigured"
    assert (stage.queue.books.dead, stage.queue.ready("main")) == (0, 60)
    stage.emulator.recover()
    stage.time.pass_(1.2 * HOUR)
    ship_until_idle(shipper)
    assert stage.arrived == names(60)


def test_a_refused_event_that_is_all_there_is_waits_and_is_buried_when_another_passes(stage):
    stage.put("bad")
    stage.emulator.fail(REFUSES_BAD)
    shipper = stage.shipper()
    shipper.ship_once()
    assert stage.dead == {}
    assert stage.state(shipper) == "misconfigured"
    stage.put("good", client="2.2")
    assert shipper.ship_once() > 0
    assert stage.emulator.attempts == 1
    stage.time.pass_(1.2 * HOUR)
    assert ship_until_idle(shipper) == NEVER
    assert stage.arrived == ["good"]
    assert stage.dead == {"refused_400": 1}
    assert stage.state(shipper) == "ok"


def test_a_refused_event_is_buried_at_once_when_another_passed_within_the_hour(stage):
    shipper = stage.shipper()
    stage.put("good")
    ship_until_idle(shipper)
    stage.time.pass_(0.9 * HOUR)
    stage.emulator.fail(REFUSES_BAD)
    stage.put("bad")
    assert ship_until_idle(shipper) == NEVER
    assert stage.dead == {"refused_400": 1}
    assert stage.emulator.attempts == 2


def test_an_hour_later_the_endpoint_may_have_been_misconfigured_since(stage):
    shipper = stage.shipper()
    stage.put("good")
    ship_until_idle(shipper)
    stage.time.pass_(1.1 * HOUR)
    stage.emulator.fail(REFUSES_BAD)
    stage.put("bad")
    shipper.ship_once()
    assert stage.dead == {}
    assert stage.state(shipper) == "misconfigured"


def delivered_before(stage, *names_, then):
    """The shipper after a delivery just now; from then on the endpoint fails so."""
    shipper = stage.shipper()
    stage.put("before")
    ship_until_idle(shipper)
    stage.emulator.fail(then)
    stage.put(*names_)
    return shipper


@pytest.mark.parametrize("status", [400, 413])
def test_a_delivery_just_now_does_not_excuse_an_endpoint_that_refuses_everything(stage, status):
    """Such as a container with a bad release: what it took before proves nothing of now."""
    shipper = delivered_before(stage, *names(68), then=Fault("status", status=status))
    ship_until_idle(shipper)
    assert (stage.dead, stage.queue.ready("main")) == ({}, 68)
    [report] = shipper.reports()
    assert report.state == "misconfigured"
    assert f"refuses every event (refused_{status})" in report.reason
    assert 0.9 * HOUR <= report.next_try_s <= 1.1 * HOUR
    stage.emulator.recover()
    shipper.flush()
    ship_until_idle(shipper)
    assert stage.arrived == ["before", *names(68)]


def test_events_that_come_one_by_one_are_not_buried_one_by_one_either(stage):
    """What was taken before is relied on once."""
    shipper = delivered_before(stage, "e0", then=Fault("status", status=400))
    for number in range(1, 20):
        ship_until_idle(shipper)
        stage.put(f"e{number}")
        shipper.flush()
    assert stage.dead == {"refused_400": 1}
    assert stage.state(shipper) == "misconfigured"
    assert stage.queue.ready("main") == 19


def test_one_bad_event_that_is_all_there_is_blocks_nothing_after_a_delivery(stage):
    shipper = delivered_before(stage, "bad", then=REFUSES_BAD)
    assert ship_until_idle(shipper) == NEVER
    assert stage.dead == {"refused_400": 1}
    assert stage.state(shipper) == "ok"


def test_bad_events_one_after_another_are_buried_when_a_good_one_comes(stage):
    shipper = delivered_before(stage, then=REFUSES_BAD)
    for number in range(5):
        stage.put(f"bad{number}")
        ship_until_idle(shipper)
    assert stage.dead == {"refused_400": 1}
    assert stage.state(shipper) == "misconfigured"
    stage.put("good")
    stage.time.pass_(1.2 * HOUR)
    assert ship_until_idle(shipper) == NEVER
    assert stage.arrived == ["before", "good"]
    assert stage.dead == {"refused_400": 5}
    assert stage.state(shipper) == "ok"


def test_any_number_of_bad_events_blocks_the_good_ones_behind_for_some_hours_only(stage):
    stage.put(*names(200, prefix="bad"))
    stage.put(*names(3))
    stage.emulator.fail(REFUSES_BAD)
    shipper = stage.shipper()
    for _ in range(10):
        ship_until_idle(shipper)
        stage.time.pass_(1.2 * HOUR)
    assert stage.arrived == names(3)
    assert stage.dead["refused_400"] + stage.queue.ready("main") == 200
    assert stage.dead["refused_400"] >= 75


def test_the_witness_is_delivered_once_and_counted(stage):
    stage.put("bad", client="1.1")
    stage.put(*names(30), client="2.2")
    stage.emulator.fail(REFUSES_BAD)
    assert ship_until_idle(stage.shipper()) == NEVER
    assert stage.arrived == names(30)
    assert stage.queue.books.sent == 30
    assert stage.dead == {"refused_400": 1}


def test_more_bad_events_in_a_row_than_a_batch_holds_do_not_block_the_good_ones(stage):
    """A program with a bug writes thirty of them; what it wrote before and after must leave."""
    stage.put(*names(30, prefix="bad"))
    stage.put(*names(10))
    stage.emulator.fail(REFUSES_BAD)
    shipper = stage.shipper()
    for _ in range(5):
        ship_until_idle(shipper)
        stage.time.pass_(1.2 * HOUR)
    assert stage.arrived == names(10)
    assert stage.dead == {"refused_400": 30}


def test_trouble_within_a_bisection_is_waited_out_like_any_other(stage):
    """One event is bad and the endpoint busy: that is no endpoint that refuses everything."""
    stage.put("bad", "good")
    stage.emulator.fail(REFUSES_BAD, Fault("status", status=503, retry_after="30"))
    shipper = stage.shipper()
    shipper.ship_once()
    wait = shipper.ship_once()
    assert [request.answered for request in stage.emulator.requests()] == [400, 400, 503]
    assert stage.state(shipper) == "offline"
    assert 30 <= wait <= 32
    assert stage.queue.ready("main") == 2
    assert stage.dead == {}


def test_a_witness_that_meets_trouble_says_nothing_about_the_refused(stage):
    stage.put("bad", client="1.1")
    stage.put("good", client="2.2")
    stage.emulator.fail(REFUSES_BAD, Fault("status", status=503, retry_after="30"))
    shipper = stage.shipper()
    shipper.ship_once()
    assert 30 <= shipper.ship_once() <= 32
    assert stage.state(shipper) == "offline"
    assert stage.queue.ready("main") == 2


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(bad=st.lists(st.booleans(), min_size=1, max_size=25))
def test_whatever_is_bad_in_a_batch_the_good_arrive_once_and_only_the_bad_are_buried(
    bad, tmp_path_factory
):
    directory = tmp_path_factory.mktemp("queue")
    with Emulator() as emulator:
        queue = TestQueue.open(directory, max_bytes=CAP)
        stage = Stage(emulator=emulator, queue=queue, directory=directory)
        sent = [f"bad{i}" if is_bad else f"e{i}" for i, is_bad in enumerate(bad)]
        stage.put(*sent)
        emulator.fail(REFUSES_BAD)
        ship_until_idle(stage.shipper())
        good = [name for name in sent if name.startswith("e")]
        assert stage.arrived == good
        assert queue.books.sent == len(good)
        assert queue.books.dead == (sum(bad) if good else 0)
        assert emulator.attempts <= 2 * len(sent)
        stage.transport.close()
        queue.close()


# Several streams


def two_streams(stage):
    return (
        stream(stage.emulator.url),
        stream(stage.emulator.url, name="other", measurement_id="G-OTHER"),
    )


def test_a_stream_that_fails_does_not_stop_the_other(stage):
    stage.put(*names(60, prefix="m"), stream="main")
    stage.put(*names(60, prefix="o"), stream="other")
    stage.emulator.fail(Fault("status", status=503, match='"m'))
    shipper = stage.shipper(*two_streams(stage))
    assert 0 < ship_until_idle(shipper) <= 4
    assert stage.arrived == names(60, prefix="o")
    assert stage.queue.ready("main") == 60
    assert (stage.state(shipper, "main"), stage.state(shipper, "other")) == ("offline", "ok")


def test_a_stream_without_a_secret_does_not_stop_the_other(stage):
    stage.put("m", stream="main")
    stage.put("o", stream="other")
    _, other = two_streams(stage)
    shipper = stage.shipper(stream(stage.emulator.url, secret=None), other)
    ship_until_idle(shipper)
    assert stage.arrived == ["o"]
    assert stage.queue.ready("main") == 1


def test_streams_take_turns(stage):
    stage.put(*names(100, prefix="m"), stream="main")
    stage.put(*names(100, prefix="o"), stream="other")
    shipper = stage.shipper(*two_streams(stage))
    for _ in range(8):
        shipper.ship_once()
    turns = [request.query["measurement_id"] for request in stage.emulator.requests()]
    assert len(turns) == 8
    assert all(before != after for before, after in pairwise(turns))


def test_the_wait_is_the_shortest_of_all_streams(stage):
    stage.put("m", stream="main")
    stage.put("o", stream="other")
    stage.emulator.fail(Fault("status", status=401, match='"m"'), UNAVAILABLE)
    assert 2 <= ship_until_idle(stage.shipper(*two_streams(stage))) <= 4


def test_the_reports_are_by_name_whoevers_turn_it_is(stage):
    shipper = stage.shipper(*two_streams(stage))
    for _ in range(3):
        shipper.ship_once()
        assert [report.stream for report in shipper.reports()] == ["main", "other"]


# Told by people


def test_paused_nothing_leaves_until_it_is_resumed(stage):
    stage.put(*names(3))
    shipper = stage.shipper()
    shipper.pause()
    assert shipper.paused
    assert shipper.ship_once() == NEVER
    shipper.flush()
    assert shipper.ship_once() == NEVER
    assert stage.emulator.attempts == 0
    rings = stage.bell.rings
    shipper.resume()
    assert not shipper.paused
    assert stage.bell.rings > rings
    ship_until_idle(shipper)
    assert stage.arrived == names(3)


@pytest.mark.parametrize("fault", [UNAVAILABLE, Fault("status", status=401)])
def test_flush_tries_at_once_whatever_the_backoff_says(stage, fault):
    shipper, _ = fail_and_wait(stage, fault)
    stage.emulator.recover()
    rings = stage.bell.rings
    shipper.flush()
    assert stage.bell.rings > rings
    assert shipper.ship_once() == 0.0
    assert stage.arrived == names(25)


class StopsAfterTheFirst(Transport):
    """Stops the shipper as soon as the first answer is there."""

    shipper = None

    def post(self, request):
        exchange = super().post(request)
        self.shipper.stop()
        return exchange


@pytest.mark.parametrize(
    ("clients", "answered"),
    [(["1.1"] * 8, 400), (["1.1", "2.2"], 400), (["1.1"] * 30, 204)],
    ids=["within a bisection", "before the witness", "after a delivery"],
)
def test_stopped_it_begins_no_further_request_and_keeps_the_rest(stage, clients, answered):
    for number, client in enumerate(clients):
        stage.put(f"e{number}", client=client)
    stage.emulator.fail(Fault("status", status=answered))
    transport = StopsAfterTheFirst(client=lambda: Client(deadline=5.0))
    transport.shipper = shipper = stage.shipper(transport=transport)
    shipper.ship_once()
    shipper.ship_once()
    transport.close()
    assert stage.emulator.attempts == 1
    assert stage.queue.ready("main") == len(clients) - stage.queue.books.sent
    assert stage.queue.books.dead == 0


# The books


def test_the_ledger_counts_every_request_and_its_bytes(stage):
    """To the byte, but for the headers, which are counted by a constant."""
    url = f"{stage.emulator.url}/mp/collect?" + urlencode(
        {"measurement_id": "G-MAIN", "api_secret": SECRET}
    )
    stage.put(*names(60), params={"text": 'é"\n', "n": 1.5})
    shipper = stage.shipper()
    stage.emulator.fail(Fault("cut_after", times=1), Fault("status", status=503, times=1))
    while (wait := shipper.ship_once()) != NEVER:
        stage.time.pass_(wait)
    requests, books = stage.emulator.requests(), stage.queue.books
    bodies = sum(len(jsontext.dumps(request.body)) for request in requests)
    assert books.requests == len(requests) == 5
    assert books.bytes_sent == bodies + len(requests) * (len(url) + REQUEST_OVERHEAD)
    assert books.bytes_received > 0
    assert (books.sent, books.queued) == (60, 0)


def test_the_books_of_a_bisection_count_every_post(stage):
    stage.put("bad", *names(24))
    stage.emulator.fail(REFUSES_BAD)
    ship_until_idle(stage.shipper())
    assert stage.queue.books.requests == stage.emulator.attempts
    assert stage.queue.books.balanced


# A disk that refuses


@pytest.mark.parametrize("fault", [UNAVAILABLE, Fault("login_page"), Fault("status", status=401)])
def test_a_failed_request_needs_no_disk(stage, fault):
    """An outage that fills the disk must not stop the delivery that would empty it."""
    stage.put(*names(3))
    stage.emulator.fail(fault)
    stage.queue.refusing = True
    shipper = stage.shipper()
    assert shipper.ship_once() == 0.0
    assert shipper.ship_once() != STORAGE_WAIT
    assert shipper.unrecorded.events == 0
    assert stage.queue.ready("main") == 3
    stage.queue.refusing = False
    stage.emulator.recover()
    stage.time.pass_(1.2 * HOUR)
    ship_until_idle(shipper)
    assert stage.arrived == names(3)
    assert stage.queue.books.requests == stage.emulator.attempts == 2


def test_a_burial_that_cannot_be_recorded_is_recorded_later(stage):
    shipper = stage.shipper()
    stage.put("good")
    ship_until_idle(shipper)
    stage.put("bad")
    stage.emulator.fail(REFUSES_BAD)
    stage.queue.refusing = True
    shipper.ship_once()
    assert shipper.ship_once() == STORAGE_WAIT
    stage.queue.refusing = False
    stage.time.pass_(STORAGE_WAIT)
    assert ship_until_idle(shipper) == NEVER
    assert stage.dead == {"refused_400": 1}
    assert stage.emulator.attempts == 2


def test_a_damaged_row_on_a_disk_that_refuses_does_not_end_the_shipper(stage):
    """Its burial cannot be written now; an exception here would end the process, for ever."""
    stage.put("damaged", "good")
    with stage.queue._putter as connection:
        connection.execute(
            f"UPDATE {stage.queue._table} SET data = 'x' || substr(data, 2) WHERE _id = 1"
        )
    stage.queue.refusing = True
    shipper = stage.shipper()
    assert shipper.ship_once() >= 0
    stage.queue.refusing = False
    stage.time.pass_(STORAGE_WAIT)
    ship_until_idle(shipper)
    assert stage.arrived == ["good"]
    assert stage.queue.books.sent == 1


def test_after_a_crash_what_was_not_recorded_is_sent_again_and_nothing_else(stage):
    stage.put(*names(60))
    shipper = stage.shipper()
    shipper.ship_once()
    stage.queue.refusing = True
    shipper.ship_once()
    again = EventQueue.open(stage.directory, max_bytes=CAP)
    left = [row.event.name for _ in range(3) for row in again.lease("main", limit=25)]
    assert left == names(35, start=25)
    again.close()


# Step by step


class Noting(Stepwise):
    """Notes what it writes down, in the order of what happens."""

    def __init__(self, *, directory, deaths):
        super().__init__(directory=directory, deaths=deaths)
        self.happened = []

    def _touch(self, *names):
        self.happened.append(names)
        super()._touch(*names)


@pytest.fixture
def noting(stage):
    """A shipper that goes step by step after so many deaths, and what happens in it."""
    transports = []

    def make(*, deaths):
        stepwise = Noting(directory=stage.directory, deaths=deaths)

        class Notes(Transport):
            def post(self, request):
                written = (stage.directory / TOUCHING_FILE).exists()
                stepwise.happened.append("post while touching" if written else "post")
                return super().post(request)

        transports.append(Notes(client=lambda: Client(deadline=5.0)))
        shipper = stage.shipper(max_delay=60.0, stepwise=stepwise, transport=transports[0])
        return shipper, stepwise.happened

    yield make
    for transport in transports:
        transport.close()


def test_step_by_step_each_event_is_written_down_before_it_is_sent_alone_and_at_once(stage, noting):
    stage.put(*names(3))
    shipper, happened = noting(deaths=2)
    ship_until_idle(shipper)
    assert stage.batches == [["e0"], ["e1"], ["e2"]]
    for number, post in enumerate(i for i, entry in enumerate(happened) if entry == "post"):
        assert happened[post - 1] == (f"row:{number + 1}",)


def test_step_by_step_a_death_while_the_network_is_waited_for_is_nobodys_fault(stage, noting):
    """A power cut or an impatient person then would bury an innocent event."""
    stage.put(*names(3))
    shipper, happened = noting(deaths=2)
    ship_until_idle(shipper)
    assert "post while touching" not in happened
    assert not (stage.directory / TOUCHING_FILE).exists()


def test_step_by_step_an_event_is_written_down_before_its_content_is_read(stage, noting):
    stage.put(*names(1))
    shipper, happened = noting(deaths=2)
    stage.queue._load = lambda ids: happened.append("read") or ()
    shipper.ship_once()
    assert happened[:2] == [("row:1",), "read"]


def test_at_its_usual_pace_it_writes_nothing_down(stage, noting):
    stage.put(*names(25))
    shipper, happened = noting(deaths=1)
    ship_until_idle(shipper)
    assert stage.batches == [names(25)]
    assert happened == ["post"]


# Another configuration


def test_a_pause_outlives_a_reload_and_a_backoff_does_not(stage):
    stage.put(*names(3))
    old = stage.shipper()
    stage.emulator.fail(Fault("status", status=401))
    old.ship_once()
    old.pause()
    stage.emulator.recover()
    new = stage.shipper()
    new.take_over(old)
    assert new.paused
    assert new.ship_once() == NEVER
    new.resume()
    assert new.ship_once() == 0.0
    assert stage.arrived == names(3)
