"""Bytes from outside: they become drafts, or it is said what is wrong with them."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent import jsontext
from agent.event import Event, InvalidEvent, Priority, Sender, Stamp
from agent.ga4.request import EVENTS_MAX
from agent.ga4.violation import Rule
from agent.intake.parse import (
    BODY_KEYS,
    COOKIES_MAX,
    ELEMENTS_MAX,
    EVENT_KEYS,
    ID_MAX,
    SENDER_KEYS,
    SPOOL_DEPTH,
    TEXT_MAX,
    TIME_MAX,
    UNKEPT_KEYS,
    Draft,
    Misfit,
    Shape,
    parse,
    without_unkept,
)
from agent.queue import serializer

CANARY = "canary-7731"
STAMP = Stamp(1, 1, "b", trusted=True)
TAP = {"name": "tap"}


def read(value, shape=Shape.ANY):
    return parse(json.dumps(value).encode(), shape)


def only(value, shape=Shape.ANY):
    (element,) = read(value, shape).elements
    return element


def refusal(value, shape=Shape.ANY):
    """Why the value is not taken, whether as a whole or as its only element."""
    try:
        element = only(value, shape)
    except InvalidEvent as error:
        return error
    assert isinstance(element, Misfit)
    return element.error


# -- shapes -------------------------------------------------------------------------------------


def test_one_event_is_a_draft():
    parsed = read({"name": "tap", "params": {"x": 1}})
    assert parsed.elements == (Draft(name="tap", params={"x": 1}),)
    assert not parsed.whole


def test_an_array_is_taken_element_by_element_in_order():
    parsed = read([{"name": "a"}, {"nome": "b"}, {"name": "c"}])
    assert [type(element) for element in parsed.elements] == [Draft, Misfit, Draft]
    assert [e.name for e in parsed.elements if isinstance(e, Draft)] == ["a", "c"]
    assert not parsed.whole


@pytest.mark.parametrize("shape", Shape)
def test_a_body_is_taken_whole_and_all_its_events_have_its_sender(shape):
    parsed = read({"client_id": "1.2", "events": [{"name": "a"}, {"name": "b"}]}, shape)
    sender = Sender(client_id="1.2")
    assert parsed.elements == (Draft(name="a", sender=sender), Draft(name="b", sender=sender))
    assert parsed.whole


def test_a_body_may_hold_a_single_event_without_an_array():
    """ga4mp 2.0.4 writes its postponed events so."""
    parsed = read({"client_id": "1.2", "events": {"name": "a"}}, Shape.BODY)
    assert parsed.elements == (Draft(name="a", sender=Sender(client_id="1.2")),)


def test_an_object_with_events_is_a_body_even_where_they_are_wrong():
    assert refusal({"name": "tap", "events": None}).field_path in ("", "events")
    assert refusal({"events": None}).field_path == "events"


def test_where_a_body_is_expected_one_event_is_none():
    assert refusal(TAP, Shape.BODY).description.startswith("found the unknown key 'name'")
    assert refusal({}, Shape.BODY).field_path == "events"


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "", CANARY, [TAP]])
def test_where_a_body_is_expected_nothing_but_an_object_will_do(value):
    error = refusal(value, Shape.BODY)
    assert (error.field_path, error.code) == ("", "VALUE_INVALID")
    assert error.description.endswith("expected a Measurement Protocol body")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "nothing"),
        (True, "true or false"),
        (7, "a number"),
        (1.5, "a number"),
        ("", "an empty text"),
        (CANARY, "a text"),
    ],
)
def test_what_is_no_event_is_named_by_its_kind(value, found):
    assert refusal(value).description.startswith(f"found {found}, expected")
    assert refusal([value]).description == f"found {found}, expected an event"


def test_an_empty_array_holds_nothing_to_speak_of():
    assert refusal([]).description == "found an empty array, expected at least one event"


def test_a_byte_order_mark_is_no_misfit():
    assert parse(b'\xef\xbb\xbf{"name":"tap"}', Shape.ANY).elements == (Draft(name="tap"),)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"{",
        b"NaN",
        b'{"name":"tap","params":{"x":Infinity}}',
        b'{"name":"tap","params":{"x":-1e999}}',
        b'{"name":"tap","params":{"x":"\\ud800"}}',
        b'{"name":"tap","params":{"\\udfff":1}}',
        b'{"name":"tap","params":{"x":' + b"9" * 5000 + b"}}",
        b"[" * 100_000,
        b"[" * 37 + b"]" * 37,
    ],
)
def test_what_is_no_json_that_can_travel_is_refused_as_a_whole(payload):
    for shape in Shape:
        with pytest.raises(InvalidEvent) as caught:
            parse(payload, shape)
        assert (caught.value.field_path, caught.value.code) == ("", "VALUE_INVALID")


def test_a_line_of_an_export_may_be_as_deep_as_what_a_mapping_puts_together():
    deepest = b'{"name":"tap","params":{"x":' + b"[" * 32 + b"]" * 32 + b"}}"
    assert parse(deepest, Shape.SPOOL).elements[0].name == "tap"
    with pytest.raises(InvalidEvent):
        parse(deepest, Shape.ANY)


def test_a_message_of_too_many_events_is_refused_as_a_whole():
    """A MiB of [0,0,…] took 900 MiB of memory."""
    with pytest.raises(InvalidEvent) as caught:
        read([0] * (ELEMENTS_MAX + 1))
    assert caught.value.code == "EXCEEDED_MAX_ENTITIES"
    elements = read([0] * ELEMENTS_MAX).elements
    assert len(elements) == ELEMENTS_MAX
    assert {misfit.error.__traceback__ for misfit in elements} == {None}


# -- what steers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("event_id", "e" * TEXT_MAX, "event_id", "e" * TEXT_MAX),
        ("session", "start", "session", "start"),
        ("session", "end", "session", "end"),
        ("actor", "human", "actor", "human"),
        ("actor", "machine", "actor", "machine"),
        ("priority", "high", "priority", Priority.HIGH),
        ("priority", "normal", "priority", Priority.NORMAL),
        ("priority", "low", "priority", Priority.LOW),
        ("timestamp_micros", 1, "time_us", 1),
        ("timestamp_micros", TIME_MAX - 1, "time_us", TIME_MAX - 1),
        ("timestamp_micros", 1.8e15, "time_us", 1_800_000_000_000_000),
        ("timestamp_micros", "1800000000000000", "time_us", 1_800_000_000_000_000),
        ("timestamp_micros", "007", "time_us", 7),
    ],
)
def test_a_steering_key_steers_and_is_no_param(key, value, field, expected):
    for draft in (only({**TAP, key: value}), only({"events": [{**TAP, key: value}]})):
        assert getattr(draft, field) == expected
        assert type(getattr(draft, field)) is type(expected)
        assert draft.params == {}


@pytest.mark.parametrize("key", sorted(EVENT_KEYS - {"name"}))
def test_null_says_the_same_as_nothing(key):
    assert only({**TAP, key: None}) == only(TAP)


def test_the_time_of_the_request_is_that_of_events_without_their_own():
    parsed = read({"timestamp_micros": 5, "events": [TAP, {**TAP, "timestamp_micros": 7}]})
    assert [draft.time_us for draft in parsed.elements] == [5, 7]


def test_a_time_among_the_params_is_that_of_the_event_and_no_param():
    """GA4's reference lists it there; the guide says that it stands beside the name."""
    inside = {"name": "tap", "params": {"x": 1, "timestamp_micros": 7}}
    assert only(inside) == Draft(name="tap", params={"x": 1}, time_us=7)
    parsed = read({"timestamp_micros": 5, "events": [inside, {**inside, "timestamp_micros": 9}]})
    assert [draft.time_us for draft in parsed.elements] == [7, 9]
    assert [draft.params for draft in parsed.elements] == [{"x": 1}] * 2
    assert only({"name": "tap", "params": {"timestamp_micros": None}}) == only(TAP)


