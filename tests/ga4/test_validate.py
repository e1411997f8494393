"""A body, its sender and how a verdict is told: each rule by name, at and beyond its limit."""

import json
from types import MappingProxyType

import pytest

from agent import jsontext
from agent.event import Event, Sender, Stamp
from agent.ga4.duplicates import duplicates
from agent.ga4.rules import names
from agent.ga4.rules.limits import HOUR_US
from agent.ga4.validate import validate, validate_event
from agent.ga4.violation import Code, Rule, path
from tests.ga4.verdicts import HEX, NOW_US, PURCHASE, SHA, body, judged, rules, said, tap

# -- the body ---------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [None, 3, "x", [], [body(tap())], True, 1.5])
def test_a_body_is_an_object(document):
    assert said(document) == [("", "VALUE_INVALID", Rule.KIND)]


def test_an_empty_body_lacks_the_id_and_the_events():
    assert said({}) == [
        ("client_id", "VALUE_REQUIRED", Rule.MISSING),
        ("events", "VALUE_REQUIRED", Rule.MISSING),
    ]
    assert said({}, stream="app")[0] == ("app_instance_id", "VALUE_REQUIRED", Rule.MISSING)


def test_a_body_is_smaller_than_the_limit_as_sent_or_as_the_agent_would_write_it():
    def sized(size):
        return validate(body(tap()), stream="web", now_us=NOW_US, size=size)

    assert sized(129_999) == ()
    [found] = sized(130_000)
    assert (found.place, found.rule, found.code) == ((), Rule.BODY_SIZE, Code.VALUE_OUT_OF_BOUNDS)
    whole = len(jsontext.dumps(body(tap())))
    assert said(body(tap()), body_limit=whole + 1) == []
    assert rules(body(tap()), body_limit=whole) == [Rule.BODY_SIZE]


@pytest.mark.parametrize("key", ["api_secret", "clientId", "", "x" * 1000])
def test_unknown_keys_are_named(key):
    [(at, code, rule)] = said(body(tap(), **{key: 1}))
    assert (code, rule) == ("VALUE_INVALID", Rule.UNKNOWN_KEY)
    assert key[:40] in at
    assert len(at) < 60


def test_null_at_the_top_is_not_said():
    keys = (
        "user_id", "user_properties", "timestamp_micros", "consent", "device", "user_location",
        "user_data", "ip_override", "user_agent", "non_personalized_ads", "validation_behavior",
    )  # fmt: skip
    assert said(body(tap()) | dict.fromkeys(keys)) == []
    assert rules(body() | {"events": None, "client_id": None}) == [Rule.MISSING, Rule.MISSING]


@pytest.mark.parametrize("key", ["validation_behavior", "validationBehavior"])
def test_validation_behavior(key):
    for good in ("RELAXED", "ENFORCE_RECOMMENDATIONS"):
        assert said(body(tap(), **{key: good})) == []
    for bad in ("STRICT", "relaxed", ""):
        assert said(body(tap(), **{key: bad})) == [(key, "VALUE_INVALID", Rule.CHOICE)]
    assert rules(body(tap(), **{key: 1})) == [Rule.KIND]


@pytest.mark.parametrize("value", ["true", 1, 0, [], {}])
def test_non_personalized_ads_is_true_or_false(value):
    assert said(body(tap(), non_personalized_ads=False)) == []
    assert said(body(tap(), non_personalized_ads=value)) == [
        ("non_personalized_ads", "VALUE_INVALID", Rule.KIND)
    ]


# -- whose events they are --------------------------------------------------------------------


@pytest.mark.parametrize(
    "client_id", ["1.2", "GA1.1.123.456", "GA1.4-2.123.456", "uuid-1234", "x" * 300]
)
def test_a_client_id_may_have_any_form(client_id):
    assert said(body(tap(), client_id=client_id)) == []


@pytest.mark.parametrize(
    ("client_id", "good"),
    [("1.2", True), ("GA1.4-2.123.456", True), ("1.2.3", False), ("uuid", False), (".2", False)],
)
def test_a_client_id_of_the_recommended_forms_where_the_policy_wants_it(client_id, good):
    found = said(body(tap(), client_id=client_id), client_ids="recommended")
    assert found == ([] if good else [("client_id", "VALUE_INVALID", Rule.FORM)])


@pytest.mark.parametrize(("stream", "key"), [("web", "client_id"), ("app", "app_instance_id")])
def test_each_kind_of_stream_needs_its_own_id(stream, key):
    without = {name: value for name, value in body(tap()).items() if name != key}
    required = [(key, "VALUE_REQUIRED", Rule.MISSING)]
    assert said(without, stream=stream) == required
    assert said(without | {"user_id": "u"}, stream=stream) == required
    assert said(body(tap()) | {key: ""}, stream=stream) == [(key, "VALUE_REQUIRED", Rule.EMPTY)]
    assert said(body(tap()) | {key: 7}, stream=stream) == [
        (key, "VALUE_INVALID", Rule.TEXT_EXPECTED)
    ]


