"""What repair does to an event: each kind by name, and what it leaves for whoever sent it."""

import json
from bisect import bisect_left

import pytest

from agent.event import Event, Sender, Stamp
from agent.ga4.policy import Policy
from agent.ga4.repair import repair
from agent.ga4.rules.limits import HOUR_US
from agent.ga4.validate import validate_event
from agent.ga4.violation import Rule
from tests.ga4.verdicts import HEX, ITEM, NOW_US, PURCHASE, SHA

STAMP = Stamp(wall_us=NOW_US, boot_us=1, boot_id="boot", trusted=True)
WEB = Sender(client_id="1.2")


def event(name="tap", /, *, sender=WEB, time_us=None, stamp=STAMP, **params):
    return Event(
        name=name, stream="main", sender=sender, stamp=stamp, event_id="e", params=params,
        time_us=time_us,
    )  # fmt: skip


def mended(given, /, *, stream="web", added=(), reserved=(), **settings):
    policy = Policy(**settings)
    found = repair(
        given, stream=stream, now_us=NOW_US, policy=policy, added=added, reserved=reserved
    )
    assert found.left == ()
    rest = validate_event(found.event, stream=stream, now_us=NOW_US, policy=policy)
    assert {violation.rule for violation in rest} <= {Rule.TIME_PAST, Rule.TIME_FUTURE}
    return found


def params_of(**params):
    """What becomes of the params of a custom event, and what was counted."""
    found = mended(event(**params))
    return dict(found.event.params), dict(found.kinds)


def sender_of(**fields):
    found = mended(event(sender=Sender(**{"client_id": "1.2"} | fields)))
    return found.event.sender, dict(found.kinds)


def left_of(given, **how):
    """Path and rule of what is left; nothing is changed then."""
    found = repair(given, **{"stream": "web", "now_us": NOW_US, "policy": Policy()} | how)
    assert not found.left or (found.event is given and found.kinds == {} and not found.kept)
    return [(violation.field_path, violation.rule) for violation in found.left]


# -- what is right ----------------------------------------------------------------------------


def test_a_valid_event_comes_back_as_it_is():
    given = event("purchase", **PURCHASE)
    found = mended(given, reserved=("session_id",))
    assert found.event is given
    assert (found.kinds, found.kept) == ({}, {"session_id"})


@pytest.mark.parametrize("wall_us", [0, 300_000_000, NOW_US - 100 * HOUR_US, NOW_US + HOUR_US])
def test_the_stamp_is_not_judged(wall_us):
    """300 seconds after 1970 look like a time in seconds: that is the clock's, not an error."""
    given = event(stamp=Stamp(wall_us=wall_us, boot_us=1, boot_id="b", trusted=False))
    found = repair(given, stream="web", now_us=NOW_US, policy=Policy())
    assert (found.event is given, found.left, found.kinds) == (True, (), {})


@pytest.mark.parametrize("time_us", [NOW_US - 100 * HOUR_US, NOW_US + 100 * HOUR_US, 5, -1])
def test_too_old_and_too_early_is_for_delivery(time_us):
    given = event(time_us=time_us)
    assert mended(given).event is given


# -- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "most"),
    [("p", 100), ("page_title", 300), ("page_referrer", 420), ("page_location", 1000)],
)
def test_a_free_text_is_cut_at_its_own_limit(name, most):
    assert params_of(**{name: "x" * most}) == ({name: "x" * most}, {})
    assert params_of(**{name: "x" * (most + 1)}) == ({name: "x" * most}, {"text_cut": 1})


def test_a_property_with_ga_360_cuts_at_500():
    found = mended(event(p="x" * 501), ga360=True)
    assert found.event.params == {"p": "x" * 500}