def test_times_are_those_of_this_device_unless_they_lay_in_a_queue():
    """What an export has beside a stamp was never read from this device's clock."""
    stamp = {"wall_us": 1, "boot_us": 1, "boot_id": "b", "trusted": True}
    exported = {**TAP, "timestamp_micros": 7, "stamp": stamp, "complete": True}
    assert only({**TAP, "timestamp_micros": 7}).local_time
    assert not only(exported, Shape.SPOOL).local_time


def test_it_is_known_where_in_the_message_each_element_stands():
    assert read(TAP).place(0) == ""
    assert read([TAP, TAP]).place(1) == "[1]"
    assert read({"events": [TAP, TAP]}).place(1) == "events[1]"


def test_numbers_keep_their_kinds():
    params = only({**TAP, "params": {"i": 1, "f": 1.0, "b": True, "big": 10**30}}).params
    assert [type(value) for value in params.values()] == [int, float, bool, int]


# -- senders ------------------------------------------------------------------------------------

SENDER = {
    "client_id": "1.2",
    "app_instance_id": "f" * 32,
    "user_id": "u",
    "user_properties": {"tier": {"value": "a"}},
    "consent": {"ad_user_data": "DENIED"},
    "device": {"category": "desktop"},
    "user_location": {"city": "Bern"},
    "user_data": {"sha256_email_address": ["x"]},
    "ip_override": "192.0.2.1",
    "user_agent": "Kiosk/1",
    "non_personalized_ads": True,
    "validation_behavior": "ENFORCE_RECOMMENDATIONS",
}


