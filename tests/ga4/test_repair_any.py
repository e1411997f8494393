"""Repair as algebra, over valid, damaged and hostile events: for each kind of stream and policy.

What is repaired validates; repair is idempotent; what is valid is not touched; no identifier is
cut; nothing is raised.
"""

import json
import tracemalloc
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.event import Event, Sender, Stamp
from agent.ga4.identifiers import is_identifier
from agent.ga4.policy import Policy
from agent.ga4.repair import Kind, repair
from agent.ga4.rules import limits, names, recommended
from agent.ga4.validate import validate_event
from agent.ga4.violation import Rule
from tests.ga4.verdicts import HEX, NOW_US, SHA, complete

POLICIES = (
    Policy(),
    Policy(ga360=True, item_custom_params=2, counting="url_encoded"),
    Policy(numeric_texts=False, time_in_params=False, client_ids="recommended"),
    Policy(
        value_and_currency="event_builder", session_ids="any", single_event=False,
        user_data_needs_user_id=True, reserved_events=frozenset(("tap",)), event_prefixes=("x",),
        body_limit=9000, past_us=limits.HOUR_US, future_us=0,
    ),
)  # fmt: skip
LATER = (Rule.TIME_PAST, Rule.TIME_FUTURE)
SESSION = ("session_id", "engagement_time_msec")
ADDED = ("event_id", "site", "machine", "currency")

# -- events -----------------------------------------------------------------------------------

TEXTS = (
    st.text(max_size=20)
    | st.sampled_from(
        ["", "EUR", "eur", "1.2", "9.99", "true", "granted", "\ud800", "a\udfffb", "e\u0301" * 80,
         "x" * 600, "ü" * 101, "🏳️‍🌈" * 30, "7" * 50, "1e999", "1700000000", "GS2.1.s5$x", HEX, SHA]
    )
)  # fmt: skip
SCALARS = (
    TEXTS | st.none() | st.booleans() | st.integers() | st.floats()
    | st.sampled_from([10**4000, -(2**63), 2**64, 10**12, 1.7e9, 1_700_000_000, NOW_US * 1000])
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "p", "q_id", "items", "item_id", "item_name", "price", "quantity", "currency", "value",
        "coupon", "transaction_id", "search_term", "score", "session_id", "engagement_time_msec",
        "timestamp_micros", "page_title", "page_location", "site", "machine", "event_id", "_p",
        "ga_p", "firebase_conversion", "n" * 41, "n-n", "", "\ud800", "google_business_vertical",
    ]
) | st.text("abAB12_", max_size=4)  # fmt: skip
NESTED = st.sampled_from(
    [[], {}, [1], {"a": 1}, [None], {"item_id": "x" * 101}, {"value": "x" * 50}]
)
ANY = SCALARS | NESTED
KEYS = st.sampled_from(
    [
        "ad_user_data", "ad_personalization", "ad_storage", "category", "screen_resolution",
        "country_id", "city", "value", "timestamp_micros", "address", "sha256_email_address",
        "sha256_street", "x",
    ]
)  # fmt: skip
ITEMS = st.lists(st.dictionaries(NAMES, ANY, max_size=4) | ANY, max_size=3)
OBJECTS = st.dictionaries(KEYS, ANY, max_size=4)
REST = st.dictionaries(
    st.sampled_from(
        ["user_data", "ip_override", "user_agent", "non_personalized_ads", "validation_behavior",
         "timestamp_micros", "unknown"]
    ),
    ANY | OBJECTS, max_size=3,
)  # fmt: skip
IDS = st.sampled_from(["1.2", "GA1.1.5.6", "uuid", "", "\ud800", 7, 1.5, None])
SENDERS = st.builds(
    Sender,
    client_id=IDS, app_instance_id=IDS | st.just(HEX), user_id=SCALARS,
    user_properties=st.dictionaries(NAMES, ANY | OBJECTS, max_size=4), consent=OBJECTS,
    device=OBJECTS, location=OBJECTS, rest=REST,
)  # fmt: skip
GOOD_SENDERS = st.just(Sender(client_id="1.2", app_instance_id=HEX))
FILL = st.integers(0, 30).map(lambda number: {f"p{i}": i for i in range(number)})
EVENT_NAMES = st.sampled_from(
    ["tap", "Tap", "xtap", *sorted(recommended.RECOMMENDED), "session_start", "in_app_purchase", ""]
)
STAMPS = st.sampled_from([0, 300_000_000, NOW_US, NOW_US - 10**12, NOW_US + 10**12]).map(
    lambda wall_us: Stamp(wall_us=wall_us, boot_us=1, boot_id="b", trusted=False)
)


@st.composite
def events(draw):
    """From valid ones to nonsense: mostly an event that one or two things are wrong with."""
    name = draw(EVENT_NAMES)
    params = complete(name) if name in recommended.RECOMMENDED and draw(st.booleans()) else {}
    damage = draw(st.dictionaries(NAMES, ANY | ITEMS, max_size=5))
    params = [*damage.items(), *params.items(), *draw(FILL).items()]
    return Event(
        name=name, stream="main", event_id="e", stamp=draw(STAMPS),
        sender=draw(GOOD_SENDERS | SENDERS), params=dict(params[::draw(st.sampled_from([1, -1]))]),
        time_us=draw(st.none() | st.integers(-5, 10**20) | st.just(NOW_US)),
    )  # fmt: skip


