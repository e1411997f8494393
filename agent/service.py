"""What runs on one state directory: built from the configuration, started, reloaded, stopped."""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent import boot_config, crew, jsontext, upkeep, wiring
from agent.boot_config import Chosen
from agent.config import Config, ConfigError, HttpSettings
from agent.control import ControlError, ControlSocket
from agent.delivery.shipper import Shipper
from agent.event import Json, Stream
from agent.intake.door import Accepted, Door, Full, Refused
from agent.intake.identity import reset
from agent.intake.message import Message
from agent.intake.parse import Shape
from agent.intake.source import Source
from agent.mounts import MOUNTINFO, is_volatile
from agent.progress import stuck
from agent.queue.failures import StorageError
from agent.queue.opening import outside_bytes, report
from agent.recent import Recent
from agent.secret import Secret
from agent.status import Observation, Status, oldest_us, status_of
from agent.wiring import Ground
from agent.worker import Worker

log = logging.getLogger(__name__)

STORAGE_PATIENCE = 300.0  # seconds an fsync on a dying card may take before it counts as hung
STOP_MARGIN = 5.0  # seconds a loop may take to notice that it should stop
SOURCE_PATIENCE = 60.0  # seconds one turn of a loop may take, beside a request that is being sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one configuration makes, exchanged as a whole by a reload."""

    config: Config
    streams: Mapping[str, Stream]
    door: Door
    shipper: Shipper
    sources: Mapping[str, Source]
    sending: Sequence[Worker]
    taking: Sequence[Worker]
    secret_problems: Sequence[str]


