"""One rig for each source: how a test talks to it as its programs would.

A new source joins the conformance suite with a subclass of ``Rig`` and a line in ``RIGS``.
"""

import contextlib
import ctypes
import http.client
import itertools
import json
import os
import select
import socket
import sqlite3
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from agent import jsontext
from agent.clock import Clock
from agent.event import Priority
from agent.intake.door import Answer, Door
from agent.intake.http import Application, Guard, HttpSource
from agent.intake.message import Message
from agent.intake.mqtt import Broker, MqttSource, Subscription
from agent.intake.source import Source
from agent.intake.spool import SpoolSource
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.failures import QueueFull
from agent.queue.reader import read_snapshot
from agent.worker import Worker
from tests.intake.publisher import Publisher
from tests.intake.relay import Relay
from tests.mosquitto import Mosquitto
from tests.waiting import PATIENCE, until

STREAM_IDS = {"G-MAIN": "main", "G-SECOND": "second"}
Told = Literal["accepted", "refused", "full", "lost"]
Fate = tuple[Told | None, int]
IN_MOVED_TO = 0x00000080  # <sys/inotify.h>


class Runner:
    """Runs a source in a thread, as the service does; a bug in it fails the test at ``stop``."""

    def __init__(self, source: Source, bugs: list[BaseException] | None = None) -> None:
        self._bugs: list[BaseException] = [] if bugs is None else bugs
        self.worker = Worker(
            name="source", target=source.run, patience=60, on_bug=self._bugs.append, retry=0.05
        )
        self.worker.start()

    def stop(self, wake: Callable[[], None] = lambda: None) -> None:
        """End it. ``wake`` spares the wait for the end of its loop's pause."""
        self.worker.stop()
        wake()
        assert self.worker.join(PATIENCE), "the source did not stop"
        assert self._bugs == []


class Rig:
    """A source with a door, and the far side that sends to it.

    ``keeps``: the far side keeps what was not acknowledged and sends it again by itself.
    ``fates``: what can become of a malformed payload: what is told, and how many dead letters.
    ``seen``: at each acknowledgement of something taken, how many there were by then, and how
    many the queue's file had as received, or as taken before.
    """

    keeps = False
    fates: frozenset[Fate] = frozenset({("refused", 0)})
    source: Source

    def __init__(self, *, door: Door, directory: Path) -> None:
        self.door = door
        self.directory = directory
        self.seen: list[tuple[int, int]] = []
        self._seen_lock = threading.Lock()
        self._runner: Runner | None = None

    def send(self, payload: bytes, *, stream: str = "main") -> Told | None:
        """Hand in a payload: the answer; None if the far side keeps it until it is taken."""
        raise NotImplementedError

    def fate(self, payload: bytes) -> Fate:
        """Which of the fates this malformed payload must have."""
        assert len(self.fates) == 1, payload
        return next(iter(self.fates))

    def start(self) -> None:
        """Start a new source; when it returns, what is sent reaches it."""
        bugs: list[BaseException] = []
        self.source = self._make_source(bugs.append)
        self._runner = Runner(self.source, bugs)
        self._wait_ready()

    def stop(self) -> None:
        """Stop the source as the service does."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            runner.stop()

    def close(self) -> None:
        """Stop everything, in haste."""
        if self._runner is not None:
            self._runner.stop(self._wake)

    def note_acknowledged(self) -> None:
        with self._seen_lock:
            self.seen.append((len(self.seen) + 1, self.on_disk()))

    def on_disk(self) -> int:
        """How many events came and are on the disk; one that was delivered twice came twice."""
        books = read_snapshot(self.directory).books
        return books.received + books.refused.get("duplicate", 0)

    def _make_source(self, on_bug: Callable[[BaseException], None]) -> Source:
        raise NotImplementedError

    def _wait_ready(self) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        """Make the source's loop go round at once."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def make_source(door: Door, on_bug: Callable[[BaseException], None], **options: Any) -> HttpSource:
    """An HTTP source; options of the guard, the application and the source by their names."""
    guard = options.pop("guard", Guard())
    status: Callable[[], Mapping[str, Any]] = options.pop("status", lambda: {"state": "ok"})
    application = Application(
        door=lambda: door,
        guard=guard,
        streams=lambda: STREAM_IDS,
        status=status,
        debug=lambda _stream, _body: {},
        on_bug=on_bug,
        on_turned_away=options.pop("on_turned_away", lambda _reason, _why: None),
    )
    settings = {
        "address": ("127.0.0.1", 0),
        "unix_path": None,
        "threads": 8,
        "max_body": 1024 * 1024,
        "read_deadline": 10.0,
    }
    return HttpSource(application=application, **settings | options)