def test_a_described_text_is_cut_too():
    found = mended(event("search", search_term="t" * 200))
    assert found.event.params == {"search_term": "t" * 100}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * 99 + "e\u0301yz", "x" * 99),  # an accent of its own
        ("x" * 98 + "e\u0301yz", "x" * 98 + "e\u0301"),
        ("x" * 99 + "\U0001f44d\U0001f3fd", "x" * 99),  # a thumb and its colour
        ("x" * 98 + "\U0001f468\u200d\U0001f469\u200d\U0001f467", "x" * 98),  # a family
        ("x" * 99 + "\u2764\ufe0f!", "x" * 99),  # a heart and how it is drawn
        ("x" * 99 + "\U0001f600\U0001f600", "x" * 99 + "\U0001f600"),
        ("x" + "\u0301" * 200, "x" + "\u0301" * 99),  # no writing has such a character
        ("\u0301" * 200, "\u0301" * 100),
    ],
)
def test_a_text_is_cut_between_whole_characters(text, kept):
    assert params_of(p=text)[0]["p"] == kept


def test_where_the_policy_counts_as_url_encoded_so_does_the_cut():
    found = mended(event(p="ü" * 17, q="ü" * 16 + "abcde"), counting="url_encoded")
    assert found.event.params == {"p": "ü" * 16, "q": "ü" * 16 + "abcd"}
    assert found.kinds == {"text_cut": 2}


def test_half_surrogate_pairs_go():
    assert params_of(p="a\ud83db") == ({"p": "ab"}, {"text_cut": 1})
    found = params_of(p="a\ud83d" * 101)
    assert found == ({"p": "a" * 100}, {"text_cut": 1})


# -- identifiers ------------------------------------------------------------------------------

IDENTIFIERS = (
    "transaction_id", "item_id", "coupon", "promotion_id", "site_id", "id", "ID", "orderId",
    "ORDER_ID", "order_ids", "location_id",
)  # fmt: skip


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_an_identifier_is_never_cut(name):
    assert params_of(**{name: "x" * 100})[1] == {}
    assert params_of(**{name: "x" * 101, "p": 1}) == ({"p": 1}, {"identifier_dropped": 1})
    assert params_of(**{name: "\ud800"}) == ({}, {"identifier_dropped": 1})


@pytest.mark.parametrize("name", ["paid", "android", "idea", "grid", "coupons_used", "video"])
def test_what_only_looks_like_one_is_cut(name):
    assert params_of(**{name: "x" * 101}) == ({name: "x" * 100}, {"text_cut": 1})


def test_a_required_identifier_that_cannot_stay_is_why_the_event_is_refused():
    wrong = event("purchase", **PURCHASE | {"transaction_id": "T" * 101})
    [found] = repair(wrong, stream="web", now_us=NOW_US, policy=Policy()).left
    assert (found.field_path, found.rule) == ("events[0].params.transaction_id", Rule.TEXT_LENGTH)
    assert left_of(event("unlock_achievement", achievement_id="a" * 101))
    assert left_of(event("refund", transaction_id="", items=[ITEM])) == [
        ("events[0].params.transaction_id", Rule.EMPTY)
    ]


def test_a_currency_that_is_none_goes_unless_an_amount_needs_it():
    assert params_of(currency="euro") == ({}, {"identifier_dropped": 1})
    assert left_of(event("purchase", **PURCHASE | {"currency": "eur"})) == [
        ("events[0].params.currency", Rule.CURRENCY)
    ]
    found = mended(event("view_item", currency=None, items=[ITEM | {"currency": "euro"}]))
    assert found.event.params == {"items": [ITEM]}
    assert found.kinds == {"identifier_dropped": 1, "item_param_dropped": 1}


# -- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [1],
        {},
        {"a": {"b": 1}},
        float("nan"),
        float("inf"),
        2**63,
        -(10**400),
        pytest.param(10**5000, id="huge"),
    ],
)
def test_what_ga4_ignores_goes(value):
    assert params_of(p=value, q=1) == ({"q": 1}, {"param_dropped": 1})


@pytest.mark.parametrize(
    "name", ["_p", "ga_p", "google_p", "firebase_conversion", "gtag.p", "1p", "p-p", "", "p" * 41]
)
def test_a_param_whose_name_ga4_does_not_take_goes(name):
    assert params_of(**{name: "x" * 101, "q": 1}) == ({"q": 1}, {"param_dropped": 1})


