"""What many tests need: events to hand in, and a queue on a real disk."""

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from agent.event import Event, Sender, Stamp
from agent.queue.event_queue import EventQueue

STAMP = Stamp(wall_us=1_800_000_000_000_000, boot_us=1_000_000, boot_id="boot", trusted=True)


@pytest.fixture(scope="session", autouse=True)
def no_state_of_this_machine(tmp_path_factory) -> Iterator[None]:
    """Where an agent is installed, a broken configuration falls back on that one's last good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.getbasetemp() / "no-state"))
        yield


@pytest.fixture
def make_event() -> Callable[..., Event]:
    numbers = itertools.count(1)

    def make(name: str = "tap", *, client: str = "1.1", stream: str = "main", **fields) -> Event:
        fields.setdefault("sender", Sender(client_id=client))
        fields.setdefault("stamp", STAMP)
        fields.setdefault("event_id", f"{next(numbers):016x}")
        return Event(name=name, stream=stream, **fields)

    return make


@pytest.fixture
def queue(tmp_path) -> Iterator[EventQueue]:
    queue = EventQueue.open(tmp_path, max_bytes=64 * 1024 * 1024)
    yield queue
    queue.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skip for a missing part is a failure: nobody reads a list of skips there."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr[-1]}"
    return report
