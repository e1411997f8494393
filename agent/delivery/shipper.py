"""The shipper: lease, build, post, triage; then ack, bury or release.

Exactly this layer retries. What was sent without a clear answer stays leased by nobody and is
sent again, so at most (connections x 25) events can arrive twice.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from agent.bell import Bell
from agent.clock import Clock
from agent.delivery.outlet import NEVER, Outlet, OutletReport
from agent.delivery.transport import Transport
from agent.event import Priority
from agent.ga4.outcome import Delivered, Outcome, Rejected, Retry, triage
from agent.ga4.request import EVENTS_MAX, build, fitting
from agent.progress import Progress
from agent.queue.event_queue import EventQueue, Leased, StorageError, Traffic
from agent.stepwise import Stepwise

log = logging.getLogger(__name__)

IDLE = 10.0  # seconds between looks when nothing rings; also what keeps the watchdog content
HELD_MAX = 16 * EVENTS_MAX  # events held back in one look for batches that may still fill
WITNESSES = 50  # events asked whether the endpoint takes anything at all
STORAGE_WAIT = 5.0  # seconds before a delivery that could not be recorded is recorded again


class Unrecorded:
    """Writes of what was delivered that the disk has refused. Any thread may call any method."""

    def __init__(self) -> None:
        self.writes: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def add(self, write: Callable[[], None]) -> None:
        """Keep it for later."""
        with self._lock:
            self.writes.append(write)

    def written(self) -> bool:
        """Whether everything is on record, or could be recorded now."""
        with self._lock:
            while self.writes:
                try:
                    self.writes[0]()
                except StorageError:
                    return False
                self.writes.pop(0)
        return True


class Shipper:
    """Delivers what the queue holds. Every connection is a thread that calls ``run``."""

    def __init__(
        self,
        *,
        queue: EventQueue,
        outlets: Sequence[Outlet],
        transport: Transport,
        clock: Clock,
        bell: Bell,
        stepwise: Stepwise,
        max_delay: float,
    ) -> None:
        """``max_delay``: seconds that a part-filled batch may wait for more events."""
        self._queue = queue
        self._outlets = deque(outlets)
        self._transport = transport
        self._clock = clock
        self._bell = bell
        self._stepwise = stepwise
        self._max_delay = max_delay
        self._paused = False
        self._stopping = False
        self._flushed_us = 0  # since boot: what was taken before waits for no others any more
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._unrecorded = Unrecorded()

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Ship until told to stop; ``stop()`` wakes it."""
        self._thread.progress = progress
        while not stop.is_set():
            progress.beat()
            rings = self._bell.rings
            self._bell.wait(min(self.ship_once(), IDLE), since=rings)
        self._transport.close()

    def ship_once(self) -> float:
        """Deliver one batch, if any may leave. Returns the seconds until the next look."""
        if self._paused:
            return NEVER
        if not self._unrecorded.written():
            return STORAGE_WAIT
        wait = NEVER
        for outlet in self._in_turn():
            wait = min(wait, self._ship_from(outlet))
            if not wait:
                break
        return wait

    def stop(self) -> None:
        """Begin no further request, and wake every connection to notice."""
        self._stopping = True
        self._bell.ring()

    def flush(self) -> None:
        """Try now, whatever the backoff says, and with batches that are not full yet."""
        self._flushed_us = self._clock.boot_us()
        for outlet in self._outlets:
            outlet.try_now()
        self._bell.ring()

    def pause(self) -> None:
        """Stop sending; taking events goes on."""
        self._paused = True

    def resume(self) -> None:
        """Send again."""
        self._paused = False
        self._bell.ring()

    def take_over(self, other: "Shipper") -> None:
        """Go on where one with another configuration leaves off."""
        self._paused = other.paused
        # Shared, not copied: the other may still be waiting for an answer or for the disk.
        self._unrecorded = other.unrecorded

    @property
    def unrecorded(self) -> "Unrecorded":
        """Writes that the disk has refused so far."""
        return self._unrecorded

    @property
    def paused(self) -> bool:
        """Whether a person stopped it."""
        return self._paused

    def reports(self) -> tuple[OutletReport, ...]:
        """What `status` says of each stream, by name."""
        return tuple(sorted((o.report() for o in tuple(self._outlets)), key=lambda r: r.stream))

    def _in_turn(self) -> list[Outlet]:
        """Every outlet, starting with another one each time, so that none starves."""
        with self._lock:
            self._outlets.rotate(-1)
            return list(self._outlets)

    def _ship_from(self, outlet: Outlet) -> float:
        if wait := outlet.wait_s():
            return wait
        ticket = outlet.enter()
        if ticket is None:
            return NEVER
        try:
            leased, wait = self._batch(outlet)
            if leased:
                self._deliver(outlet, ticket, leased)
            return wait
        finally:
            outlet.leave()

    # -- what may leave -----------------------------------------------------------------------

    def _batch(self, outlet: Outlet) -> tuple[Sequence[Leased], float]:
        """The events that may leave now; without any, the seconds until some may.

        Part-filled batches that may still fill are held back, and others let past them.
        """
        limit = 1 if self._stepwise.active else EVENTS_MAX
        held: list[int] = []
        wait = NEVER
        try:
            while len(held) < HELD_MAX and (leased := self._lease(outlet, limit)):
                fitting_ = self._cut(leased)
                full = len(fitting_) < len(leased) or len(leased) == limit
                fill_s = 0.0 if full else self._may_fill_s(leased)
                if fill_s <= 0:
                    return fitting_, 0.0
                held += _ids(leased)
                wait = min(wait, fill_s)
        finally:
            self._queue.release(held)
        return (), wait

    def _lease(self, outlet: Outlet, limit: int) -> tuple[Leased, ...]:
        for name in outlet.queued_as:
            with self._stepwise.step() as touch:
                leased = self._queue.lease(
                    name, limit=limit, on_pick=lambda ids: touch(*_rows(ids))
                )
            if leased:
                return leased
        return ()

    def _cut(self, leased: Sequence[Leased]) -> Sequence[Leased]:
        """As many as one request may carry; the others are given back."""
        with self._stepwise.step() as touch:
            touch(*_rows(_ids(leased)))
            number = fitting([row.event for row in leased])
        self._queue.release(_ids(leased[number:]))
        return leased[:number]

    def _may_fill_s(self, leased: Sequence[Leased]) -> float:
        """Seconds for which these may wait for others to fill their batch."""
        if any(
            row.event.priority == Priority.HIGH or row.event.stamp.boot_us <= self._flushed_us
            for row in leased
        ):
            return 0.0
        ages = [self._clock.age_in_this_boot_s(row.event.stamp) for row in leased]
        # What another boot left has waited long enough, whatever the clocks say.
        return self._max_delay - max(self._max_delay if age is None else age for age in ages)

    # -- delivering it --------------------------------------------------------------------------

    def _deliver(self, outlet: Outlet, ticket: int, leased: Sequence[Leased]) -> None:
        refused: list[tuple[Leased, str]] = []
        settled = self._settle(outlet, ticket, leased, refused)
        if not refused:
            return
        if settled:
            settled = self._ask_others(outlet, ticket, refused)
        if settled:
            self._judge(outlet, ticket, refused)
        else:
            self._queue.release([row.id for row, _ in refused])

    def _settle(
        self,
        outlet: Outlet,
        ticket: int,
        leased: Sequence[Leased],
        refused: list[tuple[Leased, str]],
    ) -> bool:
        """Post; halve what is rejected until single events are left. False: try later."""
        if self._stopping or self._unrecorded.writes:
            self._queue.release(_ids(leased))
            return False
        outcome, traffic = self._post(outlet, leased)
        match outcome:
            case Delivered():
                self._acknowledge(outlet, ticket, leased, traffic)
            case Retry():
                outlet.failed(outcome, ticket)
                self._queue.release(_ids(leased))
                return False
            case Rejected(reason) if len(leased) == 1:
                refused.append((leased[0], reason))
            case Rejected():
                middle = len(leased) // 2
                first, second = leased[:middle], leased[middle:]
                if not self._settle(outlet, ticket, first, refused):
                    self._queue.release(_ids(second))
                    return False
                return self._settle(outlet, ticket, second, refused)
        return True

    def _ask_others(self, outlet: Outlet, ticket: int, refused: list[tuple[Leased, str]]) -> bool:
        """Try single events further down the line until one passes. False: try later.

        What is behind refused events must not wait for them, and whether it passes tells whose
        fault the refusal is.
        """
        for _ in range(WITNESSES):
            if outlet.delivered_within_the_hour():
                return True
            witness = self._lease(outlet, 1)
            if not witness:
                return True
            if not self._settle(outlet, ticket, witness, refused):
                return False
        return True

    def _judge(self, outlet: Outlet, ticket: int, refused: Sequence[tuple[Leased, str]]) -> None:
        """Bury refused events only if the endpoint takes others: else it refuses everything."""
        if outlet.delivered_within_the_hour():
            for row, reason in refused:
                log.warning("stream %s: dead letter: %s", outlet.stream.name, reason)
                self._record(partial(self._queue.bury, [row.id], reason=reason))
            return
        reason = f"the endpoint refuses every event ({refused[0][1]}); check endpoint and stream"
        outlet.failed(Retry("misconfigured", reason), ticket)
        self._queue.release([row.id for row, _ in refused])

    def _post(self, outlet: Outlet, leased: Sequence[Leased]) -> tuple[Outcome, Traffic]:
        """Build, post, triage. While the network is waited for, no row is being touched."""
        self._beat()
        rows = _rows(_ids(leased))
        with self._stepwise.step() as touch:
            touch(*rows)
            request = build([row.event for row in leased], outlet.stream)
        exchange = self._transport.post(request)
        with self._stepwise.step() as touch:
            touch(*rows)
            outcome = triage(exchange.answer, outlet.stream)
        traffic = Traffic(1, exchange.sent, exchange.received)
        if not isinstance(outcome, Delivered):
            self._queue.note_traffic(traffic)
        return outcome, traffic

    def _beat(self) -> None:
        """A bisection is many requests: each of them is progress."""
        progress: Progress | None = getattr(self._thread, "progress", None)
        if progress:
            progress.beat()

    def _acknowledge(
        self, outlet: Outlet, ticket: int, leased: Sequence[Leased], traffic: Traffic
    ) -> None:
        self._record(partial(self._queue.ack_many, _ids(leased), traffic=traffic))
        if outlet.delivered(ticket):
            self._bell.ring()  # the other connections may join

    def _record(self, write: Callable[[], None]) -> None:
        """Write what happened; if the disk refuses, stop sending until it takes it."""
        try:
            write()
        except StorageError as error:
            log.error("cannot record a delivery, sending nothing more until it is: %s", error)
            self._unrecorded.add(write)


def _ids(leased: Sequence[Leased]) -> list[int]:
    return [row.id for row in leased]


def _rows(ids: Sequence[int]) -> list[str]:
    """The names of rows for step-by-step mode."""
    return [f"row:{row_id}" for row_id in ids]