@pytest.mark.parametrize("value", ["visit-7", 0, -1, 1.5, True, "", "GS2.1.x"])
def test_a_session_id_that_opens_no_session_goes(value):
    assert params_of(session_id=value, q=1) == ({"q": 1}, {"identifier_dropped": 1})


@pytest.mark.parametrize("value", [-1, "soon", "", True, None, "1e999"])
def test_an_engagement_that_is_none_goes(value):
    assert params_of(engagement_time_msec=value) == ({}, {"param_dropped": 1})


@pytest.mark.parametrize(
    ("value", "text"), [(123, "123"), (0, "0"), (-7, "-7"), (12.0, "12"), (10**30, "1" + "0" * 30)]
)
def test_a_number_in_the_place_of_an_id_becomes_its_text(value, text):
    found = mended(event("purchase", **PURCHASE | {"transaction_id": value}))
    assert found.event.params["transaction_id"] == text
    assert found.kinds == {"converted": 1}


@pytest.mark.parametrize(
    "value", [1.1, 1e20, float("nan"), 2.0**60, True, 10**39, pytest.param(10**5000, id="huge"), []]
)
def test_what_may_have_lost_a_digit_is_no_id(value):
    assert left_of(event("purchase", **PURCHASE | {"transaction_id": value}))
    found = mended(event("purchase", **PURCHASE | {"coupon": value}))
    assert "coupon" not in found.event.params
    assert found.kinds == {"identifier_dropped": 1}


@pytest.mark.parametrize(("value", "text"), [(1.5, "1.5"), (7.0, "7"), (1e300, "1e+300")])
def test_a_number_in_the_place_of_a_free_text_becomes_its_text(value, text):
    assert mended(event("search", search_term=value)).event.params == {"search_term": text}


def test_a_text_that_spells_a_number_becomes_it_where_the_policy_wants_numbers():
    given = event("purchase", **PURCHASE | {"value": "9.50", "tax": "2"})
    assert mended(given).event is given
    found = mended(given, numeric_texts=False)
    assert (found.event.params["value"], found.event.params["tax"]) == (9.5, 2)
    assert isinstance(found.event.params["tax"], int)
    assert found.kinds == {"converted": 2}


@pytest.mark.parametrize("value", ["$19", "9,50", True, [], float("nan"), "x"])
def test_a_sale_without_its_amount_would_be_another_sale(value):
    found = [at for at, _ in left_of(event("purchase", **PURCHASE | {"value": value}))]
    assert "events[0].params.value" in found
    for order in ({"currency": "EUR", "value": value}, {"value": value, "currency": "EUR"}):
        assert left_of(event(**order)), "a value beside a currency is money on any event"


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_amount_that_says_nothing_goes(nothing):
    found = mended(event("purchase", **PURCHASE | {"value": nothing}))
    assert found.event.params == {k: v for k, v in PURCHASE.items() if k != "value"}


def test_other_numbers_that_are_none_go():
    found = mended(event("purchase", **PURCHASE | {"tax": "much", "shipping": "$3"}))
    assert (found.event.params, found.kinds) == (PURCHASE, {"param_dropped": 2})
    assert left_of(event("post_score", score="high"))


# -- room -------------------------------------------------------------------------------------


def many(number, **params):
    return {**params, **{f"p{i}": i for i in range(number)}}


def test_over_25_what_the_agent_added_gives_way_first_in_the_order_given():
    given = event(site="S", machine="M", **many(24))
    found = mended(given, added=("machine", "site"))
    assert list(found.event.params) == ["site", *many(24)]
    assert found.kinds == {"agent_param_dropped": 1}


def test_then_what_it_is_going_to_add_engagement_before_the_session():
    later = ("session_id", "engagement_time_msec")
    assert mended(event(**many(23)), reserved=later).kept == {*later}
    for reserved in (later, later[::-1]):
        found = mended(event(site="S", **many(24)), added=("site",), reserved=reserved)
        assert found.kept == {"session_id"}
        assert found.event.params == many(24)
        assert found.kinds == {"agent_param_dropped": 2}
    given = event(**many(25))
    found = mended(given, reserved=(*later, "event_id"))
    assert (found.kept, found.kinds) == (frozenset(), {"agent_param_dropped": 3})
    assert found.event is given


