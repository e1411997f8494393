"""A stage for delivery: a real queue, a real local GA4, and a clock that tests turn by hand."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.anchor import Moment
from agent.bell import Bell
from agent.clock import Clock
from agent.delivery.backoff import Backoff
from agent.delivery.outlet import Outlet
from agent.delivery.shipper import Shipper
from agent.delivery.transport import Transport
from agent.emulator import Emulator
from agent.event import Event, Sender, Stream
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from agent.secret import Secret
from agent.stepwise import Stepwise
from agent.urequests import Client

SECRET = "s3cr3t-of-the-stream"
CAP = 64 * 1024 * 1024
WALL = 1_800_000_000_000_000


def stream(endpoint, *, name="main", measurement_id="G-MAIN", secret=SECRET, **settings):
    return Stream(
        name=name,
        endpoint=endpoint,
        measurement_id=measurement_id,
        secret=Secret(secret) if secret else None,
        **settings,
    )


class Time:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


class Present:
    """What the device knows of the time: everything exactly, until a test takes it away.

    A ``Date`` that is confirmed makes it trusted, unless it is ``deaf``. ``errors``: microseconds
    by which the stamps of a boot may be wrong.
    """

    def __init__(self, now_us):
        self._now_us = now_us
        self.is_trusted = True
        self.deaf = False
        self.confirmed = []
        self.errors = {}
        self.resolved = []

    def trusted(self):
        return self.is_trusted

    def now_us(self):
        return self._now_us()

    def when(self, stamp):
        return Moment(stamp.wall_us, self.errors.get(stamp.boot_id, 0))

    def session_id(self, event):
        self.resolved.append(event.name)
        return event.sitting.start.wall_us // 1_000_000

    def confirm(self, *, server_us, error_us, sent_boot_us, received_boot_us):
        self.confirmed.append((server_us, error_us, sent_boot_us, received_boot_us))
        self.is_trusted = self.is_trusted or not self.deaf


class TestQueue(EventQueue):
    """The queue, with a disk that can be told to refuse, and a count of how often it is asked."""

    __test__ = False
    refusing = False
    leases = 0
    looks = 0

    def ready(self, *args, **kwargs):
        self.looks += 1
        return super().ready(*args, **kwargs)

    def lease(self, *args, **kwargs):
        self.leases += 1
        return super().lease(*args, **kwargs)

    def ack_many(self, *args, **kwargs):
        self._refuse()
        super().ack_many(*args, **kwargs)

    def bury(self, *args, **kwargs):
        self._refuse()
        super().bury(*args, **kwargs)

    def mark_sending(self, *args, **kwargs):
        self._refuse()
        super().mark_sending(*args, **kwargs)

    def unmark_sending(self, *args, **kwargs):
        self._refuse()
        super().unmark_sending(*args, **kwargs)

    def drop(self, *args, **kwargs):
        self._refuse()
        super().drop(*args, **kwargs)

    def _refuse(self):
        if self.refusing:
            raise StorageError("disk_full", "cannot write the queue: the disk is full")


@dataclass
class Stage:
    """What a shipper stands on; ``time`` may be set to the real one before it is made."""

    emulator: Emulator
    queue: TestQueue
    directory: Path
    bell: Bell = field(default_factory=Bell)
    time: Callable[[], float] = field(default_factory=Time)
    deadline: float = 5.0
    outlets: dict = field(default_factory=dict)
    made: int = 0

    def __post_init__(self):
        self.clock = Clock(
            wall=lambda: WALL + int(self.time() * 1e6),
            boot=lambda: int(self.time() * 1e6),
            boot_id="boot",
            synchronised=lambda: True,
        )
        self.present = Present(self.clock.wall_us)
        self.transport = Transport(client=lambda: Client(deadline=self.deadline))

    def shipper(self, *streams, connections=1, max_delay=0.0, stepwise=None, transport=None):
        """A shipper with an outlet for each stream; the first also takes what is unassigned."""
        chosen = streams or (stream(self.emulator.url),)
        self.outlets = {
            each.name: Outlet(
                stream=each,
                backoff=Backoff(random=lambda: 0.5),
                connections=connections,
                monotonic=self.time,
                takes_unassigned=each is chosen[0],
            )
            for each in chosen
        }
        return Shipper(
            queue=self.queue,
            outlets=list(self.outlets.values()),
            transport=transport or self.transport,
            clock=self.clock,
            bell=self.bell,
            stepwise=stepwise or Stepwise(directory=self.directory),
            max_delay=max_delay,
            when=self.present.when,
            session_id=self.present.session_id,
            now_us=self.present.now_us,
            trusted=self.present.trusted,
            confirm=self.present.confirm,
        )

    def put(self, *names, stream="main", client="1.1", **fields):
        """Events that were taken just now."""
        self.queue.put_many([self.event(name, stream, client, **fields) for name in names])

    def event(self, name, stream="main", client="1.1", **fields):
        self.made += 1
        return Event(
            name=name,
            stream=stream,
            sender=Sender(client_id=client),
            stamp=self.clock.stamp(),
            event_id=f"{self.made:016x}",
            **fields,
        )

    # -- what was seen ----------------------------------------------------------------------

    @property
    def arrived(self):
        """Names of the events that the endpoint counted, in order."""
        return [event["name"] for event in self.emulator.events()]

    @property
    def batches(self):
        """Names of the events of each request that was taken, in order."""
        return [[e["name"] for e in r.events] for r in self.emulator.requests() if r.events]

    @property
    def dead(self):
        """Reasons of the dead letters, counted."""
        sql = f"SELECT reason FROM {self.queue._table} WHERE status = 9"
        return Counter(reason for (reason,) in self.queue._read(sql))

    def state(self, shipper, name="main"):
        return next(r.state for r in shipper.reports() if r.stream == name)


def ship_until_idle(shipper, *, looks=500):
    """Look until there is nothing to do; the wait that the last look asked for."""
    for _ in range(looks):
        if wait := shipper.ship_once():
            return wait
    raise AssertionError(f"the shipper found work {looks} times")
