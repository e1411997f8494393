"""The one way in: sort, receive, commit. Sources know the door and no queue.

Three answers: accepted, refused with reasons, full. They are given after the commit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.clock import Clock
from agent.event import InvalidEvent, Stamp
from agent.intake.duplicates import Unsettled
from agent.intake.message import Message
from agent.intake.reception import Received, Reception
from agent.intake.sorting import Sorted, Sorter
from agent.queue.entries import SourceState
from agent.queue.event_queue import EventQueue
from agent.queue.failures import QueueFull, StorageError
from agent.stepwise import Condemned, Stepwise

CRASHED = "crashed"  # where the digests of messages that killed the process are kept


@dataclass(frozen=True, slots=True)
class Accepted:
    """On the disk. ``rejected`` tells of elements that were refused beside it.

    ``duplicates``: how many of them had been taken before.
    """

    number: int
    rejected: tuple[InvalidEvent, ...] = ()
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was taken, because of these."""

    reasons: tuple[InvalidEvent, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """Nothing was taken; later it can be. ``reason`` is for people."""

    reason: str


Answer = Accepted | Refused | Full


class Door:
    """Lets events in. Any thread may call it."""

    def __init__(
        self,
        *,
        queue: EventQueue,
        clock: Clock,
        sorter: Sorter,
        reception: Reception,
        stepwise: Stepwise,
        condemned: Condemned,
        on_taken: Callable[[Message, Sorted], None] = lambda _message, _part: None,
    ) -> None:
        """Take the parts.

        ``condemned``: what killed the process, to be set aside. ``on_taken`` hears what each
        message became, after the commit.
        """
        self._queue = queue
        self._clock = clock
        self._sorter = sorter
        self._reception = reception
        self._stepwise = stepwise
        self._condemned = condemned
        self._on_taken = on_taken

    def admit(self, message: Message) -> Answer:
        """Take one message."""
        return self.admit_many([message])[0]

    def admit_many(self, messages: Sequence[Message]) -> list[Answer]:
        """Take messages in one commit; in step-by-step mode each by itself."""
        if not self._stepwise.active:
            return self._admit(messages)
        return self._one_by_one(messages)

    def _one_by_one(self, messages: Sequence[Message]) -> list[Answer]:
        """Each in a commit of its own. Behind one that is not taken none is: order is kept."""
        answers: list[Answer] = []
        for message in messages:
            if answers and isinstance(answers[-1], Full) and not message.answerable:
                answers.append(answers[-1])
                continue
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
            with self._reception.claim(messages, parts) as claim:
                received = self._reception.receive(parts, claim)
                self._put(messages, received)
                claim.committed()
        except QueueFull as full:
            if full.never:
                return self._too_much(messages, stamp)
            return self._full(messages, parts, str(full))
        except (StorageError, Unsettled) as error:
            return self._full(messages, parts, str(error))
        for message, part in zip(messages, received.parts, strict=True):
            self._count(part)
            self._on_taken(message, part)
        return [_answer(part) for part in received.parts]

    def _put(self, messages: Sequence[Message], received: Received) -> None:
        items = [item for part in received.parts for item in part.stored]
        state = [entry for message in messages for entry in message.state]
        forgiven = (
            [m.digest for m in messages if m.digest in self._condemned] if self._condemned else []
        )
        state += [SourceState(CRASHED, digest, None) for digest in forgiven]
        if items or state or received.counts:
            self._queue.put_many(
                items,
                state=state,
                sessions=received.sessions,
                seen=received.seen,
                counts=received.counts,
                can_wait=all(message.can_wait for message in messages),
            )
        self._condemned.forgive(forgiven)

    def _full(
        self, messages: Sequence[Message], parts: Sequence[Sorted], reason: str
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
            return self._one_by_one(messages)
        [message] = messages
        if message.answerable:
            self.refuse("too_large")
            error = InvalidEvent("", "found more than the queue could ever hold, expected less")
            return [Refused((error,))]
        part = Sorted((message.set_aside("too_large", stamp),))
        try:
            self._put(messages, Received(parts=[part]))
        except (QueueFull, StorageError) as error:
            return [Full(str(error))]
        return [_answer(part)]

    def _sort(self, message: Message, stamp: Stamp) -> Sorted:
        if self._condemned and message.digest in self._condemned:
            return self._crash(message, stamp)
        if error := message.oversized:
            return Sorted((message.set_aside_unread("too_large", stamp, error),), rejected=(error,))
        return self._sorter.sort(message, stamp)

    @staticmethod
    def _crash(message: Message, stamp: Stamp) -> Sorted:
        """The message that killed the process: kept for people, and refused if one can be told."""
        raw = message.set_aside_unread("crashed", stamp)
        if not message.answerable:
            return Sorted((raw,))
        error = InvalidEvent("", "the agent crashed on this very message; it was set aside")
        return Sorted((raw,), rejected=(error,), nothing_taken=True)

    def _count(self, part: Sorted) -> None:
        if part.refused:
            self.refuse("invalid", part.refused)


def _answer(part: Sorted) -> Answer:
    if part.nothing_taken:
        return Refused(part.rejected)
    number = len(part.items) + part.duplicates
    return Accepted(number, part.rejected if part.refused else (), part.duplicates)