class Service:
    """The running agent. The process around it holds the lock of the state directory."""

    def __init__(
        self,
        *,
        path: Path,
        chosen: Chosen,
        ground: Ground,
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._path = path
        self._chosen = chosen
        self._ground = ground
        self._on_bug = on_bug
        self._recent = Recent()
        self._figures = Observation(
            books=ground.queue.books, used_bytes=0, max_bytes=None, oldest_us=None
        )
        self._directory = chosen.config.state_directory
        self._opened = report(self._directory)
        ground.queue.cap.note("quarantine", outside_bytes(self._directory))
        self._in_memory = is_volatile(self._directory.resolve(), MOUNTINFO.read_text())
        self._parts = self._built(chosen.config)
        self._control = self._control_worker()
        self._listen = chosen.config.http.listen
        self._http: list[Worker] = []
        self._http_problems: list[str] = []
        self._http_made_of: tuple[HttpSettings, Secret | None] | None = None
        self._renew_http(chosen.config.http)

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; sources last, so that what they take can leave."""
        self._control.start()
        self._start_parts()
        for worker in self._http:
            worker.start()

    @property
    def stop_s(self) -> float:
        """Seconds that ``stop`` may take: what comes in, what goes out, and four margins."""
        config = self._parts.config
        return config.http.read_deadline + config.delivery.timeout + 4 * STOP_MARGIN

    def stop(self) -> None:
        """Stop in order: sources, shipper, queue. The queue is closed if nobody uses it."""
        ended = crew.end(self._http, self._parts.config.http.read_deadline + STOP_MARGIN)
        ended = self._end_parts() and ended
        ended = crew.end([self._control], STOP_MARGIN) and ended
        self.write_noted()
        if ended:
            self._ground.queue.close()

    def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing."""
        try:
            fresh = boot_config.choose(self._path, environ=self._ground.environ)
            problems = fresh.problems
        except ConfigError as error:
            fresh, problems = self._chosen, tuple(map(str, error.problems))
        for problem in problems:
            log.error("%s", problem)
        if problems:
            self._chosen = replace(self._chosen, problems=problems)
            return
        self._chosen = fresh
        self._exchange(fresh.config)
        self.keep_config()
        log.info("the configuration was read again")

    def keep_config(self) -> None:
        """Remember the configuration that the agent runs on, as well as the disk lets it."""
        if self._chosen.problems:
            return
        try:
            boot_config.keep(self._chosen.text, self._directory)
        except OSError as error:
            log.error("cannot keep a copy of the configuration: %s", error)

    def flush(self) -> None:
        """Try to deliver now."""
        self._parts.shipper.flush()

    def pause(self) -> None:
        """Stop delivering; events are still taken."""
        self._parts.shipper.pause()

    def resume(self) -> None:
        """Deliver again."""
        self._parts.shipper.resume()

    def send(self, event: Json) -> dict[str, int]:
        """Take an event that the command line hands in. Raises ControlError if it is not taken."""
        if isinstance(event, dict) and "raw" in event:
            raise ControlError("cannot take the event: found a raw message, expected an event")
        message = Message(source="send", payload=jsontext.dumps(event), shape=Shape.SPOOL)
        match self._parts.door.admit(message):
            case Accepted(number):
                return {"accepted": number}
            case Refused(reasons):
                raise ControlError(f"cannot take the event: {'; '.join(map(str, reasons))}")
            case Full(reason):
                raise ControlError(f"cannot take the event now: {reason}")

    def reset_identity(self) -> dict[str, str]:
        """Make a new client id, for new events at once. Raises ControlError if it cannot be kept."""
        try:
            identity = reset(self._directory, wall_us=self._ground.clock.now_us)
        except OSError as error:
            raise ControlError(f"cannot write the id: {error.strerror}") from error
        self._ground = replace(self._ground, identity=identity)
        self._exchange(self._parts.config)
        return {"client_id": identity.client_id}

    def recent(self, after: Json = None) -> dict[str, Json]:
        """What came in after the number that the last look gave, for who looks on."""
        if after is not None and type(after) is not int:
            raise ControlError("cannot look on: expected the number that the last look gave")
        return self._recent.after(after).document

    # -- looking after it -------------------------------------------------------------------

    def stuck(self) -> tuple[str, ...]:
        """The names of loops that hang."""
        parts = self._parts
        workers = (self._control, *self._http, *parts.taking, *parts.sending)
        return stuck(
            [worker.progress for worker in workers],
            committing_s=self._ground.queue.committing_s(),
            storage_patience=STORAGE_PATIENCE,
        )

    def status(self) -> Status:
        """How it is."""
        queue, parts = self._ground.queue, self._parts
        with contextlib.suppress(StorageError):  # then as it was when the disk could be read
            self._figures = replace(
                self._figures,
                used_bytes=queue.used_bytes,
                oldest_us=self._oldest_us(),
                near=queue.nearness(apps=[n for n, s in parts.streams.items() if s.is_app]),
            )
        seen = replace(
            self._figures,
            books=queue.books,
            max_bytes=queue.max_bytes,
            storage=queue.trouble,
            paused=parts.shipper.paused,
            volatile=self._in_memory and not parts.config.volatile,
            outlets=parts.shipper.reports(),
            problems=self._source_problems(parts),
            config_problems=self._chosen.problems,
            secret_problems=(*parts.secret_problems, *self._http_problems),
            damage=self._opened.damage,
            set_aside=self._opened.set_aside,
        )
        return status_of(seen, self._ground.clock)

    def write_noted(self) -> None:
        """What was only counted gets on the disk even if nothing else does, and that it is alive."""
        try:
            self._ground.queue.write_noted()
            self._ground.boots.note_alive()
        except StorageError as error:
            log.warning("cannot write the counts of refused events: %s", error)

    def mend(self) -> None:
        """After trouble with the disk: see whether it takes writes again. Look at the clock."""
        self._ground.queue.mend()
        wiring.observe(self._ground)

    def _oldest_us(self) -> int | None:
        with self._ground.stepwise.step() as touch:
            waiting = self._ground.queue.oldest_candidates(
                on_pick=lambda row_id: touch(f"row:{row_id}")
            )
        return oldest_us(waiting, self._ground.boots.when)

    def _source_problems(self, parts: Parts) -> dict[str, str | None]:
        return crew.problems((*self._http, *parts.taking), parts.sources)

    # -- parts ------------------------------------------------------------------------------

    def _exchange(self, config: Config) -> None:
        """Stop the old parts, build and start new ones. The HTTP server only if it changed."""
        old = self._parts
        if config.state_directory != self._directory:
            log.warning("state_directory has changed: that takes effect at the next restart")
        if config.http.listen != self._listen:
            log.warning("http.listen has changed: that takes effect at the next restart")
        self._end_parts()
        parts = self._built(config, before=old)
        parts.shipper.take_over(old.shipper)
        self._ground.queue.max_bytes = wiring.cap(config)
        self._ground.queue.on_full = config.queue.on_full
        logging.getLogger().setLevel(config.log.level.upper())
        self._parts = parts
        self._start_parts()
        if self._renew_http(config.http):
            for worker in self._http:
                worker.start()

    def _built(self, config: Config, before: Parts | None = None) -> Parts:
        """The parts; workers begin when those ``before`` have ended, however long a commit takes."""
        ground = self._ground
        taking, sending = (before.taking, before.sending) if before else ((), ())
        streams, problems = wiring.streams(config, ground.environ)
        whose, salt_problems = wiring.attribution(config, ground.identity, ground.environ)
        sittings = wiring.sessions(config, ground)
        door = wiring.door(
            config, ground, streams, whose=whose, sittings=sittings, on_taken=self._recent.note
        )
        shipper = wiring.shipper(config, ground, streams, sittings=sittings)
        sources, source_problems = wiring.sources(config, ground, door)
        patience = SOURCE_PATIENCE + config.delivery.timeout
        return Parts(
            config=config,
            streams=streams,
            door=door,
            shipper=shipper,
            sources=sources,
            sending=crew.sending(
                shipper,
                connections=config.delivery.connections,
                patience=patience,
                on_bug=self._on_bug,
                after=sending,
            ),
            taking=crew.taking(sources, patience=patience, on_bug=self._on_bug, after=taking),
            secret_problems=[*problems, *salt_problems, *source_problems],
        )

    def _renew_http(self, settings: HttpSettings) -> bool:
        """Build the HTTP server anew if anything of it changed; on the address of the start."""
        settings = replace(settings, listen=self._listen)
        token, problem = wiring.http_token(settings, self._ground.environ)
        self._http_problems = [problem] if problem and settings.enabled else []
        if (settings, token) == self._http_made_of and not problem:
            return False
        if self._http_made_of:
            crew.end(self._http, self._http_made_of[0].read_deadline + STOP_MARGIN)
        self._http_made_of = (settings, token)
        self._http = [] if problem or not settings.enabled else [self._http_worker(settings, token)]
        return True

    def _http_worker(self, settings: HttpSettings, token: Secret | None) -> Worker:
        source = wiring.http(
            settings,
            token,
            the_door=lambda: self._parts.door,
            ids=lambda: wiring.stream_ids(self._parts.streams),
            status=lambda: self.status().document,
            debug=lambda stream, body: wiring.debug_answer(
                self._parts.config, self._ground.clock, stream, body
            ),
            on_bug=self._on_bug,
            on_turned_away=partial(self._recent.turned_away, "http"),
        )
        return self._worker("http", source.run, SOURCE_PATIENCE, after=self._http)

    def _control_worker(self) -> Worker:
        commands: dict[str, Callable[..., Any]] = {
            "status": lambda: self.status().document,
            "flush": self.flush,
            "pause": self.pause,
            "resume": self.resume,
            "send": self.send,
            "recent": self.recent,
            "reset_identity": self.reset_identity,
            **upkeep.commands(self._ground.queue),
        }
        control = ControlSocket(directory=self._directory, commands=commands, on_bug=self._on_bug)
        return self._worker("control", control.run, SOURCE_PATIENCE)

    def _worker(
        self,
        name: str,
        target: Callable[..., None],
        patience: float,
        **more: Any,
    ) -> Worker:
        return Worker(name=name, target=target, patience=patience, on_bug=self._on_bug, **more)

    def _start_parts(self) -> None:
        for worker in (*self._parts.sending, *self._parts.taking):
            worker.start()

    def _end_parts(self) -> bool:
        parts = self._parts
        taken = crew.end(parts.taking, STOP_MARGIN)
        return crew.end(parts.sending, parts.config.delivery.timeout + STOP_MARGIN) and taken
