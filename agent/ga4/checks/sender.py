"""What a body says beside its events: whose they are, and from what."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from agent.ga4.checks import names, times, values
from agent.ga4.checks.values import Violations, broken, missing, wrong_kind
from agent.ga4.policy import Conditions
from agent.ga4.rules import fields, limits
from agent.ga4.violation import Code, Place, Rule

Check = Callable[[Any, Place, Conditions], Violations]


def identity(body: Mapping[str, Any], conditions: Conditions) -> Violations:
    """The id that GA4 asks for: a user_id does not replace it (REF)."""
    key = "app_instance_id" if conditions.stream == "app" else "client_id"
    value = body.get(key)
    if value is None:
        article = "an" if key == "app_instance_id" else "a"
        yield missing((key,), f"Measurement requires {article} {key}.")  # the server's words
    elif value == "":
        yield values.empty((key,), value)
    needed = conditions.policy.user_data_needs_user_id and body.get("user_data") is not None
    if needed and body.get("user_id") is None:
        yield missing(("user_id",), "found user_data without a user_id, expected both")


def _client_id(value: Any, place: Place, conditions: Conditions) -> Violations:
    if value == "":
        return  # identity() has said so, where it matters
    problems = list(values.text(value, place, None, conditions.policy))
    yield from problems
    strict = conditions.policy.client_ids == "recommended" and conditions.stream == "web"
    if strict and not problems and not fields.CLIENT_ID.fullmatch(value):
        yield broken(
            place, Rule.FORM,
            "found another text, expected two numbers joined by a dot, or the _ga cookie",
        )  # fmt: skip


def _app_instance_id(value: Any, place: Place, conditions: Conditions) -> Violations:
    if value == "":
        return
    if not isinstance(value, str) or conditions.stream == "web":
        yield from values.text(value, place, None, conditions.policy)
    elif len(value) != fields.APP_INSTANCE_ID_LENGTH:
        yield broken(
            place, Rule.FORM,
            "Measurement app_instance_id is expected to be a 32 digit hexadecimal number but was "
            f"[{len(value)}] digits.",  # the server's words
        )  # fmt: skip
    elif not fields.APP_INSTANCE_ID.fullmatch(value):
        yield broken(
            place, Rule.FORM, "Measurement app_instance_id contains non hexadecimal characters."
        )


def _user_id(value: Any, place: Place, conditions: Conditions) -> Violations:
    if value == "":
        yield broken(
            place, Rule.EMPTY, "found an empty text, expected a user's id, or no user_id",
            Code.VALUE_REQUIRED,
        )  # fmt: skip
    else:
        yield from values.text(value, place, limits.USER_ID_MAX, conditions.policy)


# -- user properties --------------------------------------------------------------------------


def _user_properties(value: Any, place: Place, conditions: Conditions) -> Violations:
    if not isinstance(value, Mapping):
        yield wrong_kind(place, value, "an object of user properties")
        return
    if len(value) > limits.USER_PROPERTIES_MAX:
        yield broken(
            place, Rule.TOO_MANY,
            f"found {len(value)} user properties, expected at most {limits.USER_PROPERTIES_MAX}",
            Code.EXCEEDED_MAX_ENTITIES,
        )  # fmt: skip
    for name, said in value.items():
        yield from names.property_name(name, (*place, name))
        yield from _property(said, (*place, name), conditions)


def _property(said: Any, place: Place, conditions: Conditions) -> Violations:
    if not isinstance(said, Mapping):
        yield wrong_kind(place, said, 'an object like {"value": …}')
        return
    for key, value in said.items():
        yield from _part_of_property(key, value, (*place, key), conditions)
    if "value" not in said:
        yield missing((*place, "value"), "found no value, expected one: it is required")


def _part_of_property(key: str, value: Any, place: Place, conditions: Conditions) -> Violations:
    if key not in fields.PROPERTY_KEYS:
        yield values.unknown_key(place, fields.PROPERTY_KEYS)
    elif value is None:
        return  # a property without a value is taken back: Segment sends it so
    elif key == "value":
        yield from values.scalar(value, place, limits.USER_PROPERTY_VALUE_MAX, conditions.policy)
    else:
        yield from times.time(value, place, conditions)


# -- objects of texts -------------------------------------------------------------------------


def _choices(choices: tuple[str, ...]) -> Check:
    def check(value: Any, place: Place, _: Conditions) -> Violations:
        yield from values.choice(value, place, choices)

    return check


def _form(form: re.Pattern[str], expected: str) -> Check:
    def check(value: Any, place: Place, _: Conditions) -> Violations:
        yield from values.formed(value, place, form, expected)

    return check


def _object(checks: Mapping[str, Check]) -> Check:
    def check(value: Any, place: Place, conditions: Conditions) -> Violations:
        if not isinstance(value, Mapping):
            yield wrong_kind(place, value, f"an object with {' or '.join(sorted(checks))}")
            return
        for key, said in value.items():
            if key not in checks:
                yield values.unknown_key((*place, key), checks)
            elif said is not None:
                yield from checks[key](said, (*place, key), conditions)

    return check


def _one_or_more(check_one: Check) -> Check:
    """UID writes arrays; a single one in its place is understood, as gtag's own samples do."""

    def check(value: Any, place: Place, conditions: Conditions) -> Violations:
        if not values.is_array(value):
            yield from check_one(value, place, conditions)
            return
        for index, one in enumerate(value):
            yield from check_one(one, (*place, index), conditions)

    return check


def _forms(forms: Mapping[str, re.Pattern[str]]) -> Check:
    return _object(
        {key: _form(form, fields.EXAMPLES.get(key, "a text")) for key, form in forms.items()}
    )


_TEXT = _form(fields.ANY_TEXT, "a text")
_HASH = _form(fields.SHA256, "a SHA-256 of 64 hex digits")
_ADDRESS = _object(
    {key: _HASH if key in fields.ADDRESS_HASHES else _TEXT for key in fields.ADDRESS_KEYS}
)
_USER_DATA = _object(
    {key: _one_or_more(_HASH) for key in fields.USER_DATA_HASHES}
    | {"address": _one_or_more(_ADDRESS)}
)
_CONSENT = _object({key: _choices(fields.CONSENT_STATES) for key in fields.CONSENT_KEYS})


# -- the rest ---------------------------------------------------------------------------------


def _ip_override(value: Any, place: Place, _: Conditions) -> Violations:
    if not isinstance(value, str):
        yield wrong_kind(place, value, "an IP address")
    elif not _is_address(value):
        yield broken(place, Rule.FORM, "found another text, expected an IPv4 or IPv6 address")


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value  # a zone means something on this device only


def _user_agent(value: Any, place: Place, conditions: Conditions) -> Violations:
    if conditions.stream == "app":
        yield broken(place, Rule.WEB_ONLY, "found a user_agent, expected it on web streams only")
    else:
        yield from values.text(value, place, None, conditions.policy)


def _non_personalized_ads(value: Any, place: Place, _: Conditions) -> Violations:
    if not isinstance(value, bool):
        yield wrong_kind(place, value, "true or false")


_VALIDATION_BEHAVIOR = _choices(fields.VALIDATION_BEHAVIORS)

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "client_id": _client_id,
        "app_instance_id": _app_instance_id,
        "user_id": _user_id,
        "timestamp_micros": times.time,
        "user_properties": _user_properties,
        "user_data": _USER_DATA,
        "consent": _CONSENT,
        "non_personalized_ads": _non_personalized_ads,
        "user_location": _forms(fields.LOCATION),
        "ip_override": _ip_override,
        "device": _forms(fields.DEVICE),
        "user_agent": _user_agent,
        "validation_behavior": _VALIDATION_BEHAVIOR,
        "validationBehavior": _VALIDATION_BEHAVIOR,  # so written by Google's own tools (EB)
    }
)
