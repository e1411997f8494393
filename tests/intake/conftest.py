"""What the intake's tests share: a door on a real queue, and a broker."""

from collections.abc import Callable, Iterator

import pytest

from agent.clock import Clock
from agent.event import Stream
from agent.intake.attribution import Device
from agent.intake.door import Door
from agent.queue.event_queue import EventQueue
from agent.stepwise import Condemned, Stepwise
from tests.mosquitto import Mosquitto
from tests.sorters import reception, sorter

NOW = 1_800_000_000_000_000
ENDPOINT = "https://www.google-analytics.com"
# Without what the agent adds of its own accord: these tests are about what was said.
STREAMS = {
    "main": Stream(name="main", endpoint=ENDPOINT, measurement_id="G-MAIN", event_id=False),
    "second": Stream(name="second", endpoint=ENDPOINT, measurement_id="G-SECOND", event_id=False),
    "app": Stream(name="app", endpoint=ENDPOINT, firebase_app_id="1:2:android:3", event_id=False),
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
        clock = Clock(
            wall=lambda: NOW, boot=lambda: 1_000_000, boot_id="b", synchronised=lambda: True
        )
        names = ("streams", "judges", "device", "attribution", "params", "new_id", "sessions")
        knowledge = {"streams": STREAMS, "device": DEVICE, "clock": clock}
        knowledge |= {name: parts.pop(name) for name in names if name in parts}
        defaults = {
            "queue": queue,
            "clock": clock,
            "sorter": sorter(**knowledge),
            "reception": reception(queue),
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