def test_these_are_all_the_keys_of_a_sender():
    assert set(SENDER) == SENDER_KEYS


@pytest.mark.parametrize(
    "value", [{**SENDER, **TAP}, [{**SENDER, **TAP}], {**SENDER, "events": [TAP]}]
)
def test_a_sender_is_read_whole_from_an_event_an_array_and_a_body(value):
    draft = only(value)
    assert draft.sender.body == SENDER
    assert draft.sender.location == {"city": "Bern"}
    assert draft.params == {}


def test_each_element_of_an_array_has_its_own_sender():
    parsed = read([{**TAP, "client_id": "1.1"}, TAP, {**TAP, "client_id": "2.2"}])
    assert [e.sender.client_id for e in parsed.elements] == ["1.1", None, "2.2"]


@pytest.mark.parametrize("key", sorted(SENDER_KEYS))
def test_a_sender_inside_a_body_s_event_is_refused_rather_than_lost(key):
    error = refusal({"events": [{**TAP, key: SENDER[key]}]})
    assert (error.field_path, error.code) == ("events[0]", "VALUE_INVALID")
    assert error.description.startswith(f"found the unknown key {key!r}")


@pytest.mark.parametrize("shape", Shape)
def test_googles_own_tools_write_a_key_in_their_way(shape):
    body = {"validationBehavior": "RELAXED", "events": [TAP]}
    assert only(body, shape).sender.body == {"validation_behavior": "RELAXED"}
    both = {**body, "validation_behavior": "ENFORCE_RECOMMENDATIONS"}
    assert only(both, shape).sender.body == {"validation_behavior": "ENFORCE_RECOMMENDATIONS"}


def test_ids_are_as_long_as_others_make_them():
    """GA4 documents no limit for a client_id; what a user_id may be its rules decide."""
    assert len(only({**TAP, "client_id": "c" * ID_MAX}).sender.client_id) == ID_MAX
    for user_id in ("", "u" * 10_000):
        assert only({**TAP, "user_id": user_id}).sender.user_id == user_id


# -- what only says whose it is ------------------------------------------------------------------

UNKEPT = {"client_key": CANARY, "cookies": f"_ga=GA1.1.1.2; card={CANARY}"}


