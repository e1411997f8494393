"""What was taken before is not taken again: redeliveries, repeated event ids, transactions.

The window is in memory and follows what is committed with the events; the queue keeps it across
restarts. Beyond its size the oldest is forgotten, and would be taken again.
"""

import hashlib
import re
import threading
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

from agent.event import Event, Json
from agent.jsontext import canonical
from agent.queue.entries import Seen

Kind = Literal["event_id", "mqtt", "transaction"]
Verdict = Literal["fresh", "duplicate", "conflict"]

DIGEST = 12  # bytes: by chance two are equal once in 10^20 windows
CONTENTS = 8  # of one transaction that are told apart; a ninth makes the first one new again
PATIENCE = 30.0  # seconds for another thread's commit
COUNTED_ONCE = frozenset(("purchase",))  # those of which GA4 counts one transaction_id once
# Only these are known by it: what a custom event means by saying it twice nobody can tell.
TRANSACTIONS = COUNTED_ONCE | {"refund"}
MEASURED = frozenset(("session_id", "engagement_time_msec", "timestamp_micros", "event_id"))
OWN_ID = re.compile("e[0-9a-f]{16}")  # the form that the agent gives to the ids it makes


class Unsettled(Exception):  # noqa: N818 - named after what was found
    """Another thread has not finished taking the same: whether it is on the disk is not known."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Something to be taken, and by what it is known again.

    ``look`` False: it cannot have been taken before, so it is only remembered.
    """

    seen: tuple[Seen, ...]
    look: bool = True


def marks(
    event: Event, *, who: str, brought_id: bool, said_us: int | None = None
) -> tuple[Seen, ...]:
    """By what a repetition of an event is known.

    ``event``: with the params that its publisher said. ``who``: the client or app instance that the
    publisher named; empty for the device's own, whose id can be reset. ``brought_id``: whether its
    event_id came from the publisher. ``said_us``: the time that the publisher gave it, as he gave
    it; without it the event's own.
    """
    found = []
    event_id = event.event_id if brought_id else _forwarded(event)
    if event_id is not None:
        found.append(Seen("event_id", _digest(event.stream, who, event.name, event_id)))
    transaction = event.params.get("transaction_id")
    if event.name in TRANSACTIONS and _names_a_transaction(transaction):
        time_us = event.time_us if said_us is None else said_us
        once = event.name in COUNTED_ONCE
        content = _content(event, who, time_us, "" if once or event_id is None else event_id)
        # Of one sale as much as one likes is given back, in parts: that is no number used twice.
        part = "" if once else content
        key = _digest(event.stream, event.name, str(transaction), part)
        found.append(Seen("transaction", key, content))
    return tuple(found)


def _content(event: Event, who: str, time_us: int | None, event_id: str) -> str:
    """What tells a transaction from another one with its id, as a digest.

    Two tills may number alike, and a repeat may be measured anew. ``event_id``: if it counts.
    """
    said = {name: value for name, value in event.params.items() if name not in MEASURED}
    user, when = event.sender.user_id or "", "" if time_us is None else str(time_us)
    return _digest(canonical(said), who, user, when, event_id)


def _forwarded(event: Event) -> str | None:
    """The id that another agent gave to an event which it hands on.

    Only of the form of its own ids: as a param of somebody else's, event_id may be a concert's.
    """
    found = event.params.get("event_id")
    return found if isinstance(found, str) and OWN_ID.fullmatch(found) else None


def delivery(topic: str, message_id: int, payload: bytes, *, session: str = "") -> Seen:
    """By what an MQTT message is known that a broker delivers again.

    ``session``: a name of the broker's session: in another one message ids begin anew.
    """
    return Seen("mqtt", _digest(session, topic, str(message_id), payload))


