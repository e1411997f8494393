"""What GA4's collect endpoints say to a request body. Pure.

The production endpoint says nothing: any POST gets a 2xx. The validation endpoint lists messages;
its wording is GA4's where a recording exists, and said to be ours where none does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COLLECT = "/mp/collect"
DEBUG_COLLECT = "/debug/mp/collect"
HIDDEN = "[hidden]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One finding of the validation endpoint; ``code`` is one of GA4's validation codes."""

    field_path: str | None
    description: str
    code: str

    def document(self) -> dict[str, str]:
        """Return the message as it stands in ``validationMessages``; no path, no key."""
        path = {} if self.field_path is None else {"fieldPath": self.field_path}
        return {**path, "description": self.description, "validationCode": self.code}


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
    """Return the events that GA4 finds in a parsed body; empty if it has no list of them."""
    events = document.get("events") if isinstance(document, dict) else None
    if not isinstance(events, list):
        return ()
    return tuple(event for event in events if isinstance(event, dict))


def validate(query: Mapping[str, str], body: bytes) -> list[Message]:
    """Return what the validation endpoint finds in a request; an empty list means no issue."""
    try:
        document = parse(body)
    except ValueError:
        return [*_query_messages(query), _invalid("Measurement is not valid JSON.")]
    if not isinstance(document, dict):
        return [*_query_messages(query), _invalid("Measurement is not a JSON object.")]
    return [
        *_query_messages(query),
        *_sender_messages(query, document),
        *_events_messages(document),
    ]


def _query_messages(query: Mapping[str, str]) -> list[Message]:
    stream = "firebase_app_id" if query.get("firebase_app_id") else "measurement_id"
    return [
        _required(name, f"Unable to find non-empty parameter [{name}] value in request.")
        for name in ("api_secret", stream)
        if not query.get(name)
    ]


def _sender_messages(query: Mapping[str, str], document: Mapping[str, Any]) -> list[Message]:
    if document.get("client_id") or document.get("app_instance_id"):
        return []
    if query.get("firebase_app_id"):
        return [_required("app_instance_id", "Measurement requires an app_instance_id.")]
    return [_required("client_id", "Measurement requires a client_id.")]


def _events_messages(document: Mapping[str, Any]) -> list[Message]:
    events = document.get("events")
    if events is None or events == []:
        return [_required("events", "Measurement requires at least one event.")]  # our wording
    if not isinstance(events, list):
        return [
            Message(  # our wording
                field_path="events",
                description="Measurement events is not a list.",
                code="VALUE_INVALID",
            )
        ]
    return []


def _required(field_path: str, description: str) -> Message:
    return Message(field_path=field_path, description=description, code="VALUE_REQUIRED")


def _invalid(description: str) -> Message:
    # Our wording: nobody recorded what GA4 says to a body that is no JSON object.
    return Message(field_path=None, description=description, code="VALUE_INVALID")


def _refuse(constant: str) -> None:
    # NaN and Infinity are Python's, not JSON's; recorded they would make lines nobody can read.
    raise ValueError(f"cannot read the body: found {constant}, expected JSON")


def _without_secret(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "api_secret": HIDDEN} if "api_secret" in item else item
