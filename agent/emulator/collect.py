"""What GA4's collect endpoints make of a request. Pure.

The production endpoint says nothing: any POST gets a 2xx, and what GA4 cannot use is dropped,
cut or moved in silence. The validation endpoint lists messages.

Every rule is always applied, whatever ``validation_behavior`` says. GA4 itself keeps most of them
to itself without ENFORCE_RECOMMENDATIONS, but then it ignores the very things that it did not
name, and a developer who asks wants to hear of them; nor does the documentation say which of its
rules belong to which behaviour.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.emulator.wording import Message, required, unreadable, worded
from agent.ga4.debug import violations_in
from agent.ga4.policy import StreamKind
from agent.ga4.violation import Rule, Violation
from agent.jsontext import NotJson

COLLECT = "/mp/collect"
DEBUG_COLLECT = "/debug/mp/collect"
HIDDEN = "[hidden]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What GA4 makes of a request.

    ``messages``: what its validation endpoint says. ``moved``: the times, as paths, that its
    production endpoint would move to 72 hours ago. ``countable``: whether it knows whose events
    these are and lets them in; else it drops them all.
    """

    messages: tuple[Message, ...]
    moved: tuple[str, ...] = ()
    countable: bool = False


def parse(body: bytes) -> Any:
    """Return the JSON in ``body``; ValueError if it is none.

    A secret has no business in a body: its value is hidden wherever it stands, because what is
    parsed here is recorded.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse, object_hook=_without_secret)
    except RecursionError:
        raise ValueError("cannot read the body: found it nested too deeply") from None


def events_in(document: object) -> tuple[dict[str, Any], ...]:
    """Return the events that GA4 finds in a parsed body: a list of them, or the only one."""
    events = document.get("events") if isinstance(document, dict) else None
    if isinstance(events, dict):
        return (events,)
    if not isinstance(events, list):
        return ()
    return tuple(event for event in events if isinstance(event, dict))


def validate(query: Mapping[str, str], body: bytes, *, now_us: int) -> list[Message]:
    """Return what the validation endpoint finds in a request; an empty list means no issue."""
    return list(judge(query, body, now_us=now_us).messages)


def judge(query: Mapping[str, str], body: bytes, *, now_us: int) -> Judgement:
    """Return what GA4 makes of a request; ``now_us``: the server's clock."""
    asked = _query_messages(query)
    stream: StreamKind = "app" if query.get("firebase_app_id") else "web"
    try:
        found = violations_in(body, stream=stream, now_us=now_us)
        document = json.loads(body.decode("utf-8-sig"))
    except NotJson as error:
        return Judgement(messages=(*asked, unreadable(str(error))))
    return Judgement(
        messages=(*asked, *(worded(each, document, now_us=now_us) for each in found)),
        moved=tuple(each.field_path for each in found if each.rule is Rule.TIME_PAST),
        countable=not asked and not _nobodys(found),
    )


def _query_messages(query: Mapping[str, str]) -> list[Message]:
    stream = "firebase_app_id" if query.get("firebase_app_id") else "measurement_id"
    return [
        required(name, f"Unable to find non-empty parameter [{name}] value in request.")
        for name in ("api_secret", stream)
        if not query.get(name)
    ]


def _nobodys(found: Sequence[Violation]) -> bool:
    """Whether it is no body, or does not say whose events it has."""
    whose = ((), ("client_id",), ("app_instance_id",))
    lacking = (Rule.KIND, Rule.MISSING, Rule.EMPTY)
    return any(each.place in whose and each.rule in lacking for each in found)


def _refuse(constant: str) -> None:
    # NaN and Infinity are Python's, not JSON's; recorded they would make lines nobody can read.
    raise ValueError(f"cannot read the body: found {constant}, expected JSON")


def _without_secret(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "api_secret": HIDDEN} if "api_secret" in item else item
