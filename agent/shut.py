"""The waiting room: what answers while the state directory cannot be used.

The daemon does not end because of a disk: systemd would start it again and again, and programs on
the device would find nobody. Nothing is taken and nothing sent until the store is there: what was
sent could not be recorded, and would be sent again after every boot.
"""

import errno
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from agent import crew, wiring
from agent.clock import Clock
from agent.config import Config
from agent.intake.door import Answer, Door, Full
from agent.intake.message import Message
from agent.progress import stuck
from agent.queue.event_queue import FILE_NAME
from agent.queue.failures import StorageError
from agent.queue.ledger import Books
from agent.queue.reader import CannotRead, Snapshot, read_snapshot
from agent.status import Observation, status_of
from agent.worker import Worker

State = Literal["read_only", "disk_full"]

INDEX = 64 * 1024  # bytes: twice what the index of SQLite's WAL takes, which is made anew
LEAST = 128 * 1024  # bytes for that and for the first writes
STOP_MARGIN = 5.0  # seconds the server may take to notice that it should stop
PATIENCE = 60.0  # seconds one turn of its loop may take
FULL = (errno.ENOSPC, errno.EDQUOT)
CURES: Mapping[State, str] = {
    "disk_full": "make room on the disk of {}",
    "read_only": "see dmesg, mount and the rights of {}: often the card is dying",
}


class Shut(Exception):  # noqa: N818 - a state rather than an error
    """The state directory cannot be used now. ``state`` is for `status`; the text is for people."""

    def __init__(self, state: State, why: str, directory: Path) -> None:
        cure = CURES[state].format(directory)
        super().__init__(f"{why}; nothing is taken or sent until it can; {cure}")
        self.state = state
        self.directory = directory

    @classmethod
    def of(cls, error: OSError | StorageError, directory: Path) -> "Shut":
        """What the disk said, in terms of what can be done about it."""
        if isinstance(error, StorageError):
            full = error.state == "disk_full" or is_full(directory)
            why = str(error)
        else:
            full = error.errno in FULL
            why = f"cannot use {error.filename or directory}: {error.strerror}"
        return cls("disk_full" if full else "read_only", why, directory)


def is_full(directory: Path) -> bool:
    """Whether the disk has too little room for SQLite to open a queue, which needs some itself."""
    try:
        free = shutil.disk_usage(directory).free
        return free < INDEX or free + _held(directory / f"{FILE_NAME}-wal") < LEAST
    except OSError:
        return False


def _held(path: Path) -> int:
    """Bytes of the disk that a file has; SQLite writes a WAL that is there from its beginning."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


class ShutDoor(Door):
    """A door that takes nothing, and says why."""

    def __init__(self, *, why: Callable[[], str]) -> None:
        self._why = why

    def admit_many(self, messages: Sequence[Message]) -> list[Answer]:
        """Full, each of them."""
        return [Full(self._why()) for _ in messages]

    def refuse(self, reason: str, number: int = 1) -> None:
        """Nothing can be counted: there is no ledger."""


class WaitingRoom:
    """HTTP for as long as nothing can be taken: 503, and the truth in ``/status``."""

    def __init__(
        self,
        *,
        config: Config,
        environ: Mapping[str, str],
        clock: Clock,
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._read_deadline = config.http.read_deadline
        self._clock = clock
        self._why: Shut | None = None
        self._document: Mapping[str, Any] = {}
        door = ShutDoor(why=lambda: str(self._why))
        streams, _ = wiring.streams(config, environ)
        token, problem = wiring.http_token(config.http, environ)
        source = wiring.http(
            config.http,
            token,
            the_door=lambda: door,
            ids=lambda: wiring.stream_ids(streams),
            status=lambda: self._document,
            debug=lambda stream, body: wiring.debug_answer(config, clock, stream, body),
            on_bug=on_bug,
            on_turned_away=lambda _reason, _why: None,
        )
        # Without the token that it asks for it lets nobody in, as in normal service.
        opens = config.http.enabled and not problem
        worker = Worker(name="http", target=source.run, patience=PATIENCE, on_bug=on_bug)
        self._http = [worker] if opens else []

    def open(self, shut: Shut) -> None:
        """Begin to answer."""
        self.say(shut)
        for worker in self._http:
            worker.start()

    def say(self, shut: Shut) -> bool:
        """What is the matter now; whether that is news."""
        news = str(shut) != str(self._why)
        self._document = document(shut, self._clock)
        self._why = shut
        return news

    @property
    def stuck(self) -> bool:
        """Whether the server hangs."""
        progress = [worker.progress for worker in self._http]
        return bool(stuck(progress, committing_s=0.0, storage_patience=PATIENCE))

    def close(self) -> None:
        """Answer who has asked, and let go of the address."""
        crew.end(self._http, self._read_deadline + STOP_MARGIN)


def document(shut: Shut, clock: Clock) -> Mapping[str, Any]:
    """What /status says: figures only where the file could be read, else None."""
    snapshot = _snapshot(shut.directory)
    seen = Observation(
        books=snapshot.books if snapshot else Books(),
        used_bytes=snapshot.used_bytes if snapshot else 0,
        max_bytes=None,
        oldest_us=None,
        storage=shut.state,
    )
    said = dict(status_of(seen, clock).document)
    known = {"events": seen.books.queued, "bytes": seen.used_bytes} if snapshot else {}
    said["queue"] = dict.fromkeys(said["queue"]) | known
    if snapshot is None:
        said["ledger"] = dict.fromkeys(said["ledger"])
        said["traffic"] = dict.fromkeys(said["traffic"])
    return said | {"reason": str(shut)}


def _snapshot(directory: Path) -> Snapshot | None:
    """None: it cannot be read, or not without a risk: even to read it, SQLite makes an index."""
    if is_full(directory):
        return None
    with suppress(CannotRead, OSError):
        return read_snapshot(directory)
    return None
