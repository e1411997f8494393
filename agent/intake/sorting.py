"""A message taken apart: what of it is stored, and what is refused. Nothing here does I/O."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent import jsontext
from agent.event import UNASSIGNED, Event, InvalidEvent, Json, RawMessage, Sender, Stamp, Stream
from agent.ga4.departure import SESSION_PARAMS
from agent.ga4.precedence import TRAFFIC_TYPE
from agent.ga4.repair import Mended
from agent.ga4.request import BODY_LIMIT, too_large
from agent.ga4.rules.limits import FUTURE_US, PAST_US
from agent.ga4.violation import Violation
from agent.intake import duplicates
from agent.intake.attribution import Attributed, Attribution
from agent.intake.judging import Judge, Judged
from agent.intake.message import Message
from agent.intake.parse import Draft, Element, Misfit, Parsed
from agent.jsontext import frozen
from agent.queue.entries import Seen

ALONE = "events[0]"  # where an event stands in a body of its own
COARSER = (1_000_000, 1000)  # microseconds of the units that publishers take for microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """An event that may be taken, and what is settled only when it is.

    ``attributed``: whose it is. ``moment``: when it happened, if not when it was stamped.
    ``room``: which params of a sitting it may still get. ``human``: whether it shows that somebody
    is there. ``seen``: by what its repetition is known. ``counts``: what the ledger is told if it
    is taken.
    """

    event: Event
    attributed: Attributed | None = None
    moment: Stamp | None = None
    room: frozenset[str] = frozenset()
    human: bool = True
    seen: tuple[Seen, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sorted:
    """A message taken apart: what to store, what to refuse.

    ``refused``: events turned away, those that share a rejected one's body included. ``counts``:
    what the ledger is told of those that are stored. ``duplicates``: events that were taken before.
    """

    items: tuple[Ready | RawMessage, ...] = ()
    rejected: tuple[InvalidEvent, ...] = ()
    refused: int = 0
    nothing_taken: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0

    @property
    def stored(self) -> tuple[Event | RawMessage, ...]:
        """What goes into the queue."""
        return tuple(item.event if isinstance(item, Ready) else item for item in self.items)


class Sorter:
    """Completes what a message says with what the device knows, and applies the rules."""

    def __init__(
        self,
        *,
        streams: Mapping[str, Stream],
        judges: Mapping[str, Judge],
        attribution: Attribution,
        params: Mapping[str, Json],
        new_id: Callable[[], str],
        local: Callable[[int], Stamp],
        now_us: Callable[[], int],
        sessions: bool = True,
    ) -> None:
        """Take the parts.

        ``streams``: the first is the default; ``judges``: their rules. ``params``: put on every
        event without them. ``local``: when this device's clock showed a time. ``sessions``:
        whether events belong to sittings.
        """
        self._streams = streams
        self._judges = judges
        self._default = next(iter(streams), None)
        self._attribution = attribution
        self._params = params
        self._new_id = new_id
        self._local = local
        self._now_us = now_us
        self._sessions = sessions

    def sort(self, message: Message, stamp: Stamp) -> Sorted:
        """Take a message apart; ``stamp`` is now."""
        stamp = message.stamp or stamp
        try:
            parsed = message.parsed()
        except InvalidEvent as error:
            if message.answerable:
                return Sorted(rejected=(error,), refused=1, nothing_taken=True)
            return Sorted((message.set_aside("malformed", stamp, error),), rejected=(error,))
        return self._sort(message, parsed, stamp)

    def _sort(self, message: Message, parsed: Parsed, stamp: Stamp) -> Sorted:
        elements = [
            self._complete(element, message, stamp, parsed.place(index))
            for index, element in enumerate(parsed.elements)
        ]
        misfits = [item for item in elements if isinstance(item, Misfit)]
        rejected = _each_once(error for misfit in misfits for error in misfit.errors)
        found = tuple(item for item in elements if not isinstance(item, Misfit))
        items = () if parsed.whole and misfits else found
        counts = counted(items)
        if message.answerable:
            refused = len(parsed.elements) - len(items)
            return Sorted(items, rejected, refused, nothing_taken=not items, counts=counts)
        if parsed.whole and misfits:
            return Sorted((message.set_aside("invalid", stamp, rejected[0]),), rejected)
        raw = [message.part_aside(misfit, stamp, within=parsed.within) for misfit in misfits]
        return Sorted((*items, *raw), rejected, counts=counts)

    def _complete(
        self, element: Element, message: Message, stamp: Stamp, place: str
    ) -> Ready | RawMessage | Misfit:
        if not isinstance(element, Draft):
            return element
        try:
            stream = self._stream(element, message)
            if element.complete:
                return self._as_it_was(element, message, stream, stamp)
            return self._completed(element, message, stream, stamp, place)
        except InvalidEvent as error:
            return _misfit(element, (error.with_traceback(None),))
        except _Broken as broken:
            return _misfit(element, broken.errors)

    def _stream(self, draft: Draft, message: Message) -> Stream | None:
        name = draft.stream or message.stream or self._default
        if name is not None and name not in self._streams:
            known = ", ".join(self._streams)
            raise InvalidEvent("stream", f"found {name[:40]!r}, expected one of {known}")
        return self._streams[name] if name else None

    def _as_it_was(
        self, draft: Draft, message: Message, stream: Stream | None, stamp: Stamp
    ) -> Ready:
        """What lay in a queue already: nothing is added again, nothing judged again."""
        event = replace(
            self._event(draft, message, stream, stamp), sender=draft.sender, params=draft.params
        )
        _refuse_unsendable(event, stream)
        return Ready(event=event)

    def _completed(
        self, draft: Draft, message: Message, stream: Stream | None, stamp: Stamp, place: str
    ) -> Ready:
        whose = self._attribution.of(draft, message.cookies, stream)
        bare = replace(self._event(draft, message, stream, stamp), sender=whose.sender)
        if len(message.payload) >= BODY_LIMIT:
            _refuse_too_large(bare)  # the rules would read all of it first, which takes minutes
        judged = self._judged(bare, whose, stream, draft.mended)
        if judged.broken:
            raise _Broken(judged.broken, place)
        _refuse_unsendable(judged.event, stream)
        local = draft.local_time and message.local
        if local:
            judged = replace(judged, event=self._corrected(judged.event))
        ready = self._ready(draft, bare, judged, whose)
        return replace(ready, moment=_moment(judged.event, local=local))

    def _judged(
        self, bare: Event, whose: Attributed, stream: Stream | None, mended: Sequence[Mended]
    ) -> Judged:
        """By the rules, with what the device adds.

        Where these take out what was wrong in a publisher's session, he has none: it gets ours.
        """
        judged = self._judged_once(bare, whose, stream, mended)
        said = {name for name in SESSION_PARAMS if bare.params.get(name) is not None}
        lost = said - judged.event.params.keys()
        if not lost or judged.broken:
            return judged
        kept = {name: value for name, value in bare.params.items() if name not in lost}
        again = self._judged_once(replace(bare, params=frozen(kept)), whose, stream, mended)
        # Each kind as often as it was done, and not twice: both have mended the rest alike.
        return replace(again, repaired=Counter(judged.repaired) | Counter(again.repaired))

    def _judged_once(
        self, bare: Event, whose: Attributed, stream: Stream | None, mended: Sequence[Mended]
    ) -> Judged:
        additions = self._additions(bare, stream)
        added = {name: v for name, v in additions.items() if name not in bare.params}
        if stream is not None and stream.traffic_type:
            added[TRAFFIC_TYPE] = stream.traffic_type  # else a publisher's could hide a test
        return self._judge(stream, whose.sender).judge(
            replace(bare, params=frozen({**bare.params, **added})),
            added=list(added),
            reserved=self._reserved(bare.params, whose),
            now_us=self._now_us(),
            mended=mended,
        )

    def _judge(self, stream: Stream | None, sender: Sender) -> Judge:
        """The rules of the stream; without one, of the kind that the sender fits."""
        if stream is not None:
            return self._judges[stream.name]
        return Judge(kind="app" if sender.client_id is None else "web")

    def _event(self, draft: Draft, message: Message, stream: Stream | None, stamp: Stamp) -> Event:
        """The event with its own params and without a sender."""
        event = Event(
            name=draft.name,
            params=draft.params,
            stream=stream.name if stream else UNASSIGNED,
            sender=draft.sender,
            stamp=draft.stamp or stamp,
            event_id=draft.event_id or self._new_id(),
            priority=message.priority if draft.priority is None else draft.priority,
            time_us=draft.time_us,
            session=draft.session,
            actor=draft.actor,
            sitting=draft.sitting if draft.complete else None,
        )
        # Before the rules: by a clock that stands in 1970 microseconds look like seconds.
        local = draft.local_time and message.local
        return self._shown(event) if local else event

    def _shown(self, event: Event) -> Event:
        """With a stamp in place of a time that this device's clock has shown in this boot."""
        if event.time_us is None or event.time_us > event.stamp.wall_us + FUTURE_US:
            return event
        if _is_coarser(event.time_us, event.stamp.wall_us):
            return event
        stamp = self._local(event.time_us)
        return replace(event, stamp=stamp, time_us=None) if stamp.boot_id else event

    def _corrected(self, event: Event) -> Event:
        """The same for a time of this device's clock after the rules, which know its unit.

        One from before this boot stays what it is, if the clock is right now.
        """
        if event.time_us is None:
            return event
        stamp = self._local(event.time_us)
        if stamp.boot_id or not event.stamp.trusted:
            return replace(event, stamp=stamp, time_us=None)
        return event

    def _additions(self, event: Event, stream: Stream | None) -> dict[str, Json]:
        """What the agent puts on an event, in the order in which it gives way."""
        added = dict(self._params)
        if stream is None or stream.event_id:
            added["event_id"] = event.event_id
        if stream is not None and stream.traffic_type:
            added["traffic_type"] = stream.traffic_type
        return added

    def _reserved(self, said: Mapping[str, Json], whose: Attributed) -> tuple[str, ...]:
        """The params of a sitting, which is found only when the event is taken."""
        # Who brings a session of his own keeps it, and what he measured of it.
        if said.get("session_id") is not None:
            return ()
        wanted: tuple[str, ...] = ()
        if whose.made and self._sessions:
            wanted = ("session_id", "engagement_time_msec")
        elif whose.session_id is not None:
            wanted = ("session_id",)
        return tuple(name for name in wanted if said.get(name) is None)

    def _ready(self, draft: Draft, bare: Event, judged: Judged, whose: Attributed) -> Ready:
        who = "" if whose.own else (bare.sender.client_id or bare.sender.app_instance_id or "")
        return Ready(
            event=judged.event,
            attributed=whose,
            room=judged.room,
            human=draft.actor != "machine",
            seen=duplicates.marks(
                bare, who=who, brought_id=draft.event_id is not None, said_us=draft.time_us
            ),
            counts=_counts(judged, whose),
        )


