"""Emptying the queue before a card is swapped: by the running daemon, else by this process."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agent import boot_config, crew, wiring
from agent.bell import Bell
from agent.boot_config import Chosen
from agent.clock import Clock
from agent.config import Config, ConfigError
from agent.control import NotRunning, ask
from agent.daemon import die
from agent.delivery.shipper import Shipper
from agent.event import Stream
from agent.intake.duplicates import Window
from agent.intake.identity import load_identity
from agent.intake.sessions import Sessions
from agent.intake.source import Source, SourceUnavailable
from agent.intake.spool_folder import SpoolFolder
from agent.ownership import StateLock
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from agent.queue.opening import open_queue
from agent.rights import as_owner
from agent.service import SOURCE_PATIENCE, STOP_MARGIN
from agent.status import Observation, status_of
from agent.stepwise import Condemned, Stepwise
from agent.wiring import Ground
from agent.worker import Worker

SPOOL = "spool"  # as `status` names the source
LOOK = 0.2  # seconds between looks
URGE = 5.0  # seconds between attempts that do not wait for the backoff
SETTLED = 3.0  # seconds without change after which files that are in trouble are all that is left


class BadConfig(Exception):  # noqa: N818 - named after what was found
    """There is no configuration to deliver with."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Files in the spool folder. ``unknown``: why nobody can say, else empty."""

    files: int = 0
    unknown: str = ""

    @classmethod
    def of(cls, folder: Path | None) -> "Waiting":
        """Look into the folder. None: there is no spool. Raises OSError."""
        if folder is None:
            return cls()
        try:
            return cls(files=len(SpoolFolder(folder).names()))
        except SourceUnavailable as error:
            return cls(unknown=str(error)) if folder.exists() else cls()


@dataclass(frozen=True, slots=True)
class Level:
    """How much waits at one moment, in the queue and in files, and why.

    ``hopeless``: waiting will not change it, a person must. ``in_the_way``: why files stay.
    """

    left: int
    sent: int
    dead: int
    state: str
    reason: str
    hopeless: bool
    files: int = 0
    in_the_way: str = ""

    @classmethod
    def of(cls, status: Mapping[str, Any], waiting: Waiting = Waiting()) -> "Level":
        """From the document of `status`, and from a look into the spool folder right before it.

        Right after it: what was taken between the two would stand in neither.
        """
        ledger, streams = status["ledger"], status["streams"]
        source = status["sources"].get(SPOOL, {})
        nowhere = all(stream["state"] == "unconfigured" for stream in streams)
        return cls(
            left=status["queue"]["events"],
            sent=ledger["sent"],
            dead=ledger["dead"],
            state=status["state"],
            reason=status["reason"],
            hopeless=status["paused"] or nowhere,
            files=waiting.files,
            in_the_way=waiting.unknown or (waiting.files and source.get("problem")) or "",
        )

    @property
    def empty(self) -> bool:
        """Whether nothing waits, neither in the queue nor in the spool folder."""
        return not (self.left or self.files or self.in_the_way)

    @property
    def blocked(self) -> bool:
        """Whether all that waits are files, of which one at least is in trouble."""
        return not self.left and bool(self.in_the_way)

    @property
    def figures(self) -> tuple[int, ...]:
        """What changes while something goes on."""
        return self.left, self.sent, self.dead, self.files


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
    folder: Path | None

    def level(self) -> Level:
        """Raises NotRunning, ControlError, OSError."""
        waiting = Waiting.of(self.folder)
        return Level.of(ask(self.directory, "status"), waiting)

    def flush(self) -> None:
        """Raises NotRunning, ControlError, OSError."""
        ask(self.directory, "flush")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnDelivery:
    """A shipper in this process; what comes in meanwhile is what lies in the spool folder."""

    queue: EventQueue
    shipper: Shipper
    sources: Mapping[str, Source]
    taking: Sequence[Worker]
    folder: Path | None
    clock: Clock
    config_problems: tuple[str, ...]
    secret_problems: tuple[str, ...]

    def level(self) -> Level:
        """As the daemon would say it."""
        waiting = Waiting.of(self.folder)
        seen = Observation(
            books=self.queue.books,
            used_bytes=self.queue.used_bytes,
            max_bytes=self.queue.max_bytes,
            oldest_us=None,
            storage=self.queue.trouble,
            outlets=self.shipper.reports(),
            problems=crew.problems(self.taking, self.sources),
            config_problems=self.config_problems,
            secret_problems=self.secret_problems,
        )
        return Level.of(status_of(seen, self.clock).document, waiting)

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
    figures: tuple[int, ...] = ()
    since = end
    while True:
        level = deliverer.level()
        on_level(level)
        now = monotonic()
        if level.figures != figures:
            figures, since = level.figures, now
        stuck = level.hopeless or (level.blocked and now - since >= SETTLED)
        if level.empty or stuck or now >= end:
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
        yield RunningDaemon(directory, _folder(_chosen(path, environ).config))