def test_the_event_id_gives_way_before_all_that_the_configuration_adds():
    given = event(site="S", event_id="e", **many(24))
    found = mended(given, added=("site", "event_id"))
    assert (found.event.params, found.kinds) == (
        {"site": "S", **many(24)},
        {"agent_param_dropped": 1},
    )


def test_then_the_publishers_own_last_ones_identifiers_after_the_others():
    found = mended(event(**many(27)), reserved=("session_id",))
    assert found.event.params == many(25)
    assert found.kinds == {"agent_param_dropped": 1, "param_dropped": 2}
    found = mended(event(**many(24), a_id="a", b_id="b", c=1))
    assert found.event.params == {**many(23), "a_id": "a", "b_id": "b"}


def test_the_traffic_type_that_the_agent_added_never_gives_way():
    given = event(**many(26), traffic_type="internal")
    found = mended(given, added=("traffic_type",), reserved=("session_id",))
    assert found.event.params == {**many(24), "traffic_type": "internal"}
    assert found.kinds == {"agent_param_dropped": 1, "param_dropped": 2}


def test_what_the_event_hangs_on_goes_last_wherever_it_stands():
    given = event("purchase", session_id=5, **many(25), **PURCHASE)
    found = mended(given)
    assert found.event.params == {"session_id": 5, **many(20), **PURCHASE}
    added = ("transaction_id", "items", "currency", "value")
    assert mended(given, added=added).event.params == found.event.params


def test_the_publishers_own_session_goes_after_its_other_params():
    found = mended(event(**many(25), engagement_time_msec=1, session_id=5))
    assert found.event.params == {**many(23), "engagement_time_msec": 1, "session_id": 5}


def test_what_is_wrong_goes_before_what_is_too_many():
    found = mended(event(site="S", **many(24), bad=None), added=("site",))
    assert (found.event.params, found.kinds) == (
        {"site": "S", **many(24)},
        {"param_dropped": 1},
    )


def test_repairing_what_was_repaired_counts_nothing():
    first = mended(event(site="S", **many(30)), added=("site",), reserved=("session_id",))
    second = mended(first.event, added=("site",), reserved=tuple(first.kept))
    assert (second.event is first.event, second.kinds) == (True, {})


# -- items ------------------------------------------------------------------------------------


def items_of(*items, name="view_item", **how):
    found = mended(event(name, items=list(items)), **how)
    return found.event.params["items"], dict(found.kinds)


def test_params_of_items_are_mended_like_params():
    item = {
        "item_id": 7, "item_name": "n" * 101, "coupon": "c" * 101, "price": "$19", "_a": 1,
        "size": None, "google_business_vertical": "retail", "index": "2",
    }  # fmt: skip
    assert items_of(item) == (
        [{"item_id": "7", "item_name": "n" * 100, "google_business_vertical": "retail",
          "index": "2"}],
        {"converted": 1, "text_cut": 1, "item_param_dropped": 4},
    )  # fmt: skip


def test_an_item_that_nothing_names_goes_and_the_others_stay():
    wrong = [{"item_id": "i" * 101}, {"price": 1}, {}, "item", None, {"item_name": ""}]
    items, kinds = items_of(wrong[0], ITEM, *wrong[1:], {"item_name": "N"})
    assert items == [ITEM, {"item_name": "N"}]
    assert kinds == {"item_param_dropped": 1, "item_dropped": 6}
    assert items_of({"item_id": "i" * 101, "item_name": "N"})[0] == [{"item_name": "N"}]


def test_where_items_are_required_there_must_be_one_left():
    assert left_of(event("purchase", **PURCHASE | {"items": [{"price": None, "item_id": []}]})) == [
        ("events[0].params.items[0].item_id", Rule.KIND)
    ]
    assert left_of(event("purchase", **PURCHASE | {"items": "SKU"})) == [
        ("events[0].params.items", Rule.KIND)
    ]
    found = mended(event("select_promotion", items=[{}]))
    assert found.event.params == {"items": []}


