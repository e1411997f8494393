"""The ledger by UTC day, stream and event name: what anyone can compare with GA4.

It is written in the transactions that move the rows, all changes of one in a few upserts. Its days
are those of the events, not of a clock: a clock that jumps makes no day disappear. Only what was
sent is known to lie on its day. So the days up to the newest one on which something was sent have
their places, and those ahead of it, which a wrong clock may have made up, have places of their own.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

from agent.event import Event, RawMessage
from agent.queue.ledger import day_of

KEPT = 35  # days on which something happened; of those ahead as many
OF_CLIENTS = 2  # days for which clients are counted: GA4's limit is per day
NAME_MAX = 60  # characters: GA4 takes 40
SINCE = "2025-01-01"  # no agent ran before: a clock that shows an earlier day was never set
OTHER = "(other)"  # the names beyond those that a day may have
RAW, DAMAGED = "(raw message)", "(damaged)"
CLIENT = "client"  # the counter of a client's events; its rows have a digest for a name
CLIENTS_TOGETHER = 25  # events of clients that are written at once: each by itself costs a page
EVENTS_OF_A_CLIENT = 100_000  # per day: GA4 counts no more of a user
EVENT_NAMES = 500  # of an app stream; a web stream may have any number
NEAR = 0.8  # of a limit

Place = tuple[str, str, str]  # day, stream, event
DayKey = tuple[str, str, str, str]  # and counter

_UPSERT = (
    "INSERT INTO ledger_days VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (day, stream, event, counter) DO UPDATE SET value = value + excluded.value"
)
# One seek a day: DISTINCT would read every row.
_ALL_DAYS = (
    "WITH RECURSIVE found (day) AS (SELECT MIN(day) FROM ledger_days UNION ALL "
    "SELECT (SELECT MIN(day) FROM ledger_days WHERE day > found.day) FROM found "
    "WHERE found.day IS NOT NULL) SELECT day FROM found WHERE day IS NOT NULL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRow:
    """What became of the events with one name, of one stream and UTC day.

    ``received`` and ``dead`` are counted on the day of the device's clock when they were taken,
    ``dropped`` (by reason) too, ``sent`` on the day that GA4 was told.
    """

    day: str
    stream: str
    event: str
    received: int = 0
    sent: int = 0
    dead: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Near:
    """How near a stream is to one of GA4's limits, beyond which GA4 drops events in silence.

    ``events_of_a_client``: the most that one client had on a day; ``event_names``: how many
    different ones there were in all days that are kept, limited for app streams only.
    """

    stream: str
    what: Literal["events_of_a_client", "event_names"]
    found: int
    limit: int


def place_of(item: Event | RawMessage | None, stream: str = "?", written: float = 0.0) -> Place:
    """Day, stream and event under which an item is counted; of a damaged row by its columns."""
    if isinstance(item, Event):
        return day_of(item.stamp.wall_us), item.stream, item.name
    if item is None:
        return day_of(int(written * 1e6)), stream, DAMAGED
    return day_of(item.stamp.wall_us), "?", RAW


class Days:
    """Writes the days, and keeps them few: days, names a day, and clients a day."""

    def __init__(self, *, names: int, clients: int) -> None:
        """``names``, ``clients``: how many a day and stream may have."""
        self._most = {False: names, True: clients}
        self._known: set[str] = set()
        self._crowded: set[tuple[str, str, bool]] = set()
        self._clients: Counter[DayKey] = Counter()
        self._with_clients: set[str] = set()

    def write(self, connection: sqlite3.Connection, changes: Mapping[DayKey, int]) -> None:
        """Add the changes to the file, inside the caller's transaction.

        Those of clients wait until there are some: a crash may round them, and them alone.
        """
        self._add(connection, {key: n for key, n in changes.items() if key[-1] != CLIENT})
        self._clients.update({key: n for key, n in changes.items() if key[-1] == CLIENT})
        if self._clients.total() >= CLIENTS_TOGETHER:
            clients, self._clients = self._clients, Counter()
            self._add(connection, clients)
            self._trim_clients(connection, {key[0] for key in clients})

    def _add(self, connection: sqlite3.Connection, changes: Mapping[DayKey, int]) -> None:
        for (day, stream, event, counter), change in changes.items():
            if not change:
                continue
            name = self._admitted(connection, (day, stream, event[:NAME_MAX], counter))
            if name is not None:
                connection.execute(_UPSERT, (day, stream, name, counter, change))
        if not {key[0] for key in changes} <= self._known:
            self._trim(connection, {key[0] for key in changes if key[-1] == "received"})

    def _admitted(self, connection: sqlite3.Connection, key: DayKey) -> str | None:
        """The name under which it is counted; None for a client that is one too many."""
        day, stream, event, counter = key
        is_client = counter == CLIENT
        where = f"day = ? AND stream = ? AND counter {'=' if is_client else '<>'} '{CLIENT}'"
        known = f"SELECT 1 FROM ledger_days WHERE {where} AND event = ? LIMIT 1"
        if connection.execute(known, (day, stream, event)).fetchone():
            return event
        crowd = (day, stream, is_client)
        if crowd not in self._crowded:
            count = f"SELECT COUNT(DISTINCT event) FROM ledger_days WHERE {where}"
            if connection.execute(count, (day, stream)).fetchone()[0] < self._most[is_client]:
                return event
            self._crowded.add(crowd)
        return None if is_client else OTHER

    def _trim(self, connection: sqlite3.Connection, taken: set[str]) -> None:
        """When a day has begun: forget the days that have no place.

        ``taken``: the days of what was just taken, by the clock as it stands now.
        """
        sent, ahead = _sent_and_ahead(connection)
        kept = {*sent[:KEPT], *_believed_first(ahead, taken)[:KEPT]}
        kept |= {day for day in taken if day < SINCE}  # it was taken today; gone with the next day
        gone = [(day,) for day in (*sent, *ahead) if day not in kept]
        connection.executemany("DELETE FROM ledger_days WHERE day = ?", gone)
        self._known = kept
        self._crowded.clear()

    def _trim_clients(self, connection: sqlite3.Connection, days: set[str]) -> None:
        """When clients are counted on another day: forget those of the days before yesterday."""
        if days <= self._with_clients:
            return
        newest = list(_with_clients(connection, _newest_first(connection)))
        self._with_clients = {*newest, *days}
        sql = f"DELETE FROM ledger_days WHERE day < ? AND counter = '{CLIENT}'"
        # None is there if all were counted on days that are too old to be kept.
        connection.executemany(sql, [(day,) for day in newest[-1:]])


def read_days(
    connection: sqlite3.Connection, *, last: int = KEPT, stream: str | None = None
) -> list[DayRow]:
    """The newest days, the oldest of them first; of one stream or of all.

    So many up to the newest day on which something was sent, and as many of those ahead of it;
    with KEPT all of these.
    """
    sent, ahead = _sent_and_ahead(connection)
    days = [*sent[:last], *(ahead[:last] if last < KEPT else ahead)]
    marks = ",".join("?" * len(days))
    sql = (
        f"SELECT day, stream, event, counter, value FROM ledger_days WHERE day IN ({marks}) "
        f"AND counter <> '{CLIENT}' AND value <> 0 AND (? IS NULL OR stream = ?) "
        "ORDER BY day, stream, event, counter"
    )
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for day, of, event, counter, value in connection.execute(sql, (*days, stream, stream)):
        found.setdefault((day, of, event), {})[counter] = value
    return [_row(place, counters) for place, counters in found.items()]


def limits(connection: sqlite3.Connection) -> list[Near]:
    """Where each stream stands; ``event_names`` as if every one were an app stream."""
    days = _newest_first(connection)
    most: Counter[str] = Counter()
    for day in _with_clients(connection, days):
        sql = (
            "SELECT stream, MAX(value) FROM ledger_days "
            f"WHERE day = ? AND counter = '{CLIENT}' GROUP BY stream"
        )
        for stream, value in connection.execute(sql, (day,)):
            most[stream] = max(most[stream], value)
    names = connection.execute(
        "SELECT stream, COUNT(DISTINCT event) FROM ledger_days WHERE counter = 'sent' "
        "GROUP BY stream"
    ).fetchall()
    return [
        *(Near(s, "events_of_a_client", n, EVENTS_OF_A_CLIENT) for s, n in sorted(most.items())),
        *(Near(s, "event_names", n, EVENT_NAMES) for s, n in sorted(names)),
    ]


def nearness(figures: Sequence[Near], apps: Collection[str]) -> list[Near]:
    """Those at 80 % of their limit or over it. ``apps``: the names of app streams."""
    return [
        one
        for one in figures
        if one.found >= NEAR * one.limit and (one.what != "event_names" or one.stream in apps)
    ]


def _newest_first(connection: sqlite3.Connection) -> list[str]:
    return sorted((day for (day,) in connection.execute(_ALL_DAYS)), reverse=True)


def _sent_and_ahead(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
    """The days up to the newest one on which something was sent, and those ahead; newest first."""
    days = _newest_first(connection)
    sql = "SELECT 1 FROM ledger_days WHERE day = ? AND counter = 'sent' LIMIT 1"
    first = next(
        (n for n, day in enumerate(days) if connection.execute(sql, (day,)).fetchone()), None
    )
    return ([], days) if first is None else (days[first:], days[:first])


def _believed_first(ahead: Sequence[str], taken: Collection[str]) -> list[str]:
    """Days that nothing was sent on yet, in the order in which they deserve a place.

    The newest first. But days that lie far ahead of what is being taken were made up by a clock
    that has been set back since: they come last, the furthest at the end.
    """
    horizon = _after(max((day for day in taken if day >= SINCE), default="9999-12-31"))
    return [day for day in ahead if day <= horizon] + [day for day in ahead[::-1] if day > horizon]


def _after(day: str) -> str:
    """The day that is so much later that all between have a place."""
    try:
        return (date.fromisoformat(day) + timedelta(days=KEPT - 1)).isoformat()
    except OverflowError:
        return day


def _with_clients(connection: sqlite3.Connection, days: Sequence[str]) -> Iterator[str]:
    """The newest days on which clients were counted."""
    sql = f"SELECT 1 FROM ledger_days WHERE day = ? AND counter = '{CLIENT}' LIMIT 1"
    left = OF_CLIENTS
    for day in days:
        if left and connection.execute(sql, (day,)).fetchone():
            left -= 1
            yield day


def _row(place: tuple[str, str, str], counters: Mapping[str, int]) -> DayRow:
    day, stream, event = place
    single = {name: counters.get(name, 0) for name in ("received", "sent", "dead")}
    dropped = {
        counter.removeprefix("dropped."): value
        for counter, value in counters.items()
        if counter.startswith("dropped.")
    }
    return DayRow(day=day, stream=stream, event=event, **single, dropped=dropped)
