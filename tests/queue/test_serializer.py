"""Rows of the queue: what was written is read again, equal, or known to be damaged."""

import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import jsontext
from agent.event import Event, Priority, RawMessage, Sender, Stamp
from agent.queue import serializer
from agent.queue.serializer import DamagedRow

STAMP = Stamp(1_800_000_000_000_000, 1_000_000, "boot", trusted=True)
EVENT = Event(
    name="tap",
    stream="main",
    sender=Sender(client_id="1.2", user_properties={"tier": {"value": "ü"}}),
    stamp=STAMP,
    event_id="00ff",
    params={"x": 1, "y": 1.0},
    priority=Priority.HIGH,
    time_us=5,
    session="start",
    actor="human",
)
# Lies on cards in the field: a newer program must read it for ever.
GOLDEN = (
    b'ddf897b6 {"name":"tap","params":{"x":1,"y":1.0},"stream":"main","sender":'
    b'{"client_id":"1.2","user_properties":{"tier":{"value":"\xc3\xbc"}}},"stamp":'
    b'[1800000000000000,1000000,"boot",true],"event_id":"00ff","priority":0,"time_us":5,'
    b'"session":"start","actor":"human"}'
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
numbers = st.integers(-(2**63), 2**63 - 1)
stamps = st.builds(Stamp, numbers, numbers, st.text(max_size=5), st.booleans())
texts = st.none() | st.text(max_size=5)
senders = st.builds(
    Sender,
    client_id=texts,
    app_instance_id=texts,
    user_id=texts,
    user_properties=objects,
    consent=objects,
    device=objects,
    location=objects,
    rest=objects,
)
events = st.builds(
    Event,
    name=st.text(),
    stream=st.text(),
    sender=senders,
    stamp=stamps,
    event_id=st.text(),
    params=objects,
    priority=st.sampled_from(Priority),
    time_us=st.none() | numbers,
    session=st.sampled_from([None, "start", "end"]),
    actor=texts,
)
raw_messages = st.builds(RawMessage, st.text(), st.text(), st.binary(max_size=200), stamps)


def row(value):
    """A row whose checksum is right, whatever it holds."""
    text = jsontext.dumps(value)
    return b"%08x %s" % (zlib.crc32(text), text)


def fields(item=EVENT):
    return jsontext.loads(serializer.dumps(item)[9:])


@given(events | raw_messages)
def test_what_was_written_is_read_equal(item):
    found = serializer.loads(serializer.dumps(item))
    assert found == item
    assert serializer.dumps(found) == serializer.dumps(item)


@given(events)
def test_kinds_of_numbers_survive(event):
    found = serializer.loads(serializer.dumps(event))
    assert jsontext.canonical(found.params) == jsontext.canonical(event.params)
    assert found.sender.key == event.sender.key
    assert type(found.priority) is Priority


def test_the_format_is_the_one_on_cards_in_the_field():
    assert serializer.dumps(EVENT) == GOLDEN
    assert serializer.loads(GOLDEN) == EVENT


def test_what_was_read_is_read_only():
    event = serializer.loads(GOLDEN)
    with pytest.raises(TypeError):
        event.params["x"] = 2
    with pytest.raises(TypeError):
        event.sender.user_properties["x"] = 2


def test_a_single_wrong_bit_is_noticed_wherever_it_is():
    data = serializer.dumps(EVENT)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(DamagedRow):
                serializer.loads(bytes(damaged))


@given(st.data())
def test_a_row_cut_short_or_zeroed_is_noticed(data):
    whole = serializer.dumps(EVENT)
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start + 1, len(whole)))
    for damaged in (whole[:start], whole[:start] + bytes(end - start) + whole[end:]):
        with pytest.raises(DamagedRow):
            serializer.loads(damaged)


@given(st.binary(max_size=100))
def test_foreign_bytes_are_noticed(data):
    with pytest.raises(DamagedRow):
        serializer.loads(data)


@given(json_values)
def test_a_sound_row_of_something_else_is_noticed(value):
    with pytest.raises(DamagedRow):
        serializer.loads(row(value))


@pytest.mark.parametrize("key", ["name", "stream", "sender", "stamp", "event_id", "priority"])
def test_a_sound_row_without_what_an_event_needs_is_noticed(key):
    incomplete = fields()
    del incomplete[key]
    with pytest.raises(DamagedRow):
        serializer.loads(row(incomplete))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sender", 7),
        ("sender", []),
        ("sender", "x"),
        ("sender", None),
        ("sender", {"unknown": 1}),
        ("stamp", 7),
        ("stamp", []),
        ("stamp", [1, 2, 3, 4, 5]),
        ("priority", 9),
        ("priority", "high"),
        ("params", 7),
        ("params", "x"),
    ],
)
def test_a_sound_row_with_something_else_in_a_field_is_noticed(key, value):
    with pytest.raises(DamagedRow):
        serializer.loads(row(fields() | {key: value}))


@pytest.mark.parametrize("raw", [7, None, "x", [], "ü"])
def test_a_sound_row_of_a_raw_message_that_is_none_is_noticed(raw):
    message = fields(RawMessage("mqtt", "malformed", b"x", STAMP))
    with pytest.raises(DamagedRow):
        serializer.loads(row(message | {"raw": raw}))


def test_what_a_damaged_row_says_tells_nothing_of_its_content():
    incomplete = fields(replace(EVENT, event_id="canary-7731"))
    del incomplete["name"]
    for data in (row(incomplete), serializer.dumps(EVENT)[:-1]):
        with pytest.raises(DamagedRow) as caught:
            serializer.loads(data)
        assert "7731" not in str(caught.value)
        assert str(caught.value).startswith("cannot read a queued event")


def test_persist_queue_may_ask_for_sorted_keys():
    assert serializer.loads(serializer.dumps(EVENT, sort_keys=True)) == EVENT
