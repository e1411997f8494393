"""What leaves says when it happened as well as that is known, or does not leave at all."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.anchor import Moment
from agent.event import Beginning, Event, Sender, Stamp, Stream
from agent.ga4.departure import (
    HOUR_US,
    LATE_US,
    SECOND_US,
    UNCERTAIN_US,
    UNKNOWN_US,
    Departing,
    Terms,
    Withheld,
    departures,
)
from agent.ga4.request import build
from agent.ga4.rules.limits import FUTURE_US, PARAMS_MAX
from agent.secret import Secret

NOW = 1_800_000_000_000_000
WEB = Stream(
    name="main", endpoint="https://x.example", measurement_id="G-1", secret=Secret("s3cr3t")
)
SITTING = Beginning("1.2", Stamp(NOW - 5 * SECOND_US, boot_us=1, boot_id="b", trusted=False))
FULL = {f"p{number}": number for number in range(PARAMS_MAX)}


def event(age_us=0, **fields):
    stamp = Stamp(wall_us=NOW - age_us, boot_us=1, boot_id="b", trusted=False)
    fields = {"name": "tap", "event_id": "e-1"} | fields
    return Event(stream="main", sender=Sender(client_id="1.2"), stamp=stamp, **fields)


def leaving(*events, error_us=0, asked=None, **stream):
    """What becomes of events; ``asked`` notes the names for which a session was asked."""

    def session_id(event):
        if asked is not None:
            asked.append(event.name)
        return event.sitting.start.wall_us // SECOND_US

    return departures(
        events,
        Terms(
            stream=replace(WEB, **stream),
            now_us=NOW,
            when=lambda stamp: Moment(stamp.wall_us, error_us),
            session_id=session_id,
        ),
    )


def one(an_event, **terms):
    [what] = leaving(an_event, **terms)
    return what


# The time


def test_an_event_leaves_with_the_true_time_of_its_stamp():
    terms = Terms(
        stream=WEB, now_us=NOW, when=lambda stamp: Moment(NOW - stamp.boot_us, 0), session_id=None
    )
    [what] = departures([event(age_us=10**15)], terms)
    assert (what.time_us, what.happened_us) == (NOW - 1, NOW - 1)


def test_a_publisher_elsewhere_is_taken_at_its_word():
    """Its time is neither corrected nor called uncertain, whatever this device's clock is."""
    what = one(event(age_us=10**15, time_us=NOW - 7), error_us=10**15)
    assert (what.time_us, what.params) == (NOW - 7, {})


@pytest.mark.parametrize("ahead", [1, 10**9, 2**63])
def test_the_future_is_never_sent(ahead):
    assert one(event(-ahead)).time_us == NOW
    assert one(event(time_us=NOW + ahead)).time_us == NOW
    assert one(event(-ahead)).happened_us == NOW


def test_what_is_cut_back_to_now_stays_apart_and_in_order():
    names = ["a", "b", "c"]
    sent = leaving(*(event(-9, name=name) for name in names))
    assert [what.time_us for what in sent] == [NOW - 2, NOW - 1, NOW]


@given(
    st.lists(st.integers(-(2**40), LATE_US) | st.integers(LATE_US, 2**50), min_size=1, max_size=25),
    st.sampled_from(["restamp", "send"]),
)
def test_no_time_is_in_the_future_and_those_in_order_stay_in_order(ages, late):
    ages = sorted(set(ages), reverse=True)
    sent = leaving(*(event(age) for age in ages), late=late)
    times = [what.time_us for what in sent]
    assert max(times) <= NOW
    old = sum(age > LATE_US for age in ages)
    for part in (times[:old], times[old:]):
        assert all(before < after for before, after in pairwise(part))


def test_sent_twice_by_the_same_clock_an_event_has_the_same_time_and_params():
    old = event(50 * HOUR_US, sitting=SITTING)
    assert one(old, error_us=UNCERTAIN_US + 1) == one(old, error_us=UNCERTAIN_US + 1)


def test_the_time_stands_beside_the_name_and_not_among_the_params():
    body = build([one(event(5))], WEB).body
    assert body == (
        b'{"client_id":"1.2","events":[{"name":"tap","timestamp_micros":%d}]}' % (NOW - 5)
    )


# Uncertain times


@pytest.mark.parametrize(
    ("error_us", "said"),
    [
        (0, None),
        (UNCERTAIN_US, None),
        (UNCERTAIN_US + 1, 61),
        (90 * SECOND_US, 90),
        (90 * SECOND_US + 1, 91),
        (UNKNOWN_US, 43_200),
    ],
)
def test_an_error_of_over_a_minute_is_said_in_whole_seconds_rounded_up(error_us, said):
    what = one(event(), error_us=error_us)
    assert what.params == ({} if said is None else {"time_uncertain_s": said})


def test_an_uncertain_time_can_be_kept_to_oneself():
    assert one(event(), error_us=UNKNOWN_US, uncertain_time=False).params == {}