def test_these_are_all_the_keys_that_are_not_kept():
    assert set(UNKEPT) == set(UNKEPT_KEYS)


@pytest.mark.parametrize(
    "value", [{**UNKEPT, **TAP}, [{**UNKEPT, **TAP}], {**UNKEPT, "events": [TAP]}]
)
def test_keys_and_cookies_are_read_and_stay_out_of_everything_that_is_kept(value):
    draft = only(value)
    assert (draft.client_key, draft.cookies) == (UNKEPT["client_key"], UNKEPT["cookies"])
    assert draft.said == TAP
    assert draft.sender == Sender()
    assert CANARY not in repr(draft)


def test_a_key_inside_a_body_s_event_is_refused_like_any_sender():
    for key, said in UNKEPT.items():
        error = refusal({"events": [{**TAP, key: said}]})
        assert error.description.startswith(f"found the unknown key {key!r}")


@pytest.mark.parametrize("value", [{**UNKEPT, "nome": 1}, {**UNKEPT, "name": 1}])
def test_a_misfit_keeps_no_key_and_no_cookie(value):
    for document in (value, [value], {"events": [value]}):
        (misfit,) = read(document).elements
        assert CANARY.encode() not in misfit.payload
        assert b"name" in misfit.payload or b"nome" in misfit.payload


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        (b'{"client_key":"7731","name":"a"}', b'{"name":"a"}'),
        (b'{"client\\u005fkey":"7731","name":"a"}', b'{"name":"a"}'),
        (b'[{"cookies":"7731"},{"x":1},7]', b'[{},{"x":1},7]'),
        (
            b'{"client_key":"7731","events":[{"name":"a","cookies":"7731"},2]}',
            b'{"events":[{"name":"a"},2]}',
        ),
        (b'{"events":{"name":"a","cookies":"7731"}}', b'{"events":{"name":"a"}}'),
        (b'{"client_key":"7731', b""),
        (b"{client_key: 7731}", b""),
        (b'{ "name" : "\\u00e4" }', b'{ "name" : "\\u00e4" }'),
        (b'{"params":{"product":"cookies"}', b'{"params":{"product":"cookies"}'),
        (b"\\u\xff", b"\\u\xff"),
        (b'"client_key: "', b'"client_key: "'),
    ],
)
def test_a_whole_message_is_kept_without_keys_and_cookies(payload, kept):
    assert without_unkept(payload) == kept


# -- misfits ------------------------------------------------------------------------------------

REQUIRED, INVALID, BOUNDS = "VALUE_REQUIRED", "VALUE_INVALID", "VALUE_OUT_OF_BOUNDS"
EVENT_MISFITS = [
    ({}, ".name", REQUIRED),
    ({"name": None}, ".name", REQUIRED),
    ({"name": ""}, ".name", "NAME_INVALID"),
    ({"name": [CANARY]}, ".name", "NAME_INVALID"),
    ({"name": 7731}, ".name", "NAME_INVALID"),
    ({**TAP, "params": [CANARY]}, ".params", INVALID),
    ({**TAP, "params": CANARY}, ".params", INVALID),
    ({**TAP, "event_id": ""}, ".event_id", REQUIRED),
    ({**TAP, "event_id": CANARY + "x" * TEXT_MAX}, ".event_id", BOUNDS),
    ({**TAP, "event_id": 7731}, ".event_id", INVALID),
    ({**TAP, "session": CANARY}, ".session", INVALID),
    ({**TAP, "session": ["start"]}, ".session", INVALID),
    ({**TAP, "actor": CANARY}, ".actor", INVALID),
    ({**TAP, "actor": True}, ".actor", INVALID),
    ({**TAP, "priority": CANARY}, ".priority", INVALID),
    ({**TAP, "priority": 0}, ".priority", INVALID),
    ({**TAP, "priority": "HIGH"}, ".priority", INVALID),
    ({**TAP, "timestamp_micros": 0}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": -7731}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": 7731.5}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": TIME_MAX}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": 10**400}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": True}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": CANARY}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": "7731.5"}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": "9" * 20}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": "9" * 21}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": ""}, ".timestamp_micros", INVALID),
    ({**TAP, "timestamp_micros": "٣"}, ".timestamp_micros", INVALID),
    ({**TAP, "params": {"timestamp_micros": CANARY}}, ".params.timestamp_micros", INVALID),
    ({"nome": CANARY}, "", INVALID),
    ({**TAP, "stream": CANARY}, "", INVALID),
]
IDS = ("client_id", "app_instance_id", "client_key", "cookies")
SENDER_MISFITS = [
    *[({key: ""}, key, REQUIRED) for key in IDS],
    *[({key: [7731]}, key, INVALID) for key in IDS],
    *[({key: 7731.5}, key, INVALID) for key in IDS],
    *[({key: 7731}, key, INVALID) for key in UNKEPT],
    ({"client_id": CANARY + "x" * ID_MAX}, "client_id", BOUNDS),
    *[({key: CANARY + "x" * TEXT_MAX}, key, BOUNDS) for key in ("app_instance_id", "client_key")],
    ({"cookies": CANARY + "x" * COOKIES_MAX}, "cookies", BOUNDS),
]