class Claim:
    """What one thread is taking. Nobody else takes the same until it is settled.

    ``verdicts``: of each that was asked for. ``seen``: to be committed with what is taken. As a
    context it is released at its end, unless it was committed.
    """

    def __init__(
        self,
        *,
        verdicts: Sequence[Verdict],
        seen: Sequence[Seen],
        settle: Callable[[Sequence[Seen], bool], None],
    ) -> None:
        self.verdicts = tuple(verdicts)
        self.seen = tuple(seen)
        self._settle: Callable[[Sequence[Seen], bool], None] | None = settle

    def committed(self) -> None:
        """It is on the disk: from now on it is a duplicate."""
        self._end(taken=True)

    def released(self) -> None:
        """It was not taken: whoever brings it again may."""
        self._end(taken=False)

    def _end(self, *, taken: bool) -> None:
        settle, self._settle = self._settle, None
        if settle:
            settle(self.seen, taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released()


class Window:
    """What was taken lately. Any thread may call any method."""

    def __init__(
        self,
        *,
        load: Callable[[Kind], Sequence[tuple[str, str]]],
        size: int = 10_000,
        patience: float = PATIENCE,
    ) -> None:
        """``load``: keys and digests of a kind, the oldest first. ``size``: keys of each kind.

        ``patience``: seconds for which a claim waits for another one of the same.
        """
        self._size = size
        self._patience = patience
        self._known: dict[str, OrderedDict[str, tuple[str, ...]]] = {
            kind: OrderedDict() for kind in get_args(Kind)
        }
        self._pending: set[tuple[str, str]] = set()
        self._settled = threading.Condition()
        for kind in get_args(Kind):
            for key, digest in load(kind):
                self._remember(Seen(kind, key, digest))

    def claim(self, asked: Sequence[Asked]) -> Claim:
        """Say what of it was taken before, and reserve the rest.

        All at once, so that two threads cannot wait for each other. Waits while another thread is
        taking some of it: only when that is settled is it known whether a duplicate may be
        acknowledged. Raises Unsettled.
        """
        keys = {(seen.kind, seen.key) for one in asked for seen in one.seen}
        with self._settled:
            if not self._settled.wait_for(lambda: keys.isdisjoint(self._pending), self._patience):
                raise Unsettled("the same is just being taken, and the disk takes long; try again")
            verdicts, fresh = self._judge(asked)
            self._pending.update((seen.kind, seen.key) for seen in fresh)
        return Claim(verdicts=verdicts, seen=fresh, settle=self._settle)

    def _judge(self, asked: Sequence[Asked]) -> tuple[list[Verdict], list[Seen]]:
        """Each against what is known and what comes before it in the same claim."""
        verdicts: list[Verdict] = []
        fresh: list[Seen] = []
        before: dict[tuple[str, str], tuple[str, ...]] = {}
        for one in asked:
            verdict = self._verdict(one, before) if one.look else "fresh"
            verdicts.append(verdict)
            for seen in one.seen if verdict != "duplicate" else ():
                fresh.append(seen)
                contents = before.get((seen.kind, seen.key), ())
                before[seen.kind, seen.key] = (*contents, seen.digest)[-CONTENTS:]
        return verdicts, fresh

    def _verdict(self, asked: Asked, before: Mapping[tuple[str, str], tuple[str, ...]]) -> Verdict:
        verdict: Verdict = "fresh"
        for seen in asked.seen:
            known = self._known[seen.kind].get(seen.key, ())
            contents = known + before.get((seen.kind, seen.key), ())
            if seen.digest in contents:
                return "duplicate"
            if contents:
                verdict = "conflict"
        return verdict

    def _settle(self, seen: Sequence[Seen], taken: bool) -> None:
        with self._settled:
            self._pending.difference_update((one.kind, one.key) for one in seen)
            for one in seen if taken else ():
                self._remember(one)
            self._settled.notify_all()

    def _remember(self, seen: Seen) -> None:
        known = self._known[seen.kind]
        contents = known.pop(seen.key, ())
        known[seen.key] = (*contents, seen.digest)[-CONTENTS:]
        if len(known) > self._size:
            known.popitem(last=False)


def _names_a_transaction(value: Json) -> bool:
    """A blank one says nothing, and is refused elsewhere."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digest(*parts: str | bytes) -> str:
    """Sixteen letters; each part with its length before it, so that none runs into the next."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode()
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return urlsafe_b64encode(digest.digest()).decode()
