"""An event: its name, its time, its params and their items."""

from collections.abc import Mapping
from typing import Any

from agent.ga4.checks import names, times, values
from agent.ga4.checks.values import Violations, broken, missing, wrong_kind
from agent.ga4.policy import Conditions, Policy
from agent.ga4.rules import fields, limits
from agent.ga4.rules.recommended import (
    ITEM_NAMED_BY,
    ITEM_NUMBERS,
    ITEM_PARAMS,
    ITEM_TEXTS,
    NUMBERS,
    RECOMMENDED,
    TEXTS,
    UNDESCRIBED,
    Recommended,
)
from agent.ga4.violation import Code, Place, Rule, Violation
from agent.jsontext import kind_of


def event(value: Any, place: Place, conditions: Conditions) -> Violations:
    """One element of ``events``."""
    if not isinstance(value, Mapping):
        yield wrong_kind(place, value, "an event")
        return
    if "name" not in value:
        yield from names.event_name(None, (*place, "name"), conditions)
    for key, part in value.items():
        yield from _part(value, key, part, place, conditions)
    if value.get("params") is None:
        yield from _needed({}, (*place, "params"), _description(value), conditions.policy)


def _part(
    event: Mapping[str, Any], key: str, value: Any, place: Place, conditions: Conditions
) -> Violations:
    inner = (*place, key)
    if key == "name":
        yield from names.event_name(value, inner, conditions)
    elif key == "params" and value is not None:
        yield from _params(value, inner, _description(event), conditions)
    elif key == "timestamp_micros" and value is not None:
        yield from times.time(value, inner, conditions)
    elif key not in fields.EVENT_KEYS and key not in conditions.policy.own_keys:
        yield values.unknown_key(inner, fields.EVENT_KEYS)


def _description(event: Mapping[str, Any]) -> Recommended:
    name = event.get("name")
    return RECOMMENDED.get(name, UNDESCRIBED) if isinstance(name, str) else UNDESCRIBED


# -- params -----------------------------------------------------------------------------------


def _params(
    params: Any, place: Place, described: Recommended, conditions: Conditions
) -> Violations:
    if not isinstance(params, Mapping):
        yield wrong_kind(place, params, "an object of params")
        return
    if len(params) > limits.PARAMS_MAX:
        yield _too_many(place, f"{len(params)} params", limits.PARAMS_MAX)
    for name in params:
        yield from names.param_name(name, (*place, name))
        yield from _param(params, name, (*place, name), described, conditions)
    yield from _needed(params, place, described, conditions.policy)


def _param(
    params: Mapping[str, Any],
    name: str,
    place: Place,
    described: Recommended,
    conditions: Conditions,
) -> Violations:
    value, policy = params[name], conditions.policy
    if name == "items":
        yield from _items(value, place, policy)
    elif name == "currency":
        yield from values.currency(value, place)
    elif name == "session_id":
        yield from _session_id(value, place, policy)
    elif name == "engagement_time_msec":
        yield from _engagement(value, place, policy)
    elif name == "timestamp_micros":
        yield from _time_in_params(value, place, conditions)
    elif _is_amount(name, params, described):
        yield from values.number(value, place, policy)
    elif name in TEXTS and name in described.params:
        yield from values.text(value, place, policy.param_value_max, policy)
    else:
        yield from values.scalar(value, place, longest(name, policy), policy)


def _is_amount(name: str, params: Mapping[str, Any], described: Recommended) -> bool:
    """Whether this param is a number; a value beside a currency is money on any event."""
    if name == "value" and "currency" in params:
        return True
    return name in NUMBERS and name in described.params


def longest(name: str, policy: Policy) -> int | None:
    """Characters that the text of an event's param may have; None for any number."""
    if name in limits.PARAMS_OF_ANY_LENGTH:
        return None
    return max(policy.param_value_max, limits.PARAM_VALUE_EXCEPTIONS.get(name, 0))


def _session_id(value: Any, place: Place, policy: Policy) -> Violations:
    if policy.session_ids == "any" or not isinstance(value, str | int | float):
        yield from values.scalar(value, place, None, policy)
    elif isinstance(value, bool) or not _names_session(value):
        yield broken(
            place, Rule.FORM,
            f"found {kind_of(value)} of another form, expected a positive whole number "
            "or the session's cookie",
        )  # fmt: skip


