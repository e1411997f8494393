"""What an export writes is spool input that means the same when it is read again."""

import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.rows import exported
from agent.event import UNASSIGNED, Event, Priority, RawMessage, Sender, Stamp, Stream
from agent.ga4.request import encode
from agent.intake.attribution import Device
from agent.intake.message import Message
from agent.intake.parse import RAW_MAX, Shape
from agent.jsontext import canonical
from agent.queue import serializer
from agent.queue.pages import Row
from agent.queue.serializer import CRC_DIGITS
from tests.sorters import sorter

NOW = Stamp(wall_us=1_900_000_000_000_000, boot_us=77, boot_id="another boot", trusted=True)
STREAMS = {
    "main": Stream(name="main", endpoint="http://127.0.0.1", measurement_id="G-MAIN"),
    "app": Stream(name="app", endpoint="http://127.0.0.1", firebase_app_id="1:1:android:a"),
}
DEVICE = Device(
    client_id="9.9", app_instance_id="a" * 32, user_id="the device's", user_properties={"tier": "x"}
)
SORTER = sorter(
    streams=STREAMS, device=DEVICE, params={"site": "of this device"}, new_id=lambda: "a new id"
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NUMBERS = st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.just(""),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just(""), inner, max_size=3)
    ),
    max_leaves=10,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4).map(MappingProxyType)
TIMES = st.integers(0, 2**53 - 1)
STAMPS = st.builds(
    Stamp, wall_us=TIMES, boot_us=TIMES, boot_id=TEXT | st.just(""), trusted=st.booleans()
)
REST = st.fixed_dictionaries(
    {},
    optional={
        "user_data": JSON,
        "ip_override": TEXT,
        "user_agent": JSON,
        "non_personalized_ads": st.booleans(),
        "validation_behavior": TEXT,
    },
).map(MappingProxyType)


def senders(**ids):
    return st.builds(
        Sender,
        **ids,
        user_id=st.none() | TEXT,
        user_properties=OBJECTS,
        consent=OBJECTS,
        device=OBJECTS,
        location=OBJECTS,
        rest=REST,
    )


def events(stream, sender):
    return st.builds(
        Event,
        name=TEXT,
        stream=st.just(stream),
        sender=sender,
        stamp=STAMPS,
        event_id=TEXT,
        params=OBJECTS,
        priority=st.sampled_from(Priority),
        time_us=st.none() | st.integers(1, 2**53 - 1),
        session=st.sampled_from([None, "start", "end"]),
        actor=st.sampled_from([None, "human", "machine"]),
    )


WEB = events("main", senders(client_id=TEXT, app_instance_id=st.none() | TEXT))
APP = events("app", senders(client_id=st.none() | TEXT, app_instance_id=TEXT))
RAW = st.builds(
    RawMessage, source=TEXT, reason=TEXT, payload=st.binary(max_size=RAW_MAX), stamp=STAMPS
)


def row(item, reason=None):
    return Row(1, getattr(item, "stream", "?"), reason, serializer.dumps(item))


def exactly(item):
    """What lies in the queue, but for the order of keys."""
    return canonical(json.loads(serializer.dumps(item)[CRC_DIGITS + 1 :]))


def taken_in(line):
    """What the spool would put into the queue."""
    message = Message(source="spool", payload=line, shape=Shape.SPOOL, answerable=False)
    part = SORTER.sort(message, NOW)
    assert (part.rejected, part.refused) == ((), 0)
    [item] = part.stored
    return item


@given(item=WEB | APP | RAW, reason=st.none() | TEXT)
def test_what_was_exported_is_taken_in_as_the_very_same(item, reason):
    again = taken_in(exported(row(item, reason)))
    assert again == item
    # Equal is not enough: 1, 1.0 and true are equal for Python and different for GA4.
    assert exactly(again) == exactly(item)


@given(event=WEB | APP)
def test_the_delivery_of_what_was_exported_is_the_same(event):
    again = taken_in(exported(row(event)))
    assert encode(again) == encode(event)
    assert again.sender.body == event.sender.body
    assert again.sender.key == event.sender.key


@given(item=WEB | RAW)
def test_an_exported_row_is_one_line(item):
    assert b"\n" not in exported(row(item))


@pytest.mark.parametrize("reason", [None, "refused 400"])
def test_why_an_event_died_stands_in_its_line(make_event, reason):
    line = exported(row(make_event(), reason))
    assert (b'"reason":"refused 400"' in line) == (reason is not None)


def test_events_from_before_any_stream_was_configured_go_to_the_default_one(make_event):
    event = make_event(stream=UNASSIGNED)
    assert taken_in(exported(row(event))).stream == "main"


def test_a_damaged_row_has_no_line():
    assert exported(Row(1, "main", None, b"damaged")) is None
