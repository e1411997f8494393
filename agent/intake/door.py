"""The one way in: parse, complete, stamp, commit. Sources know the door and no queue.

Three answers: accepted, refused with reasons, full. They are given after the commit.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent import jsontext
from agent.clock import Clock
from agent.event import (
    UNASSIGNED,
    Event,
    InvalidEvent,
    Json,
    Priority,
    RawMessage,
    Sender,
    Stamp,
    Stream,
)
from agent.ga4.request import BODY_LIMIT, encode, too_large
from agent.intake.identity import Device
from agent.intake.parse import Draft, Misfit, Parsed, Shape, parse
from agent.jsontext import frozen
from agent.queue.event_queue import EventQueue, QueueFull, SourceState, StorageError
from agent.stepwise import Condemned, Stepwise

CRASHED = "crashed"  # where the digests of messages that killed the process are kept
RAW_MAX = 8 * 1024  # bytes of a malformed message that are kept for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a source hands in.

    ``answerable``: the publisher waits for an answer; what cannot be taken is refused. Else it
    is kept as a dead letter. ``state`` is committed with the events.
    """

    source: str
    payload: bytes
    shape: Shape = Shape.ANY
    stream: str | None = None
    priority: Priority = Priority.NORMAL
    answerable: bool = True
    state: tuple[SourceState, ...] = ()

    @property
    def digest(self) -> str:
        """A name for exactly this message, without its content."""
        return hashlib.sha256(self.source.encode() + b"\0" + self.payload).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Accepted:
    """On the disk. ``rejected`` tells of elements that were refused beside it."""

    number: int
    rejected: tuple[InvalidEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was taken, because of these."""

    reasons: tuple[InvalidEvent, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """Nothing was taken; later it can be. ``reason`` is for people."""

    reason: str


Answer = Accepted | Refused | Full


@dataclass(frozen=True, slots=True)
class _Sorted:
    """A message taken apart: what to store, what to refuse."""

    items: tuple[Event | RawMessage, ...] = ()
    rejected: tuple[InvalidEvent, ...] = ()
    refused: int = 0  # events turned away, those that share a rejected one's body included
    nothing_taken: bool = False


class Door:
    """Lets events in. Any thread may call it."""

    def __init__(
        self,
        *,
        queue: EventQueue,
        clock: Clock,
        streams: Mapping[str, Stream],
        device: Device,
        params: Mapping[str, Json],
        new_id: Callable[[], str],
        stepwise: Stepwise,
        condemned: Condemned,
    ) -> None:
        """Take the parts.

        ``streams``: the first is the default. ``params``: put on every event that has not its
        own. ``condemned``: what killed the process, to be set aside.
        """
        self._queue = queue
        self._clock = clock
        self._streams = streams
        self._default = next(iter(streams), None)
        self._device = device
        self._params = params
        self._new_id = new_id
        self._stepwise = stepwise
        self._condemned = condemned

    def admit(self, message: Message) -> Answer:
        """Take one message."""
        return self.admit_many([message])[0]

    def admit_many(self, messages: Sequence[Message]) -> list[Answer]:
        """Take messages in one commit; in step-by-step mode each by itself."""
        if not self._stepwise.active:
            return self._admit(messages)
        answers: list[Answer] = []
        for message in messages:
            with self._stepwise.step() as touch:
                touch(f"message:{message.digest}")
                answers += self._admit([message])
        return answers

    def refuse(self, reason: str, number: int = 1) -> None:
        """Count what a source turned away by itself."""
        self._queue.note_refused(reason, number)

    def _admit(self, messages: Sequence[Message]) -> list[Answer]:
        stamp = self._clock.stamp()
        parts = [self._sort(message, stamp) for message in messages]
        try:
            self._put(messages, parts)
        except QueueFull as full:
            if full.never:
                return self._too_much(messages, stamp)
            return self._full(messages, parts, str(full))
        except StorageError as error:
            return self._full(messages, parts, str(error))
        for part in parts:
            self._count(part)
        return [_answer(part) for part in parts]

    def _put(self, messages: Sequence[Message], parts: Sequence[_Sorted]) -> None:
        items = [item for part in parts for item in part.items]
        state = [entry for message in messages for entry in message.state]
        forgiven = (
            [m.digest for m in messages if m.digest in self._condemned] if self._condemned else []
        )
        state += [SourceState(CRASHED, digest, None) for digest in forgiven]
        if items or state:
            self._queue.put_many(items, state=state)
        self._condemned.forgive(forgiven)

    def _full(
        self, messages: Sequence[Message], parts: Sequence[_Sorted], reason: str
    ) -> list[Answer]:
        """Say so. A source that keeps its message has lost nothing: that is not refused."""
        for message, part in zip(messages, parts, strict=True):
            self._count(part)
            if message.answerable and part.items:
                self.refuse("full", len(part.items))
        return [_answer(part) if part.nothing_taken else Full(reason) for part in parts]

    def _too_much(self, messages: Sequence[Message], stamp: Stamp) -> list[Answer]:
        """More than even an empty queue could take: one by one; one alone is refused for good."""
        if len(messages) > 1:
            return [answer for message in messages for answer in self._admit([message])]
        [message] = messages
        if message.answerable:
            self.refuse("too_large")
            error = InvalidEvent("", "found more than the queue could ever hold, expected less")
            return [Refused((error,))]
        part = self._set_aside(message, message.payload, "too_large", stamp)
        try:
            self._put(messages, [part])
        except (QueueFull, StorageError) as error:
            return [Full(str(error))]
        return [_answer(part)]

    def _sort(self, message: Message, stamp: Stamp) -> _Sorted:
        if self._condemned and message.digest in self._condemned:
            return self._crash(message, stamp)
        try:
            parsed = parse(message.payload, message.shape)
            stream = self._stream(message)
        except InvalidEvent as error:
            if message.answerable:
                return _Sorted(rejected=(error,), refused=1, nothing_taken=True)
            return self._set_aside(message, message.payload, "malformed", stamp)
        return self._sort_elements(message, parsed, stream, stamp)

    def _sort_elements(
        self, message: Message, parsed: Parsed, stream: Stream | None, stamp: Stamp
    ) -> _Sorted:
        events: list[Event] = []
        misfits: list[Misfit] = []
        for element in parsed.elements:
            completed = self._complete(element, message, stream, stamp)
            if isinstance(completed, Event):
                events.append(completed)
            else:
                misfits.append(completed)
        rejected = tuple(misfit.error for misfit in misfits)
        if parsed.whole and misfits:
            events = []
        if message.answerable:
            refused = len(parsed.elements) - len(events)
            return _Sorted(tuple(events), rejected, refused, nothing_taken=not events)
        if parsed.whole and misfits:
            return self._set_aside(message, message.payload, "invalid", stamp)
        raw = [RawMessage(message.source, "invalid", m.payload[:RAW_MAX], stamp) for m in misfits]
        return _Sorted((*events, *raw))

    def _complete(
        self, element: Draft | Misfit, message: Message, stream: Stream | None, stamp: Stamp
    ) -> Event | Misfit:
        if isinstance(element, Misfit):
            return element
        event = Event(
            name=element.name,
            params=frozen({**self._params, **element.params}),
            stream=stream.name if stream else UNASSIGNED,
            sender=element.sender.over(self._device.sender(stream)),
            stamp=stamp,
            event_id=element.event_id or self._new_id(),
            priority=message.priority if element.priority is None else element.priority,
            time_us=element.time_us,
            session=element.session,
            actor=element.actor,
        )
        error = _unsendable(event, stream)
        return event if error is None else Misfit(error, jsontext.dumps(encode(event)))

    def _stream(self, message: Message) -> Stream | None:
        name = message.stream or self._default
        if name is None:
            return None
        if name not in self._streams:
            raise InvalidEvent("", f"found the unknown stream {name!r}; check the configuration")
        return self._streams[name]

    def _set_aside(self, message: Message, payload: bytes, reason: str, stamp: Stamp) -> _Sorted:
        return _Sorted((RawMessage(message.source, reason, payload[:RAW_MAX], stamp),))

    def _crash(self, message: Message, stamp: Stamp) -> _Sorted:
        """The message that killed the process: kept for people, and refused if one can be told."""
        raw = self._set_aside(message, message.payload, "crashed", stamp)
        if not message.answerable:
            return raw
        error = InvalidEvent("", "the agent crashed on this very message; it was set aside")
        return _Sorted(raw.items, rejected=(error,), nothing_taken=True)

    def _count(self, part: _Sorted) -> None:
        if part.refused:
            self.refuse("invalid", part.refused)


def _answer(part: _Sorted) -> Answer:
    if part.nothing_taken:
        return Refused(part.rejected)
    return Accepted(len(part.items), part.rejected)


def _unsendable(event: Event, stream: Stream | None) -> InvalidEvent | None:
    if too_large(event):
        return InvalidEvent(
            "events", f"found an event of over {BODY_LIMIT} bytes, expected less",
            "VALUE_OUT_OF_BOUNDS",
        )  # fmt: skip
    if stream is None:
        return None
    needed = "app_instance_id" if stream.is_app else "client_id"
    if _has(event.sender, needed):
        return None
    return InvalidEvent(
        needed, f"Measurement requires {_article(needed)} {needed}.", "VALUE_REQUIRED"
    )


def _has(sender: Sender, name: str) -> bool:
    return getattr(sender, name) is not None


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