class _Broken(Exception):  # noqa: N818 - named after what was found
    """Rules of GA4 that an event breaks and that cannot be repaired."""

    def __init__(self, violations: tuple[Violation, ...], place: str) -> None:
        super().__init__(len(violations))
        self.errors = tuple(_error(violation, place) for violation in violations)


def _error(violation: Violation, place: str) -> InvalidEvent:
    """In the terms of the message: the validator saw the event in a body of its own."""
    path = violation.field_path
    if path.startswith(ALONE):
        path = place + path.removeprefix(ALONE)
    elif place.startswith("["):  # in an array each event has its own sender
        path = f"{place}.{path}"
    return InvalidEvent(path.removeprefix("."), violation.description, violation.code.value)


def counted(items: Iterable[Ready | RawMessage]) -> Counter[str]:
    """What the ledger is told of what is taken."""
    counts: Counter[str] = Counter()
    for item in items:
        counts.update(item.counts if isinstance(item, Ready) else {})
    return counts


def _counts(judged: Judged, whose: Attributed) -> dict[str, int]:
    counts = {f"repaired.{kind}": number for kind, number in judged.repaired.items()}
    counts |= {f"noted.{what}": number for what, number in judged.noted.items()}
    if not whose.made and whose.session_id is None and "session_id" not in judged.event.params:
        counts["noted.borrowed_without_session"] = 1
    return counts


