"""The words everything else is said in: senders, streams, priorities, refusals."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import (
    NOTHING,
    UNASSIGNED,
    Event,
    InvalidEvent,
    Priority,
    RawMessage,
    Sender,
    Stamp,
    Stream,
)
from agent.secret import Secret

STAMP = Stamp(1, 2, "boot", trusted=False)
ids = st.none() | st.text(max_size=3)
properties = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=2)
senders = st.builds(
    Sender,
    client_id=ids,
    app_instance_id=ids,
    user_id=ids,
    user_properties=properties,
    consent=properties,
    device=properties,
    location=properties,
    rest=st.dictionaries(st.sampled_from(["ip_override", "user_agent"]), st.text(), max_size=2),
)


def test_the_numbers_of_priorities_are_those_in_queues_out_there():
    assert {p.name: int(p) for p in Priority} == {"HIGH": 0, "NORMAL": 1, "LOW": 2}


def test_the_name_of_events_without_a_stream_is_the_one_in_queues_out_there():
    assert UNASSIGNED == "*"


@pytest.mark.parametrize(
    "value",
    [
        STAMP,
        Sender(),
        Stream(name="main", endpoint="https://x"),
        Event(name="tap", stream="main", sender=Sender(), stamp=STAMP, event_id="1"),
        RawMessage("mqtt", "malformed", b"", STAMP),
    ],
)
def test_nothing_that_travels_can_be_changed(value):
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, "other")
    with pytest.raises((AttributeError, TypeError)):
        value.another = 1


def test_the_default_of_params_is_shared_and_read_only():
    event = Event(name="tap", stream="main", sender=Sender(), stamp=STAMP, event_id="1")
    assert event.params is NOTHING
    with pytest.raises(TypeError):
        event.params["x"] = 1


def test_a_sender_writes_itself_with_the_names_of_the_protocol():
    sender = Sender(
        client_id="1.1",
        user_id="u",
        user_properties={"a": 1},
        consent={"ad_user_data": "GRANTED"},
        device={"category": "mobile"},
        location={"city": "Bern"},
        rest={"ip_override": "192.0.2.1"},
    )
    assert sender.body == {
        "client_id": "1.1",
        "user_id": "u",
        "user_properties": {"a": 1},
        "consent": {"ad_user_data": "GRANTED"},
        "device": {"category": "mobile"},
        "user_location": {"city": "Bern"},
        "ip_override": "192.0.2.1",
    }


def test_what_a_sender_does_not_say_is_not_in_the_body():
    assert Sender().body == {}
    assert Sender(client_id="1.1", user_properties={}).body == {"client_id": "1.1"}


@pytest.mark.parametrize(
    ("sender", "named"),
    [
        (Sender(), False),
        (Sender(user_id="u", user_properties={"a": 1}), False),
        (Sender(client_id="1.1"), True),
        (Sender(app_instance_id="f"), True),
        (Sender(client_id=""), True),
    ],
)
def test_a_sender_is_named_by_a_device_and_not_by_a_person(sender, named):
    assert sender.named is named


@given(senders, senders)
def test_senders_share_a_request_exactly_when_their_bodies_are_equal(one, other):
    assert (one.key == other.key) == (one.body == other.body)


def test_the_key_tells_kinds_of_values_apart_that_python_calls_equal():
    keys = {Sender(user_properties={"a": {"value": v}}).key for v in (1, 1.0, True, "1")}
    assert len(keys) == 4


def test_the_key_does_not_depend_on_the_order_in_which_things_were_said():
    one = Sender(user_properties={"a": 1, "b": 2})
    other = Sender(user_properties={"b": 2, "a": 1})
    assert one.key == other.key


@pytest.mark.parametrize(
    ("fields", "is_app"), [({"measurement_id": "G-1"}, False), ({"firebase_app_id": "1:2"}, True)]
)
def test_a_stream_is_of_an_app_when_it_has_an_app_id(fields, is_app):
    assert Stream(name="main", endpoint="https://x", **fields).is_app is is_app


def test_a_stream_does_not_show_its_secret():
    stream = Stream(name="main", endpoint="https://x", secret=Secret("s3cr3t"))
    assert "s3cr3t" not in f"{stream} {stream!r}"
    assert "secret" not in repr(stream)


def test_a_refusal_speaks_the_terms_of_ga4():
    error = InvalidEvent("events[0].name", "found nothing", "VALUE_REQUIRED")
    assert (error.field_path, error.code) == ("events[0].name", "VALUE_REQUIRED")
    assert str(error) == "events[0].name: found nothing"
    assert str(InvalidEvent("", "found no JSON")) == "found no JSON"
    assert InvalidEvent("", "x").code == "VALUE_INVALID"