def _names_session(value: str | float) -> bool:
    if not isinstance(value, str):
        return 0 < value <= limits.WHOLE_NUMBER_MAX and value == int(value)
    if fields.SESSION_NUMBER.fullmatch(value) or fields.OLDER_SESSION_COOKIE.fullmatch(value):
        return True
    newer = fields.NEWER_SESSION_COOKIE.fullmatch(value)
    parts = newer["parts"].split("$") if newer else ()
    return any(fields.NEWER_SESSION_PART.fullmatch(part) for part in parts)


def _engagement(value: Any, place: Place, policy: Policy) -> Violations:
    problems = list(values.number(value, place, policy))
    yield from problems
    if not problems and float(value) < 0:
        yield broken(
            place, Rule.NUMBER_RANGE, "found a negative number, expected milliseconds",
            Code.VALUE_OUT_OF_BOUNDS,
        )  # fmt: skip


def _time_in_params(value: Any, place: Place, conditions: Conditions) -> Violations:
    if conditions.policy.time_in_params:
        yield from times.time(value, place, conditions)
    else:
        yield broken(
            place, Rule.TIME_PLACE, "found the time among the params, expected it beside the name"
        )


def _needed(
    params: Mapping[str, Any], place: Place, described: Recommended, policy: Policy
) -> Violations:
    """What the event's description asks for and is not there."""
    for name in sorted(described.required):
        if name not in params:
            yield missing((*place, name), f"found no {name}, expected it: it is required")
        elif params[name] in ("", [], ()) or _names_nothing(name, params[name]):
            yield values.empty((*place, name), params[name])
    everywhere = policy.value_and_currency == "event_builder"
    if (everywhere or described.money) and _lonely("value", "currency", params):
        yield missing((*place, "currency"), "found a value without its currency, expected both")
    if everywhere and _lonely("currency", "value", params):
        yield missing((*place, "value"), "found a currency without a value, expected both")


def _names_nothing(name: str, value: Any) -> bool:
    """GA4 would take all purchases with a blank number for one."""
    return name == "transaction_id" and isinstance(value, str) and not value.strip()


def _lonely(name: str, partner: str, params: Mapping[str, Any]) -> bool:
    return params.get(name) is not None and partner not in params


def _too_many(place: Place, found: str, most: int) -> Violation:
    return broken(
        place, Rule.TOO_MANY, f"found {found}, expected at most {most}", Code.EXCEEDED_MAX_ENTITIES
    )


# -- items ------------------------------------------------------------------------------------


def _items(items: Any, place: Place, policy: Policy) -> Violations:
    if not values.is_array(items):
        yield wrong_kind(place, items, "an array of items")
        return
    if len(items) > limits.ITEMS_MAX:
        yield _too_many(place, f"{len(items)} items", limits.ITEMS_MAX)
    for index, item in enumerate(items):
        yield from _item(item, (*place, index), policy)


def _item(item: Any, place: Place, policy: Policy) -> Violations:
    if not isinstance(item, Mapping):
        yield wrong_kind(place, item, "an item, which is an object")
        return
    custom = sum(name not in ITEM_PARAMS for name in item)
    if custom > policy.item_custom_params:
        yield _too_many(place, f"{custom} params of its own", policy.item_custom_params)
    if all(item.get(name, "") == "" for name in ITEM_NAMED_BY):
        yield missing(place, "found neither item_id nor item_name, expected one of them")
    for name, value in item.items():
        yield from names.item_param_name(name, (*place, name))
        yield from _item_param(name, value, (*place, name), policy)


def _item_param(name: str, value: Any, place: Place, policy: Policy) -> Violations:
    if name == "currency":
        yield from values.currency(value, place)
    elif name in ITEM_NUMBERS:
        # What the server answered to a price of "$19" (protocol notes, 1.6).
        yield from values.number(value, place, policy, Code.INTERNAL_ERROR)
    elif name in ITEM_TEXTS:
        yield from values.text(value, place, policy.param_value_max, policy)
    else:
        yield from values.scalar(value, place, policy.param_value_max, policy)
