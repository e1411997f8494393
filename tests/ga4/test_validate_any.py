"""Any JSON gets a verdict, what is right is left alone, and one mistake is one violation."""

import json
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ga4.policy import Policy
from agent.ga4.rules import limits, names, recommended
from agent.ga4.validate import MOST, validate, violations
from agent.ga4.violation import Code, Rule, Violation
from tests.ga4.verdicts import NOW_US, body, complete, judged, tap

# -- any JSON gets a verdict ------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.integers().map(lambda power: 10 ** (power % 6000))
    | st.sampled_from(["", "EUR", "tap", "1.2", "\ud800", "x" * 5000])
)  # fmt: skip
KEYS = st.text(max_size=5) | st.sampled_from(
    [
        "client_id", "app_instance_id", "events", "name", "params", "items", "timestamp_micros",
        "user_properties", "value", "currency", "session_id", "engagement_time_msec", "consent",
        "ad_user_data", "device", "screen_resolution", "user_location", "country_id", "user_data",
        "address", "sha256_email_address", "item_id", "price", "ip_override", "user_agent",
        "non_personalized_ads", "validation_behavior", "user_id", "\udfff",
    ]
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6)
)


@given(JSON, st.sampled_from(["web", "app"]), st.integers(0, 2**60))
@settings(max_examples=300, deadline=None)
def test_any_json_gets_a_verdict_that_can_be_written(document, stream, now_us):
    found = validate(document, stream=stream, now_us=now_us)
    assert isinstance(document, dict) or found
    json.dumps([violation.document() for violation in found]).encode()


