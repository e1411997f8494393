"""A request carries what GA4 asks for, nothing that only steers the agent, and always fits."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.event import Event, Priority, Sender, Stamp, Stream
from agent.ga4.request import BODY_LIMIT, EVENTS_MAX, build, encode, fitting, too_large
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


def body_of(*events, stream=WEB):
    return json.loads(build(events, stream).body)


def test_a_web_stream_is_named_by_its_measurement_id():
    request = build([event()], WEB)
    assert request.url == "https://www.google-analytics.com/mp/collect"
    assert request.query == {"measurement_id": "G-ABCDE12345", "api_secret": SECRET}


def test_an_app_stream_is_named_by_its_firebase_app_id():
    request = build([event(sender=Sender(app_instance_id="a" * 32))], APP)
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
        {"name": "a", "timestamp_micros": WALL},
        {"name": "b", "timestamp_micros": WALL},
    ]
    assert sent == {
        "client_id": "1.2",
        "user_id": "u",
        "user_properties": {"tier": {"value": "gold"}},
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
    request = build([steered], WEB)
    [sent] = json.loads(request.body)["events"]
    assert set(sent) == {"name", "params", "timestamp_micros"}
    assert set(json.loads(request.body)) == {"client_id", "events"}
    for own in (b"e-77", b"actor-55", b"boot-id-of-the-device", SECRET.encode()):
        assert own not in request.body


def test_params_of_the_same_name_as_a_steering_key_are_the_publishers_and_are_sent():
    params = {"event_id": "mine", "session": "mine", "priority": 1}
    assert encode(event(params=params))["params"] == params


def test_the_secret_does_not_show_in_the_request():
    request = build([event()], WEB)
    for shown in (repr(request), str(request), f"{request}", repr([request]), f"{WEB!r}"):
        assert SECRET not in shown


def test_without_a_secret_no_request_is_built_and_the_stream_is_named():
    bare = Stream(name="kiosks", endpoint="https://x.example", measurement_id="G-1")
    with pytest.raises(ValueError, match="the stream kiosks has no secret"):
        build([event()], bare)


def test_no_more_than_25_events_fit():
    assert fitting([event() for _ in range(26)]) == EVENTS_MAX == 25


def test_text_is_counted_in_bytes_as_it_is_sent():
    """Two bytes a letter: 65,000 of them fit by count and do not fit by bytes."""
    assert too_large(event(params={"text": "é" * 65_000}))
    assert not too_large(event(params={"text": "é" * 64_000}))


def test_the_shared_top_level_counts_for_the_size():
    heavy = Sender(client_id="1.2", rest={"x": "y" * 100_000})
    small = [event(params={"text": "z" * 20_000}, sender=heavy) for _ in range(3)]
    assert fitting(small) == 1
    assert too_large(event(params={"text": "z" * 40_000}, sender=heavy))


@pytest.mark.parametrize("over", [-26, -25, -24, -1, 0, 1, 30])
def test_too_large_is_exactly_what_does_not_fit_alone(over):
    """A body must be smaller than the limit; to the byte, so that nothing is refused for nought."""
    bare = len(build([event(params={"text": ""})], WEB).body)
    edge = event(params={"text": "x" * (BODY_LIMIT + over - bare)})
    assert len(build([edge], WEB).body) == BODY_LIMIT + over
    assert too_large(edge) == (over >= 0)


SENDERS = st.builds(
    Sender,
    client_id=st.text(min_size=1, max_size=20),
    user_id=st.none() | st.text(max_size=20),
    user_properties=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
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
        time_us = draw(st.none() | st.integers(0, 2**63))
        name = draw(st.text(min_size=1, max_size=10))
        made.append(event(name, sender=sender, params=params, time_us=time_us))
    return made


@settings(max_examples=60, deadline=None)
@given(batches())
def test_what_is_said_to_fit_fits_and_there_is_always_a_next_step(events):
    number = fitting(events)
    assert 1 <= number <= min(len(events), EVENTS_MAX)
    size = len(build(events[:number], WEB).body)
    # One event that is too large is sent alone, for the endpoint to refuse it (413).
    assert size < BODY_LIMIT or (number == 1 and too_large(events[0]))


@settings(max_examples=60, deadline=None)
@given(batches())
def test_a_request_is_filled_as_far_as_it_goes(events):
    """One event more would be the 26th, or would not have fitted but for the commas."""
    number = fitting(events)
    if number < min(len(events), EVENTS_MAX):
        assert len(build(events[: number + 1], WEB).body) >= BODY_LIMIT - EVENTS_MAX


@settings(max_examples=60, deadline=None)
@given(batches())
def test_an_event_that_is_not_too_large_fits_alone(events):
    for one in events[:5]:
        alone = len(build([one], WEB).body)
        assert too_large(one) or alone < BODY_LIMIT
        assert fitting([one]) == 1
