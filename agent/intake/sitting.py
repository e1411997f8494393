"""What is known of one client's sittings, and what an event changes of it. Pure.

All times are microseconds. A sitting is measured with the boot clock, so that a jumping wall clock
neither splits nor joins it. Between boots only two trusted wall times can tell how long it was.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent.event import Stamp

SECOND = 1_000_000
RACE_US = SECOND  # parallel requests are stamped in one order and placed in another
PROMISES = 50  # remembered per client; with the longest of texts 2 kB in each commit
FORGOTTEN_S = 7 * 86_400  # GA4 takes nothing as old as that any more
ORIGINS = 8  # boots per client of whose sittings many may have been forgotten
EXCEPTIONS = 20  # ids of forgotten sittings that cannot be worked out again
DIGITS = 20  # of the number in front of the text

Mark = Literal["start", "end"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long a sitting may idle and last, and which boot is the present one."""

    timeout_us: int
    longest_us: int
    boot_id: str

    def late(self, known: Stamp, stamp: Stamp) -> bool:
        """Whether the stamp is older than a known one; False if nobody can tell."""
        if (known.boot_id == self.boot_id) != (stamp.boot_id == self.boot_id):
            return known.boot_id == self.boot_id  # all other boots are over
        gap = elapsed(known, stamp)
        return gap is not None and gap < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """One sitting. ``session_id`` is None as long as nobody knows when it began.

    ``last``: its latest human event. ``length_us``: from its start to ``last``. ``given_ms``: the
    engagement of its events so far. ``over``: its end was said.
    """

    client_id: str
    start: Stamp
    last: Stamp
    length_us: int = 0
    given_ms: int = 0
    session_id: int | None = None
    over: bool = False

    def fits(self, stamp: Stamp, rules: Rules) -> bool:
        """Whether an event after its last one is still of this sitting."""
        gap = elapsed(self.last, stamp)
        return (
            not self.over
            and gap is not None
            and 0 <= gap <= rules.timeout_us
            and self.length_us + gap <= rules.longest_us
        )

    def holds(self, stamp: Stamp, rules: Rules) -> bool:
        """Whether an event before its last one came after its start."""
        if rules.late(self.start, stamp):
            return False
        comparable = stamp.boot_id in (self.start.boot_id, self.last.boot_id)
        return comparable or elapsed(self.start, stamp) is not None

    def just_ended(self, stamp: Stamp, rules: Rules) -> bool:
        """Whether who says its end after it was over still means this one."""
        gap = elapsed(self.last, stamp)
        idle_us = 0 if self.over else rules.timeout_us
        return gap is not None and 0 <= gap <= idle_us + rules.timeout_us

    def went_on(self, stamp: Stamp, rules: Rules) -> tuple["Sitting", int]:
        """It with a human event that fits, and that event's engagement in milliseconds."""
        gap = elapsed(self.last, stamp) or 0
        length = self.length_us + gap
        # What events in one millisecond got beyond the sitting's length, later ones give back.
        room = length // 1000 - self.given_ms
        share = min(gap // 1000, rules.timeout_us // 1000, room) if self.given_ms else 1
        given = max(1, share)
        told = replace(self, last=stamp, length_us=length, given_ms=self.given_ms + given)
        return told, given

    def looked_back(self) -> tuple["Sitting", int]:
        """It with a human event that does not prolong it, and that event's engagement."""
        return replace(self, given_ms=self.given_ms + 1), 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A session id that nobody knew when the sitting began, and the room that is kept for it.

    ``boot_id`` and ``boot_us`` are those of the sitting's start. Without ``most`` no later
    sitting's id is known. With ``session_id`` it was kept.
    """

    boot_id: str
    boot_us: int
    least: int
    most: int | None = None
    session_id: int | None = None

    def is_for(self, start: Stamp) -> bool:
        """Whether it was made for the sitting that began then."""
        return (self.boot_id, self.boot_us) == (start.boot_id, start.boot_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """When a boot began, as it was told first: by it the ids of forgotten sittings are made.

    The clock may be corrected between two events of one sitting, which still have one session.
    """

    boot_id: str
    began_us: int

    def second(self, boot_us: int) -> int:
        """The second of a moment of that boot."""
        return (self.began_us + boot_us) // SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is remembered of a client: the last two sittings and the promises, oldest first.

    ``number`` grows with every change. ``floor``: the least session id the next sitting may have.
    ``origins``: of the boots whose promises were kept. ``exceptions``: promises that were kept and
    forgotten, with ids that do not follow from these.
    """

    number: int = 0
    floor: int = 1
    sittings: tuple[Sitting, ...] = ()
    promises: tuple[Promise, ...] = ()
    origins: tuple[Origin, ...] = ()
    exceptions: tuple[Promise, ...] = ()

    def opened(self, stamp: Stamp, client_id: str) -> "History":
        """With a new sitting; its id is known if the stamp is trusted, else promised."""
        start = self._after_the_last_start(stamp)
        known = max(start.wall_us // SECOND, self.floor) if start.trusted else None
        history = self._promised(start) if known is None else self._known(known)
        sitting = Sitting(client_id=client_id, start=start, last=stamp, session_id=known)
        return replace(history, sittings=(*self.sittings, sitting)[-2:])

    def kept(self, start: Stamp, time_us: int) -> tuple["History", int]:
        """With the promise for a sitting kept, as near as possible to when it really began.

        ``time_us``: when that was, as far as is known now.
        """
        index = self._place_of(start)
        if index is None:
            return self._remade(start, time_us)
        promise = self.promises[index]
        if promise.session_id is not None:
            return self, promise.session_id
        session_id = max(time_us // SECOND, promise.least)
        if promise.most is not None:
            session_id = min(session_id, promise.most)
        history = self._with(index, session_id)
        return replace(history, origins=_begun(self.origins, start, time_us)), session_id

    def _remade(self, start: Stamp, time_us: int) -> tuple["History", int]:
        """The id of a sitting whose promise is forgotten: the same whenever it is made."""
        for exception in self.exceptions:
            if exception.is_for(start) and exception.session_id is not None:
                return self, exception.session_id
        if not self.sittings and not self.promises:  # nothing is known of this client any more
            return self._promised(start).kept(start, time_us)
        origins = _begun(self.origins, start, time_us)
        second = _second(origins, start.boot_id, start.boot_us)
        history, session_id = self._below_all(time_us // SECOND if second is None else second)
        kept = _kept_as(start.boot_id, start.boot_us, session_id)
        exceptions = (*self.exceptions, *_not_remade([kept], origins))[-EXCEPTIONS:]
        return replace(history, origins=origins, exceptions=exceptions), session_id

    def _place_of(self, start: Stamp) -> int | None:
        for index, promise in enumerate(self.promises):
            if promise.is_for(start):
                return index
        return None

    def _promised(self, start: Stamp) -> "History":
        promise = Promise(boot_id=start.boot_id, boot_us=start.boot_us, least=self.floor)
        promises = (*self.promises, promise)
        forgotten = _not_remade(promises[:-PROMISES], self.origins)
        return replace(
            self,
            floor=self.floor + 1,
            promises=promises[-PROMISES:],
            exceptions=(*self.exceptions, *forgotten)[-EXCEPTIONS:],
        )

    def _known(self, session_id: int) -> "History":
        kept = _all_below(session_id, self.promises)
        old = session_id - FORGOTTEN_S
        promises = tuple(promise for promise in kept if promise.most is None or promise.most >= old)
        exceptions = tuple(each for each in self.exceptions if each.least >= old)
        return replace(self, floor=session_id + 1, promises=promises, exceptions=exceptions)

    def _with(self, index: int, session_id: int) -> "History":
        promise = self.promises[index]
        kept = _kept_as(promise.boot_id, promise.boot_us, session_id)
        above = self._above(session_id, index + 1)
        below = _all_below(session_id, self.promises[:index])
        return replace(
            above,
            promises=(*below, kept, *above.promises[index + 1 :]),
            sittings=tuple(
                replace(sitting, session_id=session_id) if kept.is_for(sitting.start) else sitting
                for sitting in self.sittings
            ),
        )

    def _above(self, session_id: int, first: int) -> "History":
        """With the promises from the first, and all that is to come, above a session id."""
        later = self.promises[first:]
        raised = (
            replace(promise, least=max(promise.least, session_id + n))
            for n, promise in enumerate(later, 1)
        )
        return replace(
            self,
            floor=max(self.floor, session_id + len(later) + 1),
            promises=(*self.promises[:first], *raised),
        )

    def _below_all(self, second: int) -> tuple["History", int]:
        """An id for a sitting that is older than all that are remembered."""
        known = [sitting.session_id for sitting in self.sittings if sitting.session_id is not None]
        known += [promise.most for promise in self.promises if promise.most is not None]
        session_id = max(1, min([second, *(limit - 1 for limit in known)]))
        return self._above(session_id, 0), session_id

    def _after_the_last_start(self, stamp: Stamp) -> Stamp:
        """The stamp, or a microsecond after the last start: by its start a sitting is known."""
        if not self.sittings:
            return stamp
        last = self.sittings[-1].start
        if last.boot_id != stamp.boot_id or last.boot_us < stamp.boot_us:
            return stamp
        behind = last.boot_us + 1 - stamp.boot_us
        return replace(stamp, boot_us=stamp.boot_us + behind, wall_us=stamp.wall_us + behind)


def _begun(origins: tuple[Origin, ...], start: Stamp, time_us: int) -> tuple[Origin, ...]:
    """With that of the start's boot, if it was not known."""
    if any(origin.boot_id == start.boot_id for origin in origins):
        return origins
    origin = Origin(boot_id=start.boot_id, began_us=time_us - start.boot_us)
    return (*origins, origin)[-ORIGINS:]


def _second(origins: Sequence[Origin], boot_id: str, boot_us: int) -> int | None:
    """The second of a moment of a boot, if it is known when that began."""
    seconds = (each.second(boot_us) for each in origins if each.boot_id == boot_id)
    return next(seconds, None)


def _not_remade(promises: Sequence[Promise], origins: Sequence[Origin]) -> Iterator[Promise]:
    """Those of the promises that were kept with an id that would not be made again."""
    for promise in promises:
        if promise.session_id not in (None, _second(origins, promise.boot_id, promise.boot_us)):
            yield promise


def _kept_as(boot_id: str, boot_us: int, session_id: int) -> Promise:
    """A promise that was kept."""
    return Promise(
        boot_id=boot_id, boot_us=boot_us, least=session_id, most=session_id, session_id=session_id
    )


def _all_below(session_id: int, promises: tuple[Promise, ...]) -> tuple[Promise, ...]:
    """Each promise with room below what comes after it."""
    count = len(promises)
    return tuple(
        replace(promise, most=min(promise.most or session_id, session_id - (count - index)))
        for index, promise in enumerate(promises)
    )


def elapsed(earlier: Stamp, later: Stamp) -> int | None:
    """Microseconds between two stamps; None if nobody can tell."""
    if earlier.boot_id and earlier.boot_id == later.boot_id:
        return later.boot_us - earlier.boot_us
    if earlier.trusted and later.trusted:
        return later.wall_us - earlier.wall_us
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What an event is to its client: the sitting it belongs to, if any, and its engagement."""

    history: History
    sitting: Sitting | None = None
    engagement_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event as far as sittings go. ``name``: makes the client id of a sitting it opens."""

    stamp: Stamp
    human: bool
    mark: Mark
    name: Callable[[Stamp], str] = field(repr=False)


def take(history: History, event: Happening, rules: Rules) -> Taken:
    """Find the sitting of an event, or open one."""
    stamp = event.stamp
    if not stamp.boot_id and not stamp.trusted:
        return Taken(history=history)  # nobody knows when it was
    if not history.sittings:
        return _opened(history, event)
    newest = history.sittings[-1]
    gap = elapsed(newest.last, stamp)
    if gap is not None and -RACE_US <= gap < 0 and not newest.over:
        event = replace(event, stamp=newest.last)
    elif rules.late(newest.last, stamp):
        return _late(history, event, rules)
    if event.mark != "start" and newest.fits(event.stamp, rules):
        return _joined(history, -1, event, rules)
    if event.mark == "end":
        return _ended(history, -1, event, rules)
    return _opened(history, event)


def _opened(history: History, event: Happening) -> Taken:
    """With a sitting that it opens, if it can: an end opens none.

    Nor does what is not on a boot's clock: whatever else was then is not known.
    """
    opens = event.mark == "start" or (event.human and event.mark is None)
    if not opens or not event.stamp.boot_id:
        return Taken(history=history)
    history = history.opened(event.stamp, event.name(event.stamp))
    sitting = replace(history.sittings[-1], given_ms=1 if event.human else 0)
    return _taken(history, -1, sitting, 1 if event.human else None)


def _ended(history: History, index: int, event: Happening, rules: Rules) -> Taken:
    """An end that comes after the end: it may still be of that sitting, and changes nothing."""
    if history.sittings[index].just_ended(event.stamp, rules):
        return _beside(history, index, event)
    return Taken(history=history)


def _beside(history: History, index: int, event: Happening) -> Taken:
    """An event of a sitting that it does not prolong."""
    sitting = history.sittings[index]
    told, engagement = sitting.looked_back() if event.human else (sitting, None)
    return _taken(history, index, told, engagement)


def _joined(history: History, index: int, event: Happening, rules: Rules) -> Taken:
    sitting, engagement = history.sittings[index], None
    if event.human:
        sitting, engagement = sitting.went_on(event.stamp, rules)
    if event.mark == "end":
        sitting = replace(sitting, over=True)
    return _taken(history, index, sitting, engagement)


def _late(history: History, event: Happening, rules: Rules) -> Taken:
    """An event from before the latest: it may fill a sitting, and can open none in the past."""
    if event.mark == "start":
        return Taken(history=history)
    for index in range(len(history.sittings) - 1, -1, -1):
        sitting = history.sittings[index]
        if not rules.late(sitting.last, event.stamp):
            if sitting.fits(event.stamp, rules):
                return _joined(history, index, event, rules)
            if event.mark == "end":
                return _ended(history, index, event, rules)
            break
        if sitting.holds(event.stamp, rules):
            return _beside(history, index, event)
    return Taken(history=history)


def _taken(history: History, index: int, sitting: Sitting, engagement: int | None) -> Taken:
    sittings = list(history.sittings)
    sittings[index] = sitting
    told = replace(history, sittings=tuple(sittings))
    return Taken(history=told, sitting=sitting, engagement_ms=engagement)


def written(history: History) -> str:
    """The history as text that sorts by its number; boots are written once, by place."""
    boots: dict[str, int] = {}
    sittings = [
        [
            s.client_id, _stamp_fields(s.start, boots), _stamp_fields(s.last, boots),
            s.length_us, s.given_ms, s.session_id, s.over,
        ]
        for s in history.sittings
    ]  # fmt: skip
    promises = [
        [boots.setdefault(p.boot_id, len(boots)), p.boot_us, p.least, p.most, p.session_id]
        for p in history.promises
    ]
    origins = [[boots.setdefault(b.boot_id, len(boots)), b.began_us] for b in history.origins]
    exceptions = [
        [boots.setdefault(p.boot_id, len(boots)), p.boot_us, p.session_id]
        for p in history.exceptions
    ]
    fields = [history.floor, list(boots), sittings, promises]
    if origins or exceptions:  # few clients have any
        fields += [origins, exceptions]
    return f"{history.number:0{DIGITS}d} {json.dumps(fields, separators=(',', ':'))}"


def read(text: str) -> History:
    """The history that ``written`` wrote; of a damaged one only the number, if that."""
    number, _, fields = text.partition(" ")
    try:
        floor, boots, sittings, promises, *more = json.loads(fields)
        origins, exceptions = more or ([], [])
        return History(
            number=int(number),
            floor=int(floor),
            sittings=tuple(_sitting(s, boots) for s in sittings),
            promises=tuple(
                Promise(boot_id=boots[b], boot_us=at, least=least, most=most, session_id=known)
                for b, at, least, most, known in promises
            ),
            origins=tuple(Origin(boot_id=boots[b], began_us=int(us)) for b, us in origins),
            exceptions=tuple(
                _kept_as(boots[b], int(at), int(known)) for b, at, known in exceptions
            ),
        )
    except (ValueError, TypeError, LookupError):
        # The next text must sort after this one, or it would never be stored.
        return History(number=int(number) if number.isdecimal() else 0)


def _stamp_fields(stamp: Stamp, boots: dict[str, int]) -> list[Any]:
    boot = boots.setdefault(stamp.boot_id, len(boots))
    return [stamp.wall_us, stamp.boot_us, boot, stamp.trusted]


def _stamp(fields: list[Any], boots: list[str]) -> Stamp:
    wall_us, boot_us, boot, trusted = fields
    return Stamp(int(wall_us), int(boot_us), boots[boot], trusted)


def _sitting(fields: list[Any], boots: list[str]) -> Sitting:
    client_id, start, last, length_us, given_ms, session_id, over = fields
    return Sitting(
        client_id=client_id, start=_stamp(start, boots), last=_stamp(last, boots),
        length_us=length_us, given_ms=given_ms, session_id=session_id, over=over,
    )  # fmt: skip
