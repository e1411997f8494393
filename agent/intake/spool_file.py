"""Files of the spool folder: one line of JSON for an event, and a way to leave one that stays.

An event is written with its stamp, stream and sender, so that it means the same when it is read
again, here or on another device. `parse` with ``Shape.SPOOL`` reads it.
"""

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import atomic_file, jsontext
from agent.event import UNASSIGNED, Event, RawMessage, Stamp

MODE = 0o660  # the folder's group is the service's: it must read what others leave


def line(item: Event | RawMessage) -> bytes:
    """What lay in the queue, as one line without its end."""
    return jsontext.dumps(_raw(item) if isinstance(item, RawMessage) else _fields(item))


def leave(directory: Path, name: str, payload: bytes) -> None:
    """Put a file into the spool folder; when it returns, it survives a power cut.

    Raises OSError.
    """
    atomic_file.write(directory / name, payload, mode=MODE)


def stamp_fields(stamp: Stamp) -> dict[str, Any]:
    """A stamp as spool files hold it."""
    return asdict(stamp)


def _fields(event: Event) -> dict[str, Any]:
    fields = {
        "name": event.name,
        "params": dict(event.params) or None,
        "timestamp_micros": event.time_us,
        "event_id": event.event_id,
        "priority": event.priority.name.lower(),
        "session": event.session,
        "actor": event.actor,
        # What came before any stream was configured goes to the default one.
        "stream": None if event.stream == UNASSIGNED else event.stream,
        "stamp": stamp_fields(event.stamp),
        "complete": True,
    }
    return {name: value for name, value in fields.items() if value is not None} | event.sender.body


def _raw(message: RawMessage) -> dict[str, Any]:
    return {
        "raw": base64.b64encode(message.payload).decode(),
        "source": message.source,
        "reason": message.reason,
        "stamp": stamp_fields(message.stamp),
    }
