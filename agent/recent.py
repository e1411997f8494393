"""What the door took lately, for somebody who looks on: `tail`."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.intake import spool_file
from agent.intake.message import Message
from agent.intake.sorting import Sorted

KEEP = 1024 * 1024  # bytes between two looks, about; what is beyond is counted as missed
PART = 1024  # bytes that an event or a refusal takes beside the message's own
WATCHED_S = 10.0  # seconds after a look for which it is worth keeping any


@dataclass(frozen=True, slots=True)
class Sighting:
    """A message that came in: when by the wall clock, where from, and what it became."""

    number: int
    at: float
    source: str
    became: Sorted
    size: int
    """Bytes in memory, about."""


@dataclass(frozen=True, slots=True)
class Look:
    """What came after a number: the newest number, how many are not kept any more, and the rest."""

    newest: int
    missed: int
    sightings: tuple[Sighting, ...]

    @property
    def document(self) -> dict[str, Any]:
        """The JSON of it: events and dead letters as spool files hold them.

        ``counts``: what was repaired or noted of a message's events, as the ledger has it.
        """
        return {
            "newest": self.newest,
            "missed": self.missed,
            "sightings": [_document(sighting) for sighting in self.sightings],
        }


def _document(sighting: Sighting) -> dict[str, Any]:
    rejected = [
        {"fieldPath": e.field_path, "description": e.description, "validationCode": e.code}
        for e in sighting.became.rejected
    ]
    items = [json.loads(spool_file.line(item)) for item in sighting.became.stored]
    at = datetime.fromtimestamp(sighting.at, UTC).isoformat(timespec="milliseconds")
    return {
        "time": at,
        "source": sighting.source,
        "items": items,
        "rejected": rejected,
        "counts": dict(sighting.became.counts),
        "duplicates": sighting.became.duplicates,
    }


class Recent:
    """Keeps sightings while somebody looks on; else only counts. Any thread may call it."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._lock = threading.Lock()
        self._kept: deque[Sighting] = deque()
        self._size = 0
        self._newest = 0
        self._looked_at: float | None = None

    def note(self, message: Message, became: Sorted) -> None:
        """A message was taken or refused."""
        with self._lock:
            self._newest += 1
            if self._looked_at is None:
                return
            if self._monotonic() - self._looked_at > WATCHED_S:
                self._looked_at = None
                self._forget(down_to=0)
                return
            parts = 1 + len(became.items) + len(became.rejected)
            size = len(message.payload) + PART * parts
            self._keep(Sighting(self._newest, self._wall(), message.source, became, size))

    def _keep(self, sighting: Sighting) -> None:
        self._kept.append(sighting)
        self._size += sighting.size
        self._forget(down_to=KEEP)

    def _forget(self, *, down_to: int) -> None:
        while self._size > down_to:
            self._size -= self._kept.popleft().size

    def after(self, number: int | None) -> Look:
        """What came after a look's ``newest``; None is the first look, which sees nothing yet.

        A number that was never given is one of an earlier run: everything since then was missed.
        """
        with self._lock:
            self._looked_at = self._monotonic()
            since = self._newest if number is None else number
            since = since if 0 <= since <= self._newest else 0
            found = tuple(sighting for sighting in self._kept if sighting.number > since)
            return Look(self._newest, self._newest - since - len(found), found)
