"""Whether GA4 will take a body as it is meant: every rule that it breaks, at once. Pure.

GA4 answers 2xx to anything and then drops, cuts and moves in silence; its debug endpoint needs a
network. So the rules live here, with Google's codes.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from agent import jsontext
from agent.event import Event
from agent.ga4.checks import params, sender, values
from agent.ga4.checks.values import Violations, broken, missing, wrong_kind
from agent.ga4.policy import Conditions, Policy, StreamKind
from agent.ga4.request import EVENTS_MAX, encode
from agent.ga4.violation import Code, Place, Rule, Violation

MOST = 1000  # violations: a body can be made of mistakes, and nobody reads more
LENIENT = Policy()
KNOWN = frozenset(sender.CHECKS) | {"events"}


def validate(
    body: Any,
    *,
    stream: StreamKind,
    now_us: int,
    policy: Policy = LENIENT,
    size: int | None = None,
) -> tuple[Violation, ...]:
    """What a body breaks, in the order in which it stands there; at most the first ``MOST``.

    ``body``: any JSON value. ``now_us``: microseconds since 1970. ``size``: the body's bytes, if
    they are known; else it is measured as the agent would write it. Never raises.
    """
    return tuple(
        islice(violations(body, stream=stream, now_us=now_us, policy=policy, size=size), MOST)
    )


def validate_event(
    event: Event, *, stream: StreamKind, now_us: int, policy: Policy = LENIENT
) -> tuple[Violation, ...]:
    """What an event of the queue breaks when it leaves alone: places are those of that body."""
    body = event.sender.body | {"events": [encode(event)]}
    return validate(body, stream=stream, now_us=now_us, policy=policy)


def violations(
    body: Any,
    *,
    stream: StreamKind,
    now_us: int,
    policy: Policy = LENIENT,
    size: int | None = None,
) -> Violations:
    """All that a body breaks, found as it is asked for."""
    if not isinstance(body, Mapping):
        yield wrong_kind((), body, "a Measurement Protocol body, which is an object")
        return
    conditions = Conditions(stream=stream, now_us=now_us, policy=policy)
    yield from _size(body, policy, size)
    yield from sender.identity(body, conditions)
    if body.get("events") is None:
        yield missing(("events",), "found no events, expected at least one")
    for key, value in body.items():
        yield from _part(key, value, conditions)


def _part(key: str, value: Any, conditions: Conditions) -> Violations:
    place: Place = (key,)
    if key in conditions.policy.own_keys:
        return
    if key not in KNOWN:
        yield values.unknown_key(place, KNOWN)
    elif value is None:
        return  # null is "not said" in proto JSON, which GA4's server reads
    elif key == "events":
        yield from _events(value, place, conditions)
    else:
        yield from sender.CHECKS[key](value, place, conditions)


def _events(events: Any, place: Place, conditions: Conditions) -> Violations:
    if isinstance(events, Mapping) and conditions.policy.single_event:
        yield from params.event(events, place, conditions)
        return
    if not values.is_array(events):
        yield wrong_kind(place, events, f"an array of 1 to {EVENTS_MAX} events")
        return
    if not events:
        yield values.empty(place, events)
    if len(events) > EVENTS_MAX:
        yield broken(
            place, Rule.TOO_MANY, f"found {len(events)} events, expected at most {EVENTS_MAX}",
            Code.EXCEEDED_MAX_ENTITIES,
        )  # fmt: skip
    for index, event in enumerate(events):
        yield from params.event(event, (*place, index), conditions)


def _size(body: Mapping[str, Any], policy: Policy, size: int | None) -> Violations:
    try:
        found = len(jsontext.dumps(body)) if size is None else size
    except (ValueError, TypeError, RecursionError):
        yield broken(
            (), Rule.UNWRITABLE,
            "found what JSON cannot carry (endless numbers, half characters, deep nesting), "
            "expected JSON",
        )  # fmt: skip
        return
    if found >= policy.body_limit:
        yield broken(
            (), Rule.BODY_SIZE, f"found a body of {found} bytes, expected under {policy.body_limit}",
            Code.VALUE_OUT_OF_BOUNDS,
        )  # fmt: skip
