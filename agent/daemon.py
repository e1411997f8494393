"""The process around the service: its lock, its signals, its watchdog, its end.

A store that cannot be used is no reason to end: it waits for it (``shut``). Only another agent on
the same state directory, a bug, and a store that was exchanged under a running agent are.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent import boot_config, routes, wiring
from agent.bell import Bell
from agent.boot_config import Chosen
from agent.clock import Clock
from agent.config import Config, ConfigError
from agent.intake.door import CRASHED
from agent.intake.duplicates import Window
from agent.intake.identity import Identity, load_identity
from agent.ownership import AlreadyOwned, StateLock
from agent.queue.ballast import Ballast
from agent.queue.entries import SourceState
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import StorageError, UnreadableQueue
from agent.queue.opening import open_queue
from agent.sdnotify import Notifier
from agent.service import Service
from agent.shut import Shut, WaitingRoom, is_full
from agent.stepwise import Autopsy, Condemned, Runs, Stepwise
from agent.wiring import Ground

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between looks at the watchdog, the routes and the state
HOUR = 3600.0
RETRY = 10.0  # seconds between attempts to use a state directory that cannot be used
RETRY_MAX = 300.0  # seconds between attempts to save a queue: each of them may write all of it
CHECK_EXTENSION = 30_000_000  # microseconds more for systemd to wait, said every few seconds
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What the agent has of its state directory when it can be used."""

    lock: StateLock
    queue: EventQueue
    identity: Identity
    crashed: Sequence[str]  # digests of messages that killed an earlier run


def run(path: Path, *, environ: Mapping[str, str] = os.environ, retry: float = RETRY) -> int:
    """Run the daemon in the foreground until SIGTERM. Returns the exit status.

    ``retry``: seconds between attempts to use a state directory that cannot be used.
    """
    os.umask(0o027)  # events hold ids: the group may read them, others may not
    # Threads inherit the mask: only the main thread takes signals, and takes them in its loop.
    # It stays, so that a second SIGTERM during the stop does not spoil it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        chosen = boot_config.choose(path, environ=environ)
    except ConfigError as error:
        _say([str(problem) for problem in error.problems])
        return 2
    _say(chosen.problems)
    _set_levels(chosen.config)
    return _run(Start(path, chosen, Notifier(environ=environ), environ, retry))


@dataclass(slots=True)
class Start:
    """What a run begins with; ``retry`` as in ``run``. The configuration may be read again."""

    path: Path
    chosen: Chosen
    notifier: Notifier
    environ: Mapping[str, str]
    retry: float

    def reload(self) -> None:
        """Read the configuration again: another state directory may be the cure."""
        self.notifier.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        try:
            self.chosen = boot_config.choose(self.path, environ=self.environ)
            _say(self.chosen.problems)
            _set_levels(self.chosen.config)
        except ConfigError as error:
            _say([str(problem) for problem in error.problems])
        self.notifier.tell(READY=1)


def _run(start: Start) -> int:
    clock, bell = Clock(), Bell()
    try:
        store = _store(start, clock, bell)
        if store is not None:
            _live(start, store, clock, bell)
            store.lock.release()
    except (AlreadyOwned, UnreadableQueue) as error:
        log.critical("cannot start: %s", error)
        return 1
    except BaseException as bug:
        die(None, bug)
    return 0


# -- the store ----------------------------------------------------------------------------------


def _store(start: Start, clock: Clock, bell: Bell) -> Store | None:
    """What lies in the state directory, once that can be used; None if a signal says stop."""
    try:
        return _open(start, clock, bell)
    except Shut as shut:
        return _wait_for_store(start, clock, bell, shut)


def _wait_for_store(start: Start, clock: Clock, bell: Bell, shut: Shut) -> Store | None:
    room = WaitingRoom(
        config=start.chosen.config, environ=start.environ, clock=clock, on_bug=partial(die, None)
    )
    log.error("%s: %s", shut.state, shut)
    room.open(shut)
    start.notifier.tell(READY=1, STATUS=f"{shut.state} {shut}")
    try:
        while _waits(start, room):
            try:
                store = _open(start, clock, bell)
            except Shut as still:
                if room.say(still):
                    log.error("%s: %s", still.state, still)
                start.notifier.tell(STATUS=f"{still.state} {still}")
                continue
            log.info("the state directory can be used now")
            return store
    finally:
        room.close()
    log.info("stopped")
    return None


def _waits(start: Start, room: WaitingRoom) -> bool:
    """Wait for the next attempt, which SIGHUP brings forward; False: a signal says stop."""
    until = time.monotonic() + start.retry
    while (left := until - time.monotonic()) > 0:
        caught = signal.sigtimedwait(SIGNALS, min(TICK, left))
        if start.notifier.watched and not room.stuck:
            start.notifier.tell(WATCHDOG=1)
        if caught and caught.si_signo != signal.SIGHUP:
            return False
        if caught:
            start.reload()
            return True
    return True