HOW = st.fixed_dictionaries(
    {
        "stream": st.sampled_from(["web", "app"]),
        "policy": st.sampled_from(POLICIES),
        "added": st.lists(st.sampled_from(ADDED), unique=True),
        "reserved": st.sampled_from([(), SESSION, SESSION[::-1], SESSION[:1]]),
        "now_us": st.sampled_from([NOW_US, 0, 10**10]),
    }
)


def broken(event, how):
    found = validate_event(
        event, stream=how["stream"], now_us=how["now_us"], policy=how["policy"]
    )  # fmt: skip
    of_stamp = ("events", 0, "timestamp_micros")
    return [
        violation
        for violation in found
        if violation.rule not in LATER
        and not (event.time_us is None and violation.place == of_stamp)
    ]


def with_params(event, **more):
    return replace(event, params={**event.params, **more})


# -- what holds for each ----------------------------------------------------------------------


@given(events(), HOW)
@settings(max_examples=300, deadline=None)
def test_what_is_repaired_validates_also_with_what_may_be_added(event, how):
    found = repair(event, **how)
    if found.left:
        assert (found.event, found.kinds, found.kept) == (event, {}, frozenset())
        return
    assert broken(found.event, how) == []
    of_agent = {name: 1 for name in found.kept if name not in event.params}
    assert broken(with_params(found.event, **of_agent), how) == []
    assert found.kept <= set(how["reserved"])
    assert set(found.kinds) <= set(Kind)
    assert found.event is event or found.kinds


@given(events(), HOW)
@settings(max_examples=150, deadline=None)
def test_repair_is_idempotent(event, how):
    first = repair(event, **how)
    second = repair(first.event, **how | {"reserved": tuple(first.kept)})
    if first.left:
        assert repair(event, **how) == first
        return
    assert second.event is first.event
    assert (second.kinds, second.left, second.kept) == ({}, (), first.kept)


@given(events(), HOW)
@settings(max_examples=300, deadline=None)
def test_what_is_valid_is_not_touched(event, how):
    valid = not broken(with_params(event, **dict.fromkeys(how["reserved"], 9_999_999_999)), how)
    found = repair(event, **how)
    if valid and not any(name in event.params for name in how["reserved"]):
        assert found.event is event
        assert (found.kinds, found.left, found.kept) == ({}, (), set(how["reserved"]))
    if found.event is event and not found.left and not found.kinds:
        assert broken(event, how) == []


def identifiers(event):
    """Every value that names something, where it stands."""
    sender = event.sender
    yield from (sender.client_id, sender.app_instance_id, sender.user_id)
    yield from (value for name, value in event.params.items() if is_identifier(name))
    items = event.params.get("items")
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            yield from (value for name, value in item.items() if is_identifier(name))
    for name, said in sender.user_properties.items():
        if is_identifier(name) and isinstance(said, dict):
            yield said.get("value")


def spellings(value):
    """A value's own text; the test must not use the code that it tests."""
    if isinstance(value, float):
        return {str(int(value))} if abs(value) <= 2**53 and value == int(value) else set()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**100:
        return {str(value)}
    return set()


@given(events(), HOW)
@settings(max_examples=150, deadline=None)
def test_no_identifier_is_ever_cut(event, how):
    found = repair(event, **how)
    before = [None, *identifiers(event)]
    texts = {text for value in before for text in spellings(value)}
    for value in identifiers(found.event):
        assert value in before or value in texts


@given(events(), HOW)
@settings(max_examples=100, deadline=None)
def test_what_is_repaired_can_be_written(event, how):
    found = repair(event, **how)
    json.dumps([violation.document() for violation in found.left]).encode()
    if not found.left:
        json.dumps(dict(found.event.params), allow_nan=False, ensure_ascii=False).encode()


@given(events(), HOW)
@settings(max_examples=100, deadline=None)
def test_the_event_given_is_not_changed(event, how):
    before = repr(event)[:100_000]
    repair(event, **how)
    assert repr(event)[:100_000] == before


# -- hostile ones -----------------------------------------------------------------------------


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


def hostile(**params):
    return Event(
        name="view_item", stream="main", event_id="e", sender=Sender(client_id="1.2"),
        stamp=Stamp(wall_us=NOW_US, boot_us=1, boot_id="b", trusted=True), params=params,
    )  # fmt: skip


HOW_NOW = {"stream": "web", "now_us": NOW_US, "policy": Policy(), "reserved": SESSION}
ITEM = {"item_id": "A"}


def test_nothing_is_nested_too_deep():
    deep = nested(100_000)
    sender = Sender(
        client_id="1.2", device={"model": deep}, consent={"ad_user_data": deep},
        rest={"user_data": deep, "x": deep}, user_properties={"u": deep, "v": {"value": deep}},
    )  # fmt: skip
    event = replace(hostile(p=deep, items=[ITEM, deep, {"item_id": deep}]), sender=sender)
    found = repair(event, **HOW_NOW)
    assert not found.left
    assert found.event.params == {"items": [ITEM]}


def test_an_event_made_of_mistakes_costs_little():
    """Each round is one pass: with a pass for each mistake this would take hours."""
    params = {f"-{i}": "x" for i in range(2_000)}
    items = [ITEM, *[{}] * 10_000, {"item_name": "n" * 10**6}]
    tracemalloc.start()
    try:
        found = repair(hostile(items=items, **params), **HOW_NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.event.params == {"items": [ITEM, {"item_name": "n" * 100}]}
    assert found.kinds == {"param_dropped": 2_000, "item_dropped": 10_000, "text_cut": 1}
    assert peak < 15_000_000


def test_reserved_names_are_reserved():
    assert not set(SESSION) & names.RESERVED_PARAMS
