"""The programs around the agent in a soak: each hands in numbered events and notes what it heard."""

import contextlib
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.acceptance.daemon import ROOT
from tests.system.oracle import Book, Fate, proof
from tests.waiting import until

UNWANTED = "unwanted"  # the name of events that the endpoint refuses with 400
ANSWER = 20.0  # seconds a program waits for the agent
IN_FLIGHT = 20  # messages without PUBACK that a program has under way
TOPIC = "kiosk/events"
ELSEWHERE = "nobody/listens"
SECOND = 1_000_000


class Gate:
    """Many may use the disk; who pulls it out waits for them, and they for him."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._closing = 0

    @contextmanager
    def using(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            self._closing = 1
            self._changed.wait_for(lambda: not self._users)
        try:
            yield
        finally:
            with self._changed:
                self._closing = 0
                self._changed.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What programs know of their machine. ``shown``: seconds since 1970 by its wall clock."""

    seed: int
    http_port: int
    broker_port: int
    spool: Path
    config: Path
    environ: Mapping[str, str]
    gate: Gate
    stop: threading.Event
    shown: Callable[[], float]


class Program:
    """Acts at random moments, ``rate`` times a second on average, until all stop."""

    def __init__(self, around: Surroundings, *, name: str, rate: float) -> None:
        self.around = around
        self.rate = rate
        self.rng = random.Random(f"{around.seed}/{name}")
        self.books: list[Book] = []
        self.died: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.around.stop.wait(self.rng.expovariate(self.rate)):
                self.act()
            self.finish()
        except BaseException as bug:
            self.died = bug

    def act(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """After the last act."""

    def event(self, number: int, *, name: str = "tap", **more: Any) -> dict[str, Any]:
        params = {"id": number, "proof": proof(number, self.around.seed)}
        return {"name": name, "params": params, **more}

    def post(self, path: str, body: object) -> tuple[Fate, bytes]:
        """POST once; what that means for what is in it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.around.http_port, timeout=ANSWER)
        try:
            try:
                connection.connect()
            except ConnectionRefusedError:
                return Fate.UNSENT, b""
            connection.request("POST", path, raw, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return _fate(response.status), response.read()
        except (OSError, http.client.HTTPException):
            return Fate.OPEN, b""
        finally:
            connection.close()


def _fate(status: int) -> Fate:
    if status in (202, 204):
        return Fate.TAKEN
    if status // 100 == 4:
        return Fate.REFUSED
    return Fate.TURNED_AWAY if status == 503 else Fate.OPEN


class EventsProgram(Program):
    """Posts to /events, one to four at once; some are no events, some the endpoint refuses."""

    def __init__(self, around: Surroundings, index: int, rate: float) -> None:
        super().__init__(around, name=f"events-{index}", rate=rate)
        self._taps = Book("http /events", index, clock="stamped", session=True)
        self._bad = Book("http /events, invalid", index + 1)
        self._unwanted = Book("http /events, unwanted", index + 2, ends="refused")
        self.books = [self._taps, self._bad, self._unwanted]

    def act(self) -> None:
        taps = [self._taps.open() for _ in range(self.rng.randint(1, 4))]
        events = [self.event(number) for number in taps]
        bad, unwanted = [], []
        if self.rng.random() < 0.1:
            bad.append(self._bad.open())
            nameless = {"params": {"id": bad[0]}}
            events.insert(self.rng.randint(0, len(events)), nameless)
        if self.rng.random() < 0.02:
            unwanted.append(self._unwanted.open())
            events.append(self.event(unwanted[0], name=UNWANTED))
        fate, _ = self.post("/events", events)
        for number in taps:
            self._taps.settle(number, fate)
        for number in unwanted:
            self._unwanted.settle(number, fate)
        for number in bad:  # whatever became of the others
            self._bad.settle(number, Fate.REFUSED)


class OwnIdProgram(Program):
    """Posts one event with an event_id until it is taken, and some of them again after that."""

    def __init__(self, around: Surroundings, index: int, rate: float) -> None:
        super().__init__(around, name=f"own-{index}", rate=rate)
        self._book = Book("http /events, own ids", index, own_ids=True)
        self.books = [self._book]
        self._open: deque[int] = deque()
        self._taken: deque[int] = deque(maxlen=300)

    def act(self) -> None:
        if self._taken and self.rng.random() < 0.15:
            self._post(self.rng.choice(self._taken))
        elif self._open and self.rng.random() < 0.6:
            self._try(self._open.popleft())
        else:
            self._try(self._book.open())

    def finish(self) -> None:
        patience = time.monotonic() + 60
        while self._open and time.monotonic() < patience:
            self._try(self._open.popleft())

    def _try(self, number: int) -> None:
        if self._post(number) == Fate.TAKEN:
            self._book.settle(number, Fate.TAKEN)
            self._taken.append(number)
        else:
            self._open.append(number)
            self.around.stop.wait(0.05)

    def _post(self, number: int) -> Fate:
        return self.post("/events", self.event(number, event_id=f"own-{number}"))[0]


class CollectProgram(Program):
    """A Measurement Protocol client: posts bodies of its own client to /mp/collect."""

    def __init__(self, around: Surroundings, index: int, rate: float) -> None:
        super().__init__(around, name=f"collect-{index}", rate=rate)
        self._book = Book("http /mp/collect", index, clock="stamped")
        self._bad = Book("http /mp/collect, invalid", index + 1)
        self.books = [self._book, self._bad]

    def act(self) -> None:
        numbers = [self._book.open() for _ in range(self.rng.randint(1, 3))]
        body = {
            "client_id": f"{self.rng.randint(1, 5)}.77",
            "events": [self.event(number) for number in numbers],
        }
        fate, _ = self.post("/mp/collect?measurement_id=G-ACCEPT0001&api_secret=x", body)
        for number in numbers:
            self._book.settle(number, fate)
        if self.rng.random() < 0.05:
            number = self._bad.open()
            nobody = {"client_id": "", "events": [self.event(number)]}
            self.post("/mp/collect", self.rng.choice([nobody, b"{{{", b"\x00\xff" * 100]))
            self._bad.settle(number, Fate.REFUSED)


class MqttProgram(Program):
    """Publishes with QoS 1 through broken connections, and knows what the broker has."""

    def __init__(self, around: Surroundings, index: int, rate: float) -> None:
        super().__init__(around, name=f"mqtt-{index}", rate=rate)
        self._plain = Book("mqtt", index, clock="later", redelivered=True)
        self._own = Book("mqtt, own ids and times", index + 1, own_ids=True, clock="said")
        self._noise = Book("mqtt, no events", index + 2, ends="raw", redelivered=True)
        self.books = [self._plain, self._own, self._noise]
        self._changed = threading.Lock()
        self._books: dict[int, tuple[Book, int]] = {}  # by message id
        self._early: set[int] = set()  # acknowledged before publish() told us the id
        self._unsaved: list[tuple[Book, int]] = []  # acknowledged; the broker may forget them
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(IN_FLIGHT)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", around.broker_port)
        self._client.loop_start()

    def act(self) -> None:
        draw = self.rng.random()
        if draw < 0.02:
            number = self._noise.open()
            self._publish(self._noise, number, self._junk(number))
        elif draw < 0.5:
            number = self._own.open()
            said = int(self._own.began[-1] * SECOND)
            event = self.event(number, event_id=f"own-{number}", timestamp_micros=said)
            self._publish(self._own, number, json.dumps(event).encode())
        else:
            number = self._plain.open()
            self._publish(self._plain, number, json.dumps(self.event(number)).encode())

    def _junk(self, number: int) -> bytes:
        mark = f"number={number} ".encode()
        return mark + self.rng.choice([b"no JSON", bytes(range(256)) * 8, b"x" * 2_000_000, b"["])

    def _publish(self, book: Book, number: int, payload: bytes) -> None:
        info = self._client.publish(TOPIC, payload, qos=1)
        with self._changed:
            self._books[info.mid] = book, number
            if info.mid in self._early:
                self._early.remove(info.mid)
                self._acknowledged(info.mid)

    def _on_publish(self, _client: Any, _data: Any, mid: int, *_: Any) -> None:
        with self._changed:
            if mid in self._books:
                self._acknowledged(mid)
            else:
                self._early.add(mid)

    def _acknowledged(self, mid: int) -> None:
        book, number = self._books.pop(mid)
        book.settle(number, Fate.TAKEN)
        self._unsaved.append((book, number))

    # -- the broker's death ---------------------------------------------------------------------

    def connected(self) -> bool:
        return self._client.is_connected()

    def round_trip(self) -> None:
        """The broker does one thing after the other: what it was told before is done."""
        info = self._client.publish(ELSEWHERE, b"", qos=1)
        with self._changed:
            self._early.discard(info.mid)
        info.wait_for_publish(ANSWER)
        with self._changed:
            self._early.discard(info.mid)

    def acknowledged_so_far(self) -> int:
        with self._changed:
            return len(self._unsaved)

    def saved(self, number: int) -> None:
        """The first so many are on the broker's disk, or were taken."""
        with self._changed:
            del self._unsaved[:number]

    def forgotten(self) -> int:
        """The broker is dead: what it acknowledged since it saved is no obligation."""
        until(lambda: not self._client.is_connected(), "the publisher to notice")
        with self._changed:
            for book, number in self._unsaved:
                book.settle(number, Fate.DOUBTFUL)
            forgotten, self._unsaved = len(self._unsaved), []
            return forgotten

    def finish(self) -> None:
        """All is acknowledged, and an event lies behind all others."""
        until(lambda: not self._books, lambda: f"{len(self._books)} PUBACKs", timeout=60)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class SpoolProgram(Program):
    """Leaves files in the spool folder, such that they survive a power cut."""

    def __init__(self, around: Surroundings, index: int, rate: float) -> None:
        super().__init__(around, name=f"spool-{index}", rate=rate)
        self._book = Book("spool", index)
        self.books = [self._book]

    def act(self) -> None:
        numbers = [self._book.open() for _ in range(self.rng.randint(1, 8))]
        events = [json.dumps(self.event(number)) for number in numbers]
        lines = self.rng.random() < 0.7
        text = "\n".join(events) + "\n" if lines else f"[{','.join(events)}]"
        if self.rng.random() < 0.02:
            text = "this is no JSON, and was not meant to be"
            self._leave(f"junk-{numbers[0]}.json", text)
            fate = Fate.UNSENT
        else:
            fate = self._leave(f"taps-{numbers[0]}.{'ndjson' if lines else 'json'}", text)
        for number in numbers:
            self._book.settle(number, fate)

    def _leave(self, name: str, text: str) -> Fate:
        with self.around.gate.using():
            fresh, fate = self.around.spool / f".{name}.new", Fate.UNSENT
            try:
                with fresh.open("w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                # Of this machine: its own clock, not the kernel's, is the one that files get.
                os.utime(fresh, (self.around.shown(), self.around.shown()))
                fate = Fate.OPEN
                fresh.rename(self.around.spool / name)
                sync(self.around.spool)
            except OSError:
                with contextlib.suppress(OSError):
                    fresh.unlink(missing_ok=True)
                return fate
            return Fate.TAKEN


def sync(folder: Path) -> None:
    """What was renamed or removed in it stays so after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SendProgram(Program):
    """`ga4-agent send`, whether the daemon runs or not."""

    def __init__(self, around: Surroundings, index: int, rate: float) -> None:
        super().__init__(around, name=f"send-{index}", rate=rate)
        self._book = Book("send", index, clock="stamped", session=True)
        self.books = [self._book]

    def act(self) -> None:
        with self.around.gate.using():
            number = self._book.open()
            params = (f"id={number}", f"proof={proof(number, self.around.seed)}")
            command = [sys.executable, "-m", "agent", "send", "tap", *params]
            fate = Fate.OPEN
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run(
                    [*command, "--config", str(self.around.config)],
                    cwd=ROOT, env=dict(self.around.environ), capture_output=True,
                    timeout=2 * ANSWER, check=False,
                )  # fmt: skip
                fate = Fate.TAKEN if done.returncode == 0 else Fate.OPEN
            self._book.settle(number, fate)