def _open(start: Start, clock: Clock, bell: Bell) -> Store:
    """Raises Shut, AlreadyOwned, UnreadableQueue; then nothing of the store is held."""
    config = start.chosen.config
    directory = config.state_directory
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = StateLock.take(directory)
    except OSError as error:
        raise Shut.of(error, directory) from error
    try:
        return _opened(lock, config, clock, bell, start.notifier)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError | StorageError):
            raise Shut.of(error, directory) from error
        raise


def _opened(lock: StateLock, config: Config, clock: Clock, bell: Bell, notifier: Notifier) -> Store:
    """Everything that is read before the service runs: what fails later would be a bug."""
    queue = _open_queue(config, bell, notifier)
    try:
        return Store(
            lock=lock,
            queue=queue,
            # An id that cannot be read is not made anew: its events would be another visitor's.
            identity=load_identity(config.state_directory, wall_us=clock.now_us),
            crashed=tuple(queue.source_state(CRASHED)),
        )
    except BaseException:
        queue.close()
        raise


def die(stepwise: Stepwise | None, bug: BaseException) -> None:
    """End the process at once and loudly: the disk has everything, and systemd restarts it.

    The message of an exception can hold an id or a secret, so only its type and place are said.
    """
    if stepwise:
        stepwise.acquit()
    frames = traceback.extract_tb(bug.__traceback__)
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    log.critical("a bug ends the agent: %s at %s", type(bug).__name__, places)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(1)


# -- the life -----------------------------------------------------------------------------------


def _live(start: Start, store: Store, clock: Clock, bell: Bell) -> None:
    directory, queue = start.chosen.config.state_directory, store.queue
    notifier, environ = start.notifier, start.environ
    runs = Runs(directory=directory, clock=clock)
    autopsy = runs.begin()
    condemned = Condemned({*store.crashed, *_messages(autopsy)})
    if _set_aside(queue, autopsy):
        runs.set_aside()
    stepwise = Stepwise(directory=directory, deaths=autopsy.deaths)
    ground = Ground(
        queue=queue,
        clock=clock,
        bell=bell,
        stepwise=stepwise,
        boots=wiring.boots(queue, clock),
        identity=store.identity,
        window=Window(load=queue.seen),
        environ=environ,
        condemned=condemned,
    )
    service = Service(
        path=start.path, chosen=start.chosen, ground=ground, on_bug=partial(die, stepwise)
    )
    service.start()
    service.keep_config()
    notifier.tell(READY=1)
    log.info("ready, with %d events in the queue", queue.books.queued)
    removal = Removal(queue=queue, directory=directory, runs=runs, retry=start.retry)
    _supervise(service, notifier, removal)
    extension = int(service.stop_s * 1e6)
    notifier.tell(STOPPING=1, STATUS="stopping", EXTEND_TIMEOUT_USEC=extension)
    service.stop()
    runs.end()
    log.info("stopped")


def _open_queue(config: Config, bell: Bell, notifier: Notifier) -> EventQueue:
    """Check the file: on a large queue and a slow card that takes longer than systemd waits."""
    directory = config.state_directory
    _make_room(directory)
    with _patience(notifier):
        return open_queue(
            directory,
            max_bytes=wiring.cap(config),
            on_full=config.queue.on_full,
            on_ready=bell.ring,
        )


def _make_room(directory: Path) -> None:
    """What is stored must drain from a full disk too: the ballast goes before the queue opens.

    Not when SQLite has failed: on a file system with blocks smaller than a page of memory the
    kernel kills who touches a page of a mapped file that it finds no block for. Raises Shut.
    """
    if not is_full(directory):
        return
    ballast = Ballast(directory=directory, wal=directory / f"{FILE_NAME}-wal")
    if not ballast.spent:
        log.warning("the disk is full: the ballast is given up, so that what is stored leaves")
        ballast.spend()
    if is_full(directory):
        raise Shut("disk_full", "cannot open the queue: the disk is full", directory)


@contextmanager
def _patience(notifier: Notifier) -> Iterator[None]:
    """Ask systemd for more time, again and again, while something long is being done."""
    done = threading.Event()
    watchdog = {"WATCHDOG": 1} if notifier.watched else {}

    def ask() -> None:
        while True:
            notifier.tell(
                EXTEND_TIMEOUT_USEC=CHECK_EXTENSION, STATUS="checking the queue", **watchdog
            )
            if done.wait(CHECK_EXTENSION / 1e6 / 3):
                return

    asking = threading.Thread(target=ask, name="patience", daemon=True)
    asking.start()
    try:
        yield
    finally:
        done.set()
        asking.join()


def _messages(autopsy: Autopsy) -> list[str]:
    return [c.removeprefix("message:") for c in autopsy.culprits if c.startswith("message:")]


