"""What must have become of every event, judged from outside the agent.

It knows what the publishers saw (``Book``), what was done to the machine (``Chronicle``), what the
local GA4 recorded, and what two commands say: the dead letters and the ledger. It imports nothing
of the agent. An event is a number; what is kept of each is some 60 bytes, so that hours fit.
"""

import base64
import bisect
import json
import re
import threading
import time
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

SPAN = 100_000_000  # numbers of one source
TIME_ERROR = 2.0  # seconds by which the time of an event may be off where the clock was trusted
TIMEOUT = 5.0  # seconds for one request, as the agent is configured
LAG = 1.0  # seconds in which the local GA4 may still read what a dead agent has sent
BROKER_MEMORY = 120.0  # seconds of messages that a killed broker may hand out again
UNRECORDED = 1000  # events that may be delivered while no delivery can be recorded
SHOWN = 20  # numbers that a violation names
IN_RAW = re.compile(rb"number=(\d+)")
EVENT_ID_OF_RAW = re.compile(rb'"id": ?(\d+)')


class Fate(IntEnum):
    """What the publisher of an event was told."""

    OPEN = 0  # nothing, so it may have been taken or not
    TAKEN = 1  # an obligation
    REFUSED = 2  # a 4xx, or named among what was refused
    UNSENT = 3  # nobody listened
    TURNED_AWAY = 4  # 503
    DOUBTFUL = 5  # acknowledged by a broker that was killed before it had it on its disk


