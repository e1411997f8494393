"""A message taken apart: what of it is stored, and what is refused. Nothing here does I/O."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent import jsontext
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
from agent.ga4.request import BODY_LIMIT, too_large
from agent.intake.identity import Device
from agent.intake.mapping import Rule
from agent.intake.parse import RAW_MAX, WHY_MAX, Draft, Element, Misfit, Parsed, Shape, parse
from agent.jsontext import frozen
from agent.queue.event_queue import SourceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a source hands in.

    ``answerable``: the publisher waits for an answer; what cannot be taken is refused. Else it
    is kept as a dead letter. ``state`` is committed with the events. ``stamp``: when it was
    written, if that is known. ``rule``: how ``topic`` and payload become events, if not as they
    are. ``keep``: how many bytes of it a dead letter may hold.
    """

    source: str
    payload: bytes
    shape: Shape = Shape.ANY
    stream: str | None = None
    priority: Priority = Priority.NORMAL
    answerable: bool = True
    state: tuple[SourceState, ...] = ()
    stamp: Stamp | None = None
    topic: str = ""
    rule: Rule | None = None
    keep: int = RAW_MAX

    @property
    def digest(self) -> str:
        """A name for exactly this message, without its content."""
        place = f"{self.source} {self.topic}" if self.topic else self.source
        return hashlib.sha256(place.encode() + b"\0" + self.payload).hexdigest()[:32]

    def parsed(self) -> Parsed:
        """The events in it. Raises InvalidEvent when there is nothing to speak of singly."""
        if self.rule is not None:
            return self.rule.parsed(self.payload, self.shape, self.topic)
        return parse(self.payload, self.shape)

    def set_aside(self, reason: str, stamp: Stamp, error: InvalidEvent | None = None) -> RawMessage:
        """The message as a dead letter."""
        return self.dead_letter(reason, self.payload, stamp, error)

    def dead_letter(
        self, reason: str, payload: bytes, stamp: Stamp, error: InvalidEvent | None
    ) -> RawMessage:
        """A part of the message as a dead letter."""
        why = str(error)[:WHY_MAX] if error else ""
        return RawMessage(self.source, reason, payload[: self.keep], stamp, why)


@dataclass(frozen=True, slots=True)
class Sorted:
    """A message taken apart: what to store, what to refuse.

    ``refused``: events turned away, those that share a rejected one's body included.
    """

    items: tuple[Event | RawMessage, ...] = ()
    rejected: tuple[InvalidEvent, ...] = ()
    refused: int = 0
    nothing_taken: bool = False


class Sorter:
    """Completes what a message says with what the device knows."""

    def __init__(
        self,
        *,
        streams: Mapping[str, Stream],
        device: Device,
        params: Mapping[str, Json],
        new_id: Callable[[], str],
    ) -> None:
        """``streams``: the first is the default. ``params``: put on every event without them."""
        self._streams = streams
        self._default = next(iter(streams), None)
        self._device = device
        self._params = params
        self._new_id = new_id

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
        completed = [self._complete(element, message, stamp) for element in parsed.elements]
        misfits = [item for item in completed if isinstance(item, Misfit)]
        items = tuple(item for item in completed if not isinstance(item, Misfit))
        rejected = tuple(misfit.error for misfit in misfits)
        if parsed.whole and misfits:
            items = ()
        if message.answerable:
            refused = len(parsed.elements) - len(items)
            return Sorted(items, rejected, refused, nothing_taken=not items)
        if parsed.whole and misfits:
            return Sorted((message.set_aside("invalid", stamp, rejected[0]),), rejected)
        raw = [
            message.dead_letter("invalid", m.payload, m.stamp or stamp, m.error) for m in misfits
        ]
        return Sorted((*items, *raw), rejected)

    def _complete(
        self, element: Element, message: Message, stamp: Stamp
    ) -> Event | RawMessage | Misfit:
        if not isinstance(element, Draft):
            return element
        name = element.stream or message.stream or self._default
        if name is not None and name not in self._streams:
            known = ", ".join(self._streams)
            error = InvalidEvent("stream", f"found {name[:40]!r}, expected one of {known}")
            return _misfit(element, error)
        stream = self._streams[name] if name else None
        event = self._event(element, message, stream, element.stamp or stamp)
        unsendable = _unsendable(event, stream)
        return event if unsendable is None else _misfit(element, unsendable)

    def _event(self, draft: Draft, message: Message, stream: Stream | None, stamp: Stamp) -> Event:
        whole = draft.complete
        return Event(
            name=draft.name,
            params=draft.params if whole else frozen({**self._params, **draft.params}),
            stream=stream.name if stream else UNASSIGNED,
            sender=draft.sender if whole else draft.sender.over(self._device.sender(stream)),
            stamp=stamp,
            event_id=draft.event_id or self._new_id(),
            priority=message.priority if draft.priority is None else draft.priority,
            time_us=draft.time_us,
            session=draft.session,
            actor=draft.actor,
        )


def _misfit(draft: Draft, error: InvalidEvent) -> Misfit:
    """An event that can go nowhere, with all that it said: who mends it wants its own time too."""
    return Misfit(error, jsontext.dumps(draft.said or {"name": draft.name}), draft.stamp)


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