def check(error, path, code):
    assert (error.field_path, error.code) == (path, code)
    assert "7731" not in f"{error} {error.description} {error.args}"
    assert "found" in error.description
    assert "expected" in error.description


@pytest.mark.parametrize(("event", "path", "code"), EVENT_MISFITS)
def test_a_misfit_says_where_and_why_and_nothing_of_its_content(event, path, code):
    check(refusal(event), path.removeprefix("."), code)
    check(refusal([event]), f"[0]{path}", code)
    check(refusal({"client_id": CANARY, "events": [event]}), f"events[0]{path}", code)


@pytest.mark.parametrize(("sender", "path", "code"), SENDER_MISFITS)
def test_a_wrong_sender_says_where_and_why_and_nothing_of_its_content(sender, path, code):
    check(refusal({**TAP, **sender}), path, code)
    check(refusal([{**TAP, **sender}]), f"[0].{path}", code)
    check(refusal({**sender, "events": [TAP]}), path, code)


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ({"events": None}, "events", REQUIRED),
        ({"events": []}, "events", REQUIRED),
        ({"events": {}}, "events", REQUIRED),
        ({"events": {"name": [CANARY]}}, "events[0].name", "NAME_INVALID"),
        ({"events": [TAP] * (EVENTS_MAX + 1)}, "events", "EXCEEDED_MAX_ENTITIES"),
        ({"events": [TAP], "event_id": CANARY}, "", INVALID),
        ({"events": [TAP], "timestamp_micros": CANARY}, "timestamp_micros", INVALID),
        ({"events": [CANARY]}, "events[0]", INVALID),
    ],
)
def test_a_wrong_body_says_where_and_why_and_nothing_of_its_content(body, path, code):
    check(refusal(body), path, code)


def test_a_body_may_hold_as_many_events_as_ga4_takes():
    assert len(read({"events": [TAP] * EVENTS_MAX}).elements) == EVENTS_MAX


def test_the_index_in_the_path_is_that_of_the_element():
    parsed = read([TAP, TAP, {"name": 1}])
    assert parsed.elements[2].error.field_path == "[2].name"
    parsed = read({"events": [TAP, {"name": 1}]})
    assert parsed.elements[1].error.field_path == "events[1].name"


def test_a_misfit_keeps_its_own_bytes_and_not_its_neighbours():
    parsed = read([TAP, {"nome": "b"}])
    assert parsed.elements[1].payload == b'{"nome":"b"}'


