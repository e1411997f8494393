"""The stage: a local GA4, a broker, and the real daemon between them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.emulator import Emulator
from tests.acceptance.daemon import Daemon, Setup
from tests.mosquitto import Mosquitto
from tests.waiting import free_port


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(port=free_port()) as emulator:
        yield emulator
    assert emulator.bugs == ()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def setup(tmp_path: Path, emulator: Emulator) -> Setup:
    """HTTP in, the emulator out; tests put their own things over it."""
    return Setup(state=tmp_path / "state", http_port=free_port(), endpoint=emulator.url)


@pytest.fixture
def mqtt_setup(setup: Setup, broker: Mosquitto) -> Setup:
    """The same, with a broker."""
    return replace(setup, mqtt_port=broker.port)


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[[Setup], Daemon]]:
    """Makes daemons; at the end of the test each is killed and checked."""
    made: list[Daemon] = []

    def make(setup: Setup) -> Daemon:
        directory = tmp_path / f"daemon-{len(made)}"
        directory.mkdir()
        made.append(Daemon(directory=directory, setup=setup))
        return made[-1]

    yield make
    for daemon in made:
        daemon.kill()
    for daemon in made:
        daemon.check()