@pytest.mark.parametrize("bad", [HEX[:31], HEX + "0", HEX[:31] + "g", HEX + "}"])
def test_an_app_instance_id_is_32_hex_digits(bad):
    assert said(body(tap(), app_instance_id=bad), stream="app") == [
        ("app_instance_id", "VALUE_INVALID", Rule.FORM)
    ]
    assert said(body(tap(), app_instance_id=bad), stream="web") == []


def test_a_user_id_has_1_to_256_characters():
    assert said(body(tap(), user_id="u" * 256)) == []
    assert said(body(tap(), user_id="u" * 257)) == [
        ("user_id", "VALUE_OUT_OF_BOUNDS", Rule.TEXT_LENGTH)
    ]
    assert said(body(tap(), user_id="")) == [("user_id", "VALUE_REQUIRED", Rule.EMPTY)]
    assert said(body(tap(), user_id=7)) == [("user_id", "VALUE_INVALID", Rule.TEXT_EXPECTED)]
    assert said(body(tap(), user_id="\ud800")) == [
        ("", "VALUE_INVALID", Rule.UNWRITABLE),
        ("user_id", "VALUE_INVALID", Rule.UNICODE),
    ]


# -- user properties --------------------------------------------------------------------------


def of_properties(properties, **how):
    return said(body(tap(), user_properties=properties), **how)


def test_25_user_properties_in_a_request():
    many = {f"u{i}": {"value": i} for i in range(26)}
    assert of_properties(dict(list(many.items())[:25])) == []
    assert of_properties(many) == [("user_properties", "EXCEEDED_MAX_ENTITIES", Rule.TOO_MANY)]


@pytest.mark.parametrize(
    ("name", "code", "rule"),
    [
        ("u" * 24, None, None),
        ("u" * 25, "NAME_INVALID", Rule.NAME_LENGTH),
        ("1u", "NAME_INVALID", Rule.NAME_FORM),
        ("u-1", "NAME_INVALID", Rule.NAME_FORM),
        ("ü", "NAME_INVALID", Rule.NAME_FORM),
        ("", "NAME_INVALID", Rule.NAME_FORM),
        ("gtag", None, None),
        *(
            (name, "NAME_RESERVED", Rule.NAME_RESERVED)
            for name in sorted(names.RESERVED_PROPERTIES)
        ),
        *((f"{p}x", "NAME_RESERVED", Rule.NAME_RESERVED) for p in names.PROPERTY_PREFIXES),
    ],
)
def test_names_of_user_properties(name, code, rule):
    found = of_properties({name: {"value": "x"}})
    assert [(c, r) for _, c, r in found] == ([(code, rule)] if code else [])


@pytest.mark.parametrize(
    ("value", "code", "rule"),
    [
        ("x" * 36, None, None),
        ("x" * 37, "VALUE_OUT_OF_BOUNDS", Rule.TEXT_LENGTH),
        (10**18, None, None),
        (2**63, "VALUE_OUT_OF_BOUNDS", Rule.NUMBER_RANGE),
        (-1.5, None, None),
        (True, None, None),
        (None, None, None),
        ([], "VALUE_INVALID", Rule.KIND),
        ({}, "VALUE_INVALID", Rule.KIND),
    ],
)
def test_values_of_user_properties(value, code, rule):
    expected = [("user_properties.u.value", code, rule)] if code else []
    assert of_properties({"u": {"value": value}}) == expected


def test_a_user_property_is_an_object_with_a_value_and_perhaps_a_time():
    at = "user_properties.u"
    assert of_properties({"u": {}}) == [(f"{at}.value", "VALUE_REQUIRED", Rule.MISSING)]
    assert of_properties({"u": "gold"}) == [(at, "VALUE_INVALID", Rule.KIND)]
    assert of_properties([]) == [("user_properties", "VALUE_INVALID", Rule.KIND)]
    assert of_properties({"u": {"value": 1, "x": 2}}) == [
        (f"{at}.x", "VALUE_INVALID", Rule.UNKNOWN_KEY)
    ]
    assert of_properties({"u": {"value": 1, "timestamp_micros": NOW_US}}) == []
    assert of_properties({"u": {"value": 1, "timestamp_micros": NOW_US - 73 * HOUR_US}}) == [
        (f"{at}.timestamp_micros", "VALUE_INVALID", Rule.TIME_PAST)
    ]


# -- consent, location, device, user data, addresses ------------------------------------------