@given(
    st.fixed_dictionaries(
        {"client_id": SCALARS},
        optional={
            "events": st.lists(st.fixed_dictionaries({"name": SCALARS, "params": JSON}), max_size=3),
            "user_properties": st.dictionaries(KEYS, JSON, max_size=3),
            "user_data": JSON, "device": JSON, "timestamp_micros": SCALARS, "consent": JSON,
        },
    )
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_wrong_kinds_at_every_place_get_a_verdict(document):
    for policy in (Policy(), WILLFUL):
        found = validate(document, stream="web", now_us=NOW_US, policy=policy)
        json.dumps([violation.document() for violation in found]).encode()


WILLFUL = Policy(
    ga360=True, item_custom_params=0, counting="url_encoded", numeric_texts=False,
    value_and_currency="event_builder", client_ids="recommended", session_ids="any",
    time_in_params=False, single_event=False, user_data_needs_user_id=True,
    reserved_events=frozenset(("tap",)), event_prefixes=("x",),
)  # fmt: skip


def nested(depth):
    value: Any = 1
    for _ in range(depth):
        value = {"params": [value]}
    return value


@pytest.mark.parametrize("depth", [40, 100_000])
def test_deep_nesting_gets_a_verdict(depth):
    for document in (nested(depth), body(tap(p=nested(depth))), body(tap(items=[nested(depth)]))):
        assert judged(document)


def test_long_texts_and_keys_are_judged_but_not_repeated():
    document = body({"name": "a" * 10**6, "params": {"k" * 10**6: "v" * 10**6}})
    found = judged(document)
    assert [v.rule for v in found] == [
        Rule.BODY_SIZE, Rule.NAME_LENGTH, Rule.NAME_LENGTH, Rule.TEXT_LENGTH,
    ]  # fmt: skip
    assert all(len(text) < 250 for v in found for text in v.document().values())


def test_a_body_made_of_mistakes_costs_no_memory():
    document = body({"name": "view_item", "params": {"items": [{}] * 300_000}})
    tracemalloc.start()
    try:
        found = validate(document, stream="web", now_us=NOW_US, size=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == MOST
    assert peak < 2_000_000
    every = violations(document, stream="web", now_us=NOW_US, size=1)
    assert sum(1 for _ in every) == 300_000 + 1


@pytest.mark.parametrize(
    "text", ["GS2.1." + "$s1" * 200_000 + "\n", "1" * 10**6 + "x", "GS1.1." + "1" * 10**6 + "\n"]
)
def test_no_text_takes_long(text):
    """A regular expression that backtracks would need hours for these: the test's time limit."""
    assert judged(body(tap(session_id=text), client_id=text, ip_override=text))


# -- what is right is left alone, and one mistake is one violation ----------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def named(longest):
    rest = st.text(LETTERS + "0123456789_", max_size=longest - 2)
    # The first letter keeps clear of the reserved words, which all start with a small one.
    return st.builds("{}{}".format, st.sampled_from("ABXYZ"), rest)


PLAIN_VALUES = (
    st.text(max_size=100) | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
TIMES = st.integers(NOW_US - limits.PAST_US, NOW_US)
ITEMS = st.lists(
    st.builds(
        lambda item, extra: item | extra,
        st.fixed_dictionaries(
            {"item_id": st.text(min_size=1, max_size=100)},
            optional={"price": st.floats(0, 1e6), "quantity": st.integers(1, 99),
                      "currency": st.sampled_from(["EUR", "USD"])},
        ),
        st.dictionaries(named(40), PLAIN_VALUES, max_size=5),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@st.composite
def events(draw):
    params = draw(st.dictionaries(named(40), PLAIN_VALUES, max_size=15))
    params |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "session_id": st.integers(1, 2**40) | st.integers(1, 2**40).map(str),
                "engagement_time_msec": st.integers(0, 10**6),
                "items": ITEMS,
                "page_location": st.text(max_size=1000),
            },
        )
    )
    name = draw(named(40) | st.sampled_from(sorted(recommended.RECOMMENDED)))
    if name in recommended.RECOMMENDED:
        params |= complete(name)
    event = {"name": name, "params": params}
    return event | draw(st.fixed_dictionaries({}, optional={"timestamp_micros": TIMES}))


PROPERTIES = st.dictionaries(
    named(24),
    st.fixed_dictionaries(
        {"value": st.text(max_size=36) | st.integers(0, 9**9)},
        optional={"timestamp_micros": TIMES},
    ),
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {
        "client_id": st.text(min_size=1, max_size=50),
        "app_instance_id": st.text("0123456789abcdefABCDEF", min_size=32, max_size=32),
        "events": st.lists(events(), min_size=1, max_size=4),
    },
    optional={
        "user_id": st.text(min_size=1, max_size=256),
        "timestamp_micros": TIMES,
        "user_properties": PROPERTIES,
        "consent": st.fixed_dictionaries({"ad_user_data": st.sampled_from(["GRANTED", "DENIED"])}),
        "user_location": st.just({"city": "Riga", "country_id": "LV"}),
        "device": st.just({"category": "desktop", "screen_resolution": "800x480"}),
    },
)


@given(BODIES)
@settings(max_examples=150, deadline=None)
def test_valid_bodies_have_no_violation(document):
    assert judged(document, stream="app") == ()
    for each in document["events"]:
        each["name"] = "tap" if each["name"] in names.APP_EVENTS else each["name"]
    assert judged(document, stream="web") == ()


@dataclass(frozen=True)
class Mistake:
    """A change to the first event of a body, and what it must lead to."""

    change: Any
    place: tuple[str | int, ...]
    rule: Rule
    code: Code


def mistake(place, value, rule, code=Code.VALUE_INVALID):
    def change(document):
        for step in place[:-1]:
            document = (
                document.setdefault(step, {}) if isinstance(document, dict) else document[step]
            )
        document[place[-1]] = value

    return Mistake(change, place, rule, code)


EVENT = ("events", 0)
PARAMS = (*EVENT, "params")
MISTAKES = [
    mistake((*EVENT, "name"), "session_start", Rule.NAME_RESERVED, Code.NAME_RESERVED),
    mistake((*EVENT, "name"), "kiosk tap", Rule.NAME_FORM, Code.NAME_INVALID),
    mistake((*EVENT, "timestamp_micros"), 1_700_000_000, Rule.TIME_UNIT),
    mistake((*EVENT, "priority"), "high", Rule.UNKNOWN_KEY),
    mistake((*PARAMS, "p"), None, Rule.KIND),
    mistake((*PARAMS, "p"), "x" * 101, Rule.TEXT_LENGTH, Code.VALUE_OUT_OF_BOUNDS),
    mistake((*PARAMS, "p" * 41), 1, Rule.NAME_LENGTH, Code.NAME_INVALID),
    mistake((*PARAMS, "ga_x"), 1, Rule.NAME_RESERVED, Code.NAME_RESERVED),
    mistake((*PARAMS, "session_id"), "visit-7", Rule.FORM),
    mistake((*PARAMS, "currency"), "euro", Rule.CURRENCY),
    mistake(("user_properties", "user_id"), {"value": 1}, Rule.NAME_RESERVED, Code.NAME_RESERVED),
    mistake(("user_properties", "U"), {"value": []}, Rule.KIND),
    mistake(("consent", "ad_personalization"), "yes", Rule.CHOICE),
    mistake(("user_id",), "u" * 257, Rule.TEXT_LENGTH, Code.VALUE_OUT_OF_BOUNDS),
    mistake(("ip_override",), "here", Rule.FORM),
]


@given(BODIES, st.sampled_from(MISTAKES))
@settings(max_examples=150, deadline=None)
def test_one_mistake_is_one_violation_at_its_place(document, wrong):
    custom = {"name": "Tap", "params": {}}  # whose params nobody describes
    document = json.loads(json.dumps(document)) | {"events": [custom, *document["events"]]}
    wrong.change(document)
    [violation] = judged(document, stream="app")
    assert violation.place[: len(wrong.place)] == wrong.place
    assert (violation.rule, violation.code) == (wrong.rule, wrong.code)
    assert isinstance(violation, Violation)
