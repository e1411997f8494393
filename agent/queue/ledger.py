"""The persistent counters: received = sent + queued + dead + what was dropped.

They are written in the transaction that moves the rows, so that the books balance across
crashes. Only what moves no event may be rounded by a crash, because it waits for the next
commit: ``refused``, and the traffic of requests that failed.
"""

import hashlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from agent.event import Sender

DAY_US = 86_400_000_000
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The counters at one moment. ``dropped`` and ``refused`` are by reason.

    ``repaired`` (what was changed so that GA4 takes it) and ``noted`` (what is worth knowing of
    what was taken or sent) are by kind; they are no part of the balance.
    """

    received: int = 0
    sent: int = 0
    queued: int = 0
    dead: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    repaired: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    requests: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every received event is accounted for, exactly."""
        known = self.sent + self.queued + self.dead + sum(self.dropped.values())
        return self.received == known


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as GA4 got it: the UTC day of the time that was sent, and a digest of whose it is.

    The digest is short and another one each day: it counts a client, and finds nobody again.
    """

    day: str
    stream: str
    name: str
    client: str

    @classmethod
    def of(cls, *, name: str, sender: Sender, stream: str, time_us: int) -> "Sent":
        """``stream``: the one it was sent to; ``time_us``: what its timestamp_micros said."""
        day = day_of(time_us)
        client = sender.client_id or sender.app_instance_id or ""
        digest = hashlib.blake2b(client.encode(), digest_size=6, key=day.encode()).hexdigest()
        return cls(day, stream, name, digest)


class Ledger:
    """The counters in memory, which follow what was committed."""

    def __init__(self) -> None:
        self._committed: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()

    def read(self, connection: sqlite3.Connection) -> None:
        """Start from what the file says."""
        with self._lock:
            self._committed = Counter(dict(connection.execute("SELECT counter, value FROM ledger")))

    def note(self, changes: Mapping[str, int]) -> None:
        """Count what moves no event; it is written with the next commit."""
        with self._lock:
            self._waiting.update(changes)

    def take_noted(self) -> Counter[str]:
        """What waits to be written. ``note`` it again if it was not."""
        with self._lock:
            waiting, self._waiting = self._waiting, Counter()
        return waiting

    @staticmethod
    def write(connection: sqlite3.Connection, changes: Counter[str]) -> None:
        """Add the changes to the file, inside the caller's transaction."""
        connection.executemany(
            "INSERT INTO ledger VALUES (?, ?) "
            "ON CONFLICT (counter) DO UPDATE SET value = value + excluded.value",
            [(counter, change) for counter, change in changes.items() if change],
        )

    def committed(self, changes: Counter[str]) -> None:
        """Follow a commit."""
        with self._lock:
            self._committed.update(changes)  # Counter.update adds, negative changes too

    def value(self, counter: str) -> int:
        """What is committed of one counter."""
        with self._lock:
            return self._committed[counter]

    @property
    def counters(self) -> Counter[str]:
        """All that is committed."""
        with self._lock:
            return Counter(self._committed)

    @property
    def books(self) -> Books:
        """The counters now, with what was noted since the last commit."""
        with self._lock:
            return books_of(self._committed + self._waiting)


def day_of(time_us: int) -> str:
    """The UTC day, ``YYYY-MM-DD``, of microseconds since 1970."""
    try:
        return date.fromordinal(EPOCH.toordinal() + time_us // DAY_US).isoformat()
    except (OverflowError, ValueError):  # a publisher can say any time
        return EPOCH.isoformat()


def books_of(counters: Mapping[str, int]) -> Books:
    """The books that these counters make; a counter that is missing is 0."""
    single = ("received", "sent", "queued", "dead", "requests", "bytes_sent", "bytes_received")
    return Books(
        **{name: counters.get(name, 0) for name in single},
        dropped=_by_reason(counters, "dropped."),
        refused=_by_reason(counters, "refused."),
        repaired=_by_reason(counters, "repaired."),
        noted=_by_reason(counters, "noted."),
    )


def _by_reason(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {
        counter.removeprefix(prefix): value
        for counter, value in sorted(counters.items())
        if counter.startswith(prefix) and value
    }