@pytest.mark.parametrize(
    ("consent", "expected"),
    [
        ({"ad_user_data": "GRANTED", "ad_personalization": "DENIED"}, None),
        ({}, None),
        ({"ad_user_data": None}, None),
        ({"ad_user_data": "granted"}, ("consent.ad_user_data", Rule.CHOICE)),
        ({"ad_user_data": True}, ("consent.ad_user_data", Rule.KIND)),
        ({"ad_storage": "GRANTED"}, ("consent.ad_storage", Rule.UNKNOWN_KEY)),
        ("DENIED", ("consent", Rule.KIND)),
    ],
)
def test_consent(consent, expected):
    found = [(at, rule) for at, code, rule in said(body(tap(), consent=consent))]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("city", "Mountain View", 5),
        ("region_id", "US-CA", "CA"),
        ("region_id", "DE-BE", "DE-BERLIN"),
        ("country_id", "US", "USA"),
        ("country_id", "LV", "lv"),
        ("subcontinent_id", "021", 21),
        ("continent_id", "019", "19"),
    ],
)
def test_user_location(key, good, bad):
    assert said(body(tap(), user_location={key: good})) == []
    [(at, code, rule)] = said(body(tap(), user_location={key: bad}))
    assert (at, code) == (f"user_location.{key}", "VALUE_INVALID")
    assert rule in (Rule.FORM, Rule.KIND)


def test_user_location_and_device_have_no_other_keys():
    for key in ("user_location", "device"):
        assert said(body(tap(), **{key: {"planet": "Mars"}})) == [
            (f"{key}.planet", "VALUE_INVALID", Rule.UNKNOWN_KEY)
        ]
        assert said(body(tap(), **{key: "Mars"})) == [(key, "VALUE_INVALID", Rule.KIND)]
        assert said(body(tap(), **{key: {}})) == []


@pytest.mark.parametrize(
    ("device", "rule"),
    [
        (
            {
                "category": "kiosk", "language": "de-AT", "screen_resolution": "1920x1080",
                "operating_system": "Linux", "operating_system_version": "12", "model": "Pi 5",
                "brand": "Raspberry", "browser": "Chromium", "browser_version": "130.0",
            },
            None,
        ),
        ({"screen_resolution": "1920*1080"}, Rule.FORM),
        ({"operating_system_version": 12}, Rule.KIND),
    ],
)  # fmt: skip
def test_device(device, rule):
    assert rules(body(tap(), device=device)) == ([rule] if rule else [])


@pytest.mark.parametrize(
    ("user_data", "at", "rule"),
    [
        ({"sha256_email_address": [SHA, SHA.upper()]}, None, None),
        ({"sha256_phone_number": SHA}, None, None),
        ({"address": [{"sha256_first_name": SHA, "city": "riga", "country": "LV"}]}, None, None),
        ({"sha256_email_address": ["a@example.org"]}, "sha256_email_address[0]", Rule.FORM),
        ({"sha256_phone_number": [7]}, "sha256_phone_number[0]", Rule.KIND),
        ({"email": SHA}, "email", Rule.UNKNOWN_KEY),
        ({"address": [{"street": SHA}]}, "address[0].street", Rule.UNKNOWN_KEY),
        ({"address": [{"sha256_street": "Main St"}]}, "address[0].sha256_street", Rule.FORM),
        ({"address": ["Main St"]}, "address[0]", Rule.KIND),
    ],
)
def test_user_data_is_hashed(user_data, at, rule):
    expected = [(f"user_data.{at}", "VALUE_INVALID", rule)] if at else []
    assert said(body(tap(), user_data=user_data)) == expected


def test_user_data_without_a_user_id_is_taken_unless_the_policy_asks_for_it():
    document = body(tap(), user_data={"sha256_phone_number": [SHA]})
    assert said(document) == []
    assert said(document, user_data_needs_user_id=True) == [
        ("user_id", "VALUE_REQUIRED", Rule.MISSING)
    ]
    assert said(document | {"user_id": "u"}, user_data_needs_user_id=True) == []


@pytest.mark.parametrize(
    ("address", "good"),
    [("192.0.2.1", True), ("2001:db8::1", True), ("192.0.2.256", False), ("192.0.2", False),
     ("localhost", False), ("", False), (3232235521, False), ("fe80::1%eth0", False)],
)  # fmt: skip
def test_ip_override_is_an_address(address, good):
    found = [at for at, _, _ in said(body(tap(), ip_override=address))]
    assert found == ([] if good else ["ip_override"])


def test_a_user_agent_is_a_text_and_for_web_streams_only():
    assert said(body(tap(), user_agent="Mozilla/5.0" + " x" * 200)) == []
    assert rules(body(tap(), user_agent=5)) == [Rule.TEXT_EXPECTED]
    assert said(body(tap(), user_agent="x"), stream="app") == [
        ("user_agent", "VALUE_INVALID", Rule.WEB_ONLY)
    ]


