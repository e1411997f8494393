"""What a source hands in: bytes, where they came from, and what is known of them."""

import hashlib
from dataclasses import dataclass, field

from agent.event import InvalidEvent, Priority, RawMessage, Stamp
from agent.intake.mapping import Rule
from agent.intake.parse import (
    RAW_MAX,
    UNKEPT_KEYS,
    WHY_MAX,
    Misfit,
    Parsed,
    Shape,
    parse,
    without_unkept,
)
from agent.queue.entries import Seen, SourceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a source hands in.

    ``answerable``: the publisher waits for an answer; what cannot be taken is refused. Else it
    is kept as a dead letter. ``state`` is committed with the events. ``stamp``: when it was
    written, if that is known. ``rule``: how ``topic`` and payload become events, if not as they
    are. ``keep``: how many bytes of it a dead letter may hold. ``local``: its times were read from
    this device's clock. ``cookies``: the Cookie header that came with it. ``delivery``: by what a
    broker's second delivery is known; ``again``: whether this may be one. ``most``: bytes of
    payload; a longer one is set aside unread. None: whoever made it has seen to that.
    ``can_wait``: where it is it can stay until there is room.
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
    local: bool = True
    cookies: str = field(default="", repr=False)
    delivery: Seen | None = None
    again: bool = False
    most: int | None = None
    can_wait: bool = False

    @property
    def oversized(self) -> InvalidEvent | None:
        """Why it is too large to be read; None if it is not. Reading takes many times its size."""
        if self.most is None or len(self.payload) <= self.most:
            return None
        return InvalidEvent(
            "", f"found a message of {len(self.payload)} bytes, expected at most {self.most}"
        )

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
        """The message as a dead letter, without what must not be stored."""
        strip = self.rule.without_unkept if self.rule else without_unkept
        return self.dead_letter(reason, strip(self.payload), stamp, error)

    def set_aside_unread(
        self, reason: str, stamp: Stamp, error: InvalidEvent | None = None
    ) -> RawMessage:
        """The message as a dead letter, without a look into it; empty if it may hold a key."""
        keyed = self.rule is not None and "client_key" in self.rule.texts
        unfit = keyed or any(name.encode() in self.payload for name in UNKEPT_KEYS)
        return self.dead_letter(reason, b"" if unfit else self.payload, stamp, error)

    def part_aside(self, misfit: Misfit, stamp: Stamp, *, within: str) -> RawMessage:
        """An element as a dead letter, without what must not be stored."""
        payload = misfit.payload
        if self.rule is not None and "client_key" in self.rule.texts:
            # The rule knows where in a message the key is, but not where in an element of many.
            payload = b"" if within else self.rule.without_unkept(payload)
        return self.dead_letter("invalid", payload, misfit.stamp or stamp, misfit.error)

    def dead_letter(
        self, reason: str, payload: bytes, stamp: Stamp, error: InvalidEvent | None
    ) -> RawMessage:
        """A part of the message as a dead letter."""
        why = str(error)[:WHY_MAX] if error else ""
        return RawMessage(self.source, reason, payload[: self.keep], stamp, why)