def test_200_items_with_27_params_of_their_own():
    item = ITEM | {"price": 1} | many(28)
    items, kinds = items_of(*[item] * 201)
    assert items == [ITEM | {"price": 1} | many(27)] * 200
    assert kinds == {"item_dropped": 1, "item_param_dropped": 200}
    assert items_of(ITEM | many(11), item_custom_params=10)[0] == [ITEM | many(10)]


# -- times ------------------------------------------------------------------------------------

SECONDS = NOW_US // 10**6 - 60


@pytest.mark.parametrize("time", [SECONDS, SECONDS * 1000, SECONDS * 10**9])
def test_a_time_in_another_unit_is_converted(time):
    found = mended(event(time_us=time))
    assert (found.event.time_us, found.kinds) == (SECONDS * 10**6, {"time_unit": 1})
    found = params_of(timestamp_micros=time)
    assert found == ({"timestamp_micros": SECONDS * 10**6}, {"time_unit": 1})
    value = {"value": 1, "timestamp_micros": time}
    sender, kinds = sender_of(user_properties={"u": value})
    assert sender.user_properties["u"]["timestamp_micros"] == SECONDS * 10**6
    assert kinds == {"time_unit": 1}


def test_a_converted_time_may_still_be_too_old():
    found = mended(event(time_us=1_600_000_000))
    assert found.event.time_us == 1_600_000_000_000_000


@pytest.mark.parametrize(
    ("time", "micros"),
    [
        (NOW_US - 0.5, NOW_US - 1),
        (str(SECONDS), SECONDS * 10**6),
        (1_700_000_000.123456, 1_700_000_000_123_456),
    ],
)
def test_a_time_in_another_notation_is_converted(time, micros):
    assert params_of(timestamp_micros=time)[0] == {"timestamp_micros": micros}


@pytest.mark.parametrize("time", ["yesterday", None, [], float("nan"), True, "9" * 400])
def test_a_time_that_is_none_goes(time):
    assert params_of(timestamp_micros=time) == ({}, {"param_dropped": 1})
    sender, kinds = sender_of(user_properties={"u": {"value": 1, "timestamp_micros": time}})
    assert time is None or (sender.user_properties, kinds) == (
        {"u": {"value": 1}},
        {"key_dropped": 1},
    )


def test_a_time_among_the_params_is_moved_where_the_policy_wants_it_elsewhere():
    found = mended(event(timestamp_micros=SECONDS), time_in_params=False)
    assert (found.event.params, found.event.time_us) == ({}, SECONDS * 10**6)
    assert found.kinds == {"time_moved": 1}
    found = mended(event(timestamp_micros=SECONDS, time_us=NOW_US), time_in_params=False)
    assert (found.event.params, found.event.time_us) == ({}, NOW_US)
    found = mended(event(timestamp_micros="then"), time_in_params=False)
    assert (found.event.time_us, found.kinds) == (None, {"param_dropped": 1})


# -- the sender -------------------------------------------------------------------------------


def test_user_properties():
    properties = {
        "long": {"value": "x" * 37}, "card_id": {"value": "x" * 37}, "_u": {"value": 1},
        "u" * 25: {"value": 1}, "user_id": {"value": "u"}, "bare": 1, "empty": {},
        "list": {"value": []}, "gone": {"value": None}, "more": {"value": 1, "set": 2},
    }  # fmt: skip
    sender, kinds = sender_of(user_properties=properties)
    assert sender.user_properties == {
        "long": {"value": "x" * 36}, "gone": {"value": None}, "more": {"value": 1},
    }  # fmt: skip
    assert kinds == {"text_cut": 1, "user_property_dropped": 7, "key_dropped": 1}


def test_25_user_properties():
    properties = {f"u{i}": {"value": i} for i in range(27)}
    sender, kinds = sender_of(user_properties=properties)
    assert list(sender.user_properties) == list(properties)[:25]
    assert kinds == {"user_property_dropped": 2}


@pytest.mark.parametrize("user_id", ["", "u" * 257, "\ud800", 1.5, True, []])
def test_a_user_id_that_ga4_does_not_take_goes(user_id):
    sender, kinds = sender_of(user_id=user_id)
    assert (sender.user_id, kinds) == (None, {"identifier_dropped": 1})