class HttpRig(Rig):
    """HTTP over TCP on loopback."""

    source: HttpSource

    def send(self, payload: bytes, *, stream: str = "main") -> Told | None:
        ids = {name: ga4_id for ga4_id, name in STREAM_IDS.items()}
        connection = self._connection()
        try:
            connection.request("POST", f"/events?measurement_id={ids[stream]}", payload)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return "lost"
        finally:
            connection.close()
        return self._told(answer, body)

    def _told(self, answer: http.client.HTTPResponse, body: bytes) -> Told:
        if answer.status == 202:
            self.note_acknowledged()
            return "accepted"
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) > 0
            return "full"
        assert answer.status == 400, (answer.status, body)
        assert json.loads(body)["rejected"]
        return "refused"

    def _make_source(self, on_bug: Callable[[BaseException], None]) -> HttpSource:
        return make_source(self.door, on_bug)

    def _wait_ready(self) -> None:
        until(lambda: self.source.port is not None, "the HTTP source")

    def _wake(self) -> None:
        with contextlib.suppress(OSError), contextlib.closing(self._connection()) as connection:
            connection.connect()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.source.port, timeout=PATIENCE)


class UnixRig(HttpRig):
    """HTTP over a unix socket."""

    def _make_source(self, on_bug: Callable[[BaseException], None]) -> HttpSource:
        return make_source(self.door, on_bug, unix_path=self.directory / "agent.sock")

    def _wait_ready(self) -> None:
        until(self._answers, "the HTTP source")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.directory / "agent.sock")) == 0

    def _connection(self) -> http.client.HTTPConnection:
        return UnixConnection(self.directory / "agent.sock")


class MqttRig(Rig):
    """MQTT through a real broker, with a relay that sees the acknowledgements."""

    keeps = True
    fates = frozenset({(None, 1)})
    protocol = "5"

    def __init__(self, *, door: Door, directory: Path, broker: Mosquitto) -> None:
        super().__init__(door=door, directory=directory)
        self.client_id = f"agent-{uuid.uuid4().hex}"
        self.broker = broker
        self._relay = Relay(broker.port, on_puback=self.note_acknowledged)
        self._publisher = Publisher(broker.port)
        self._starts = 0

    def _make_source(self, on_bug: Callable[[BaseException], None]) -> MqttSource:
        return MqttSource(
            door=self.door,
            broker=Broker(
                host="127.0.0.1",
                port=self._relay.port,
                client_id=self.client_id,
                protocol=self.protocol,
            ),
            subscriptions=[
                Subscription(topic=f"{self.client_id}/main"),
                Subscription(
                    topic=f"{self.client_id}/second", stream="second", priority=Priority.LOW
                ),
            ],
            reconnect_max=2.0,
            random=lambda: 0.0,
        )

    def _wait_ready(self) -> None:
        self._starts += 1
        self.broker.wait_said(f"Sending SUBACK to {self.client_id}", self._starts)

    def send(self, payload: bytes, *, stream: str = "main") -> Told | None:
        self._publisher.publish(f"{self.client_id}/{stream}", payload)
        return None

    def _wake(self) -> None:
        self._relay.cut()

    def close(self) -> None:
        super().close()
        self._publisher.close()
        self._relay.close()


class Mqtt311Rig(MqttRig):
    """The same in MQTT 3.1.1."""

    protocol = "3.1.1"


