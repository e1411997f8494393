"""An event as GA4 will count it, or why there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from agent.event import NOTHING, Event, Sender
from agent.ga4.checks.values import Violations, is_array
from agent.ga4.policy import Policy, StreamKind
from agent.ga4.repair.edits import Edits
from agent.ga4.repair.kind import Kind
from agent.ga4.repair.mender import Mender
from agent.ga4.request import encode
from agent.ga4.rules import limits
from agent.ga4.validate import MOST, violations
from agent.ga4.violation import Code, Place, Rule, Violation
from agent.jsontext import frozen

# As long as the longest that comes in its place: a second since 1970, milliseconds of a sitting.
PLACEHOLDER = 9_999_999_999
ROUNDS = 10  # a value takes three at most: another kind, other characters, another length
LATER = (Rule.TIME_PAST, Rule.TIME_FUTURE)  # delivery judges by the true time
OBJECTS = {
    "user_properties": "user_properties",
    "consent": "consent",
    "device": "device",
    "user_location": "location",
}
PARAMS: Place = ("events", 0, "params")
BEYOND = 100  # times as many as GA4 takes: no slip any more, but no event of ours
TEXTS = ("client_id", "app_instance_id", "user_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """An event after its repair.

    ``kept``: the reserved params that may be added. ``kinds``: what was changed, counted.
    ``left``: why it must be refused; then it is the event as it was, and nothing is counted.
    """

    event: Event
    kept: frozenset[str] = frozenset()
    kinds: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    left: tuple[Violation, ...] = ()


def repair(
    event: Event,
    *,
    stream: StreamKind,
    now_us: int,
    policy: Policy,
    added: Sequence[str] = (),
    reserved: Sequence[str] = (),
) -> Repaired:
    """Cut free texts, convert what means the same, take out what GA4 would ignore.

    ``added``: names of params that the agent put there. ``reserved``: those that it is going to
    add, which count as well. In which order they give way: ``precedence``.
    ``now_us``: microseconds since 1970. Whether a time is too old or in the future is not judged.
    Never raises; a valid event with room for the reserved params comes back as it is.
    """
    if beyond := _beyond_repair(event):
        return Repaired(event=event, left=beyond)
    placed = [name for name in reserved if name not in event.params]
    body = _body(event, placed)
    judge = partial(violations, stream=stream, now_us=now_us, policy=policy)
    if not _judged(judge(body)):
        return Repaired(event=event, kept=frozenset(reserved))
    mender = Mender(stream=stream, event=event, policy=policy)
    body = _mended(body, mender, partial(judge, size=0))
    body = _with_room(body, mender, added, placed)
    left = tuple(mender.reason(violation) for violation in _judged(judge(body)))
    if left:
        return Repaired(event=event, left=left)
    kinds = {kind.value: number for kind, number in mender.kinds.items()}
    params = body["events"][0].get("params", {})
    kept = frozenset(name for name in reserved if name in params)
    if mender.kinds.keys() == {Kind.AGENT_PARAM_DROPPED} and params.keys() >= event.params.keys():
        return Repaired(event=event, kept=kept, kinds=frozen(kinds))  # no room for what is to come
    return Repaired(event=_event(event, body, placed), kept=kept, kinds=frozen(kinds))


def _beyond_repair(event: Event) -> tuple[Violation, ...]:
    """What is so large that mending it would keep a small machine busy for a minute."""
    items: Any = event.params.get("items")
    properties = event.sender.user_properties
    sizes = (
        (PARAMS, "params", len(event.params), limits.PARAMS_MAX),
        (("user_properties",), "user properties", len(properties), limits.USER_PROPERTIES_MAX),
        ((*PARAMS, "items"), "items", len(items) if is_array(items) else 0, limits.ITEMS_MAX),
    )
    return tuple(
        Violation(
            place=place,
            rule=Rule.TOO_MANY,
            code=Code.EXCEEDED_MAX_ENTITIES,
            description=f"found {found} {what}, expected at most {most}",
        )
        for place, what, found, most in sizes
        if found > BEYOND * most
    )


def _judged(found: Violations) -> list[Violation]:
    return list(islice((violation for violation in found if violation.rule not in LATER), MOST))


def _mended(
    body: dict[str, Any], mender: Mender, judge: Callable[[dict[str, Any]], Violations]
) -> dict[str, Any]:
    for _ in range(ROUNDS):
        edits = Edits(body)
        mender.mend(edits, judge(body))
        if not edits.made:
            break
        body = edits.finish()
    return body


def _with_room(
    body: dict[str, Any], mender: Mender, added: Sequence[str], placed: Sequence[str]
) -> dict[str, Any]:
    edits = Edits(body)
    mender.make_room(edits, added=added, reserved=placed)
    return edits.finish()


# -- to a body and back -----------------------------------------------------------------------


def _body(event: Event, placed: Sequence[str]) -> dict[str, Any]:
    """The body of the event alone, with something in the place of what will be added."""
    encoded = encode(event)
    if event.time_us is None:
        del encoded["timestamp_micros"]  # the stamp's, which delivery corrects
    if placed:
        encoded["params"] = {**event.params, **dict.fromkeys(placed, PLACEHOLDER)}
    return event.sender.body | {"events": [encoded]}


def _event(event: Event, body: Mapping[str, Any], placed: Sequence[str]) -> Event:
    encoded = body["events"][0]
    params = {k: v for k, v in encoded.get("params", {}).items() if k not in placed}
    return replace(
        event,
        params=frozen(params),
        time_us=encoded.get("timestamp_micros"),
        sender=_sender(event.sender, body),
    )


def _sender(sender: Sender, body: Mapping[str, Any]) -> Sender:
    texts = {key: body.get(key) for key in TEXTS}
    objects = {field: frozen(body.get(key, {})) for key, field in OBJECTS.items()}
    rest = frozen({key: body[key] for key in sender.rest if key in body})
    fields: dict[str, Any] = {**texts, **objects, "rest": rest}
    return Sender(**fields)
