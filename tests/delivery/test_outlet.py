"""The way out of one stream: who may send, when, and what is said of it."""

import logging

import pytest

from agent.delivery.backoff import HOUR, Backoff
from agent.delivery.outlet import NEVER, Outlet
from agent.event import UNASSIGNED, Stream
from agent.ga4.outcome import Retry
from tests.delivery.stage import SECRET, Time, stream

OFFLINE = Retry("offline", "cannot connect")


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def make_outlet(time):
    def make(*, draw=1.0, connections=4, secret=SECRET, unassigned=False):
        return Outlet(
            stream=stream("https://x.example", secret=secret),
            backoff=Backoff(random=lambda: draw),
            connections=connections,
            monotonic=time,
            takes_unassigned=unassigned,
        )

    return make


def enter_all(outlet):
    """The tickets of all further connections that may send."""
    tickets = []
    while (ticket := outlet.enter()) is not None:
        tickets.append(ticket)
    return tickets


def fail(outlet, outcome=OFFLINE):
    """One connection sends and fails."""
    outlet.failed(outcome, outlet.enter())
    outlet.leave()


def deliver(outlet):
    """One connection sends and delivers; whether that calls the others."""
    first = outlet.delivered(outlet.enter())
    outlet.leave()
    return first


def test_one_connection_until_the_first_success_then_all(make_outlet):
    outlet = make_outlet(connections=4)
    [ticket] = enter_all(outlet)
    outlet.delivered(ticket)
    assert len(enter_all(outlet)) == 3


def test_one_connection_again_after_a_failure(make_outlet):
    outlet = make_outlet(connections=4)
    deliver(outlet)
    tickets = enter_all(outlet)
    assert len(tickets) == 4
    outlet.failed(OFFLINE, tickets[0])
    for _ in range(4):
        outlet.leave()
    assert len(enter_all(outlet)) == 1


def test_a_connection_given_back_can_be_taken_again(make_outlet):
    outlet = make_outlet()
    for _ in range(3):
        assert outlet.enter() is not None
        assert outlet.enter() is None
        outlet.leave()


def test_only_the_first_success_calls_the_others(make_outlet):
    outlet = make_outlet()
    assert [deliver(outlet) for _ in range(3)] == [True, False, False]
    fail(outlet)
    assert [deliver(outlet) for _ in range(2)] == [True, False]


def test_it_may_send_at_once_at_the_start(make_outlet):
    assert make_outlet().wait_s() == 0.0


def test_after_a_failure_it_waits_and_then_may_send(make_outlet, time):
    outlet = make_outlet(draw=1.0)
    fail(outlet)
    assert outlet.wait_s() == 4.0
    time.pass_(3.5)
    assert outlet.wait_s() == 0.5
    time.pass_(0.5)
    assert outlet.wait_s() == 0.0


def test_each_failure_after_another_waits_longer(make_outlet, time):
    outlet = make_outlet(draw=1.0)
    waits = []
    for _ in range(4):
        fail(outlet)
        waits.append(outlet.wait_s())
        time.pass_(outlet.wait_s())
    assert waits == [4.0, 8.0, 16.0, 32.0]


def test_what_the_server_asked_for_is_waited(make_outlet):
    outlet = make_outlet(draw=0.0)
    fail(outlet, Retry("offline", "found 429", 30.0))
    assert outlet.wait_s() == 30.0


def test_connections_that_fail_together_count_once(make_outlet):
    """Four connections lose one network: that is one failure, not four in a row."""
    outlet = make_outlet(draw=1.0, connections=4)
    deliver(outlet)
    tickets = enter_all(outlet)
    assert len(tickets) == 4
    for ticket in tickets:
        outlet.failed(OFFLINE, ticket)
        outlet.leave()
    assert outlet.wait_s() == 4.0


@pytest.mark.parametrize("asked", [(60.0, None), (None, 60.0), (60.0, 30.0), (30.0, 60.0)])
def test_of_failures_together_the_longest_wait_holds(make_outlet, asked):
    outlet = make_outlet(draw=0.0, connections=2)
    deliver(outlet)
    for seconds, ticket in zip(asked, enter_all(outlet), strict=True):
        outlet.failed(Retry("offline", "found 429", seconds), ticket)
    assert outlet.wait_s() == 60.0


def test_a_late_success_of_before_the_failure_does_not_end_the_wait(make_outlet):
    """Two requests were under way: one was answered 429 with a wait, then the other 204."""
    outlet = make_outlet(draw=0.0, connections=2)
    deliver(outlet)
    first, second = enter_all(outlet)
    outlet.failed(Retry("offline", "found 429", 60.0), first)
    assert not outlet.delivered(second)
    assert outlet.wait_s() == 60.0
    assert outlet.report().state == "offline"
    assert outlet.rely_on_last_delivery()


def test_a_success_ends_the_wait(make_outlet):
    outlet = make_outlet()
    fail(outlet)
    deliver(outlet)
    assert outlet.wait_s() == 0.0
    fail(outlet)
    assert outlet.wait_s() == 4.0


@pytest.mark.parametrize("outcome", [OFFLINE, Retry("misconfigured", "found 401")])
def test_try_now_forgets_the_wait_but_not_what_went_wrong(make_outlet, outcome):
    outlet = make_outlet()
    fail(outlet, outcome)
    outlet.try_now()
    assert outlet.wait_s() == 0.0
    assert outlet.report().state == outcome.state