@pytest.mark.parametrize("late", ["dead", "restamp", "send"])
@pytest.mark.parametrize("age_us", [0, LATE_US + 1])
def test_a_time_that_nobody_knows_is_not_sent(late, age_us):
    what = one(event(age_us), error_us=UNKNOWN_US + 1, late=late, uncertain_time=False)
    assert what == Withheld("time_unknown")


# Late events


@pytest.mark.parametrize(
    ("age_us", "expected"), [(LATE_US, Departing), (LATE_US + 1, Withheld), (-1, Departing)]
)
def test_what_ga4_would_move_in_time_is_a_dead_letter(age_us, expected):
    assert LATE_US == 71 * HOUR_US
    assert isinstance(one(event(age_us)), expected)
    assert isinstance(one(event(time_us=NOW - age_us)), expected)


def test_a_dead_letter_says_that_it_expired():
    assert one(event(LATE_US + 1)) == Withheld("expired")


def test_restamped_it_leaves_now_without_its_session_and_says_what_it_was():
    params = {"n": 1, "session_id": 7, "engagement_time_msec": 9}
    what = one(event(71 * HOUR_US + 1_234_567, params=params), late="restamp")
    assert (what.time_us, what.happened_us) == (NOW, NOW - 71 * HOUR_US - 1_234_567)
    assert what.params == {
        "n": 1,
        "original_time": "2027-01-12T08:59:58.765433Z",
        "late_h": 71,
    }


def test_restamped_it_is_in_no_sitting():
    asked = []
    what = one(event(LATE_US + 1, sitting=SITTING), late="restamp", asked=asked)
    assert set(what.params) == {"original_time", "late_h"}
    assert asked == []


def test_what_is_not_late_is_not_restamped():
    params = {"session_id": 7}
    what = one(event(LATE_US, params=params), late="restamp")
    assert (what.time_us, what.params) == (NOW - LATE_US, params)


def test_restamped_ones_stay_apart_and_in_order():
    sent = leaving(*(event(LATE_US + 9 - n) for n in range(3)), late="restamp")
    assert [what.time_us for what in sent] == [NOW - 2, NOW - 1, NOW]


@pytest.mark.parametrize("time_us", [1, 0, -1, -(2**63)])
def test_however_old_a_publisher_says_it_is_it_can_be_restamped(time_us):
    what = one(event(time_us=time_us), late="restamp")
    assert what.params["original_time"].startswith("1970-01-01T00:00:00.00000")


def test_sent_as_it_is_a_late_event_keeps_its_time_and_session():
    params = {"session_id": 7, "engagement_time_msec": 9}
    what = one(event(100 * HOUR_US, params=params), late="send")
    assert (what.time_us, what.params) == (NOW - 100 * HOUR_US, params)


# Sittings


