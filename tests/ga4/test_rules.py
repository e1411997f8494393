"""The tables agree with the collected facts (copies of the shared files in `data/`)."""

import json
import re
from pathlib import Path

import pytest

from agent.ga4 import currencies
from agent.ga4.policy import Policy
from agent.ga4.request import BODY_LIMIT, EVENTS_MAX
from agent.ga4.rules import fields, limits, names, recommended
from agent.ga4.violation import Code

DATA = Path(__file__).parent / "data"


def facts(name):
    return json.loads((DATA / f"{name}.json").read_text())


LIMITS = facts("limits")
RESERVED = facts("reserved_names")["mp_reference"]
EVENTS = facts("recommended_events")


def test_limits_of_a_request():
    request = LIMITS["request"]
    assert request["events_max"] == EVENTS_MAX
    assert request["user_properties_max"] == limits.USER_PROPERTIES_MAX
    assert request["timestamp_back_hours"] * limits.HOUR_US == limits.PAST_US
    assert f"stay below {BODY_LIMIT} bytes" in request["body_must_be_smaller_than"]


def test_limits_of_an_event():
    event = LIMITS["event"]
    assert event["name_max"] == limits.EVENT_NAME_MAX
    assert event["name_rule"] == names.FORM.pattern
    assert event["params_max"] == limits.PARAMS_MAX
    assert event["param_name_max"] == limits.PARAM_NAME_MAX
    assert event["param_value_max_standard"] == limits.PARAM_VALUE_MAX
    assert event["param_value_max_360"] == limits.PARAM_VALUE_MAX_360
    exceptions = dict(event["param_value_exceptions"])
    unlimited = exceptions.pop("session_id/session_number built by GTM variables")
    assert unlimited == "no limit"
    assert exceptions == dict(limits.PARAM_VALUE_EXCEPTIONS)
    assert {"session_id", "session_number"} == limits.PARAMS_OF_ANY_LENGTH


def test_limits_of_items_properties_and_user_ids():
    items = LIMITS["items"]
    assert items["max_elements"] == limits.ITEMS_MAX
    assert items["param_name_max"] == limits.PARAM_NAME_MAX
    assert items["param_value_max"] == limits.PARAM_VALUE_MAX
    custom = items["custom_params_per_item"]
    assert custom["sending-events"] == limits.ITEM_CUSTOM_PARAMS_MAX_IN_SEND
    assert custom["events reference, answer/9267744"] == limits.ITEM_CUSTOM_PARAMS_MAX
    assert LIMITS["user_property"]["name_max"] == limits.USER_PROPERTY_NAME_MAX
    assert LIMITS["user_property"]["value_max"] == limits.USER_PROPERTY_VALUE_MAX
    assert LIMITS["user_id"]["max"] == limits.USER_ID_MAX


def test_where_pages_disagree_the_default_is_the_lenient_one():
    assert Policy().item_custom_params == max(
        limits.ITEM_CUSTOM_PARAMS_MAX, limits.ITEM_CUSTOM_PARAMS_MAX_IN_SEND
    )


@pytest.mark.parametrize(
    ("ours", "key"),
    [
        (names.RESERVED_EVENTS, "event_names"),
        (names.APP_EVENTS, "app_stream_only_event_names"),
        (names.RESERVED_PARAMS, "parameter_names"),
        (names.PARAM_PREFIXES, "parameter_prefixes"),
        (names.RESERVED_PROPERTIES, "user_property_names"),
        (names.PROPERTY_PREFIXES, "user_property_prefixes"),
    ],
)
def test_reserved_names(ours, key):
    assert set(ours) == set(RESERVED[key])
    assert len(ours) == len(RESERVED[key])


def test_the_exception_for_items_and_the_names_of_gas_own_pages():
    [exception] = RESERVED["parameter_prefix_exceptions_seen_in_official_samples"]
    assert exception == f"{' '.join(names.ITEM_PARAM_EXCEPTIONS)} (item key)"
    ui = facts("reserved_names")["help_13316687_web_ui_rules"]
    assert set(ui["event_names"]) == names.RESERVED_IN_GA_PAGES


def needs(documented):
    """The plain names among the documented requirements; remarks and starred names left out."""
    return {name for name in documented if re.fullmatch(r"[a-z_]+", name)} - {
        "in",
        "a",
        "secondary",
    }


def optional(documented):
    return {word for name in documented for word in name.split(" (")[0].split("/")}


def test_every_recommended_event_is_there_and_no_other():
    assert set(recommended.RECOMMENDED) == set(EVENTS["events"])


@pytest.mark.parametrize("name", recommended.RECOMMENDED)
def test_a_recommended_event_asks_for_what_the_reference_asks_for(name):
    ours, theirs = recommended.RECOMMENDED[name], EVENTS["events"][name]
    assert ours.required == needs(theirs["docs_required"])
    assert ours.money == ("value*" in theirs["docs_required"])
    amounts = {"currency", "value"} if ours.money else set()
    assert ours.params == ours.required | optional(theirs["optional"]) | amounts


def test_the_types_of_params():
    numbers = set(EVENTS["types"]["number"])
    assert {name for name in numbers if "." not in name} == recommended.NUMBERS
    of_items = {name.removeprefix("item.") for name in numbers if "." in name}
    assert of_items == recommended.ITEM_NUMBERS
    assert set(EVENTS["types"]["string"]) == recommended.TEXTS | {"currency"}


def test_the_codes_are_googles():
    server = facts("validation_server")
    seen = {code.split()[0] for code in server["codes_seen_outside_docs"]} - {"ANNOTATION_FAILED"}
    assert {code.value for code in Code} == set(server["codes_documented"]) | seen


def test_the_currencies_are_those_of_today():
    assert {"EUR", "USD", "JPY", "CHF", "GBP", "XAF"} <= currencies.CURRENCIES
    assert not {"eur", "USDD", "HRK", "DEM", ""} & currencies.CURRENCIES
    assert 150 < len(currencies.CURRENCIES) < 200
    assert all(re.fullmatch("[A-Z]{3}", code) for code in currencies.CURRENCIES)


def test_the_tables_cannot_be_changed():
    for table in (limits.PARAM_VALUE_EXCEPTIONS, recommended.RECOMMENDED, fields.DEVICE):
        with pytest.raises(TypeError):
            table["x"] = 1
