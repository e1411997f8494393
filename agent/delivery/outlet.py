"""The way out of one stream: whether it may send now, and if not, why and until when."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent.delivery.backoff import HOUR, Backoff
from agent.event import UNASSIGNED, Stream
from agent.ga4.outcome import Retry, State

log = logging.getLogger(__name__)

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class OutletReport:
    """What `status` says of a stream. Ages are seconds; None: not since the start."""

    stream: str
    state: State | Literal["unconfigured"]
    reason: str
    next_try_s: float
    delivered_ago_s: float | None


class Outlet:
    """The delivery state of one stream. Any thread may call any method."""

    def __init__(
        self,
        *,
        stream: Stream,
        backoff: Backoff,
        connections: int,
        monotonic: Callable[[], float],
        takes_unassigned: bool = False,
    ) -> None:
        """Serve ``stream``; the default one also takes what came before any was configured.

        Not an app stream: those events were made with a client_id, which it does not know.
        """
        unassigned = (UNASSIGNED,) if takes_unassigned and not stream.is_app else ()
        self.stream = stream
        self.queued_as = (stream.name, *unassigned)
        self._backoff = backoff
        self._connections = connections
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._busy = 0
        self._failures = 0
        self._healthy = False
        self._not_before = 0.0
        self._delivered_at: float | None = None
        self._relied = False
        self.passed_over = 0  # by the last attempt of a bisection
        self._state: State = "ok"
        self._reason = ""

    def wait_s(self) -> float:
        """Seconds until it may send; 0 for now, infinity without a secret."""
        if self.stream.lacks:
            return NEVER
        with self._lock:
            return max(0.0, self._not_before - self._monotonic())

    def enter(self) -> int | None:
        """Take one of the connections: one until the first success, then all of them.

        Returns a ticket for ``delivered`` and ``failed``, or None when all are taken.
        """
        with self._lock:
            if self._busy >= (self._connections if self._healthy else 1):
                return None
            self._busy += 1
            return self._failures

    def leave(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._busy -= 1

    def delivered(self, ticket: int) -> bool:
        """Note a success; whether it is the first one after a failure or the start.

        An answer to a request from before the last failure does not end the wait since then.
        """
        with self._lock:
            self._delivered_at = self._monotonic()
            self._relied = False
            if ticket != self._failures:
                return False
            first, self._healthy = not self._healthy, True
            self._not_before = 0.0
            self._backoff.succeeded()
            recovered = self._change("ok", "")
        if recovered:
            log.info("stream %s: delivering again", self.stream.name)
        return first

    def rely_on_last_delivery(self) -> bool:
        """Whether the endpoint took an event within the hour, so that a refusal is the event's fault.

        Good for one event after each delivery: if the next is refused too, that is no proof any
        more of an endpoint that takes others.
        """
        with self._lock:
            at, relied = self._delivered_at, self._relied
            self._relied = True
        return not relied and at is not None and self._monotonic() - at < HOUR

    @property
    def answer_would_mend(self) -> bool:
        """Whether it is in a state that a request without events can find to have ended."""
        with self._lock:
            return self._state in ("offline", "login_page", "clock_blocks_tls")

    def answered(self, ticket: int) -> None:
        """Note that the endpoint answers, though nothing was delivered."""
        with self._lock:
            if ticket != self._failures:
                return
            self._not_before = 0.0
            self._backoff.succeeded()
            recovered = self._change("ok", "")
        if recovered:
            log.info("stream %s: the endpoint answers again", self.stream.name)

    def failed(self, outcome: Retry, ticket: int) -> None:
        """Note a failure and back off; connections that fail together count once."""
        with self._lock:
            if ticket != self._failures:
                # Only what the server asked for is heard twice: the longest wait holds.
                self._hold(outcome.after or 0.0)
                return
            self._failures += 1
            self._healthy = False
            wait = self._wait_after(outcome)
            self._hold(wait)
            changed = self._change(outcome.state, outcome.reason)
        if changed:
            log.warning(
                "stream %s: %s: %s; keeping everything, next try in %.0f s",
                self.stream.name, outcome.state, outcome.reason, wait,
            )  # fmt: skip

    def try_now(self) -> None:
        """Forget the wait: something changed that may have mended it."""
        with self._lock:
            self._not_before = 0.0

    def report(self) -> OutletReport:
        """What `status` says."""
        with self._lock:
            now = self._monotonic()
            ago = None if self._delivered_at is None else now - self._delivered_at
            wait = max(0.0, self._not_before - now)
            if lacks := self.stream.lacks:
                return OutletReport(self.stream.name, "unconfigured", lacks, 0.0, ago)
            return OutletReport(self.stream.name, self._state, self._reason, wait, ago)

    def _wait_after(self, outcome: Retry) -> float:
        if outcome.state == "misconfigured":
            return self._backoff.hourly()
        return self._backoff.failed(asked=outcome.after)

    def _hold(self, wait: float) -> None:
        self._not_before = max(self._not_before, self._monotonic() + wait)

    def _change(self, state: State, reason: str) -> bool:
        changed = state != self._state
        self._state, self._reason = state, reason
        return changed
