"""Programs on the device that hand in numbered events, and know what was acknowledged."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent.emulator import Emulator, Recorded
from tests.waiting import LOOK, PATIENCE

Ids = set[int]

# Microseconds by which a time may be corrected where only an answer's Date vouches for the clock.
DATE_ERROR_US = 2_000_000


def event(number: int, *, name: str = "tap") -> dict[str, Any]:
    """An event that can be told from all others."""
    return {"name": name, "params": {"id": number}}


def ids_of(events: Iterable[dict[str, Any]]) -> list[int]:
    """The numbers of the events that arrived, repeats included."""
    return [event["params"]["id"] for event in events]


def deliveries(emulator: Emulator) -> list[Recorded]:
    """The requests that brought events.

    An agent whose clock nobody vouches for first asks with one that brings none, for the time in
    its answer: whether it does depends on the machine that runs the test.
    """
    return [request for request in emulator.requests() if request.path == "/mp/collect"]


def post(port: int, path: str, body: object) -> int:
    """POST once, on a connection of its own; the status. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def hand_in(port: int, numbers: Iterable[int]) -> None:
    """Hand events in by HTTP and expect that they are taken."""
    assert post(port, "/events", [event(number) for number in numbers]) == 202


class MqttProgram:
    """Publishes with QoS 1, through broken connections too."""

    def __init__(self, *, port: int, topic: str = "kiosk/events") -> None:
        self._topic = topic
        # Never held around publish(): paho calls back with the lock that publish() takes.
        self._changed = threading.Condition()
        self._acknowledged = 0
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(200)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, numbers: Iterable[int]) -> None:
        """Publish events with these numbers."""
        for number in numbers:
            self.publish_text(json.dumps(event(number)))

    def publish_text(self, payload: str) -> None:
        """Publish any payload."""
        self._client.publish(self._topic, payload, qos=1)

    def wait_acknowledged(self, total: int) -> None:
        """Wait until the broker has so many."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._acknowledged >= total, PATIENCE)
            assert done, f"the broker acknowledged {self._acknowledged} of {total}"

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_publish(self, *_: Any) -> None:
        with self._changed:
            self._acknowledged += 1
            self._changed.notify_all()


@contextmanager
def mqtt_program(port: int, topic: str = "kiosk/events") -> Iterator[MqttProgram]:
    """A program that publishes as long as the block lasts."""
    program = MqttProgram(port=port, topic=topic)
    try:
        yield program
    finally:
        program.close()


class HttpPrograms:
    """Threads that post event after event, each with a new number, until ``goal`` are taken.

    ``acknowledged`` holds what was answered 202; ``uncertain`` what got no answer, so that it
    may or may not have been taken; ``refused`` the statuses of other answers.
    """

    def __init__(self, *, port: int, threads: int, goal: int | None = None) -> None:
        self._port = port
        self._goal = goal
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self.acknowledged: Ids = set()
        self.uncertain: Ids = set()
        self.refused: list[int] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_acknowledged(self, total: int) -> None:
        """Wait until so many were taken."""
        with self._changed:
            done = self._changed.wait_for(lambda: len(self.acknowledged) >= total, PATIENCE)
            assert done, f"{len(self.acknowledged)} of {total} were taken"

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            while not self._done():
                self._post(connection, next(self._numbers))
        finally:
            connection.close()

    def _done(self) -> bool:
        return self._stop.is_set() or (
            self._goal is not None and len(self.acknowledged) >= self._goal
        )

    def _post(self, connection: http.client.HTTPConnection, number: int) -> None:
        try:
            connection.request("POST", "/events", json.dumps(event(number)))
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._note(number, None)
            time.sleep(LOOK)  # nobody listens until the agent is back
        else:
            self._note(number, response.status)

    def _note(self, number: int, status: int | None) -> None:
        with self._changed:
            if status == 202:
                self.acknowledged.add(number)
            elif status is None:
                self.uncertain.add(number)
            else:
                self.refused.append(status)
            self._changed.notify_all()