def _set_aside(queue: EventQueue, autopsy: Autopsy) -> bool:
    """Bury what the process was touching when it died; False if the disk refuses that."""
    for culprit in autopsy.culprits:
        kind, _, name = culprit.partition(":")
        log.error("the last run died while it touched one %s: set aside as crashed", kind)
        try:
            if kind == "row" and name.isdigit():
                queue.bury_row(int(name), reason=CRASHED)
            elif kind == "message":
                queue.put_many([], state=[SourceState(CRASHED, name, "")])
        except StorageError as error:
            log.error("cannot set it aside for good: %s", error)
            return False
    return True


class Removal:
    """Looks whether the queue's file is still in its place; if not, saves it and ends the process.

    Only a new process has the lock, the control socket and the files of the new directory.
    """

    def __init__(self, *, queue: EventQueue, directory: Path, runs: Runs, retry: float) -> None:
        """``retry``: seconds until the first attempt and between attempts."""
        self._queue = queue
        self._directory = directory
        self._runs = runs
        self._retry = retry
        self._next: float | None = None
        self._wait = retry
        self._told = ""

    def look(self) -> None:
        """Call it now and then. Does not return from a rescue that worked."""
        if not self._queue.displaced:
            self._next = None
            return
        if self._next is None:
            # Not at once: whoever replaces it may be half through.
            self._next = time.monotonic() + self._retry
            log.error(
                "%s was removed or replaced while the agent runs: taking nothing, delivering "
                "what is held", self._directory,
            )  # fmt: skip
        elif time.monotonic() >= self._next:
            self._wait = min(2 * self._wait, RETRY_MAX)
            self._next = time.monotonic() + self._wait
            self._rescue()

    def _rescue(self) -> None:
        try:
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            saved = self._queue.save_displaced()
        except (OSError, StorageError) as error:
            self._hold(f"cannot save what is held to {self._directory}: {error}")
            return
        if saved.path:
            self._end(f"what is held, {saved.rows} rows, is in {saved.path}")
        self._end("what is held is in the new one already")

    def _hold(self, why: str) -> None:
        """As long as something waits. Then a restart can lose nothing that would have left."""
        if why != self._told:
            log.error("%s; trying again", why)
        self._told = why
        if not self._queue.books.queued:
            dead = self._queue.books.dead
            self._end(f"everything that waited was delivered; {dead} dead letters are lost with it")

    def _end(self, what: str) -> None:
        log.critical("the state directory was replaced: ending, to start afresh on it; %s", what)
        self._runs.end()  # a death that nothing is to be blamed for
        logging.shutdown()
        sys.stderr.flush()
        os._exit(1)


def _supervise(service: Service, notifier: Notifier, removal: Removal) -> None:
    """Take signals, feed the watchdog, tell systemd the state, until a signal says stop."""
    written, told, ways_out = time.monotonic(), "", routes.read_default_routes()
    while True:
        caught = signal.sigtimedwait(SIGNALS, TICK)
        if caught and caught.si_signo != signal.SIGHUP:
            return
        if caught:
            _reload(service, notifier)
        if notifier.watched:
            _feed(service, notifier)
        told = _tell_state(service, notifier, told)
        ways_out = _use_new_route(service, ways_out)
        service.mend()
        removal.look()
        if time.monotonic() - written > HOUR:
            written = time.monotonic()
            service.write_noted()


def _reload(service: Service, notifier: Notifier) -> None:
    notifier.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
    service.reload()
    notifier.tell(READY=1)


def _feed(service: Service, notifier: Notifier) -> None:
    if hanging := service.stuck():
        log.error("no progress in: %s; systemd will restart the agent", ", ".join(hanging))
        return
    notifier.tell(WATCHDOG=1)


def _tell_state(service: Service, notifier: Notifier, told: str) -> str:
    """One line in the log when the state changes; systemd hears each change of its reason too."""
    status = service.status()
    now = f"{status.state} {status.reason}".strip()
    if status.state != told.partition(" ")[0]:
        log.info("state: %s%s", status.state, f" ({status.reason})" if status.reason else "")
    if now != told:
        notifier.tell(STATUS=now)
    return now


def _use_new_route(
    service: Service, known: frozenset[tuple[str, str]]
) -> frozenset[tuple[str, str]]:
    """A new way out may be the end of an outage: try at once, whatever the backoff says."""
    try:
        now = routes.read_default_routes()
    except OSError:
        return known  # no descriptor is left at this moment
    if now - known:
        log.info("there is a new default route: trying to deliver at once")
        service.flush()
    return now


def _set_levels(config: Config) -> None:
    logging.getLogger().setLevel(config.log.level.upper())
    # waitress warns of every request that waits for a thread, and of every odd client.
    logging.getLogger("waitress").setLevel(logging.ERROR)


def _say(problems: Sequence[str]) -> None:
    for problem in problems:
        log.error("%s", problem)
