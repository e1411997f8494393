"""The life of the daemon: start, supervise, reload, stop in order."""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import boot_config, wiring
from agent.bell import Bell
from agent.boot_config import Chosen
from agent.clock import Clock
from agent.config import Config, ConfigError
from agent.control import ControlSocket
from agent.delivery.shipper import Shipper
from agent.event import Stream
from agent.intake.door import Door
from agent.intake.identity import load_identity
from agent.intake.mqtt import MqttSource
from agent.mounts import MOUNTINFO, is_volatile
from agent.ownership import AlreadyOwned, StateLock
from agent.progress import stuck
from agent.queue.event_queue import EventQueue, SourceState, StorageError, UnreadableQueue
from agent.sdnotify import Notifier, watchdog_s
from agent.status import Observation, Status, status_of
from agent.stepwise import Autopsy, Runs, Stepwise
from agent.worker import Worker

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between looks at the watchdog and the status
HOUR = 3600.0
STORAGE_PATIENCE = 300.0  # seconds an fsync on a dying card may take before it counts as hung
STOP_MARGIN = 5.0  # seconds a loop may take to notice that it should stop
SOURCE_PATIENCE = 60.0  # seconds one turn of a source's loop may take
CHECK_EXTENSION = 30_000_000  # microseconds more for systemd to wait, said every few seconds
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CRASHED = "crashed"  # where the digests of messages that killed the process are kept


