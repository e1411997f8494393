"""The shipper: lease, build, post, triage; then ack, bury or release.

Exactly this layer retries. What was sent without a clear answer stays leased by nobody and is
sent again, so at most (connections x 25) events can arrive twice.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

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
STORAGE_WAIT = 5.0  # seconds before a delivery that could not be recorded is recorded again


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
        self._lock = threading.Lock()
        self._unrecorded: list[Callable[[], None]] = []

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Ship until told to stop; ``stop()`` wakes it."""
        while not stop.is_set():
            progress.beat()
            rings = self._bell.rings
            self._bell.wait(min(self.ship_once(), IDLE), since=rings)
        self._transport.close()

    def ship_once(self) -> float:
        """Deliver one batch, if any may leave. Returns the seconds until the next look."""
        if self._paused:
            return NEVER
        if not self._recorded():
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
        """Try now, whatever the backoff says."""
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

    @property
    def paused(self) -> bool:
        """Whether a person stopped it."""
        return self._paused

    def reports(self) -> tuple[OutletReport, ...]:
        """What `status` says of each stream, by name."""
        return tuple(sorted((o.report() for o in self._outlets), key=lambda r: r.stream))

    def _in_turn(self) -> list[Outlet]:
        """Every outlet, starting with another one each time, so that none starves."""
        with self._lock:
            self._outlets.rotate(-1)
            return list(self._outlets)

    def _ship_from(self, outlet: Outlet) -> float:
        if wait := outlet.wait_s():
            return wait
        if not outlet.enter():
            return NEVER
        try:
            leased, wait = self._batch(outlet)
            if leased:
                self._deliver(outlet, leased)
            return wait
        finally:
            outlet.leave()

    def _batch(self, outlet: Outlet) -> tuple[Sequence[Leased], float]:
        """The events that may leave now; without any, the seconds until some may."""
        limit = 1 if self._stepwise.active else EVENTS_MAX
        leased = self._lease(outlet, limit)
        if not leased:
            return (), NEVER
        number = fitting([row.event for row in leased])
        wait = self._may_fill_s(leased) if number == len(leased) < limit else 0.0
        if wait > 0:
            self._queue.release([row.id for row in leased])
            return (), wait
        if number < len(leased):
            self._queue.release([row.id for row in leased[number:]])
        return leased[:number], 0.0

    def _lease(self, outlet: Outlet, limit: int) -> tuple[Leased, ...]:
        for name in outlet.queued_as:
            if leased := self._queue.lease(name, limit=limit):
                return leased
        return ()

    def _may_fill_s(self, leased: Sequence[Leased]) -> float:
        if any(row.event.priority == Priority.HIGH for row in leased):
            return 0.0
        return self._max_delay - max(self._clock.age_s(row.event.stamp) for row in leased)

    def _deliver(self, outlet: Outlet, leased: Sequence[Leased]) -> None:
        with self._stepwise.touching(*(f"row:{row.id}" for row in leased)):
            refused: list[tuple[Leased, str]] = []
            self._settle(outlet, leased, refused)
            if refused:
                self._judge(outlet, refused)

    def _settle(
        self, outlet: Outlet, leased: Sequence[Leased], refused: list[tuple[Leased, str]]
    ) -> bool:
        """Post; halve what is rejected until single events are left. False: try later."""
        if self._stopping:
            self._queue.release(_ids(leased))
            return False
        outcome, traffic = self._post(outlet, leased)
        match outcome:
            case Delivered():
                self._acknowledge(outlet, leased, traffic)
            case Retry():
                self._later(outlet, outcome, leased)
                return False
            case Rejected(reason) if len(leased) == 1:
                refused.append((leased[0], reason))
            case Rejected():
                middle = len(leased) // 2
                first, second = leased[:middle], leased[middle:]
                if not self._settle(outlet, first, refused):
                    self._queue.release(_ids(second))
                    return False
                return self._settle(outlet, second, refused)
        return True

    def _judge(self, outlet: Outlet, refused: Sequence[tuple[Leased, str]]) -> None:
        """Bury refused events only if the endpoint takes others: else it refuses everything."""
        if outlet.delivered_within_the_hour() or self._others_pass(outlet):
            for row, reason in refused:
                log.warning("stream %s: dead letter: %s", outlet.stream.name, reason)
                self._record(
                    lambda row=row, reason=reason: self._queue.bury([row.id], reason=reason)  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
                )
            return
        reason = f"the endpoint refuses every event ({refused[0][1]}); check endpoint and stream"
        self._later(outlet, Retry("misconfigured", reason), [row for row, _ in refused])

    def _others_pass(self, outlet: Outlet) -> bool:
        """Ask with the next events in line: what is behind a refused one must not wait for it."""
        witness = self._lease(outlet, EVENTS_MAX)
        if not witness:
            return False
        number = fitting([row.event for row in witness])
        self._queue.release(_ids(witness[number:]))
        outcome, traffic = self._post(outlet, witness[:number])
        if isinstance(outcome, Delivered):
            self._acknowledge(outlet, witness[:number], traffic)
            return True
        self._queue.release(_ids(witness[:number]))
        return False

    def _post(self, outlet: Outlet, leased: Sequence[Leased]) -> tuple[Outcome, Traffic]:
        request = build([row.event for row in leased], outlet.stream)
        exchange = self._transport.post(request)
        traffic = Traffic(1, exchange.sent, exchange.received)
        outcome = triage(exchange.answer, outlet.stream)
        if not isinstance(outcome, Delivered):
            self._record(lambda: self._queue.note_traffic(traffic))
        return outcome, traffic

    def _acknowledge(self, outlet: Outlet, leased: Sequence[Leased], traffic: Traffic) -> None:
        self._record(lambda: self._queue.ack_many(_ids(leased), traffic=traffic))
        if outlet.delivered():
            self._bell.ring()  # the other connections may join

    def _later(self, outlet: Outlet, outcome: Retry, leased: Sequence[Leased]) -> None:
        outlet.failed(outcome)
        self._queue.release(_ids(leased))

    def _record(self, write: Callable[[], None]) -> None:
        """Write what happened; if the disk refuses, stop sending until it takes it."""
        try:
            write()
        except StorageError as error:
            log.error("cannot record a delivery, sending nothing more until it is: %s", error)
            with self._lock:
                self._unrecorded.append(write)

    def _recorded(self) -> bool:
        """Whether everything that was delivered is on record, or could be recorded now."""
        while True:
            with self._lock:
                if not self._unrecorded:
                    return True
                write = self._unrecorded[0]
                try:
                    write()
                except StorageError:
                    return False
                self._unrecorded.pop(0)


def _ids(leased: Sequence[Leased]) -> list[int]:
    return [row.id for row in leased]
