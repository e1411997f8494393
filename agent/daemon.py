"""The process around the service: its lock, its signals, its watchdog, its end."""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agent import boot_config, routes, wiring
from agent.bell import Bell
from agent.boot_config import Chosen
from agent.clock import Clock
from agent.config import Config, ConfigError
from agent.intake.door import CRASHED
from agent.intake.duplicates import Window
from agent.intake.identity import load_identity
from agent.ownership import AlreadyOwned, StateLock
from agent.queue.entries import SourceState
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError, UnreadableQueue
from agent.sdnotify import Notifier, watchdog_s
from agent.service import Service
from agent.stepwise import Autopsy, Condemned, Runs, Stepwise
from agent.wiring import Ground

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between looks at the watchdog, the routes and the state
HOUR = 3600.0
CHECK_EXTENSION = 30_000_000  # microseconds more for systemd to wait, said every few seconds
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(path: Path, *, environ: Mapping[str, str] = os.environ) -> int:
    """Run the daemon in the foreground until SIGTERM. Returns the exit status."""
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
    directory = chosen.config.state_directory
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = StateLock.take(directory)
    except (AlreadyOwned, OSError) as error:
        log.critical("cannot start: %s", error)
        return 1
    try:
        _live(path, chosen, Notifier(environ=environ), environ)
    except (UnreadableQueue, StorageError) as error:
        log.critical("cannot start: %s", error)
        return 1
    except BaseException as bug:
        die(None, bug)
    lock.release()
    return 0


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


def _live(path: Path, chosen: Chosen, notifier: Notifier, environ: Mapping[str, str]) -> None:
    directory, clock, bell = chosen.config.state_directory, Clock(), Bell()
    queue = _open_queue(chosen.config, bell, notifier)
    runs = Runs(directory=directory, clock=clock)
    autopsy = runs.begin()
    condemned = Condemned({*queue.source_state(CRASHED), *_messages(autopsy)})
    if _set_aside(queue, autopsy):
        runs.set_aside()
    stepwise = Stepwise(directory=directory, deaths=autopsy.deaths)
    ground = Ground(
        queue=queue,
        clock=clock,
        bell=bell,
        stepwise=stepwise,
        boots=wiring.boots(queue, clock),
        identity=load_identity(directory, wall_us=clock.now_us),
        window=Window(load=queue.seen),
        environ=environ,
        condemned=condemned,
    )
    service = Service(path=path, chosen=chosen, ground=ground, on_bug=partial(die, stepwise))
    service.start()
    service.keep_config()
    notifier.tell(READY=1)
    log.info("ready, with %d events in the queue", queue.books.queued)
    _supervise(service, notifier, environ)
    extension = int(service.stop_s * 1e6)
    notifier.tell(STOPPING=1, STATUS="stopping", EXTEND_TIMEOUT_USEC=extension)
    service.stop()
    runs.end()
    log.info("stopped")


def _open_queue(config: Config, bell: Bell, notifier: Notifier) -> EventQueue:
    """Check the file: on a large queue and a slow card that takes longer than systemd waits."""
    with _patience(notifier):
        return EventQueue.open(
            config.state_directory,
            max_bytes=wiring.cap(config),
            on_full=config.queue.on_full,
            on_ready=bell.ring,
        )


@contextmanager
def _patience(notifier: Notifier) -> Iterator[None]:
    """Ask systemd for more time, again and again, while something long is being done."""
    done = threading.Event()

    def ask() -> None:
        while True:
            notifier.tell(EXTEND_TIMEOUT_USEC=CHECK_EXTENSION, STATUS="checking the queue")
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


def _supervise(service: Service, notifier: Notifier, environ: Mapping[str, str]) -> None:
    """Take signals, feed the watchdog, tell systemd the state, until a signal says stop."""
    watched = watchdog_s(environ, os.getpid()) is not None
    written, told, ways_out = time.monotonic(), "", routes.read_default_routes()
    while True:
        caught = signal.sigtimedwait(SIGNALS, TICK)
        if caught and caught.si_signo != signal.SIGHUP:
            return
        if caught:
            _reload(service, notifier)
        if watched:
            _feed(service, notifier)
        told = _tell_state(service, notifier, told)
        ways_out = _use_new_route(service, ways_out)
        service.mend()
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