def test_what_only_a_person_can_mend_is_tried_hourly(make_outlet, time):
    outlet = make_outlet(draw=0.5)
    for _ in range(3):
        fail(outlet, Retry("misconfigured", "found 401"))
        assert outlet.wait_s() == HOUR
        time.pass_(HOUR)


@pytest.mark.parametrize("state", ["offline", "login_page", "clock_blocks_tls"])
def test_what_may_mend_itself_is_tried_within_five_minutes(make_outlet, state):
    outlet = make_outlet(draw=1.0)
    for _ in range(20):
        fail(outlet, Retry(state, "r"))
        outlet.try_now()
    fail(outlet, Retry(state, "r"))
    assert outlet.wait_s() == 300.0


def test_without_a_secret_it_never_sends_and_says_so(make_outlet):
    outlet = make_outlet(secret=None)
    assert outlet.wait_s() == NEVER
    outlet.try_now()
    assert outlet.wait_s() == NEVER
    report = outlet.report()
    assert (report.state, report.next_try_s) == ("unconfigured", 0.0)
    assert "main" in report.reason


def test_the_report_says_state_reason_and_times(make_outlet, time):
    outlet = make_outlet(draw=1.0)
    fresh = outlet.report()
    assert (fresh.stream, fresh.state, fresh.reason) == ("main", "ok", "")
    assert (fresh.next_try_s, fresh.delivered_ago_s) == (0.0, None)
    deliver(outlet)
    time.pass_(7)
    fail(outlet)
    broken = outlet.report()
    assert (broken.state, broken.reason) == ("offline", "cannot connect")
    assert (broken.next_try_s, broken.delivered_ago_s) == (4.0, 7.0)


def test_the_report_gives_the_latest_reason_of_a_lasting_state(make_outlet):
    outlet = make_outlet()
    fail(outlet)
    fail(outlet, Retry("offline", "found 503"))
    assert outlet.report().reason == "found 503"


@pytest.mark.parametrize(("passed", "expected"), [(0, True), (3599, True), (3600, False)])
def test_a_delivery_can_be_relied_on_for_an_hour(make_outlet, time, passed, expected):
    outlet = make_outlet()
    assert not outlet.rely_on_last_delivery()
    deliver(outlet)
    time.pass_(passed)
    assert outlet.rely_on_last_delivery() == expected


def test_a_failure_does_not_forget_a_delivery_within_the_hour(make_outlet):
    outlet = make_outlet()
    deliver(outlet)
    fail(outlet)
    assert outlet.rely_on_last_delivery()


def test_a_delivery_is_relied_on_once(make_outlet):
    """A second refusal without a success in between speaks against the endpoint."""
    outlet = make_outlet()
    for _ in range(2):
        deliver(outlet)
        assert [outlet.rely_on_last_delivery() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("state", ["offline", "login_page", "clock_blocks_tls"])
def test_an_answer_ends_what_an_answer_can_end_and_claims_no_delivery(make_outlet, state, caplog):
    outlet = make_outlet(draw=1.0)
    assert not outlet.answer_would_mend
    fail(outlet, Retry(state, "r"))
    assert outlet.answer_would_mend
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="agent.delivery.outlet"):
        outlet.answered(outlet.enter())
    report = outlet.report()
    assert (report.state, report.next_try_s, report.delivered_ago_s) == ("ok", 0.0, None)
    assert [r.getMessage() for r in caplog.records] == ["stream main: the endpoint answers again"]
    outlet.leave()
    assert len(enter_all(outlet)) == 1, "one connection until a delivery"


def test_an_answer_of_before_the_last_failure_ends_nothing(make_outlet):
    outlet = make_outlet(connections=2)
    deliver(outlet)
    first, second = enter_all(outlet)
    outlet.failed(OFFLINE, first)
    outlet.answered(second)
    assert outlet.report().state == "offline"


def test_an_answer_cannot_tell_whether_the_configuration_was_mended(make_outlet):
    outlet = make_outlet()
    fail(outlet, Retry("misconfigured", "found 401"))
    assert not outlet.answer_would_mend


def test_each_change_of_state_is_logged_once(make_outlet, time, caplog):
    outlet = make_outlet()
    with caplog.at_level(logging.INFO, logger="agent.delivery.outlet"):
        deliver(outlet)
        for outcome in (*[OFFLINE] * 3, *[Retry("login_page", "found a redirect")] * 3):
            fail(outlet, outcome)
            time.pass_(outlet.wait_s())
        for _ in range(3):
            deliver(outlet)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "stream main: offline: cannot connect; keeping everything, next try in 4 s"),
        (
            "WARNING",
            "stream main: login_page: found a redirect; keeping everything, next try in 32 s",
        ),
        ("INFO", "stream main: delivering again"),
    ]


def test_only_the_default_outlet_takes_what_no_stream_was_named_for(make_outlet):
    assert make_outlet(unassigned=True).queued_as == ("main", UNASSIGNED)
    assert make_outlet(unassigned=False).queued_as == ("main",)


def test_an_app_stream_takes_nothing_that_was_made_with_a_client_id(time):
    outlet = Outlet(
        stream=Stream(name="app", endpoint="https://x.example", firebase_app_id="1:1:android:a"),
        backoff=Backoff(random=lambda: 1.0),
        connections=1,
        monotonic=time,
        takes_unassigned=True,
    )
    assert outlet.queued_as == ("app",)
