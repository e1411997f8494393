"""A request carries what GA4 asks for, nothing that only steers the agent, and always fits."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.anchor import Moment
from agent.event import Beginning, Event, Priority, Sender, Stamp, Stream
from agent.ga4.departure import HOUR_US, Terms, departures
from agent.ga4.request import BODY_LIMIT, EVENTS_MAX, build, encode, fitting, probe, too_large
from agent.secret import Secret

SECRET = "s3cr3t-of-the-stream"
WEB = Stream(
    name="main",
    endpoint="https://www.google-analytics.com",
    measurement_id="G-ABCDE12345",
    secret=Secret(SECRET),
)
APP = Stream(
    name="app",
    endpoint="https://region1.google-analytics.com",
    firebase_app_id="1:123:android:abc",
    secret=Secret(SECRET),
)
WALL = 1_800_000_000_000_000
VISITOR = Sender(client_id="1.2")
STAMP = Stamp(wall_us=WALL, boot_us=1, boot_id="boot-id-of-the-device", trusted=True)


def event(name="tap", *, sender=VISITOR, **fields):
    return Event(name=name, stream="main", sender=sender, stamp=STAMP, event_id="e-77", **fields)


def departing(*events, now_us=WALL, error_us=0, late="send"):
    """The events as they leave at that time, by a clock that was right but for the error."""
    terms = Terms(
        stream=replace(WEB, late=late),
        now_us=now_us,
        when=lambda stamp: Moment(stamp.wall_us, error_us),
        session_id=lambda event: event.sitting.start.wall_us // 1_000_000,
    )
    return departures(events, terms)


def body_of(*events, stream=WEB, **terms):
    return json.loads(build(departing(*events, **terms), stream).body)


def test_a_web_stream_is_named_by_its_measurement_id():
    request = build(departing(event()), WEB)
    assert request.url == "https://www.google-analytics.com/mp/collect"
    assert request.query == {"measurement_id": "G-ABCDE12345", "api_secret": SECRET}


def test_an_app_stream_is_named_by_its_firebase_app_id():
    request = build(departing(event(sender=Sender(app_instance_id="a" * 32))), APP)
    assert request.url == "https://region1.google-analytics.com/mp/collect"
    assert request.query == {"firebase_app_id": "1:123:android:abc", "api_secret": SECRET}


@pytest.mark.parametrize(
    ("stream", "sender", "body"),
    [
        (WEB, Sender(client_id="1.2"), {"client_id": "1.2"}),
        (APP, Sender(app_instance_id="a" * 32), {"app_instance_id": "a" * 32}),
    ],
)
def test_the_sender_is_named_as_the_stream_names_its_own(stream, sender, body):
    sent = body_of(event(sender=sender), stream=stream)
    del sent["events"]
    assert sent == body


def test_what_events_share_stands_at_the_top_level_once():
    sender = Sender(
        client_id="1.2",
        user_id="u",
        user_properties={"tier": {"value": "gold"}},
        consent={"ad_user_data": "DENIED"},
        device={"category": "kiosk"},
        location={"city": "Riga"},
        rest={"non_personalized_ads": True},
    )
    sent = body_of(event("a", sender=sender), event("b", sender=sender))
    assert sent.pop("events") == [
        {"name": "a", "timestamp_micros": WALL - 1},
        {"name": "b", "timestamp_micros": WALL},
    ]
    assert sent == {
        "client_id": "1.2",
        "user_id": "u",
        "user_properties": {"tier": {"value": "gold", "timestamp_micros": WALL}},
        "consent": {"ad_user_data": "DENIED"},
        "device": {"category": "kiosk"},
        "user_location": {"city": "Riga"},
        "non_personalized_ads": True,
    }


def test_the_time_stands_beside_the_name_and_never_at_the_top():
    sent = body_of(event(params={"n": 1}))
    assert "timestamp_micros" not in sent
    assert sent["events"] == [{"name": "tap", "params": {"n": 1}, "timestamp_micros": WALL}]


@pytest.mark.parametrize(("time_us", "sent"), [(None, WALL), (5, 5), (0, 0)])
def test_the_publishers_own_time_goes_before_the_stamp(time_us, sent):
    assert encode(event(time_us=time_us))["timestamp_micros"] == sent


def test_what_steers_the_agent_is_never_sent():
    steered = event(
        session="start", actor="actor-55", priority=Priority.HIGH, params={"n": 1}, time_us=9
    )
    request = build(departing(steered), WEB)
    [sent] = json.loads(request.body)["events"]
    assert set(sent) == {"name", "params", "timestamp_micros"}
    assert set(json.loads(request.body)) == {"client_id", "events"}
    for own in (b"e-77", b"actor-55", b"boot-id-of-the-device", SECRET.encode()):
        assert own not in request.body


def test_params_of_the_same_name_as_a_steering_key_are_the_publishers_and_are_sent():
    params = {"event_id": "mine", "session": "mine", "priority": 1}
    assert encode(event(params=params))["params"] == params


# User properties


def test_a_user_property_gets_the_time_of_the_newest_event_of_its_request():
    """Without a time GA4 would take it for news: an old backlog would put old values back."""
    sender = replace(VISITOR, user_properties={"tier": {"value": "gold"}})
    events = [event(time_us=WALL - age, sender=sender) for age in (50, 7, 99)]
    assert body_of(*events)["user_properties"] == {
        "tier": {"value": "gold", "timestamp_micros": WALL - 7}
    }


def test_a_user_property_with_a_time_of_its_own_keeps_it():
    own = {"tier": {"value": "gold", "timestamp_micros": 5}}
    sender = replace(VISITOR, user_properties=own)
    assert body_of(event(sender=sender))["user_properties"] == own


def test_a_user_property_is_as_old_as_its_event_even_if_that_was_restamped():
    sender = replace(VISITOR, user_properties={"tier": {"value": "gold"}})
    sent = body_of(event(sender=sender), now_us=WALL + 100 * HOUR_US, late="restamp")
    assert sent["events"][0]["timestamp_micros"] == WALL + 100 * HOUR_US
    assert sent["user_properties"]["tier"]["timestamp_micros"] == WALL


def test_what_is_no_user_property_is_sent_as_it_is():
    """With repair switched off GA4 is to see what the publisher said."""
    odd = {"tier": "gold", "n": 1}
    assert body_of(event(sender=replace(VISITOR, user_properties=odd)))["user_properties"] == odd


def test_the_sender_itself_is_not_changed():
    sender = replace(VISITOR, user_properties={"tier": {"value": "gold"}})
    body_of(event(sender=sender))
    assert sender.user_properties == {"tier": {"value": "gold"}}


# The probe


@pytest.mark.parametrize("stream", [WEB, APP])
def test_a_probe_carries_no_event_no_id_and_no_secret_and_goes_where_nothing_is_counted(stream):
    request = probe(stream)
    assert request.url == f"{stream.endpoint}/debug/mp/collect"
    assert (request.query, request.body) == ({}, b"")


# What does not show, and what cannot be built


def test_the_secret_does_not_show_in_the_request():
    request = build(departing(event()), WEB)
    for shown in (repr(request), str(request), f"{request}", repr([request]), f"{WEB!r}"):
        assert SECRET not in shown


def test_without_a_secret_no_request_is_built_and_the_stream_is_named():
    bare = Stream(name="kiosks", endpoint="https://x.example", measurement_id="G-1")
    with pytest.raises(ValueError, match="the stream kiosks has no secret"):
        build(departing(event()), bare)


def test_no_more_than_25_events_fit():
    assert fitting(departing(*[event() for _ in range(26)])) == EVENTS_MAX == 25


def test_text_is_counted_in_bytes_as_it_is_sent():
    """Two bytes a letter: 65,000 of them fit by count and do not fit by bytes."""
    assert too_large(event(params={"text": "é" * 65_000}))
    assert not too_large(event(params={"text": "é" * 64_000}))


def test_the_shared_top_level_counts_for_the_size():
    heavy = Sender(client_id="1.2", rest={"x": "y" * 100_000})
    small = [event(params={"text": "z" * 20_000}, sender=heavy) for _ in range(3)]
    assert fitting(departing(*small)) == 1
    assert too_large(event(params={"text": "z" * 40_000}, sender=heavy))


MOST = {"error_us": 12 * HOUR_US, "now_us": WALL + 100 * HOUR_US, "late": "restamp"}


@pytest.mark.parametrize("properties", [{}, {"tier": {"value": "gold"}, "lang": {"value": "de"}}])
@pytest.mark.parametrize("terms", [{}, MOST], ids=["usual", "late and uncertain"])
def test_what_is_not_too_large_fits_whenever_and_with_whatever_it_leaves(terms, properties):
    """Refused at the door, an event that would just have fitted can be mended; later it cannot."""
    sender = replace(VISITOR, user_properties=properties)
    for padding in range(BODY_LIMIT - 600, BODY_LIMIT, 7):
        one = event(params={"text": "x" * padding}, sender=sender, sitting=Beginning("1.2", STAMP))
        size = len(build(departing(one, **terms), WEB).body)
        assert size < BODY_LIMIT or too_large(one)
        assert not too_large(one) or size >= BODY_LIMIT - 200


SENDERS = st.builds(
    Sender,
    client_id=st.text(min_size=1, max_size=20),
    user_id=st.none() | st.text(max_size=20),
    user_properties=st.dictionaries(
        st.text(max_size=5),
        st.text(max_size=9)
        | st.fixed_dictionaries(
            {"value": st.text(max_size=9)}, optional={"timestamp_micros": st.integers(0, WALL)}
        ),
        max_size=3,
    ),
    rest=st.dictionaries(
        st.sampled_from(["x", "y"]),
        st.builds(str.__mul__, st.sampled_from(["z", "é"]), st.integers(0, 60_000)),
        max_size=1,
    ),
)
VALUES = st.text(max_size=8) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PADS = st.one_of(st.just(0), st.integers(0, 8_000), st.integers(4_000, 140_000))


@st.composite
def batches(draw):
    """Events of one sender, some with a text so long that few or none of them fit."""
    sender = draw(SENDERS)
    letter = draw(st.sampled_from(["x", "é", '"', "\n", "\U0001f600"]))
    made = []
    for _ in range(draw(st.integers(1, 30))):
        params = draw(st.dictionaries(st.text(max_size=6), VALUES, max_size=3))
        params["pad"] = letter * draw(PADS)
        time_us = draw(st.none() | st.integers(-(2**63), 2**63))
        name = draw(st.text(min_size=1, max_size=10))
        made.append(event(name, sender=sender, params=params, time_us=time_us))
    return made


@settings(max_examples=60, deadline=None)
@given(batches())
def test_what_is_said_to_fit_fits_and_there_is_always_a_next_step(events):
    leaving = departing(*events)
    number = fitting(leaving)
    assert 1 <= number <= min(len(events), EVENTS_MAX)
    size = len(build(leaving[:number], WEB).body)
    # One event that is too large is sent alone, for the endpoint to refuse it (413).
    assert size < BODY_LIMIT or (number == 1 and too_large(events[0]))


@settings(max_examples=60, deadline=None)
@given(batches())
def test_a_request_is_filled_as_far_as_it_goes(events):
    """One event more would be the 26th, or would not have fitted, to the byte.

    But for properties that get a time whose digits are not those of the newest event's.
    """
    events = [replace(each, time_us=None) for each in events]
    leaving = departing(*events)
    number = fitting(leaving)
    if number < min(len(events), EVENTS_MAX):
        assert len(build(leaving[: number + 1], WEB).body) >= BODY_LIMIT


@settings(max_examples=60, deadline=None)
@given(batches())
def test_an_event_that_is_not_too_large_fits_alone(events):
    for one in departing(*events[:5]):
        alone = len(build([one], WEB).body)
        assert too_large(one.event) or alone < BODY_LIMIT
        assert fitting([one]) == 1
