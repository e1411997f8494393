"""What the intake's tests share: a door on a real queue, and a broker."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from agent.clock import Clock
from agent.event import Stream
from agent.intake.door import Door
from agent.intake.identity import Device
from agent.intake.sorting import Sorter
from agent.queue.event_queue import EventQueue
from agent.stepwise import Condemned, Stepwise
from tests.mosquitto import Mosquitto

NOW = 1_800_000_000_000_000
ENDPOINT = "https://www.google-analytics.com"
STREAMS = {
    "main": Stream(name="main", endpoint=ENDPOINT, measurement_id="G-MAIN"),
    "second": Stream(name="second", endpoint=ENDPOINT, measurement_id="G-SECOND"),
    "app": Stream(name="app", endpoint=ENDPOINT, firebase_app_id="1:2:android:3"),
}
DEVICE = Device(
    client_id="77.88",
    app_instance_id="0123456789abcdef0123456789abcdef",
    user_id=None,
    user_properties={"tier": "flagship"},
)


@pytest.fixture
def streams() -> dict[str, Stream]:
    return dict(STREAMS)


@pytest.fixture
def device() -> Device:
    return DEVICE


@pytest.fixture
def make_door(queue: EventQueue, tmp_path) -> Callable[..., Door]:
    """A door on the queue; any of its parts can be given."""

    def make(**parts) -> Door:
        numbers = itertools.count(1)
        knowledge = {
            "streams": STREAMS,
            "device": DEVICE,
            "params": {},
            "new_id": lambda: f"made-{next(numbers)}",
        }
        knowledge |= {name: parts.pop(name) for name in knowledge if name in parts}
        defaults = {
            "queue": queue,
            "clock": Clock(
                wall=lambda: NOW, boot=lambda: 1_000_000, boot_id="b", synchronised=lambda: True
            ),
            "sorter": Sorter(**knowledge),
            "stepwise": Stepwise(directory=tmp_path),
            "condemned": Condemned(),
        }
        return Door(**defaults | parts)

    return make


@pytest.fixture
def door(make_door) -> Door:
    return make_door()


@pytest.fixture(scope="session")
def broker(tmp_path_factory) -> Iterator[Mosquitto]:
    """One for all tests that do not stop it; each uses topics and client ids of its own."""
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker
