"""Names of events, params and user properties."""

from typing import Any

from agent.ga4.checks.values import Violations, broken, missing
from agent.ga4.policy import Conditions
from agent.ga4.rules import limits, names
from agent.ga4.violation import Code, Place, Rule, Violation
from agent.jsontext import kind_of


def event_name(name: Any, place: Place, conditions: Conditions) -> Violations:
    """An event's name; null is none."""
    if name is None:
        yield missing(place, "found no name, expected the event's name")
        return
    if not isinstance(name, str):
        yield broken(
            place, Rule.KIND, f"found {kind_of(name)}, expected the event's name", Code.NAME_INVALID
        )
        return
    policy = conditions.policy
    if name in names.RESERVED_EVENTS or name in policy.reserved_events:
        yield _reserved(place, f"the name {name}, which GA4 keeps for itself, expected another")
    elif name in names.APP_EVENTS and conditions.stream == "web":
        yield broken(
            place, Rule.APP_ONLY, f"found the name {name}, expected it on app streams only",
            Code.NAME_RESERVED,
        )  # fmt: skip
    else:
        yield from _name(name, place, limits.EVENT_NAME_MAX, policy.event_prefixes)


def param_name(name: str, place: Place) -> Violations:
    """The name of an event's param."""
    if name in names.RESERVED_PARAMS:
        yield _reserved(place, "a name that GA4 keeps for itself, expected another")
    else:
        yield from _name(name, place, limits.PARAM_NAME_MAX, names.PARAM_PREFIXES)


def item_param_name(name: str, place: Place) -> Violations:
    """The name of an item's param."""
    if name not in names.ITEM_PARAM_EXCEPTIONS:
        yield from param_name(name, place)


def property_name(name: str, place: Place) -> Violations:
    """The name of a user property."""
    if name in names.RESERVED_PROPERTIES:
        yield _reserved(place, "a name that GA4 keeps for itself, expected another")
    else:
        yield from _name(name, place, limits.USER_PROPERTY_NAME_MAX, names.PROPERTY_PREFIXES)


def _name(name: str, place: Place, longest: int, prefixes: tuple[str, ...]) -> Violations:
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    if prefix is not None:
        yield _reserved(
            place, f"a name with the prefix {prefix}, which GA4 keeps for itself, expected another"
        )
    elif not names.FORM.fullmatch(name):
        yield broken(place, Rule.NAME_FORM, _malformed(name), Code.NAME_INVALID)
    if len(name) > longest:
        yield broken(
            place, Rule.NAME_LENGTH,
            f"found a name of {len(name)} characters, expected at most {longest}",
            Code.NAME_INVALID,
        )  # fmt: skip


def _malformed(name: str) -> str:
    if not name:
        return "found an empty name, expected a letter, then letters, digits and _"
    if names.FORM.match(name):
        return "found a name with other characters, expected letters, digits and _ only"
    return "found a name that does not start with a letter from A to Z, expected one that does"


def _reserved(place: Place, found: str) -> Violation:
    return broken(place, Rule.NAME_RESERVED, f"found {found}", Code.NAME_RESERVED)
