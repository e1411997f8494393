"""Programs on the device: each hands in numbered events until they are acknowledged.

A program does not give up an event that nobody acknowledged: it hands it in again, with the same
number. So an event may come twice, and none may be missing.
"""

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent import urequests
from agent.demo.device import TOPIC

AGAIN = 0.1  # seconds until a program tries again
ANSWER = 5.0  # seconds that a program waits for an acknowledgement
ACCEPTED = 202
SCREENS = ("menu", "offer", "map", "help")
SLOTS = ("A1", "B4", "C2")


class Way(Protocol):
    """How a program hands in its events."""

    def hand_in(self, number: int) -> bool:
        """Hand in one event; whether it was acknowledged."""

    def close(self) -> None:
        """End the connection."""


class OverHttp:
    """A kiosk's screen: POSTs what visitors tap on; 202 is the acknowledgement."""

    def __init__(self, *, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/events"
        self._client = urequests.Client()

    def hand_in(self, number: int) -> bool:
        """POST an event; False when nobody took it, or nobody said so."""
        params = {"number": number, "via": "HTTP", "screen": SCREENS[number % len(SCREENS)]}
        event = {"name": "tap", "params": params}
        try:
            with self._client.post(self._url, json=event, timeout=ANSWER) as response:
                return response.status_code == ACCEPTED
        except OSError:
            return False

    def close(self) -> None:
        """End the connection."""
        self._client.close()


class OverMqtt:
    """A vending machine's board: publishes what it sold; PUBACK is the acknowledgement."""

    def __init__(self, *, port: int) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def hand_in(self, number: int) -> bool:
        """Publish an event with QoS 1; False when the broker did not acknowledge it."""
        params = {"number": number, "via": "MQTT", "slot": SLOTS[number % len(SLOTS)]}
        message = self._client.publish(TOPIC, json.dumps({"name": "vend", "params": params}), qos=1)
        try:
            message.wait_for_publish(ANSWER)
        except (RuntimeError, ValueError):  # how paho says that it is not connected
            return False
        return message.is_published()

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class Programs:
    """The programs, each in a thread of its own, and what was acknowledged to them."""

    def __init__(self, *, http_port: int, mqtt_port: int) -> None:
        self._ports = {OverHttp: http_port, OverMqtt: mqtt_port}
        self._numbers = itertools.count(1)
        self._acknowledged: list[int] = []
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self.unanswered = 0  # attempts that were made again

    @property
    def acknowledged(self) -> frozenset[int]:
        """The numbers of the events that the agent or the broker took."""
        return frozenset(self._acknowledged)

    @property
    def busy(self) -> bool:
        """Whether some still have events to hand in."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self, *, each: int, rate: float) -> None:
        """Have each hand in so many events, ``rate`` a second; 0 is as fast as it goes."""
        every = 1 / rate if rate else 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(kind, port, each, every), name=kind.__name__)
            for kind, port in self._ports.items()
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop, finished or not."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kind: Any, port: int, count: int, every: float) -> None:
        way: Way = kind(port=port)
        try:
            for number in self._next(count):
                self._insist(way, number)
                self._stop.wait(every)
        finally:
            way.close()

    def _next(self, count: int) -> Iterator[int]:
        """Numbers, taken when they are needed: the programs take turns."""
        for _ in range(count):
            if self._stop.is_set():
                return
            yield next(self._numbers)

    def _insist(self, way: Way, number: int) -> None:
        while not way.hand_in(number):
            self.unanswered += 1
            if self._stop.wait(AGAIN):
                return
        self._acknowledged.append(number)
