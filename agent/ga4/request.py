"""Events to the request that carries them (Measurement Protocol reference, "Transport")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent import jsontext
from agent.event import Event, Json, Sender, Stream
from agent.ga4.departure import Departing, largest

EVENTS_MAX = 25  # events in a request: sending-events guide, "Limitations"
BODY_LIMIT = 130_000  # a body must be smaller; the unit is undefined, so the smaller kB
PATH = "/mp/collect"
# Never counts anything, wants no secret to be asked, and answers with a Date like all else there.
PROBE_PATH = "/debug/mp/collect"


@dataclass(frozen=True, slots=True)
class Request:
    """A POST. The query holds the api_secret, so it is never shown."""

    url: str
    query: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def build(departing: Sequence[Departing], stream: Stream) -> Request:
    """The request for events of one sender. The stream has a secret."""
    if stream.secret is None:
        raise ValueError(f"cannot build a request: the stream {stream.name} has no secret")
    newest_us = max(each.happened_us for each in departing)
    envelope = _envelope(departing[0].event.sender, newest_us)
    body = envelope | {"events": [_encoded(each) for each in departing]}
    query = {_id_name(stream): _id(stream), "api_secret": stream.secret.reveal()}
    return Request(stream.endpoint + PATH, query, jsontext.dumps(body))


def probe(stream: Stream) -> Request:
    """A request without events, only to hear what time it is there.

    Not to the collecting path, not even empty: nobody knows what an own container counts.
    """
    return Request(stream.endpoint + PROBE_PATH, {}, b"")


def encode(event: Event) -> dict[str, Any]:
    """The event as GA4 takes it, with its time as the device's clock told it.

    The time stands on each event, beside ``name``: request-level times did not always reach
    BigQuery (protocol notes, "Timestamps").
    """
    time_us = event.time_us if event.time_us is not None else event.stamp.wall_us
    return _with_time(event.name, event.params, time_us)


def fitting(departing: Sequence[Departing]) -> int:
    """How many of these events, from the first, one request may carry; at least 1."""
    # The longest of the times that may turn out to be the newest: of usual ones all are equal.
    longest_us = max((each.happened_us for each in departing), key=lambda us: len(str(us)))
    room = BODY_LIMIT - _envelope_bytes(departing[0].event.sender, longest_us)
    for number, each in enumerate(departing[:EVENTS_MAX]):
        room -= len(jsontext.dumps(_encoded(each))) + (number > 0)  # and its comma
        if room <= 0:
            return max(number, 1)
    return min(len(departing), EVENTS_MAX)


def too_large(event: Event) -> bool:
    """Whether the event may not even fit into a request of its own, with all that it leaves with.

    That is a little more than most leave with: what is taken must fit whenever it leaves.
    """
    full = largest(event)
    envelope_bytes = _envelope_bytes(event.sender, full.happened_us)
    return envelope_bytes + len(jsontext.dumps(_encoded(full))) >= BODY_LIMIT


def _encoded(departing: Departing) -> dict[str, Any]:
    return _with_time(departing.event.name, departing.params, departing.time_us)


def _with_time(name: str, params: Mapping[str, Json], time_us: int) -> dict[str, Any]:
    shown = {"params": dict(params)} if params else {}
    return {"name": name, **shown, "timestamp_micros": time_us}


def _envelope(sender: Sender, newest_us: int) -> dict[str, Any]:
    """The body without its events.

    User properties get the time of the newest event: without one GA4 would take them for news,
    and an old backlog would put old values back.
    """
    body = sender.body
    if sender.user_properties:
        body["user_properties"] = {
            name: _timed(value, newest_us) for name, value in sender.user_properties.items()
        }
    return body


def _timed(value: Json, time_us: int) -> Json:
    if isinstance(value, Mapping) and "timestamp_micros" not in value:
        return {**value, "timestamp_micros": time_us}
    return value


def _envelope_bytes(sender: Sender, newest_us: int) -> int:
    return len(jsontext.dumps(_envelope(sender, newest_us) | {"events": []}))


def _id_name(stream: Stream) -> str:
    return "firebase_app_id" if stream.is_app else "measurement_id"


def _id(stream: Stream) -> str:
    return stream.firebase_app_id or stream.measurement_id or ""