class FolderWatch:
    """Calls back at each file that is taken from a folder, in order, as the kernel tells it.

    It is out of the programs' sight when it gets the name under which it is removed.
    """

    def __init__(self, folder: Path, on_removal: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        watch = libc.inotify_add_watch(self._descriptor, os.fsencode(folder), IN_MOVED_TO)
        assert self._descriptor >= 0 <= watch, os.strerror(ctypes.get_errno())
        self._on_removal = on_removal
        self._end, self._told = os.pipe()
        self._thread = threading.Thread(target=self._look, name="folder-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.write(self._told, b"end")
        self._thread.join(PATIENCE)
        for descriptor in (self._descriptor, self._end, self._told):
            os.close(descriptor)

    def _look(self) -> None:
        while self._end not in select.select([self._descriptor, self._end], [], [])[0]:
            for _ in self._taken(os.read(self._descriptor, 1 << 16)):
                self._on_removal()

    @staticmethod
    def _taken(told: bytes) -> Iterator[None]:
        """inotify(7): a header of four integers, then the name."""
        at = 0
        while at < len(told):
            *_, length = struct.unpack_from("iIII", told, at)
            name = told[at + 16 : at + 16 + length].rstrip(b"\0")
            at += 16 + length
            if name.endswith(b".taken"):
                yield


def spool_marks(directory: Path) -> dict[str, str]:
    """What the spool source committed with its events, as the queue's file has it."""
    uri = f"{(directory / FILE_NAME).as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        return dict(connection.execute("SELECT key, value FROM source_state WHERE source='spool'"))


class SlowDoor:
    """Takes its time before it commits: a removal that comes first shows."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.refuse = door.refuse

    def admit_many(self, messages: Sequence[Message]) -> list[Answer]:
        time.sleep(0.01)
        return self._door.admit_many(messages)


class SpoolRig(Rig):
    """Files renamed into a folder: one for each payload; gone is acknowledged."""

    keeps = True
    fates = frozenset({(None, 1), (None, 0)})

    def __init__(self, *, door: Door, directory: Path) -> None:
        super().__init__(door=door, directory=directory)
        self._folder = directory / "spool"
        self._numbers = itertools.count()
        self._watch: FolderWatch | None = None

    def send(self, payload: bytes, *, stream: str = "main") -> Told | None:
        if stream != "main":
            payload = json.dumps({**json.loads(payload), "stream": stream}).encode()
        name = f"{next(self._numbers):08}.json"
        hidden = self._folder / f".{name}"
        hidden.write_bytes(payload)
        hidden.rename(self._folder / name)
        return None

    def fate(self, payload: bytes) -> Fate:
        """What is no JSON of objects is a bad file; the rest is dead letters."""
        try:
            value = jsontext.loads(payload)
        except jsontext.NotJson:
            return (None, 0)
        elements = value if isinstance(value, list) else [value]
        return (None, 1 if elements and all(type(e) is dict for e in elements) else 0)

    def _make_source(self, on_bug: Callable[[BaseException], None]) -> SpoolSource:
        return SpoolSource(
            door=SlowDoor(self.door),
            clock=Clock(),
            directory=self._folder,
            marks=lambda: spool_marks(self.directory),
            poll=0.01,
        )

    def _wait_ready(self) -> None:
        until(self._folder.exists, "the spool folder")
        self._watch = self._watch or FolderWatch(self._folder, self.note_acknowledged)

    def close(self) -> None:
        super().close()
        if self._watch is not None:
            self._watch.close()


def fill(queue: EventQueue, events: Callable[[int], list[Any]]) -> None:
    """Put until nothing goes in any more; ``events(size)`` makes some of that many bytes."""
    for size in (30_000, 1_000, 0):
        with contextlib.suppress(QueueFull):
            while True:
                queue.put_many(events(size))


def fill_up(queue: EventQueue, make_event: Callable[..., Any]) -> None:
    """Put until not even an event of high priority goes in."""
    some = partial(make_event, priority=Priority.HIGH)
    fill(queue, lambda size: [some(params={"x": "x" * size})] * (20 if size else 1))


def _without_broker(kind: type[Rig]) -> Callable[..., Rig]:
    """These need no broker."""

    def make(*, broker: object, **parts: Any) -> Rig:
        return kind(**parts)

    return make


def _mqtt(kind: type[MqttRig]) -> Callable[..., Rig]:
    """``broker`` is called only here, so that other rigs run where there is no mosquitto."""
    return lambda *, broker, **parts: kind(broker=broker(), **parts)


RIGS: dict[str, Callable[..., Rig]] = {
    "http": _without_broker(HttpRig),
    "unix": _without_broker(UnixRig),
    "mqtt 3.1.1": _mqtt(Mqtt311Rig),
    "mqtt 5": _mqtt(MqttRig),
    "spool": _without_broker(SpoolRig),
}
