"""Events to the request that carries them (Measurement Protocol reference, "Transport")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent import jsontext
from agent.event import Event, Stream

EVENTS_MAX = 25  # events in a request: sending-events guide, "Limitations"
BODY_LIMIT = 130_000  # a body must be smaller; the unit is undefined, so the smaller kB
PATH = "/mp/collect"


@dataclass(frozen=True, slots=True)
class Request:
    """A POST. The query holds the api_secret, so it is never shown."""

    url: str
    query: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def build(events: Sequence[Event], stream: Stream) -> Request:
    """The request for events of one sender. The stream has a secret."""
    if stream.secret is None:
        raise ValueError(f"cannot build a request: the stream {stream.name} has no secret")
    body = events[0].sender.body | {"events": [encode(event) for event in events]}
    query = {_id_name(stream): _id(stream), "api_secret": stream.secret.reveal()}
    return Request(stream.endpoint + PATH, query, jsontext.dumps(body))


def encode(event: Event) -> dict[str, Any]:
    """The event as GA4 takes it.

    The time stands on each event, beside ``name``: request-level times did not always reach
    BigQuery (protocol notes, "Timestamps").
    """
    encoded: dict[str, Any] = {"name": event.name}
    if event.params:
        encoded["params"] = dict(event.params)
    encoded["timestamp_micros"] = (
        event.time_us if event.time_us is not None else event.stamp.wall_us
    )
    return encoded


def fitting(events: Sequence[Event]) -> int:
    """How many of these events, from the first, one request may carry; at least 1."""
    room = BODY_LIMIT - envelope_bytes(events[0])
    for number, event in enumerate(events[:EVENTS_MAX]):
        room -= len(jsontext.dumps(encode(event))) + (number > 0)  # and its comma
        if room <= 0:
            return max(number, 1)
    return min(len(events), EVENTS_MAX)


def too_large(event: Event) -> bool:
    """Whether the event does not even fit into a request of its own."""
    return envelope_bytes(event) + len(jsontext.dumps(encode(event))) >= BODY_LIMIT


def envelope_bytes(event: Event) -> int:
    """Bytes of the body beside its events."""
    return len(jsontext.dumps(event.sender.body | {"events": []}))


def _id_name(stream: Stream) -> str:
    return "firebase_app_id" if stream.is_app else "measurement_id"


def _id(stream: Stream) -> str:
    return stream.firebase_app_id or stream.measurement_id or ""