# -- how it is said ---------------------------------------------------------------------------


def test_all_violations_come_at_once_in_the_order_of_the_document():
    document = {
        "events": [{"name": "a-b", "params": {"p": None, "_q": [1], "p-1": 1}}, {"name": "error"}],
        "user_id": "u" * 257,
        "x": 1,
    }
    assert [at for at, _, _ in said(document)] == [
        "client_id", "events[0].name", "events[0].params.p", "events[0].params._q",
        "events[0].params._q", 'events[0].params["p-1"]', "events[1].name", "user_id", "x",
    ]  # fmt: skip
    assert judged(document) == judged(document)


def test_a_violation_as_a_validation_message():
    [violation] = judged(body(tap(), tap(p="x" * 101)))
    assert violation.place == ("events", 1, "params", "p")
    assert violation.document() == {
        "fieldPath": "events[1].params.p",
        "description": "found a text of 101 characters, expected at most 100",
        "validationCode": "VALUE_OUT_OF_BOUNDS",
    }


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ((), ""),
        (("events", 0, "params", "items", 2, "price"), "events[0].params.items[2].price"),
        (("gtag.x",), '["gtag.x"]'),
        (("events", ""), 'events[""]'),
        (("a" * 40,), "a" * 40),
        (("a" * 41,), '["' + "a" * 40 + '…"]'),
        (("\x1b[2J",), r'["\u001b[2J"]'),
        (("\ud800",), r'["\ud800"]'),
        (('"',), r'["\""]'),
    ],
)
def test_a_place_as_text(place, text):
    assert path(place) == text


SECRET = "kunigunde"


@pytest.mark.parametrize(
    "document",
    [
        body(tap(p=SECRET * 20, q=[SECRET], session_id=SECRET, timestamp_micros=SECRET)),
        body({"name": f"{SECRET} tap"}, {"name": SECRET * 20}, SECRET),
        body({"name": "purchase", "params": PURCHASE | {"currency": SECRET, "value": SECRET}}),
        body({"name": "purchase", "params": PURCHASE | {"items": [{"price": SECRET}, SECRET]}}),
        body(tap(), user_id=SECRET * 40, ip_override=SECRET, validation_behavior=SECRET),
        body(tap(), client_id=[SECRET], user_data={"sha256_email_address": [SECRET]}),
        body(tap(), app_instance_id=SECRET, consent={"ad_user_data": SECRET}),
        body(tap(), user_properties={"u": {"value": SECRET * 5}}, device={"model": [SECRET]}),
        body(tap(), user_location={"country_id": SECRET}, non_personalized_ads=SECRET),
    ],
)
def test_no_value_is_told(document):
    found = judged(document, stream="app", client_ids="recommended")
    assert found
    assert SECRET not in json.dumps([violation.document() for violation in found])


# -- an event of the queue --------------------------------------------------------------------


def event(name="tap", time_us=NOW_US, **params):
    return Event(
        name=name,
        stream="main",
        sender=Sender(
            client_id="1.2",
            user_properties=MappingProxyType({"tier": {"value": "x" * 37}}),
            location=MappingProxyType({"country_id": "LV"}),
        ),
        stamp=Stamp(wall_us=NOW_US, boot_us=1, boot_id="b", trusted=True),
        event_id="e",
        params=MappingProxyType(params),
        time_us=time_us,
        session="start",
        actor="human",
    )


def test_an_event_is_judged_with_its_sender_as_it_would_be_sent():
    found = validate_event(event(p=None), stream="web", now_us=NOW_US)
    assert [(v.place, v.rule) for v in found] == [
        (("user_properties", "tier", "value"), Rule.TEXT_LENGTH),
        (("events", 0, "params", "p"), Rule.KIND),
    ]
    found = validate_event(event(time_us=None), stream="app", now_us=NOW_US + 100 * HOUR_US)
    assert [(v.place, v.rule) for v in found] == [
        (("app_instance_id",), Rule.MISSING),
        (("user_properties", "tier", "value"), Rule.TEXT_LENGTH),
        (("events", 0, "timestamp_micros"), Rule.TIME_PAST),
    ]


# -- repeated keys ----------------------------------------------------------------------------


def test_a_repeated_key_is_found_where_it_stands():
    text = b'\xef\xbb\xbf{"events":[{"name":"a"},{"name":"b","params":{"p":1,"q":2,"p":3,"p":4}}],"events":[]}'
    assert duplicates(b'{"events":[{"a":1},{"a":1}],"b":{"a":1,"b":2}}') == ()
    [violation] = duplicates(text)
    assert (violation.place, violation.code) == (("events",), Code.NAME_DUPLICATED)
    text = text.replace(b',"events":[]', b"")
    [violation] = duplicates(text)
    assert violation.field_path == "events[1].params.p"