def test_ids_given_as_numbers_become_texts():
    sender, kinds = sender_of(user_id=17, client_id=123)
    assert (sender.user_id, sender.client_id, kinds) == ("17", "123", {"converted": 2})


@pytest.mark.parametrize(
    ("stream", "fields"),
    [
        ("web", {}),
        ("web", {"client_id": ""}),
        ("web", {"client_id": 1.5}),
        ("web", {"client_id": "\ud800"}),
        ("web", {"user_id": "u"}),
        ("app", {"client_id": "1.2"}),
        ("app", {"app_instance_id": ""}),
        ("app", {"app_instance_id": HEX[1:]}),
        ("app", {"app_instance_id": "g" * 32}),
        ("app", {"app_instance_id": 7}),
    ],
)
def test_whose_events_they_are_is_not_made_up(stream, fields):
    assert left_of(event(sender=Sender(**fields)), stream=stream)


def test_a_client_id_of_another_form_is_left_where_the_policy_wants_one():
    sender = Sender(client_id="device-7")
    assert left_of(event(sender=sender), policy=Policy(client_ids="recommended"))


def test_the_other_streams_id_goes_if_it_is_none():
    sender, kinds = sender_of(app_instance_id="\ud800")
    assert (sender.app_instance_id, kinds) == (None, {"identifier_dropped": 1})


DENIED = {"ad_user_data": "DENIED", "ad_personalization": "DENIED"}


@pytest.mark.parametrize(
    ("said", "kept", "kinds"),
    [
        ({"ad_user_data": "yes"}, {"ad_user_data": "DENIED"}, {"consent_denied": 1}),
        ({"ad_user_data": True}, {"ad_user_data": "DENIED"}, {"consent_denied": 1}),
        ({"ad_user_data": "granted"}, {"ad_user_data": "GRANTED"}, {"converted": 1}),
        ({"ad_user_data": "Denied"}, {"ad_user_data": "DENIED"}, {"converted": 1}),
        (["GRANTED"], DENIED, {"consent_denied": 1}),
        ({"ad_userdata": "DENIED"}, DENIED, {"consent_denied": 2, "key_dropped": 1}),
        ({"x": 1, "y": 1}, DENIED, {"consent_denied": 2, "key_dropped": 2}),
        (
            {"ad_user_data": "GRANTED", "ad_storage": "GRANTED", "ad_personalization": "DENIED"},
            {"ad_user_data": "GRANTED", "ad_personalization": "DENIED"},
            {"key_dropped": 1},
        ),
    ],
)
def test_a_consent_that_cannot_be_read_is_none(said, kept, kinds):
    sender, counted = sender_of(consent=said)
    assert (sender.consent, counted) == (kept, kinds)


@pytest.mark.parametrize(
    ("said", "kept", "kind"),
    [
        ("true", True, "converted"),
        ("False", False, "converted"),
        (1, True, "consent_denied"),
        ("no", True, "consent_denied"),
        (0, True, "consent_denied"),
    ],
)
def test_non_personalized_ads_that_cannot_be_read_are_true(said, kept, kind):
    sender, kinds = sender_of(rest={"non_personalized_ads": said})
    assert (sender.rest, kinds) == ({"non_personalized_ads": kept}, {kind: 1})


def test_parts_of_device_location_and_user_data():
    sender, kinds = sender_of(
        device={"category": 1, "screen_resolution": "big", "model": "M", "colour": "red"},
        location={"country_id": "lv", "city": "Riga"},
        rest={"user_data": {"sha256_email_address": [SHA, "a@b.de"], "sha256_phone_number": 7,
                            "address": [{"city": "Riga", "sha256_street": "Main"}, 3]}},
    )  # fmt: skip
    assert (sender.device, sender.location) == ({"model": "M"}, {"city": "Riga"})
    assert sender.rest == {
        "user_data": {"sha256_email_address": [SHA], "address": [{"city": "Riga"}]}
    }
    assert kinds == {
        "device_dropped": 2, "key_dropped": 1, "location_dropped": 1, "user_data_dropped": 4,
    }  # fmt: skip


