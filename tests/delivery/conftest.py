"""The stage of delivery's tests."""

import pytest

from agent.bell import Bell
from agent.emulator import Emulator
from tests.delivery.stage import CAP, Stage, TestQueue


@pytest.fixture
def emulator():
    with Emulator() as emulator:
        yield emulator
    assert emulator.bugs == ()


@pytest.fixture
def stage(tmp_path, emulator):
    bell = Bell()
    queue = TestQueue.open(tmp_path, max_bytes=CAP, on_ready=bell.ring)
    stage = Stage(emulator=emulator, queue=queue, directory=tmp_path, bell=bell)
    yield stage
    stage.transport.close()
    assert queue.books.balanced
    queue.close()