def test_an_event_of_a_sitting_gets_the_session_id_that_is_known_by_now():
    what = one(event(sitting=SITTING, params={"n": 1}))
    assert what.params == {"n": 1, "session_id": NOW // SECOND_US - 5}


def test_sittings_are_asked_for_in_order_and_only_for_what_leaves():
    asked = []
    leaving(
        event(5, name="a", sitting=SITTING),
        event(LATE_US + 1, name="late", sitting=SITTING),
        event(4, name="none"),
        event(3, name="b", sitting=SITTING),
        asked=asked,
    )
    assert asked == ["a", "b"]


def test_a_session_id_that_is_there_stays():
    what = one(event(sitting=SITTING, params={"session_id": 7}))
    assert what.params == {"session_id": 7}


# Room for params


def test_there_are_never_more_than_25_params_and_what_was_left_out_is_counted():
    what = one(event(params=FULL), error_us=UNKNOWN_US)
    assert what.params == FULL
    assert what.counts == {"noted.param_left_out": 1}


def test_the_most_important_is_added_first():
    params = dict(list(FULL.items())[:24])
    what = one(event(LATE_US + 1, params=params), error_us=UNKNOWN_US, late="restamp")
    assert what.params == params | {"late_h": 71}
    assert what.counts["noted.param_left_out"] == 2
    what = one(event(sitting=SITTING, params=params), error_us=UNKNOWN_US)
    assert what.params == params | {"session_id": NOW // SECOND_US - 5}
    assert what.counts == {"noted.param_left_out": 1}


@pytest.mark.parametrize("number", [25, 27])
def test_reports_can_leave_every_restamped_event_out_by_late_h(number):
    """For it one of the event's own goes: the last that names nothing, and is not money."""
    own = {f"p{n}": n for n in range(number - 3)} | {"a_id": 1, "value": 1, "traffic_type": "x"}
    what = one(event(LATE_US + 1, params=own), late="restamp")
    gone = f"p{number - 4}"
    assert what.params == {n: v for n, v in own.items() if n != gone} | {"late_h": 71}
    assert what.counts["repaired.param_dropped"] == 1
    assert what.counts["noted.param_left_out"] == 1  # original_time


def test_if_all_of_them_name_something_the_last_identifier_goes():
    own = {f"p{n}_id": n for n in range(24)} | {"transaction_id": "T"}
    what = one(event(LATE_US + 1, name="purchase", params=own), late="restamp")
    assert what.params == {n: v for n, v in own.items() if n != "p23_id"} | {"late_h": 71}


def test_the_event_id_that_the_agent_put_there_gives_way():
    params = dict(list(FULL.items())[:24]) | {"event_id": "e-1"}
    what = one(event(params=params), error_us=UNKNOWN_US)
    assert "event_id" not in what.params
    assert what.params["time_uncertain_s"] == 43_200
    assert what.counts == {"noted.param_left_out": 1}


@pytest.mark.parametrize("own", [{"event_id": "mine"}, {"engagement_time_msec": 100}])
def test_nothing_that_may_be_the_publishers_gives_way(own):
    params = dict(list(FULL.items())[:24]) | own
    what = one(event(params=params, sitting=SITTING), error_us=UNKNOWN_US)
    assert what.params == params
    assert what.counts == {"noted.param_left_out": 2}


@pytest.mark.parametrize("name", ["time_uncertain_s", "original_time", "late_h"])
def test_a_publishers_param_of_the_same_name_is_not_written_over(name):
    what = one(event(LATE_US + 1, params={name: "mine"}), error_us=UNKNOWN_US, late="restamp")
    assert what.params[name] == "mine"
    assert what.counts["noted.param_left_out"] == 1


def test_what_an_event_brings_beyond_25_is_not_cut_here():
    """The stream may have switched repair off."""
    params = FULL | {"more": 1}
    assert one(event(params=params), error_us=UNKNOWN_US).params == params


@given(
    number=st.integers(0, PARAMS_MAX),
    fields=st.fixed_dictionaries({"sitting": st.sampled_from([None, SITTING])}),
    id_sent=st.booleans(),
    age_us=st.integers(-LATE_US, 2 * LATE_US),
    terms=st.fixed_dictionaries(
        {
            "late": st.sampled_from(["restamp", "send"]),
            "error_us": st.integers(0, UNKNOWN_US),
        }
    ),
)
def test_whatever_is_added_25_params_are_kept_and_the_publishers_are_among_them(
    number, id_sent, age_us, fields, terms
):
    own = dict(list(FULL.items())[:number])
    params = own | ({"event_id": "e-1"} if id_sent else {})
    if len(params) > PARAMS_MAX:
        return
    what = one(event(age_us, params=params, **fields), **terms)
    assert len(what.params) <= PARAMS_MAX
    kept = list(own.items())
    if what.counts.get("repaired.param_dropped"):
        assert (what.params.keys() - own.keys(), number) == ({"late_h"}, PARAMS_MAX)
        kept.pop()
    assert dict(kept).items() <= what.params.items()
    restamped = age_us > LATE_US and terms["late"] == "restamp"
    assert ("late_h" in what.params) == restamped
    # Of what is wanted here, what gave way is the beginning of one order.
    uncertain = terms["error_us"] > UNCERTAIN_US
    seated = fields["sitting"] is not None and not restamped
    wanted = [
        *(["event_id"] if id_sent else []), *(["time_uncertain_s"] if uncertain else []),
        *(["original_time"] if restamped else []), *(["session_id"] if seated else []),
        *(["late_h"] if restamped else []),
    ]  # fmt: skip
    left = [name for name in wanted if name in what.params]
    assert left == wanted[len(wanted) - len(left) :]
    assert what.counts.get("noted.param_left_out", 0) == len(wanted) - len(left)


def test_the_event_itself_is_not_changed():
    before = event(LATE_US + 1, params={"session_id": 7})
    what = one(before, late="restamp")
    assert before.params == {"session_id": 7}
    assert what.event is before


# What is counted


@pytest.mark.parametrize(
    ("ahead_us", "counts"),
    [
        (FUTURE_US, {}),
        (FUTURE_US + 1, {"noted.future_moved": 1}),
        (2**60, {"noted.future_moved": 1}),
    ],
)
def test_a_time_in_the_future_that_is_cut_back_is_counted(ahead_us, counts):
    """Of a quarter of an hour nothing is said: clocks differ."""
    assert one(event(time_us=NOW + ahead_us)).counts == counts


@pytest.mark.parametrize(
    ("hours", "counted"),
    [
        (0, set()),
        (24, set()),
        (24.001, {"noted.left_after_24h"}),
        (48, {"noted.left_after_24h"}),
        (48.001, {"noted.left_after_24h", "noted.left_after_48h"}),
        (80, {"noted.left_after_24h", "noted.left_after_48h"}),
    ],
)
@pytest.mark.parametrize("late", ["restamp", "send"])
def test_how_many_left_after_a_day_and_two_is_counted(hours, counted, late):
    what = one(event(int(hours * HOUR_US)), late=late)
    assert what.counts == dict.fromkeys(counted, 1)
