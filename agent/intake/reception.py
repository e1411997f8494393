"""What is settled only at the moment of taking: whether an event is new, and in whose sitting it is.

Both depend on what was taken before, and what is learned here is committed with the events.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.event import Beginning, Json, RawMessage
from agent.intake.duplicates import Asked, Claim, Verdict, Window
from agent.intake.message import Message
from agent.intake.sessions import Placed, Sessions
from agent.intake.sorting import Ready, Sorted, counted
from agent.intake.spacing import Spacing
from agent.jsontext import frozen
from agent.queue.entries import Seen, SessionState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Messages as they are to be committed, and what is committed with them."""

    parts: Sequence[Sorted]
    sessions: Sequence[SessionState] = ()
    seen: Sequence[Seen] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class Reception:
    """Receives what was sorted. Any thread may call it."""

    def __init__(
        self, *, window: Window, sessions: Sessions | None, spacing: Spacing | None = None
    ) -> None:
        """Without ``sessions`` no event belongs to a sitting.

        ``spacing``: that of the reception before this one, which knows the times that are taken.
        """
        self._window = window
        self._sessions = sessions
        self._spacing = spacing or Spacing()
        self._warned = False

    def claim(self, messages: Sequence[Message], parts: Sequence[Sorted]) -> Claim:
        """Keep others from taking the same until this is committed or released.

        Raises Unsettled.
        """
        return self._window.claim(
            [
                asked
                for message, part in zip(messages, parts, strict=True)
                for asked in _asked(message, part)
            ]
        )

    def receive(self, parts: Sequence[Sorted], claim: Claim) -> Received:
        """Leave out what was taken before, and put the rest into its sittings."""
        verdicts = iter(claim.verdicts)
        fresh = [self._fresh(part, verdicts) for part in parts]
        states: dict[str, SessionState] = {}
        received = [
            replace(part, items=tuple(self._placed(item, states) for item in part.items))
            for part in fresh
        ]
        counts: Counter[str] = Counter()
        for part in received:
            counts.update(part.counts)
        return Received(
            parts=received, sessions=tuple(states.values()), seen=claim.seen, counts=counts
        )

    def _fresh(self, part: Sorted, verdicts: Iterator[Verdict]) -> Sorted:
        """The part without what was taken before."""
        again = next(verdicts) == "duplicate"
        told = [next(verdicts) for _ in part.items]
        kept = tuple(
            item
            for item, verdict in zip(part.items, told, strict=True)
            if not again and verdict != "duplicate"
        )
        repeated, reused = len(part.items) - len(kept), told.count("conflict")
        if reused:
            self._warn()
        if not repeated and not reused:
            return part
        more = {"refused.duplicate": repeated, "noted.transaction_id_reused": reused}
        counts = counted(kept) + Counter(more)
        return replace(part, items=kept, counts=counts, duplicates=repeated)

    def _placed(
        self, item: Ready | RawMessage, states: dict[str, SessionState]
    ) -> Ready | RawMessage:
        if not isinstance(item, Ready) or item.attributed is None:
            return item
        whose = item.attributed
        item = replace(item, event=self._spacing.apart(item.event))
        if not whose.made:
            return _with(item, {"session_id": whose.session_id})
        if self._sessions is None:
            return item
        placed = self._place(item, self._sessions)
        if placed.state is not None:
            states[placed.state.client] = placed.state
        return _seated(item, placed)

    @staticmethod
    def _place(item: Ready, sessions: Sessions) -> Placed:
        event = item.event
        return sessions.place(
            event.sender.client_id or event.sender.app_instance_id or "",
            stamp=event.stamp if event.time_us is None else item.moment or event.stamp,
            human=item.human,
            mark=event.session,
            own=item.attributed is not None and item.attributed.own,
        )

    def _warn(self) -> None:
        """Say it once: a till that numbers badly does so all day."""
        if not self._warned:
            self._warned = True
            log.warning(
                "found a transaction_id again with other content: GA4 counts only one of the two; "
                "both are sent, and counted as transaction_id_reused; check how they are numbered"
            )


def _asked(message: Message, part: Sorted) -> Iterator[Asked]:
    """One for the message itself, then one for each of its items."""
    delivery = () if message.delivery is None else (message.delivery,)
    yield Asked(delivery, look=message.again)
    for item in part.items:
        yield Asked(item.seen if isinstance(item, Ready) else ())


def _seated(item: Ready, placed: Placed) -> Ready:
    """The event with its place: its session is a param, or found when the clock is known."""
    event, sitting = item.event, None
    if placed.start is not None and "session_id" in item.room:
        client = event.sender.client_id or event.sender.app_instance_id or ""
        sitting = Beginning(client, placed.start)
    if event.sender.client_id not in (None, placed.client_id):
        event = replace(event, sender=replace(event.sender, client_id=placed.client_id))
    said = {"session_id": placed.session_id, "engagement_time_msec": placed.engagement_ms}
    return _with(replace(item, event=replace(event, sitting=sitting)), said)


def _with(item: Ready, values: Mapping[str, Json]) -> Ready:
    """The event with those of the values that are known and have room."""
    more = {k: v for k, v in values.items() if v is not None and k in item.room}
    if not more:
        return item
    params = frozen({**item.event.params, **more})
    return replace(item, event=replace(item.event, params=params))
