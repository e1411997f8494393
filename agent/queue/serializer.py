"""Event to bytes and back: JSON behind a CRC, never pickle.

The signatures are those that persist-queue asks of a serializer, so that a plain
``SQLiteAckQueue`` can read and write the same file.
"""

import base64
import zlib
from typing import Any

from agent import jsontext
from agent.event import NOTHING, Beginning, Event, Priority, RawMessage, Sender, Stamp
from agent.jsontext import NotJson

CRC_DIGITS = 8
ROW_DEPTH = jsontext.MAX_DEPTH + 4  # a row wraps what the door let in


class DamagedRow(ValueError):  # noqa: N818 - named after what was found
    """The bytes are not what was written; the event cannot be trusted."""


def dumps(item: Event | RawMessage, sort_keys: bool = False) -> bytes:  # noqa: ARG001 - persist-queue's signature
    """Bytes that ``loads`` turns into an equal item."""
    text = jsontext.dumps(_raw_fields(item) if isinstance(item, RawMessage) else _fields(item))
    return b"%08x %s" % (zlib.crc32(text), text)


def loads(data: bytes) -> Event | RawMessage:
    """The item that was written. Raises DamagedRow when even one bit is another."""
    text = data[CRC_DIGITS + 1 :]
    if data[: CRC_DIGITS + 1] != b"%08x " % zlib.crc32(text):
        raise DamagedRow("cannot read a queued event: its checksum is wrong")
    try:
        fields = jsontext.loads(text, max_depth=ROW_DEPTH)
        return _raw(fields) if "raw" in fields else _event(fields)
    except (NotJson, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedRow(f"cannot read a queued event: {type(error).__name__}") from None


def _fields(event: Event) -> dict[str, Any]:
    fields = {
        "name": event.name,
        "params": event.params or None,
        "stream": event.stream,
        "sender": _sender_fields(event.sender),
        "stamp": _stamp_fields(event.stamp),
        "event_id": event.event_id,
        "priority": int(event.priority),
        "time_us": event.time_us,
        "session": event.session,
        "actor": event.actor,
        "sitting": event.sitting and [event.sitting.client, _stamp_fields(event.sitting.start)],
    }
    return {key: value for key, value in fields.items() if value is not None}


def _event(fields: dict[str, Any]) -> Event:
    return Event(
        name=fields["name"],
        params=jsontext.frozen(fields.get("params", NOTHING)),
        stream=fields["stream"],
        sender=_sender(fields["sender"]),
        stamp=_stamp(fields["stamp"]),
        event_id=fields["event_id"],
        priority=Priority(fields["priority"]),
        time_us=fields.get("time_us"),
        session=fields.get("session"),
        actor=fields.get("actor"),
        sitting=_beginning(fields["sitting"]) if "sitting" in fields else None,
    )


def _raw_fields(message: RawMessage) -> dict[str, Any]:
    return {
        "raw": base64.b64encode(message.payload).decode(),
        "source": message.source,
        "reason": message.reason,
        "stamp": _stamp_fields(message.stamp),
        "why": message.why,
    }


def _raw(fields: dict[str, Any]) -> RawMessage:
    payload = base64.b64decode(fields["raw"])
    stamp, why = _stamp(fields["stamp"]), fields.get("why", "")
    return RawMessage(fields["source"], fields["reason"], payload, stamp, why)


def _beginning(fields: list[Any]) -> Beginning:
    client, start = fields
    return Beginning(client, _stamp(start))


def _stamp_fields(stamp: Stamp) -> list[Any]:
    return [stamp.wall_us, stamp.boot_us, stamp.boot_id, stamp.trusted]


def _stamp(fields: list[Any]) -> Stamp:
    wall_us, boot_us, boot_id, trusted = fields
    return Stamp(wall_us, boot_us, boot_id, trusted)


def _sender_fields(sender: Sender) -> dict[str, Any]:
    fields = {name: getattr(sender, name) for name in Sender.__slots__}
    return {name: value for name, value in fields.items() if value is not None and value != {}}


def _sender(fields: dict[str, Any]) -> Sender:
    values: dict[str, Any] = {
        name: jsontext.frozen(value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return Sender(**values)
