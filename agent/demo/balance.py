"""Whether all that was acknowledged arrived, and the books say so. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What was handed in against what arrived, by the events' numbers, and the agent's ledger.

    ``missing`` was acknowledged and did not arrive; ``unknown`` arrived and was never
    acknowledged; ``twice`` is how many arrivals were not the first of their number.
    """

    acknowledged: int
    arrived: int
    missing: int
    unknown: int
    twice: int
    received: int
    sent: int
    queued: int
    dead: int
    dropped: int
    ended: int  # the agent's exit status

    @property
    def right(self) -> bool:
        """Whether everything is as promised."""
        rest = self.queued + self.dead + self.dropped
        return (
            self.missing == self.unknown == rest == self.ended == 0
            and self.received == self.sent == self.arrived + self.twice
        )

    @property
    def verdict(self) -> str:
        """It in words."""
        return "the books balance" if self.right else "THE BOOKS DO NOT BALANCE"

    @property
    def arrivals(self) -> str:
        """What was handed in against what arrived."""
        sign = "=" if self.acknowledged == self.arrived else "!="
        return (
            f"acknowledged {self.acknowledged} {sign} arrived {self.arrived}"
            f", missing {self.missing}, twice {self.twice}"
        )

    @property
    def equation(self) -> str:
        """The agent's own books."""
        sum_ = self.sent + self.queued + self.dead + self.dropped
        return (
            f"received {self.received} {'=' if self.received == sum_ else '!='} sent {self.sent} "
            f"+ queued {self.queued} + dead {self.dead} + dropped {self.dropped}"
        )

    @property
    def repeats(self) -> str:
        """Why some arrived twice; empty when none did."""
        if not self.twice:
            return ""
        if self.received - self.arrived == self.twice:
            return "twice: handed in again, as the kill came between commit and acknowledgement"
        return "twice: sent again, as no clear answer had come"


def judge(
    *,
    acknowledged: frozenset[int],
    arrived: Sequence[int],
    ledger: Mapping[str, Any],
    ended: int,
) -> Balance:
    """Count. ``arrived`` has every arrival's number; ``ledger`` is that of `status --json`."""
    times = Counter(arrived)
    return Balance(
        acknowledged=len(acknowledged),
        arrived=len(times),
        missing=len(acknowledged - times.keys()),
        unknown=len(times.keys() - acknowledged),
        twice=times.total() - len(times),
        received=ledger["received"],
        sent=ledger["sent"],
        queued=ledger["queued"],
        dead=ledger["dead"],
        dropped=sum(ledger["dropped"].values()),
        ended=ended,
    )
