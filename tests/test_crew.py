"""Workers of one configuration are made, asked why nothing comes in, and ended together."""

import threading

import pytest

from agent import crew
from agent.intake.source import SourceUnavailable
from agent.worker import Worker
from tests.waiting import until

BOUND = 0.2


class Source:
    """Works until it is told to stop; or is unavailable, or has trouble, with what it is given."""

    def __init__(self, *, unavailable=None, problem=None):
        self.unavailable, self.problem = unavailable, problem

    def run(self, stop, progress):
        if self.unavailable:
            raise SourceUnavailable(self.unavailable)
        progress.beat()
        stop.wait()


@pytest.fixture
def running():
    """Three sources, each in its thread."""
    sources = {
        "well": Source(),
        "away": Source(unavailable="no broker"),
        "troubled": Source(problem="cannot read x.json"),
    }
    workers = crew.taking(sources, patience=60.0, on_bug=lambda bug: None)
    for worker in workers:
        worker.start()
    yield workers, sources
    crew.end(workers, 20)


def test_what_is_wrong_with_a_source_is_said_whether_it_runs_or_not(running):
    workers, sources = running
    expected = {"well": None, "away": "no broker", "troubled": "cannot read x.json"}
    until(lambda: crew.problems(workers, sources) == expected, "the problems")


def test_they_end_when_they_are_told_to(running):
    workers, _ = running
    assert crew.end(workers, 20)
    assert not any(worker.is_alive for worker in workers)


def test_one_that_hangs_is_said_to_and_the_others_are_asked_all_the_same(running, caplog):
    release = threading.Event()
    hanging = Worker(
        name="hanging",
        target=lambda _stop, _progress: release.wait(),
        patience=60.0,
        on_bug=lambda bug: None,
    )
    hanging.start()
    workers, _ = running
    assert not crew.end([hanging, *workers], BOUND)
    assert "hanging did not stop in time" in caplog.text
    until(lambda: not any(worker.is_alive for worker in workers), "the others to end")
    release.set()
    assert hanging.join(20)