class Service:
    """The daemon on one state directory, whose lock it holds."""

    def __init__(
        self,
        *,
        path: Path,
        chosen: Chosen,
        queue: EventQueue,
        clock: Clock,
        bell: Bell,
        stepwise: Stepwise,
        notifier: Notifier,
        environ: Mapping[str, str],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._path = path
        self._chosen = chosen
        self._notifier = notifier
        self._on_bug = on_bug
        self._ground = wiring.Ground(
            queue=queue,
            clock=clock,
            bell=bell,
            stepwise=stepwise,
            identity=load_identity(chosen.config.state_directory, wall_us=clock.wall_us),
            environ=environ,
            crashed=tuple(queue.source_state(CRASHED)),
        )
        self._in_memory = is_volatile(
            chosen.config.state_directory.resolve(), MOUNTINFO.read_text()
        )
        self._problems: list[str] = []
        self._streams: dict[str, Stream] = {}
        self._door: Door
        self._shipper: Shipper
        self._mqtt: MqttSource | None = None
        self._control = self._control_worker()
        self._taking: list[Worker] = []  # MQTT: what a reload replaces
        self._sending: list[Worker] = []
        self._build()
        self._http = self._http_worker()

    @property
    def _config(self) -> Config:
        return self._chosen.config

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; sources last, so that what they take can leave."""
        self._control.start()
        for worker in (*self._sending, *self._taking):
            worker.start()
        if self._http:
            self._http.start()

    def stop(self) -> None:
        """Stop in order: sources, shipper, queue.

        At most the time in which a request must have come in, the deadline of a request that
        is being sent, and STOP_MARGIN seconds for each of the four steps.
        """
        self._end([self._http] if self._http else [], self._config.http.read_deadline + STOP_MARGIN)
        self._end_replaceable()
        self._end([self._control], STOP_MARGIN)
        try:
            self._ground.queue.write_refused()
        except StorageError as error:
            log.warning("cannot write the last counts of refused events: %s", error)
        self._ground.queue.close()

    def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing."""
        try:
            fresh = boot_config.choose(self._path, environ=self._ground.environ)
        except ConfigError as error:
            fresh = Chosen(self._config, self._chosen.text, tuple(map(str, error.problems)))
        if fresh.problems:
            _say_problems(fresh.problems)
            self._chosen = Chosen(self._config, self._chosen.text, fresh.problems)
            return
        old, self._chosen = self._config, fresh
        self._say_restart(old)
        self._end_replaceable()
        self._build()
        for worker in (*self._sending, *self._taking):
            worker.start()
        self.keep_config()
        log.info("the configuration was read again")

    def keep_config(self) -> None:
        """Remember the configuration that the agent runs on."""
        if not self._chosen.problems:
            boot_config.keep(self._chosen)

    def _end_replaceable(self) -> None:
        self._end(self._taking, STOP_MARGIN)
        self._end(self._sending, self._config.delivery.timeout + STOP_MARGIN)

    # -- looking after it -------------------------------------------------------------------

    def stuck(self) -> tuple[str, ...]:
        """The names of loops that hang."""
        loops = [worker.progress for worker in self._workers()]
        committing = self._ground.queue.committing_s()
        return stuck(loops, committing_s=committing, storage_patience=STORAGE_PATIENCE)

    def status(self) -> Status:
        """How it is."""
        queue = self._ground.queue
        return status_of(
            Observation(
                books=queue.books,
                used_bytes=queue.used_bytes,
                max_bytes=queue.max_bytes,
                oldest=queue.oldest(),
                storage=queue.trouble,
                paused=self._shipper.paused,
                volatile=self._in_memory and not self._config.volatile,
                outlets=self._shipper.reports(),
                problems=self._source_problems(),
                config_problems=(*self._chosen.problems, *self._problems),
            ),
            self._ground.clock,
        )

    def write_refused(self) -> None:
        """Hourly: what was refused gets on the disk even if nothing else is."""
        try:
            self._ground.queue.write_refused()
        except StorageError as error:
            log.warning("cannot write the counts of refused events: %s", error)

    def _source_problems(self) -> dict[str, str | None]:
        problems: dict[str, str | None] = {}
        if self._http:
            problems["http"] = self._http.problem
        for worker in self._taking:
            connection = self._mqtt.problem if self._mqtt else None
            problems[worker.name] = worker.problem or connection
        return problems

    def _workers(self) -> Sequence[Worker]:
        http = [self._http] if self._http else []
        return (self._control, *http, *self._taking, *self._sending)

    # -- building ---------------------------------------------------------------------------

    def _build(self) -> None:
        config, ground = self._config, self._ground
        self._streams, self._problems = wiring.streams(config, ground.environ)
        self._door = wiring.door(config, ground, self._streams)
        self._shipper = wiring.shipper(config, ground, self._streams)
        self._sending = self._shipper_workers()
        self._taking = self._mqtt_workers()

    def _shipper_workers(self) -> list[Worker]:
        """One thread a connection. A bisection is several requests, each with its deadline."""
        return [
            Worker(
                name="shipper" if number == 0 else f"shipper-{number + 1}",
                target=self._shipper.run,
                patience=SOURCE_PATIENCE + 50 * self._config.delivery.timeout,
                on_bug=self._on_bug,
                on_stop=self._shipper.stop,
            )
            for number in range(self._config.delivery.connections)
        ]

    def _mqtt_workers(self) -> list[Worker]:
        self._mqtt = None
        if self._config.mqtt is None:
            return []
        self._mqtt, problems = wiring.mqtt(self._config.mqtt, self._ground, self._door)
        self._problems += problems
        run = self._mqtt.run
        return [Worker(name="mqtt", target=run, patience=SOURCE_PATIENCE, on_bug=self._on_bug)]

    def _http_worker(self) -> Worker | None:
        if not self._config.http.enabled:
            return None
        source, problems = wiring.http(
            self._config.http,
            self._ground.environ,
            the_door=lambda: self._door,
            ids=lambda: wiring.stream_ids(self._streams),
            status=lambda: self.status().document,
            on_bug=self._on_bug,
        )
        self._problems += problems
        if source is None:
            return None
        return Worker(name="http", target=source.run, patience=SOURCE_PATIENCE, on_bug=self._on_bug)

    def _control_worker(self) -> Worker:
        commands: dict[str, Callable[[], Any]] = {
            "status": lambda: self.status().document,
            "flush": lambda: self._shipper.flush(),  # noqa: PLW0108 - a reload replaces it
            "pause": lambda: self._shipper.pause(),  # noqa: PLW0108 - a reload replaces it
            "resume": lambda: self._shipper.resume(),  # noqa: PLW0108 - a reload replaces it
        }
        control = ControlSocket(
            directory=self._config.state_directory, commands=commands, on_bug=self._on_bug
        )
        return Worker(
            name="control", target=control.run, patience=SOURCE_PATIENCE, on_bug=self._on_bug
        )

    def _end(self, workers: Sequence[Worker], bound: float) -> None:
        """Ask all of them at once, then wait; what hangs is left to the end of the process."""
        for worker in workers:
            worker.stop()
        until = time.monotonic() + bound
        for worker in workers:
            if not worker.join(max(0.0, until - time.monotonic())):
                log.error("%s did not stop in time; the disk has everything", worker.name)

    def _say_restart(self, old: Config) -> None:
        new = self._config
        for name in ("http", "state_directory", "queue"):
            if getattr(old, name) != getattr(new, name):
                log.warning("%s has changed: that takes effect at the next restart", name)


def run(path: Path, *, environ: Mapping[str, str] = os.environ) -> int:
    """Run the daemon in the foreground until SIGTERM. Returns the exit status."""
    os.umask(0o027)  # events hold ids: the group may read them, others may not
    notifier = Notifier(environ=environ)
    try:
        chosen = boot_config.choose(path, environ=environ)
    except ConfigError as error:
        _say_problems([str(problem) for problem in error.problems])
        return 2
    logging.getLogger().setLevel(chosen.config.log.level.upper())
    if chosen.problems:
        _say_problems(chosen.problems)
    directory = chosen.config.state_directory
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = StateLock.take(directory)
    except (AlreadyOwned, OSError) as error:
        log.critical("cannot start: %s", error)
        return 1
    # Threads inherit the mask: only the main thread takes signals, and takes them in its loop.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        _live(path, chosen, notifier, environ)
    except (UnreadableQueue, StorageError) as error:
        log.critical("cannot start: %s", error)
        return 1
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        lock.release()
    return 0


def _live(path: Path, chosen: Chosen, notifier: Notifier, environ: Mapping[str, str]) -> None:
    clock, bell = Clock(), Bell()
    runs = Runs(directory=chosen.config.state_directory, clock=clock)
    queue = _open_queue(chosen.config, bell, notifier)
    autopsy = runs.begin()
    _set_aside(queue, autopsy)
    runs.set_aside()
    service = Service(
        path=path,
        chosen=chosen,
        queue=queue,
        clock=clock,
        bell=bell,
        stepwise=Stepwise(directory=chosen.config.state_directory, deaths=autopsy.deaths),
        notifier=notifier,
        environ=environ,
        on_bug=_die,
    )
    service.start()
    service.keep_config()
    notifier.tell(READY=1)
    log.info("ready, with %d events in the queue", queue.books.queued)
    _supervise(service, notifier, environ)
    notifier.tell(STOPPING=1, STATUS="stopping")
    service.stop()
    runs.end()
    log.info("stopped")


def _open_queue(config: Config, bell: Bell, notifier: Notifier) -> EventQueue:
    """Check the file: on a large queue and a slow card that takes longer than systemd waits."""
    with _patience(notifier):
        return EventQueue.open(
            config.state_directory, max_bytes=config.queue.max_bytes, on_ready=bell.ring
        )


@contextmanager
def _patience(notifier: Notifier) -> Iterator[None]:
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


def _set_aside(queue: EventQueue, autopsy: Autopsy) -> None:
    """Bury what the process was touching when it died, so that it dies of it no more."""
    for culprit in autopsy.culprits:
        kind, _, name = culprit.partition(":")
        log.error("the last run died while it touched one %s: set aside as crashed", kind)
        if kind == "row" and name.isdigit():
            queue.bury_row(int(name), reason=CRASHED)
        elif kind == "message":
            queue.put_many([], state=[SourceState(CRASHED, name, "")])


def _supervise(service: Service, notifier: Notifier, environ: Mapping[str, str]) -> None:
    """Take signals, feed the watchdog, tell systemd the state, until a signal says stop."""
    watched = watchdog_s(environ, os.getpid()) is not None
    written, told = time.monotonic(), ""
    while True:
        caught = signal.sigtimedwait(SIGNALS, TICK)
        if caught and caught.si_signo != signal.SIGHUP:
            return
        if caught:
            _reload(service, notifier)
        if watched:
            _feed(service, notifier)
        status = service.status()
        if status.state != told:
            told = status.state
            log.info("state: %s%s", told, f" ({status.reason})" if status.reason else "")
            notifier.tell(STATUS=f"{told} {status.reason}".strip())
        if time.monotonic() - written > HOUR:
            written = time.monotonic()
            service.write_refused()


def _reload(service: Service, notifier: Notifier) -> None:
    notifier.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
    service.reload()
    notifier.tell(READY=1)


def _feed(service: Service, notifier: Notifier) -> None:
    if hanging := service.stuck():
        log.error("no progress in: %s; systemd will restart the agent", ", ".join(hanging))
        return
    notifier.tell(WATCHDOG=1)


def _say_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        log.error("%s", problem)


def _die(bug: BaseException) -> None:
    """End the process at once and loudly: the disk has everything, and systemd restarts it.

    The message of an exception can hold an id or a secret, so only its type and place are said.
    """
    frames = traceback.extract_tb(bug.__traceback__)
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    log.critical("a bug ends the agent: %s at %s", type(bug).__name__, places)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(1)
