"""Emptying the queue before a card is swapped: by the running daemon, else by this process."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agent import boot_config, wiring
from agent.bell import Bell
from agent.clock import Clock
from agent.config import Config, ConfigError
from agent.control import NotRunning, ask
from agent.daemon import die
from agent.delivery.shipper import Shipper
from agent.event import Stream
from agent.intake.identity import load_identity
from agent.intake.source import SourceUnavailable
from agent.ownership import StateLock
from agent.progress import Progress
from agent.queue.event_queue import EventQueue, StorageError
from agent.rights import as_owner
from agent.service import SOURCE_PATIENCE, STOP_MARGIN
from agent.status import Observation, status_of
from agent.stepwise import Condemned, Stepwise
from agent.wiring import Ground
from agent.worker import Worker

LOOK = 0.2  # seconds between looks
URGE = 5.0  # seconds between attempts that do not wait for the backoff


class BadConfig(Exception):  # noqa: N818 - named after what was found
    """There is no configuration to deliver with."""


@dataclass(frozen=True, slots=True)
class Level:
    """How full the queue is at one moment, and why.

    ``hopeless``: waiting will not change it, a person must.
    """

    left: int
    sent: int
    dead: int
    state: str
    reason: str
    hopeless: bool

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> "Level":
        """From the document of `status`."""
        ledger, streams = status["ledger"], status["streams"]
        nowhere = all(stream["state"] == "unconfigured" for stream in streams)
        return cls(
            left=status["queue"]["events"],
            sent=ledger["sent"],
            dead=ledger["dead"],
            state=status["state"],
            reason=status["reason"],
            hopeless=status["paused"] or nowhere,
        )


class Deliverer(Protocol):
    """Who delivers."""

    def level(self) -> Level:
        """How far it is."""

    def flush(self) -> None:
        """Try now."""


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """The daemon delivers; it is only watched and urged on."""

    directory: Path

    def level(self) -> Level:
        """Raises NotRunning, ControlError, OSError."""
        return Level.of(ask(self.directory, "status"))

    def flush(self) -> None:
        """Raises NotRunning, ControlError, OSError."""
        ask(self.directory, "flush")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnDelivery:
    """A shipper in this process, without sources: nothing comes in meanwhile."""

    queue: EventQueue
    shipper: Shipper
    clock: Clock
    config_problems: tuple[str, ...]
    secret_problems: tuple[str, ...]

    def level(self) -> Level:
        """As the daemon would say it."""
        seen = Observation(
            books=self.queue.books,
            used_bytes=self.queue.used_bytes,
            max_bytes=self.queue.max_bytes,
            oldest=None,
            storage=self.queue.trouble,
            outlets=self.shipper.reports(),
            config_problems=self.config_problems,
            secret_problems=self.secret_problems,
        )
        return Level.of(status_of(seen, self.clock).document)

    def flush(self) -> None:
        """Try now; before the first time nothing leaves."""
        self.shipper.resume()
        self.shipper.flush()


def until_empty(
    deliverer: Deliverer,
    *,
    timeout: float,
    on_level: Callable[[Level], None],
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Level:
    """Watch until nothing is left, nothing can be hoped for, or the seconds are over."""
    end, urged = monotonic() + timeout, float("-inf")
    while True:
        level = deliverer.level()
        on_level(level)
        now = monotonic()
        if not level.left or level.hopeless or now >= end:
            return level
        if now - urged >= URGE:
            urged = now
            deliverer.flush()
        sleep(min(LOOK, end - now))


@contextmanager
def deliverer(path: Path, environ: Mapping[str, str]) -> Iterator[Deliverer]:
    """The daemon, or a delivery of this process's own while the block lasts.

    Raises BadConfig, ControlError, AlreadyOwned, UnreadableQueue, StorageError, OSError.
    """
    directory = boot_config.state_directory(path, environ)
    try:
        ask(directory, "status")
    except NotRunning:
        with _own_delivery(path, environ) as own:
            yield own
    else:
        yield RunningDaemon(directory)


@contextmanager
def _own_delivery(path: Path, environ: Mapping[str, str]) -> Iterator[OwnDelivery]:
    """Deliver with the daemon's parts, on its lock, as its user."""
    try:
        chosen = boot_config.choose(path, environ=environ)
    except ConfigError as error:
        raise BadConfig("\n".join(map(str, error.problems))) from error
    config, directory = chosen.config, chosen.config.state_directory
    # Before: the secret may be root's.
    streams, problems = wiring.streams(config, environ, boot_config.credentials_folder(path))
    with as_owner(directory), ExitStack() as held:
        held.callback(StateLock.take(directory).release)
        bell = Bell()
        queue = EventQueue.open(directory, max_bytes=config.queue.max_bytes, on_ready=bell.ring)
        held.callback(queue.close)
        ground = _ground(queue, bell, directory, environ)
        _take_in_spool(config, ground, streams)
        shipper = wiring.shipper(config, ground, streams)
        shipper.pause()  # until the first flush, so that who watches misses nothing
        workers = _started(config, shipper)
        try:
            yield OwnDelivery(
                queue=queue,
                shipper=shipper,
                clock=ground.clock,
                config_problems=chosen.problems,
                secret_problems=tuple(problems),
            )
        finally:
            if _ended(workers, config.delivery.timeout + STOP_MARGIN):
                with suppress(StorageError):  # only the traffic of failed requests is lost
                    queue.write_noted()
            else:
                held.pop_all()  # who hangs still uses them: they end with the process


def _ground(queue: EventQueue, bell: Bell, directory: Path, environ: Mapping[str, str]) -> Ground:
    """Not step by step: if a row kills this process, the daemon finds out which."""
    clock = Clock()
    return Ground(
        queue=queue,
        clock=clock,
        bell=bell,
        stepwise=Stepwise(directory=directory),
        identity=load_identity(directory, wall_us=clock.wall_us),
        environ=environ,
        condemned=Condemned(),
    )


def _take_in_spool(config: Config, ground: Ground, streams: Mapping[str, Stream]) -> None:
    """What `send` left in the spool folder must leave the card too."""
    if not config.spool.enabled:
        return
    door = wiring.door(config, ground, streams, on_taken=lambda _message, _part: None)
    source = wiring.spool(config, ground, door)
    with suppress(SourceUnavailable):
        source.prepare()
        source.take_once(threading.Event(), Progress(name="spool", patience=SOURCE_PATIENCE))


def _started(config: Config, shipper: Shipper) -> list[Worker]:
    workers = [
        Worker(
            name=f"shipper-{number + 1}",
            target=shipper.run,
            patience=SOURCE_PATIENCE + config.delivery.timeout,
            on_bug=partial(die, None),
            on_stop=shipper.stop,
        )
        for number in range(config.delivery.connections)
    ]
    for worker in workers:
        worker.start()
    return workers


def _ended(workers: list[Worker], bound: float) -> bool:
    """Stop after the request that is on its way. False: one hangs, and ends with the process."""
    for worker in workers:
        worker.stop()
    until = time.monotonic() + bound
    return all(worker.join(max(0.0, until - time.monotonic())) for worker in workers)