def test_objects_that_are_none():
    sender, kinds = sender_of(
        device=[1], location="Riga", user_properties="x", rest={"user_data": 1}
    )
    assert sender == WEB
    assert kinds == {
        "device_dropped": 1, "location_dropped": 1, "user_data_dropped": 1,
        "user_property_dropped": 1,
    }  # fmt: skip


def test_user_data_that_ga4_would_ignore_for_want_of_a_user_id():
    given = event(sender=Sender(client_id="1.2", rest={"user_data": {"sha256_email_address": SHA}}))
    found = mended(given, user_data_needs_user_id=True)
    assert (found.event.sender, found.kinds) == (WEB, {"user_data_dropped": 1})


def test_other_keys():
    rest = {
        "ip_override": "here", "validation_behavior": "STRICT", "api_secret": "s", "user_agent": 7,
    }  # fmt: skip
    sender, kinds = sender_of(rest=rest)
    assert (sender, kinds) == (WEB, {"key_dropped": 4})
    agent = event(sender=Sender(app_instance_id=HEX, rest={"user_agent": "A"}))
    assert mended(agent, stream="app").event.sender == Sender(app_instance_id=HEX)


# -- what is left -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["session_start", "first_visit", "kiosk tap", "1tap", "", "t" * 41, "screen_view"]
)
def test_no_event_gets_another_name(name):
    assert [at for at, _ in left_of(event(name, p="x" * 101))] == ["events[0].name"]


def test_what_is_required_is_not_made_up():
    assert left_of(event("purchase")) == [
        ("events[0].params.items", Rule.MISSING),
        ("events[0].params.transaction_id", Rule.MISSING),
    ]
    assert left_of(event("generate_lead", value=3)) == [("events[0].params.currency", Rule.MISSING)]
    strict = Policy(value_and_currency="event_builder")
    assert left_of(event(currency="EUR"), policy=strict) == [
        ("events[0].params.value", Rule.MISSING)
    ]


def test_a_body_that_is_too_large_is_left_with_what_will_be_added():
    given = event("view_item", items=[ITEM | {"item_name": "n" * 100}] * 150)
    size = 150 * 143 + 200
    assert left_of(given, policy=Policy(body_limit=size)) == []
    least = bisect_left(
        range(size), True, key=lambda n: not left_of(given, policy=Policy(body_limit=n))
    )
    fits = Policy(body_limit=least)
    assert left_of(given, policy=fits) == []
    assert left_of(given, policy=fits, reserved=("session_id",)) == [("", Rule.BODY_SIZE)]


def test_an_event_that_is_too_large_only_for_its_texts_is_cut():
    assert params_of(p="x" * 10**7) == ({"p": "x" * 100}, {"text_cut": 1})


def test_what_nobody_can_mend_names_all_reasons_in_the_order_of_the_body():
    given = event("purchase", sender=Sender(), value="a lot", p="x" * 101)
    assert left_of(given) == [
        ("client_id", Rule.MISSING),
        ("events[0].params.value", Rule.NUMBER_EXPECTED),
        ("events[0].params.items", Rule.MISSING),
        ("events[0].params.transaction_id", Rule.MISSING),
        ("events[0].params.currency", Rule.MISSING),
    ]


def test_kinds_are_words_for_the_ledger():
    kinds = mended(event(p="x" * 101, q=None)).kinds
    assert json.loads(json.dumps(dict(kinds))) == {"text_cut": 1, "param_dropped": 1}
    assert all(type(kind) is str for kind in kinds)


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({f"p{n}": 1 for n in range(2501)}, "events[0].params"),
        ({"items": [{}] * 20_001}, "events[0].params.items"),
    ],
)
def test_what_is_a_hundred_times_too_much_is_refused_before_it_costs_a_minute(params, place):
    assert left_of(event("tap", **params)) == [(place, Rule.TOO_MANY)]


def test_a_hundred_times_too_many_user_properties_are_refused_too():
    properties = {f"u{n}": {"value": "x" * 40} for n in range(2501)}
    sender = Sender(client_id="1.2", user_properties=properties)
    assert left_of(event("tap", sender=sender)) == [("user_properties", Rule.TOO_MANY)]
