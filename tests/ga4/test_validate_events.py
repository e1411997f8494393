"""Events, params, items and times: each rule by name, at and beyond its limit."""

import pytest

from agent.ga4.rules import names, recommended
from agent.ga4.rules.limits import HOUR_US
from agent.ga4.validate import validate
from agent.ga4.violation import Code, Rule
from tests.ga4.verdicts import (
    ITEM,
    NOW_US,
    PURCHASE,
    body,
    complete,
    judged,
    of_params,
    rules,
    said,
    tap,
)

# -- events -----------------------------------------------------------------------------------


def test_1_to_25_events():
    assert said(body(*[tap()] * 25)) == []
    assert said(body(*[tap()] * 26)) == [("events", "EXCEEDED_MAX_ENTITIES", Rule.TOO_MANY)]
    assert said(body()) == [("events", "VALUE_REQUIRED", Rule.EMPTY)]
    assert said({"client_id": "1.2"}) == [("events", "VALUE_REQUIRED", Rule.MISSING)]
    assert said(body() | {"events": "tap"}) == [("events", "VALUE_INVALID", Rule.KIND)]
    assert said(body("tap", 3)) == [
        ("events[0]", "VALUE_INVALID", Rule.KIND),
        ("events[1]", "VALUE_INVALID", Rule.KIND),
    ]


def test_one_event_in_place_of_a_list_where_the_policy_takes_it():
    document = body() | {"events": tap(p=None)}
    assert said(document) == [("events.params.p", "VALUE_INVALID", Rule.KIND)]
    assert said(document, single_event=False) == [("events", "VALUE_INVALID", Rule.KIND)]


ONLY_IN_GA_PAGES = names.RESERVED_IN_GA_PAGES - names.RESERVED_EVENTS - names.APP_EVENTS