def _each_once(errors: Iterable[InvalidEvent]) -> tuple[InvalidEvent, ...]:
    """What is wrong with a body's sender is wrong with each of its events, and said once."""
    return tuple({(e.field_path, e.description, e.code): e for e in errors}.values())


def _is_coarser(time_us: int, now_us: int) -> bool:
    """Whether it is a time of these days in a coarser unit.

    A clock that was in 1970 for half an hour has shown a number of microseconds that is also the
    present number of seconds.
    """
    return any(-FUTURE_US <= now_us - time_us * unit <= PAST_US for unit in COARSER)


def _moment(event: Event, *, local: bool) -> Stamp:
    """When it happened, for its sitting. Without a boot: before this one, or nobody knows where in it.

    ``local``: its time was read from this device's clock. That it is not in the stamp then means
    that this boot's clock has not shown it, or more than once.
    """
    stamp, time_us = event.stamp, event.time_us
    if time_us is None:
        return stamp
    then_us = stamp.boot_us - max(0, stamp.wall_us - time_us)  # the future is now
    if local or not stamp.boot_id or not stamp.trusted or then_us < 0:
        return Stamp(time_us, 0, "", trusted=True)
    return Stamp(min(time_us, stamp.wall_us), then_us, stamp.boot_id, trusted=True)


def _misfit(draft: Draft, errors: tuple[InvalidEvent, ...]) -> Misfit:
    """An event that can go nowhere, with all that it said: who mends it wants its own time too."""
    return Misfit(errors, jsontext.dumps(draft.said or {"name": draft.name}), draft.stamp)


def _refuse_too_large(event: Event) -> None:
    if too_large(event):
        raise InvalidEvent(
            "events", f"found an event of over {BODY_LIMIT} bytes, expected less",
            "VALUE_OUT_OF_BOUNDS",
        )  # fmt: skip


def _refuse_unsendable(event: Event, stream: Stream | None) -> None:
    _refuse_too_large(event)
    if stream is None:
        return
    needed = "app_instance_id" if stream.is_app else "client_id"
    if getattr(event.sender, needed) is None:
        raise InvalidEvent(
            needed, f"Measurement requires {_article(needed)} {needed}.", "VALUE_REQUIRED"
        )


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
