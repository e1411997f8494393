"""What came to the door lately, for somebody who looks on: `tail`."""

import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any

from agent.intake import spool_file
from agent.intake.message import Message
from agent.intake.parse import Draft, Element, Misfit
from agent.intake.sorting import Ready, Sorted

KEEP = 1024 * 1024  # bytes between two looks, about; what is beyond is counted as missed
PART = 1024  # bytes that an event or a refusal takes beside the message's own
WATCHED_S = 10.0  # seconds after a look for which it is worth keeping any
NAME_MAX = 40  # characters of an event's name: of one that GA4 takes it is all
_PLACE = re.compile(r"(?:events)?\[[0-9]+\]")


@dataclass(frozen=True, slots=True)
class Names:
    """Which events of a message were not taken, as far as that can be told.

    ``rejected``: one for each error, "" where it is not known. ``duplicates``: all of them or none.
    """

    rejected: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """What a source did not let through to the door: the ledger's reason, and why, for people."""

    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A message that came in: when by the wall clock, where from, and what it became."""

    number: int
    at: float
    source: str
    became: Sorted
    size: int
    """Bytes in memory, about."""
    names: Names = Names()
    turned_away: TurnedAway | None = None


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
        ``event`` of what is rejected: its name, where that is known.
        """
        return {
            "newest": self.newest,
            "missed": self.missed,
            "sightings": [_document(sighting) for sighting in self.sightings],
        }


def _document(sighting: Sighting) -> dict[str, Any]:
    items = [json.loads(spool_file.line(item)) for item in sighting.became.stored]
    at = datetime.fromtimestamp(sighting.at, UTC).isoformat(timespec="milliseconds")
    return {
        "time": at,
        "source": sighting.source,
        "items": items,
        "rejected": list(_rejected(sighting)),
        "counts": dict(sighting.became.counts),
        "duplicates": sighting.became.duplicates,
        "duplicate_events": list(sighting.names.duplicates),
        "turned_away": asdict(sighting.turned_away) if sighting.turned_away else None,
    }


def _rejected(sighting: Sighting) -> Iterator[dict[str, str]]:
    names = chain(sighting.names.rejected, repeat(""))
    for error, name in zip(sighting.became.rejected, names, strict=False):
        said = {
            "fieldPath": error.field_path,
            "description": error.description,
            "validationCode": error.code,
        }
        yield {**said, "event": name} if name else said


def _names(message: Message, became: Sorted) -> Names:
    """Read the message once more: what is not stored has left nothing but its place."""
    if not became.rejected and not became.duplicates:
        return Names()
    try:
        parsed = message.parsed()
    except ValueError:
        return Names()
    said = [_name(element, message) for element in parsed.elements]
    at = {parsed.place(index): name for index, name in enumerate(said)}
    places = [_place(error.field_path, alone=not parsed.within) for error in became.rejected]
    only = said[0] if len(said) == 1 else ""
    gone = Counter(said) - Counter(_stored(became)) - Counter(at.get(p, "") for p in set(places))
    return Names(
        rejected=tuple(at.get(place, only) for place in places),
        duplicates=tuple(gone.elements()) if gone.total() == became.duplicates else (),
    )


def _place(path: str, *, alone: bool) -> str:
    """Where in its message the event stands of which a path of an error speaks."""
    found = _PLACE.match(path)
    return "" if alone or found is None else found[0]


def _name(element: Element, message: Message) -> str:
    """The name of an element; "" if it has none, or nobody knows."""
    if isinstance(element, Draft):
        return element.name[:NAME_MAX]
    mapped = message.rule is not None and "name" in message.rule.texts
    if not isinstance(element, Misfit) or mapped:  # what a mapping reads may name anything
        return ""
    try:
        name = json.loads(element.payload)["name"]
    except (ValueError, TypeError, KeyError):
        return ""
    return name[:NAME_MAX] if isinstance(name, str) else ""


def _stored(became: Sorted) -> Iterator[str]:
    for item in became.items:
        if isinstance(item, Ready):
            yield item.event.name[:NAME_MAX]


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
        """A message was taken or refused by the door."""
        with self._lock:
            if not self._watched():
                return
            parts = 1 + len(became.items) + len(became.rejected)
            size = len(message.payload) + PART * parts
            number, at = self._newest, self._wall()
            names = _names(message, became)
            self._keep(Sighting(number, at, message.source, became, size, names))

    def turned_away(self, source: str, reason: str, why: str) -> None:
        """A source let something not through to the door. ``why`` repeats nothing secret."""
        with self._lock:
            if self._watched():
                away = TurnedAway(reason, why)
                number, at = self._newest, self._wall()
                self._keep(Sighting(number, at, source, Sorted(), PART, turned_away=away))

    def _watched(self) -> bool:
        """Count something new; whether it is worth keeping."""
        self._newest += 1
        if self._looked_at is None:
            return False
        if self._monotonic() - self._looked_at > WATCHED_S:
            self._looked_at = None
            self._forget(down_to=0)
            return False
        return True

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