@pytest.mark.parametrize(
    ("name", "code", "rule"),
    [
        ("a" * 40, None, None),
        ("a" * 41, "NAME_INVALID", Rule.NAME_LENGTH),
        ("kioskTap", None, None),
        ("a_1", None, None),
        ("", "NAME_INVALID", Rule.NAME_FORM),
        ("1tap", "NAME_INVALID", Rule.NAME_FORM),
        ("_tap", "NAME_INVALID", Rule.NAME_FORM),
        ("kiosk-tap", "NAME_INVALID", Rule.NAME_FORM),
        ("kiosk tap", "NAME_INVALID", Rule.NAME_FORM),
        ("tap\n", "NAME_INVALID", Rule.NAME_FORM),
        ("täp", "NAME_INVALID", Rule.NAME_FORM),
        ("tap٣", "NAME_INVALID", Rule.NAME_FORM),
        (7, "NAME_INVALID", Rule.KIND),
        (None, "VALUE_REQUIRED", Rule.MISSING),
        ("Session_Start", None, None),
        ("google_tap", None, None),
        *((name, "NAME_RESERVED", Rule.NAME_RESERVED) for name in sorted(names.RESERVED_EVENTS)),
        *((name, None, None) for name in sorted(ONLY_IN_GA_PAGES)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", ["web", "app"])
def test_names_of_events(name, code, rule, stream):
    expected = [("events[0].name", code, rule)] if code else []
    assert said(body({"name": name}), stream=stream) == expected


def test_an_event_without_a_name():
    assert said(body({"params": {}})) == [("events[0].name", "VALUE_REQUIRED", Rule.MISSING)]


@pytest.mark.parametrize("name", sorted(names.APP_EVENTS))
def test_some_events_are_for_app_streams(name):
    document = body({"name": name})
    assert said(document, stream="app") == []
    assert said(document) == [("events[0].name", "NAME_RESERVED", Rule.APP_ONLY)]


def test_more_names_of_events_are_reserved_where_the_policy_says_so():
    reserved = names.RESERVED_IN_GA_PAGES
    assert rules(body({"name": "click"}), reserved_events=reserved) == [Rule.NAME_RESERVED]
    prefixes = ("ga_", "google_")
    assert said(body({"name": "google_x"}), event_prefixes=prefixes) == [
        ("events[0].name", "NAME_RESERVED", Rule.NAME_RESERVED)
    ]


def test_an_event_has_no_other_keys_but_those_that_are_taken_out():
    document = body({"name": "tap", "event_id": "e"})
    assert said(document) == [("events[0].event_id", "VALUE_INVALID", Rule.UNKNOWN_KEY)]
    assert said(document, own_keys=frozenset(("event_id",))) == []


# -- params -----------------------------------------------------------------------------------


def test_25_params():
    many = {f"p{i}": i for i in range(26)}
    assert of_params(params=dict(list(many.items())[:25])) == []
    assert of_params(params=many) == [("", "EXCEEDED_MAX_ENTITIES", Rule.TOO_MANY)]


def test_params_are_an_object_or_left_out():
    assert said(body({"name": "tap"}, {"name": "tap", "params": None})) == []
    assert of_params(params=[]) == [("", "VALUE_INVALID", Rule.KIND)]


@pytest.mark.parametrize(
    ("name", "code", "rule"),
    [
        ("p" * 40, None, None),
        ("p" * 41, "NAME_INVALID", Rule.NAME_LENGTH),
        ("P_1", None, None),
        ("1p", "NAME_INVALID", Rule.NAME_FORM),
        ("p-1", "NAME_INVALID", Rule.NAME_FORM),
        ("", "NAME_INVALID", Rule.NAME_FORM),
        ("gtag_x", None, None),
        ("Google_x", None, None),
        ("firebase_conversion", "NAME_RESERVED", Rule.NAME_RESERVED),
        *((f"{prefix}x", "NAME_RESERVED", Rule.NAME_RESERVED) for prefix in names.PARAM_PREFIXES),
    ],
)
def test_names_of_params_and_of_items_params(name, code, rule):
    expected = [(code, rule)] if code else []
    assert [found[1:] for found in of_params(params={name: 1})] == expected
    assert [found[1:] for found in of_params(params={"items": [ITEM | {name: 1}]})] == expected


def test_a_long_reserved_name_breaks_two_rules():
    found = of_params(params={"ga_" + "x" * 40: 1})
    assert [rule for _, _, rule in found] == [Rule.NAME_RESERVED, Rule.NAME_LENGTH]


@pytest.mark.parametrize(
    ("value", "code", "rule"),
    [
        ("x" * 100, None, None),
        ("€" * 100, None, None),
        ("x" * 101, "VALUE_OUT_OF_BOUNDS", Rule.TEXT_LENGTH),
        ("", None, None),
        (0, None, None),
        (-1.5e300, None, None),
        (2**63 - 1, None, None),
        (2**63, "VALUE_OUT_OF_BOUNDS", Rule.NUMBER_RANGE),
        pytest.param(-(10**5000), "VALUE_OUT_OF_BOUNDS", Rule.NUMBER_RANGE, id="5000-digits"),
        (True, None, None),
        (None, "VALUE_INVALID", Rule.KIND),
        ([1, 2], "VALUE_INVALID", Rule.KIND),
        ({}, "VALUE_INVALID", Rule.KIND),
    ],
)
def test_values_of_params_and_of_items_params(value, code, rule):
    expected = [("p", code, rule)] if code else []
    assert without_body(of_params(params={"p": value})) == expected
    of_item = [(f"items[0].{at}", *rest) for at, *rest in expected]
    assert without_body(of_params(params={"items": [ITEM | {"p": value}]})) == of_item


def without_body(found):
    """Python cannot write a whole number of 5,000 digits, which is said of the body beside."""
    return [one for one in found if one[2] is not Rule.UNWRITABLE]


@pytest.mark.parametrize(
    ("name", "standard", "ga360"),
    [("p", 100, 500), ("page_title", 300, 500), ("page_referrer", 420, 500),
     ("page_location", 1000, 1000), ("coupon", 100, 500)],
)  # fmt: skip
@pytest.mark.parametrize("stream", ["web", "app"])
def test_lengths_of_texts_in_standard_properties_and_in_ga_360(name, standard, ga360, stream):
    long = [(name, "VALUE_OUT_OF_BOUNDS", Rule.TEXT_LENGTH)]
    for longest, how in ((standard, {}), (ga360, {"ga360": True})):
        assert of_params(params={name: "x" * longest}, stream=stream, **how) == []
        assert of_params(params={name: "x" * (longest + 1)}, stream=stream, **how) == long


def test_lengths_can_be_counted_as_url_encoded():
    assert of_params(params={"p": "€" * 34}) == []
    assert of_params(params={"p": "€" * 11}, counting="url_encoded") == []
    found = of_params(params={"p": "€" * 12}, counting="url_encoded")
    assert found == [("p", "VALUE_OUT_OF_BOUNDS", Rule.TEXT_LENGTH)]


@pytest.mark.parametrize(
    "good",
    [
        1700000000, 1700000000.0, "1700000000", "GS1.1.1689053763.1.1.1689054101.0.0.0",
        "GS1.1.1690013078", "GS2.1.s1764888982$o50$g1$t1764890260$j59$l0$h681028196",
        "GS2.1.t1764890260$o50$g1$s1764888982$j59$l0$h" + "7" * 200,
    ],
)  # fmt: skip
def test_a_session_id_is_a_positive_number_or_the_sessions_cookie(good):
    assert of_params(params={"session_id": good}) == []


@pytest.mark.parametrize(
    "bad",
    ["", "0", 0, -5, 1.5, True, "17fba6ee-8673-4ebc-afd6-69e62124e017", "1.7e9", "GS2.1.o50$g1",
     "GS1.1", "GS3.1.1700000000", "GS2.1.s0$o1", 2**63],
)  # fmt: skip
def test_another_session_id_opens_no_session(bad):
    assert of_params(params={"session_id": bad}) == [("session_id", "VALUE_INVALID", Rule.FORM)]
    if bad != 2**63:
        assert of_params(params={"session_id": bad}, session_ids="any") == []


@pytest.mark.parametrize(
    ("value", "code", "rule"),
    [
        (1, None, None), (0, None, None), (1.5, None, None), ("100", None, None),
        (-1, "VALUE_OUT_OF_BOUNDS", Rule.NUMBER_RANGE),
        ("soon", "VALUE_INVALID", Rule.NUMBER_EXPECTED),
        (True, "VALUE_INVALID", Rule.NUMBER_EXPECTED),
        (None, "VALUE_INVALID", Rule.KIND),
    ],
)  # fmt: skip
def test_engagement_time(value, code, rule):
    expected = [("engagement_time_msec", code, rule)] if code else []
    assert of_params(params={"engagement_time_msec": value}) == expected


@pytest.mark.parametrize("value", [True, 1, False, "true"])
def test_debug_mode_is_no_mistake(value):
    assert of_params(params={"debug_mode": value}) == []


# -- recommended events -----------------------------------------------------------------------


@pytest.mark.parametrize("name", recommended.RECOMMENDED)
def test_a_recommended_event_with_all_that_it_needs(name):
    assert of_params(name, complete(name), stream="app") == []
    money = {"value": 1.5, "currency": "EUR"}
    assert of_params(name, complete(name) | money, stream="app") == []


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        (name, key)
        for name, what in recommended.RECOMMENDED.items()
        for key in sorted(what.required)
    ],
)
def test_a_recommended_event_without_what_it_needs(name, needed):
    params = complete(name)
    nothing = [] if needed == "items" else ""
    assert of_params(name, params | {needed: nothing})[-1] == (needed, "VALUE_REQUIRED", Rule.EMPTY)
    del params[needed]
    assert of_params(name, params) == [(needed, "VALUE_REQUIRED", Rule.MISSING)]
    if not params:
        assert of_params(name, None) == [(needed, "VALUE_REQUIRED", Rule.MISSING)]


@pytest.mark.parametrize("name", recommended.RECOMMENDED)
def test_a_value_needs_its_currency_where_the_reference_says_so(name):
    found = of_params(name, complete(name) | {"value": 2}, stream="app")
    lacking = [("currency", "VALUE_REQUIRED", Rule.MISSING)]
    assert found == (lacking if recommended.RECOMMENDED[name].money else [])


def test_a_value_of_another_event_needs_none_unless_the_policy_follows_the_event_builder():
    lacking = [("currency", "VALUE_REQUIRED", Rule.MISSING)]
    assert of_params(params={"value": 21.5}) == []
    assert of_params(params={"value": 21.5}, value_and_currency="event_builder") == lacking
    assert of_params(params={"currency": "EUR"}) == []
    assert of_params(params={"currency": "EUR"}, value_and_currency="event_builder") == [
        ("value", "VALUE_REQUIRED", Rule.MISSING)
    ]
    both = {"currency": "EUR", "value": 1}
    assert of_params(params=both, value_and_currency="event_builder") == []


@pytest.mark.parametrize(
    ("currency", "rule"),
    [("EUR", None), ("XAF", None), ("usd", Rule.CURRENCY), ("USDD", Rule.CURRENCY),
     ("ZZZ", Rule.CURRENCY), ("", Rule.CURRENCY), ("€", Rule.CURRENCY), (978, Rule.KIND),
     (None, Rule.KIND), ([], Rule.KIND)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["purchase", "kiosk_sale"])
def test_a_currency_is_one_of_iso_4217_on_any_event_and_item(name, currency, rule):
    expected = [("currency", "VALUE_INVALID", rule)] if rule else []
    assert of_params(name, PURCHASE | {"currency": currency}) == expected
    of_item = [("items[0].currency", *expected[0][1:])] if rule else []
    assert of_params(name, PURCHASE | {"items": [ITEM | {"currency": currency}]}) == of_item


@pytest.mark.parametrize(
    ("value", "rule"),
    [(9.99, None), ("9.99", None), ("-1e3", None), ("9,99", Rule.NUMBER_EXPECTED),
     ("", Rule.NUMBER_EXPECTED), ("NaN", Rule.NUMBER_EXPECTED), ("1e999", Rule.NUMBER_RANGE),
     (True, Rule.NUMBER_EXPECTED), ({}, Rule.KIND), (None, Rule.KIND)],
)  # fmt: skip
def test_a_value_with_a_currency_is_a_number(value, rule):
    for name in ("purchase", "kiosk_sale"):
        found = [(at, rule_) for at, _, rule_ in of_params(name, PURCHASE | {"value": value})]
        assert found == ([("value", rule)] if rule else [])


def test_a_text_is_no_number_where_the_policy_says_so():
    assert of_params("purchase", PURCHASE | {"value": "9.99"}, numeric_texts=False) == [
        ("value", "VALUE_INVALID", Rule.NUMBER_EXPECTED)
    ]


def test_what_a_custom_event_means_by_a_name_is_its_own_matter():
    assert of_params("door", {"value": "OPEN", "level": "high", "method": 3}) == []
    assert of_params("login", {"value": "OPEN", "score": "high"}) == []


@pytest.mark.parametrize(
    ("name", "param", "value"),
    [("purchase", "transaction_id", 12345), ("login", "method", True),
     ("search", "search_term", 5), ("share", "item_id", 7)],
)  # fmt: skip
def test_a_param_that_is_a_text_in_the_reference_is_no_number(name, param, value):
    found = of_params(name, complete(name) | {param: value})
    assert found == [(param, "VALUE_INVALID", Rule.TEXT_EXPECTED)]


# -- items ------------------------------------------------------------------------------------


def of_items(items, **how):
    return of_params("view_item", {"items": items}, **how)


def test_200_items():
    assert of_items([ITEM] * 200) == []
    assert of_items([ITEM] * 201) == [("items", "EXCEEDED_MAX_ENTITIES", Rule.TOO_MANY)]


def test_items_are_an_array_of_objects():
    assert of_items(ITEM) == [("items", "VALUE_INVALID", Rule.KIND)]
    assert of_items(["SKU_1", None]) == [
        ("items[0]", "VALUE_INVALID", Rule.KIND),
        ("items[1]", "VALUE_INVALID", Rule.KIND),
    ]
    assert of_params(params={"items": []}) == []


@pytest.mark.parametrize(
    "item", [{}, {"price": 1}, {"item_id": ""}, {"item_name": "", "item_id": ""}]
)
def test_an_item_has_an_id_or_a_name(item):
    assert of_items([{"item_name": "Tea"}, {"item_id": "", "item_name": "Tea"}, ITEM]) == []
    assert of_items([ITEM, item]) == [("items[1]", "VALUE_REQUIRED", Rule.MISSING)]


def test_params_of_its_own_that_an_item_may_have():
    def item(number):
        described = {"item_brand": "b", "quantity": 1, "google_business_vertical": "retail"}
        return ITEM | described | {f"c{i}": i for i in range(number)}

    assert of_items([item(27)]) == []
    many = [("items[0]", "EXCEEDED_MAX_ENTITIES", Rule.TOO_MANY)]
    assert of_items([item(28)]) == many
    assert of_items([item(10)], item_custom_params=10) == []
    assert of_items([item(11)], item_custom_params=10) == many


@pytest.mark.parametrize("key", sorted(recommended.ITEM_NUMBERS))
def test_numbers_of_an_item(key):
    at = f"items[0].{key}"
    for good in (1, 0.5, "19.99"):
        assert of_items([ITEM | {key: good}]) == []
    assert of_items([ITEM | {key: "$19"}]) == [(at, "INTERNAL_ERROR", Rule.NUMBER_EXPECTED)]
    assert of_items([ITEM | {key: True}]) == [(at, "VALUE_INVALID", Rule.NUMBER_EXPECTED)]
    assert of_items([ITEM | {key: None}]) == [(at, "VALUE_INVALID", Rule.KIND)]


@pytest.mark.parametrize("key", sorted(recommended.ITEM_TEXTS))
def test_texts_of_an_item(key):
    at = f"items[0].{key}"
    assert of_items([ITEM | {key: "x" * 100}]) == []
    assert of_items([ITEM | {key: "x" * 101}]) == [(at, "VALUE_OUT_OF_BOUNDS", Rule.TEXT_LENGTH)]
    assert of_items([ITEM | {key: "x" * 500}], ga360=True) == []
    assert of_items([ITEM | {key: 7}]) == [(at, "VALUE_INVALID", Rule.TEXT_EXPECTED)]


# -- times ------------------------------------------------------------------------------------


@pytest.fixture(params=["body", "event", "property", "params"])
def of_time(request):
    """What is said of a time at each of the places where one may stand."""

    def of(time, **how):
        document = {
            "body": body(tap(), timestamp_micros=time),
            "event": body({"name": "tap", "timestamp_micros": time}),
            "property": body(tap(), user_properties={"u": {"value": 1, "timestamp_micros": time}}),
            "params": body(tap(timestamp_micros=time)),
        }[request.param]
        found = judged(document, **how)
        assert all(v.place[-1:] == ("timestamp_micros",) for v in found if v.place)
        assert all(v.code is Code.VALUE_INVALID for v in found)
        return [v.rule for v in found if v.place]

    return of


@pytest.mark.parametrize(
    ("time", "rule"),
    [
        (NOW_US, None),
        (float(NOW_US), None),
        (NOW_US - 72 * HOUR_US, None),
        (NOW_US - 72 * HOUR_US - 1, Rule.TIME_PAST),
        (NOW_US + HOUR_US // 4, None),
        (NOW_US + HOUR_US // 4 + 1, Rule.TIME_FUTURE),
        (NOW_US + 365 * 24 * HOUR_US, Rule.TIME_FUTURE),
        (NOW_US - 365 * 24 * HOUR_US, Rule.TIME_PAST),
        (0, Rule.TIME_PAST),
        (-5, Rule.TIME_PAST),
        pytest.param(-(10**400), Rule.TIME_PAST, id="long-ago"),
        pytest.param(10**400, Rule.TIME_FUTURE, id="far-away"),
        (1e300, Rule.TIME_FUTURE),
        (NOW_US // 1_000_000, Rule.TIME_UNIT),
        (NOW_US / 1_000_000 + 0.25, Rule.TIME_UNIT),
        (NOW_US // 1_000, Rule.TIME_UNIT),
        (NOW_US * 1_000, Rule.TIME_UNIT),
        (NOW_US - 1.5, Rule.FORM),
        (str(NOW_US), None),
        ("1" * 21, Rule.KIND),
        ("2026-11-23T08:00:00Z", Rule.KIND),
        ("", Rule.KIND),
        (True, Rule.KIND),
        ([], Rule.KIND),
        (float("nan"), Rule.KIND),
        (float("inf"), Rule.KIND),
    ],
)
def test_times(of_time, time, rule):
    assert of_time(time) == ([rule] if rule else [])


@pytest.mark.parametrize(
    ("time", "unit"),
    [(1_700_000_000, "seconds"), (1_700_000_000_000, "milliseconds"),
     (1_700_000_000_000_000_000, "nanoseconds"), ("1700000000", "seconds")],
)  # fmt: skip
def test_a_time_in_another_unit_is_named(time, unit):
    [violation] = judged(body({"name": "tap", "timestamp_micros": time}))
    assert violation.description == f"found {unit} since 1970, expected microseconds"


def test_by_a_clock_in_1970_its_own_times_are_right():
    document = body({"name": "tap", "timestamp_micros": 59_000_000})
    assert validate(document, stream="web", now_us=60_000_000) == ()


def test_how_old_and_how_early_a_time_may_be_is_policy(of_time):
    assert of_time(NOW_US - HOUR_US, past_us=HOUR_US) == []
    assert of_time(NOW_US - HOUR_US - 1, past_us=HOUR_US) == [Rule.TIME_PAST]
    assert of_time(NOW_US + 1, future_us=0) == [Rule.TIME_FUTURE]


def test_a_text_is_no_time_and_params_no_place_for_one_where_the_policy_says_so():
    document = body(tap(timestamp_micros=NOW_US))
    assert rules(document, time_in_params=False) == [Rule.TIME_PLACE]
    document = body({"name": "tap", "timestamp_micros": str(NOW_US)})
    assert rules(document, numeric_texts=False) == [Rule.KIND]