def test_an_unknown_key_is_named_but_not_at_length():
    for description in (
        refusal({"k" * 5000: 1}).description,
        only({**TAP, "k" * 5000: 1}).mended[0].violation.description,
    ):
        assert "k" * 40 in description
        assert len(description) < 500


# -- what is mended to be read ------------------------------------------------------------------


def whole(draft):
    """What was mended, as kind and number, and all that is said of it."""
    told = [each.violation for each in draft.mended]
    assert not any("7731" in each.description or CANARY in each.description for each in told)
    return [(each.kind, each.number) for each in draft.mended], told


@pytest.mark.parametrize("event", [{"colour": "red"}, {"bar": 2}])
@pytest.mark.parametrize("within", ["", "array", "events"])
def test_an_unknown_key_beside_the_name_is_left_out_and_told(event, within):
    said = {"": {**TAP, **event}, "array": [{**TAP, **event}], "events": {"events": [TAP | event]}}
    draft = only(said[within])
    assert (draft.name, draft.session, draft.actor) == ("tap", None, None)
    kinds, [violation] = whole(draft)
    assert kinds == [("key_dropped", 1)]
    assert (violation.rule, violation.field_path) == (Rule.UNKNOWN_KEY, "events[0]")
    assert violation.description.startswith(f"found the unknown key {next(iter(event))!r}, exp")


def test_unknown_keys_of_a_body_are_left_out_of_each_of_its_events():
    body = {"client_id": "1.2", "foo": 1, "bar": 2, "events": [TAP, {**TAP, "baz": 3}]}
    first, second = read(body, Shape.BODY).elements
    assert first.sender.body == {"client_id": "1.2"}
    assert whole(first)[0] == [("key_dropped", 2)]
    assert whole(second)[0] == [("key_dropped", 2), ("key_dropped", 1)]
    assert whole(first)[1][0].field_path == ""
    assert whole(first)[1][0].description.startswith("found the unknown key 'foo' and 1 more, exp")


def test_many_unknown_keys_are_told_as_one():
    body = {f"k{n}": n for n in range(100_000)} | {"events": [TAP] * EVENTS_MAX}
    drafts = read(body).elements
    assert {draft.mended[0].number for draft in drafts} == {100_000}


@pytest.mark.parametrize("key", ["client_id", "app_instance_id", "user_id"])
@pytest.mark.parametrize(("number", "text"), [(12345, "12345"), (12.0, "12"), (-5, "-5")])
def test_a_whole_number_in_the_place_of_an_id_becomes_its_text(key, number, text):
    draft = only({**TAP, key: number})
    assert draft.sender.body == {key: text}
    kinds, [violation] = whole(draft)
    assert (kinds, violation.field_path) == ([("converted", 1)], key)
    assert violation.rule is Rule.TEXT_EXPECTED


@pytest.mark.parametrize("user_id", [7731.5, True, [CANARY], {"a": CANARY}, 10**40])
def test_a_user_id_that_is_none_is_left_out(user_id):
    draft = only({**TAP, "client_id": "1.2", "user_id": user_id})
    assert draft.sender.body == {"client_id": "1.2"}
    assert whole(draft)[0] == [("identifier_dropped", 1)]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("user_properties", "user_property_dropped"),
        ("device", "device_dropped"),
        ("user_location", "location_dropped"),
        ("consent", "consent_denied"),
    ],
)
@pytest.mark.parametrize("said", [[], [CANARY], CANARY, 7731, False])
def test_a_part_of_the_sender_that_cannot_be_read_is_left_out_and_a_consent_denied(key, kind, said):
    """PHP writes an empty object as an empty array."""
    draft = only({**TAP, key: said})
    denied = {"ad_personalization": "DENIED", "ad_user_data": "DENIED"}
    assert draft.sender.body == ({key: denied} if key == "consent" else {})
    kinds, [violation] = whole(draft)
    assert (kinds, violation.field_path) == ([(kind, 1)], key)


