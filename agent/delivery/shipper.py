"""The shipper: lease, build, post, triage; then ack, bury or release.

Exactly this layer retries. What was sent without a clear answer stays leased by nobody and is
sent again, so at most (connections x 25) events can arrive twice; of a stream that says
``on_uncertain = "lose"`` it is dropped and counted. What was delivered while the disk refuses to
record it stays leased, a bounded number, and is sent again only if this process ends first.

Nothing leaves before the time is known: without it nobody can tell what is too late, nor keep an
event out of the future. Until then a probe without events goes in their place, for the ``Date``
of its answer (``probes``). What becomes of refused events is decided in ``bisection``.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from agent.anchor import Moment
from agent.bell import Bell
from agent.clock import Clock
from agent.delivery.bisection import Bisection, Parcel, Refused
from agent.delivery.marks import Marks
from agent.delivery.outlet import NEVER, Outlet, OutletReport
from agent.delivery.probes import Probes
from agent.delivery.transport import Exchange, Transport
from agent.event import Event, Priority, Stamp, Stream
from agent.ga4.departure import Departing, Terms, Withheld, departures
from agent.ga4.outcome import Delivered, Outcome, Rejected, Retry, server_time, triage
from agent.ga4.request import EVENTS_MAX, Request, build, fitting
from agent.progress import Progress
from agent.queue.entries import Traffic
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from agent.queue.ledger import Sent
from agent.stepwise import Stepwise

log = logging.getLogger(__name__)

IDLE = 10.0  # seconds between looks when nothing rings; also what keeps the watchdog content
HELD_MAX = 16 * EVENTS_MAX  # events held back in one look for batches that may still fill
STORAGE_WAIT = 5.0  # seconds between attempts to record what the disk has refused
UNRECORDED_MAX = 1000  # events that may be delivered without being on record
NO_MARK = Retry("offline", "cannot send: the disk does not take the mark of what is being sent")


class Unrecorded:
    """What was decided about events and the disk has refused to record, in order.

    Until it takes it, delivery goes on for a bounded number of events: those could be sent twice
    if the process ends first. Any thread may call any method.
    """

    def __init__(self, *, boot_us: Callable[[], int], most: int = UNRECORDED_MAX) -> None:
        """``boot_us``: microseconds since boot. ``most``: events, with those under way."""
        self._boot_us = boot_us
        self._most = most
        self._writes: deque[tuple[int, Callable[[], None]]] = deque()
        self._events = 0  # that the writes are about
        self._under_way = 0
        self._told_full = False
        self._next_try_us = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    @property
    def events(self) -> int:
        """How many events are decided and not on record."""
        return self._events

    @property
    def room(self) -> int:
        """How many more events may be sent now."""
        with self._lock:
            return self._room()

    def begin(self, number: int) -> bool:
        """Whether so many events may be sent. If so, ``end`` must follow."""
        with self._lock:
            if number > self._room():
                return False
            self._under_way += number
            return True

    def end(self, number: int) -> None:
        """Events that were under way have been decided about, and recorded or kept."""
        with self._lock:
            self._under_way -= number

    def record(self, write: Callable[[], None], number: int) -> None:
        """Make a write about so many events; later, if the disk or an earlier one makes it wait."""
        with self._lock:
            waits = bool(self._writes)
        if waits:
            self._keep(write, number)
            return
        try:
            write()
        except StorageError as error:
            if self._keep(write, number):
                log.error(
                    "cannot record what became of events: %s; going on for up to %d of them",
                    error,
                    self._most,
                )

    def written(self) -> bool:
        """Whether everything is on record, or could be recorded now; it tries now and then."""
        if not self._writes:
            return True
        if self._boot_us() < self._next_try_us or not self._writing.acquire(blocking=False):
            return False
        try:
            return self._write_all()
        finally:
            self._writing.release()

    def try_now(self) -> None:
        """Forget the wait: something changed that may have mended the disk."""
        self._next_try_us = 0

    def _room(self) -> int:
        room = max(0, self._most - self._events - self._under_way)
        if not room and self._events and not self._told_full:
            self._told_full = True
            log.error(
                "what became of %d events is not on record: sending nothing more until it is",
                self._events,
            )
        return room

    def _keep(self, write: Callable[[], None], number: int) -> bool:
        """Whether it is the first one that is kept."""
        with self._lock:
            first = not self._writes
            if first:
                self._next_try_us = self._boot_us() + round(STORAGE_WAIT * 1e6)
            self._writes.append((number, write))
            self._events += number
            return first

    def _write_all(self) -> bool:
        while self._writes:
            number, write = self._writes[0]
            try:
                write()
            except StorageError:
                self._next_try_us = self._boot_us() + round(STORAGE_WAIT * 1e6)
                return False
            with self._lock:
                self._writes.popleft()
                self._events -= number
                self._told_full = self._told_full and bool(self._writes)
        log.info("the disk takes writes again: what became of every event is on record")
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
        when: Callable[[Stamp], Moment],
        session_id: Callable[[Event], int],
        now_us: Callable[[], int],
        trusted: Callable[[], bool],
        confirm: Callable[..., None],
    ) -> None:
        """``max_delay``: seconds that a part-filled batch may wait for more events.

        ``when``: the true time of a stamp. ``session_id``: that of an event with a ``sitting``;
        it must not raise StorageError. ``now_us``: the true time, if ``trusted``. ``confirm``
        hears what time a verified answer named: ``server_us``, ``error_us``, ``sent_boot_us``,
        ``received_boot_us``.
        """
        self._queue = queue
        self._outlets = deque(outlets)
        self._transport = transport
        self._clock = clock
        self._bell = bell
        self._stepwise = stepwise
        self._max_delay = max_delay
        self._when = when
        self._session_id = session_id
        self._now_us = now_us
        self._trusted = trusted
        self._confirm = confirm
        self._knew_the_time = False
        self._paused = False
        self._stopping = False
        self._flushed_us = 0  # since boot: what was taken before waits for no others any more
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._unrecorded = Unrecorded(boot_us=clock.boot_us)
        self._marks = Marks(queue=queue, record=self._record)
        self._probes = Probes(exchange=self._ask, clock=clock, trusted=trusted)

    def run(self, stop: threading.Event, progress: Progress) -> None:
        """Ship until told to stop; ``stop()`` wakes it."""
        self._thread.progress = progress
        while not stop.is_set():
            progress.beat()
            rings = self._bell.rings
            self._bell.wait(min(self.ship_once(), IDLE), since=rings)
        self._unrecorded.try_now()
        self._unrecorded.written()  # the last chance: after the end it would be sent again
        self._transport.close()

    def ship_once(self) -> float:
        """Deliver one batch, if any may leave. Returns the seconds until the next look."""
        self._unrecorded.written()
        try:
            wait = NEVER if self._paused else self._ship()
        except StorageError:  # it cannot even be read: the queue says so in its state
            return STORAGE_WAIT
        return min(wait, STORAGE_WAIT) if self._unrecorded.events else wait

    def _ship(self) -> float:
        self._hurry_once_the_time_is_known()
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
        self._unrecorded.try_now()
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
    def unrecorded(self) -> Unrecorded:
        """What the disk has refused to record so far."""
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
            if not any(self._queue.ready(name) for name in outlet.queued_as):
                return self._look_for_an_answer(outlet, ticket)
            if not self._goes_on or not self._probes.time_is_known(outlet, ticket):
                return outlet.wait_s() or NEVER
            parcels, wait = self._batch(outlet)
            if parcels:
                self._deliver(outlet, ticket, parcels)
            return wait
        finally:
            outlet.leave()

    def _look_for_an_answer(self, outlet: Outlet, ticket: int) -> float:
        """Nothing waits: ask whether the trouble has passed, or a quiet device would look broken."""
        if outlet.answer_would_mend and self._goes_on and self._probes.answers(outlet, ticket):
            outlet.answered(ticket)
        return outlet.wait_s() or NEVER

    @property
    def _goes_on(self) -> bool:
        """Whether a request may begin: not while stopping, nor when too much is not on record."""
        return not self._stopping and self._unrecorded.room > 0

    # -- asking the endpoint ----------------------------------------------------------------

    def _hurry_once_the_time_is_known(self) -> None:
        """What waits may have waited for the clock alone: TLS needs it too."""
        if self._knew_the_time or not self._trusted():
            return
        self._knew_the_time = True
        for outlet in tuple(self._outlets):
            outlet.try_now()

    def _ask(self, request: Request, stream: Stream) -> Exchange:
        """Post a request without events."""
        self._beat()
        exchange = self._exchange(request, stream)
        self._queue.note_traffic(_cost(exchange))
        return exchange

    def _exchange(self, request: Request, stream: Stream) -> Exchange:
        """Post, and hear what time the answer names."""
        sent_us = self._clock.boot_us()
        exchange = self._transport.post(request)
        received_us = self._clock.boot_us()
        if said := server_time(exchange.answer, stream):
            self._confirm(
                server_us=said.us,
                error_us=said.error_us,
                sent_boot_us=sent_us,
                received_boot_us=received_us,
            )
            self._hurry_once_the_time_is_known()
        return exchange

    # -- what may leave -----------------------------------------------------------------------

    def _batch(self, outlet: Outlet) -> tuple[Sequence[Parcel], float]:
        """The events that may leave now; without any, the seconds until some may.

        Part-filled batches that may still fill are held back, and others let past them.
        """
        limit = 1 if self._stepwise.active else min(EVENTS_MAX, max(1, self._unrecorded.room))
        held: list[int] = []
        wait = NEVER
        try:
            while len(held) < HELD_MAX and (parcels := self._lease(outlet, limit)):
                fitting_ = self._cut(parcels)
                full = len(fitting_) < len(parcels) or len(parcels) == limit
                fill_s = 0.0 if full else self._may_fill_s(parcels)
                if fill_s <= 0:
                    return fitting_, 0.0
                held += _ids(parcels)
                wait = min(wait, fill_s)
        finally:
            self._queue.release(held)
        return (), wait

    def _lease(self, outlet: Outlet, limit: int) -> tuple[Parcel, ...]:
        """Events of one sender that may leave; on the way to them, those that may not are buried."""
        buried: Counter[str] = Counter()
        try:
            for name in outlet.queued_as:
                while parcels := self._load(outlet.stream, name, limit):
                    departing, withheld = _sorted(parcels)
                    if not withheld:
                        return departing
                    self._queue.release(_ids(departing))
                    self._withhold(withheld)
                    buried.update({reason: len(ids) for reason, ids in withheld.items()})
                    if not self._goes_on:
                        return ()
        finally:
            for reason, number in buried.items():
                log.warning("stream %s: dead letters: %d %s", outlet.stream.name, number, reason)
        return ()

    def _load(
        self, stream: Stream, name: str, limit: int
    ) -> list[tuple[int, Departing | Withheld]]:
        """Lease events, and see what becomes of each when it leaves now."""
        with self._stepwise.step() as touch:
            leased = self._queue.lease(name, limit=limit, on_pick=lambda ids: touch(*_rows(ids)))
            terms = Terms(
                stream=stream,
                now_us=self._now_us(),
                when=self._when,
                session_id=self._session_id,
            )
            found = departures([row.event for row in leased], terms)
        return [(row.id, what) for row, what in zip(leased, found, strict=True)]

    def _withhold(self, withheld: Mapping[str, Sequence[int]]) -> None:
        self._beat()  # a queue that has waited for a week is many of these
        for reason, ids in withheld.items():
            self._record(partial(self._queue.bury, ids, reason=reason), len(ids))

    def _cut(self, parcels: Sequence[Parcel]) -> Sequence[Parcel]:
        """As many as one request may carry; the others are given back."""
        with self._stepwise.step() as touch:
            touch(*_rows(_ids(parcels)))
            number = fitting([parcel.departing for parcel in parcels])
        self._queue.release(_ids(parcels[number:]))
        return parcels[:number]

    def _may_fill_s(self, parcels: Sequence[Parcel]) -> float:
        """Seconds for which these may wait for others to fill their batch."""
        events = [parcel.departing.event for parcel in parcels]
        if any(
            event.priority == Priority.HIGH or event.stamp.boot_us <= self._flushed_us
            for event in events
        ):
            return 0.0
        ages = [self._clock.age_in_this_boot_s(event.stamp) for event in events]
        # What another boot left has waited long enough, whatever the clocks say.
        return self._max_delay - max(self._max_delay if age is None else age for age in ages)

    # -- delivering it --------------------------------------------------------------------------

    def _deliver(self, outlet: Outlet, ticket: int, parcels: Sequence[Parcel]) -> None:
        bisection = Bisection(
            send=partial(self._send, outlet, ticket),
            next_in_line=partial(self._next_in_line, outlet),
            give_back=lambda parcels: self._queue.release(_ids(parcels)),
            remembers=outlet.rely_on_last_delivery,
            passed_over=outlet.passed_over,
        )
        blame = bisection.blame(parcels)
        outlet.passed_over = bisection.passed_over
        if blame == "events":
            self._bury(outlet, bisection.refused)
            return
        self._queue.release([refused.id for refused in bisection.refused])
        if blame == "endpoint":
            reason = bisection.refused[0].reason
            said = f"the endpoint refuses every event ({reason}); check endpoint and stream"
            outlet.failed(Retry("misconfigured", said), ticket)

    def _bury(self, outlet: Outlet, refused: Sequence[Refused]) -> None:
        for each in refused:
            log.warning("stream %s: dead letter: %s", outlet.stream.name, each.reason)
            self._record(partial(self._queue.bury, [each.id], reason=each.reason), 1)

    def _next_in_line(self, outlet: Outlet) -> Sequence[Parcel] | None:
        """One more event, leased; None if it must not be sent now."""
        self._beat()
        parcels = self._lease(outlet, 1)
        return parcels if parcels or self._goes_on else None

    def _send(
        self, outlet: Outlet, ticket: int, parcels: Sequence[Parcel]
    ) -> Delivered | Rejected | None:
        """One request, and what follows from its answer but for refused events; None: try later."""
        ids = _ids(parcels)
        if not self._may_post(outlet, ticket, ids):
            self._queue.release(ids)
            return None
        try:
            return self._posted(outlet, ticket, parcels)
        finally:
            self._unrecorded.end(len(ids))

    def _posted(
        self, outlet: Outlet, ticket: int, parcels: Sequence[Parcel]
    ) -> Delivered | Rejected | None:
        ids = _ids(parcels)
        exchange, outcome = self._post(outlet, parcels)
        match outcome:
            case Delivered():
                self._acknowledge(outlet, ticket, parcels, _cost(exchange))
            case Rejected():
                self._marks.take_off(outlet.stream, ids)
            case Retry():
                outlet.failed(outcome, ticket)
                self._marks.keep_or_lose(outlet.stream, ids, exchange.answer)
                return None
        return outcome

    def _may_post(self, outlet: Outlet, ticket: int, ids: Sequence[int]) -> bool:
        """Whether a request may begin, with what must be on record before it."""
        if self._stopping or not self._unrecorded.begin(len(ids)):
            return False
        if self._marks.set(outlet.stream, ids):
            return True
        self._unrecorded.end(len(ids))
        outlet.failed(NO_MARK, ticket)
        return False

    def _post(self, outlet: Outlet, parcels: Sequence[Parcel]) -> tuple[Exchange, Outcome]:
        """Build, post, triage. While the network is waited for, no row is being touched."""
        self._beat()
        rows = _rows(_ids(parcels))
        with self._stepwise.step() as touch:
            touch(*rows)
            request = build([parcel.departing for parcel in parcels], outlet.stream)
        exchange = self._exchange(request, outlet.stream)
        with self._stepwise.step() as touch:
            touch(*rows)
            outcome = triage(exchange.answer, outlet.stream)
        if not isinstance(outcome, Delivered):
            self._queue.note_traffic(_cost(exchange))
        return exchange, outcome

    def _beat(self) -> None:
        """A bisection is many requests: each of them is progress."""
        progress: Progress | None = getattr(self._thread, "progress", None)
        if progress:
            progress.beat()

    def _acknowledge(
        self, outlet: Outlet, ticket: int, parcels: Sequence[Parcel], traffic: Traffic
    ) -> None:
        counts: Counter[str] = Counter()
        for parcel in parcels:
            counts.update(parcel.departing.counts)
        sent = [_sent(parcel.departing, outlet.stream) for parcel in parcels]
        ids = _ids(parcels)
        write = partial(self._queue.ack_many, ids, traffic=traffic, sent=sent, counts=counts)
        self._record(write, len(ids))
        if outlet.delivered(ticket):
            self._bell.ring()  # the other connections may join

    def _record(self, write: Callable[[], None], number: int) -> None:
        """Write what happened to so many events, now or when the disk takes it."""
        self._unrecorded.record(write, number)


def _sorted(
    found: Sequence[tuple[int, Departing | Withheld]],
) -> tuple[tuple[Parcel, ...], dict[str, list[int]]]:
    """What may leave, and the rows of what may not, by reason."""
    withheld: dict[str, list[int]] = {}
    for row_id, what in found:
        if isinstance(what, Withheld):
            withheld.setdefault(what.reason, []).append(row_id)
    parcels = tuple(Parcel(i, what) for i, what in found if isinstance(what, Departing))
    return parcels, withheld


def _sent(departing: Departing, stream: Stream) -> Sent:
    event = departing.event
    return Sent.of(
        name=event.name, sender=event.sender, stream=stream.name, time_us=departing.time_us
    )


def _cost(exchange: Exchange) -> Traffic:
    return Traffic(1, exchange.sent, exchange.received)


def _ids(parcels: Sequence[Parcel]) -> list[int]:
    return [parcel.id for parcel in parcels]


def _rows(ids: Sequence[int]) -> list[str]:
    """The names of rows for step-by-step mode."""
    return [f"row:{row_id}" for row_id in ids]
