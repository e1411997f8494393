"""Which of a batch's events the endpoint refuses, and whether that is their fault or its own.

A refused batch is halved until single events are left: one bad event among n costs about
2 log2 n requests. An endpoint that refuses everything looks just like a bad event, so nothing is
called bad by its own refusal. It takes a witness: another event that the endpoint takes now.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.ga4.departure import Departing
from agent.ga4.outcome import Delivered, Rejected

WITNESSES = 50  # events asked in one attempt whether the endpoint takes anything at all

Blame = Literal["events", "endpoint", "nobody"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A leased event as it leaves now; ``id`` is its row."""

    id: int
    departing: Departing


@dataclass(frozen=True, slots=True)
class Refused:
    """A single event that was refused, and why. It stays leased."""

    id: int
    reason: str


class Bisection:
    """One attempt to deliver a batch, and what came to light in it.

    ``refused``: single events that the endpoint did not take. ``passed_over``: how many events
    further down the line the next attempt need not ask again before it asks others.
    """

    def __init__(
        self,
        *,
        send: Callable[[Sequence[Parcel]], Delivered | Rejected | None],
        next_in_line: Callable[[], Sequence[Parcel] | None],
        give_back: Callable[[Sequence[Parcel]], None],
        remembers: Callable[[], bool],
        passed_over: int = 0,
    ) -> None:
        """``send``: one request; None if nothing was decided, and they were given back.

        ``next_in_line``: leases one more event; nothing if none waits, None to try later.
        ``remembers``: whether an earlier delivery may stand in for a witness; asked at most once.
        ``passed_over``: what the last attempt left behind.
        """
        self._send = send
        self._next_in_line = next_in_line
        self._give_back = give_back
        self._remembers = remembers
        self._taken = False
        self._met = 0  # others in the line
        self.passed_over = passed_over
        self.refused: list[Refused] = []

    def blame(self, parcels: Sequence[Parcel]) -> Blame:
        """Deliver them, and say whose fault it is that some were refused.

        Nobody's: none was, or it could not be found out now.
        """
        if not self._settle(parcels) or not self.refused:
            return "nobody"
        if not self._taken and not self._ask_others():
            return "nobody"
        return "events" if self._taken or self._alone() else "endpoint"

    def _settle(self, parcels: Sequence[Parcel]) -> bool:
        """Send; halve what is rejected until single events are left. False: try later."""
        outcome = self._send(parcels)
        match outcome:
            case Delivered():
                self._taken = True
            case Rejected(reason) if len(parcels) == 1:
                self.refused.append(Refused(parcels[0].id, reason))
            case Rejected():
                return self._halve(parcels)
        return outcome is not None

    def _halve(self, parcels: Sequence[Parcel]) -> bool:
        middle = len(parcels) // 2
        if not self._settle(parcels[:middle]):
            self._give_back(parcels[middle:])
            return False
        return self._settle(parcels[middle:])

    def _ask_others(self) -> bool:
        """Send single events further down the line until one passes. False: try later.

        Each attempt asks others than the last one, until it comes to the end of the line: what
        is behind any number of bad events must not wait for them for ever.
        """
        skipped: list[Parcel] = []
        asked = 0
        try:
            while asked < WITNESSES and not self._taken:
                witness = self._next_in_line()
                if not witness:
                    self.passed_over = 0
                    return witness is not None
                self._met += 1
                if len(skipped) < self.passed_over:
                    skipped += witness
                    continue
                if not self._settle(witness):
                    return False
                asked += 1
        finally:
            self._give_back(skipped)
        self.passed_over = 0 if self._taken else self.passed_over + asked
        return True

    def _alone(self) -> bool:
        """Whether there is nobody to ask, and what is remembered speaks for the endpoint."""
        return len(self.refused) == 1 and not self._met and self._remembers()