SECONDS = 1_800_000_000
MICROS = SECONDS * 10**6
TIMES = [
    (SECONDS + 0.25, MICROS + 250_000, "time_unit", "found seconds since 1970"),
    (1_700_000_000.123456, 1_700_000_000_123_456, "time_unit", "found seconds since 1970"),
    (SECONDS * 1000 + 0.5, MICROS + 500, "time_unit", "found milliseconds since 1970"),
    (MICROS * 1000 + 999, MICROS, "time_unit", "found nanoseconds since 1970"),
    (float(MICROS * 1000), MICROS, "time_unit", "found nanoseconds since 1970"),
    (str(MICROS * 1000), MICROS, "time_unit", "found nanoseconds since 1970"),
    (MICROS + 0.25, MICROS, "converted", "found a number with a fraction"),
]


@pytest.mark.parametrize(("said", "time_us", "kind", "found"), TIMES)
@pytest.mark.parametrize("place", ["event", "params", "body"])
def test_a_time_of_another_unit_or_with_a_fraction_is_read_and_named(
    said, time_us, kind, found, place
):
    of_time = {"timestamp_micros": said}
    draft, path = {
        "event": (only(TAP | of_time), "events[0].timestamp_micros"),
        "params": (only({**TAP, "params": of_time}), "events[0].params.timestamp_micros"),
        "body": (only({"events": [TAP], **of_time}), "timestamp_micros"),
    }[place]
    assert (draft.time_us, draft.params) == (time_us, {})
    kinds, [violation] = whole(draft)
    assert (kinds, violation.field_path) == ([(kind, 1)], path)
    assert violation.description.startswith(found)


@pytest.mark.parametrize("said", [SECONDS, SECONDS * 1000, MICROS, 7, float(SECONDS)])
def test_whole_numbers_are_for_the_door_which_knows_what_its_clock_shows(said):
    """By a clock that stands in 1970 microseconds look like seconds."""
    draft = only({**TAP, "timestamp_micros": said})
    assert (draft.time_us, draft.mended) == (said, ())


def test_what_lay_in_a_queue_is_as_it_was_or_it_did_not():
    for slip in ({"foo": 1}, {"user_id": 7}, {"timestamp_micros": MICROS + 0.5}):
        assert isinstance(only({**TAP, "complete": True, **slip}, Shape.SPOOL), Misfit)
    assert only({**TAP, "complete": True, "user_id": "u" * 300}, Shape.SPOOL).complete


@pytest.mark.parametrize(
    ("payload", "line", "column"),
    [
        (b'[{"name":"good"},{"name":"b","params":{"v":NaN}}]', 1, 44),
        (b'[\n {"name": "NaN 1e999"},\n {"x": -Infinity}]', 3, 8),
        (b'{"name":"a\\"NaN","params":{"v":-1e999}}', 1, 32),
    ],
)
def test_a_number_that_is_not_finite_is_named_with_line_and_column(payload, line, column):
    with pytest.raises(InvalidEvent) as caught:
        parse(payload, Shape.ANY)
    assert caught.value.description.startswith("found ")
    place = f" at line {line} column {column}, expected a finite one"
    assert caught.value.description.endswith(place)


# -- anything at all ----------------------------------------------------------------------------

TOKENS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "-0.0", "1E400",
    '"\\ud800"', '"\\ud83d\\ude00"', '"\\udc00\\ud800"', '"\\u0000"', '"\\"', "'x'", '"\U0001f600"',
    "9" * 4300, "9" * 4301, "-" + "9" * 4300, "9" * 400 + ".0", "tru", "", "null", "{}", "[]",
    "[" * 31 + "]" * 31, "[" * 40 + "]" * 40, '{"a":' * 28 + "1" + "}" * 28, "[" * 5000 + "]" * 5000,
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(sorted(EVENT_KEYS | BODY_KEYS)).map(lambda key: f'"{key}"'),
    st.text(max_size=3).map(json.dumps),
    st.sampled_from(['"\\ud800"', "1", ""]),
)
leaves = st.one_of(
    st.sampled_from(TOKENS),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()).map(json.dumps),
    st.sampled_from(["tap", "start", "high", "human", "1.1"]).map(json.dumps),
)