class Book:
    """The events of one source, and what their publisher knows of each. Any thread may call.

    ``own_ids``: each names its ``event_id``. ``clock``: what their times are to be measured by:
    ``stamped`` (the agent took them while the publisher waited), ``said`` (they name the moment at
    which they were opened), ``later`` (not before that moment), or empty. ``session``: they belong
    to the sitting of their moment. ``ends``: ``sent``; ``refused`` by the endpoint, so that they
    are dead letters; ``raw``: dead letters that are no events. ``redelivered``: a broker that is
    killed may hand them out twice.
    """

    def __init__(
        self,
        source: str,
        index: int,
        *,
        own_ids: bool = False,
        clock: str = "",
        session: bool = False,
        ends: str = "sent",
        redelivered: bool = False,
    ) -> None:
        self.source = source
        self.first = index * SPAN
        self.own_ids = own_ids
        self.clock = clock
        self.session = session
        self.ends = ends
        self.redelivered = redelivered
        self._lock = threading.Lock()
        self.fates = bytearray()
        self.began = array("d")
        self.ended = array("d")

    def open(self, at: float | None = None) -> int:
        """The number of a new event, which is about to be handed in."""
        with self._lock:
            self.fates.append(Fate.OPEN)
            self.began.append(time.time() if at is None else at)
            self.ended.append(0.0)
            return self.first + len(self.fates) - 1

    def settle(self, number: int, fate: Fate, at: float | None = None) -> None:
        """What its publisher was told, now."""
        with self._lock:
            self.fates[number - self.first] = fate
            self.ended[number - self.first] = time.time() if at is None else at

    def numbers(self, fate: Fate) -> list[int]:
        """Those of this fate."""
        return [self.first + index for index, each in enumerate(self.fates) if each == fate]

    def __len__(self) -> int:
        return len(self.fates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that was done to the machine, in seconds since 1970."""

    kind: str
    began: float
    ended: float
    detail: str = ""


@dataclass(slots=True)
class Boot:
    """From when the machine ran, and when its agent was first seen to trust the clock."""

    began: float
    trusted_at: float | None = None


@dataclass
class Chronicle:
    """All that was done to the machine, in the order in which it was over.

    ``kills``: from when to when the agent was being ended. ``found``: violations that somebody saw
    while it ran, as rule and text.
    """

    troubles: list[Trouble] = field(default_factory=list)
    kills: list[tuple[float, float]] = field(default_factory=list)
    boots: list[Boot] = field(default_factory=list)
    found: list[tuple[str, str]] = field(default_factory=list)

    def during(self, *kinds: str) -> list[tuple[float, float]]:
        """When there was such trouble."""
        return [(t.began, t.ended) for t in self.troubles if t.kind in kinds]


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken; ``numbers``: some of the events that show it."""

    rule: str
    text: str
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        shown = f": {', '.join(map(str, self.numbers))}" if self.numbers else ""
        return f"{self.rule}: {self.text}{shown}"


def proof(number: int, seed: int) -> int:
    """What an event carries to show that a publisher of this run made it."""
    return zlib.crc32(f"{seed}:{number}".encode())


class _Arrivals:
    """What arrived of one book, by index: of the row that came last when, and how surely."""

    def __init__(self, size: int) -> None:
        self.copies = bytearray(size)  # 255 stands for more
        self.row = array("q", bytes(8 * size))
        self.at = array("d", bytes(8 * size))
        self.unclear = bytearray(size)
        self.dead = bytearray(size)


class Oracle:
    """Reads everything once the run is over, and says what was not as promised.

    ``at_most``: events that a kill can catch between sending and recording: connections x 25.
    """

    def __init__(
        self, *, books: Iterable[Book], chronicle: Chronicle, seed: int, at_most: int
    ) -> None:
        self._books = {book.first // SPAN: book for book in books}
        self._seed = seed
        self._chronicle = chronicle
        self._at_most = at_most
        self._arrivals = {index: _Arrivals(len(book)) for index, book in self._books.items()}
        self._bad: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._dropped = 0
        self._caught: Counter[float] = Counter()  # repeats, by the end of the kill
        self._windows = [_reach(kill, chronicle) for kill in chronicle.kills]
        self._slow = chronicle.during("delay", "down")
        self._broker_kills = [began for began, _ in chronicle.during("broker_kill")]
        self._boot_starts = [boot.began for boot in chronicle.boots]
        self._sessions: dict[int, dict[int, int]] = defaultdict(dict)  # boot: session: an event
        self.rows = 0  # that arrived
        self.arrived_and_died = 0  # delivered, unheard of, and then set aside
        self.dead_rows = 0
        self.repeats: Counter[str] = Counter()  # by what explains them
        self.reasons: Counter[str] = Counter()  # of the dead letters
        self.worst_delay = 0.0

    # -- what the local GA4 has -------------------------------------------------------------

    def read_record(self, path: Path) -> None:
        """All that arrived; ``path``: the NDJSON of the local GA4."""
        with path.open("rb") as lines:
            for line in lines:
                request = json.loads(line)
                if request["counted"] and request["path"] == "/mp/collect":
                    unclear = self._answer_unclear(request)
                    for event in request["body"]["events"]:
                        self._arrived(event, request["at"], unclear=unclear)

    def _answer_unclear(self, request: Mapping[str, Any]) -> bool:
        """Whether the agent may not have heard that it was taken."""
        at = request["at"]
        if request["answered"] in ("cut_after", "drip"):
            return True
        return any(began - LAG <= at <= ended + LAG for began, ended in self._slow)

    def _arrived(self, event: Mapping[str, Any], at: float, *, unclear: bool) -> None:
        params = event.get("params") or {}
        number = params.get("id")
        found = self._find(number)
        if found is None or params.get("proof") != proof(number, self._seed):
            self._note("invented", "events arrived that nobody sent", number or -1)
            return
        book, index = found
        if book.fates[index] in (Fate.REFUSED, Fate.UNSENT):
            self._note("refused", "events arrived that were refused or never left", number)
        if book.ends != "sent":
            self._note("refused", "events were counted that the endpoint refuses", number)
        self._place(book, index, params.get("event_id", ""), at, unclear=unclear)
        self._check_time(book, index, event["timestamp_micros"] / 1e6, at)
        self._check_session(book, index, params)

    def _place(self, book: Book, index: int, event_id: str, at: float, *, unclear: bool) -> None:
        """Count a copy; a second one needs a reason."""
        seen, row = self._arrivals[book.first // SPAN], _row(event_id)
        if not seen.copies[index]:
            self.rows += 1
            if book.fates[index] == Fate.TAKEN:
                self.worst_delay = max(self.worst_delay, at - book.began[index])
        elif seen.row[index] != row:
            self.rows += 1
            self._second_row(book, index)
        else:
            self._second_copy(book, index, seen, at)
        seen.copies[index] = min(seen.copies[index] + 1, 255)
        seen.row[index], seen.at[index], seen.unclear[index] = row, at, unclear

    def _second_row(self, book: Book, index: int) -> None:
        """It was taken twice."""
        began = book.began[index]
        if book.redelivered and any(
            kill - BROKER_MEMORY <= began <= kill + LAG for kill in self._broker_kills
        ):
            self.repeats["handed out again by a killed broker"] += 1
            return
        self._note("doubled", "events were taken twice", book.first + index)

    def _second_copy(self, book: Book, index: int, seen: _Arrivals, at: float) -> None:
        """It was sent twice."""
        if seen.unclear[index]:
            self.repeats["sent again after an unclear answer"] += 1
            return
        for (since, until), kill in zip(self._windows, self._chronicle.kills, strict=True):
            before_it = since <= seen.at[index] <= until + LAG and at >= kill[0]
            if before_it and self._caught[kill[1]] < self._limit(kill):
                self._caught[kill[1]] += 1
                self.repeats["in flight at a kill"] += 1
                return
        self._note("doubled", "events were sent twice without a reason", book.first + index)

    def _limit(self, kill: tuple[float, float]) -> int:
        """How many repeats a kill can cause: more on a disk that takes no record of deliveries."""
        blind = self._chronicle.during("full_disk", "read_only")
        is_blind = any(began <= kill[1] and kill[0] <= ended for began, ended in blind)
        return max(self._at_most, UNRECORDED) if is_blind else self._at_most

    # -- times and sessions -------------------------------------------------------------------

    def _check_time(self, book: Book, index: int, said: float, at: float) -> None:
        began, ended = book.began[index], book.ended[index]
        if said > at + TIME_ERROR:
            self._note("time", "events are of the future", book.first + index)
        boot = self._boot_of(began, at if book.clock == "later" else ended)
        if not book.clock or (book.clock != "said" and not self._trusted(boot)):
            return
        latest = {"stamped": ended, "said": began, "later": at}[book.clock]
        off = max(began - said, said - latest)
        if off > TIME_ERROR and ended:
            self._note("time", f"events are off by more than {TIME_ERROR} s", book.first + index)

    def _trusted(self, boot: int | None) -> bool:
        return boot is not None and self._chronicle.boots[boot].trusted_at is not None

    def _boot_of(self, began: float, ended: float) -> int | None:
        """In which boot both were; None if in two."""
        found = bisect.bisect(self._boot_starts, began) - 1
        same = found >= 0 and bisect.bisect(self._boot_starts, ended) - 1 == found
        return found if same else None

    def _check_session(self, book: Book, index: int, params: Mapping[str, Any]) -> None:
        boot = self._boot_of(book.began[index], book.ended[index])
        if book.session and boot is not None and book.ended[index]:
            session = params.get("session_id", 0)
            self._sessions[boot].setdefault(session, book.first + index)

    # -- what the commands say ------------------------------------------------------------------

    def read_dead(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The dead letters, as ``dead list --json`` shows them."""
        for row in rows:
            self.dead_rows += 1
            self.reasons[row.get("reason") or "?"] += 1
            for number in _numbers_in(row):
                self._died(number, row)

    def _died(self, number: int, row: Mapping[str, Any]) -> None:
        found = self._find(number)
        if found is None:
            self._note("invented", "dead letters hold what nobody sent", number)
            return
        book, index = found
        seen = self._arrivals[book.first // SPAN]
        seen.dead[index] = 1
        reason = str(row.get("reason"))
        if book.fates[index] in (Fate.REFUSED, Fate.UNSENT):
            self._note("refused", "events were taken that were refused or never left", number)
        if reason.startswith("refused_") and book.ends != "refused":
            self._note("buried", f"events were buried as {reason}, which nobody refused", number)
        if seen.copies[index] and seen.row[index] == _row(row.get("event_id", "")):
            self.arrived_and_died += 1

    def read_status(self, document: Mapping[str, Any]) -> None:
        """The ledger must agree with what arrived and with what died, exactly.

        ``sent`` counts rows, once each, when their delivery is on record: repeats of a row are in
        the local GA4's record alone. So it is the number of different rows that arrived, but for
        those that arrived, unheard of, and died later.
        """
        ledger = document["ledger"]
        self._dropped = sum(ledger["dropped"].values())
        known = ledger["sent"] + ledger["queued"] + ledger["dead"] + self._dropped
        pairs = (
            ("received", ledger["received"], "sent + queued + dead + dropped", known),
            ("sent", ledger["sent"], "rows arrived", self.rows - self.arrived_and_died),
            ("dead", ledger["dead"], "dead letters shown", self.dead_rows),
            ("queued", ledger["queued"], "left after the drain", 0),
        )
        for name, value, other, expected in pairs:
            if value != expected:
                self._note("ledger", f"{name} is {value}, {other} {expected}")

    # -- the verdict ------------------------------------------------------------------------------

    def violations(self) -> list[Violation]:
        """All that was not as promised; empty if nothing was."""
        self._check_missing()
        for boot, sessions in self._sessions.items():
            if len(sessions) > 1:
                text = f"{len(sessions)} session ids in boot {boot}, expected one"
                self._bad["session", text].extend(sessions.values())
        found = [Violation(rule, text) for rule, text in self._chronicle.found]
        for (rule, text), numbers in self._bad.items():
            named = tuple(number for number in numbers[:SHOWN] if number >= 0)
            count = f"{len(numbers)} " if numbers else ""
            found.append(Violation(rule, f"{count}{text}", named))
        return found

    def fates(self) -> Iterator[tuple[str, Counter[str]]]:
        """Of each source: how many of its events met which fate, arrived and died."""
        for index, book in self._books.items():
            seen = self._arrivals[index]
            counts = Counter({Fate(f).name.lower(): n for f, n in Counter(book.fates).items()})
            counts["arrived"] = sum(map(bool, seen.copies))
            counts["dead"] = sum(seen.dead)
            turned = zip(book.fates, seen.copies, strict=True)
            counts["turned away, yet arrived"] = sum(
                fate == Fate.TURNED_AWAY and bool(copies) for fate, copies in turned
            )
            yield book.source, +counts

    def _check_missing(self) -> None:
        missing = [number for book in self._books.values() for number in self._missing(book)]
        if len(missing) > self._dropped:
            text = (
                f"acknowledged events are neither delivered nor dead; {self._dropped} were dropped"
            )
            self._bad["missing", text].extend(missing)

    def _missing(self, book: Book) -> Iterator[int]:
        seen = self._arrivals[book.first // SPAN]
        for index, fate in enumerate(book.fates):
            if fate == Fate.TAKEN and not seen.copies[index] and not seen.dead[index]:
                yield book.first + index

    def _find(self, number: Any) -> tuple[Book, int] | None:
        if not isinstance(number, int):
            return None
        book = self._books.get(number // SPAN)
        if book is None or not 0 <= number - book.first < len(book):
            return None
        return book, number - book.first

    def _note(self, rule: str, text: str, number: int | None = None) -> None:
        self._bad[rule, text].extend([] if number is None else [number])


def _reach(kill: tuple[float, float], chronicle: Chronicle) -> tuple[float, float]:
    """From when on a delivery may not have been recorded when the agent was killed.

    On a disk that takes nothing it is recorded only when that is over.
    """
    since = kill[0] - TIMEOUT - LAG
    storage = chronicle.during("slow_disk", "full_disk", "read_only")
    for began, ended in sorted(storage, reverse=True):
        if began <= kill[1] and ended >= since:
            since = min(since, began - TIMEOUT - LAG)
    return since, kill[1]


def _row(event_id: str) -> int:
    """A number for an event_id, by which rows of one event are told apart."""
    return zlib.crc32(str(event_id).encode())


def _numbers_in(row: Mapping[str, Any]) -> list[int]:
    """The numbers of the events in a dead letter. A raw message may hold several, or be noise."""
    if "raw" not in row:
        number = (row.get("params") or {}).get("id")
        return [number] if isinstance(number, int) else []
    raw = base64.b64decode(row["raw"])
    return [int(number) for number in IN_RAW.findall(raw) or EVENT_ID_OF_RAW.findall(raw)]


def history(chronicle: Chronicle, start: float) -> str:
    """The troubles of a run, in the order in which they began, a line each."""
    clock: Callable[[float], str] = lambda at: f"{at - start:8.1f}"  # noqa: E731 - a short name
    lines = [
        f"{clock(t.began)} -{clock(t.ended)}  {t.kind} {t.detail}".rstrip()
        for t in sorted(chronicle.troubles, key=lambda t: t.began)
    ]
    boots = [
        f"{clock(b.began)}  boot {n}, clock trusted: {clock(b.trusted_at) if b.trusted_at else '-'}"
        for n, b in enumerate(chronicle.boots)
    ]
    return "\n".join([*lines, *boots])