def _chosen(path: Path, environ: Mapping[str, str]) -> Chosen:
    """What the daemon runs on, or would. Raises BadConfig."""
    try:
        return boot_config.choose(path, environ=environ)
    except ConfigError as error:
        raise BadConfig("\n".join(map(str, error.problems))) from error


@contextmanager
def _own_delivery(path: Path, environ: Mapping[str, str]) -> Iterator[OwnDelivery]:
    """Deliver with the daemon's parts, on its lock, as its user."""
    chosen = _chosen(path, environ)
    config, directory = chosen.config, chosen.config.state_directory
    # Before: the secret may be root's.
    streams, problems = wiring.streams(config, environ, boot_config.credentials_folder(path))
    with as_owner(directory), ExitStack() as held:
        held.callback(StateLock.take(directory).release)
        bell = Bell()
        queue = open_queue(
            directory,
            max_bytes=wiring.cap(config),
            on_ready=bell.ring,
        )
        held.callback(queue.close)
        ground = _ground(queue, bell, directory, environ)
        sittings = wiring.sessions(config, ground)
        sources = _sources(config, ground, streams, sittings)
        shipper = wiring.shipper(config, ground, streams, sittings=sittings)
        shipper.pause()  # until the first flush, so that who watches misses nothing
        patience, on_bug = SOURCE_PATIENCE + config.delivery.timeout, partial(die, None)
        taking = crew.taking(sources, patience=patience, on_bug=on_bug)
        sending = crew.sending(
            shipper, connections=config.delivery.connections, patience=patience, on_bug=on_bug
        )
        for worker in (*sending, *taking):
            worker.start()
        try:
            yield OwnDelivery(
                queue=queue,
                shipper=shipper,
                sources=sources,
                taking=taking,
                folder=_folder(config),
                clock=ground.clock,
                config_problems=chosen.problems,
                secret_problems=tuple(problems),
            )
        finally:
            if crew.end([*taking, *sending], config.delivery.timeout + STOP_MARGIN):
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
        boots=wiring.boots(queue, clock),
        identity=load_identity(directory, wall_us=clock.now_us),
        window=Window(load=queue.seen),
        environ=environ,
        condemned=Condemned(),
    )


def _sources(
    config: Config, ground: Ground, streams: Mapping[str, Stream], sittings: Sessions
) -> dict[str, Source]:
    """Only the spool: what `send` left in its folder must leave the card too."""
    whose, _ = wiring.attribution(config, ground.identity, ground.environ)
    door = wiring.door(
        config,
        ground,
        streams,
        whose=whose,
        sittings=sittings,
        on_taken=lambda _message, _part: None,
    )
    return wiring.sources(replace(config, mqtt=None), ground, door)[0]


def _folder(config: Config) -> Path | None:
    return config.spool_directory if config.spool.enabled else None