def an_object(children):
    """Objects of known and other keys, a key twice among them."""
    pairs = st.lists(st.tuples(keys, children), max_size=6)
    return pairs.map(lambda found: "{" + ",".join(f"{k}:{v}" for k, v in found) + "}")


def an_array(children):
    return st.lists(children, max_size=4).map(lambda found: "[" + ",".join(found) + "]")


texts = st.recursive(leaves, lambda inner: an_object(inner) | an_array(inner), max_leaves=25)


def survive(payload, shape):
    """It parses or is refused; what parsed can be written and read again, equal."""
    try:
        parsed = parse(payload, shape)
    except InvalidEvent as error:
        str(error).encode()
        return
    assert parsed.elements
    for element in parsed.elements:
        if isinstance(element, Misfit):
            jsontext.loads(element.payload, max_depth=SPOOL_DEPTH)
            str(element.error).encode()
            continue
        assert UNKEPT_KEYS.keys().isdisjoint(element.said)
        assert "timestamp_micros" not in element.params
        event = Event(
            name=element.name,
            params=element.params,
            sender=element.sender,
            stream="main",
            stamp=STAMP,
            event_id=element.event_id or "e",
            time_us=element.time_us,
            session=element.session,
            actor=element.actor,
        )
        assert serializer.loads(serializer.dumps(event)) == event
        assert event.sender.key
        jsontext.dumps(event.sender.body)


@given(payload=st.binary(max_size=300), shape=st.sampled_from(Shape))
@example(payload=b"[" * 1_000_000, shape=Shape.ANY)
@example(payload=b'{"a":' * 200_000, shape=Shape.BODY)
def test_arbitrary_bytes_parse_or_are_refused(payload, shape):
    survive(payload, shape)


@given(text=texts, shape=st.sampled_from(Shape))
def test_arbitrary_json_and_what_looks_like_it_parses_or_is_refused(text, shape):
    survive(text.encode(), shape)


@given(pairs=st.lists(st.tuples(keys, texts), max_size=8), shape=st.sampled_from(Shape))
def test_an_event_with_anything_in_its_keys_parses_or_is_refused(pairs, shape):
    inside = ",".join(['"name":"tap"', *(f"{key}:{value}" for key, value in pairs)])
    survive(b"{%s}" % inside.encode(), shape)
    survive(b'{"events":[{%s}]}' % inside.encode(), shape)


@given(params=texts)
def test_an_event_with_any_params_parses_or_is_refused(params):
    survive(b'{"name":"tap","params":%s}' % params.encode(), Shape.ANY)
    survive(b'{"events":[{"name":"tap","params":{"x":%s}}]}' % params.encode(), Shape.BODY)


@pytest.mark.parametrize("depth", range(20, 40))
def test_at_every_depth_what_is_taken_can_be_stored(depth):
    """The depth that the door lets in, the queue's reader lets in too."""
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    survive(b'{"name":"tap","params":%s}' % nested, Shape.ANY)
    survive(b'{"client_id":"1.1","user_data":%s,"events":[{"name":"tap"}]}' % nested, Shape.BODY)


def test_of_a_key_that_stands_twice_the_last_one_counts():
    draft = parse(b'{"name":"a","name":"b"}', Shape.ANY).elements[0]
    assert draft.name == "b"


@pytest.mark.parametrize(
    ("typo", "meant"), [("prams", "params"), ("sesion", "session"), ("actr", "actor")]
)
def test_a_key_that_looks_misspelt_is_refused_with_the_one_that_was_meant(typo, meant):
    """Left out, the event would silently be another one."""
    why = str(refusal({"name": "tap", typo: {}}))
    assert f"unknown key '{typo}'" in why
    assert f"did you mean {meant}?" in why
